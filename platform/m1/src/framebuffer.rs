//! The framebuffer that firmware left on, as `/chosen` describes it.
//!
//! m1n1 renames the node to `framebuffer@BASE` and fills in width, height, stride and format; its memory lies
//! outside `/memory`. Source: m1n1 `src/kboot.c`; Linux `simple-framebuffer.yaml`.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use oche_boot::range::PhysRange;

/// How a pixel's bits are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Eight bits each in a 32-bit word: `x8r8g8b8`, `a8r8g8b8`.
    Bits8,
    /// Ten bits each in a 32-bit word: `x2r10g10b10`.
    Bits10,
    /// Five, six and five bits in a 16-bit word: `r5g6b5`.
    Bits5,
}

impl Format {
    /// Bytes of a pixel.
    pub fn bytes(self) -> usize {
        if self == Self::Bits5 { 2 } else { 4 }
    }

    /// A colour: red, green and blue, from 0 to 255 each.
    pub fn pixel(self, colour: [u8; 3]) -> u32 {
        let [red, green, blue] = colour.map(u32::from);
        let ten = |value: u32| value << 2 | value >> 6;
        match self {
            Self::Bits8 => red << 16 | green << 8 | blue,
            Self::Bits10 => ten(red) << 20 | ten(green) << 10 | ten(blue),
            Self::Bits5 => red >> 3 << 11 | green >> 2 << 5 | blue >> 3,
        }
    }
}

/// A framebuffer that is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framebuffer {
    /// Its memory.
    pub memory: PhysRange,
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Bytes from one row to the next.
    pub stride: usize,
    /// How a pixel is laid out.
    pub format: Format,
}

/// The largest width and height that are believed.
const MOST_PIXELS: usize = 16384;

/// Finds the framebuffer; none where firmware left none on, or what it says of it cannot be.
pub fn find(tree: &Fdt<'_>) -> Option<Framebuffer> {
    let chosen = tree.find_node("/chosen")?;
    chosen.children().filter(|node| node.name().starts_with("framebuffer")).find_map(|node| read(&node))
}

fn read(node: &FdtNode<'_>) -> Option<Framebuffer> {
    let status = text(node, "status");
    if !matches!(status, None | Some("okay" | "ok")) {
        return None;
    }
    let reg = bytes(node, "reg")?;
    let start = number(reg.get(..8)?);
    let number_of = |name| Some(number(bytes(node, name)?.get(..4)?) as usize);
    let (width, height) = (number_of("width")?, number_of("height")?);
    let stride = number_of("stride")?;
    let format = match text(node, "format")? {
        "x8r8g8b8" | "a8r8g8b8" => Format::Bits8,
        "x2r10g10b10" => Format::Bits10,
        "r5g6b5" => Format::Bits5,
        _ => return None,
    };
    let is_believed = (1..=MOST_PIXELS).contains(&width)
        && (1..=MOST_PIXELS).contains(&height)
        && (width * format.bytes()..=MOST_PIXELS * 8).contains(&stride)
        && start.is_multiple_of(4);
    let memory = PhysRange::sized(start, (stride * height) as u64)?;
    is_believed.then_some(Framebuffer { memory, width, height, stride, format })
}

fn bytes<'a>(node: &FdtNode<'a>, name: &str) -> Option<&'a [u8]> {
    node.property(name)?.value_as::<&[u8]>().ok()
}

fn text<'a>(node: &FdtNode<'a>, name: &str) -> Option<&'a str> {
    str::from_utf8(bytes(node, name)?).ok().map(|text| text.trim_end_matches('\0'))
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};

    fn tree(format: &str, width: u32, status: Option<&str>) -> Vec<u8> {
        let mut node = DeviceTreeNode::new_unchecked("framebuffer@9df4e4000");
        let mut set = |property| node.add_property(property);
        set(DeviceTreeProperty::new_unchecked("reg", [9u32, 0xdf4e_4000, 0, 0xfa_0000]));
        set(DeviceTreeProperty::new_unchecked("width", width));
        set(DeviceTreeProperty::new_unchecked("height", 1600u32));
        set(DeviceTreeProperty::new_unchecked("stride", 0x2800u32));
        set(DeviceTreeProperty::new_unchecked("format", format));
        if let Some(status) = status {
            set(DeviceTreeProperty::new_unchecked("status", status));
        }
        let mut chosen = DeviceTreeNode::new_unchecked("chosen");
        chosen.add_child(node);
        let mut tree = DeviceTree::new();
        tree.root.add_child(chosen);
        tree.to_dtb()
    }

    fn found(blob: &[u8]) -> Option<Framebuffer> {
        find(&Fdt::new_unchecked(blob))
    }

    /// The figures are those of a real M1 Air (AsahiLinux/m1n1#107).
    #[test]
    fn what_m1n1_describes_is_found() {
        let framebuffer = found(&tree("x2r10g10b10", 2560, None)).expect("it is on");
        assert_eq!(framebuffer.memory.start, 0x9_df4e_4000);
        assert_eq!(framebuffer.memory.size(), 0x2800 * 1600);
        assert_eq!((framebuffer.width, framebuffer.height), (2560, 1600));
        assert_eq!(framebuffer.format, Format::Bits10);
    }

    #[test]
    fn what_is_off_or_cannot_be_is_not_touched() {
        assert_eq!(found(&tree("x2r10g10b10", 2560, Some("disabled"))), None);
        assert_eq!(found(&tree("yuv", 2560, None)), None);
        assert_eq!(found(&tree("x8r8g8b8", 2561, None)), None, "a row is longer than the stride");
        assert_eq!(found(&tree("x8r8g8b8", 0, None)), None);
    }

    #[test]
    fn white_is_white_in_every_format_and_red_the_upper_part() {
        let formats = [(Format::Bits8, 0xff_ffff), (Format::Bits10, 0x3fff_ffff), (Format::Bits5, 0xffff)];
        for (format, white) in formats {
            assert_eq!(format.pixel([255; 3]), white);
            assert_eq!(format.pixel([0; 3]), 0);
            let parts = [[255, 0, 0], [0, 255, 0], [0, 0, 255]].map(|colour| format.pixel(colour));
            assert!(parts[0] > parts[1] && parts[1] > parts[2]);
            assert_eq!(parts[0] | parts[1] | parts[2], white);
        }
    }
}
