//! The board's part of `oche.selftest`: measures idle DARTs, on a stream that no device uses.

use alloc::string::String;

use crate::aic::PortLine;
use crate::darts::{DartDriver, ROUNDS};
use crate::device_tree::{DartNode, candidates};
use crate::ownership::{Owner, Ownership};
use oche_boot::bare::selftest::{Verdict, print_line, report_time};
use oche_el2::mmio;
use oche_types::dart::stream::DartId;

use super::hardware::MappedDarts;
use super::port;

/// The logarithm to base two of a page of 16 KiB.
const GRANULE_LOG2: u32 = 14;

/// Prints some lines for each DART.
pub fn darts(all: &[DartNode], ownership: &mut Ownership, darts: &mut DartDriver<MappedDarts>) {
    for (id, dart) in candidates(all) {
        let name = dart.name.as_str();
        report(name, "words", words(darts, id), "raw", Verdict::Figure);
        let reason = match ownership.owner(darts, id) {
            Owner::Passthrough => None,
            Owner::Unknown => Some("it has no power"),
            Owner::NotChosen => Some("oche.darts leaves it out"),
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
        let is_16k = Verdict::from(tested.page_shift == GRANULE_LOG2);
        report(name, "page-size", 1_u64 << tested.page_shift, "bytes", is_16k);
        report(name, "bypass", u32::from(tested.has_bypass), "PARAMS2", Verdict::Figure);
        let bits = format_args!("{:#x}", tested.ttbr_page);
        report(name, "ttbr-holds", bits, "bits", Verdict::from(tested.holds_every_page()));
        let control = format_args!("{:#x}", tested.tcr);
        report(name, "tcr-holds", control, "TCR", Verdict::from(tested.is_translating));
        match tested.invalidations {
            Some(ticks) => report_time(&alloc::format!("dart.{name}.invalidate"), ticks, ROUNDS),
            None => report(name, "invalidate", "never-ends", "-", Verdict::Wrong),
        }
    }
    print_line("mmio.serror-window", "-", "-", Verdict::from(mmio::test_system_error_window()));
    // The effect of a window shows only when a device uses it.
    print_line(
        "dart.windows",
        "-",
        "-",
        Verdict::Skipped("needs a device: a fault with code 0x80 in the trace is the answer"),
    );
}

/// Prints whether the interrupt controller has the line of the trace's port.
pub fn interrupt_controller(line: Option<&PortLine>) {
    match line.map(port::lines) {
        Some((lines, is_one)) => print_line("aic.lines", lines, "INFO", Verdict::from(is_one)),
        None => print_line("aic.lines", "-", "-", Verdict::Skipped("the trace has no port")),
    }
}

/// The words on which ownership of a DART is decided: those of its power domains, and its own as
/// far as it has power.
pub fn words(darts: &DartDriver<MappedDarts>, dart: DartId) -> String {
    let mut text = String::from("power=");
    let mut separator = "";
    for word in darts.hardware().power_words(dart) {
        text.push_str(&alloc::format!("{separator}{word:#x}"));
        separator = "+";
    }
    if let Some(words) = darts.raw_words(dart) {
        text.push_str(&alloc::format!(",{words}"));
    }
    text
}

fn report(dart: &str, what: &str, value: impl core::fmt::Display, unit: &str, verdict: Verdict) {
    print_line(&alloc::format!("dart.{dart}.{what}"), value, unit, verdict);
}
