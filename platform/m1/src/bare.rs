//! The board's `main`: brings up the machine, and connects engine, driver and EL2.
// UNSAFETY: device registers are raw addresses, and this module knows which are where.
#![expect(unsafe_code, reason = "device registers are raw addresses")]

mod ans;
mod guest;
mod watchdog;

use alloc::boxed::Box;

use oche_boot::bare::bring_up::reached;
use oche_boot::bare::entry::FdtAddress;
use oche_boot::bare::memory;
use oche_boot::bare::prepare::{Prepared, prepare};
use oche_boot::bring_up::Step;
use oche_boot::tree::Tree;
use oche_el2::firmware::{self, Advice};
use oche_el2::{apple, identity, mmio, panic};
use oche_m1::aic::WINDOW;
use oche_m1::dart_choice::DartChoice;
use oche_m1::darts::DartDriver;
use oche_m1::device_tree::{self, DartNode};
use oche_m1::hw::board::M1Board;
use oche_m1::hw::power::PowerDomains;
use oche_m1::hw::{console, hardware, port, selftest};
use oche_m1::ownership::Ownership;
use oche_platform::emulated_darts::{EmulatedDarts, Setup};
use oche_platform::panic_trace;
use oche_platform::recorder::IS_COMPILED_IN;

oche_boot::entry!(main, "m1");
oche_el2::handle_traps!(guest::M1Platform);

/// What the owner of the Mac should do where Oche cannot go on.
const ADVICE: Advice = Advice {
    report: "photograph this screen: docs/troubleshooting.md explains the code, `oche decode-panic` a panic",
    stopped: "hold the power button until the Mac is off, then start it again",
    silent: "if nothing follows for a minute: photograph this screen, hold the power button, read docs/install.md",
};

fn main(fdt: FdtAddress) -> ! {
    console::begin();
    mmio::take_pending();
    firmware::set_advice(ADVICE);
    log::info!("Oche {} on m1", identity::own());
    log::info!("it stays below the guest and serves DMA in pages of 4 KiB; it writes to no disk");
    let prepared = prepare::<M1Board>(fdt);
    apply_options(&prepared);
    let tree = prepared.machine.tree();
    let all = device_tree::darts(tree);
    let hardware = hardware::MappedDarts::map(&all);
    let choice = dart_choice(&prepared, &all);
    let mut darts = DartDriver::new(hardware, choice.count(), prepared.options.has_windows);
    let mut ownership = Ownership::new(&darts, &choice);
    let mut holes = guest::report(&all, &choice, &mut ownership, &darts);
    console::watch_power(PowerDomains::map(device_tree::power(tree, console::UART.start)));
    // Without an emulated DART, no page moves, and nothing is traced.
    let emulates = !choice.is_none();
    let controller = emulates.then(|| nvme_controller(tree)).flatten();
    holes.extend(controller.iter().flat_map(ans::Controller::pages));
    let has_trace = IS_COMPILED_IN && prepared.trace_layout().ring_records() != 0;
    let line = (emulates && has_trace).then(|| port::line(tree)).flatten();
    holes.extend(line.map(|_| WINDOW));
    reached(Step::Devices);
    let mut stage2 = prepared.stage2(&holes);
    reached(Step::Stage2);
    if prepared.options.selftest {
        prepared.selftest::<M1Board>(env!("CARGO_PKG_VERSION"), &mut stage2);
        selftest::darts(&all, &mut ownership, &mut darts);
        selftest::interrupt_controller(line.as_ref());
        oche_boot::bare::selftest::end();
    }
    reached(Step::SelfTest);
    panic_trace::register(prepared.layout.trace, prepared.trace_layout());
    let emulated_darts = EmulatedDarts::new(Setup {
        iommu: darts,
        description: &guest::describe(&all),
        ram: prepared.layout.guest.as_slice(),
        pool: prepared.layout.pool,
        isolation: prepared.options.isolation,
        stage2,
        trace: prepared.layout.trace,
        trace_layout: prepared.trace_layout(),
        trace_orders: prepared.options.trace_orders.unwrap_or(""),
        // Nothing on this board knows the time before a kernel does.
        wall_clock_nanoseconds: None,
        set_port_interrupt: line.map(port::interrupt),
    });
    let board = guest::M1Platform::new(&all, emulated_darts, ownership, controller);
    PLATFORM.set(Box::leak(Box::new(board)));
    reached(Step::Engine);
    prepared.launch(None, line.map(|line| line.port()))
}

/// Carries out the options that only this board has, and logs what follows from them.
fn apply_options(prepared: &Prepared) {
    if !apple::is_apple() {
        log::info!("the CPU is not Apple's: its own registers stay untouched");
    }
    memory::map_registers(watchdog::REGISTERS);
    if prepared.options.panic_resets {
        panic::set_panic_action(watchdog::reset);
    }
    if !prepared.options.has_windows {
        log::info!("sub-page windows are not used: oche.windows=0");
    }
}

/// The DARTs that `oche.darts` chooses.
fn dart_choice(prepared: &Prepared, all: &[DartNode]) -> DartChoice {
    let mut complain = |word: &str| {
        log::warn!("oche.darts: there is no DART {word:?}; there are:");
        for (_, dart) in device_tree::candidates(all) {
            log::warn!("oche.darts: {} or {:#x}", dart.name, dart.registers.start);
        }
    };
    let choice = DartChoice::parse(prepared.options.darts, all, &mut complain);
    if choice.is_none() {
        log::info!(
            "nothing is emulated and nothing is traced: oche.darts={}",
            prepared.options.darts
        );
    }
    choice
}

/// The NVMe controller, if the FDT names one.
fn nvme_controller(tree: &Tree<'_>) -> Option<ans::Controller> {
    let start = device_tree::nvme(tree)?;
    let controller = ans::Controller::at(start, PowerDomains::map(device_tree::power(tree, start)));
    let [_, doorbells] = controller.pages();
    log::info!(
        "nvme: pages that its commands name are at home while it uses them; doorbells at {doorbells}"
    );
    Some(controller)
}
