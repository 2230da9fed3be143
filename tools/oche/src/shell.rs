//! Words of a POSIX shell's command line.

/// `text` as one word of the shell: itself where it is plain, else in single quotes.
pub fn quoted(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._+-=:@%".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// `path` as one word of the shell that no program takes for an option.
pub fn quoted_path(path: &str) -> String {
    if path.starts_with('-') { quoted(&format!("./{path}")) } else { quoted(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_and_no_option() {
        assert_eq!(quoted_path("a/boot.oche"), "a/boot.oche");
        assert_eq!(quoted_path("-rf.oche"), "./-rf.oche");
        assert_eq!(quoted_path("it's $(mine).oche"), r"'it'\''s $(mine).oche'");
        assert_eq!(quoted_path("~/x\ny"), "'~/x\ny'");
    }
}
