//! Other CPUs change a program's code, or the mapping of what it stores to, while its access is on
//! its way through Oche.

use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::attacks::{IS_OVER, with_helpers};
use super::edu::STREAM;
use super::exception::attempt;
use super::unprivileged::{DATA, guard};
use super::user::{self, Context, Ended, MASKS, Program};
use super::window::{self, Rights};
use super::{Pages, Tally, calls, mapping};

/// Rounds of a program's loop.
const ROUNDS: u64 = 600;
/// The word that programs load and store, and one that other CPUs load meanwhile.
const WORD: usize = 0x140 / 8;
const BUSY_WORD: usize = 0x800 / 8;

/// What the patching CPU writes, in turn, as which word of the code.
static PATCH_INDEX: AtomicU32 = AtomicU32::new(0);
static PATCHES: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
/// Another page with copies.
static OTHER: Pages<1> = Pages::new();
const OTHER_IOVAS: [usize; 2] = [0x28, 0x2f];
/// 1: the mapping loses its right to store; 2: it leads to the other page.
static CHANGE: AtomicU64 = AtomicU64::new(0);
static LATE: AtomicU32 = AtomicU32::new(0);
static CHANGES: AtomicU32 = AtomicU32::new(0);

/// Loops around the word that is patched, the first. X9 is the address, X11 the number of rounds,
/// X13 is 1.
#[unsafe(naked)]
extern "C" fn load_loop() {
    naked_asm!("2:", "ldr x12, [x9]", "subs x11, x11, #1", "b.ne 2b", "svc #0")
}

#[unsafe(naked)]
extern "C" fn exclusive_loop() {
    naked_asm!(
        "2:",
        "ldxr x12, [x9]",
        "nop",
        "stxr w15, x10, [x14]",
        "subs x11, x11, #1",
        "b.ne 2b",
        "svc #0"
    )
}

#[unsafe(naked)]
extern "C" fn vector_loop() {
    naked_asm!(
        ".arch_extension fp",
        ".arch_extension simd",
        "2:",
        "str q0, [x9]",
        "subs x11, x11, #1",
        "b.ne 2b",
        "svc #0"
    )
}

#[unsafe(naked)]
extern "C" fn store_loop() {
    naked_asm!("2:", "str x11, [x9]", "subs x11, x11, #1", "b.ne 2b", "svc #0")
}

#[unsafe(naked)]
extern "C" fn add_loop() {
    naked_asm!(
        "2:",
        "ldxr x12, [x9]",
        "add x12, x12, #1",
        "stxr w15, x12, [x9]",
        "subs x11, x11, #1",
        "b.ne 2b",
        "svc #0"
    )
}

macro_rules! instructions {
    ($($line:literal),+ $(,)?) => {
        &[$(($line, {
            #[unsafe(naked)]
            extern "C" fn program() {
                naked_asm!($line, "svc #0")
            }
            program
        })),+]
    };
}

/// An instruction and its text.
type Named = (&'static str, Program);

/// What a stepped instruction of EL0 becomes.
const OF_USER: &[Named] = instructions![
    "svc #1",
    "brk #0",
    "udf #0",
    "hvc #0",
    "smc #0",
    "wfi",
    "wfe",
    "mrs x12, daif",
    "msr daifset, #2",
    "eret",
    "clrex",
    "nop",
    "ldxr x12, [x9]",
    "ldr x12, [x15]",
    "isb",
];
/// And one of EL1.
const OF_KERNEL: &[Named] = instructions![
    "msr mdscr_el1, xzr",
    "msr oslar_el1, x13",
    "msr osdlr_el1, x13",
    "mrs x12, mdscr_el1",
    "mrs x12, oslsr_el1",
    "msr dbgbcr0_el1, xzr",
    "mrs x12, mdrar_el1",
    "svc #1",
    "brk #0",
    "udf #0",
    "hvc #0",
    "mrs x12, elr_el1",
    "nop",
];

pub(super) fn run(tally: &mut Tally) {
    mapping::begin(STREAM);
    for (name, rights) in [("read", mapping::Rights::Read), ("written", mapping::Rights::ReadWrite)]
    {
        guard(Some(rights));
        for (text, program, index, become_) in [
            ("a load that becomes a store", load_loop as Program, 0, "str x10, [x9]"),
            ("a load that becomes a pair's store", load_loop, 0, "stp x10, x10, [x9]"),
            ("a load that becomes a store-exclusive", load_loop, 0, "stxr w15, x10, [x9]"),
            (
                "a store-exclusive elsewhere that comes back",
                exclusive_loop,
                2,
                "stxr w15, x10, [x9]",
            ),
        ] {
            tally.case(
                format_args!("race, copies {name}: {text}"),
                becomes_store(program, index, become_),
            );
        }
        for instruction in OF_USER {
            tally.case(
                format_args!("race, copies {name}: EL0's step of what becomes {}", instruction.0),
                becomes(*instruction),
            );
        }
        for (text, program) in [("stores", store_loop as Program), ("exclusives", add_loop)] {
            tally.case(
                format_args!("race, copies {name}: {text} to a page that becomes read-only"),
                remapped(program, 1),
            );
            for iova in OTHER_IOVAS {
                mapping::set(STREAM, iova, Some((OTHER.address(), rights)));
            }
            tally.case(
                format_args!("race, copies {name}: {text} to a page that another replaces"),
                remapped(program, 2),
            );
            for iova in OTHER_IOVAS {
                mapping::set(STREAM, iova, None);
            }
        }
        for instruction in OF_KERNEL {
            tally.case(
                format_args!("race, copies {name}: EL1's step of what becomes {}", instruction.0),
                becomes_in_kernel(*instruction),
            );
        }
        guard(None);
    }
    mapping::end(STREAM);
}

fn first_word(program: Program) -> u32 {
    user::words(program).next().unwrap_or(0)
}

fn start() -> Context {
    let mut context = Context::new();
    let at = window::address(window::GUARDED) + 8 * WORD as u64;
    context.general[9..15].copy_from_slice(&[at, 0xbad, ROUNDS, 0, 1, at + 64]);
    context
}

/// Installs a program, whose word `index` becomes that of `other` and itself again while it runs.
fn patched(program: Program, index: usize, other: u32) {
    user::install(program);
    PATCH_INDEX.store(index as u32, Ordering::SeqCst);
    PATCHES[0].store(user::code(index).load(Ordering::SeqCst), Ordering::SeqCst);
    PATCHES[1].store(other, Ordering::SeqCst);
}

/// Another CPU's part: the first patches, the others keep the trapped page busy.
pub(super) fn patch(number: u64) {
    let mut round = 0_u64;
    while !IS_OVER.load(Ordering::SeqCst) {
        if number != 1 {
            busy();
            continue;
        }
        round += 1;
        let word = PATCHES[(round & 1) as usize].load(Ordering::SeqCst);
        user::code(PATCH_INDEX.load(Ordering::SeqCst) as usize).store(word, Ordering::SeqCst);
        // SAFETY: what is dropped is fetched again.
        unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack)) };
    }
}

/// Makes other CPUs wait for the engine.
fn busy() {
    DATA.word(BUSY_WORD);
    (0..5000).for_each(|_| core::hint::spin_loop());
}

/// On a page that EL0 may only read.
fn becomes_store(program: Program, index: usize, other: &str) -> Result<(), &'static str> {
    const STORES: &[Named] =
        instructions!["str x10, [x9]", "stp x10, x10, [x9]", "stxr w15, x10, [x9]"];
    let other = STORES.iter().find(|one| one.0 == other).ok_or("no such instruction")?;
    (WORD..WORD + 16).for_each(|word| DATA.set_word(word, 0x600d));
    window::set(window::GUARDED, DATA.address(), Rights::UserReadOnly);
    patched(program, index, first_word(other.1));
    let mut context = start();
    with_helpers(calls::PATCH, || {
        loop {
            match context.run() {
                Ended::Permission { is_write: true } => context.pc += 4,
                Ended::Call(0) => return Ok(()),
                _ => return Err("another exception"),
            }
        }
    })?;
    let is_kept = (WORD..WORD + 16).all(|word| DATA.word(word) == 0x600d);
    is_kept.then_some(()).ok_or("a store without a right")
}

/// Whatever EL0 executes, it comes back with interrupts as open as it left.
fn becomes(instruction: Named) -> Result<(), &'static str> {
    window::set(window::GUARDED, DATA.address(), Rights::User);
    patched(vector_loop, 0, first_word(instruction.1));
    let mut context = start();
    with_helpers(calls::PATCH, || {
        loop {
            let ended = context.run();
            if context.pstate & MASKS != 0 {
                return Err("EL0 has interrupts masked");
            }
            match ended {
                Ended::Call(0) => return Ok(()),
                Ended::Call(1) => {}
                // BRK, undefined, trapped WFI and WFE, trapped registers, and the load of nothing.
                Ended::Other(0x3c | 0 | 1 | 0x18 | 0x24) => context.pc += 4,
                _ => return Err("an exception that nothing explains"),
            }
        }
    })
}

/// At EL1, with interrupts open: they stay so, and what Oche keeps of debugging stays the guest's.
fn becomes_in_kernel(instruction: Named) -> Result<(), &'static str> {
    patched(vector_loop, 0, first_word(instruction.1));
    // The last word, an SVC for EL0, is a return here.
    let last = user::words(vector_loop).count() - 1;
    user::code(last).store(0xd65f_03c0, Ordering::SeqCst);
    user::synchronize(user::code_address());
    let at = DATA.address() + 8 * WORD as u64;
    let mut masks = 0_u64;
    with_helpers(calls::PATCH, || {
        attempt(|| {
            // SAFETY: the program changes x11 to x13 and debug registers, which are put back;
            // nothing raises interrupts.
            unsafe {
                asm!("msr daifclr, #3", "blr {code}", "mrs x0, daif", "msr daifset, #3",
                    "msr osdlr_el1, xzr", "msr oslar_el1, xzr", "msr mdscr_el1, xzr", "isb",
                    code = in(reg) user::code_address(), lateout("x0") masks, in("x9") at, in("x11") ROUNDS, in("x13") 1u64, clobber_abi("C"), options(nostack))
            };
        });
        Ok(())
    })?;
    (masks & 0xc0 == 0).then_some(()).ok_or("interrupts are masked")
}

/// EL0 stores all the time, while another CPU takes the page away, again and again. After it has
/// done so the page must not change.
fn remapped(program: Program, change: u64) -> Result<(), &'static str> {
    window::set(window::GUARDED, DATA.address(), Rights::User);
    user::install(program);
    CHANGE.store(change, Ordering::SeqCst);
    LATE.store(0, Ordering::SeqCst);
    CHANGES.store(0, Ordering::SeqCst);
    let mut context = start();
    with_helpers(calls::REMAP, || {
        // At least so many changes, and so many stores.
        while CHANGES.load(Ordering::SeqCst) < 150 {
            context.general[11] = 100;
            context.pc = window::address(window::CODE);
            loop {
                match context.run() {
                    Ended::Permission { is_write: true } | Ended::Translation => {}
                    Ended::Call(0) => break,
                    _ => return Err("another exception"),
                }
            }
        }
        Ok(())
    })?;
    (LATE.load(Ordering::SeqCst) == 0).then_some(()).ok_or("a store came after its page was gone")
}

/// Another CPU's part: the first changes the mapping, the others keep the page busy.
pub(super) fn remap(number: u64) {
    while !IS_OVER.load(Ordering::SeqCst) {
        if number != 1 {
            busy();
            continue;
        }
        (0..500).for_each(|_| core::hint::spin_loop());
        match CHANGE.load(Ordering::SeqCst) {
            1 => window::set(window::GUARDED, DATA.address(), Rights::UserReadOnly),
            _ => window::set(window::GUARDED, OTHER.address(), Rights::User),
        }
        // A store traps, and so waits for whatever access Oche is at: see docs/contract.md, "Limits
        // of the hardware".
        DATA.set_word(BUSY_WORD, 0);
        let before = DATA.word(WORD);
        for _ in 0..20 {
            let is_late = DATA.word(WORD) != before;
            LATE.fetch_add(u32::from(is_late), Ordering::SeqCst);
        }
        window::set(window::GUARDED, DATA.address(), Rights::User);
        CHANGES.fetch_add(1, Ordering::SeqCst);
    }
    if number == 1 {
        window::set(window::GUARDED, DATA.address(), Rights::User);
    }
}
