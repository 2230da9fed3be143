//! `oche.selftest`, the DARTs' part: idle DARTs are measured, on a stream that no device uses.

use oche_boot::bare::selftest::{Verdict, print_line, report_time};
use oche_el2::mmio;
use oche_m1::aic::Line;
use oche_m1::darts::{Darts, ROUNDS};
use oche_m1::found::{self, Found};
use oche_m1::ownership::{Owner, Ownership};

use super::hardware::Registers;
use super::port;

/// What `PARAMS1` says of a page of 16 KiB.
const GRANULE_LOG2: u32 = 14;

/// A few lines for each DART.
pub(super) fn darts(all: &[Found], ownership: &mut Ownership, darts: &mut Darts<Registers>) {
    for (id, dart) in found::candidates(all) {
        let name = dart.name.as_str();
        let reason = match ownership.owner(darts, id) {
            Owner::Passthrough => None,
            Owner::Unknown => Some("it has no power"),
            Owner::Firmware | Owner::Emulated => Some("it is in use"),
        };
        if let Some(reason) = reason {
            report(name, "invalidate", "-", "-", Verdict::Skipped(reason));
            continue;
        }
        let Some(tested) = darts.test_idle(id) else {
            report(name, "invalidate", "-", "-", Verdict::Skipped("no stream is idle"));
            continue;
        };
        let log2 = tested.params1 >> 24 & 0xf;
        report(name, "page-size", 1_u64 << log2, "bytes", Verdict::from(log2 == GRANULE_LOG2));
        report(name, "bypass", tested.params2 & 1, "PARAMS2", Verdict::Figure);
        let held = format_args!("{:#x}", tested.ttbr_bits);
        // 31:0 of an address / 4096, less the valid bit: an M1 needs 24 of them.
        report(
            name,
            "ttbr-holds",
            held,
            "bits",
            Verdict::from(tested.ttbr_bits & 0xff_ffff == 0xff_ffff),
        );
        // Translation on and bypass off, whatever else is set.
        let is_kept = tested.tcr & 0x180 == 0x80;
        report(name, "tcr-holds", format_args!("{:#x}", tested.tcr), "TCR", Verdict::from(is_kept));
        match tested.invalidations {
            Some(ticks) => report_time(&alloc::format!("dart.{name}.invalidate"), ticks, ROUNDS),
            None => report(name, "invalidate", "never-ends", "-", Verdict::Wrong),
        }
    }
    print_line("mmio.serror-window", "-", "-", Verdict::from(mmio::test_system_error_window()));
    // What a window does shows only when a device uses it.
    print_line(
        "dart.windows",
        "-",
        "-",
        Verdict::Skipped("needs a device: a fault with code 0x80 in the trace is the answer"),
    );
}

/// Whether the line of the trace's port is one that the interrupt controller has.
pub(super) fn interrupt_controller(line: Option<&Line>) {
    match line.map(port::lines) {
        Some((lines, is_one)) => print_line("aic.lines", lines, "INFO", Verdict::from(is_one)),
        None => print_line("aic.lines", "-", "-", Verdict::Skipped("the trace has no port")),
    }
}

fn report(dart: &str, what: &str, value: impl core::fmt::Display, unit: &str, verdict: Verdict) {
    print_line(&alloc::format!("dart.{dart}.{what}"), value, unit, verdict);
}
