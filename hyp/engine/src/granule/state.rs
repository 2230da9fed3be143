//! The granule map: how Oche has mapped each granule, whatever the guest's tables hold now.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use oche_types::Invariant;
use oche_types::addr::{Gfn, Granule, HostGranule, SLOTS};
use oche_types::dart::entry::{Leaf, Permission};

use crate::heap::bytes_of;

/// Granules of one leaf table of the guest: 2 MiB of IOVA space.
const GRANULES: usize = 128;
/// Blocks of a domain, whose IOVAs have 32 bits.
const BLOCKS: usize = 2048;
/// Entry of a [`Directory`] without a block.
const NO_BLOCK: u32 = u32::MAX;

/// How a granule is backed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Nothing is mapped: devices fault.
    Empty,
    /// By this frame of guest RAM, in which its pages are at home.
    Direct(HostGranule),
    /// By a frame of the pool.
    Relocated(HostGranule),
}

/// A mapped slot of a granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The guest page.
    pub(crate) page: Gfn,
    /// The permission in the guest's entry.
    pub(crate) permission: Permission,
    /// Whether the slot is a bounce page: a further copy of a page that CPUs access elsewhere.
    pub(crate) is_bounce: bool,
    /// Whether the slot holds the page's bytes. A bounce page that the current batch has planned
    /// does not yet.
    pub(crate) is_filled: bool,
}

impl Slot {
    /// The guest's entry for the slot.
    pub(crate) fn leaf(self) -> Leaf {
        Leaf { page: self.page, permission: self.permission, whole_page: true }
    }
}

/// How one granule is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GranuleState {
    pub(crate) form: Form,
    pub(crate) slots: [Option<Slot>; SLOTS],
}

impl GranuleState {
    /// A granule of which nothing is mapped.
    pub(crate) const EMPTY: Self = Self { form: Form::Empty, slots: [None; SLOTS] };

    /// A granule whose slots are the pages of `frame`, in order and with one permission.
    pub(crate) fn whole(frame: HostGranule, permission: Permission) -> Self {
        let slots = core::array::from_fn(|slot| {
            let page = Gfn(frame.page(slot).0);
            Some(Slot { page, permission, is_bounce: false, is_filled: true })
        });
        Self { form: Form::Direct(frame), slots }
    }

    /// The union of the slots' permissions.
    pub(crate) fn permission(&self) -> Permission {
        self.slots
            .iter()
            .flatten()
            .fold(Permission::default(), |all, slot| all.union(slot.permission))
    }

    /// Slot `index`, which is mapped.
    pub(crate) fn mapped_mut(&mut self, index: usize) -> &mut Slot {
        self.slots.get_mut(index).and_then(Option::as_mut).must("the slot is mapped")
    }

    /// Whether no slot is mapped.
    pub(crate) fn is_vacant(&self) -> bool {
        self.slots.iter().all(Option::is_none)
    }
}

/// All granules of all domains that are not empty, in a fixed number of blocks.
#[derive(Debug)]
pub(crate) struct GranuleMap {
    blocks: Vec<Block>,
    free: Vec<u32>,
    version: u64,
}

#[derive(Clone, Debug)]
struct Block {
    states: [GranuleState; GRANULES],
    used: u8,
}

/// The blocks of one domain.
#[derive(Debug)]
pub(crate) struct Directory(Box<[u32; BLOCKS]>);

impl Directory {
    /// A directory without blocks.
    pub(crate) fn new() -> Self {
        Self(Box::new([NO_BLOCK; BLOCKS]))
    }

    /// Bytes of heap that a directory takes.
    pub(crate) const BYTES: usize = bytes_of::<[u32; BLOCKS]>(1);

    /// Whether there is no block.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|block| *block == NO_BLOCK)
    }
}

impl GranuleMap {
    /// Room for `blocks` times 2 MiB of IOVA space in which something is mapped.
    pub(crate) fn new(blocks: usize) -> Self {
        let blocks = blocks.min(NO_BLOCK as usize);
        let empty = Block { states: [GranuleState::EMPTY; GRANULES], used: 0 };
        let free = (0..blocks as u32).rev().collect();
        Self { blocks: alloc::vec![empty; blocks], free, version: 0 }
    }

    /// Bytes of heap that [`Self::new`] takes.
    pub(crate) const fn bytes(blocks: usize) -> usize {
        bytes_of::<Block>(blocks) + bytes_of::<u32>(blocks)
    }

    /// Block `number` of a domain, if it has one.
    fn block(&self, directory: &Directory, number: usize) -> Option<&Block> {
        let number = *directory.0.get(number).must("an IOVA has 32 bits");
        (number != NO_BLOCK)
            .then(|| self.blocks.get(number as usize).must("a block's number is the granule map's"))
    }

    /// The state of `granule`.
    pub(crate) fn get(&self, directory: &Directory, granule: Granule) -> &GranuleState {
        let (number, state) = position(granule);
        match self.block(directory, number) {
            Some(block) => block.states.get(state).must("a granule has a place in its block"),
            None => &GranuleState::EMPTY,
        }
    }

    /// Slot `slot` of `granule`, if it is mapped, and how the granule is backed.
    pub(crate) fn slot(
        &self,
        directory: &Directory,
        granule: Granule,
        slot: usize,
    ) -> Option<(Slot, Form)> {
        let (number, state) = position(granule);
        let state = self.block(directory, number)?.states.get(state)?;
        state.slots.get(slot).copied().flatten().map(|slot| (slot, state.form))
    }

    /// A number that changes whenever the state of a granule may change.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The first of `granules` in which something is mapped, with its state. Skips missing blocks
    /// as a whole.
    pub(crate) fn find(
        &self,
        directory: &Directory,
        granules: RangeInclusive<Granule>,
    ) -> Option<(Granule, GranuleState)> {
        let mut next = *granules.start();
        while next <= *granules.end() {
            let (number, first) = position(next);
            let block = self.block(directory, number);
            let states = block.and_then(|block| block.states.get(first..)).unwrap_or_default();
            if let Some((found, state)) =
                (next.0..).zip(states).find(|(_, state)| !state.is_vacant())
            {
                return granules.contains(&Granule(found)).then_some((Granule(found), *state));
            }
            next = Granule(((number + 1) * GRANULES) as u32);
        }
        None
    }

    /// Makes sure that [`Self::update`] can be called for `granule`. Returns false if no block is
    /// free.
    #[must_use]
    pub(crate) fn prepare(&mut self, directory: &mut Directory, granule: Granule) -> bool {
        let (block, _) = position(granule);
        let number = directory.0.get_mut(block).must("an IOVA has 32 bits");
        if *number == NO_BLOCK {
            let Some(free) = self.free.pop() else { return false };
            *number = free;
        }
        true
    }

    /// Lets `change` change the state of a prepared `granule`. Frees its block if all states in it
    /// are empty.
    #[inline]
    pub(crate) fn update(
        &mut self,
        directory: &mut Directory,
        granule: Granule,
        change: impl FnOnce(&mut GranuleState),
    ) {
        self.version = self.version.wrapping_add(1);
        let (block, state) = position(granule);
        let number = directory.0.get(block).must("an IOVA has 32 bits");
        let block =
            self.blocks.get_mut(*number as usize).must("a granule is set only when prepared");
        let state = block.states.get_mut(state).must("a granule has a place in its block");
        let was_used = state.form != Form::Empty;
        change(state);
        let is_used = state.form != Form::Empty;
        block.used = block.used + u8::from(is_used) - u8::from(was_used);
        if block.used == 0 {
            self.release_unused(directory, granule);
        }
    }

    /// Frees the block of `granule` if all states in it are empty.
    pub(crate) fn release_unused(&mut self, directory: &mut Directory, granule: Granule) {
        let (block, _) = position(granule);
        let number = directory.0.get_mut(block).must("an IOVA has 32 bits");
        if self.blocks.get(*number as usize).is_some_and(|block| block.used == 0) {
            self.free.push(*number);
            *number = NO_BLOCK;
        }
    }
}

fn position(granule: Granule) -> (usize, usize) {
    let granule = granule.0 as usize;
    (granule / GRANULES, granule % GRANULES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_goes_back_with_its_last_state() {
        let mut granule_map = GranuleMap::new(1);
        let (mut one, mut other) = (Directory::new(), Directory::new());
        let state = GranuleState { form: Form::Direct(HostGranule(9)), slots: [None; SLOTS] };
        assert!(granule_map.prepare(&mut one, Granule(130)));
        granule_map.update(&mut one, Granule(130), |old| *old = state);
        assert!(!granule_map.prepare(&mut other, Granule(0)));
        assert_eq!(*granule_map.get(&one, Granule(130)), state);
        assert_eq!(*granule_map.get(&one, Granule(2)), GranuleState::EMPTY);
        granule_map.update(&mut one, Granule(130), |old| *old = GranuleState::EMPTY);
        assert!(granule_map.prepare(&mut other, Granule(0)));
    }
}
