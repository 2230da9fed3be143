//! Other CPUs change a program's code, or the mapping of the page that it stores to, while Oche
//! handles its access.

use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use oche_guest_common::exception::attempt;
use oche_guest_common::{CaseReport, Check, Pages, check};

use super::copied_page::{self, DATA};
use super::cpus::{is_over, with_helpers};
use super::edu::STREAM;
use super::user::{self, Context, Ended, MASKS, Program};
use super::window::{self, Rights};
use super::{code, mapping};

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

/// What replaces an instruction of EL0 that is being stepped.
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
/// What replaces one of EL1.
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

pub(super) fn run(report: &mut CaseReport) {
    mapping::begin(STREAM);
    for (name, rights) in [("read", mapping::Rights::Read), ("written", mapping::Rights::ReadWrite)]
    {
        copied_page::map(Some(rights));
        replaced_by_stores(report, name);
        for instruction in OF_USER {
            report.case(
                format_args!("race, copies {name}: EL0's step of what becomes {}", instruction.0),
                becomes(*instruction),
            );
        }
        remapped_pages(report, name, rights);
        for instruction in OF_KERNEL {
            report.case(
                format_args!("race, copies {name}: EL1's step of what becomes {}", instruction.0),
                becomes_in_kernel(*instruction),
            );
        }
        copied_page::map(None);
    }
    mapping::end(STREAM);
}

fn replaced_by_stores(report: &mut CaseReport, name: &str) {
    for (text, program, index, other) in [
        ("a load that becomes a store", load_loop as Program, 0, "str x10, [x9]"),
        ("a load that becomes a pair's store", load_loop, 0, "stp x10, x10, [x9]"),
        ("a load that becomes a store-exclusive", load_loop, 0, "stxr w15, x10, [x9]"),
        ("a store-exclusive elsewhere that comes back", exclusive_loop, 2, "stxr w15, x10, [x9]"),
    ] {
        report.case(
            format_args!("race, copies {name}: {text}"),
            becomes_store(program, index, other),
        );
    }
}

fn remapped_pages(report: &mut CaseReport, name: &str, rights: mapping::Rights) {
    let map_other = |rights: Option<mapping::Rights>| {
        for iova in OTHER_IOVAS {
            mapping::set(STREAM, iova, rights.map(|rights| (OTHER.address(), rights)));
        }
    };
    for (text, program) in [("stores", store_loop as Program), ("exclusives", add_loop)] {
        report.case(
            format_args!("race, copies {name}: {text} to a page that becomes read-only"),
            remapped(program, 1),
        );
        map_other(Some(rights));
        report.case(
            format_args!("race, copies {name}: {text} to a page that another replaces"),
            remapped(program, 2),
        );
        map_other(None);
    }
}

fn first_word(program: Program) -> u32 {
    user::words(program).next().unwrap_or(0)
}

fn start() -> Context {
    let mut context = Context::new();
    let at = window::address(window::TRAPPED) + 8 * WORD as u64;
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
fn patch(number: u64) {
    let mut round = 0_u64;
    while !is_over() {
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

/// Makes other CPUs wait for the engine's lock.
fn busy() {
    DATA.word(BUSY_WORD);
    (0..5000).for_each(|_| core::hint::spin_loop());
}

/// On a page that EL0 may only read.
fn becomes_store(program: Program, index: usize, other: &str) -> Check {
    const STORES: &[Named] =
        instructions!["str x10, [x9]", "stp x10, x10, [x9]", "stxr w15, x10, [x9]"];
    let other = STORES.iter().find(|one| one.0 == other).ok_or("no such instruction")?;
    (WORD..WORD + 16).for_each(|word| DATA.set_word(word, 0x600d));
    window::set(window::TRAPPED, DATA.address(), Rights::UserReadOnly);
    patched(program, index, first_word(other.1));
    let mut context = start();
    with_helpers(patch, || {
        loop {
            match context.run() {
                Ended::Permission { is_write: true } => context.pc += 4,
                Ended::Call(0) => return Ok(()),
                _ => return Err("another exception"),
            }
        }
    })?;
    let is_kept = (WORD..WORD + 16).all(|word| DATA.word(word) == 0x600d);
    check(is_kept, "a store that is not permitted")
}

/// Whatever EL0 executes, its interrupts stay unmasked.
fn becomes(instruction: Named) -> Check {
    window::set(window::TRAPPED, DATA.address(), Rights::User);
    patched(vector_loop, 0, first_word(instruction.1));
    let mut context = start();
    with_helpers(patch, || {
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

/// At EL1, with interrupts unmasked: they stay so.
fn becomes_in_kernel(instruction: Named) -> Check {
    patched(vector_loop, 0, first_word(instruction.1));
    // The last word, an SVC for EL0, is a return here.
    let last = user::words(vector_loop).count() - 1;
    user::code(last).store(0xd65f_03c0, Ordering::SeqCst);
    code::synchronize_page(user::code_address());
    let at = DATA.address() + 8 * WORD as u64;
    let mut masks = 0_u64;
    with_helpers(patch, || {
        attempt(|| {
            // SAFETY: the program changes x11 to x13 and debug registers, which are put back;
            // nothing raises interrupts.
            unsafe {
                asm!("msr daifclr, #3", "blr {code}", "mrs x0, daif", "msr daifset, #3",
                    "msr osdlr_el1, xzr", "msr oslar_el1, xzr", "msr mdscr_el1, xzr", "isb",
                    code = in(reg) user::code_address(), lateout("x0") masks, in("x9") at,
                    in("x11") ROUNDS, in("x13") 1u64, clobber_abi("C"), options(nostack))
            };
        });
        Ok(())
    })?;
    check(masks & 0xc0 == 0, "interrupts are masked")
}

/// EL0 stores all the time, while another CPU unmaps the page again and again. Once it is unmapped,
/// the page must not change.
fn remapped(program: Program, change: u64) -> Check {
    window::set(window::TRAPPED, DATA.address(), Rights::User);
    user::install(program);
    CHANGE.store(change, Ordering::SeqCst);
    LATE.store(0, Ordering::SeqCst);
    CHANGES.store(0, Ordering::SeqCst);
    let mut context = start();
    with_helpers(remap, || {
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
    check(LATE.load(Ordering::SeqCst) == 0, "a store came after its page was gone")
}

/// Another CPU's part: the first changes the mapping, the others keep the page busy.
fn remap(number: u64) {
    while !is_over() {
        if number != 1 {
            busy();
            continue;
        }
        (0..500).for_each(|_| core::hint::spin_loop());
        match CHANGE.load(Ordering::SeqCst) {
            1 => window::set(window::TRAPPED, DATA.address(), Rights::UserReadOnly),
            _ => window::set(window::TRAPPED, OTHER.address(), Rights::User),
        }
        // A store traps, and so waits for the access that Oche is handling: see docs/contract.md,
        // "Limits of the hardware".
        DATA.set_word(BUSY_WORD, 0);
        let before = DATA.word(WORD);
        for _ in 0..20 {
            let is_late = DATA.word(WORD) != before;
            LATE.fetch_add(u32::from(is_late), Ordering::SeqCst);
        }
        window::set(window::TRAPPED, DATA.address(), Rights::User);
        CHANGES.fetch_add(1, Ordering::SeqCst);
    }
    if number == 1 {
        window::set(window::TRAPPED, DATA.address(), Rights::User);
    }
}
