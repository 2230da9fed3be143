//! The board's changes of the guest's FDT: replaces the SMMU by the emulated DARTs.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use dtoolkit::Node;
use dtoolkit::model::DeviceTreeNode;
use oche_boot::guest_fdt::{Edit, cell, set, split_cells, value_of};
use oche_types::range::PhysRange;

use crate::iommu_map::Choice;

/// The emulated DARTs.
#[derive(Clone, Copy, Debug)]
pub struct Darts<'a> {
    /// Register blocks, one for each DART.
    pub windows: &'a [PhysRange],
    /// The `interrupts` of each: type, number, flags (GIC binding).
    pub interrupt: [u32; 3],
    /// `compatible` of the IOMMU to remove.
    pub replaces: &'a str,
    /// The streams of the requesters.
    pub map: &'a Choice,
}

impl Edit for Darts<'_> {
    fn edit(&self, root: &mut DeviceTreeNode) {
        replace_iommu(root, self);
    }
}

/// Removes the IOMMU and every reference to it, and adds the DARTs to its parent.
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

/// Removes every node compatible with `compatible`, and collects their phandles.
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

/// Gives each PCI host that used a removed IOMMU a map to the DARTs. An MSI is a device write that
/// the IOMMU translates, to a 4 KiB page of the guest's choice, which 16 KiB hardware may be unable
/// to map. So `msi-map` is removed too, and devices use INTx.
fn point_at_darts(node: &mut DeviceTreeNode, darts: &Darts<'_>, removed: &[u32], phandles: &[u32]) {
    let map = value_of(node, "iommu-map");
    // <requester iommu stream length>
    let used = map
        .as_deref()
        .unwrap_or(&[])
        .chunks_exact(16)
        .filter_map(|entry| entry.get(4..8)?.try_into().ok());
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
    // A platform device behind the removed IOMMU has no stream, so its reference is removed.
    let parent = value_of(node, "iommus")
        .and_then(|value| value.get(..4)?.try_into().ok())
        .map(u32::from_be_bytes);
    if parent.is_some_and(|phandle| removed.contains(&phandle)) {
        node.remove_property("iommus");
    }
    for child in node.children_mut() {
        point_at_darts(child, darts, removed, phandles);
    }
}

/// `iommu-map` and its mask. Without entries in the option: one entry for each slot of bus 0, and a
/// mask that ignores the function number.
fn iommu_map(map: &Choice, phandles: &[u32]) -> (Vec<u32>, Option<u32>) {
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

fn highest_phandle(node: &DeviceTreeNode) -> u32 {
    let own = cell(node, "phandle").filter(|phandle| *phandle != u32::MAX).unwrap_or(0);
    node.children().map(highest_phandle).fold(own, u32::max)
}

fn is_compatible(node: &DeviceTreeNode, with: &str) -> bool {
    value_of(node, "compatible")
        .is_some_and(|value| value.split(|byte| *byte == 0).any(|one| one == with.as_bytes()))
}
