//! The tree that the guest sees: firmware's, without Oche's memory and the SMMU, with DARTs.
//!
//! Pure: bytes in, bytes out. Everything that is not named here stays as firmware wrote it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};
use oche_types::range::PhysRange;

use crate::blob;
use crate::options::IommuMap;
use crate::psci;

/// What changes.
#[derive(Clone, Copy, Debug)]
pub struct Changes<'a> {
    /// The RAM that the guest has.
    pub memory: &'a [PhysRange],
    /// Where the initrd is. `None` leaves firmware's.
    pub initrd: Option<PhysRange>,
    /// The command line. `None` leaves firmware's.
    pub bootargs: Option<&'a str>,
    /// The DARTs that replace the machine's own IOMMU, on a machine where Oche plays them.
    pub darts: Option<Darts<'a>>,
    /// A device of Oche's own that the guest finds beside the machine's.
    pub port: Option<VirtioPort>,
    /// Memory inside `memory` that the guest must leave alone.
    pub reserved: &'a [Reservation],
    /// What becomes of CPUs that wait in a spin table. Those that are not named stay as they are.
    pub spin_table: &'a [SpinCpu],
}

/// A node of `/reserved-memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The node's name without its address.
    pub name: &'static str,
    /// The memory.
    pub range: PhysRange,
    /// The guest must not even map it.
    pub no_map: bool,
}

/// A CPU that firmware had waiting in a spin table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpinCpu {
    /// MPIDR affinity fields.
    pub affinity: u64,
    /// Where the guest releases it, or `None`: it never came, and the guest must not hear of it.
    pub release: Option<u64>,
}

/// The DARTs that the guest is shown.
#[derive(Clone, Copy, Debug)]
pub struct Darts<'a> {
    /// Register blocks, one for each DART.
    pub windows: &'a [PhysRange],
    /// The `interrupts` of each: type, number, flags (GIC binding).
    pub interrupt: [u32; 3],
    /// `compatible` of the IOMMU that disappears.
    pub replaces: &'a str,
    /// Which requester is which stream.
    pub map: &'a IommuMap,
}

/// A virtio-mmio device that Oche plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioPort {
    /// Its registers.
    pub window: PhysRange,
    /// The phandle of the interrupt controller that it is wired to. `None`: the root's.
    pub interrupt_parent: Option<u32>,
    /// Its `interrupts`: type, number, flags (the bindings of Arm's GIC and Apple's AIC agree in that).
    pub interrupt: [u32; 3],
}

/// The blob cannot be edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestFdtError {
    /// It does not parse.
    Damaged,
    /// No `/memory` node, or the root's cells are not two and two.
    Memory,
    /// A CPU of the spin table is not one node of `/cpus`.
    Cpus,
}

impl GuestFdtError {
    /// The reason in words, for one line on the console.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Damaged => "the FDT does not parse",
            Self::Memory => "the FDT has no /memory with two address cells and two size cells",
            Self::Cpus => "a CPU of the spin table is not one node of the FDT's /cpus",
        }
    }
}

/// The guest's blob, made of firmware's.
///
/// # Errors
///
/// A [`GuestFdtError`].
pub fn rewrite(blob: &[u8], changes: &Changes<'_>) -> Result<Vec<u8>, GuestFdtError> {
    let fdt = blob::check(blob).map_err(|_| GuestFdtError::Damaged)?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    set_memory(&mut tree.root, changes.memory)?;
    set_chosen(&mut tree.root, changes);
    if let Some(darts) = &changes.darts {
        replace_iommu(&mut tree.root, darts);
    }
    if let Some(port) = &changes.port {
        add_port(&mut tree.root, port);
    }
    reserve(&mut tree.root, changes.reserved);
    set_spin_table(&mut tree.root, changes.spin_table)?;
    Ok(tree.to_dtb())
}

/// Leaves one memory node, with the guest's ranges. Several nodes only ever told of NUMA, which a guest of
/// Oche's does without.
fn set_memory(root: &mut DeviceTreeNode, memory: &[PhysRange]) -> Result<(), GuestFdtError> {
    if cell(root, "#address-cells") != Some(2) || cell(root, "#size-cells") != Some(2) {
        return Err(GuestFdtError::Memory);
    }
    let names: Vec<String> = children_named(root, "memory");
    let (kept, others) = names.split_first().ok_or(GuestFdtError::Memory)?;
    for other in others {
        root.remove_child(other);
    }
    let reg: Vec<u32> = memory
        .iter()
        .flat_map(|range| split_cells(range.start).into_iter().chain(split_cells(range.size())))
        .collect();
    let node = child(root, kept);
    set(node, "reg", reg);
    node.remove_property("numa-node-id");
    Ok(())
}

fn set_chosen(root: &mut DeviceTreeNode, changes: &Changes<'_>) {
    let chosen = child(root, "chosen");
    if let Some(initrd) = changes.initrd {
        set(chosen, "linux,initrd-start", initrd.start);
        set(chosen, "linux,initrd-end", initrd.end);
    }
    if let Some(bootargs) = changes.bootargs {
        set(chosen, "bootargs", bootargs);
    }
}

/// Adds nodes to `/reserved-memory`, which is made where there is none. Source: Devicetree Specification 0.4, 3.5.
fn reserve(root: &mut DeviceTreeNode, reservations: &[Reservation]) {
    if reservations.is_empty() {
        return;
    }
    if root.child_mut("reserved-memory").is_none() {
        let mut node = DeviceTreeNode::new_unchecked("reserved-memory");
        set(&mut node, "#address-cells", 2u32);
        set(&mut node, "#size-cells", 2u32);
        node.add_property(DeviceTreeProperty::new_unchecked("ranges", [0u8; 0]));
        root.add_child(node);
    }
    let parent = child(root, "reserved-memory");
    for reservation in reservations {
        let range = reservation.range;
        let mut node = DeviceTreeNode::new_unchecked(format!("{}@{:x}", reservation.name, range.start));
        let [start_high, start_low] = split_cells(range.start);
        let [size_high, size_low] = split_cells(range.size());
        set(&mut node, "reg", [start_high, start_low, size_high, size_low]);
        if reservation.no_map {
            node.add_property(DeviceTreeProperty::new_unchecked("no-map", [0u8; 0]));
        }
        parent.add_child(node);
    }
}

/// Gives each CPU its new release address; takes out those that never came, as m1n1 does with dead ones.
fn set_spin_table(root: &mut DeviceTreeNode, cpus: &[SpinCpu]) -> Result<(), GuestFdtError> {
    if cpus.is_empty() {
        return Ok(());
    }
    let parent = root.child_mut("cpus").ok_or(GuestFdtError::Cpus)?;
    let (mut dead, mut named) = (Vec::new(), 0);
    for node in parent.children_mut() {
        let reg = value_of(node, "reg").unwrap_or_default();
        let mpidr = reg.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let is_cpu = node.name().split('@').next() == Some("cpu");
        let Some(cpu) = cpus.iter().find(|cpu| is_cpu && cpu.affinity == psci::affinity(mpidr)) else {
            continue;
        };
        named += 1;
        match cpu.release {
            Some(release) => set(node, "cpu-release-addr", release),
            None => dead.push(String::from(node.name())),
        }
    }
    for name in dead {
        parent.remove_child(&name);
    }
    // A CPU that keeps firmware's word would wait where nobody looks any more.
    if named == cpus.len() { Ok(()) } else { Err(GuestFdtError::Cpus) }
}

/// Takes the IOMMU out, and with it every reference; puts the DARTs in its place, in the same parent.
fn replace_iommu(root: &mut DeviceTreeNode, darts: &Darts<'_>) {
    let mut removed = Vec::new();
    remove_compatible(root, darts.replaces, &mut removed);
    let mut phandle = highest_phandle(root);
    let mut phandles = Vec::new();
    for window in darts.windows {
        phandle = phandle.saturating_add(1);
        phandles.push(phandle);
        let mut node = DeviceTreeNode::new_unchecked(format!("iommu@{:x}", window.start));
        set(&mut node, "compatible", "apple,t8103-dart");
        let [start_high, start_low] = split_cells(window.start);
        let [size_high, size_low] = split_cells(window.size());
        set(&mut node, "reg", [start_high, start_low, size_high, size_low]);
        set(&mut node, "interrupts", darts.interrupt);
        set(&mut node, "#iommu-cells", 1u32);
        set(&mut node, "phandle", phandle);
        root.add_child(node);
    }
    point_at_darts(root, darts, &removed, &phandles);
}

fn add_port(root: &mut DeviceTreeNode, port: &VirtioPort) {
    let mut node = DeviceTreeNode::new_unchecked(format!("virtio_mmio@{:x}", port.window.start));
    set(&mut node, "compatible", "virtio,mmio");
    let [start_high, start_low] = split_cells(port.window.start);
    let [size_high, size_low] = split_cells(port.window.size());
    set(&mut node, "reg", [start_high, start_low, size_high, size_low]);
    if let Some(parent) = port.interrupt_parent {
        set(&mut node, "interrupt-parent", parent);
    }
    set(&mut node, "interrupts", port.interrupt);
    set(&mut node, "dma-coherent", Vec::<u32>::new());
    root.add_child(node);
}

/// Removes every node compatible with `compatible`, and notes their phandles.
fn remove_compatible(node: &mut DeviceTreeNode, compatible: &str, phandles: &mut Vec<u32>) {
    let doomed: Vec<String> = node
        .children()
        .filter(|child| is_compatible(child, compatible))
        .map(|child| String::from(child.name()))
        .collect();
    for name in doomed {
        phandles.extend(node.remove_child(&name).and_then(|child| cell(&child, "phandle")));
    }
    for child in node.children_mut() {
        remove_compatible(child, compatible, phandles);
    }
}

/// Gives each PCI host that used a removed IOMMU a map to the DARTs. MSIs are device writes that the IOMMU
/// translates, at a 4K page of the guest's choice which no 16K hardware need be able to express, so
/// `msi-map` goes too and devices fall back to INTx.
fn point_at_darts(node: &mut DeviceTreeNode, darts: &Darts<'_>, removed: &[u32], phandles: &[u32]) {
    let map = value_of(node, "iommu-map");
    // <requester iommu stream length>
    let used =
        map.as_deref().unwrap_or(&[]).chunks_exact(16).filter_map(|entry| entry.get(4..8)?.try_into().ok());
    if used.map(u32::from_be_bytes).any(|phandle| removed.contains(&phandle)) {
        let (map, mask) = iommu_map(darts.map, phandles);
        set(node, "iommu-map", map);
        node.remove_property("iommu-map-mask");
        if let Some(mask) = mask {
            set(node, "iommu-map-mask", mask);
        }
        node.remove_property("msi-map");
        node.remove_property("msi-map-mask");
        node.remove_property("msi-parent");
    }
    // A platform device straight behind the removed IOMMU: no stream stands for it, so it goes without.
    let parent =
        value_of(node, "iommus").and_then(|value| value.get(..4)?.try_into().ok()).map(u32::from_be_bytes);
    if parent.is_some_and(|phandle| removed.contains(&phandle)) {
        node.remove_property("iommus");
    }
    for child in node.children_mut() {
        point_at_darts(child, darts, removed, phandles);
    }
}

/// `iommu-map` and its mask. Without entries of the user's: one entry for each slot of bus 0, and the mask
/// that makes a slot's functions one.
fn iommu_map(map: &IommuMap, phandles: &[u32]) -> (Vec<u32>, Option<u32>) {
    let entry = |requester: u16| {
        let mapping = map.stream_of(requester)?;
        let phandle = phandles.get(usize::from(mapping.dart))?;
        Some([u32::from(requester), *phandle, u32::from(mapping.stream), 1])
    };
    if map.entries().is_empty() {
        return ((0..32).filter_map(|slot| entry(slot << 3)).flatten().collect(), Some(0xfff8));
    }
    (map.entries().iter().filter_map(|mapping| entry(mapping.requester)).flatten().collect(), None)
}

/// The child with this full name, which is made where there is none.
fn child<'a>(parent: &'a mut DeviceTreeNode, name: &str) -> &'a mut DeviceTreeNode {
    if parent.child(name).is_none() {
        parent.add_child(DeviceTreeNode::new_unchecked(name));
    }
    parent.child_mut(name).expect("it was there or has been added")
}

fn highest_phandle(node: &DeviceTreeNode) -> u32 {
    let own = cell(node, "phandle").filter(|phandle| *phandle != u32::MAX).unwrap_or(0);
    node.children().map(highest_phandle).fold(own, u32::max)
}

fn children_named(node: &DeviceTreeNode, name: &str) -> Vec<String> {
    let names = node.children().map(|child| String::from(child.name()));
    names.filter(|full| full.split('@').next() == Some(name)).collect()
}

fn is_compatible(node: &DeviceTreeNode, with: &str) -> bool {
    value_of(node, "compatible")
        .is_some_and(|value| value.split(|byte| *byte == 0).any(|one| one == with.as_bytes()))
}

fn value_of(node: &DeviceTreeNode, name: &str) -> Option<Vec<u8>> {
    node.property(name).map(|property| property.value().to_vec())
}

fn cell(node: &DeviceTreeNode, name: &str) -> Option<u32> {
    node.property(name).and_then(|property| property.value().try_into().ok().map(u32::from_be_bytes))
}

fn split_cells(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

fn set<T: dtoolkit::ToPropertyValue>(node: &mut DeviceTreeNode, name: &str, value: T) {
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
}
