//! The last unmaps, by address: as many as fit a fixed table, the newest of those that share a
//! place in it.

use oche_trace::record::Stamp;
use oche_types::addr::{Gfn, IovaPage};

use super::super::lifetime::Mapping;

/// Places in the table. A power of two.
const PLACES: usize = 1 << 15;

/// A mapping that ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone {
    space: u16,
    iova: IovaPage,
    /// The guest's page.
    pub(super) page: Gfn,
    /// The time and the code of its map.
    pub(super) mapped: Stamp,
    /// The time and the code of its unmap.
    pub(super) unmapped: Stamp,
}

/// A table of the mappings that ended last.
pub(super) struct Recent(Vec<Option<Gone>>);

impl Recent {
    pub(super) fn new() -> Self {
        Self(vec![None; PLACES])
    }

    #[inline]
    pub(super) fn push(&mut self, space: u16, mapping: &Mapping, unmapped: Stamp) {
        let gone =
            Gone { space, iova: mapping.iova, page: mapping.page, mapped: mapping.since, unmapped };
        if let Some(place) = self.0.get_mut(place(space, mapping.iova)) {
            *place = Some(gone);
        }
    }

    pub(super) fn find(&self, space: u16, iova: IovaPage) -> Option<&Gone> {
        let gone = self.0.get(place(space, iova))?.as_ref()?;
        if gone.space == space && gone.iova == iova { Some(gone) } else { None }
    }
}

/// Neighbouring addresses have places of their own; equal ones of different spaces seldom meet.
fn place(space: u16, iova: IovaPage) -> usize {
    (iova.0 as usize ^ usize::from(space).wrapping_mul(0x9e5)) % PLACES
}
