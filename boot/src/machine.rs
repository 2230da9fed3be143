//! What the firmware's FDT says about the machine, read without allocation.
//!
//! The blob is validated as a whole first (structure, strings, sizes), so damage is an error here and never a
//! panic later.

use fdt::node::FdtNode;

use crate::psci;
use crate::range::{ListFull, PhysRange, RangeList};

/// Most CPUs that are run.
pub const MOST_CPUS: usize = 16;
/// The largest FDT that is read. Source: Linux `Documentation/arm64/booting.rst`, section 2: 2 MiB.
pub const FDT_LIMIT: u64 = 2 << 20;
/// The deepest nesting that is followed. Trees in use have less than ten levels; readers recurse.
const DEPTH_LIMIT: usize = 24;

/// The machine.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The blob, exactly `totalsize` long.
    pub blob: &'a [u8],
    /// RAM, as `/memory` nodes say.
    pub ram: RangeList,
    /// What firmware keeps: the memory reservation block and `/reserved-memory` with fixed places.
    pub reserved: RangeList,
    /// MPIDR affinities of the CPUs, in the FDT's order.
    affinities: [u64; MOST_CPUS],
    cpu_count: usize,
    /// CPUs beyond [`MOST_CPUS`], which stay off.
    pub cpus_ignored: usize,
    /// `/chosen/linux,initrd-start` and `-end`.
    pub initrd: Option<PhysRange>,
    /// There is PSCI and it is called by `SMC`.
    pub has_psci_smc: bool,
}

/// Why an FDT is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineError {
    /// It does not parse, or nests deeper than any tree in use.
    Damaged,
    /// No usable `/memory`.
    NoMemory,
    /// More ranges of memory than fit a list.
    TooManyRanges,
    /// No CPU has a `reg`.
    NoCpus,
}

impl MachineError {
    /// The reason in words, for one line on the console.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Damaged => "the FDT does not parse",
            Self::NoMemory => "the FDT names no memory",
            Self::TooManyRanges => "the FDT names more memory ranges than Oche keeps",
            Self::NoCpus => "the FDT names no CPU",
        }
    }
}

impl From<ListFull> for MachineError {
    fn from(_: ListFull) -> Self {
        Self::TooManyRanges
    }
}

impl<'a> Machine<'a> {
    /// Reads `bytes`, which begin with the blob and may go on behind it.
    ///
    /// # Errors
    ///
    /// A [`MachineError`] when Oche cannot run on what is described.
    pub fn read(bytes: &'a [u8]) -> Result<Self, MachineError> {
        let blob = total_size(bytes).and_then(|size| bytes.get(..size)).ok_or(MachineError::Damaged)?;
        check_depth(blob)?;
        dtoolkit::fdt::Fdt::new(blob).map_err(|_| MachineError::Damaged)?;
        let tree = fdt::Fdt::new(blob).map_err(|_| MachineError::Damaged)?;
        let root = tree.find_node("/").ok_or(MachineError::Damaged)?;
        let mut machine = Self {
            blob,
            ram: RangeList::new(),
            reserved: RangeList::new(),
            affinities: [0; MOST_CPUS],
            cpu_count: 0,
            cpus_ignored: 0,
            initrd: None,
            has_psci_smc: false,
        };
        let cells = Cells::of(&root);
        for node in root.children() {
            match node.name.split('@').next() {
                Some("memory") => add_ranges(&mut machine.ram, &node, cells)?,
                Some("cpus") => machine.read_cpus(&node),
                Some("chosen") => machine.read_chosen(&node),
                Some("psci") => machine.has_psci_smc = text(&node, "method") == Some("smc"),
                Some("reserved-memory") => {
                    let cells = Cells::of(&node);
                    for child in node.children() {
                        add_ranges(&mut machine.reserved, &child, cells)?;
                    }
                }
                _ => {}
            }
        }
        for reservation in tree.memory_reservations() {
            let range = PhysRange::sized(reservation.address() as u64, reservation.size() as u64);
            machine.reserved.push(range.ok_or(MachineError::Damaged)?)?;
        }
        if machine.ram.as_slice().is_empty() {
            return Err(MachineError::NoMemory);
        }
        if machine.cpu_count == 0 {
            return Err(MachineError::NoCpus);
        }
        Ok(machine)
    }

    /// MPIDR affinities, one for each CPU that is run.
    pub fn affinities(&self) -> &[u64] {
        self.affinities.get(..self.cpu_count).unwrap_or(&[])
    }

    /// Calls `found` with each string property of `/chosen` whose name begins with `oche.`.
    pub fn chosen_options(&self, found: &mut dyn FnMut(&'a str, &'a str)) {
        let Ok(tree) = fdt::Fdt::new(self.blob) else { return };
        let Some(chosen) = tree.find_node("/chosen") else { return };
        for property in chosen.properties().filter(|property| property.name.starts_with("oche.")) {
            if let Ok(value) = str::from_utf8(property.value) {
                found(property.name, value.trim_end_matches('\0'));
            }
        }
    }

    fn read_cpus(&mut self, cpus: &FdtNode<'_, '_>) {
        let cells = Cells::of(cpus);
        for cpu in cpus.children().filter(|node| node.name.split('@').next() == Some("cpu")) {
            let Some(mpidr) = cpu.property("reg").and_then(|reg| number(reg.value, cells.address)) else {
                continue;
            };
            match self.affinities.get_mut(self.cpu_count) {
                Some(slot) => {
                    *slot = psci::affinity(mpidr);
                    self.cpu_count += 1;
                }
                None => self.cpus_ignored += 1,
            }
        }
    }

    fn read_chosen(&mut self, chosen: &FdtNode<'_, '_>) {
        // Four or eight bytes, whatever the root's cells are.
        let address = |name| {
            let value = chosen.property(name)?.value;
            number(value, value.len() / 4)
        };
        if let (Some(start), Some(end)) = (address("linux,initrd-start"), address("linux,initrd-end")) {
            self.initrd = Some(PhysRange { start, end }).filter(|range| !range.is_empty());
        }
    }
}

/// The blob's `totalsize`, if `bytes` begin with an FDT header of a believable size.
pub fn total_size(bytes: &[u8]) -> Option<usize> {
    if number(bytes, 1)? != 0xd00d_feed {
        return None;
    }
    let size = number(bytes.get(4..)?, 1)?;
    (40..=FDT_LIMIT).contains(&size).then_some(size as usize)
}

/// `#address-cells` and `#size-cells` for the children of a node.
#[derive(Clone, Copy)]
struct Cells {
    address: usize,
    size: usize,
}

impl Cells {
    /// Defaults of 2 and 1: Devicetree Specification 2.3.5.
    fn of(node: &FdtNode<'_, '_>) -> Self {
        let cell = |name, default| {
            let value = node.property(name).and_then(|property| number(property.value, 1));
            value.filter(|cells| *cells <= 2).map_or(default, |cells| cells as usize)
        };
        Self { address: cell("#address-cells", 2), size: cell("#size-cells", 1) }
    }
}

fn add_ranges(list: &mut RangeList, node: &FdtNode<'_, '_>, cells: Cells) -> Result<(), MachineError> {
    let step = 4 * (cells.address + cells.size);
    let Some(reg) = node.property("reg").filter(|_| step != 0) else { return Ok(()) };
    for entry in reg.value.chunks_exact(step) {
        let start = number(entry, cells.address).ok_or(MachineError::Damaged)?;
        let size =
            number(entry.get(4 * cells.address..).unwrap_or(&[]), cells.size).ok_or(MachineError::Damaged)?;
        list.push(PhysRange::sized(start, size).ok_or(MachineError::Damaged)?)?;
    }
    Ok(())
}

fn text<'a>(node: &FdtNode<'_, 'a>, name: &str) -> Option<&'a str> {
    str::from_utf8(node.property(name)?.value).ok().map(|text| text.trim_end_matches('\0'))
}

/// The big-endian number in the first `cells` (0 to 2) cells of `bytes`.
fn number(bytes: &[u8], cells: usize) -> Option<u64> {
    let bytes = bytes.get(..4 * cells).filter(|_| cells <= 2)?;
    Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

/// Refuses a structure block that nests too deep, before anything that recurses sees it.
fn check_depth(blob: &[u8]) -> Result<(), MachineError> {
    const BEGIN_NODE: u64 = 1;
    const END_NODE: u64 = 2;
    const PROPERTY: u64 = 3;
    const NOP: u64 = 4;
    const END: u64 = 9;
    let header = |offset: usize| number(blob.get(offset..).unwrap_or(&[]), 1).ok_or(MachineError::Damaged);
    let mut at = header(8)? as usize;
    let mut depth = 0usize;
    loop {
        let token = header(at)?;
        at = at.checked_add(4).ok_or(MachineError::Damaged)?;
        match token {
            BEGIN_NODE => {
                let name = blob.get(at..).ok_or(MachineError::Damaged)?;
                let length = name.iter().position(|byte| *byte == 0).ok_or(MachineError::Damaged)?;
                at = (at + length + 4) & !3;
                depth += 1;
            }
            END_NODE => depth = depth.checked_sub(1).ok_or(MachineError::Damaged)?,
            PROPERTY => {
                let length = header(at)? as usize;
                at = at.checked_add(8 + length + 3).ok_or(MachineError::Damaged)? & !3;
            }
            NOP => {}
            END => return Ok(()),
            _ => return Err(MachineError::Damaged),
        }
        if depth > DEPTH_LIMIT {
            return Err(MachineError::Damaged);
        }
    }
}
