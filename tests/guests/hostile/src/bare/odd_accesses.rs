//! Accesses to the DARTs' registers at every width, and accesses to Oche's memory by instructions
//! that a stage-2 fault's syndrome does not describe.

use core::arch::asm;

use oche_guest_common::exception::attempt;
use oche_guest_common::{CaseReport, check};

use super::board::{DART, DART_BYTES, Hidden, MAX_DARTS};

pub(super) fn run(report: &mut CaseReport, hidden: Hidden) {
    registers(report);
    for address in hidden.iter() {
        for (name, access) in ODD {
            let exception = attempt(|| access(address));
            // Stage 1 refuses EL0's accesses before stage 2 does.
            let is_refused = exception
                .is_some_and(|one| one.is_external_abort() || name.starts_with("unprivileged"));
            report.case(
                format_args!("oche {address:#x}: {name}"),
                check(is_refused, "no external abort"),
            );
        }
    }
}

/// Every register at every width, and the address behind the last DART.
fn registers(report: &mut CaseReport) {
    let count = |offsets: core::iter::StepBy<core::ops::Range<u64>>,
                 access: fn(u64),
                 is_answered: bool| {
        offsets.filter(|offset| attempt(|| access(DART + offset)).is_none() == is_answered).count()
    };
    let words = count((0..DART_BYTES).step_by(4), load_word, true);
    report.case(
        format_args!("every register, 32-bit"),
        check(words as u64 == DART_BYTES / 4, "one aborts"),
    );
    for (name, access, step) in
        [("8-bit", load_byte as fn(u64), 1), ("16-bit", load_half, 2), ("64-bit", load_double, 8)]
    {
        let refused = count((0..DART_BYTES).step_by(step), access, false);
        let is_right = refused == DART_BYTES as usize / step;
        report.case(format_args!("every register, {name}"), check(is_right, "one is answered"));
    }
    let beyond = attempt(|| load_word(DART + MAX_DARTS * DART_BYTES - 4))
        .is_some_and(|exception| exception.is_external_abort());
    report.case(format_args!("beyond the last DART"), check(beyond, "no external abort"));
}

macro_rules! accesses {
    ($($name:ident: $($line:literal),+;)*) => {
        $(fn $name(address: u64) {
            // SAFETY: none: wild on purpose. The vectors step over the instruction that faults;
            // nothing compiled for this target uses the SIMD registers.
            unsafe {
                asm!($($line),+, inout("x9") address => _, inout("x10") 0u64 => _, inout("x11") 0u64 => _,
                    inout("x12") 0u64 => _, inout("x13") 0u64 => _, options(nostack))
            };
        })*
    };
}

accesses! {
    load_byte: "ldrb w10, [x9]";
    load_half: "ldrh w10, [x9]";
    load_word: "ldr w10, [x9]";
    load_double: "ldr x10, [x9]";
    load_acquire: "ldar x10, [x9]";
    store_release: "stlr x10, [x9]";
    load_unprivileged: "ldtr x10, [x9]";
    store_unprivileged: "sttr x10, [x9]";
    load_far_pair: "ldnp x10, x11, [x9]";
    store_far_pair: "stnp x10, x11, [x9]";
    swap: ".inst 0xf82a812b"; // SWP X10, X11, [X9]
    compare: ".inst 0xc8aa7d2b"; // CAS X10, X11, [X9]
    compare_pair: ".inst 0x482a7d2c"; // CASP X10, X11, X12, X13, [X9]
    load_four: ".inst 0x4c400120"; // LD4 {V0.16B-V3.16B}, [X9]
    store_four: ".inst 0x4c000120"; // ST4 {V0.16B-V3.16B}, [X9]
    load_lane: ".inst 0x0d400120"; // LD1 {V0.B}[0], [X9]
}

/// An access at an address, and its name.
type Odd = (&'static str, fn(u64));

/// Instructions with ISV=0.
const ODD: [Odd; 12] = [
    ("load-acquire", load_acquire),
    ("store-release", store_release),
    ("unprivileged load", load_unprivileged),
    ("unprivileged store", store_unprivileged),
    ("non-temporal load of a pair", load_far_pair),
    ("non-temporal store of a pair", store_far_pair),
    ("atomic swap", swap),
    ("compare and swap", compare),
    ("compare and swap of a pair", compare_pair),
    ("load of four vectors", load_four),
    ("store of four vectors", store_four),
    ("load of one lane", load_lane),
];
