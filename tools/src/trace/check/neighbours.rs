//! Which guest pages are mapped by whom: what else a device reaches because it shares a page.

use oche_hyp::addr::Gfn;
use oche_hyp::trace::Placement;

use super::super::lifetime::{Mapping, StreamPlace};

/// Pages of a leaf of the table.
const LEAF: usize = 1 << 10;
/// Leaves: guest memory up to 64 GiB from address 0, what an entry of a t8020 DART can name (36 bits).
const LEAVES: usize = (1 << 24) / LEAF;

/// What a page is shared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// The root of a DART's tables, which the device may write.
    Root,
    /// Coherent memory, of which one of the two is.
    Coherent { other: StreamPlace },
    /// Memory that another device writes too.
    Written { other: StreamPlace },
    /// Another buffer: common, and no error.
    Streaming,
}

/// A page's mappings.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    mappings: u16,
    /// Read-write ones, as coherent memory is.
    coherent: u16,
    /// Ones that a device may write.
    written: u16,
    /// Who mapped it first of those that are left.
    first: u16,
    is_root: bool,
    /// When its copies were last found to differ, in ticks.
    merged: u64,
}

/// The pages that are mapped.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    leaves: Vec<Option<Box<[Use; LEAF]>>>,
}

impl Neighbours {
    /// `page` holds a table root.
    pub(super) fn root(&mut self, page: Gfn) {
        if let Some(page) = self.page(page) {
            page.is_root = true;
        }
    }

    /// `page` holds one no longer.
    pub(super) fn no_root(&mut self, page: Gfn) {
        if let Some(page) = self.page(page) {
            page.is_root = false;
        }
    }

    /// The copies of `page` differed.
    pub(super) fn merged(&mut self, page: Gfn, time: u64) {
        if let Some(page) = self.page(page) {
            page.merged = time;
        }
    }

    /// Takes note of a mapping; what its page is shared with, the worst of it.
    pub(super) fn mapped(&mut self, mapping: &Mapping) -> Option<Sharing> {
        let page = self.page(mapping.page)?;
        let writes = mapping.permission.write;
        let is_coherent = writes && mapping.permission.read;
        let other = StreamPlace::from_index(usize::from(page.first)).unwrap_or(mapping.owner);
        let sharing = if page.is_root && writes {
            Some(Sharing::Root)
        } else if page.mappings == 0 {
            None
        } else if is_coherent || page.coherent > 0 {
            Some(Sharing::Coherent { other })
        } else if writes && page.written > 0 && other != mapping.owner {
            Some(Sharing::Written { other })
        } else {
            Some(Sharing::Streaming)
        };
        if page.mappings == 0 {
            page.first = mapping.owner.index() as u16;
        }
        page.mappings = page.mappings.saturating_add(1);
        page.coherent = page.coherent.saturating_add(u16::from(is_coherent));
        page.written = page.written.saturating_add(u16::from(writes));
        sharing
    }

    /// Takes note of an unmap. True: the device was to write a copy of the page, and no byte of it had changed.
    pub(super) fn unmapped(&mut self, mapping: &Mapping) -> bool {
        let Some(page) = self.page(mapping.page) else { return false };
        let writes = mapping.permission.write;
        page.mappings = page.mappings.saturating_sub(1);
        page.coherent = page.coherent.saturating_sub(u16::from(writes && mapping.permission.read));
        page.written = page.written.saturating_sub(u16::from(writes));
        mapping.placement == Placement::Replica && writes && page.merged < mapping.since.time
    }

    fn page(&mut self, page: Gfn) -> Option<&mut Use> {
        let (leaf, index) = (page.0 as usize / LEAF, page.0 as usize % LEAF);
        if leaf >= LEAVES {
            return None;
        }
        if self.leaves.len() <= leaf {
            self.leaves.resize(leaf + 1, None);
        }
        let leaf = self.leaves.get_mut(leaf)?;
        leaf.get_or_insert_with(|| Box::new([Use::default(); LEAF])).get_mut(index)
    }
}
