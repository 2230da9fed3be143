//! The emulated DARTs: the addresses of their registers, and their names in the trace.

use alloc::format;
use alloc::vec::Vec;

use oche_platform::recorder::{Description, Device};
use oche_types::dart::registers::REGION_BYTES;
use oche_types::dart::stream::DartId;
use oche_types::range::PhysRange;

use crate::iommu_map::{IommuMap, MAX_DARTS};

/// Guest-physical address of the registers of DART 0; those of the other DARTs follow. QEMU's virt
/// machine has nothing there: the SMMU ends at 0x0907_0000 and the next device is at 0x0a00_0000
/// (QEMU 7.2, `hw/arm/virt.c`, memory map).
pub const DART_REGISTERS: u64 = 0x0910_0000;

/// The guest-physical address of the registers of `dart`.
pub fn dart_window(dart: DartId) -> PhysRange {
    let start = DART_REGISTERS + dart.index() as u64 * REGION_BYTES;
    PhysRange { start, end: start + REGION_BYTES }
}

/// The DART whose registers are at guest-physical `address`, and the offset in them, in bytes.
pub fn dart_at(address: u64) -> Option<(DartId, u64)> {
    let offset = address.checked_sub(DART_REGISTERS)?;
    let dart = DartId::new(usize::try_from(offset / REGION_BYTES).ok()?)?;
    (dart.index() < usize::from(MAX_DARTS)).then_some((dart, offset % REGION_BYTES))
}

/// The description of the machine in the trace.
pub fn describe(map: &IommuMap) -> Description {
    let mut devices = Vec::new();
    for connection in map.connections() {
        let requester = connection.requester;
        let place = requester.place_on_bus();
        // By the slot rule all functions of a slot share a stream, so only the first is listed.
        if place % 8 != 0 && map.stream_of(requester) == map.stream_of(requester.first_function()) {
            continue;
        }
        devices.push(Device {
            source: u32::from(requester.0),
            dart: connection.dart,
            stream: connection.stream,
            name: format!("0000:{:02x}:{:02x}.{}", requester.bus(), place / 8, place % 8),
        });
    }
    let darts = (0..usize::from(MAX_DARTS)).filter_map(DartId::new);
    let darts = darts.map(|dart| (dart, dart_window(dart).start, format!("dart{}", dart.index())));
    Description { board: "qemu-virt", darts: darts.collect(), devices }
}
