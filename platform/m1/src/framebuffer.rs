//! The framebuffer that firmware left on, as `/chosen` describes it.
//!
//! m1n1 renames the node to `framebuffer@BASE` and fills in width, height, stride and format; its
//! memory lies outside `/memory`. Source: m1n1 `src/kboot.c`; Linux `simple-framebuffer.yaml`.

use oche_boot::blob::{self, BlobItem};
use oche_types::range::{PAGE, PhysRange};

/// The layout of a pixel's bits.
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
    /// The layout of a pixel.
    pub format: Format,
}

/// The screen that firmware left on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootScreen {
    /// Text can be drawn.
    Console(Framebuffer),
    /// It is a framebuffer, but of a shape or a format in which no text can be drawn. Whole pages.
    Memory(PhysRange),
}

/// The largest width and height that are accepted.
const MAX_PIXELS: usize = 16384;
/// The largest framebuffer that is accepted, in bytes.
const MAX_BYTES: u64 = 256 << 20;
/// Where an M1's DRAM can be, with its framebuffer: 36 bits of address. Source: Asahi documentation
/// `hw/soc/memmap.md`.
pub const DRAM: PhysRange = PhysRange { start: 0x8_0000_0000, end: 0x10_0000_0000 };
/// The depth of `/chosen`, where the root's is 1.
const CHOSEN_DEPTH: u32 = 2;

/// Finds the framebuffer in whatever can be read of `blob`, sound or not: a node of `/chosen` that
/// is compatible with `simple-framebuffer`, is on, and lies in DRAM. Nothing else is proof of one.
pub fn find(blob: &[u8]) -> Option<BootScreen> {
    let mut walk = Walk::default();
    blob::salvage(blob, &mut |event| walk.take(event));
    // A blob that ends inside the node may describe it well enough.
    walk.end_node();
    walk.found
}

/// The state of the walk through a blob.
#[derive(Default)]
struct Walk<'a> {
    depth: u32,
    is_in_chosen: bool,
    node: Option<Description<'a>>,
    found: Option<BootScreen>,
}

impl<'a> Walk<'a> {
    fn take(&mut self, event: BlobItem<'a>) {
        match event {
            BlobItem::Begin(name) => {
                self.depth = self.depth.saturating_add(1);
                if self.depth == CHOSEN_DEPTH {
                    self.is_in_chosen = name == "chosen";
                }
                let is_it = self.is_in_chosen && self.depth == CHOSEN_DEPTH + 1;
                if is_it && name.starts_with("framebuffer") {
                    self.node = Some(Description::default());
                }
            }
            BlobItem::Property(name, value) if self.depth == CHOSEN_DEPTH + 1 => {
                if let Some(node) = &mut self.node {
                    node.take(name, value);
                }
            }
            BlobItem::Property(..) => {}
            BlobItem::End => {
                if self.depth == CHOSEN_DEPTH + 1 {
                    self.end_node();
                }
                self.depth = self.depth.saturating_sub(1);
            }
        }
    }

    fn end_node(&mut self) {
        let node = self.node.take().and_then(Description::read);
        self.found = self.found.or(node);
    }
}

/// The properties of a node.
#[derive(Default)]
struct Description<'a> {
    compatible: &'a [u8],
    status: Option<&'a str>,
    reg: &'a [u8],
    width: Option<usize>,
    height: Option<usize>,
    stride: Option<usize>,
    format: Option<&'a str>,
}

impl<'a> Description<'a> {
    fn take(&mut self, name: &str, value: &'a [u8]) {
        let size = || value.get(..4).map(|bytes| number(bytes) as usize);
        match name {
            "compatible" => self.compatible = value,
            "status" => self.status = Some(text(value)),
            "reg" => self.reg = value,
            "width" => self.width = size(),
            "height" => self.height = size(),
            "stride" => self.stride = size(),
            "format" => self.format = Some(text(value)),
            _ => {}
        }
    }

    fn read(self) -> Option<BootScreen> {
        let is_one =
            self.compatible.split(|byte| *byte == 0).any(|one| one == b"simple-framebuffer");
        if !is_one || !matches!(self.status, None | Some("okay" | "ok")) {
            return None;
        }
        let (start, bytes) = (number(self.reg.get(..8)?), number(self.reg.get(8..16)?));
        let memory = PhysRange::sized(start, bytes)?;
        if bytes > MAX_BYTES || !DRAM.covers(&memory) {
            return None;
        }
        if let Some(framebuffer) = self.console(memory) {
            return Some(BootScreen::Console(framebuffer));
        }
        let memory = memory.shrunk_to(PAGE);
        (!memory.is_empty()).then_some(BootScreen::Memory(memory))
    }

    fn console(&self, all: PhysRange) -> Option<Framebuffer> {
        let (width, height, stride) = (self.width?, self.height?, self.stride?);
        let format = match self.format? {
            "x8r8g8b8" | "a8r8g8b8" => Format::Bits8,
            "x2r10g10b10" => Format::Bits10,
            "r5g6b5" => Format::Bits5,
            _ => return None,
        };
        let is_plausible = (1..=MAX_PIXELS).contains(&width)
            && (1..=MAX_PIXELS).contains(&height)
            && (width * format.bytes()..=MAX_PIXELS * 8).contains(&stride)
            && all.start.is_multiple_of(4);
        if !is_plausible {
            return None;
        }
        let memory = PhysRange::sized(all.start, (stride * height) as u64)?;
        all.covers(&memory).then_some(Framebuffer { memory, width, height, stride, format })
    }
}

/// What is no text is none of the words that mean something.
fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap_or_default().trim_end_matches('\0')
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
        set(DeviceTreeProperty::new_unchecked(
            "compatible",
            "apple,simple-framebuffer\0simple-framebuffer",
        ));
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
        match find(blob) {
            Some(BootScreen::Console(framebuffer)) => Some(framebuffer),
            _ => None,
        }
    }

    #[test]
    fn framebuffer_is_found_in_what_is_left_of_a_blob() {
        let whole = tree("x2r10g10b10", 2560, None);
        let node = find(&whole).expect("a framebuffer");
        // The structure block comes first and the names behind it: a wrong token ends it.
        let structure = u32::from_be_bytes(whole[8..12].try_into().expect("a word")) as usize;
        let mut ends_early = 0;
        for at in (structure..whole.len() - 3).step_by(4) {
            let mut blob = whole.clone();
            blob[at..at + 4].copy_from_slice(&[0xff; 4]);
            match find(&blob) {
                Some(BootScreen::Console(framebuffer))
                    if BootScreen::Console(framebuffer) == node =>
                {
                    ends_early += 1
                }
                // A number or a name that was damaged: another shape, or memory without one, but in
                // DRAM.
                Some(BootScreen::Console(other)) => {
                    assert!(DRAM.covers(&other.memory), "{other:?}")
                }
                Some(BootScreen::Memory(memory)) => assert!(DRAM.covers(&memory), "{memory}"),
                None => {}
            }
        }
        assert!(ends_early >= 2, "the end of the node and of the blob need not be sound");
        assert_eq!(find(&whole[..whole.len() - 1]), None, "shorter than its total size");
        assert_eq!(find(&[]), None);
    }

    #[test]
    fn framebuffer_that_takes_no_text_is_memory_to_fill() {
        let memory = PhysRange { start: 0x9_df4e_4000, end: 0x9_e048_4000 };
        assert_eq!(find(&tree("yuv", 2560, None)), Some(BootScreen::Memory(memory)));
        assert_eq!(find(&tree("x8r8g8b8", 2561, None)), Some(BootScreen::Memory(memory)));
        assert_eq!(find(&tree("yuv", 2560, Some("disabled"))), None);
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
    fn framebuffer_that_is_off_or_implausible_is_not_used() {
        assert_eq!(found(&tree("x2r10g10b10", 2560, Some("disabled"))), None);
        assert_eq!(found(&tree("yuv", 2560, None)), None);
        assert_eq!(found(&tree("x8r8g8b8", 2561, None)), None, "a row is longer than the stride");
        assert_eq!(found(&tree("x8r8g8b8", 0, None)), None);
    }

    #[test]
    fn white_is_white_in_every_format_and_red_the_upper_part() {
        let formats =
            [(Format::Bits8, 0xff_ffff), (Format::Bits10, 0x3fff_ffff), (Format::Bits5, 0xffff)];
        for (format, white) in formats {
            assert_eq!(format.pixel([255; 3]), white);
            assert_eq!(format.pixel([0; 3]), 0);
            let parts = [[255, 0, 0], [0, 255, 0], [0, 0, 255]].map(|colour| format.pixel(colour));
            assert!(parts[0] > parts[1] && parts[1] > parts[2]);
            assert_eq!(parts[0] | parts[1] | parts[2], white);
        }
    }
}
