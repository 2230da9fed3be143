//! The composition root.

mod uart;

use oche_boot::bare::console;
use oche_boot::bare::entry::FdtAddress;
use oche_boot::bare::frame::TrapFrame;
use oche_boot::bare::launch;
use oche_boot::bare::trap::{self, Fault, Platform, Resume};
use oche_boot::guest_fdt::Darts;
use oche_boot::range::PhysRange;
use oche_hyp::dart::stream::DartId;
use oche_qemu_virt::mediation::{dart_at, dart_window};

use uart::Pl011;

/// The SMMU's registers, both 64 KiB pages. Source: QEMU 7.2 `hw/arm/virt.c`, `VIRT_SMMU`.
const SMMU: PhysRange = PhysRange { start: 0x0905_0000, end: 0x0907_0000 };
/// The SMMU's event queue interrupt, SPI 74, edge-triggered. Source: the same, `irqmap`.
const EVENT_INTERRUPT: [u32; 3] = [0, 74, 1];

oche_boot::entry!(main);

fn main(fdt: FdtAddress) -> ! {
    launch::map_registers(uart::REGISTERS);
    console::set(&Pl011);
    log::info!("Oche {} on qemu-virt", env!("CARGO_PKG_VERSION"));
    let prepared = launch::prepare(fdt);
    let darts = [0, 1].map(|index| DartId::new(index).map_or(PhysRange::default(), dart_window));
    let _stage2 = prepared.stage2(&[SMMU, darts[0], darts[1]]);
    trap::set_platform(&Virt);
    let map = prepared.options.iommu_map;
    prepared.launch(Some(Darts {
        windows: &darts,
        interrupt: EVENT_INTERRUPT,
        replaces: "arm,smmu-v3",
        map: &map,
    }))
}

struct Virt;

impl Platform for Virt {
    fn stage2_fault(&self, fault: &Fault, frame: &mut TrapFrame) -> Resume {
        let Some(access) = fault.mmio(frame).filter(|access| dart_at(access.address).is_some()) else {
            return Resume::Abort;
        };
        if access.write.is_none() {
            access.answer(frame, 0);
        }
        Resume::Next
    }
}
