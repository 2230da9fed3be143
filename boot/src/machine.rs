//! The machine as the firmware's FDT describes it, read without allocation.
//!
//! The blob is checked as a whole first ([`blob::check`]), so damage is an error here and never a
//! panic later.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use oche_el2::psci;
use oche_types::MAX_CPUS;
use oche_types::range::{ListFull, PhysRange, RangeList};

use crate::blob::{self, Damaged};

/// The machine.
#[derive(Debug)]
pub struct Machine<'a> {
    tree: Fdt<'a>,
    /// RAM, from the `/memory` nodes.
    pub ram: RangeList,
    /// What firmware keeps: the memory reservation block and `/reserved-memory` with fixed places.
    pub reserved: RangeList,
    /// MPIDR affinities of the CPUs, in the FDT's order.
    affinities: [u64; MAX_CPUS],
    /// `cpu-release-addr` of each, or 0.
    releases: [u64; MAX_CPUS],
    cpu_count: usize,
    /// CPUs beyond [`MAX_CPUS`], which stay off.
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

impl From<Damaged> for MachineError {
    fn from(_: Damaged) -> Self {
        Self::Damaged
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
        let tree = blob::check(bytes)?;
        let root = tree.root();
        let mut machine = Self {
            tree,
            ram: RangeList::new(),
            reserved: RangeList::new(),
            affinities: [0; MAX_CPUS],
            releases: [0; MAX_CPUS],
            cpu_count: 0,
            cpus_ignored: 0,
            initrd: None,
            has_psci_smc: false,
        };
        let cells = Cells::of(&root);
        for node in root.children() {
            match node.name_without_address() {
                "memory" => add_ranges(&mut machine.ram, &node, cells)?,
                "cpus" => machine.read_cpus(&node),
                "chosen" => machine.read_chosen(&node),
                "psci" => machine.has_psci_smc = value(&node, "method") == Some(b"smc\0"),
                "reserved-memory" => {
                    let cells = Cells::of(&node);
                    for child in node.children() {
                        add_ranges(&mut machine.reserved, &child, cells)?;
                    }
                }
                _ => {}
            }
        }
        for reservation in tree.memory_reservations() {
            let range = PhysRange::sized(reservation.address(), reservation.size());
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

    /// The CPUs that wait for an address in a word of memory: affinity and the word's address in
    /// bytes. `enable-method` "spin-table". Source: Linux `Documentation/arm64/booting.rst`,
    /// "Entry" of secondary CPUs.
    pub fn spin_table(&self) -> impl Iterator<Item = (u64, u64)> {
        self.affinities().iter().copied().zip(self.releases).filter(|(_, release)| *release != 0)
    }

    /// The tree, to look for a board's own nodes.
    pub fn tree(&self) -> &Fdt<'a> {
        &self.tree
    }

    /// The blob, exactly `totalsize` long.
    pub fn blob(&self) -> &'a [u8] {
        self.tree.data()
    }

    /// Whether any node is compatible with `name`.
    pub fn has_compatible(&self, name: &str) -> bool {
        is_or_has_compatible(&self.tree.root(), name)
    }

    /// Calls `found` with name and value of each property of `/chosen` whose name begins with
    /// `oche.`; a value that is no text is an empty one.
    pub fn chosen_options(&self, found: &mut dyn FnMut(&str, &'a str)) {
        let Some(chosen) = self.tree.find_node("/chosen") else { return };
        for property in chosen.properties().filter(|property| property.name().starts_with("oche."))
        {
            match property.value_as::<&[u8]>().ok().and_then(|value| str::from_utf8(value).ok()) {
                Some(value) => found(property.name(), value.trim_end_matches('\0')),
                None => found(property.name(), ""),
            }
        }
    }

    fn read_cpus(&mut self, cpus: &FdtNode<'a>) {
        let cells = Cells::of(cpus);
        for cpu in cpus.children().filter(|node| node.name_without_address() == "cpu") {
            let Some(mpidr) = value(&cpu, "reg").and_then(|reg| number(reg, cells.address)) else {
                continue;
            };
            let slots =
                (self.affinities.get_mut(self.cpu_count), self.releases.get_mut(self.cpu_count));
            let (Some(affinity), Some(release)) = slots else {
                self.cpus_ignored += 1;
                continue;
            };
            *affinity = psci::affinity(mpidr);
            if value(&cpu, "enable-method") == Some(b"spin-table\0") {
                // Eight bytes, whatever the cells are.
                *release =
                    value(&cpu, "cpu-release-addr").and_then(|value| number(value, 2)).unwrap_or(0);
            }
            self.cpu_count += 1;
        }
    }

    fn read_chosen(&mut self, chosen: &FdtNode<'a>) {
        // Four or eight bytes, whatever the root's cells are.
        let address = |name| {
            let value = value(chosen, name)?;
            number(value, value.len() / 4)
        };
        if let (Some(start), Some(end)) =
            (address("linux,initrd-start"), address("linux,initrd-end"))
        {
            self.initrd = Some(PhysRange { start, end }).filter(|range| !range.is_empty());
        }
    }
}

/// `#address-cells` and `#size-cells` for the children of a node.
#[derive(Clone, Copy)]
struct Cells {
    address: usize,
    size: usize,
}

impl Cells {
    /// Defaults of 2 and 1: Devicetree Specification 2.3.5.
    fn of(node: &FdtNode<'_>) -> Self {
        let cell = |name, default| {
            value(node, name)
                .and_then(|value| number(value, 1))
                .filter(|cells| *cells <= 2)
                .map_or(default, |cells| cells as usize)
        };
        Self { address: cell("#address-cells", 2), size: cell("#size-cells", 1) }
    }
}

fn add_ranges(list: &mut RangeList, node: &FdtNode<'_>, cells: Cells) -> Result<(), MachineError> {
    let step = 4 * (cells.address + cells.size);
    let Some(reg) = value(node, "reg").filter(|_| step != 0) else { return Ok(()) };
    for entry in reg.chunks_exact(step) {
        let start = number(entry, cells.address).ok_or(MachineError::Damaged)?;
        let size = number(entry.get(4 * cells.address..).unwrap_or(&[]), cells.size)
            .ok_or(MachineError::Damaged)?;
        list.push(PhysRange::sized(start, size).ok_or(MachineError::Damaged)?)?;
    }
    Ok(())
}

/// Depth first. `blob::check` has bounded the depth.
fn is_or_has_compatible(node: &FdtNode<'_>, name: &str) -> bool {
    let is_one = value(node, "compatible")
        .is_some_and(|value| value.split(|byte| *byte == 0).any(|one| one == name.as_bytes()));
    is_one || node.children().any(|child| is_or_has_compatible(&child, name))
}

fn value<'a>(node: &FdtNode<'a>, name: &str) -> Option<&'a [u8]> {
    node.property(name)?.value_as::<&[u8]>().ok()
}

/// The big-endian number in the first `cells` (0 to 2) cells of `bytes`.
fn number(bytes: &[u8], cells: usize) -> Option<u64> {
    let bytes = bytes.get(..4 * cells).filter(|_| cells <= 2)?;
    Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}
