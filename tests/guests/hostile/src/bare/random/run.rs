//! Executes a few words with all registers given, and returns at the exception that ends them.

use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

use oche_guest_common::{Pages, Random};

use super::tables::{ARENA, FIRST, LAST, USER_CODE};
use crate::bare::code::synchronize_word;

/// Words of a program; behind them comes the end.
pub(super) const WORDS: usize = 3;
/// `BRK #0x77`: what ends a program.
pub(super) const END: u32 = 0xd420_0ee0;
/// The `ESR_EL1` of it.
const END_SYNDROME: u64 = 0x3c << 26 | 1 << 25 | 0x77;
/// 64-bit words of a slot of code: the program, the end, and the end again.
pub(super) const SLOT_WORDS: usize = 4;
/// `SPSR_EL1`: EL0, with nothing masked; EL1 with SP_EL0, all masked.
const USER_STATE: u64 = 0;
const KERNEL_STATE: u64 = 0x3c4;
const DAIF: u64 = 0x3c0;

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// EL0.
    User,
    /// EL1 with SP_EL0, so that a program may overwrite the stack pointer.
    Kernel,
}

impl Level {
    pub(super) fn choose(random: &mut Random) -> Self {
        if random.next() & 1 == 0 { Self::User } else { Self::Kernel }
    }
}

/// What a program starts from and ends with.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub(super) struct Saved {
    general: [u64; 31],
    stack: u64,
    pc: u64,
    state: u64,
    syndrome: u64,
    far: u64,
    /// The caller's X19 to X30, and its stack pointer.
    callers: [u64; 12],
    callers_stack: u64,
    padding: u64,
    vectors: [[u64; 2]; 32],
}

impl Saved {
    /// Registers that mostly point into the arena; every fourth is a small number in its lower
    /// half, and an address of nothing as a whole.
    pub(super) fn new(random: &mut Random, level: Level) -> Self {
        let mut pointer = || {
            let choice = random.next();
            let page = FIRST + choice % (LAST - FIRST);
            let offset = match choice >> 8 & 3 {
                0 => choice >> 16 & 0xfff,
                1 => 0xfd0 + (choice >> 16 & 0x3f),
                _ => choice >> 16 & 0xff0,
            };
            ARENA + page * 4096 + offset
        };
        let mut general: [u64; 31] = core::array::from_fn(|_| pointer());
        let stack = pointer();
        for register in general.iter_mut().skip(3).step_by(4) {
            *register = 1 << 62 | random.next() & 0xff8;
        }
        let vectors = core::array::from_fn(|_| [random.next(), random.next()]);
        let state = if level == Level::User { USER_STATE } else { KERNEL_STATE };
        Self {
            general,
            stack,
            pc: 0,
            state,
            syndrome: 0,
            far: 0,
            callers: [0; 12],
            callers_stack: 0,
            padding: 0,
            vectors,
        }
    }

    /// It reached its end.
    pub(super) fn is_complete(&self) -> bool {
        self.syndrome == END_SYNDROME
    }

    /// The pair of exclusives that it ran stored nothing: see `words::exclusive`.
    pub(super) fn has_failed_to_store(&self) -> bool {
        self.general[9] == 1
    }

    /// How two ends of the same program differ.
    pub(super) fn difference(&self, other: &Self) -> Option<&'static str> {
        let is_abort = matches!(self.syndrome >> 26, 0x20 | 0x21 | 0x24 | 0x25);
        [
            ("the exception", self.syndrome == other.syndrome),
            ("where it ended", self.pc == other.pc),
            ("its PSTATE", self.state == other.state),
            ("the fault's address", !is_abort || self.far == other.far),
            ("a register", self.general == other.general),
            ("the stack pointer", self.stack == other.stack),
            ("a vector", self.vectors == other.vectors),
        ]
        .iter()
        .find_map(|(what, is_same)| (!is_same).then_some(*what))
    }

    /// What is wrong with the end of a program whose words were replaced meanwhile.
    pub(super) fn misplacement(&self, level: Level) -> Option<&'static str> {
        let mode = self.state & 0x1f;
        let is_level = if level == Level::User { mode == 0 } else { matches!(mode, 4 | 5) };
        let offset = self.pc & 0xfff;
        [
            ("it ended at another level", is_level),
            ("it ended outside of its slot", offset < 8 * SLOT_WORDS as u64),
            // EL0 cannot mask anything.
            ("interrupts are masked", level == Level::Kernel || self.state & DAIF == 0),
        ]
        .iter()
        .find_map(|(what, is_right)| (!is_right).then_some(*what))
    }

    /// For a failure message: exception, place, state, address, the first registers.
    pub(super) fn summary(&self) -> ([u64; 5], [u64; 31]) {
        ([self.syndrome, self.pc, self.state, self.far, self.stack], self.general)
    }
}

unsafe extern "C" {
    fn random_enter(area: *mut Saved);
}

/// Executes the slot that begins with the 64-bit word `slot` of `code`.
pub(super) fn run<const COUNT: usize>(
    code: &Pages<COUNT>,
    slot: usize,
    level: Level,
    start: &Saved,
) -> Saved {
    let base = if level == Level::User { USER_CODE } else { code.address() };
    let mut area = Saved { pc: base + 8 * slot as u64, ..*start };
    // SAFETY: every register comes back as it was; the program in the slot reaches nothing of this
    // guest's.
    unsafe { random_enter(&raw mut area) };
    area
}

/// Puts a program into a slot that no other CPU executes.
pub(super) fn set_slot<const COUNT: usize>(code: &Pages<COUNT>, slot: usize, words: &[u32; WORDS]) {
    let [first, second, third] = words.map(u64::from);
    let end = u64::from(END);
    let pairs = [second << 32 | first, end << 32 | third, end << 32 | end, end << 32 | end];
    for (index, pair) in pairs.into_iter().enumerate() {
        code.set_word(slot + index, pair);
    }
    synchronize_word(code.address() + 8 * slot as u64);
}

/// Replaces the first word of a slot that another CPU may be executing.
pub(super) fn set_word<const COUNT: usize>(code: &Pages<COUNT>, slot: usize, word: u32) {
    let address = code.address() + 8 * slot as u64;
    // SAFETY: the lower half of a word of the pages, which are only accessed as atomics.
    unsafe { AtomicU32::from_ptr(address as *mut u32) }.store(word, Ordering::SeqCst);
    synchronize_word(address);
}

/// The first word of a slot.
pub(super) fn word<const COUNT: usize>(code: &Pages<COUNT>, slot: usize) -> u32 {
    code.word(slot) as u32
}

/// Undoes what programs may have left in the debug registers.
pub(super) fn reset_debug_state() {
    // SAFETY: no debugger is there.
    unsafe {
        asm!(
            "msr mdscr_el1, xzr",
            "msr oslar_el1, xzr",
            "msr osdlr_el1, xzr",
            "isb",
            options(nostack)
        )
    };
}

global_asm!(
    r#"
    .arch_extension fp
    .arch_extension simd

    .macro every_vector instruction
    \instruction q0, q1, [x9]
    \instruction q2, q3, [x9, #32]
    \instruction q4, q5, [x9, #64]
    \instruction q6, q7, [x9, #96]
    \instruction q8, q9, [x9, #128]
    \instruction q10, q11, [x9, #160]
    \instruction q12, q13, [x9, #192]
    \instruction q14, q15, [x9, #224]
    \instruction q16, q17, [x9, #256]
    \instruction q18, q19, [x9, #288]
    \instruction q20, q21, [x9, #320]
    \instruction q22, q23, [x9, #352]
    \instruction q24, q25, [x9, #384]
    \instruction q26, q27, [x9, #416]
    \instruction q28, q29, [x9, #448]
    \instruction q30, q31, [x9, #480]
    .endm

    // X2 to X29.
    .macro most_registers instruction
    \instruction x2, x3, [x0, #16]
    \instruction x4, x5, [x0, #32]
    \instruction x6, x7, [x0, #48]
    \instruction x8, x9, [x0, #64]
    \instruction x10, x11, [x0, #80]
    \instruction x12, x13, [x0, #96]
    \instruction x14, x15, [x0, #112]
    \instruction x16, x17, [x0, #128]
    \instruction x18, x19, [x0, #144]
    \instruction x20, x21, [x0, #160]
    \instruction x22, x23, [x0, #176]
    \instruction x24, x25, [x0, #192]
    \instruction x26, x27, [x0, #208]
    \instruction x28, x29, [x0, #224]
    .endm

    .macro callers instruction
    \instruction x19, x20, [x0, #{callers}]
    \instruction x21, x22, [x0, #{callers} + 16]
    \instruction x23, x24, [x0, #{callers} + 32]
    \instruction x25, x26, [x0, #{callers} + 48]
    \instruction x27, x28, [x0, #{callers} + 64]
    \instruction x29, x30, [x0, #{callers} + 80]
    .endm

    .macro ends
    .balign 128
    b       random_leave
    .endm

    .macro never
    .balign 128
    b       .
    .endm

    .section .text.random, "ax"
    .balign 2048
random_vectors:
    ends
    never
    never
    never
    ends
    never
    never
    never
    ends
    never
    never
    never
    never
    never
    never
    never

    .global random_enter
random_enter:
    callers stp
    mov     x9, sp
    str     x9, [x0, #{callers_stack}]
    msr     tpidr_el1, x0
    adrp    x9, random_vectors
    add     x9, x9, :lo12:random_vectors
    msr     vbar_el1, x9
    add     x9, x0, #{vectors}
    every_vector ldp
    ldr     x9, [x0, #{stack}]
    msr     sp_el0, x9
    ldr     x9, [x0, #{pc}]
    msr     elr_el1, x9
    ldr     x9, [x0, #{state}]
    msr     spsr_el1, x9
    isb
    most_registers ldp
    ldr     x30, [x0, #240]
    ldp     x0, x1, [x0]
    eret

random_leave:
    msr     tpidr_el0, x0
    mrs     x0, tpidr_el1
    str     x1, [x0, #8]
    most_registers stp
    str     x30, [x0, #240]
    mrs     x9, tpidr_el0
    str     x9, [x0]
    mrs     x9, sp_el0
    str     x9, [x0, #{stack}]
    mrs     x9, elr_el1
    str     x9, [x0, #{pc}]
    mrs     x9, spsr_el1
    str     x9, [x0, #{state}]
    mrs     x9, esr_el1
    str     x9, [x0, #{syndrome}]
    mrs     x9, far_el1
    str     x9, [x0, #{far}]
    add     x9, x0, #{vectors}
    every_vector stp
    adrp    x9, guest_vectors
    add     x9, x9, :lo12:guest_vectors
    msr     vbar_el1, x9
    isb
    ldr     x9, [x0, #{callers_stack}]
    mov     sp, x9
    callers ldp
    ret
"#,
    callers = const offset_of!(Saved, callers),
    callers_stack = const offset_of!(Saved, callers_stack),
    vectors = const offset_of!(Saved, vectors),
    stack = const offset_of!(Saved, stack),
    pc = const offset_of!(Saved, pc),
    state = const offset_of!(Saved, state),
    syndrome = const offset_of!(Saved, syndrome),
    far = const offset_of!(Saved, far),
);

const _: () =
    assert!(offset_of!(Saved, vectors) == 400 && offset_of!(Saved, callers).is_multiple_of(8));
