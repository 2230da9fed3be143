//! The devices of a Mac that Oche drives, as its device tree describes them: DARTs with their
//! clients and power domains, and the NVMe controller.

use alloc::string::String;
use alloc::vec::Vec;

use oche_boot::tree::{Tree, TreeNode, number};
use oche_types::dart::registers::REGION_BYTES;
use oche_types::dart::stream::{DartId, MAX_DARTS};
use oche_types::range::PhysRange;

/// The first `compatible` string of a DART that Oche can drive.
const COMPATIBLE: &[u8] = b"apple,t8103-dart";
/// The NVMe controller's `compatible`. Source: Linux `t8103.dtsi`, `nvme`.
const NVME_COMPATIBLE: &[u8] = b"apple,nvme-ans2";
/// A power domain's `compatible`. Source: Linux `apple,pmgr-pwrstate.yaml`.
const POWER_COMPATIBLE: &[u8] = b"apple,pmgr-pwrstate";
/// The most power domains of a device that are looked up.
const MAX_DOMAINS: usize = 8;

/// One DART node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DartNode {
    /// Its registers.
    pub registers: PhysRange,
    /// Its name in Apple's device tree and in the log.
    pub name: String,
    /// Whether the tree enables it.
    pub is_enabled: bool,
    /// The registers of its power domains.
    pub power: Vec<u64>,
    /// The devices behind it: stream and name.
    pub clients: Vec<(u32, String)>,
    phandle: u32,
}

#[cfg(test)]
impl DartNode {
    /// A DART that is enabled, with no power domain and no client.
    pub(crate) fn named(name: &str, start: u64) -> Self {
        Self {
            registers: PhysRange { start, end: start + REGION_BYTES },
            name: name.into(),
            is_enabled: true,
            power: Vec::new(),
            clients: Vec::new(),
            phandle: 0,
        }
    }
}

/// The DARTs' names, by address. Source: `docs/m1.md`, "The DARTs".
const NAMES: [(u64, &str); 15] = [
    (0x6_8100_8000, "pcie0_dart_0"),
    (0x6_8200_8000, "pcie0_dart_1"),
    (0x6_8300_8000, "pcie0_dart_2"),
    (0x3_82f0_0000, "dwc3_0_dart_0"),
    (0x3_82f8_0000, "dwc3_0_dart_1"),
    (0x5_02f0_0000, "dwc3_1_dart_0"),
    (0x5_02f8_0000, "dwc3_1_dart_1"),
    (0x2_3500_4000, "sio_dart"),
    (0x2_2830_4000, "displaydfr_dart"),
    (0x2_3130_4000, "disp0_dart"),
    (0x2_3130_c000, "dcp_dart"),
    (0x2_7130_4000, "dispext0_dart"),
    (0x2_7130_c000, "dcpext_dart"),
    (0x2_4a80_8000, "aop_dart"),
    (0x2_412c_0000, "sep_dart"),
];

/// Every DART in the tree, in its order.
pub fn darts(tree: &Tree<'_>) -> Vec<DartNode> {
    let darts = tree.nodes().filter(|node| node.first_string("compatible") == Some(COMPATIBLE));
    let mut found: Vec<DartNode> = darts.filter_map(|node| read(tree, &node)).collect();
    tree.nodes().for_each(|node| add_clients(&node, &mut found));
    found
}

/// The DARTs that Oche may emulate, with the numbers that it gives them.
pub fn candidates(all: &[DartNode]) -> impl Iterator<Item = (DartId, &DartNode)> {
    let enabled = all.iter().filter(|dart| dart.is_enabled).take(MAX_DARTS);
    enabled.enumerate().filter_map(|(index, dart)| Some((DartId::new(index)?, dart)))
}

/// The address of the NVMe controller's registers, if the tree has one and enables it.
pub fn nvme(tree: &Tree<'_>) -> Option<u64> {
    let is_it = |node: &TreeNode<'_, '_>| {
        is_enabled(node) && node.strings("compatible").any(|name| name == NVME_COMPATIBLE)
    };
    tree.nodes().filter(is_it).last().and_then(|node| start(&node))
}

/// Whether the tree enables the device.
fn is_enabled(node: &TreeNode<'_, '_>) -> bool {
    matches!(node.first_string("status"), None | Some(b"okay" | b"ok"))
}

/// The address of the registers, where addresses have two cells.
pub(crate) fn start(node: &TreeNode<'_, '_>) -> Option<u64> {
    node.bytes("reg").and_then(|reg| reg.get(..8)).map(number)
}

fn read(tree: &Tree<'_>, node: &TreeNode<'_, '_>) -> Option<DartNode> {
    let start = start(node)?;
    // The size is the hardware's, whatever size the tree has.
    let registers = PhysRange::sized(start, REGION_BYTES)?;
    let name =
        NAMES.iter().find(|(address, _)| *address == start).map(|(_, name)| String::from(*name));
    Some(DartNode {
        registers,
        name: name.unwrap_or_else(|| alloc::format!("dart@{start:x}")),
        is_enabled: is_enabled(node),
        power: power_registers(tree, node),
        clients: Vec::new(),
        phandle: node.bytes("phandle").map_or(0, |phandle| number(phandle) as u32),
    })
}

/// The registers of the power domains of the device whose own registers begin at `address`; none
/// where the tree names none.
pub fn power(tree: &Tree<'_>, address: u64) -> Vec<u64> {
    let devices = tree.nodes().filter(|node| start(node) == Some(address));
    devices.flat_map(|device| power_registers(tree, &device)).collect()
}

/// The registers of the power domains of `node`.
fn power_registers(tree: &Tree<'_>, node: &TreeNode<'_, '_>) -> Vec<u64> {
    let domains = node.bytes("power-domains").unwrap_or(&[]);
    let phandles = domains.chunks_exact(4).take(MAX_DOMAINS).map(|phandle| number(phandle) as u32);
    phandles.filter_map(|phandle| power_register(tree, phandle)).collect()
}

/// The register of the power domain with `phandle`: its own offset in its parent's registers.
fn power_register(tree: &Tree<'_>, phandle: u32) -> Option<u64> {
    let is_it = |node: &TreeNode<'_, '_>| {
        node.bytes("phandle").is_some_and(|own| number(own) as u32 == phandle)
            && node.strings("compatible").any(|name| name == POWER_COMPATIBLE)
    };
    let mut found = None;
    for parent in tree.nodes() {
        let Some(base) = start(&parent) else { continue };
        for child in parent.children().filter(is_it) {
            if let Some(offset) = child.bytes("reg").and_then(|reg| reg.get(..4)) {
                found = base.checked_add(number(offset));
            }
        }
    }
    found
}

fn add_clients(node: &TreeNode<'_, '_>, found: &mut [DartNode]) {
    let mut add = |phandle: u32, stream: u32| {
        if let Some(dart) = found.iter_mut().find(|dart| dart.phandle == phandle && phandle != 0) {
            dart.clients.push((stream, String::from(node.name())));
        }
    };
    for entry in node.bytes("iommus").unwrap_or(&[]).chunks_exact(8) {
        add(number(&entry[..4]) as u32, number(&entry[4..]) as u32);
    }
    // <requester iommu stream length>
    for entry in node.bytes("iommu-map").unwrap_or(&[]).chunks_exact(16) {
        add(number(&entry[4..8]) as u32, number(&entry[8..12]) as u32);
    }
}
