//! What the interrupt controller and the bus do, without a device: only on Apple's CPUs, as other
//! machines have neither.

use oche_boot::bare::memory;
use oche_boot::bare::selftest::{Verdict, print_line};
use oche_el2::apple;
use oche_el2::mmio::{self, BusError, ReportedBy};
use oche_el2::registers::IsrEl1;
use oche_m1::aic::{self, PortLine};
use oche_m1::software_line::{self, Controller, Finding};
use oche_types::range::{PAGE, PhysRange};

/// `ISR_EL1.I`. Source: Arm ARM DDI 0487, `ISR_EL1`.
const IRQ: u64 = 1 << 7;
/// The pages of the interrupt controller's registers that are not mapped yet: events, and targets.
const EVENTS_AND_TARGETS: PhysRange = PhysRange { start: 0x2000, end: 0x4000 };
const NOT_APPLE: Verdict = Verdict::Skipped("not Apple's CPU");

/// The interrupt controller's registers.
struct Registers(u64);

impl Controller for Registers {
    fn read(&mut self, offset: u64) -> u32 {
        // SAFETY: mapped as Device memory; `software_line` reads registers without side effects,
        // and `EVENT`, whose effect it undoes.
        unsafe { mmio::read32(self.0 + offset) }.unwrap_or(0)
    }

    fn write(&mut self, offset: u64, value: u32) {
        // SAFETY: mapped as Device memory; only the bits of a line that no device drives change.
        let _ = unsafe { mmio::write32(self.0 + offset, value) };
    }

    fn has_interrupt(&mut self) -> bool {
        IsrEl1.read() & IRQ != 0
    }
}

/// Reports whether software can assert the line of the trace's port, which no device drives.
pub(super) fn software_line(line: Option<&PortLine>) {
    const NAME: &str = "aic.software-line";
    let Some(line) = line.filter(|_| apple::is_apple()) else {
        return print_line(NAME, "-", "-", NOT_APPLE);
    };
    let start = line.information().start;
    memory::map_registers(PhysRange {
        start: start + EVENTS_AND_TARGETS.start,
        end: start + EVENTS_AND_TARGETS.end,
    });
    let (value, verdict) = match software_line::test(&mut Registers(start), line.number()) {
        Finding::Works => ("asserted,level,ends", Verdict::Ok),
        Finding::InUse => ("-", Verdict::Skipped("an interrupt is pending or unmasked")),
        Finding::NoInterrupt => ("no-interrupt", Verdict::Wrong),
        Finding::OtherEvent(_) => ("another-event", Verdict::Wrong),
        Finding::Once => ("asserted,no-level", Verdict::Wrong),
        Finding::NeverEnds => ("asserted,never-ends", Verdict::Wrong),
    };
    print_line(NAME, value, "line", verdict);
}

/// Reads where nothing should be, in the window of the trace's port, and reports how the bus error
/// arrives. This comes last: should EL2 not survive it, all other lines are there. It is left out
/// if U-Boot `has_to_start`, since a Mac that boots by it must boot in any case.
pub(super) fn bus_error(has_to_start: bool) {
    let skipped = match (apple::is_apple(), has_to_start) {
        (false, _) => Some(NOT_APPLE),
        (true, true) => Some(Verdict::Skipped("U-Boot has to start in any case: use no --then")),
        (true, false) => None,
    };
    if let Some(verdict) = skipped {
        print_line("bus.port-window", "-", "-", verdict);
        return print_line("bus.error", "-", "-", verdict);
    }
    let start = aic::WINDOW.start;
    memory::map_registers(PhysRange { start, end: start + PAGE });
    // SAFETY: mapped as Device memory. An M1 has nothing there that a read could change.
    match unsafe { mmio::read32(start) } {
        Ok(value) => {
            print_line("bus.port-window", format_args!("{value:#x}"), "word", Verdict::Wrong);
            print_line("bus.error", "-", "-", Verdict::Skipped("there was none"));
        }
        Err(error) => report_error(&error),
    }
}

fn report_error(error: &BusError) {
    print_line("bus.port-window", "nothing", "word", Verdict::Ok);
    let (value, verdict) = match error.report {
        ReportedBy::Abort => ("abort", Verdict::Ok),
        ReportedBy::SystemError => ("serror", Verdict::Ok),
        ReportedBy::Unknown(_) => ("-", Verdict::Skipped("an SError was pending before")),
    };
    print_line("bus.error", value, "kind", verdict);
    if let Some([status, address, information]) = error.details {
        let value = format_args!("{status:#x},{address:#x},{information:#x}");
        print_line("bus.details", value, "L2C_ERR_STS,ADR,INF", Verdict::Figure);
    }
}
