//! The demo's devices: which PCI slot, behind which DART, on which stream.

use std::ffi::OsString;

use crate::demo::disks::Disks;
use crate::qemu::escape_commas;

/// The DART whose two devices share one stream.
const SHARED: u8 = 2;

/// A PCI device of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name in the demo.
    pub name: &'static str,
    /// PCI slot on bus 0; its requester id is the slot times 8.
    pub slot: u8,
    /// The DART that it is behind.
    pub dart: u8,
    /// Its stream there.
    pub stream: u8,
}

/// All PCI devices. Two DARTs with several devices on streams of their own, and one whose two
/// devices share a stream, and so one address space. Slots 1 and 5, 2 and 6, 3 and 7 share an
/// interrupt line; the NVMe in slot 4 has one to itself.
pub const ATTACHED: [Attached; 7] = [
    Attached { name: "NVMe", slot: 4, dart: 0, stream: 1 },
    Attached { name: "e1000e", slot: 2, dart: 0, stream: 2 },
    Attached { name: "xHCI", slot: 3, dart: 1, stream: 0 },
    Attached { name: "virtio-blk", slot: 1, dart: 1, stream: 3 },
    Attached { name: "virtio-net", slot: 5, dart: 1, stream: 15 },
    Attached { name: "virtio-blk (shared stream)", slot: 6, dart: SHARED, stream: 4 },
    Attached { name: "virtio-rng (shared stream)", slot: 7, dart: SHARED, stream: 4 },
];

/// The value of `oche.iommu-map` for these devices.
#[must_use]
pub fn iommu_map() -> String {
    let entries = ATTACHED
        .map(|device| format!("{:#04x}:{}:{}", device.slot * 8, device.dart, device.stream));
    entries.join(",")
}

/// QEMU's arguments for the devices, their disks and their networks.
///
/// The two networks are QEMU's own user networks, which reach the host's loopback at address .2 and
/// nothing else that the demo needs.
#[must_use]
pub fn arguments(disks: &Disks) -> Vec<OsString> {
    let mut all = Vec::new();
    for (id, path) in [
        ("nvme", &disks.nvme),
        ("usb", &disks.usb),
        ("vblk", &disks.virtio),
        ("shared", &disks.shared),
        ("mmio", &disks.memory_mapped),
    ] {
        // unsafe: the images are made anew for every run, so nothing is lost if the host crashes.
        let mut value = OsString::from(format!("if=none,id={id},format=raw,cache=unsafe,file="));
        value.push(escape_commas(path));
        all.extend(["-drive".into(), value]);
    }
    let modern = "disable-legacy=on,iommu_platform=on";
    let mut add = |flag: &str, value: String| all.extend([OsString::from(flag), value.into()]);
    add("-netdev", "user,id=network0,net=10.0.2.0/24,host=10.0.2.2".into());
    add("-netdev", "user,id=network1,net=10.0.3.0/24,host=10.0.3.2".into());
    // With shadow doorbells its wired interrupt may stay raised: see docs/known-issues.md.
    add("-device", "nvme,addr=4,drive=nvme,serial=oche-nvme,dbcs=off".into());
    add("-device", "e1000e,addr=2,netdev=network0".into());
    add("-device", "qemu-xhci,addr=3,id=xhci".into());
    add("-device", "usb-storage,bus=xhci.0,drive=usb".into());
    add("-device", format!("virtio-blk-pci,addr=1,drive=vblk,serial=vblk,{modern}"));
    add("-device", format!("virtio-net-pci,addr=5,netdev=network1,{modern}"));
    add("-device", format!("virtio-blk-pci,addr=6,drive=shared,serial=shared,{modern}"));
    add("-device", format!("virtio-rng-pci,addr=7,{modern}"));
    // Memory-mapped: no IOMMU is between this one and memory. No indirect descriptors: the guest
    // would allocate them a few bytes at a time, in pages that hold other drivers' buffers, and a
    // page that any DART maps may be away from home.
    add("-global", "virtio-mmio.force-legacy=false".into());
    add("-device", "virtio-blk-device,drive=mmio,serial=mmio,indirect_desc=off".into());
    all
}

/// The devices behind one DART, for the table.
#[must_use]
pub fn of_dart(dart: u8) -> String {
    let names: Vec<String> = ATTACHED
        .iter()
        .filter(|device| device.dart == dart)
        .map(|device| {
            format!(
                "{} (stream {})",
                device.name.trim_end_matches(" (shared stream)"),
                device.stream
            )
        })
        .collect();
    names.join(", ")
}

/// How many DARTs there are.
#[must_use]
pub fn darts() -> u8 {
    ATTACHED.iter().map(|device| device.dart + 1).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use oche_qemu_virt::iommu_map::MAX_DARTS;

    use super::{ATTACHED, SHARED, darts, iommu_map, of_dart};

    #[test]
    fn the_map_names_every_device_by_its_requester_id() {
        let map = iommu_map();
        assert!(map.starts_with("0x20:0:1,0x10:0:2,0x18:1:0,0x08:1:3,0x28:1:15,0x30:"), "{map}");
        assert!(map.ends_with(&format!("0x38:{SHARED}:4")), "{map}");
    }

    #[test]
    fn two_darts_have_several_streams_and_two_devices_share_one() {
        for dart in 0..2 {
            let mut streams: Vec<u8> = ATTACHED
                .iter()
                .filter(|device| device.dart == dart)
                .map(|device| device.stream)
                .collect();
            streams.dedup();
            assert!(streams.len() >= 2);
        }
        assert!(of_dart(SHARED).ends_with("virtio-blk (stream 4), virtio-rng (stream 4)"));
        assert!(darts() <= MAX_DARTS);
    }
}
