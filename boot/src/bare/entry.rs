//! The first instructions: of the boot CPU, whatever state firmware left, and of every other CPU.
//!
//! Contract: x0 = FDT, EL2, MMU and data cache off, the image at any 2 MiB-aligned address, BSS dirty.
//! Source: Linux `Documentation/arm64/booting.rst`; m1n1 enters the same way with E2H forced to 1.
//!
//! Caches. With the MMU off this code reads and writes memory directly, past the caches, while the caches
//! may hold lines of the image from whoever loaded it: dirty ones would overwrite what is written here,
//! clean ones would hide it once the caches are on. So the image is cleaned and invalidated to the point of
//! coherency before the first store (nothing dirty is left), and again before the MMU goes on (nothing that
//! was fetched speculatively in between is left). The instruction cache is dropped then as well.

use core::arch::global_asm;

use oche_types::range::PhysRange;

use crate::bare::stage1::{self, Use};
use crate::bare::{cpu, frame, panic};
use crate::header;

/// Where firmware put the FDT: host-physical, not yet mapped, not yet believed.
#[derive(Clone, Copy, Debug)]
pub struct FdtAddress(pub u64);

/// Makes `fn main(FdtAddress) -> !` the platform's entry, and leaves the board's name in the image.
#[macro_export]
macro_rules! entry {
    ($main:path, $board:literal) => {
        /// Which board this image is for; tools find it.
        #[used]
        #[expect(unsafe_code, reason = "the section that the linker script keeps")]
        #[unsafe(link_section = ".rodata.identity")]
        static IDENTITY: [u8; $crate::identity::RECORD_BYTES] =
            $crate::identity::record($board, env!("CARGO_PKG_VERSION"));

        /// The entry assembly jumps here with the MMU on.
        ///
        /// # Safety
        ///
        /// Called once, by the entry assembly on the boot CPU.
        #[expect(unsafe_code, reason = "the symbol that the entry assembly calls")]
        #[unsafe(no_mangle)]
        extern "C" fn oche_primary(fdt: u64) -> ! {
            $crate::bare::entry::begin();
            $main($crate::bare::entry::FdtAddress(fdt))
        }
    };
}

/// Sets up what the boot CPU needs before the platform's `main`: its number and its vectors.
pub fn begin() {
    cpu::set_index(0);
    panic::install_vectors();
}

global_asm!(
    r#"
    // HCR_EL2 while booting: E2H (34) and RW (31). E2H first of all, so that every register below has its
    // VHE layout, on CPUs that enter without it (QEMU) as on those that know nothing else (M1).
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

    .section .text.head, "ax"
    .global _start
    .type _start, %function
_start:
    b       oche_entry
    .long   0
    .quad   0                           // text_offset
    .quad   __image_end - _start        // image_size: the packer adds the payload's
    .quad   {flags}
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0

    .type oche_entry, %function
oche_entry:
    mov     x20, x0
    mrs     x9, CurrentEL
    cmp     x9, #(2 << 2)
    b.ne    oche_not_el2
    enter_el2
    adrp    x21, _start
    bl      oche_clean_image

    // Relocate: the image is linked at 0, so an address is the base plus the addend.
    adrp    x9, __rela_start
    add     x9, x9, :lo12:__rela_start
    adrp    x10, __rela_end
    add     x10, x10, :lo12:__rela_end
1:  cmp     x9, x10
    b.hs    3f
    ldp     x11, x12, [x9]              // r_offset, r_info
    ldr     x13, [x9, #16]              // r_addend
    add     x9, x9, #24
    cmp     w12, #1027                  // R_AARCH64_RELATIVE; the linker makes no other kind
    b.ne    1b
    add     x13, x13, x21
    str     x13, [x21, x11]
    b       1b
3:
    adrp    x9, __bss_start
    add     x9, x9, :lo12:__bss_start
    adrp    x10, __bss_end
    add     x10, x10, :lo12:__bss_end
4:  cmp     x9, x10
    b.hs    5f
    stp     xzr, xzr, [x9], #16
    b       4b
5:
    adrp    x9, __stacks_start
    add     x9, x9, #{stack_bytes}
    mov     sp, x9
    mov     x29, xzr
    mov     x30, xzr
    bl      oche_early_map              // TCR_EL2 in x0
    mov     x22, x0
    bl      oche_map_root               // TTBR0_EL2 in x0
    mov     x23, x0
    bl      oche_clean_image            // the last store with the MMU off is behind us
    // ID_AA64MMFR1_EL1.VH: without it the layouts are others, and all that is left is to say so, which
    // `launch::prepare` does, with the MMU off.
    mrs     x9, id_aa64mmfr1_el1
    tst     x9, #(0xf << 8)
    b.eq    6f
    mov     x0, x23
    mov     x1, x22
    mov     x2, #{mair}
    mmu_on
6:  mov     x0, x20
    bl      oche_primary
    b       oche_park

    // Cleans and invalidates the whole image to the point of coherency. x21 = base. Clobbers x9 to x12.
    .type oche_clean_image, %function
oche_clean_image:
    mrs     x9, ctr_el0
    ubfx    x9, x9, #16, #4             // DminLine: log2 of words
    mov     x10, #4
    lsl     x10, x10, x9
    mov     x11, x21
    adrp    x12, __image_end
2:  dc      civac, x11
    add     x11, x11, x10
    cmp     x11, x12
    b.lo    2b
    dsb     sy
    ret

    // Not entered at EL2. A platform may have something better to do than nothing, without a stack.
    .weak oche_not_el2
oche_not_el2:
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
"#,
    flags = const header::OWN_FLAGS,
    stack_bytes = const cpu::STACK_BYTES,
    mair = const stage1::MAIR,
);

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
    static __stacks_start: u8;
    static __stacks_end: u8;
    fn oche_secondary_entry() -> !;
}

/// Oche's own image in memory, stacks included.
pub fn image() -> PhysRange {
    PhysRange { start: (&raw const __image_start) as u64, end: (&raw const __image_end) as u64 }
}

/// All stack slots.
pub fn stacks() -> PhysRange {
    PhysRange { start: (&raw const __stacks_start) as u64, end: (&raw const __stacks_end) as u64 }
}

/// Where other CPUs begin.
pub fn secondary_entry() -> u64 {
    oche_secondary_entry as *const () as u64
}

/// Maps Oche's image, with the MMU still off. Returns `TCR_EL2`. Runs once, on the boot CPU, and uses no atomics: exclusives
/// need Normal memory.
#[unsafe(no_mangle)]
extern "C" fn oche_early_map() -> u64 {
    let image = image();
    let text_end = (&raw const __text_end) as u64;
    let rodata_end = (&raw const __rodata_end) as u64;
    let sections = [
        (PhysRange { start: image.start, end: text_end }, Use::Text),
        (PhysRange { start: text_end, end: rodata_end }, Use::Constants),
        (PhysRange { start: rodata_end, end: stacks().start }, Use::Memory),
    ];
    for (range, purpose) in sections {
        // SAFETY: the boot CPU, alone; the linker script says what each section is.
        let _ = unsafe { stage1::map(range, purpose) };
    }
    for slot in 0..cpu::STACKS as u64 {
        // The lowest page of each slot stays unmapped: an overflow faults instead of reaching a neighbour.
        let start = stacks().start + slot * cpu::STACK_BYTES as u64;
        let range = PhysRange { start: start + cpu::GUARD_BYTES, end: start + cpu::STACK_BYTES as u64 };
        // SAFETY: as above. Whatever cannot be mapped faults at once, before there is a console to tell.
        let _ = unsafe { stage1::map(range, Use::Memory) };
    }
    stage1::tcr()
}

#[unsafe(no_mangle)]
extern "C" fn oche_map_root() -> u64 {
    stage1::root()
}

const _: () = assert!(frame::FRAME_BYTES.is_multiple_of(16));
