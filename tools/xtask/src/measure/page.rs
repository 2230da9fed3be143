//! The page about what was measured, and the tables in it, each between two marks.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use oche::workspace;

/// The page, below the checkout's top folder.
const PAGE: &str = "docs/measurements.md";

fn path() -> PathBuf {
    workspace::root().join(PAGE)
}

/// The text of the page.
///
/// # Errors
///
/// It cannot be read.
pub(super) fn read() -> Result<String> {
    fs::read_to_string(path()).with_context(|| format!("cannot read {PAGE}"))
}

/// Puts each of `tables` into the page, at the place of its name.
///
/// # Errors
///
/// The page has no place for a table, or cannot be read or written.
pub(super) fn put_tables(tables: &[(&str, String)]) -> Result<()> {
    let text = with_tables(&read()?, tables)?;
    workspace::write_whole(&path(), text.as_bytes())
}

/// `page` with each of `tables` between its marks.
///
/// # Errors
///
/// The page has no place for a table.
pub(super) fn with_tables(page: &str, tables: &[(&str, String)]) -> Result<String> {
    let mut text = page.to_owned();
    for (name, table) in tables {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let lacks = || format!("{PAGE} has no {} with an end", begin.trim_end());
        let (before, rest) = text.split_once(&begin).with_context(lacks)?;
        let (_, after) = rest.split_once(&end).with_context(lacks)?;
        text = format!("{before}{begin}{table}{end}{after}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::with_tables;

    #[test]
    fn a_page_without_a_place_for_a_table_is_an_error() {
        let put = |page: &str| with_tables(page, &[("a", "new\n".into())]);
        assert_eq!(
            put("<!-- a -->\nold\n<!-- end of a -->").unwrap(),
            "<!-- a -->\nnew\n<!-- end of a -->"
        );
        assert!(put("<!-- a -->\nold\n").is_err() && put("<!-- b -->\n").is_err());
    }
}
