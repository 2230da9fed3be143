//! Lines that are too long, outside of what cannot be broken.

/// The numbers of the lines of a Rust file with more than `limit` columns. The contents of string
/// literals do not count, nor do tables, links and code blocks in comments.
pub(super) fn long_lines(source: &str, limit: usize) -> Vec<usize> {
    let mut scan = Scan { end: None, has_escapes: false, is_fenced: false };
    let lines = (1..).zip(source.lines());
    lines.filter(|(_, line)| scan.columns(line) > limit).map(|(number, _)| number).collect()
}

/// The context that a line begins in.
struct Scan {
    /// The end of the string literal in which the line begins.
    end: Option<String>,
    /// Whether a backslash in that literal escapes the next character.
    has_escapes: bool,
    /// Whether the line is in a code block of a comment.
    is_fenced: bool,
}

impl Scan {
    /// The columns of the next line that count.
    fn columns(&mut self, line: &str) -> usize {
        if self.end.is_none() && line.trim_start().starts_with("//") {
            return self.columns_of_comment(line);
        }
        let mut columns = 0;
        let mut rest = line;
        while let Some(one) = rest.chars().next() {
            let mut length = one.len_utf8();
            match self.end.as_deref() {
                Some(end) if rest.starts_with(end) => {
                    length = end.len();
                    columns += length;
                    self.end = None;
                }
                Some(_) if one == '\\' && self.has_escapes => {
                    length += rest.chars().nth(1).map_or(0, char::len_utf8);
                }
                Some(_) => {}
                None if rest.starts_with("//") => return columns + rest.chars().count(),
                None => {
                    length = self.step(rest).max(length);
                    columns += rest.get(..length).map_or(length, |taken| taken.chars().count());
                }
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        columns
    }

    fn columns_of_comment(&mut self, line: &str) -> usize {
        let text = line.trim_start().trim_start_matches(['/', '!']).trim_start();
        let is_fence = text.starts_with("```");
        self.is_fenced ^= is_fence;
        let cannot_break =
            self.is_fenced || is_fence || text.starts_with('|') || text.contains("://");
        if cannot_break { 0 } else { line.chars().count() }
    }

    /// Enters the string literal that begins at `rest`, or gives the length of the character
    /// literal there that could be taken for one; 0 for anything else.
    fn step(&mut self, rest: &str) -> usize {
        if let Some(literal) = ["'\"'", "'\\\"'"].into_iter().find(|one| rest.starts_with(one)) {
            return literal.len();
        }
        if rest.starts_with('"') {
            self.end = Some("\"".to_owned());
            self.has_escapes = true;
            return 1;
        }
        if let Some(raw) = rest.strip_prefix('r') {
            let hashes = raw.len() - raw.trim_start_matches('#').len();
            if raw.get(hashes..).is_some_and(|text| text.starts_with('"')) {
                self.end = Some(format!("\"{}", "#".repeat(hashes)));
                self.has_escapes = false;
                return hashes + 2;
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::long_lines;

    #[test]
    fn code_and_comments_count_and_literals_do_not() {
        let long = "x".repeat(30);
        for (source, lines) in [
            (format!("let {long} = 1;"), vec![1]),
            (format!("let a = 1;\n// {long}\n/// {long}"), vec![2, 3]),
            (format!("let a = 1; // \"{long}\""), vec![1]),
            (format!("let a = \"{long}\";"), vec![]),
            (format!("let a = \"\\\"{long}\"; let {long};"), vec![1]),
            (format!("let a = r\"\\\"; let {long};\nlet {long};"), vec![1, 2]),
            (format!("let a = \"{long}\n  {long}\n\";\nlet {long};"), vec![4]),
            (format!("let a = r#\"\"{long}\"#;\nlet {long};"), vec![2]),
            (format!("let a = '\"';\nlet {long};\nlet b = '\\\"';\nlet {long};"), vec![2, 4]),
            (format!("/// | {long} |\n/// <https://{long}>"), vec![]),
            (format!("/// ```text\n/// {long}\n/// ```\n/// {long}"), vec![4]),
        ] {
            assert_eq!(long_lines(&source, 25), lines, "{source}");
        }
    }
}
