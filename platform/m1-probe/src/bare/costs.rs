//! What TLB invalidations and the split of a stage-2 block cost.

use core::arch::asm;

use oche_boot::bare::selftest::{Verdict, print_line, report_time, ticks};
use oche_el2::stage2::Stage2;
use oche_el2::tlb::Cpus;
use oche_engine::host::Stage2 as _;
use oche_types::addr::Gfn;
use oche_types::range::{BLOCK, PAGE, PhysRange};

/// Rounds of a measurement.
const ROUNDS: u64 = 256;

/// Reports the time of an instruction with the barrier that completes it.
macro_rules! time {
    ($name:literal, $($instruction:literal),+) => {
        // SAFETY: dropping TLB entries only costs walks.
        let round = || unsafe {
            asm!($($instruction),+, "isb", in("x0") 0_u64, options(nostack, preserves_flags))
        };
        report_time($name, ticks(|| (0..ROUNDS).for_each(|_| round())), ROUNDS);
    };
}

/// The costs of TLB invalidations, while the other CPUs wait in firmware.
pub(super) fn invalidations() {
    time!("tlbi.guest", "tlbi vmalls12e1", "dsb nsh");
    time!("tlbi.guest-all-cpus", "tlbi vmalls12e1is", "dsb ish");
    time!("tlbi.by-ipa", "tlbi ipas2e1, x0", "dsb nsh");
    time!("tlbi.by-ipa-all-cpus", "tlbi ipas2e1is, x0", "dsb ish");
    time!("tlbi.stage1-all-cpus", "tlbi vmalle1is", "dsb ish");
    time!("tlbi.el2", "tlbi alle2", "dsb nsh");
    time!("barrier.dsb-ish", "dsb ish");
    time!("barrier.dsb-sy", "dsb sy");
}

/// The cost of replacing a block of 2 MiB by pages, break-before-make, in memory behind the image.
pub(super) fn split_block(guest: &[PhysRange], image: PhysRange, stage2: &mut Stage2<Cpus>) {
    const NAME: &str = "stage2.split-2m";
    let whole = guest.iter().map(|range| range.shrunk_to(BLOCK)).rfind(|range| !range.is_empty());
    let blocks = whole.filter(|range| range.start >= image.end && range.size() >= 2 * BLOCK);
    let pages = blocks.and_then(|range| {
        let page = |blocks: u64| Gfn::containing(range.end - blocks * BLOCK + PAGE);
        page(1).zip(page(2))
    });
    let Some((first, second)) = pages else {
        return print_line(NAME, "-", "-", Verdict::Skipped("no such block in RAM"));
    };
    // The first also splits the gigabyte that both may be in.
    let is_ready = stage2.prepare(first).is_ok();
    let mut is_split = false;
    let took = ticks(|| is_split = stage2.prepare(second).is_ok());
    if is_ready && is_split {
        report_time(NAME, took, 1);
    } else {
        print_line(NAME, "-", "-", Verdict::Skipped("no memory for tables"));
    }
}
