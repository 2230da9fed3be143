//! Every form of load and store, each as a function of an address.

use core::arch::asm;

/// The registers that a form starts with and ends with.
#[repr(C, align(16))]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct FormRegisters {
    /// V0 to V3.
    pub(super) vectors: [[u64; 2]; 4],
    /// X10 to X13.
    pub(super) general: [u64; 4],
    /// X9: the address, then the written-back address.
    pub(super) base: u64,
}

/// A form of load or store.
#[derive(Clone, Copy)]
pub(super) struct Form {
    pub(super) name: &'static str,
    /// It may be executed at any address, aligned or not.
    pub(super) is_any_address: bool,
    pub(super) run: fn(&mut FormRegisters),
}

macro_rules! forms {
    ($($reach:ident $text:literal: $($line:literal),+;)*) => {
        &[$(Form {
            name: $text,
            is_any_address: forms!(@ $reach),
            run: |registers| {
                // SAFETY: the address is in pages that are for this; V0 to V3 and X9 to X15 are all
                // that changes, and nothing compiled for this target uses the former.
                unsafe {
                    asm!(
                        ".arch_extension fp", ".arch_extension simd", ".arch_extension lse", ".arch_extension rcpc",
                        "ldp q0, q1, [x8]", "ldp q2, q3, [x8, #32]",
                        "ldp x10, x11, [x8, #64]", "ldp x12, x13, [x8, #80]", "ldr x9, [x8, #96]",
                        $($line),+,
                        "stp q0, q1, [x8]", "stp q2, q3, [x8, #32]",
                        "stp x10, x11, [x8, #64]", "stp x12, x13, [x8, #80]", "str x9, [x8, #96]",
                        in("x8") &raw mut *registers,
                        out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
                        out("x15") _, options(nostack)
                    )
                };
            },
        }),*]
    };
    (@ anywhere) => { true };
    (@ aligned) => { false };
}

/// All of them. X12 holds 16, X11 holds what the memory at the aligned address holds.
pub(super) const FORMS: &[Form] = forms! {
    anywhere "ldr x": "ldr x10, [x9]";
    anywhere "ldr w, offset": "ldr w10, [x9, #8]";
    anywhere "ldrb": "ldrb w10, [x9]";
    anywhere "ldrh": "ldrh w10, [x9]";
    anywhere "ldrsb w": "ldrsb w10, [x9]";
    anywhere "ldrsh x": "ldrsh x10, [x9]";
    anywhere "ldrsw": "ldrsw x10, [x9]";
    anywhere "ldur": "ldur x10, [x9, #-5]";
    anywhere "ldtr": "ldtr x10, [x9, #8]";
    anywhere "ldr, post-index": "ldr x10, [x9], #24";
    anywhere "ldr, pre-index": "ldr x10, [x9, #8]!";
    anywhere "ldr, register": "ldr x10, [x9, x12]";
    anywhere "ldr, extended register": "ldr w10, [x9, w12, sxtw #2]";
    anywhere "ldr xzr": "ldr xzr, [x9]";
    anywhere "ldp x": "ldp x10, x11, [x9]";
    anywhere "ldp w": "ldp w10, w11, [x9, #-8]";
    anywhere "ldpsw": "ldpsw x10, x11, [x9]";
    anywhere "ldp, post-index": "ldp x10, x11, [x9], #16";
    anywhere "ldp, pre-index": "ldp x10, x11, [x9, #-16]!";
    anywhere "ldnp": "ldnp x10, x11, [x9, #16]";
    anywhere "ldr b": "ldr b0, [x9]";
    anywhere "ldr h": "ldr h1, [x9]";
    anywhere "ldr s": "ldr s2, [x9]";
    anywhere "ldr d, post-index": "ldr d3, [x9], #8";
    anywhere "ldr q": "ldr q0, [x9]";
    anywhere "ldur q": "ldur q1, [x9, #3]";
    anywhere "ldp d": "ldp d0, d1, [x9]";
    anywhere "ldp q, pre-index": "ldp q2, q3, [x9, #32]!";
    anywhere "ldnp q": "ldnp q0, q1, [x9]";
    anywhere "ld1, one": "ld1 {{v0.16b}}, [x9]";
    anywhere "ld1, four, post-index": "ld1 {{v0.16b-v3.16b}}, [x9], #64";
    anywhere "ld2": "ld2 {{v0.4s-v1.4s}}, [x9]";
    anywhere "ld3": "ld3 {{v0.8h-v2.8h}}, [x9]";
    anywhere "ld4": "ld4 {{v0.2d-v3.2d}}, [x9]";
    anywhere "ld1r": "ld1r {{v0.4s}}, [x9]";
    anywhere "ld1, lane": "ld1 {{v1.h}}[3], [x9]";
    anywhere "str x": "str x10, [x9]";
    anywhere "str w, offset": "str w10, [x9, #8]";
    anywhere "strb": "strb w10, [x9]";
    anywhere "strh": "strh w10, [x9]";
    anywhere "stur": "stur x10, [x9, #-5]";
    anywhere "sttr": "sttr x10, [x9, #8]";
    anywhere "str, post-index": "str x10, [x9], #24";
    anywhere "str, pre-index": "str x10, [x9, #8]!";
    anywhere "str, register": "str x10, [x9, x12]";
    anywhere "str xzr": "str xzr, [x9]";
    anywhere "stp x": "stp x10, x11, [x9]";
    anywhere "stp w": "stp w10, w11, [x9, #-8]";
    anywhere "stp, post-index": "stp x10, x11, [x9], #16";
    anywhere "stp, pre-index": "stp x10, x11, [x9, #-16]!";
    anywhere "stnp": "stnp x10, x11, [x9, #16]";
    anywhere "str b": "str b0, [x9]";
    anywhere "str s, post-index": "str s2, [x9], #4";
    anywhere "str d": "str d3, [x9]";
    anywhere "str q": "str q0, [x9]";
    anywhere "stp q": "stp q2, q3, [x9]";
    anywhere "stp d, post-index": "stp d0, d1, [x9], #16";
    anywhere "st1, one": "st1 {{v0.16b}}, [x9]";
    anywhere "st1, four, post-index": "st1 {{v0.16b-v3.16b}}, [x9], #64";
    anywhere "st2": "st2 {{v0.4s-v1.4s}}, [x9]";
    anywhere "st3": "st3 {{v0.8h-v2.8h}}, [x9]";
    anywhere "st4": "st4 {{v0.2d-v3.2d}}, [x9]";
    anywhere "st1, lane": "st1 {{v1.h}}[3], [x9]";
    anywhere "dc zva": "dc zva, x9";
    anywhere "dc cvac": "dc cvac, x9";
    anywhere "dc civac": "dc civac, x9";
    anywhere "dc ivac": "dc civac, x9", "dc ivac, x9";
    anywhere "prfm": "prfm pldl1keep, [x9]";
    aligned "on the stack": "mov x14, sp", "mov sp, x9", "str x10, [sp, #-16]!", "ldr x11, [sp], #16",
        "mov x9, sp", "mov sp, x14";
    aligned "ldar": "ldar x10, [x9]";
    aligned "ldarb": "ldarb w10, [x9]";
    aligned "ldapr": "ldapr x10, [x9]";
    aligned "stlr": "stlr x10, [x9]";
    aligned "stlrh": "stlrh w10, [x9]";
    aligned "ldxr and stxr": "2:", "ldxr x13, [x9]", "add x14, x13, x10", "stxr w15, x14, [x9]", "cbnz w15, 2b";
    aligned "ldaxrb and stlxrb": "2:", "ldaxrb w13, [x9]", "add w14, w13, w10", "stlxrb w15, w14, [x9]",
        "cbnz w15, 2b";
    aligned "ldxp and stxp": "2:", "ldxp x12, x13, [x9]", "stxp w15, x13, x10, [x9]", "cbnz w15, 2b";
    aligned "ldaxp and stlxp w": "2:", "ldaxp w12, w13, [x9]", "stlxp w15, w13, w10, [x9]", "cbnz w15, 2b";
    aligned "stxr alone": "clrex", "stxr w13, x10, [x9]";
    aligned "ldadd": "ldadd x10, x13, [x9]";
    aligned "ldaddal w": "ldaddal w10, w13, [x9]";
    aligned "ldclr": "ldclr x10, x13, [x9]";
    aligned "ldset": "ldset x10, x13, [x9]";
    aligned "ldeorb": "ldeorb w10, w13, [x9]";
    aligned "ldsmax": "ldsmax x10, x13, [x9]";
    aligned "ldumin": "ldumin x10, x13, [x9]";
    aligned "stadd": "stadd x10, [x9]";
    aligned "swp": "swp x10, x13, [x9]";
    aligned "swpalb": "swpalb w10, w13, [x9]";
    aligned "cas that fails": "cas x13, x10, [x9]";
    aligned "cas that succeeds": "casal x11, x10, [x9]";
    aligned "casp": "casp x10, x11, x12, x13, [x9]";
};

/// Adds 1 to the word at `address`, `times` times, with an atomic or with exclusives.
pub(super) fn increment(address: u64, times: u32, is_atomic: bool) {
    for _ in 0..times {
        if is_atomic {
            // SAFETY: an aligned word in pages that are for this.
            unsafe {
                asm!(".arch_extension lse", "stadd {}, [{}]", in(reg) 1u64, in(reg) address, options(nostack))
            };
        } else {
            // SAFETY: the same.
            unsafe {
                asm!("2:", "ldaxr {a}, [{at}]", "add {a}, {a}, #1", "stlxr {b:w}, {a}, [{at}]", "cbnz {b:w}, 2b",
                    a = out(reg) _, b = out(reg) _, at = in(reg) address, options(nostack))
            };
        }
    }
}
