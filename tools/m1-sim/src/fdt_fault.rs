//! FDTs that are wrong on purpose.

use anyhow::{Context, Result};
use dtoolkit::model::DeviceTreeNode;
use oche_types::range::LIST_CAPACITY;

use super::property::{cells, child_with_prefix, set};

/// What may be wrong with an FDT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdtFault {
    /// It names no memory.
    NoMemory,
    /// It names more ranges of memory than Oche keeps.
    ManyBanks,
    /// It names no CPU.
    NoCpus,
    /// Its end is missing.
    NoEnd,
    /// It names no memory, and a framebuffer of an unknown format.
    NoMemoryNoFormat,
    /// It does not begin as an FDT does.
    NoHeader,
}

impl FdtFault {
    pub(crate) fn change(self, root: &mut DeviceTreeNode) -> Result<()> {
        match self {
            Self::NoMemory | Self::NoMemoryNoFormat => {
                let memory =
                    child_with_prefix(root, "memory").context("the tree has no /memory")?;
                memory.remove_property("reg");
            }
            Self::ManyBanks => {
                let banks = (0..LIST_CAPACITY as u64 + 1)
                    .flat_map(|bank| [0x8_1000_0000 + (bank << 21), 0x1000]);
                let banks = cells(&banks.collect::<Vec<_>>());
                set(
                    child_with_prefix(root, "memory").context("the tree has no /memory")?,
                    "reg",
                    banks,
                );
            }
            Self::NoCpus => {
                root.remove_child("cpus");
            }
            Self::NoEnd | Self::NoHeader => {}
        }
        if self == Self::NoMemoryNoFormat {
            let chosen = root.child_mut("chosen").context("the tree has no /chosen")?;
            let screen =
                child_with_prefix(chosen, "framebuffer").context("there is no framebuffer")?;
            set(screen, "format", "yuv");
        }
        Ok(())
    }

    pub(crate) fn damage(self, blob: &mut [u8]) -> Result<()> {
        let word = |at: usize| -> Option<usize> {
            Some(u32::from_be_bytes(blob.get(at..at + 4)?.try_into().ok()?) as usize)
        };
        // The structure block's last token marks its end. Source: Devicetree Specification 0.4,
        // 5.2 and 5.4.
        let end = word(8).zip(word(36)).and_then(|(start, size)| (start + size).checked_sub(4));
        let at = match self {
            Self::NoEnd => end.context("no structure block")?,
            Self::NoHeader => 0,
            _ => return Ok(()),
        };
        blob.get_mut(at..at + 4).context("the blob is too short")?.fill(0xff);
        Ok(())
    }
}
