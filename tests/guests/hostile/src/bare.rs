//! The cases, one after the other.
// UNSAFETY: this guest accesses what it must not; every access goes to a fault handler that
// continues behind it.
#![expect(unsafe_code, reason = "wild accesses are the purpose")]

mod access;
mod aliases;
mod attacks;
mod beside;
mod board;
mod calls;
mod chains;
mod code;
mod copied_page;
mod counter;
mod cpus;
mod debug;
mod edu;
mod exits;
mod forms;
mod idle;
mod mapping;
mod migration;
mod odd_accesses;
mod races;
mod random;
mod stage1;
mod storm;
mod trapped;
mod unprivileged;
mod user;
mod vectors;
mod window;

use board::Hidden;
use oche_guest_common::console::Uart;
use oche_guest_common::entry::ENTRIES;
use oche_guest_common::exception::Exception;
use oche_guest_common::fdt::Tree;
use oche_guest_common::{CaseReport, Guest, guest, print, smccc};

/// This guest.
struct Hostile;

guest!(Hostile);

impl Guest for Hostile {
    const UART: Uart = Uart::pl011(board::UART);
    const STAGE1: [u64; ENTRIES] = stage1::TABLE;

    fn main(tree: Tree) -> ! {
        print(format_args!("guest: hello\n"));
        for (option, function) in
            [("hostile=panic", 0), ("hostile=fault", 1), ("hostile=overflow", 2)]
        {
            if tree.has_option(option) {
                request_panic(function);
            }
        }
        let hidden = Hidden::of(&tree);
        if tree.has_option("hostile=idle") {
            idle::run(hidden);
        }
        if tree.has_option("hostile=exits") {
            exits::run();
        }
        if let Some(seed) = tree.option("random.seed") {
            random::run(seed, tree.option("random.ops").unwrap_or(0));
        }
        let mut report = CaseReport::default();
        run_cases(&mut report, hidden);
        report.finish();
        smccc::power_off()
    }

    fn secondary(number: u64) -> ! {
        cpus::work(number)
    }

    fn unexpected(_: Exception) {
        // A case whose access must succeed fails by what it finds.
    }
}

fn request_panic(function: u64) -> ! {
    print(format_args!("guest: asks for it\n"));
    // The last event before the panic.
    access::load_word(board::DART);
    smccc::hvc([smccc::PANIC_ON_REQUEST + function, 0, 0, 0]);
    print(format_args!("guest: Oche did not panic\n"));
    smccc::power_off()
}

fn run_cases(report: &mut CaseReport, hidden: Hidden) {
    access::run(report, hidden);
    calls::run(report, hidden);
    trapped::run(report);
    aliases::run(report);
    migration::run(report);
    vectors::run(report);
    unprivileged::run(report);
    races::run(report);
    debug::run(report);
    unprivileged::livelocks(report);
    attacks::run(report, hidden);
    chains::run(report, hidden);
    storm::run(report);
}
