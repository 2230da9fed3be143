//! The first instructions of the boot CPU, in any state that firmware may leave.
//!
//! Contract: x0 = FDT, EL2, MMU and data cache off, the image at any 2 MiB-aligned address, BSS
//! dirty. Source: Linux `Documentation/arm64/booting.rst`; m1n1 enters the same way with E2H forced
//! to 1.
//!
//! Caches. With the MMU off this code reads and writes memory directly, past the caches, while the
//! caches may hold lines of the image from its loader: dirty ones would overwrite what is
//! written here, clean ones would hide it once the caches are on. So the image is cleaned and
//! invalidated to the point of coherency before the first store (nothing dirty is left), and again
//! before the MMU goes on (nothing that was fetched speculatively in between is left). The
//! instruction cache is dropped then as well.

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use oche_el2::{entry_global_asm, features, frame, image, percpu, vectors};
use oche_types::range::PhysRange;

use crate::bare::entry_state::{self, FIRST};
use crate::bare::stage1::{self, Use};
use crate::header;

/// The host-physical address of the FDT from firmware. It is neither mapped nor checked yet.
#[derive(Clone, Copy, Debug)]
pub struct FdtAddress(pub u64);

/// Makes `fn main(FdtAddress) -> !` the platform's entry, and records the board's name in the
/// image.
#[macro_export]
macro_rules! entry {
    ($main:path, $board:literal) => {
        /// Which board this image is for, and which Oche it is: tools and `oche_el2::identity`
        /// find it.
        #[used]
        #[expect(unsafe_code, reason = "the section that the linker script keeps, and a symbol")]
        #[unsafe(link_section = ".rodata.identity")]
        #[unsafe(no_mangle)]
        static OCHE_IDENTITY: [u8; oche_types::identity::RECORD_BYTES] =
            oche_types::identity::record($board, env!("CARGO_PKG_VERSION"));

        /// The entry assembly jumps here with the MMU on.
        ///
        /// # Safety
        ///
        /// Called once, by the entry assembly on the boot CPU.
        #[expect(unsafe_code, reason = "the symbol that the entry assembly calls")]
        #[unsafe(no_mangle)]
        extern "C" fn oche_primary(fdt: u64, entry_ticks: u64) -> ! {
            $crate::bare::entry::begin(entry_ticks);
            $main($crate::bare::entry::FdtAddress(fdt))
        }
    };
}

/// `CNTPCT_EL0` at the first instruction of EL2.
static ENTRY_TICKS: AtomicU64 = AtomicU64::new(0);

/// Saves the registers that are not saved yet, and sets the boot CPU's number and vectors, before
/// the platform's `main`. `entry_ticks` is `CNTPCT_EL0` at the entry.
pub fn begin(entry_ticks: u64) {
    // The entry assembly has saved what these two change.
    percpu::set_index(0);
    vectors::install();
    if features::has_host_extensions() {
        entry_state::save();
    }
    ENTRY_TICKS.store(entry_ticks, Ordering::Relaxed);
}

/// Nanoseconds since the entry.
pub(super) fn nanoseconds() -> u64 {
    let ticks = CNTPCT_EL0.get().wrapping_sub(ENTRY_TICKS.load(Ordering::Relaxed));
    let hertz = CNTFRQ_EL0.get().max(1);
    (ticks / hertz) * 1_000_000_000 + (ticks % hertz) * 1_000_000_000 / hertz
}

entry_global_asm!(
    r#"
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
    b.ne    oche_not_el2                // a board's own, without a stack, or oche_park (`image.ld`)
    // What `enter_el2` changes, for `entry_state`.
    mrs     x25, hcr_el2
    mrs     x26, sctlr_el2
    mrs     x27, cptr_el2
    mrs     x28, daif
    mrs     x9, spsel
    orr     x28, x28, x9
    enter_el2
    mov     x19, sp                     // SP_EL2, as SPSel is 1 now
    mrs     x24, cntpct_el0
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
    adrp    x9, {first}
    add     x9, x9, :lo12:{first}
    stp     x25, x26, [x9]
    stp     x27, x28, [x9, #16]
    mrs     x10, mair_el2
    mrs     x11, tcr_el2
    stp     x10, x11, [x9, #32]
    mrs     x10, ttbr0_el2
    stp     x10, x19, [x9, #48]
    mrs     x10, vbar_el2
    mrs     x11, tpidr_el2
    stp     x10, x11, [x9, #64]
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
    // ID_AA64MMFR1_EL1.VH: without it the layouts are others, and all that is left is to report
    // that, which `prepare` does, with the MMU off.
    mrs     x9, id_aa64mmfr1_el1
    tst     x9, #(0xf << 8)
    b.eq    6f
    mov     x0, x23
    mov     x1, x22
    mov     x2, #{mair}
    mmu_on
6:  mov     x0, x20
    mov     x1, x24
    bl      oche_primary
    b       oche_park

    // Cleans and invalidates the whole image to the point of coherency. x21 = base. Clobbers x9 to
    // x12.
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
"#,
    flags = const header::OWN_FLAGS,
    first = sym FIRST,
    stack_bytes = const percpu::STACK_BYTES,
    mair = const stage1::MAIR,
);

unsafe extern "C" {
    static __text_end: u8;
    static __rodata_end: u8;
}

/// Maps Oche's image, with the MMU still off. Returns `TCR_EL2`. Runs once, on the boot CPU, and
/// uses no atomics: exclusives need Normal memory.
#[unsafe(no_mangle)]
extern "C" fn oche_early_map() -> u64 {
    let image = image::range();
    let text_end = (&raw const __text_end) as u64;
    let rodata_end = (&raw const __rodata_end) as u64;
    let sections = [
        (PhysRange { start: image.start, end: text_end }, Use::Text),
        (PhysRange { start: text_end, end: rodata_end }, Use::Constants),
        (PhysRange { start: rodata_end, end: image::stacks().start }, Use::Memory),
    ];
    for (range, purpose) in sections {
        // SAFETY: the boot CPU, alone; the linker script defines what each section is.
        let _ = unsafe { stage1::map(range, purpose) };
    }
    for slot in 0..percpu::STACKS as u64 {
        // The lowest page of each slot stays unmapped, so that an overflow faults and does not
        // reach the next slot.
        let start = image::stacks().start + slot * percpu::STACK_BYTES as u64;
        let range = PhysRange {
            start: start + percpu::GUARD_BYTES,
            end: start + percpu::STACK_BYTES as u64,
        };
        // SAFETY: as above. What cannot be mapped faults at once, before there is a console to
        // report it.
        let _ = unsafe { stage1::map(range, Use::Memory) };
    }
    stage1::tcr()
}

#[unsafe(no_mangle)]
extern "C" fn oche_map_root() -> u64 {
    stage1::root()
}

const _: () = assert!(frame::FRAME_BYTES.is_multiple_of(16));
