//! The guest's FDT: firmware's, without Oche's memory, and with the board's changes.
//!
//! It only transforms bytes. Everything that is not described here stays as firmware wrote it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};
use oche_el2::psci;
use oche_types::range::PhysRange;

use crate::blob;

/// The changes.
#[derive(Clone, Copy, Debug)]
pub struct Changes<'a> {
    /// The RAM that the guest has.
    pub memory: &'a [PhysRange],
    /// The place of the initrd. `None` keeps firmware's.
    pub initrd: Option<PhysRange>,
    /// The command line. `None` keeps firmware's.
    pub bootargs: Option<&'a str>,
    /// The board's own change.
    pub board: Option<&'a dyn Edit>,
    /// A virtual device that is added to the machine's.
    pub port: Option<VirtioPort>,
    /// Memory inside `memory` that the guest must leave alone.
    pub reserved: &'a [Reservation],
    /// The CPUs of the spin table. Other CPUs stay as they are.
    pub spin_table: &'a [SpinCpu],
}

/// A board's own change of the guest's FDT.
pub trait Edit: fmt::Debug {
    /// Changes the tree.
    fn edit(&self, root: &mut DeviceTreeNode);
}

/// A node of `/reserved-memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The node's name without its address.
    pub name: &'static str,
    /// The memory.
    pub range: PhysRange,
    /// Whether the guest must not even map it.
    pub no_map: bool,
}

/// A CPU that firmware left in a spin table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpinCpu {
    /// MPIDR affinity fields.
    pub affinity: u64,
    /// The address at which the guest releases it, or `None` if the CPU did not enter Oche: its
    /// node is removed.
    pub release: Option<u64>,
}

/// A virtio-mmio device that Oche emulates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioPort {
    /// Its registers.
    pub window: PhysRange,
    /// The phandle of its interrupt controller, or `None` for the root's.
    pub interrupt_parent: Option<u32>,
    /// Its `interrupts`: type, number, flags (the bindings of Arm's GIC and Apple's AIC agree in
    /// that).
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

/// Creates the guest's FDT from firmware's.
///
/// # Errors
///
/// A [`GuestFdtError`].
pub fn rewrite(blob: &[u8], changes: &Changes<'_>) -> Result<Vec<u8>, GuestFdtError> {
    let checked = blob::check(blob).map_err(|_| GuestFdtError::Damaged)?;
    let mut tree = DeviceTree::from_fdt(&checked.fdt);
    set_memory(&mut tree.root, changes.memory)?;
    set_chosen(&mut tree.root, changes);
    if let Some(board) = changes.board {
        board.edit(&mut tree.root);
    }
    if let Some(port) = &changes.port {
        add_port(&mut tree.root, port);
    }
    reserve(&mut tree.root, changes.reserved);
    set_spin_table(&mut tree.root, changes.spin_table)?;
    Ok(tree.to_dtb())
}

/// Replaces all memory nodes by one with the guest's ranges. Several nodes would only describe
/// NUMA, which Oche's guest does not need.
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

/// Adds nodes to `/reserved-memory`, which is made where there is none. Source: Devicetree
/// Specification 0.4, 3.5.
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
        let mut node =
            DeviceTreeNode::new_unchecked(format!("{}@{:x}", reservation.name, range.start));
        let [start_high, start_low] = split_cells(range.start);
        let [size_high, size_low] = split_cells(range.size());
        set(&mut node, "reg", [start_high, start_low, size_high, size_low]);
        if reservation.no_map {
            node.add_property(DeviceTreeProperty::new_unchecked("no-map", [0u8; 0]));
        }
        parent.add_child(node);
    }
}

/// Sets the new release address of each CPU, and removes those that did not enter Oche, as m1n1
/// does with CPUs that do not start.
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
        let Some(cpu) = cpus.iter().find(|cpu| is_cpu && cpu.affinity == psci::affinity(mpidr))
        else {
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
    // With firmware's release address, the guest would write a word that no CPU reads any more.
    if named == cpus.len() { Ok(()) } else { Err(GuestFdtError::Cpus) }
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

/// The child with this full name, which is created if it does not exist.
fn child<'a>(parent: &'a mut DeviceTreeNode, name: &str) -> &'a mut DeviceTreeNode {
    if parent.child(name).is_none() {
        parent.add_child(DeviceTreeNode::new_unchecked(name));
    }
    parent.child_mut(name).expect("it was there or has been added")
}

fn children_named(node: &DeviceTreeNode, name: &str) -> Vec<String> {
    let names = node.children().map(|child| String::from(child.name()));
    names.filter(|full| full.split('@').next() == Some(name)).collect()
}

/// The value of the property `name`.
pub fn value_of(node: &DeviceTreeNode, name: &str) -> Option<Vec<u8>> {
    node.property(name).map(|property| property.value().to_vec())
}

/// The value of the property `name`, if it is one cell.
pub fn cell(node: &DeviceTreeNode, name: &str) -> Option<u32> {
    node.property(name)
        .and_then(|property| property.value().try_into().ok().map(u32::from_be_bytes))
}

/// A number of two cells.
pub fn split_cells(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

/// Sets the value of the property `name`.
pub fn set<T: dtoolkit::ToPropertyValue>(node: &mut DeviceTreeNode, name: &str, value: T) {
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
}
