//! Clocks that are aligned, and those that do not fit.

use super::*;
use crate::trace::made::Made;
use oche_types::dart::entry::Permission;

/// A trace with `pages` pages mapped and unmapped, and the guest's view of it: each event `before`
/// microseconds earlier, in a clock that is `behind` microseconds behind and gains a microsecond
/// in each `drift` (0: none).
fn both(pages: u32, behind: u64, drift: u64) -> (Made, Ftrace) {
    let (mut made, mut text) = (Made::new(), String::new());
    let mut line = |now: u64, name: &str, fields: &str| {
        let gained = now.checked_div(drift).unwrap_or(0);
        let guest = now - behind + gained;
        text.push_str(&format!(
            "dd-1 [000] ..... {}.{:06}: {name}: IOMMU: iova={fields}\n",
            guest / 1_000_000,
            guest % 1_000_000
        ));
    };
    made.wait(500_000);
    for page in 0..pages {
        let range = format!("{:#x} - 0x1 ", u64::from(0x100 + page) << 12);
        let before = u64::from(page % 7);
        line(made.now - before, "map", &format!("{range}paddr={:#x}", u64::from(page + 1) << 12));
        made.map(0, 1, 0x100 + page, page + 1, Permission::READ_ONLY).wait(200);
        line(made.now, "unmap", &format!("{range}size=4096 unmapped_size=4096"));
        made.unmap(0, 1, 0x100 + page, page + 1).wait(1000);
    }
    (made, Ftrace::new(text))
}

#[test]
fn clocks_are_aligned_by_pages_that_both_traces_have() {
    let (made, ftrace) = both(50, 400_000, 0);
    let found = align(&ftrace, &made.open(), 0).unwrap();
    // Oche's `map` comes with the fourth event of its flush, ten microseconds each.
    assert_eq!((found.offset_ns, found.pages), (400_000_000 + 40_000 + 500, 50));
    assert!(found.slack_ns >= 40_000 && found.slack_ns < 300_000, "{found:?}");
}

#[test]
fn clocks_that_do_not_fit_are_refused() {
    let (made, ftrace) = both(50, 400_000, 100);
    let error = align(&ftrace, &made.open(), 0).unwrap_err().to_string();
    assert!(error.contains("`local` (the default)"), "{error}");
    let (_, other) = both(3, 0, 0);
    let error = align(&other, &made.open(), 0).unwrap_err().to_string();
    assert!(error.starts_with("3 of the guest's 3 mapped pages are in the trace"), "{error}");
    let none = Ftrace::new("dd-1 [000] 1.5: sched_switch: x\n".into());
    let error = align(&none, &made.open(), 0).unwrap_err().to_string();
    assert!(error.contains("trace-cmd record -e iommu"), "{error}");
}
