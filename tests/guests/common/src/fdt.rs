//! What guests read of the device tree that they are given.

use fdt::Fdt;
use fdt::node::FdtNode;

/// The device tree.
pub struct Tree(Fdt<'static>);

/// A CPU, in the tree's order.
#[derive(Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its `reg`.
    pub affinity: u64,
    /// Its `cpu-release-addr`, or 0.
    pub release: u64,
}

/// A range that the tree reserves.
#[derive(Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The node's name; empty for an entry of the memory reservation block.
    pub name: &'static str,
    /// The first byte.
    pub start: u64,
    /// How many bytes.
    pub bytes: u64,
    /// The kernel must not map it.
    pub is_no_map: bool,
}

impl Tree {
    /// The tree in `blob`.
    ///
    /// # Panics
    ///
    /// If its header is damaged.
    #[must_use]
    pub fn new(blob: &'static [u8]) -> Self {
        Self(Fdt::new(blob).expect("an FDT with a valid header"))
    }

    /// The tree at `address`.
    ///
    /// # Safety
    ///
    /// A valid FDT is at `address`, and nothing ever writes it.
    ///
    /// # Panics
    ///
    /// If its header is damaged.
    #[cfg(target_os = "none")]
    #[must_use]
    pub unsafe fn at(address: u64) -> Self {
        // SAFETY: the caller's.
        let tree = unsafe { Fdt::from_ptr(address as *const u8) };
        Self(tree.expect("an FDT with a valid header"))
    }

    /// Whether `word` is on the command line.
    #[must_use]
    pub fn has_option(&self, word: &str) -> bool {
        self.options().any(|option| option == word)
    }

    /// The decimal number of the option `NAME=NUMBER`.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<u64> {
        self.options().find_map(|option| option.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    }

    fn options(&self) -> impl Iterator<Item = &'static str> {
        let value = self.node("chosen").and_then(|node| value(node, "bootargs"));
        let text = value.and_then(|value| core::str::from_utf8(value).ok()).unwrap_or("");
        text.trim_end_matches('\0').split_ascii_whitespace()
    }

    /// The CPUs.
    pub fn cpus(&self) -> impl Iterator<Item = Cpu> {
        let nodes = self.children("cpus").filter(|node| node.name.starts_with("cpu@"));
        nodes.map(|node| {
            let cell = |name| value(node, name).map_or(0, number);
            Cpu { affinity: cell("reg"), release: cell("cpu-release-addr") }
        })
    }

    /// Start and bytes of each range of memory that the guest is given.
    pub fn memory(&self) -> impl Iterator<Item = (u64, u64)> {
        let nodes = self.root_children();
        nodes
            .filter(|node| node.name == "memory" || node.name.starts_with("memory@"))
            .flat_map(|node| ranges(value(node, "reg").unwrap_or(&[])))
    }

    /// Start and bytes of each range of memory that the simulated board has, Oche's included.
    pub fn board_memory(&self) -> impl Iterator<Item = (u64, u64)> {
        let chosen = self.node("chosen");
        ranges(chosen.and_then(|node| value(node, "board,memory")).unwrap_or(&[]))
    }

    /// The memory reservation block, then the children of `/reserved-memory`.
    pub fn reservations(&self) -> impl Iterator<Item = Reservation> {
        let block = self.0.memory_reservations().map(|entry| Reservation {
            name: "",
            start: entry.address() as u64,
            bytes: entry.size() as u64,
            is_no_map: false,
        });
        block.chain(self.children("reserved-memory").map(|node| {
            let (start, bytes) = ranges(value(node, "reg").unwrap_or(&[])).next().unwrap_or((0, 0));
            let is_no_map = value(node, "no-map").is_some();
            Reservation { name: node.name, start, bytes, is_no_map }
        }))
    }

    fn root_children(&self) -> impl Iterator<Item = FdtNode<'_, 'static>> {
        self.0.all_nodes().next().into_iter().flat_map(FdtNode::children)
    }

    /// The child `name` of the root.
    fn node(&self, name: &str) -> Option<FdtNode<'_, 'static>> {
        self.root_children().find(|node| node.name == name)
    }

    fn children(&self, name: &str) -> impl Iterator<Item = FdtNode<'_, 'static>> {
        self.node(name).into_iter().flat_map(FdtNode::children)
    }
}

fn value(node: FdtNode<'_, 'static>, name: &str) -> Option<&'static [u8]> {
    Some(node.property(name)?.value)
}

/// Pairs of 64-bit numbers: the trees of both boards have two address and two size cells.
fn ranges(value: &'static [u8]) -> impl Iterator<Item = (u64, u64)> {
    value.chunks_exact(16).map(|range| {
        let (start, bytes) = range.split_at(8);
        (number(start), number(bytes))
    })
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use dtoolkit::memreserve::MemoryReservation;
    use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

    use super::{Cpu, Reservation, Tree};

    fn cells(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
    }

    fn node(name: &str, properties: &[(&str, Vec<u8>)]) -> DeviceTreeNode {
        let mut node = DeviceTreeNode::new(name).expect("a valid name");
        for (name, value) in properties {
            node.add_property(DeviceTreeProperty::new(*name, value.clone()).expect("a valid name"));
        }
        node
    }

    fn tree() -> Tree {
        let mut tree = DeviceTree::new();
        tree.memory_reservations = vec![MemoryReservation::new(0x1000, 0x2000)];
        let mut cpus = node("cpus", &[]);
        cpus.add_child(node("cpu@0", &[("reg", cells(&[0]))]));
        cpus.add_child(node("cpu-map", &[]));
        let other = [("reg", cells(&[0x1_0100])), ("cpu-release-addr", cells(&[0x8_0000_0040]))];
        cpus.add_child(node("cpu@10100", &other));
        let mut reserved = node("reserved-memory", &[]);
        let oche = [("reg", cells(&[0x5000, 0x3000])), ("no-map", Vec::new())];
        reserved.add_child(node("oche@5000", &oche));
        reserved.add_child(node("pool", &[]));
        let chosen = [
            ("bootargs", b"quiet guest=left random.seed=17 x=y\0".to_vec()),
            ("board,memory", cells(&[0x1000, 0x9000])),
        ];
        tree.root.add_child(node("memory@1000", &[("reg", cells(&[0x1000, 0x2000, 0x4000, 1]))]));
        tree.root.add_child(node("memory-controller", &[("reg", cells(&[1, 2]))]));
        tree.root.add_child(node("memory@8000", &[("reg", cells(&[0x8000, 0x2000]))]));
        for child in [cpus, reserved, node("chosen", &chosen)] {
            tree.root.add_child(child);
        }
        Tree::new(tree.to_dtb().leak())
    }

    #[test]
    fn all_ranges_of_all_memory_nodes_are_listed() {
        let found: Vec<_> = tree().memory().collect();
        assert_eq!(found, [(0x1000, 0x2000), (0x4000, 1), (0x8000, 0x2000)]);
        assert_eq!(tree().board_memory().collect::<Vec<_>>(), [(0x1000, 0x9000)]);
    }

    #[test]
    fn cpus_have_their_affinity_and_release_address() {
        let found: Vec<_> = tree().cpus().collect();
        let expected = [(0, 0), (0x1_0100, 0x8_0000_0040)];
        assert_eq!(found, expected.map(|(affinity, release)| Cpu { affinity, release }));
    }

    #[test]
    fn reservations_come_from_the_block_and_from_the_nodes() {
        let found: Vec<_> = tree().reservations().collect();
        let expected = [
            ("", 0x1000, 0x2000, false),
            ("oche@5000", 0x5000, 0x3000, true),
            ("pool", 0, 0, false),
        ];
        let expected = expected.map(|(name, start, bytes, is_no_map)| Reservation {
            name,
            start,
            bytes,
            is_no_map,
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn options_are_whole_words_of_the_command_line() {
        let tree = tree();
        assert!(tree.has_option("guest=left") && tree.has_option("x=y"));
        assert!(!tree.has_option("guest") && !tree.has_option("left"));
        assert_eq!(tree.option("random.seed"), Some(17));
        assert_eq!((tree.option("seed"), tree.option("x")), (None, None));
    }
}
