//! The machine as the firmware's FDT describes it, read without allocation.
//!
//! The blob is checked as a whole and normalized first ([`normalize()`]), so damage is an error
//! here and never a panic later.

use oche_el2::psci;
use oche_types::MAX_CPUS;
use oche_types::range::{ListFull, PhysRange, RangeList};

use crate::blob::Refusal;
use crate::normalize::normalize;
use crate::tree::{self, Tree, TreeNode};

/// The machine.
#[derive(Debug)]
pub struct Machine<'a> {
    tree: Tree<'a>,
    /// RAM, from the `/memory` nodes.
    pub ram: RangeList,
    /// Memory reserved by firmware: the memory reservation block, and `/reserved-memory` with fixed
    /// places.
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
    /// Whether there is PSCI that is called with `SMC`.
    pub has_psci_smc: bool,
}

/// Why an FDT is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineError {
    /// It was refused by [`normalize()`].
    Refused(Refusal),
    /// A range of memory ends beyond the last address, or is truncated.
    BadRange,
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
            Self::Refused(refusal) => refusal.reason(),
            Self::BadRange => "the FDT names memory beyond the last address",
            Self::NoMemory => "the FDT names no memory",
            Self::TooManyRanges => "the FDT names more memory ranges than Oche keeps",
            Self::NoCpus => "the FDT names no CPU",
        }
    }
}

impl From<Refusal> for MachineError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ListFull> for MachineError {
    fn from(_: ListFull) -> Self {
        Self::TooManyRanges
    }
}

impl<'a> Machine<'a> {
    /// Reads the blob at the start of `bytes`, which may be longer. The tree is kept in `buffer`.
    ///
    /// # Errors
    ///
    /// A [`MachineError`] if Oche cannot run on the machine that is described.
    pub fn read(bytes: &[u8], buffer: &'a mut [u8]) -> Result<Self, MachineError> {
        Self::of(Tree::new(normalize(bytes, buffer)?))
    }

    /// Reads the machine from `tree`.
    ///
    /// # Errors
    ///
    /// A [`MachineError`] if Oche cannot run on the machine that is described.
    pub fn of(tree: Tree<'a>) -> Result<Self, MachineError> {
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
            match node.base_name() {
                "memory" => add_ranges(&mut machine.ram, &node, cells)?,
                "cpus" => machine.read_cpus(&node),
                "chosen" => machine.read_chosen(&node),
                "psci" => machine.has_psci_smc = node.bytes("method") == Some(b"smc\0"),
                "reserved-memory" => {
                    let cells = Cells::of(&node);
                    for child in node.children() {
                        add_ranges(&mut machine.reserved, &child, cells)?;
                    }
                }
                _ => {}
            }
        }
        for (start, size) in tree.reservations() {
            machine.reserved.push(PhysRange::sized(start, size).ok_or(MachineError::BadRange)?)?;
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

    /// The tree, for a board's own nodes.
    pub fn tree(&self) -> &Tree<'a> {
        &self.tree
    }

    /// The normalized blob, exactly `totalsize` long.
    pub fn blob(&self) -> &'a [u8] {
        self.tree.blob()
    }

    /// Whether any node is compatible with `name`.
    pub fn has_compatible(&self, name: &str) -> bool {
        let mut nodes = self.tree.nodes();
        nodes.any(|node| node.strings("compatible").any(|one| one == name.as_bytes()))
    }

    /// Calls `found` with name and value of each property of `/chosen` whose name begins with
    /// `oche.`; a value that is no text is an empty one.
    pub fn chosen_options(&self, found: &mut dyn FnMut(&str, &'a str)) {
        let root = self.tree.root();
        let Some(chosen) = root.children().find(|node| node.base_name() == "chosen") else {
            return;
        };
        for (name, value) in chosen.properties().filter(|(name, _)| name.starts_with("oche.")) {
            let value = str::from_utf8(value).unwrap_or("");
            found(name, value.trim_end_matches('\0'));
        }
    }

    fn read_cpus(&mut self, cpus: &TreeNode<'_, 'a>) {
        let cells = Cells::of(cpus);
        for cpu in cpus.children().filter(|node| node.base_name() == "cpu") {
            let Some(mpidr) = cpu.bytes("reg").and_then(|reg| number(reg, cells.address)) else {
                continue;
            };
            let slots =
                (self.affinities.get_mut(self.cpu_count), self.releases.get_mut(self.cpu_count));
            let (Some(affinity), Some(release)) = slots else {
                self.cpus_ignored += 1;
                continue;
            };
            *affinity = psci::affinity(mpidr);
            if cpu.bytes("enable-method") == Some(b"spin-table\0") {
                // Eight bytes, whatever the cells are.
                *release =
                    cpu.bytes("cpu-release-addr").and_then(|value| number(value, 2)).unwrap_or(0);
            }
            self.cpu_count += 1;
        }
    }

    fn read_chosen(&mut self, chosen: &TreeNode<'_, 'a>) {
        // Four or eight bytes, whatever the root's cells are.
        let address = |name| {
            let value = chosen.bytes(name)?;
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
    fn of(node: &TreeNode<'_, '_>) -> Self {
        let cell = |name, default| {
            node.bytes(name)
                .and_then(|value| number(value, 1))
                .filter(|cells| *cells <= 2)
                .map_or(default, |cells| cells as usize)
        };
        Self { address: cell("#address-cells", 2), size: cell("#size-cells", 1) }
    }
}

fn add_ranges(
    list: &mut RangeList,
    node: &TreeNode<'_, '_>,
    cells: Cells,
) -> Result<(), MachineError> {
    let step = 4 * (cells.address + cells.size);
    let Some(reg) = node.bytes("reg").filter(|_| step != 0) else { return Ok(()) };
    for entry in reg.chunks_exact(step) {
        let start = number(entry, cells.address).ok_or(MachineError::BadRange)?;
        let size = number(entry.get(4 * cells.address..).unwrap_or(&[]), cells.size)
            .ok_or(MachineError::BadRange)?;
        list.push(PhysRange::sized(start, size).ok_or(MachineError::BadRange)?)?;
    }
    Ok(())
}

/// The big-endian number in the first `cells` (0 to 2) cells of `bytes`.
fn number(bytes: &[u8], cells: usize) -> Option<u64> {
    let bytes = bytes.get(..4 * cells).filter(|_| cells <= 2)?;
    Some(tree::number(bytes))
}
