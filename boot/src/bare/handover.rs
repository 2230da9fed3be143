//! The native start of U-Boot: this CPU leaves Oche for it, in the state in which firmware entered
//! Oche.
//!
//! Nothing of Oche remains: U-Boot is copied over its image. Only the boot CPU may run Oche
//! then; the others still wait where firmware left them.
//!
//! Caches. m1n1 enters an image with its caches off, after it has cleaned and invalidated them by
//! set and way (m1n1 `src/memory.c`, `mmu_shutdown`); and it makes operations by address do nothing
//! on some cores. So both are done here, with the caches off already: by set and way as m1n1 does,
//! and by address, as the architecture requires, for all memory that Oche has written. A dirty line
//! of Oche's that were left could be written back over what the kernel stores with its caches off.

use core::arch::{asm, global_asm};
use core::mem::offset_of;

use oche_el2::cache;
use oche_el2::lock::SpinLock;
use oche_el2::mmio;
use oche_types::range::{PAGE, PhysRange, RangeList, align_down};

use crate::banner;
use crate::bare::entry::FdtAddress;
use crate::bare::entry_state::{self, FirstRegisters};
use crate::bare::memory::bytes;
use crate::bare::packed::{self, PackedError, PackedFiles};
use crate::native::{NativeError, NativePlan};

/// Memory outside the packed image that Oche has written.
static WRITTEN: SpinLock<RangeList> = SpinLock::new(RangeList::new());
/// Most ranges of it.
const MAX_WRITTEN: usize = 8;
/// Attempts to take the lock of [`WRITTEN`]: a CPU that panicked may keep it.
const ATTEMPTS: usize = 1 << 20;

/// A packed U-Boot that can start natively.
#[derive(Clone, Copy, Debug)]
pub struct NativeStart {
    plan: NativePlan,
    /// The whole packed image.
    image: PhysRange,
}

impl NativeStart {
    /// Finds the packed U-Boot and maps the packed image. Returns `None` if another kernel is
    /// packed.
    ///
    /// # Errors
    ///
    /// The reason, in words, why it cannot start natively.
    pub fn find() -> Result<Option<Self>, &'static str> {
        let image = packed::whole_image();
        let files = PackedFiles::find(packed::room()).map_err(PackedError::reason)?;
        let (file, kernel) = files.kernel().map_err(PackedError::reason)?;
        if !banner::is_u_boot(bytes(file)) {
            return Ok(None);
        }
        let plan = NativePlan::new(image, file, kernel).map_err(NativeError::reason)?;
        Ok(Some(Self { plan, image }))
    }

    /// Starts it with `fdt`, which firmware passed.
    ///
    /// # Safety
    ///
    /// This is the boot CPU, and no other CPU runs Oche.
    pub unsafe fn start(&self, fdt: FdtAddress) -> ! {
        // SAFETY: the caller's promise; `find` has mapped the image.
        unsafe { leave(&self.plan, self.image, fdt.0) }
    }
}

/// The page of the packed image that a native start needs.
pub(super) fn trampoline() -> PhysRange {
    let end = align_down(packed::whole_image().end, PAGE);
    PhysRange { start: end - PAGE, end }
}

/// Notes that Oche may write `memory`, which is outside the packed image, from now on.
///
/// # Panics
///
/// There are more than [`MAX_WRITTEN`] ranges.
pub(super) fn will_write(memory: PhysRange) {
    let mut written = WRITTEN.lock();
    let has_room = written.as_slice().len() < MAX_WRITTEN;
    assert!(has_room && written.push(memory).is_ok(), "invariant: few ranges are written");
}

/// What the trampoline reads with the MMU off. The assembly uses the offsets.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Orders {
    first: FirstRegisters,
    fdt: u64,
    /// Where the kernel's memory begins and ends, and its file.
    kernel: PhysRange,
    file: PhysRange,
    /// Memory to clean; the rest is empty.
    written: [PhysRange; MAX_WRITTEN + 1],
}

const FDT: usize = offset_of!(Orders, fdt);
const KERNEL: usize = offset_of!(Orders, kernel);
const FILE: usize = offset_of!(Orders, file);
const WRITTEN_RANGES: usize = offset_of!(Orders, written);
const _: () = assert!(offset_of!(Orders, first) == 0 && FDT == 80 && KERNEL == 88);
const _: () = assert!(size_of::<PhysRange>() == 16 && offset_of!(PhysRange, end) == 8);

unsafe extern "C" {
    static oche_trampoline_begin: u8;
    static oche_trampoline_end: u8;
}

/// Starts the kernel of `plan` with `fdt` in x0. `image` is the whole packed image.
///
/// # Safety
///
/// The boot CPU is the only one that runs Oche. EL2 maps `image`, and `plan` was made for it.
unsafe fn leave(plan: &NativePlan, image: PhysRange, fdt: u64) -> ! {
    // An SError that is pending would be U-Boot's, which unmasks it in its first instructions.
    // SAFETY: barriers: what was accessed before has been answered.
    unsafe { asm!("dsb sy", "isb", options(nostack, preserves_flags)) };
    mmio::take_pending();
    let mut written = [PhysRange { start: 0, end: 0 }; MAX_WRITTEN + 1];
    let noted = WRITTEN.lock_within(ATTEMPTS).map(|noted| *noted).unwrap_or_default();
    for (slot, range) in written.iter_mut().zip(core::iter::once(&image).chain(noted.as_slice())) {
        *slot = *range;
    }
    let orders =
        Orders { first: entry_state::first(), fdt, kernel: plan.kernel, file: plan.file, written };
    let begin = &raw const oche_trampoline_begin;
    let code_bytes = (&raw const oche_trampoline_end) as usize - begin as usize;
    let orders_at = plan.trampoline.start + (code_bytes as u64).next_multiple_of(16);
    assert!(
        orders_at + size_of::<Orders>() as u64 <= plan.trampoline.start + PAGE,
        "invariant: the trampoline fits its page"
    );
    // SAFETY: the caller's promise: the page is mapped memory of the image that holds nothing.
    unsafe {
        core::ptr::copy_nonoverlapping(begin, plan.trampoline.start as *mut u8, code_bytes);
    }
    // SAFETY: as above, behind the code, and aligned.
    unsafe { (orders_at as *mut Orders).write_volatile(orders) };
    cache::clean_and_invalidate(plan.trampoline);
    entry_state::restore();
    // SAFETY: the assembly turns the MMU off and never returns; it reads `orders` and the code
    // through no cache, both of which were cleaned.
    unsafe {
        asm!(
            "b oche_leave",
            in("x0") plan.trampoline.start,
            in("x1") orders_at,
            options(noreturn)
        )
    }
}

global_asm!(
    r#"
    // SCTLR_EL2 with MMU and caches off, as at the entry.
    .equ HANDOVER_SCTLR_HIGH, 0x30c5
    .equ HANDOVER_SCTLR_LOW, 0x0830

    .section .text.handover, "ax"
    // x0 = the trampoline, x1 = its orders. Oche's text is mapped to itself, so this goes on where
    // it is when the MMU is off.
    .global oche_leave
oche_leave:
    msr     daifset, #0xf
    mov     x9, #HANDOVER_SCTLR_LOW
    movk    x9, #HANDOVER_SCTLR_HIGH, lsl #16
    dsb     sy
    msr     sctlr_el2, x9
    isb
    tlbi    alle2
    tlbi    alle1
    ic      iallu
    dsb     nsh
    isb
    // The trampoline was stored with caches on, and is fetched without them. An M1 may ignore
    // maintenance by address, so nothing that was stored may be left in a cache from here on.
    bl      oche_clean_by_set_and_way
    br      x0

    // Cleans and invalidates all data caches up to the point of coherency, by set and way. Source:
    // Arm ARM DDI 0487, `CLIDR_EL1`, `CCSIDR_EL1` (with FEAT_CCIDX and without), `DC CISW`. Keeps
    // x0 and x1.
oche_clean_by_set_and_way:
    dsb     sy
    mrs     x2, clidr_el1
    ubfx    x3, x2, #24, #3             // LoC
    mrs     x4, id_aa64mmfr2_el1
    ubfx    x4, x4, #20, #4             // CCIDX
    mov     x5, xzr                     // level
11: cmp     x5, x3
    b.hs    15f
    add     x6, x5, x5, lsl #1
    lsr     x6, x2, x6
    and     x6, x6, #7                  // the level's type
    cmp     x6, #2
    b.lo    14f                         // no data cache
    lsl     x6, x5, #1
    msr     csselr_el1, x6
    isb
    mrs     x7, ccsidr_el1
    and     x8, x7, #7
    add     x8, x8, #4                  // log2 of a line's bytes
    cbz     x4, 12f
    ubfx    x9, x7, #3, #21             // ways - 1
    ubfx    x10, x7, #32, #24           // sets - 1
    b       13f
12: ubfx    x9, x7, #3, #10
    ubfx    x10, x7, #13, #15
13: clz     w11, w9                     // a way's place; 32 where there is one way
    mov     x12, x9
16: lsl     x13, x12, x11
    orr     x13, x13, x6
    mov     x14, x10
17: lsl     x15, x14, x8
    orr     x15, x15, x13
    dc      cisw, x15
    subs    x14, x14, #1
    b.hs    17b
    subs    x12, x12, #1
    b.hs    16b
14: add     x5, x5, #1
    b       11b
15: msr     csselr_el1, xzr
    dsb     sy
    isb
    ret

    // From here on: copied, and executed with the MMU off. No stack; x19 = the orders.
    .balign 64
    .global oche_trampoline_begin
oche_trampoline_begin:
    mov     x19, x1
    // The memory that Oche has written, and the copy's source and destination in it.
    add     x13, x19, #{written}
    mov     x14, #{ranges}
1:  ldp     x9, x10, [x13], #16
    bl      20f
    subs    x14, x14, #1
    b.ne    1b

    // The destination begins below the source: the copy ascends.
    ldr     x9, [x19, #{kernel}]
    ldp     x10, x11, [x19, #{file}]
2:  ldp     x12, x13, [x10], #16
    stp     x12, x13, [x9], #16
    cmp     x10, x11
    b.lo    2b
    // No line of the destination may be left that hides what was stored past it.
    ldp     x9, x10, [x19, #{kernel}]
    bl      20f
    ic      iallu
    dsb     nsh
    isb

    // The registers as at the entry, HCR_EL2 first: it selects the layout of others.
    ldp     x9, x10, [x19]              // HCR_EL2, SCTLR_EL2
    ldp     x11, x12, [x19, #16]        // CPTR_EL2, DAIF and SPSel
    ldp     x13, x14, [x19, #32]        // MAIR_EL2, TCR_EL2
    ldp     x15, x16, [x19, #48]        // TTBR0_EL2, SP_EL2
    ldp     x17, x18, [x19, #64]        // VBAR_EL2, TPIDR_EL2
    msr     hcr_el2, x9
    isb
    msr     cptr_el2, x11
    msr     mair_el2, x13
    msr     tcr_el2, x14
    msr     ttbr0_el2, x15
    msr     vbar_el2, x17
    msr     tpidr_el2, x18
    msr     sctlr_el2, x10
    isb
    mov     sp, x16
    and     x13, x12, #1
    msr     spsel, x13
    bic     x12, x12, #1
    ldr     x0, [x19, #{fdt}]
    ldr     x9, [x19, #{kernel}]
    mov     x1, xzr
    mov     x2, xzr
    mov     x3, xzr
    mov     x4, xzr
    msr     daif, x12
    br      x9

    // Cleans and invalidates from x9 to x10. Clobbers x11 and x12.
20: mrs     x11, ctr_el0
    ubfx    x11, x11, #16, #4           // DminLine: log2 of words
    mov     x12, #4
    lsl     x12, x12, x11
    sub     x11, x12, #1
    bic     x9, x9, x11
21: cmp     x9, x10
    b.hs    22f
    dc      civac, x9
    add     x9, x9, x12
    b       21b
22: dsb     sy
    ret
    .global oche_trampoline_end
oche_trampoline_end:
"#,
    written = const WRITTEN_RANGES,
    ranges = const MAX_WRITTEN + 1,
    kernel = const KERNEL,
    file = const FILE,
    fdt = const FDT,
);
