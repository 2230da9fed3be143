//! The image: measures, and shows what it measured.
//!
//! It is prepared as Oche's image is, up to stage 2, and runs code at EL1 only in memory of its
//! own. No guest runs under it, and everything that it changes is put back or is memory that
//! firmware has not given to anything.
// UNSAFETY: assembly, and registers of the machine.
#![expect(unsafe_code, reason = "assembly, and registers of the machine")]

mod costs;
mod cpu_code;
mod cpus;
mod devices;
mod identification;
mod next;
mod operations;
mod report;
mod show;

use core::hint::black_box;

use oche_boot::bare::entry::FdtAddress;
use oche_boot::bare::prepare::{Prepared, prepare};
use oche_boot::bare::selftest;
use oche_el2::firmware;
use oche_el2::identity;
use oche_el2::mmio;
use oche_m1::dart_choice::DartChoice;
use oche_m1::darts::DartDriver;
use oche_m1::device_tree;
use oche_m1::hw::board::M1Board;
use oche_m1::hw::power::PowerDomains;
use oche_m1::hw::{self, console, hardware, port};
use oche_m1::ownership::Ownership;
use oche_m1_probe::settings::{RECORD_BYTES, Settings};

use next::Next;

oche_boot::entry!(main, "m1-probe");

/// What `oche probe` sets. It lies in the image's constants, where the tool finds it.
#[used]
static SETTINGS: [u8; RECORD_BYTES] = Settings { seconds: 0, has_next: false }.record();

fn main(fdt: FdtAddress) -> ! {
    console::begin();
    mmio::take_pending();
    log::info!("probe {} of an M1: it measures, and changes nothing", identity::own());
    let prepared = prepare::<M1Board>(fdt);
    // The tool has changed the bytes that the compiler knows.
    let settings = Settings::read(black_box(&SETTINGS));
    report::begin();
    firmware::set_last_words(show_part);
    let is_alone = measure(&prepared, settings);
    let text = report::finish();
    let next = Next::of(settings, is_alone);
    show::run(&text, &next);
    if let Next::UBoot { start, .. } = next {
        // SAFETY: every other CPU has left the probe's code, and waits where firmware has it wait.
        unsafe { start.start(fdt) }
    }
    firmware::halt()
}

/// Shows what was measured, where the probe cannot go on.
fn show_part() {
    if let Some(part) = report::take_part() {
        show::run_failed(&part, Settings::read(black_box(&SETTINGS)).has_next);
    }
}

/// Measures everything, one line each. Returns whether no other CPU executes the probe.
fn measure(prepared: &Prepared, settings: Settings) -> bool {
    let tree = prepared.machine.tree();
    let all = device_tree::darts(tree);
    let count = device_tree::candidates(&all).count();
    let mut darts = DartDriver::new(hardware::MappedDarts::map(&all), count, false);
    let mut ownership = Ownership::new(&darts, &DartChoice::all(count));
    console::watch_power(PowerDomains::map(device_tree::power(tree, console::UART.start)));
    // The guest's part of the machine, without a hole: no guest runs.
    let mut stage2 = prepared.stage2(&[]);
    prepared.selftest::<M1Board>(env!("CARGO_PKG_VERSION"), &mut stage2);
    hw::selftest::darts(&all, &mut ownership, &mut darts);
    let line = port::line(tree);
    hw::selftest::interrupt_controller(line.as_ref());
    devices::software_line(line.as_ref());
    let boot_cpu = cpus::measure_boot_cpu(&prepared.machine);
    boot_cpu.iter().for_each(|record| identification::report(&record.ids));
    costs::invalidations();
    costs::split_block(prepared.layout.guest.as_slice(), prepared.layout.image, &mut stage2);
    operations::maintenance(prepared);
    operations::step();
    let is_alone = cpus::report(
        &prepared.machine,
        prepared.layout.image,
        boot_cpu,
        // What does not end would keep U-Boot from starting.
        !settings.has_next,
    );
    devices::bus_error(settings.has_next);
    selftest::end();
    is_alone
}
