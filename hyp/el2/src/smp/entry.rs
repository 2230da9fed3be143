//! The first instructions of every CPU except the boot CPU: one that firmware starts, and one that
//! waited in a spin table.

use core::sync::atomic::AtomicU64;

use oche_types::MAX_CPUS;

/// What a CPU reads with its MMU off. The entry assembly uses the offsets.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Start {
    pub(super) ttbr: AtomicU64,
    pub(super) tcr: AtomicU64,
    pub(super) mair: AtomicU64,
    pub(super) stack: AtomicU64,
    pub(super) index: AtomicU64,
    pub(super) affinity: AtomicU64,
}

/// Offset of a `Start`'s affinity, and its size, in bytes.
const START_AFFINITY: usize = core::mem::offset_of!(Start, affinity);
const START_BYTES: usize = size_of::<Start>();

const _: () = assert!(core::mem::offset_of!(Start, mair) == 16);
const _: () = assert!(core::mem::offset_of!(Start, stack) == 24);
const _: () = assert!(core::mem::offset_of!(Start, index) == 32);

impl Start {
    const fn new() -> Self {
        let [ttbr, tcr, mair, stack, index] = [const { AtomicU64::new(0) }; 5];
        // The affinity of no CPU.
        Self { ttbr, tcr, mair, stack, index, affinity: AtomicU64::new(u64::MAX) }
    }
}

pub(super) static STARTS: [Start; MAX_CPUS] = [const { Start::new() }; MAX_CPUS];

/// `global_asm!` with the assembler macros that every entry to EL2 uses: `enter_el2`, for a CPU in
/// any state, and `mmu_on`.
#[macro_export]
macro_rules! entry_global_asm {
    ($($rest:tt)*) => {
        core::arch::global_asm!(
    r#"
    // Defined once in an assembly, which may consist of several files.
    .ifndef OCHE_ENTRY_MACROS
    .equ OCHE_ENTRY_MACROS, 1
    // HCR_EL2 during boot: E2H (34) and RW (31). It is set first, so that every register below has
    // its VHE layout, both on CPUs that enter without E2H (QEMU) and on those where it is fixed
    // (M1).
    .equ HCR_BOOT_HIGH, 0x4
    .equ HCR_BOOT_LOW, 0x8000
    // SCTLR_EL2 with MMU and caches off: the bits that are RES1 or must keep old behaviour:
    // LSMAOE 29, nTLSMD 28, SPAN 23, EIS 22, nTWE 18, nTWI 16, EOS 11, CP15BEN 5, SA0 4.
    .equ SCTLR_OFF_HIGH, 0x30c5
    .equ SCTLR_OFF_LOW, 0x0830
    // And on: plus WXN 19, I 12, SA 3, C 2, M 0.
    .equ SCTLR_ON_HIGH, 0x30cd
    .equ SCTLR_ON_LOW, 0x183d

    .macro enter_el2
    msr     daifset, #0xf
    msr     spsel, #1
    mov     x9, #(HCR_BOOT_LOW << 16)
    movk    x9, #HCR_BOOT_HIGH, lsl #32
    msr     hcr_el2, x9
    isb
    mov     x9, #SCTLR_OFF_LOW
    movk    x9, #SCTLR_OFF_HIGH, lsl #16
    msr     sctlr_el2, x9
    // CPTR_EL2, E2H layout: FPEN (21:20) and ZEN (17:16) trap nothing.
    mov     x9, #0x330000
    msr     cptr_el2, x9
    isb
    .endm

    // x0 = TTBR0_EL2, x1 = TCR_EL2, x2 = MAIR_EL2. Clobbers x9.
    .macro mmu_on
    msr     mair_el2, x2
    msr     tcr_el2, x1
    msr     ttbr0_el2, x0
    isb
    tlbi    alle2
    ic      iallu
    dsb     nsh
    mov     x9, #SCTLR_ON_LOW
    movk    x9, #SCTLR_ON_HIGH, lsl #16
    msr     sctlr_el2, x9
    isb
    .endm
    .endif
"#,
            $($rest)*
        );
    };
}

entry_global_asm!(
    r#"
    .section .text.secondary, "ax"
    .global oche_park
    .type oche_park, %function
oche_park:
    wfi
    b       oche_park

    // Another CPU. x0 = its `Start`, which the boot CPU cleaned to the point of coherency.
    .global oche_secondary_entry
    .type oche_secondary_entry, %function
oche_secondary_entry:
    mov     x20, x0
    mrs     x9, CurrentEL
    cmp     x9, #(2 << 2)
    b.ne    oche_park
    enter_el2
    ldp     x0, x1, [x20]
    ldr     x2, [x20, #16]
    mmu_on
    ldp     x9, x0, [x20, #24]          // stack, index
    mov     sp, x9
    mov     x29, xzr
    mov     x30, xzr
    bl      oche_secondary
    b       oche_park

    // A CPU from the spin table: MMU off, any state. It finds its own `Start` by its affinity.
    .section .text.spin, "ax"
    .global oche_spin_entry
    .type oche_spin_entry, %function
oche_spin_entry:
    msr     daifset, #0xf
    mrs     x9, mpidr_el1
    mov     x10, #0xffffff              // MPIDR_EL1: Aff2, Aff1, Aff0 in 23:0, Aff3 in 39:32
    movk    x10, #0xff, lsl #32
    and     x9, x9, x10
    adrp    x0, {starts}
    add     x0, x0, :lo12:{starts}
    mov     x11, #{count}
1:  ldr     x12, [x0, #{affinity}]
    cmp     x12, x9
    b.eq    oche_secondary_entry
    add     x0, x0, #{bytes}
    subs    x11, x11, #1
    b.ne    1b
    // No `Start` is for this CPU: it waits forever.
2:  wfe
    b       2b
"#,
    starts = sym STARTS,
    count = const MAX_CPUS,
    affinity = const START_AFFINITY,
    bytes = const START_BYTES,
);

unsafe extern "C" {
    fn oche_secondary_entry() -> !;
    fn oche_spin_entry() -> !;
}

/// The entry of a CPU that firmware starts.
pub(super) fn secondary() -> u64 {
    oche_secondary_entry as *const () as u64
}

/// The entry of a CPU that waited in a spin table.
pub fn spin() -> u64 {
    oche_spin_entry as *const () as u64
}
