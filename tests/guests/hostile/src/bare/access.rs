//! Loads, stores, fetches and walks where there is nothing for a guest: an abort, and Oche stays
//! up.

use core::arch::asm;

use super::Tally;
use super::exception::{Exception, attempt};
use super::start::{DEVICES_AS_MEMORY, UPPER};
use super::tree::HOLES;

/// DART 0's registers.
pub(super) const DART: u64 = 0x0910_0000;
/// The SMMU's. Source: QEMU 7.2 `hw/arm/virt.c`, `VIRT_SMMU`.
const SMMU: u64 = 0x0905_0000;

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

// All but the plain words. No register of a DART answers them, but for those in `WORDS`.
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

/// Those that are words as well, which only the syndrome does not describe.
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

/// Reads a DART's register.
pub(super) fn leave_a_trace() {
    load_word(DART);
}

pub(super) fn run(tally: &mut Tally, holes: &[u64; HOLES]) {
    let word = attempt(|| load_word(DART));
    tally.case(format_args!("dart: a word is answered"), answered(word));
    for (name, access) in ACCESSES {
        let result = attempt(|| access(DART + 0x20));
        let is_word = WORDS.contains(name);
        tally.case(
            format_args!("dart: {name}"),
            if is_word { answered(result) } else { refused(result) },
        );
    }
    let memory = DEVICES_AS_MEMORY + DART;
    for (name, access) in [("load", load_word as fn(u64)), ("store", store_word)] {
        tally.case(
            format_args!("dart: unaligned {name}"),
            refused(attempt(|| access(memory + 0x22))),
        );
        tally.case(
            format_args!("dart: unaligned {name} across registers' end"),
            refused(attempt(|| access(memory + 2 * 0x4000 - 2))),
        );
    }
    tally.case(format_args!("dart: DC ZVA"), refused(attempt(|| zero(memory))));
    tally.case(format_args!("dart: fetch"), refused(attempt(|| fetch(memory))));
    tally.case(format_args!("dart: page tables there"), refused(walk(DART)));
    // Cache maintenance moves no data: with or without an abort, it must only come back.
    attempt(|| invalidate(memory));

    for (name, access) in ACCESSES.iter().copied().chain([("word", load_word as fn(u64))]) {
        tally.case(format_args!("smmu: {name}"), refused(attempt(|| access(SMMU))));
    }
    tally.case(
        format_args!("smmu: store to its second page"),
        refused(attempt(|| store_word(SMMU + 0x1_00a8))),
    );

    for hole in holes.iter().copied().filter(|hole| *hole != 0) {
        for (name, access) in ACCESSES {
            tally.case(format_args!("oche {hole:#x}: {name}"), refused(attempt(|| access(hole))));
        }
        for (name, access) in
            [("word load", load_word as fn(u64)), ("word store", store_word), ("DC ZVA", zero)]
        {
            tally.case(format_args!("oche {hole:#x}: {name}"), refused(attempt(|| access(hole))));
        }
        tally.case(format_args!("oche {hole:#x}: fetch"), refused(attempt(|| fetch(hole))));
        tally.case(format_args!("oche {hole:#x}: page tables there"), refused(walk(hole)));
        attempt(|| invalidate(hole));
    }
    let undefined = attempt(read_hypervisor_register);
    let is_undefined = undefined.is_some_and(Exception::is_undefined);
    tally.case(
        format_args!("a register of EL2"),
        if is_undefined { Ok(()) } else { Err("not undefined") },
    );
}

fn read_hypervisor_register() {
    // SAFETY: undefined at EL1, and stepped over.
    unsafe { asm!("mrs x10, hcr_el2", out("x10") _, options(nostack)) };
}

/// Has the CPU walk tables at `table`.
fn walk(table: u64) -> Option<Exception> {
    // SAFETY: nothing of this guest lives in TTBR1's half.
    unsafe {
        asm!("msr ttbr1_el1, {}", "isb", "tlbi vmalle1", "dsb nsh", "isb", in(reg) table, options(nostack))
    };
    attempt(|| load_word(UPPER))
}

fn answered(result: Option<Exception>) -> Result<(), &'static str> {
    result.map_or(Ok(()), |_| Err("an exception"))
}

fn refused(result: Option<Exception>) -> Result<(), &'static str> {
    match result {
        None => Err("no exception"),
        Some(exception) if exception.is_external_abort() => Ok(()),
        Some(_) => Err("another exception than an external abort"),
    }
}
