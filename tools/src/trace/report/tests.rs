//! The page's data: figures that add up, hostile names, a size that does not grow. How it looks in a browser is checked
//! by `cargo xtask test`.

use super::*;
use crate::trace::made::{Made, with_every_error};
use oche_hyp::dart::entry::Permission;
use serde_json::Value;

fn page(made: &Made, name: &str) -> (String, Value) {
    let mut out = Vec::new();
    write_report(&made.open(), 0, name, &Symbols::default(), &mut out).unwrap();
    let page = String::from_utf8(out).unwrap();
    let (_, rest) = page.split_once("id=\"data\">").unwrap();
    let data = serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap();
    (page, data)
}

#[test]
fn the_figures_add_up() {
    let (_, data) = page(&with_every_error(), "a.oche");
    let nvme = &data["devices"][0];
    assert_eq!((nvme["name"].as_str(), nvme["faults"].as_u64()), (Some("nvme"), Some(2)));
    let made: u64 = nvme["made"].as_array().unwrap().iter().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(Some(made), nvme["maps"].as_u64());
    assert_eq!(nvme["mapped"].as_array().unwrap().len() as u64, data["bins"].as_u64().unwrap());
    let first = &data["faults"][0];
    assert_eq!(first["before"].as_array().unwrap().len(), 2, "its map and its unmap");
    assert!(data["findings"]["totals"]["use-after-unmap"].as_u64() == Some(1));
}

#[test]
fn a_name_cannot_end_the_script_or_be_one() {
    let (page, data) = page(&with_every_error(), "</script><script>alert(1)</script>.oche");
    assert_eq!(page.matches("<script>").count(), 1);
    assert_eq!(data["file"], "</script><script>alert(1)</script>.oche");
    assert!(!page.contains("http://www.w3.org/1999") && !page.contains("src="), "nothing is loaded");
}

#[test]
fn a_long_trace_has_no_longer_a_page() {
    let size = |rounds: u32| {
        let mut made = Made::new();
        for round in 0..rounds {
            made.map(0, 1, round % 1000, round, Permission::READ_ONLY).wait(50_000);
            made.unmap(0, 1, round % 1000, round).fault(0, 1, u64::from(round) << 12, true, 4);
        }
        page(&made, "a").0.len()
    };
    let (short, long) = (size(2_000), size(20_000));
    assert!(long < short + short / 4 && long < 200_000, "{short} and {long} bytes");
}
