//! The codes of failures: each has a row in `docs/troubleshooting.md`, and each row is a code's.

use std::fs;

use oche::workspace;
use oche_el2::failure::Failure;

#[test]
fn every_code_has_one_row_and_every_row_a_code() {
    let page = fs::read_to_string(workspace::root().join("docs/troubleshooting.md")).unwrap();
    let codes = page.split("\n## ").next().unwrap_or_default();
    let rows: Vec<&str> = codes
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(code, rest)| {
            let cells: Vec<&str> = rest.trim_end_matches(" |").split(" | ").collect();
            assert_eq!(cells.len(), 4, "the row of {code}");
            assert!(cells.iter().all(|cell| !cell.trim().is_empty()), "the row of {code}");
            code
        })
        .collect();
    let codes: Vec<&str> = Failure::ALL.iter().map(|failure| failure.code()).collect();
    assert_eq!(rows, codes, "the rows of the page, and the codes in `hyp/el2/src/failure.rs`");
}
