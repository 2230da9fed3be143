//! Accesses that Oche single-steps while the guest's debug registers are in every state: the step
//! ends, and the registers do not change.

use core::arch::asm;

use oche_guest_common::exception::attempt;
use oche_guest_common::{CaseReport, Check};

use super::copied_page::{self, DATA};
use super::edu::STREAM;
use super::mapping;

/// `ID_AA64DFR0_EL1.DoubleLock`: 0 where there is one, 0xf where not.
fn has_double_lock() -> bool {
    let features: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, id_aa64dfr0_el1", out(reg) features, options(nomem, nostack)) };
    features >> 36 & 0xf == 0
}

/// OSDLR, the OS lock and MDSCR.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    double_lock: u64,
    lock: u64,
    control: u64,
}

impl State {
    fn set(self) {
        let Self { double_lock, lock, control } = self;
        // SAFETY: nothing here is debugged.
        unsafe {
            asm!("msr oslar_el1, xzr", "isb", "msr mdscr_el1, {}", "msr oslar_el1, {}", "msr osdlr_el1, {}", "isb",
                in(reg) control, in(reg) lock, in(reg) double_lock, options(nostack))
        };
    }

    fn now() -> Self {
        let (double_lock, lock, control): (u64, u64, u64);
        // SAFETY: reads registers.
        unsafe {
            asm!("mrs {}, osdlr_el1", "mrs {}, oslsr_el1", "mrs {}, mdscr_el1", out(reg) double_lock,
                out(reg) lock, out(reg) control, options(nomem, nostack))
        };
        Self { double_lock, lock: lock >> 1 & 1, control }
    }
}

pub(super) fn run(report: &mut CaseReport) {
    mapping::begin(STREAM);
    for (name, rights) in [("read", mapping::Rights::Read), ("written", mapping::Rights::ReadWrite)]
    {
        copied_page::map(Some(rights));
        for (text, double_lock, lock, control) in [
            ("as at reset", 0, 0, 0),
            ("the OS lock", 0, 1, 0),
            ("the double lock", 1, 0, 0),
            ("both locks", 1, 1, 0),
            ("KDE and MDE", 0, 0, 1 << 13 | 1 << 15),
            ("the double lock, KDE and MDE", 1, 0, 1 << 13 | 1 << 15),
        ] {
            if double_lock == 1 && !has_double_lock() {
                continue;
            }
            let state = State { double_lock, lock, control };
            report.case(format_args!("debug, copies {name}: {text}"), stepped(state));
        }
        copied_page::map(None);
    }
    mapping::end(STREAM);
}

/// A stepped store and a sequence of exclusives, with the registers in `state`.
fn stepped(state: State) -> Check {
    let at = DATA.address() + 0x140;
    DATA.set_word(0x28, 0);
    let mut found = None;
    let exception = attempt(|| {
        state.set();
        // SAFETY: a page that is for this; nothing compiled for this target uses the SIMD
        // registers.
        unsafe {
            asm!(".arch_extension fp", ".arch_extension simd", ".arch_extension lse",
                "movi v0.2d, #0", "str q0, [x9]", "stadd x10, [x9]",
                "2:", "ldxr x13, [x9]", "add x13, x13, x10", "stxr w15, x13, [x9]", "cbnz w15, 2b",
                in("x9") at, in("x10") 3u64, out("x13") _, out("x15") _, options(nostack))
        };
        found = Some(State::now());
        State { double_lock: 0, lock: 0, control: 0 }.set();
    });
    match (exception, found) {
        (Some(_), _) => Err("an exception"),
        (None, Some(found)) if found != state => Err("a debug register changed"),
        (None, _) if DATA.word(0x28) != 6 => Err("something else is stored"),
        (None, _) => Ok(()),
    }
}
