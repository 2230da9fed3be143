//! The board's `main`: brings up the machine, and wires engine, driver and EL2 together.
// UNSAFETY: device registers are raw addresses, and this module knows which are where.
#![expect(unsafe_code, reason = "device registers are raw addresses")]

mod not_el2;
mod uart;

use oche_boot::bare::board::Board;
use oche_boot::bare::entry::FdtAddress;
use oche_boot::bare::prepare::{Prepared, prepare};
use oche_boot::bare::{heap, memory};
use oche_boot::guest_fdt::VirtioPort;
use oche_boot::layout::{HEAP_BYTES, MemoryLayout};
use oche_el2::device::{IoError, IoResult};
use oche_el2::failure::Failure;
use oche_el2::fault::{Platform, Resume, Stage2Fault, TrapContext};
use oche_el2::firmware::{self, fatal};
use oche_el2::frame::TrapFrame;
use oche_el2::identity;
use oche_el2::lock::SpinLock;
use oche_el2::stage2::Stage2;
use oche_el2::tlb::Cpus;
use oche_el2::{console, trapped_page};
use oche_platform::emulated_darts::{EmulatedDarts, Setup};
use oche_platform::panic_trace;
use oche_platform::port::SetInterrupt;
use oche_platform::recorder::IS_COMPILED_IN;
use oche_qemu_virt::darts::{dart_at, dart_window, describe};
use oche_qemu_virt::gic::{DISTRIBUTOR, SharedInterrupt};
use oche_qemu_virt::guest_fdt::Darts;
use oche_qemu_virt::iommu_map::{Choice, IommuMap};
use oche_qemu_virt::memory::DARTS;
use oche_qemu_virt::port;
use oche_qemu_virt::smmu::{Registers, Smmu};
use oche_types::dart::stream::{DartId, STREAMS};
use oche_types::range::PhysRange;

use uart::Pl011;

/// Where RAM begins, behind all devices but PCIe's second window. Source: QEMU 7.2
/// `hw/arm/virt.c`, `VIRT_MEM`.
const RAM: u64 = 0x4000_0000;
/// The SMMU's registers, both 64 KiB pages. Source: QEMU 7.2 `hw/arm/virt.c`, `VIRT_SMMU`.
const SMMU: PhysRange = PhysRange { start: 0x0905_0000, end: 0x0907_0000 };
const SMMU_COMPATIBLE: &str = "arm,smmu-v3";
/// The SMMU's event queue interrupt, SPI 74, edge-triggered. Source: the same, `irqmap`.
const EVENT_INTERRUPT: [u32; 3] = [0, 74, 1];
/// GIC binding: an edge-triggered interrupt.
const EDGE_RISING: u32 = 1;
/// The PL031 clock. Source: QEMU 7.2 `hw/arm/virt.c`, `VIRT_RTC`; Arm DDI 0224, 3.3.1.
const RTC: PhysRange = PhysRange { start: 0x0901_0000, end: 0x0901_1000 };

oche_boot::entry!(main, "qemu-virt");
oche_el2::handle_traps!(Virt);

/// The board. Its firmware reserves no memory around RAM, so nothing needs a mapping in pages.
struct QemuVirt;

// SAFETY: `main` passes the registers of the SMMU, the machine's only IOMMU, as a hole, and the
// machine has no memory beside RAM.
unsafe impl Board for QemuVirt {
    const NAME: &'static str = "qemu-virt";
    const COMPATIBLE: &'static str = SMMU_COMPATIBLE;
    const INCOMPATIBLE: &'static str =
        "there is no SMMUv3 to stand in for the DARTs (QEMU: -M virt,iommu=smmuv3)";
    const RESERVES_IMAGE: bool = false;
    const FAILS_OPEN: bool = false;

    fn engine_bytes(ram_bytes: u64, pool_bytes: u64) -> u64 {
        oche_qemu_virt::memory::engine_bytes(ram_bytes, pool_bytes)
    }
}

fn main(fdt: FdtAddress) -> ! {
    for registers in [uart::REGISTERS, SMMU, DISTRIBUTOR, RTC] {
        memory::map_registers(registers);
    }
    console::set(&Pl011);
    // QEMU itself handles PSCI through SMC if the machine has EL2, so this is known before the FDT
    // is read.
    firmware::set_present(true);
    log::info!("Oche {} on qemu-virt", identity::own());
    let prepared = prepare::<QemuVirt>(fdt);
    let windows: [PhysRange; DARTS] =
        core::array::from_fn(|index| DartId::new(index).map_or(PhysRange::default(), dart_window));
    let [first, second, third] = windows;
    let mut stage2 = prepared.stage2(&[SMMU, first, second, third, port::WINDOW]);
    if prepared.options.selftest {
        prepared.selftest::<QemuVirt>(env!("CARGO_PKG_VERSION"), &mut stage2);
        oche_boot::bare::selftest::end();
    }
    let map = prepared.options.iommu_map.map_or_else(Choice::default, choice);
    panic_trace::register(prepared.layout.trace, prepared.trace_layout());
    let emulated_darts = emulate_darts(&prepared, stage2, IommuMap::of(&map));
    #[cfg(feature = "measure")]
    let emulated_darts = measured(emulated_darts, &prepared.layout);
    let emulated_darts = SpinLock::new(emulated_darts);
    PLATFORM.set(alloc::boxed::Box::leak(alloc::boxed::Box::new(Virt { emulated_darts })));
    let darts = Darts {
        windows: &windows,
        interrupt: EVENT_INTERRUPT,
        replaces: SMMU_COMPATIBLE,
        map: &map,
    };
    let has_port = IS_COMPILED_IN && prepared.trace_layout().ring_records() != 0;
    let port = VirtioPort {
        window: port::WINDOW,
        interrupt_parent: None,
        interrupt: [0, port::INTERRUPT, EDGE_RISING],
    };
    prepared.launch(Some(&darts), has_port.then_some(port))
}

/// Brings up the SMMU and creates the emulated DARTs.
fn emulate_darts(
    prepared: &Prepared,
    stage2: Stage2<Cpus>,
    connections: IommuMap,
) -> EmulatedDarts<Smmu> {
    let (used_before, _) = heap::usage();
    let emulated_darts = EmulatedDarts::new(Setup {
        description: &describe(&connections),
        iommu: bring_up_smmu(connections),
        ram: prepared.layout.guest.as_slice(),
        pool: prepared.layout.pool,
        isolation: prepared.options.isolation,
        stage2,
        trace: prepared.layout.trace,
        trace_layout: prepared.trace_layout(),
        trace_orders: prepared.options.trace_orders.unwrap_or(""),
        wall_clock_nanoseconds: read_wall_clock(),
        set_port_interrupt: Some(port_interrupt()),
    });
    check_heap(used_before, &prepared.layout);
    emulated_darts
}

fn bring_up_smmu(connections: IommuMap) -> Smmu {
    // SAFETY: virt's SMMUv3 is there, mapped as device memory by `main`, and hidden from the guest.
    let registers = unsafe { Registers::at(SMMU.start as usize) };
    let smmu = Smmu::new(registers, connections, DARTS * STREAMS);
    let smmu = smmu.unwrap_or_else(|reason| {
        fatal(Failure::Smmu, format_args!("the SMMU cannot stand in for a DART: {reason:?}"));
    });
    let layout = smmu.layout();
    log::info!(
        "smmu: stream table {:#x}, contexts {:#x}, blocking {:#x}, commands {:#x}, events {:#x}",
        layout.stream_table,
        layout.contexts,
        layout.blocking,
        layout.commands,
        layout.events
    );
    smmu
}

/// Raises the interrupt of the trace port.
fn port_interrupt() -> SetInterrupt {
    // SAFETY: virt's distributor is there and was mapped as device memory by `main`.
    let interrupt = unsafe { SharedInterrupt::new(port::INTERRUPT) };
    alloc::boxed::Box::new(move |is_up| {
        if is_up {
            interrupt.raise();
        }
    })
}

/// Parses the value of `oche.iommu-map`.
fn choice(text: &str) -> Choice {
    Choice::parse(text).unwrap_or_else(|| {
        log::warn!("option ignored: oche.iommu-map");
        Choice::default()
    })
}

/// The current time in nanoseconds since 1970 UTC, to the second, or `None` if the clock was never
/// set.
fn read_wall_clock() -> Option<u64> {
    let register = RTC.start as *const u32;
    // SAFETY: mapped as device memory by `main`; `RTCDR`, its first register, can be read at any
    // time.
    let seconds = unsafe { core::ptr::read_volatile(register) };
    (seconds != 0).then_some(u64::from(seconds) * 1_000_000_000)
}

/// Measures what events of the trace and the parts of a flush cost, and turns the machine off.
#[cfg(feature = "measure")]
fn measured(mut emulated_darts: EmulatedDarts<Smmu>, layout: &MemoryLayout) -> EmulatedDarts<Smmu> {
    use oche_types::addr::{Gfn, PAGE_BYTES};

    let last = layout.guest.as_slice().last().expect("invariant: the guest has memory");
    // The guest never starts: its last two pages are free.
    let [one, other] = [2, 1].map(|pages| {
        Gfn::containing(last.end - pages * PAGE_BYTES as u64).expect("invariant: a page of RAM")
    });
    emulated_darts.measure(one, other);
    firmware::power_off()
}

/// Checks that the engine uses no more heap than its bound, from which the heap's size was
/// computed.
fn check_heap(used_before: usize, layout: &MemoryLayout) {
    let (used, _) = heap::usage();
    let (taken, bound) = (
        (used - used_before) as u64,
        QemuVirt::engine_bytes(layout.guest.total(), layout.pool.size()),
    );
    log::info!("engine: {} of at most {} KiB of heap", taken >> 10, (bound + HEAP_BYTES) >> 10);
    if taken > bound + HEAP_BYTES {
        fatal(
            Failure::Smmu,
            format_args!("the engine took {taken} bytes of heap, more than its bound of {bound}"),
        );
    }
}

/// The emulated DARTs, behind their lock.
struct Virt {
    emulated_darts: SpinLock<EmulatedDarts<Smmu>>,
}

// SAFETY: the registers of DARTs and of the port are emulated, any other address is refused, and a
// trapped page is accessed through the engine.
unsafe impl Platform for Virt {
    #[inline]
    fn may_be_memory(address: u64) -> bool {
        address >= RAM
    }

    #[inline(always)]
    fn dart_at(&self, address: u64) -> Option<(DartId, u64)> {
        dart_at(address)
    }

    #[inline(always)]
    fn access_dart(
        &'static self,
        context: TrapContext,
        (dart, offset): (DartId, u64),
        bytes: usize,
        write: Option<u64>,
    ) -> IoResult {
        self.emulated_darts.lock().access_dart(context, dart, offset, bytes, write)
    }

    fn access_device(
        &'static self,
        context: TrapContext,
        address: u64,
        bytes: usize,
        write: Option<u64>,
    ) -> IoResult {
        if !port::WINDOW.contains(address) {
            return Err(IoError::NoRegister);
        }
        let offset = address - port::WINDOW.start;
        self.emulated_darts.lock().access_port(context, offset, bytes, write)
    }

    fn access_trapped_page(&'static self, fault: &Stage2Fault, frame: &mut TrapFrame) -> Resume {
        trapped_page::hw::on_fault(&self.emulated_darts, fault, frame)
    }

    #[inline(always)]
    fn emulate_known(&'static self, far: u64, is_write: bool, frame: &mut TrapFrame) -> bool {
        trapped_page::known::emulate_known(&self.emulated_darts, far, is_write, frame)
    }

    fn step_ended(
        &'static self,
        is_done: bool,
        frame: &mut TrapFrame,
        fault: &mut dyn FnMut() -> Option<Stage2Fault>,
    ) -> Option<Resume> {
        trapped_page::hw::on_step(&self.emulated_darts, is_done, frame, fault)
    }
}
