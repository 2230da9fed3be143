//! Trapped pages at EL0: an access that stage 1 refuses must take the fault that hardware gives,
//! and must succeed once a handler allows it.

use core::arch::{asm, naked_asm};
use core::sync::atomic::Ordering;

use oche_guest_common::exception::attempt;
use oche_guest_common::{CaseReport, Check, Pages, check};

use super::copied_page::{self, DATA};
use super::edu::{Edu, STREAM};
use super::user::{self, Context, Ended, Program};
use super::window::{self, Rights};
use super::{code, mapping};

/// A page like [`DATA`] that no device accesses.
static PLAIN: Pages<1> = Pages::new();
/// Where in the page programs store.
const OFFSET: u64 = 0x140;
/// Increments by a program that cannot be emulated: it must make progress all the same.
const COUNTS: u64 = 40;

macro_rules! programs {
    ($($text:literal $offset:literal: $($line:literal),+;)*) => {
        &[$(Store {
            name: $text,
            offset: $offset,
            program: {
                #[unsafe(naked)]
                extern "C" fn program() {
                    naked_asm!(".arch_extension fp", ".arch_extension simd", ".arch_extension lse", $($line),+,
                        "svc #0")
                }
                program
            },
        }),*]
    };
}

/// A program that stores once.
struct Store {
    name: &'static str,
    /// From X9 to the first byte that it stores.
    offset: i64,
    program: Program,
}

/// Every store that is emulated, and some that are stepped. X9 is the address and X12 holds 16.
const STORES: &[Store] = programs! {
    "str x" 0: "str x10, [x9]";
    "str w, offset" 8: "str w10, [x9, #8]";
    "strb" 0: "strb w10, [x9]";
    "strh" 0: "strh w10, [x9]";
    "stur" -5: "stur x10, [x9, #-5]";
    "sttr" 8: "sttr x10, [x9, #8]";
    "str, post-index" 0: "str x10, [x9], #24";
    "str, pre-index" 8: "str x10, [x9, #8]!";
    "str, register" 16: "str x10, [x9, x12]";
    "str, extended register" 64: "str w10, [x9, w12, sxtw #2]";
    "str xzr" 0: "str xzr, [x9]";
    "stp x" 0: "stp x10, x11, [x9]";
    "stp w" -8: "stp w10, w11, [x9, #-8]";
    "stp, post-index" 0: "stp x10, x11, [x9], #16";
    "stp, pre-index" -16: "stp x10, x11, [x9, #-16]!";
    "stnp" 16: "stnp x10, x11, [x9, #16]";
    "stlr" 0: "stlr x10, [x9]";
    "stlrb" 0: "stlrb w10, [x9]";
    "ldxr and stxr" 0: "2:", "ldxr x13, [x9]", "add x14, x13, x10", "stxr w15, x14, [x9]", "cbnz w15, 2b";
    "ldaxrb and stlxrb" 0: "2:", "ldaxrb w13, [x9]", "stlxrb w15, w10, [x9]", "cbnz w15, 2b";
    "ldxrh and stxrh" 0: "2:", "ldxrh w13, [x9]", "nop", "stxrh w15, w10, [x9]", "cbnz w15, 2b";
    "ldxp and stxp" 0: "2:", "ldxp x12, x13, [x9]", "stxp w15, x13, x10, [x9]", "cbnz w15, 2b";
    "ldaxp and stlxp w" 0: "2:", "ldaxp w12, w13, [x9]", "stlxp w15, w13, w10, [x9]", "cbnz w15, 2b";
    "str q" 0: "str q0, [x9]";
    "st1" 0: "st1 {{v0.16b}}, [x9]";
    "swp" 0: "swp x10, x13, [x9]";
};

#[unsafe(naked)]
extern "C" fn count_far_apart() {
    naked_asm!(
        "2:",
        "ldxr x13, [x9]",
        "add x13, x13, #1",
        ".rept 40",
        "eor x14, x14, x10",
        ".endr",
        "stxr w15, x13, [x9]",
        "cbnz w15, 2b",
        "subs x11, x11, #1",
        "b.ne 2b",
        "svc #0"
    )
}

#[unsafe(naked)]
extern "C" fn count() {
    naked_asm!(
        "2:",
        "ldxr x13, [x9]",
        "add x13, x13, #1",
        "stxr w15, x13, [x9]",
        "cbnz w15, 2b",
        "subs x11, x11, #1",
        "b.ne 2b",
        "svc #0"
    )
}

/// The same for a 32-bit word, in AArch32's A32 instructions, with R9 and R11.
#[unsafe(naked)]
extern "C" fn count_a32() {
    naked_asm!(
        ".inst 0xe199cf9f", // ldrex r12, [r9]
        ".inst 0xe28cc001", // add r12, r12, #1
        ".inst 0xe189af9c", // strex r10, r12, [r9]
        ".inst 0xe35a0000", // cmp r10, #0
        ".inst 0x1afffffa", // bne to the start
        ".inst 0xe25bb001", // subs r11, r11, #1
        ".inst 0x1afffff8", // bne to the start
        ".inst 0xef000000", // svc #0
        "svc #0"
    )
}

#[unsafe(naked)]
extern "C" fn load() {
    naked_asm!("ldr x10, [x9]", "svc #0")
}

#[unsafe(naked)]
extern "C" fn jump() {
    naked_asm!("br x9", "svc #0")
}

/// Code that stores into its own page by instructions that are stepped: at X9, into the words
/// behind it.
#[unsafe(naked)]
extern "C" fn store_beside() {
    naked_asm!(
        ".arch_extension fp",
        ".arch_extension simd",
        ".arch_extension lse",
        "movi v0.2d, #0",
        "2:",
        "str q0, [x9]",
        "stadd x10, [x9]",
        "subs x11, x11, #1",
        "b.ne 2b",
        "svc #0"
    )
}

pub(super) fn run(report: &mut CaseReport) {
    if Edu::find().is_none() {
        return report.case(format_args!("EL0: the device"), Err("is not there"));
    }
    window::begin();
    mapping::begin(STREAM);
    for (name, rights) in [("read", mapping::Rights::Read), ("written", mapping::Rights::ReadWrite)]
    {
        copied_page::map(Some(rights));
        for store in STORES {
            report.case(
                format_args!("EL0, copies {name}: {} where it may only read", store.name),
                refused(store),
            );
            report.case(
                format_args!("EL0, copies {name}: {} that copies on write", store.name),
                allowed(store),
            );
        }
        report.case(format_args!("EL0, copies {name}: a load from the kernel's page"), kernels());
        report.case(format_args!("EL0, copies {name}: a fetch of data"), data_as_code());
        kernel(report, name);
        copied_page::map(None);
    }
    mapping::end(STREAM);
}

fn fill() {
    for word in 0..64 {
        let value = (word as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        DATA.set_word(word, value);
        PLAIN.set_word(word, value);
    }
}

fn same() -> Check {
    let is_same = (0..64).all(|word| DATA.word(word) == PLAIN.word(word));
    check(is_same, "bytes differ")
}

fn start(slot: usize) -> Context {
    let mut context = Context::new();
    context.general[9..16].copy_from_slice(&[
        window::address(slot) + OFFSET,
        0x8765_4321_0fed_cba9,
        0x1234_5678,
        16,
        0,
        0,
        0,
    ]);
    context
}

/// Runs a store where EL0 may only read, up to the fault that it must take.
fn faults(store: &Store) -> Result<Context, &'static str> {
    window::set(window::TRAPPED, DATA.address(), Rights::UserReadOnly);
    user::install(store.program);
    let mut context = start(window::TRAPPED);
    match context.run() {
        Ended::Permission { is_write: true } => {}
        Ended::Permission { .. } => return Err("a fault of a load"),
        Ended::Call(_) => return Err("no fault"),
        _ => return Err("another exception than a permission fault"),
    }
    let at = (window::address(window::TRAPPED) + OFFSET).wrapping_add_signed(store.offset);
    (context.far == at).then_some(context).ok_or("a fault at another address")
}

fn refused(store: &Store) -> Check {
    fill();
    faults(store)?;
    same()
}

/// The handler makes the page writable, and the program continues as on a page without copies.
fn allowed(store: &Store) -> Check {
    fill();
    let mut context = faults(store)?;
    window::set(window::TRAPPED, DATA.address(), Rights::User);
    if context.run() != Ended::Call(0) {
        return Err("another exception behind the fault");
    }
    window::set(window::PLAIN, PLAIN.address(), Rights::User);
    let mut plain = start(window::PLAIN);
    if plain.run() != Ended::Call(0) {
        return Err("an exception without copies");
    }
    plain.general[9] =
        plain.general[9] - window::address(window::PLAIN) + window::address(window::TRAPPED);
    if plain.general[9..16] != context.general[9..16] {
        return Err("registers differ");
    }
    same()
}

/// A page of EL1's alone.
fn kernels() -> Check {
    window::set(window::TRAPPED, DATA.address(), Rights::Kernel);
    user::install(load);
    match start(window::TRAPPED).run() {
        Ended::Permission { is_write: false } => Ok(()),
        _ => Err("no permission fault"),
    }
}

/// A fetch from a page that EL0 may read and not execute. The copies stay.
fn data_as_code() -> Check {
    window::set(window::TRAPPED, DATA.address(), Rights::User);
    user::install(jump);
    match start(window::TRAPPED).run() {
        Ended::Fetch => Ok(()),
        _ => Err("no permission fault of a fetch"),
    }
}

macro_rules! accesses {
    ($($text:literal: $($line:literal),+;)*) => {
        &[$(($text, {
            let access: fn(u64) = |address| {
                // SAFETY: a page that is for this, or a fault that is stepped over.
                unsafe {
                    asm!(".arch_extension pan", $($line),+, in("x9") address, inout("x10") 1u64 => _,
                        out("x13") _, out("x14") _, out("x15") _, options(nostack))
                };
            };
            access
        })),*]
    };
}

type Named = (&'static str, fn(u64));

/// Stores of EL1 to a page that it may only read.
const KERNEL_STORES: &[Named] = accesses! {
    "str": "str x10, [x9]";
    "stp": "stp x10, x10, [x9]";
    "stlr": "stlr x10, [x9]";
    "ldxr and stxr": "ldxr x13, [x9]", "stxr w15, x10, [x9]";
    "ldaxr and stlxr": "ldaxr x13, [x9]", "add x13, x13, #1", "stlxr w15, x13, [x9]";
    "ldxp and stxp": "ldxp x13, x14, [x9]", "stxp w15, x10, x10, [x9]";
};
/// On a page that EL0 may only read, or not see.
const UNPRIVILEGED_STORE: Named = accesses! { "sttr": "sttr x10, [x9]"; }[0];
const UNPRIVILEGED_LOAD: Named = accesses! { "ldtr": "ldtr x10, [x9]"; }[0];
/// On a page of EL0's, with PAN, and whether they store.
const WITH_PAN: &[(Named, bool)] = &[
    (accesses! { "ldr": "msr pan, #1", "ldr x10, [x9]", "msr pan, #0"; }[0], false),
    (accesses! { "str": "msr pan, #1", "str x10, [x9]", "msr pan, #0"; }[0], true),
    (accesses! { "ldxr": "msr pan, #1", "ldxr x13, [x9]", "msr pan, #0"; }[0], false),
    (
        accesses! { "stxr": "ldxr x13, [x9]", "msr pan, #1", "stxr w15, x10, [x9]", "msr pan, #0", "clrex"; }
            [0],
        true,
    ),
];
const WITH_PAN_ALLOWED: &[Named] = accesses! {
    "ldtr": "msr pan, #1", "ldtr x10, [x9]", "msr pan, #0";
    "sttr": "msr pan, #1", "sttr x10, [x9]", "msr pan, #0";
};

/// Accesses of EL1 to pages of EL1 and of EL0.
fn kernel(report: &mut CaseReport, name: &str) {
    let at = window::address(window::TRAPPED) + OFFSET;
    let mut case = |text: &str, rights, (form, access): Named, expected: Option<bool>| {
        fill();
        window::set(window::TRAPPED, DATA.address(), rights);
        let result = match (attempt(|| access(at)), expected) {
            (None, None) => Ok(()),
            (Some(exception), Some(is_write)) if exception.is_permission_fault(is_write) => same(),
            // A store-exclusive that does not store need not fault.
            (None, Some(true)) if form == "stxr" => same(),
            (None, _) => Err("no fault"),
            (Some(_), _) => Err("another exception"),
        };
        report.case(format_args!("EL1, copies {name}: {form} {text}"), result);
    };
    for access in KERNEL_STORES {
        case("where it may only read", Rights::KernelReadOnly, *access, Some(true));
    }
    case("where EL0 may only read", Rights::UserReadOnly, UNPRIVILEGED_STORE, Some(true));
    case("where EL0 may not", Rights::Kernel, UNPRIVILEGED_STORE, Some(true));
    case("where EL0 may not", Rights::Kernel, UNPRIVILEGED_LOAD, Some(false));
    case("where EL0 may", Rights::User, UNPRIVILEGED_LOAD, None);
    case("where EL0 may only read", Rights::UserReadOnly, UNPRIVILEGED_LOAD, None);
    for (access, is_write) in WITH_PAN {
        case("with PAN", Rights::User, *access, Some(*is_write));
    }
    for access in WITH_PAN_ALLOWED {
        case("with PAN", Rights::User, *access, None);
    }
}

/// `SCTLR_EL1.E0E`: EL0's data is big-endian.
const SCTLR_E0E: u64 = 1 << 24;

/// Programs that Oche can neither emulate nor step as usual: they must end.
pub(super) fn livelocks(report: &mut CaseReport) {
    mapping::begin(STREAM);
    for (name, program, pstate, sctlr) in [
        ("far apart", count_far_apart as Program, 0, 0),
        ("big-endian", count, 0, SCTLR_E0E),
        ("in A32", count_a32, 0x10, 0),
    ] {
        report.case(
            format_args!("EL0: exclusives {name} make progress"),
            exclusives_end(program, pstate, sctlr),
        );
    }
    for (name, rights) in [("read", mapping::Rights::Read), ("written", mapping::Rights::ReadWrite)]
    {
        report.case(
            format_args!("EL0: code and what it stores in one page, copies {name}"),
            code_beside_data(rights),
        );
    }
    mapping::end(STREAM);
}

fn exclusives_end(program: Program, pstate: u64, sctlr: u64) -> Check {
    let word = OFFSET as usize / 8;
    copied_page::map(Some(mapping::Rights::ReadWrite));
    DATA.set_word(word, 0);
    window::set(window::TRAPPED, DATA.address(), Rights::User);
    user::install(program);
    let mut context = start(window::TRAPPED);
    context.general[11] = COUNTS;
    context.pstate = pstate;
    change_control(sctlr, 0);
    let ended = context.run();
    change_control(0, sctlr);
    let count = if sctlr == 0 { DATA.word(word) } else { DATA.word(word).swap_bytes() };
    copied_page::map(None);
    // Class 0x11 is an SVC of AArch32.
    let has_ended = matches!(ended, Ended::Call(0) | Ended::Other(0x11));
    check(has_ended, "an exception")?;
    check(count == COUNTS, "counts are lost")
}

fn code_beside_data(rights: mapping::Rights) -> Check {
    let word = OFFSET as usize / 8;
    for (index, instruction) in user::words(store_beside).enumerate() {
        user::word_at(DATA.address(), index).store(instruction, Ordering::SeqCst);
    }
    window::set(window::TRAPPED, DATA.address(), Rights::UserAll);
    code::synchronize_page(DATA.address());
    copied_page::map(Some(rights));
    let mut context = start(window::TRAPPED);
    context.pc = window::address(window::TRAPPED);
    context.general[10] = 7;
    context.general[11] = COUNTS;
    let ended = context.run();
    let stored = [DATA.word(word), DATA.word(word + 1)];
    copied_page::map(None);
    check(ended == Ended::Call(0), "an exception")?;
    check(stored == [7, 0], "it stored something else")
}

/// Sets and clears bits of `SCTLR_EL1`.
fn change_control(set: u64, clear: u64) {
    // SAFETY: bits that concern EL0 alone.
    unsafe {
        asm!("mrs {x}, sctlr_el1", "orr {x}, {x}, {set}", "bic {x}, {x}, {clear}", "msr sctlr_el1, {x}", "isb",
            x = out(reg) _, set = in(reg) set, clear = in(reg) clear, options(nostack))
    };
}
