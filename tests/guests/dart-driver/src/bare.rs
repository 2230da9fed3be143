//! The cases, one after the other.
// UNSAFETY: registers and tables are raw addresses.
#![expect(unsafe_code, reason = "registers and tables are raw addresses")]

mod arena;
mod board;
mod chosen;
mod cpus;
mod dart;
mod dead;
mod drivers;
mod entry_state;
mod fiq;
mod hazards;
mod interrupts;
mod memory;
mod nvme;
mod power;
mod registers;
mod tables;

use core::fmt;

use oche_guest_common::console::Uart;
use oche_guest_common::entry::{DEVICE, ENTRIES, MEMORY};
use oche_guest_common::fdt::Tree;
use oche_guest_common::{CaseReport, Guest, guest, print, smccc};

/// This guest.
struct DartDriver;

guest!(DartDriver);

impl Guest for DartDriver {
    const UART: Uart = board::UART;
    const STAGE1: [u64; ENTRIES] = {
        let mut entries = [0; ENTRIES];
        let mut gib = 0;
        while gib < 64 {
            let kind = if gib < board::DRAM_GIB { DEVICE } else { MEMORY };
            entries[gib] = (gib as u64) << 30 | kind;
            gib += 1;
        }
        entries
    };

    fn main(tree: Tree) -> ! {
        print(format_args!("guest: hello\n"));
        if tree.has_option("guest=panic") {
            smccc::hvc([smccc::PANIC_ON_REQUEST, 0, 0, 0]);
        }
        let mut report = CaseReport::default();
        run_cases(&mut report, &tree);
        // Oche logs its exits at this call. No firmware here turns the machine off.
        smccc::smc([smccc::SYSTEM_OFF, 0, 0, 0]);
        report.finish();
        smccc::halt()
    }

    fn secondary(number: u64) -> ! {
        cpus::arrive(number)
    }

    fn fiq() {
        interrupts::handle();
    }

    fn print(text: fmt::Arguments<'_>) {
        interrupts::without_ticks(|| Self::UART.print(text));
    }
}

fn run_cases(report: &mut CaseReport, tree: &Tree) {
    report.case(format_args!("it runs at EL1"), entry_state::level_is_one());
    report.case(format_args!("its timers are off"), entry_state::timers_are_off());
    if tree.has_option("guest=chosen") {
        return chosen::run(report, tree);
    }
    let (others, count) = cpus::run(report, tree);
    fiq::run(report, &others[..count]);
    interrupts::start_ticking();
    memory::run(report, tree);
    power::begin();
    drivers::run(report);
    if tree.has_option("guest=dead") {
        dead::run(report);
    } else {
        nvme::run(report);
    }
    hazards::run(report, tree);
    power::run(report);
    fiq::end_background(report);
}
