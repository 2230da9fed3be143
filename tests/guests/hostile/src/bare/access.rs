//! Loads, stores, fetches and walks of addresses that are not the guest's: each aborts, and Oche
//! keeps running.

use core::arch::asm;

use oche_guest_common::exception::{Exception, attempt};
use oche_guest_common::{CaseReport, Check, check};

use super::board::{DART, DART_BYTES, Hidden, SMMU};
use super::stage1::{DEVICES_AS_MEMORY, UPPER, set_upper};

macro_rules! accesses {
    ($($name:ident = $text:literal: $($line:literal),+;)*) => {
        $(fn $name(address: u64) {
            // SAFETY: none: wild on purpose. The vectors step over the instruction that faults. x9
            // to x11 are all that changes; nothing compiled for this target uses the SIMD
            // registers.
            unsafe {
                asm!($($line),+, inout("x9") address => _, inout("x10") 0u64 => _, inout("x11") 0u64 => _,
                    options(nostack))
            };
        })*
        /// Name and function of each.
        pub(super) const ACCESSES: &[(&str, fn(u64))] = &[$(($text, $name)),*];
    };
}

// Everything but plain 32-bit accesses. A DART's registers abort them, except those in `WORDS`.
accesses! {
    load_byte = "8-bit load": "ldrb w10, [x9]";
    store_byte = "8-bit store": "strb w10, [x9]";
    load_half = "16-bit load": "ldrsh x10, [x9]";
    store_half = "16-bit store": "strh w10, [x9]";
    load_double = "64-bit load": "ldr x10, [x9]";
    store_double = "64-bit store": "str x10, [x9]";
    load_pair = "load of a pair": "ldp w10, w11, [x9]";
    store_pair = "store of a pair": "stp x10, x11, [x9]";
    load_post = "load with write-back": "ldr w10, [x9], #4";
    store_post = "store with write-back": "str w10, [x9], #4";
    load_vector = "SIMD load": ".inst 0x3dc00120"; // LDR Q0, [X9]
    store_vector = "SIMD store": ".inst 0x3d800120"; // STR Q0, [X9]
    add = "atomic add": ".inst 0xb82a012b"; // LDADD W10, W11, [X9]
    load_exclusive = "exclusive load": "ldxr w10, [x9]";
    load_acquire_pair = "exclusive pair": "ldxp x10, x11, [x9]";
}

/// Those that are accesses of 32 bits too, but with ISV=0.
const WORDS: [&str; 3] = ["load of a pair", "load with write-back", "store with write-back"];

pub(super) fn load_word(address: u64) {
    // SAFETY: as for the accesses above.
    unsafe { asm!("ldr w10, [x9]", in("x9") address, out("x10") _, options(nostack)) };
}

fn store_word(address: u64) {
    // SAFETY: as for the accesses above.
    unsafe { asm!("str wzr, [x9]", in("x9") address, options(nostack)) };
}

fn zero(address: u64) {
    // SAFETY: as for the accesses above.
    unsafe { asm!("dc zva, {}", in(reg) address, options(nostack)) };
}

fn invalidate(address: u64) {
    // SAFETY: as for the accesses above.
    unsafe { asm!("dc ivac, {}", in(reg) address, options(nostack)) };
}

fn fetch(address: u64) {
    // SAFETY: as for the accesses above; the vectors return to the caller.
    unsafe { asm!("blr {}", in(reg) address, clobber_abi("C"), options(nostack)) };
}

pub(super) fn run(report: &mut CaseReport, hidden: Hidden) {
    dart(report);
    for (name, access) in ACCESSES.iter().copied().chain([("word", load_word as fn(u64))]) {
        report.case(format_args!("smmu: {name}"), refused(attempt(|| access(SMMU))));
    }
    report.case(
        format_args!("smmu: store to its second page"),
        refused(attempt(|| store_word(SMMU + 0x1_00a8))),
    );
    for address in hidden.iter() {
        memory_of_oche(report, address);
    }
    let undefined = attempt(read_hypervisor_register);
    let is_undefined = undefined.is_some_and(Exception::is_undefined);
    report.case(format_args!("a register of EL2"), check(is_undefined, "not undefined"));
}

fn dart(report: &mut CaseReport) {
    let word = attempt(|| load_word(DART));
    report.case(format_args!("dart: a word is answered"), answered(word));
    for (name, access) in ACCESSES {
        let result = attempt(|| access(DART + 0x20));
        let result = if WORDS.contains(name) { answered(result) } else { refused(result) };
        report.case(format_args!("dart: {name}"), result);
    }
    let memory = DEVICES_AS_MEMORY + DART;
    for (name, access) in [("load", load_word as fn(u64)), ("store", store_word)] {
        report.case(
            format_args!("dart: unaligned {name}"),
            refused(attempt(|| access(memory + 0x22))),
        );
        report.case(
            format_args!("dart: unaligned {name} across the registers' end"),
            refused(attempt(|| access(memory + 2 * DART_BYTES - 2))),
        );
    }
    report.case(format_args!("dart: DC ZVA"), refused(attempt(|| zero(memory))));
    report.case(format_args!("dart: fetch"), refused(attempt(|| fetch(memory))));
    report.case(format_args!("dart: translation tables there"), refused(walk(DART)));
    // Cache maintenance moves no data: it may abort or not.
    attempt(|| invalidate(memory));
}

fn memory_of_oche(report: &mut CaseReport, address: u64) {
    let words = [("word load", load_word as fn(u64)), ("word store", store_word), ("DC ZVA", zero)];
    for (name, access) in ACCESSES.iter().copied().chain(words).chain([("fetch", fetch as fn(u64))])
    {
        report
            .case(format_args!("oche {address:#x}: {name}"), refused(attempt(|| access(address))));
    }
    report
        .case(format_args!("oche {address:#x}: translation tables there"), refused(walk(address)));
    attempt(|| invalidate(address));
}

fn read_hypervisor_register() {
    // SAFETY: undefined at EL1, and stepped over.
    unsafe { asm!("mrs x10, hcr_el2", out("x10") _, options(nostack)) };
}

/// Makes the CPU walk tables at `table`.
fn walk(table: u64) -> Option<Exception> {
    set_upper(table);
    attempt(|| load_word(UPPER))
}

fn answered(result: Option<Exception>) -> Check {
    check(result.is_none(), "an exception")
}

fn refused(result: Option<Exception>) -> Check {
    match result {
        None => Err("no exception"),
        Some(exception) if exception.is_external_abort() => Ok(()),
        Some(_) => Err("another exception than an external abort"),
    }
}
