//! Programs at EL0: a few instructions each, which end with `svc #0`.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, Ordering};

use oche_guest_common::Pages;

use super::code::synchronize_page;
use super::window::{self, Rights};

/// The last instruction of every program.
const END: u32 = 0xd400_0001;
/// `SPSR_EL1`: D, A, I and F.
pub(super) const MASKS: u64 = 0xf << 6;

static CODE: Pages<1> = Pages::new();

/// A program, of which only the instructions matter.
pub(super) type Program = extern "C" fn();

/// A program's registers, and what ended its last run.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Context {
    /// X0 to X30.
    pub(super) general: [u64; 31],
    /// The next instruction.
    pub(super) pc: u64,
    /// PSTATE.
    pub(super) pstate: u64,
    /// `ESR_EL1`.
    pub(super) syndrome: u64,
    /// `FAR_EL1`.
    pub(super) far: u64,
    /// Of EL1, while the program runs.
    stack: u64,
}

/// What ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// `svc` with this number: 0 at the program's end.
    Call(u16),
    /// A permission fault of stage 1's last level: of a store or not.
    Permission { is_write: bool },
    /// A translation fault of stage 1's last level.
    Translation,
    /// The same for a fetch: a permission fault.
    Fetch,
    /// The exception class.
    Other(u64),
}

impl Context {
    /// A program's start, at [`install`]ed code.
    pub(super) fn new() -> Self {
        let pc = window::address(window::CODE);
        Self { general: [0; 31], pc, pstate: 0, syndrome: 0, far: 0, stack: 0 }
    }

    /// Runs the program on, at EL0, until it takes an exception.
    pub(super) fn run(&mut self) -> Ended {
        // SAFETY: the program's pages are the window's; EL1's state is saved and restored.
        unsafe {
            asm!("bl enter_user", in("x0") &raw mut *self, clobber_abi("C"), options(nostack))
        };
        let status = self.syndrome & 0x3f;
        match (self.syndrome >> 26, status) {
            (0x15, _) => Ended::Call(self.syndrome as u16),
            (0x24, 0xf) => Ended::Permission { is_write: self.syndrome >> 6 & 1 == 1 },
            (0x24, 0x7) => Ended::Translation,
            (0x20, 0xf) => Ended::Fetch,
            (class, _) => Ended::Other(class),
        }
    }
}

/// The words of a program, the last one included.
pub(super) fn words(program: Program) -> impl Iterator<Item = u32> {
    let first = program as *const u32;
    let mut is_over = false;
    (0..).map_while(move |index| {
        // SAFETY: a program's instructions, up to its last one.
        let word = (!is_over).then(|| unsafe { first.wrapping_add(index).read() })?;
        is_over = word == END;
        Some(word)
    })
}

/// Puts a program where EL0 executes.
pub(super) fn install(program: Program) {
    for (index, word) in words(program).enumerate() {
        code(index).store(word, Ordering::SeqCst);
    }
    window::set(window::CODE, CODE.address(), Rights::UserCode);
    synchronize_page(CODE.address());
}

/// Word `index` of the installed program.
pub(super) fn code(index: usize) -> &'static AtomicU32 {
    word_at(CODE.address(), index)
}

/// Where the installed program is for EL1.
pub(super) fn code_address() -> u64 {
    CODE.address()
}

/// Word `index` from `address` on, which is that of a static.
pub(super) fn word_at(address: u64, index: usize) -> &'static AtomicU32 {
    // SAFETY: a page of this guest's own, which is only ever accessed by atomics; the index is
    // inside.
    unsafe { &*(address as *const AtomicU32).wrapping_add(index % 1024) }
}

global_asm!(
    r#"
    .section .text.user, "ax"
    // While EL0 runs, every exception comes from there.
    .balign 2048
user_vectors:
    .rept   8
    .balign 128
    b       .
    .endr
    .rept   8
    .balign 128
    b       leave_user
    .endr

    // x0 = Context
    .global enter_user
enter_user:
    sub     sp, sp, #96
    stp     x19, x20, [sp]
    stp     x21, x22, [sp, #16]
    stp     x23, x24, [sp, #32]
    stp     x25, x26, [sp, #48]
    stp     x27, x28, [sp, #64]
    stp     x29, x30, [sp, #80]
    mov     x9, sp
    str     x9, [x0, #280]
    msr     tpidr_el1, x0
    adrp    x9, user_vectors
    add     x9, x9, :lo12:user_vectors
    msr     vbar_el1, x9
    ldp     x9, x10, [x0, #248]
    msr     elr_el1, x9
    msr     spsr_el1, x10
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldr     x30, [x0, #240]
    ldp     x0, x1, [x0]
    eret

    // A synchronous exception from EL0.
leave_user:
    msr     tpidrro_el0, x0
    mrs     x0, tpidr_el1
    str     x1, [x0, #8]
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    str     x30, [x0, #240]
    mrs     x1, tpidrro_el0
    str     x1, [x0]
    mrs     x1, elr_el1
    mrs     x2, spsr_el1
    stp     x1, x2, [x0, #248]
    mrs     x1, esr_el1
    mrs     x2, far_el1
    stp     x1, x2, [x0, #264]
    adrp    x1, guest_vectors
    add     x1, x1, :lo12:guest_vectors
    msr     vbar_el1, x1
    isb
    ldr     x1, [x0, #280]
    mov     sp, x1
    ldp     x19, x20, [sp]
    ldp     x21, x22, [sp, #16]
    ldp     x23, x24, [sp, #32]
    ldp     x25, x26, [sp, #48]
    ldp     x27, x28, [sp, #64]
    ldp     x29, x30, [sp, #80]
    add     sp, sp, #96
    ret
"#
);
