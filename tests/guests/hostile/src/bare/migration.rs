//! A page that migrates while other CPUs read, write, execute and count in it.
//!
//! One CPU maps it for the device and unmaps it again, each of which migrates it. QEMU runs a
//! thread for each CPU, so that the others meet the page in every state.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use oche_guest_common::{CaseReport, Pages, check};

use super::code;
use super::cpus::{is_over, with_helpers};
use super::edu::STREAM;
use super::forms::increment;
use super::mapping::{self, Rights};

/// How often the page is mapped and unmapped.
const ROUNDS: usize = 300;
/// Byte offsets: of the word that all CPUs count in, and of each CPU's own word.
const SHARED: u64 = 0x400;
const OWN: u64 = 0x800;

static PAGE: Pages<1> = Pages::new();
static COUNTS: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU32 = AtomicU32::new(0);

pub(super) fn run(report: &mut CaseReport) {
    PAGE.set_word(0, code::FUNCTION);
    mapping::begin(STREAM);
    let result = with_helpers(use_page, || {
        for round in 0..ROUNDS {
            let rights = if round % 3 == 0 { Rights::Read } else { Rights::ReadWrite };
            let iova = 0x40 + round % 7;
            mapping::set(STREAM, iova, Some((PAGE.address(), rights)));
            mapping::set(STREAM, iova, None);
        }
        Ok(())
    });
    mapping::end(STREAM);
    report.case(format_args!("page migration: three CPUs use the page"), result);
    report.case(
        format_args!("page migration: loads, stores and fetches"),
        check(LOST.load(Ordering::SeqCst) == 0, "something is lost"),
    );
    let count = PAGE.word(SHARED as usize / 8);
    let is_whole = count == COUNTS.load(Ordering::SeqCst) && count != 0;
    report.case(
        format_args!("page migration: atomics and exclusives"),
        check(is_whole, "counts are lost"),
    );
}

/// Another CPU's part. The function in the page was stored before this CPU was started, whose
/// caches were empty then.
fn use_page(number: u64) {
    let own = (OWN / 8 + number) as usize;
    let mut rounds = 0;
    let mut lost = 0;
    while !is_over() {
        rounds += 1;
        increment(PAGE.address() + SHARED, 1, number & 1 == 0);
        PAGE.set_word(own, rounds);
        lost += u32::from(code::call(PAGE.address()).is_err());
        lost += u32::from(PAGE.word(own) != rounds);
    }
    COUNTS.fetch_add(rounds, Ordering::SeqCst);
    LOST.fetch_add(lost, Ordering::SeqCst);
}
