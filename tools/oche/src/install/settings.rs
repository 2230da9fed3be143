//! The lines of `oche install` in the settings of `update-m1n1`.
//!
//! The script reads its settings as shell code. What the user wrote stays as it is; Oche's lines
//! come last, so that they count, between two marks.

use std::path::Path;

use crate::shell::quoted;

const BEGIN: &str =
    "# BEGIN oche (`oche install` wrote these lines, `oche uninstall` removes them)";
const BEGIN_MARK: &str = "# BEGIN oche";
const END: &str = "# END oche";

/// Oche's lines: the image in U-Boot's place and, if given, the device trees.
pub(super) fn block(image: &Path, trees: Option<&str>) -> String {
    let mut block = format!("{BEGIN}\nU_BOOT={}\n", quoted(&image.display().to_string()));
    if let Some(trees) = trees {
        block.push_str(&format!("DTBS={}\n", quoted(trees)));
    }
    block.push_str(END);
    block.push('\n');
    block
}

/// `own`, what the user wrote, with `block` behind it.
pub(super) fn with_block(own: &[u8], block: &str) -> Vec<u8> {
    let mut text = own.to_vec();
    if text.last().is_some_and(|last| *last != b'\n') {
        text.push(b'\n');
    }
    text.extend_from_slice(block.as_bytes());
    text
}

/// Splits a settings file into what the user wrote and Oche's lines, if they are there.
pub(super) fn split(text: &[u8]) -> (Vec<u8>, Option<String>) {
    let (mut own, mut block) = (Vec::new(), Vec::new());
    let (mut is_inside, mut is_closed) = (false, false);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        is_inside |= line.starts_with(BEGIN_MARK.as_bytes());
        if is_inside { &mut block } else { &mut own }.extend_from_slice(line);
        if is_inside && line.trim_ascii_end() == END.as_bytes() {
            (is_inside, is_closed) = (false, true);
        }
    }
    // Without its end the block is not one that Oche wrote.
    match is_closed && !is_inside {
        true => (own, Some(String::from_utf8_lossy(&block).into_owned())),
        false => (text.to_vec(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::{block, split, with_block};
    use crate::shell::quoted;
    use proptest::prelude::*;

    #[test]
    fn what_the_user_wrote_comes_back() {
        let own = b"# mine\nDTBS=/boot/dtbs/*.dtb\n".as_slice();
        let lines = block("/var/lib/oche/oche-1.img".as_ref(), Some("/a b/*.dtb"));
        assert!(
            lines.contains("\nU_BOOT=/var/lib/oche/oche-1.img\nDTBS='/a b/*.dtb'\n"),
            "{lines}"
        );
        let text = with_block(own, &lines);
        assert_eq!(split(&text), (own.to_vec(), Some(lines.clone())));
        let more = [text.as_slice(), b"more=1\n"].concat();
        assert_eq!(split(&more), ([own, b"more=1\n"].concat(), Some(lines)));
    }

    #[test]
    fn lines_that_are_not_whole_are_the_users() {
        let cut = b"# BEGIN oche\nU_BOOT=/x\n".as_slice();
        assert_eq!(split(cut), (cut.to_vec(), None));
        assert_eq!(split(b""), (Vec::new(), None));
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    proptest! {
        #[test]
        fn any_file_that_ends_in_a_line_comes_back(own in "([a-zA-Z#=\"'$ /]{0,20}\n){0,8}") {
            let lines = block("/x".as_ref(), None);
            let text = with_block(own.as_bytes(), &lines);
            prop_assert_eq!(split(&text), (own.into_bytes(), Some(lines)));
        }
    }
}
