//! Apple's interrupt controller (AIC): a line for the trace's port, which software asserts as a
//! device would.

use oche_boot::guest_fdt::VirtioPort;
use oche_boot::tree::{Tree, number};
use oche_types::range::PhysRange;
use oche_virtio::console::REGION_BYTES;

use crate::device_tree::start;

/// The controller's `compatible`. Source: Linux `apple,aic.yaml`.
const COMPATIBLE: &[u8] = b"apple,aic";
/// Lines of a t8103's controller. Source: Asahi documentation `hw/soc/aic.md`, `INFO`.
const LINES: u32 = 896;
/// Offset of `INFO`, and its field with the number of lines. Source: Linux `irq-apple-aic.c`,
/// `AIC_INFO`, `AIC_INFO_NR_IRQ`.
const INFO: u64 = 0x4;
const INFO_LINES: u32 = 0xffff;
/// One bit for each line, from line 0 on. Writing 1 asserts or deasserts it, beside its device.
/// Source: the same, `SW_SET`, `SW_CLR`; Linux `irq-apple-aic.c`, `AIC_SW_SET`, `AIC_SW_CLR`.
const SOFTWARE_SET: u64 = 0x4000;
const SOFTWARE_CLEAR: u64 = 0x4080;
/// Cells of an interrupt specifier: a line of a device, active high. Source: Linux
/// `apple,aic.yaml`.
const DEVICE_LINE: u32 = 0;
const LEVEL_HIGH: u32 = 4;
/// Properties that name lines.
const NAMING: [&str; 3] = ["interrupts", "interrupts-extended", "interrupt-map"];

/// The port's registers: between the last of the second USB controllers' gigabyte and the first of
/// PCIe's, where the map of an M1 has nothing. Source: U-Boot `arch/arm/mach-apple/board.c`,
/// `t8103_mem_map`.
pub const WINDOW: PhysRange = PhysRange { start: 0x6_0000_0000, end: 0x6_0000_1000 };

const _: () = assert!(WINDOW.end - WINDOW.start >= REGION_BYTES);

/// A line that no device drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortLine {
    /// The first of the controller's registers.
    start: u64,
    phandle: u32,
    number: u32,
}

impl PortLine {
    /// The line's number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The page of registers that assert lines.
    pub fn registers(&self) -> PhysRange {
        PhysRange { start: self.start + SOFTWARE_SET, end: self.start + SOFTWARE_SET + 0x1000 }
    }

    /// The page with [`Self::info`].
    pub fn information(&self) -> PhysRange {
        PhysRange { start: self.start, end: self.start + 0x1000 }
    }

    /// The address of `INFO`, the register with the number of lines.
    pub fn info(&self) -> u64 {
        self.start + INFO
    }

    /// The number of lines by `info`, the value of that register, and whether this line is one of
    /// them.
    pub fn is_among(&self, info: u32) -> (u32, bool) {
        let lines = info & INFO_LINES;
        (lines, self.number < lines)
    }

    /// The store (address, word) that asserts the line (`is_up`) or deasserts it.
    pub fn store(&self, is_up: bool) -> (u64, u32) {
        let file = if is_up { SOFTWARE_SET } else { SOFTWARE_CLEAR };
        (self.start + file + u64::from(self.number / 32 * 4), 1 << (self.number % 32))
    }

    /// The port, for the guest's device tree.
    pub fn port(&self) -> VirtioPort {
        VirtioPort {
            window: WINDOW,
            interrupt_parent: Some(self.phandle),
            interrupt: [DEVICE_LINE, self.number, LEVEL_HIGH],
        }
    }
}

/// The highest line that nothing in the tree names; `None`: there is no such controller, or it has
/// no phandle.
pub fn free_line(tree: &Tree<'_>) -> Option<PortLine> {
    let mut controller = None;
    for node in tree.nodes() {
        if node.strings("compatible").any(|name| name == COMPATIBLE) {
            let phandle = node.bytes("phandle").and_then(|own| own.get(..4)).map(number);
            controller = start(&node).zip(phandle);
        }
    }
    let (start, phandle) = controller.filter(|(start, _)| *start < 1 << 36)?;
    let line = (0..LINES).rev().find(|line| !is_named(tree, *line))?;
    Some(PortLine { start, phandle: phandle as u32, number: line })
}

/// Whether a device may have `line`. Any cell of that value counts, whatever it stands for: there
/// are lines enough.
fn is_named(tree: &Tree<'_>, line: u32) -> bool {
    let line = u64::from(line);
    tree.nodes().any(|node| {
        let mut cells =
            NAMING.iter().flat_map(|name| node.bytes(name).unwrap_or(&[]).chunks_exact(4));
        // <controller type first flags count>
        let mut ranges = node.bytes("msi-ranges").unwrap_or(&[]).chunks_exact(20);
        cells.any(|cell| number(cell) == line)
            || ranges.any(|range| {
                let first = number(&range[8..12]);
                (first..first + number(&range[16..20])).contains(&line)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
    use oche_boot::normalize::normalize;

    fn tree(named: &str, cells: &[u32], phandle: Option<u32>) -> Vec<u8> {
        let mut controller = DeviceTreeNode::new_unchecked("interrupt-controller@23b100000");
        let mut set = |property| controller.add_property(property);
        set(DeviceTreeProperty::new_unchecked("compatible", "apple,t8103-aic\0apple,aic"));
        set(DeviceTreeProperty::new_unchecked("reg", [2u32, 0x3b10_0000, 0, 0x8000]));
        if let Some(phandle) = phandle {
            set(DeviceTreeProperty::new_unchecked("phandle", phandle));
        }
        let mut device = DeviceTreeNode::new_unchecked("device");
        device.add_property(DeviceTreeProperty::new_unchecked(named, cells.to_vec()));
        let mut soc = DeviceTreeNode::new_unchecked("soc");
        soc.add_child(controller);
        soc.add_child(device);
        let mut tree = DeviceTree::new();
        tree.root.add_child(soc);
        tree.to_dtb()
    }

    fn line(blob: &[u8]) -> Option<PortLine> {
        let mut buffer = vec![0; blob.len()];
        free_line(&Tree::new(normalize(blob, &mut buffer).expect("sound")))
    }

    #[test]
    fn line_beyond_those_that_the_controller_has_is_told_from_the_others() {
        let line = line(&tree("reg", &[], Some(7))).expect("there is one");
        assert_eq!(line.info(), 0x2_3b10_0004);
        assert_eq!(line.is_among(0x1234_0380), (896, true));
        assert_eq!(line.is_among(895), (895, false));
    }

    #[test]
    fn the_port_gets_the_highest_line_that_nothing_names() {
        for (named, cells, free) in [
            ("reg", &[895][..], 895),
            ("interrupts", &[0, 895, 4, 0, 893, 4], 894),
            ("interrupts-extended", &[1, 0, 895, 4], 894),
            ("interrupt-map", &[0, 0, 0, 1, 1, 0, 895, 4], 894),
            ("msi-ranges", &[1, 0, 880, 1, 16], 879),
        ] {
            let line = line(&tree(named, cells, Some(7))).expect("there are others");
            assert_eq!(line.number(), free, "{named}");
            assert_eq!(line.port().interrupt_parent, Some(7));
            assert_eq!(line.port().interrupt, [0, free, 4]);
        }
    }

    #[test]
    fn a_line_is_asserted_in_its_own_bit() {
        let line = line(&tree("interrupts", &[0, 895, 4], Some(7))).expect("a line");
        assert_eq!(line.store(true), (0x2_3b10_406c, 1 << 30));
        assert_eq!(line.store(false), (0x2_3b10_40ec, 1 << 30));
        assert!(line.registers().contains(line.store(false).0));
    }

    #[test]
    fn without_a_controller_that_can_be_named_there_is_no_line() {
        assert_eq!(line(&tree("interrupts", &[0, 1, 4], None)), None);
        assert_eq!(line(&DeviceTree::new().to_dtb()), None);
    }
}
