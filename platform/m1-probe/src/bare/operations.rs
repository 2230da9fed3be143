//! Operations at EL1 that may trap: cache maintenance, and a software step.

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{ESR_EL2, HCR_EL2, MDSCR_EL1, Readable, Writeable};
use oche_boot::bare::prepare::Prepared;
use oche_boot::bare::selftest::probe::{self, NONE};
use oche_boot::bare::selftest::{Verdict, print_line};
use oche_el2::device::{IoError, IoResult};
use oche_el2::fault::{Platform, Resume, Stage2Fault, TrapContext};
use oche_el2::frame::TrapFrame;
use oche_el2::lock::Once;
use oche_el2::{cpu_setup, trap};
use oche_types::dart::stream::DartId;
use oche_types::range::PAGE;

/// `ESR_EL2.EC` of a trapped system instruction, and of a software step of a lower level.
const SYSTEM_INSTRUCTION: u64 = 0x18;
const SOFTWARE_STEP: u64 = 0x32;
/// Bit of `ESR_EL2.EC`, and bytes of an instruction.
const CLASS_SHIFT: u32 = 26;
const INSTRUCTION_BYTES: u64 = 4;
/// Executions whose time is measured.
const ROUNDS: u64 = 64;

/// The exceptions that are expected: their class, or 0 if none is; how many were taken; and the
/// address at which the last one was.
static EXPECTED: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicU64 = AtomicU64::new(0);
static PLACE: AtomicU64 = AtomicU64::new(0);

/// Bits of `HCR_EL2`. Source: Arm ARM DDI 0487, `HCR_EL2`.
const TSW: u64 = 1 << 22;
const TPC: u64 = 1 << 23;
const TPU: u64 = 1 << 24;

/// A form of cache maintenance.
struct Form {
    name: &'static str,
    /// The instruction, with x0 as its operand if it has one. Source: Arm ARM DDI 0487, "A64 System
    /// instructions for cache maintenance".
    instruction: u32,
    /// What traps it.
    bit: u64,
    bit_name: &'static str,
    operand: Operand,
    /// Whether EL0 may execute it, if EL1 allows that.
    is_for_user: bool,
}

/// The operand of a form.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operand {
    /// An address, or none.
    Address,
    /// The same, and the form may lose what was stored: it is only executed to trap.
    Discarded,
    /// Set 0 and way 0 of a level, from 1 on; it is only executed to trap.
    Set(u64),
}

const fn by_address(
    name: &'static str,
    instruction: u32,
    bit: u64,
    bit_name: &'static str,
) -> Form {
    Form { name, instruction, bit, bit_name, operand: Operand::Address, is_for_user: false }
}

const fn by_set(name: &'static str, instruction: u32, level: u64) -> Form {
    Form {
        name,
        instruction,
        bit: TSW,
        bit_name: "TSW",
        operand: Operand::Set(level),
        is_for_user: false,
    }
}

const FORMS: [Form; 11] = [
    Form { is_for_user: true, ..by_address("dc-civac", 0xd50b_7e20, TPC, "TPC") },
    Form { is_for_user: true, ..by_address("dc-cvac", 0xd50b_7a20, TPC, "TPC") },
    Form { operand: Operand::Discarded, ..by_address("dc-ivac", 0xd508_7620, TPC, "TPC") },
    Form { is_for_user: true, ..by_address("dc-cvau", 0xd50b_7b20, TPU, "TPU") },
    Form { is_for_user: true, ..by_address("ic-ivau", 0xd50b_7520, TPU, "TPU") },
    by_address("ic-iallu", 0xd508_751f, TPU, "TPU"),
    by_address("ic-ialluis", 0xd508_711f, TPU, "TPU"),
    by_set("dc-cisw-l1", 0xd508_7e40, 1),
    by_set("dc-cisw-l2", 0xd508_7e40, 2),
    by_set("dc-csw-l1", 0xd508_7a40, 1),
    by_set("dc-csw-l2", 0xd508_7a40, 2),
];

/// Reports which forms of cache maintenance trap, and what those cost that do not.
pub(super) fn maintenance(prepared: &Prepared) {
    let kernel = prepared.layout.kernel;
    // The self-test has loaded its code into the first two pages.
    if kernel.size() < 4 * PAGE {
        return print_line(
            "trap.room",
            kernel.size(),
            "bytes",
            Verdict::Skipped("no scratch memory"),
        );
    }
    cpu_setup::configure();
    let plain = HCR_EL2.get();
    for form in FORMS {
        let operand = match form.operand {
            Operand::Address | Operand::Discarded => kernel.start + 2 * PAGE,
            Operand::Set(level) => (level - 1) << 1,
        };
        let run = || {
            // SAFETY: it traps, or maintains the cache of a scratch page; by set and way, stage 2
            // and SWIO make an invalidation clean too.
            unsafe { probe::operation(form.instruction, operand, 1) }.vector == NONE
        };
        report_trap(&alloc::format!("trap.{}", form.name), &form, plain, run);
        if form.is_for_user {
            let run = || {
                // SAFETY: as above.
                unsafe { probe::unprivileged(form.instruction, operand) };
                true
            };
            report_trap(&alloc::format!("trap.el0-{}", form.name), &form, plain, run);
        }
        if form.operand == Operand::Address {
            time(&form, operand);
        }
    }
}

/// Reports whether `form`, which `run` executes, traps with its bit set beside `plain` in
/// `HCR_EL2`. `run` returns whether it ended as it should.
fn report_trap(name: &str, form: &Form, plain: u64, run: impl FnOnce() -> bool) {
    HCR_EL2.set(plain | form.bit);
    TAKEN.store(0, Ordering::Relaxed);
    EXPECTED.store(SYSTEM_INSTRUCTION, Ordering::Relaxed);
    let has_ended = run();
    EXPECTED.store(0, Ordering::Relaxed);
    HCR_EL2.set(plain);
    let does_trap = TAKEN.load(Ordering::Relaxed) == 1 && has_ended;
    let word = if does_trap { "traps" } else { "does-not-trap" };
    print_line(name, word, form.bit_name, does_trap);
}

/// The time of a form that does not trap, with its barrier.
fn time(form: &Form, operand: u64) {
    // SAFETY: it maintains the cache of a scratch page, and loses nothing.
    let seen = unsafe { probe::operation(form.instruction, operand, ROUNDS) };
    let name = alloc::format!("cache.{}", form.name);
    if seen.vector == NONE {
        oche_boot::bare::selftest::report_time(&name, seen.ticks, ROUNDS);
    } else {
        print_line(&name, seen.vector, "exception", Verdict::Figure);
    }
}

/// Reports whether a software step of EL1 is taken to EL2 behind its instruction.
pub(super) fn step() {
    TAKEN.store(0, Ordering::Relaxed);
    EXPECTED.store(SOFTWARE_STEP, Ordering::Relaxed);
    let seen = probe::step();
    EXPECTED.store(0, Ordering::Relaxed);
    let taken = TAKEN.load(Ordering::Relaxed);
    let is_behind = PLACE.load(Ordering::Relaxed) % PAGE
        == (probe::operation_offset() + INSTRUCTION_BYTES) % PAGE;
    let is_right = taken == 1 && is_behind && seen.vector == NONE;
    print_line("step.taken", taken, "times", is_right);
}

static NO_PLATFORM: Once<&'static NoPlatform> = Once::new();

/// Handles a synchronous exception from EL1.
///
/// # Safety
///
/// Only the vectors may call this, with the frame that they just stored.
#[unsafe(no_mangle)]
unsafe extern "C" fn oche_sync_from_guest(frame: *mut TrapFrame) {
    let class = ESR_EL2.get() >> CLASS_SHIFT & 0x3f;
    if class != EXPECTED.load(Ordering::Relaxed) {
        // SAFETY: the caller's promise is the same.
        return unsafe { trap::on_exception(&NO_PLATFORM, frame) };
    }
    // SAFETY: the vectors stored it on this CPU's stack, and use it again only after we return.
    let frame = unsafe { &mut *frame };
    TAKEN.fetch_add(1, Ordering::Relaxed);
    PLACE.store(frame.elr, Ordering::Relaxed);
    if class == SYSTEM_INSTRUCTION {
        frame.elr += INSTRUCTION_BYTES;
    } else {
        MDSCR_EL1.set(0);
    }
}

/// There is no guest, and so nothing that its accesses could be handled with.
struct NoPlatform;

// SAFETY: it carries out nothing.
unsafe impl Platform for NoPlatform {
    fn may_be_memory(_: u64) -> bool {
        false
    }

    fn dart_at(&self, _: u64) -> Option<(DartId, u64)> {
        None
    }

    fn access_dart(
        &'static self,
        _: TrapContext,
        _: (DartId, u64),
        _: usize,
        _: Option<u64>,
    ) -> IoResult {
        Err(IoError::NoRegister)
    }

    fn access_device(&'static self, _: TrapContext, _: u64, _: usize, _: Option<u64>) -> IoResult {
        Err(IoError::NoRegister)
    }

    fn access_trapped_page(&'static self, _: &Stage2Fault, _: &mut TrapFrame) -> Resume {
        Resume::Abort
    }

    fn emulate_known(&'static self, _: u64, _: bool, _: &mut TrapFrame) -> bool {
        false
    }

    fn step_ended(
        &'static self,
        _: bool,
        _: &mut TrapFrame,
        _: &mut dyn FnMut() -> Option<Stage2Fault>,
    ) -> Option<Resume> {
        None
    }
}
