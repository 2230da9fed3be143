//! The IOVAs at which a guest page is mapped.
//!
//! The head is a `u32` in the page's state. It is the mapping itself as long as there is at most
//! one, the common case. Otherwise it is the index of the first node of a list in a table of fixed
//! capacity.

use alloc::vec::Vec;

use oche_types::addr::IovaPage;
use oche_types::{Invariant, invariant};

use crate::heap::bytes_of;
use crate::host::DomainId;
use crate::mover::{NONE, PageState};

/// Most mappings of one page. It bounds the search through a page's list and so the work in one
/// trap.
pub(crate) const MAX_ALIASES: usize = 1024;
/// Most mappings of a page of which a device or an untranslated bus master writes a copy: each copy
/// is compared word by word and updated, at once for all four pages of a granule, which is the most
/// that an exit has to do. Buffers that devices write are as far apart as the kernel aligns memory
/// for DMA, 128 bytes (Linux `arch/arm64/include/asm/cache.h`, `ARCH_DMA_MINALIGN`), so this is the
/// number that fits into a page. Only a driver that maps the same bytes several times needs more.
pub(crate) const MAX_WRITTEN_ALIASES: usize = 32;
/// Set in a head that is the index of a node.
const LIST: u32 = 1 << 31;
/// Most domains at a time: sixteen DARTs whose streams all have tables of their own. A domain that
/// is not in use takes 32 KiB.
pub(crate) const MAX_DOMAINS: usize = 256;
// They fit beside the 20 bits of an IOVA page and `LIST`.
const _: () = assert!(MAX_DOMAINS <= 1 << 11);

/// A mapping of a page: a domain and an IOVA in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) domain: DomainId,
    pub(crate) iova: IovaPage,
}

impl Mapping {
    fn pack(self) -> u32 {
        u32::from(self.domain.0) << 20 | self.iova.0 & 0xf_ffff
    }

    fn unpack(bits: u32) -> Self {
        Self { domain: DomainId((bits >> 20) as u16), iova: IovaPage(bits & 0xf_ffff) }
    }
}

/// The head of a list that has only `mapping`.
pub(crate) fn only(mapping: Mapping) -> u32 {
    mapping.pack()
}

/// Whether `page`, which is mapped, is at home and has no other copy: when its only mapping goes,
/// nothing is merged and nothing moves.
pub(crate) fn is_alone(page: &PageState) -> bool {
    page.is_home_without_twin() && is_single(page.mappings)
}

/// Whether a list that begins at `head` has one mapping.
fn is_single(head: u32) -> bool {
    head & LIST == 0
}

/// The page has too many mappings, or all nodes are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// The nodes of all lists.
#[derive(Debug)]
pub(crate) struct Aliases {
    nodes: Vec<Node>,
    free: u32,
    free_nodes: u32,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    mapping: u32,
    next: u32,
}

impl Aliases {
    /// Room for `capacity` mappings of pages that have more than one.
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.min((LIST - 1) as usize) as u32;
        let nodes = (1..=capacity)
            .map(|next| Node { mapping: 0, next: if next == capacity { NONE } else { next } })
            .collect();
        Self { nodes, free: if capacity == 0 { NONE } else { 0 }, free_nodes: capacity }
    }

    /// Bytes of heap that [`Self::new`] takes.
    pub(crate) const fn bytes(capacity: usize) -> usize {
        bytes_of::<Node>(capacity)
    }

    /// How many nodes are free.
    pub(crate) fn free_nodes(&self) -> usize {
        self.free_nodes as usize
    }

    /// Adds `mapping`, which is not in it, to the list that begins at `head`.
    ///
    /// # Errors
    ///
    /// [`TooMany`] if the list has `max` mappings already; it is not changed.
    pub(crate) fn add(
        &mut self,
        head: &mut u32,
        mapping: Mapping,
        max: usize,
    ) -> Result<(), TooMany> {
        if *head == NONE {
            *head = mapping.pack();
            return Ok(());
        }
        if self.iter(*head).nth(max - 1).is_some() {
            return Err(TooMany);
        }
        if *head & LIST == 0 {
            let only = self.node(*head, NONE).ok_or(TooMany)?;
            match self.node(mapping.pack(), only) {
                Some(first) => *head = LIST | first,
                None => {
                    self.release(only);
                    return Err(TooMany);
                }
            }
        } else {
            *head = LIST | self.node(mapping.pack(), *head & !LIST).ok_or(TooMany)?;
        }
        Ok(())
    }

    /// Removes `mapping` from the list that begins at `head`, which has it.
    pub(crate) fn remove(&mut self, head: &mut u32, mapping: Mapping) {
        const LISTED: &str = "a mapping that goes is in its page's list";
        if *head == NONE || *head & LIST == 0 {
            invariant!(*head == mapping.pack(), "{LISTED}");
            *head = NONE;
            return;
        }
        let mut before = NONE;
        let mut at = *head & !LIST;
        let mut node = *self.nodes.get(at as usize).must("a list is made of nodes");
        while node.mapping != mapping.pack() {
            before = at;
            at = node.next;
            node = *self.nodes.get(at as usize).must(LISTED);
        }
        match self.nodes.get_mut(before as usize) {
            Some(previous) => previous.next = node.next,
            None => *head = LIST | node.next,
        }
        self.release(at);
        self.simplify(head);
    }

    /// The number of mappings in the list that begins at `head`.
    #[inline]
    pub(crate) fn count(&self, head: u32) -> usize {
        match head {
            NONE => 0,
            _ if is_single(head) => 1,
            _ => self.count_nodes(head),
        }
    }

    /// As [`Self::count`], out of line: few pages have a list of nodes.
    #[cold]
    #[inline(never)]
    fn count_nodes(&self, head: u32) -> usize {
        self.iter(head).count()
    }

    /// The mappings in the list that begins at `head`.
    pub(crate) fn iter(&self, head: u32) -> impl Iterator<Item = Mapping> {
        let mut at = head;
        core::iter::from_fn(move || {
            let (mapping, rest) = self.step(at)?;
            at = rest;
            Some(mapping)
        })
    }

    /// The first mapping of the list that begins at `head`, and the head of the rest of the list.
    pub(crate) fn step(&self, head: u32) -> Option<(Mapping, u32)> {
        if head == NONE {
            return None;
        }
        if head & LIST == 0 {
            return Some((Mapping::unpack(head), NONE));
        }
        let node = self.nodes.get((head & !LIST) as usize).must("a list is made of nodes");
        let rest = if node.next == NONE { NONE } else { LIST | node.next };
        Some((Mapping::unpack(node.mapping), rest))
    }

    /// Replaces a list of one node by its mapping.
    fn simplify(&mut self, head: &mut u32) {
        let at = *head & !LIST;
        let node = *self.nodes.get(at as usize).must("a list is made of nodes");
        if node.next == NONE {
            *head = node.mapping;
            self.release(at);
        }
    }

    fn node(&mut self, mapping: u32, next: u32) -> Option<u32> {
        let index = self.free;
        let node = self.nodes.get_mut(index as usize)?;
        self.free = node.next;
        self.free_nodes -= 1;
        *node = Node { mapping, next };
        Some(index)
    }

    fn release(&mut self, index: u32) {
        let node = self.nodes.get_mut(index as usize).must("a list is made of nodes");
        node.next = self.free;
        self.free = index;
        self.free_nodes += 1;
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;

    use super::*;

    fn mapping(index: u32) -> Mapping {
        Mapping { domain: DomainId((index % 7) as u16), iova: IovaPage(index) }
    }

    fn listed(aliases: &Aliases, head: u32) -> BTreeSet<u32> {
        aliases.iter(head).map(Mapping::pack).collect()
    }

    #[test]
    fn a_list_holds_what_a_set_would() {
        let mut aliases = Aliases::new(8);
        let mut head = NONE;
        let mut set = BTreeSet::new();
        let mut state = 1_u32;
        for _ in 0..10_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let mapping = mapping(state >> 24 & 7);
            if state >> 16 & 1 == 0 {
                if set.insert(mapping.pack()) {
                    assert_eq!(aliases.add(&mut head, mapping, MAX_ALIASES), Ok(()));
                }
            } else if set.remove(&mapping.pack()) {
                aliases.remove(&mut head, mapping);
            }
            assert_eq!(listed(&aliases, head), set);
        }
    }

    #[test]
    #[should_panic(expected = "invariant: a mapping that goes is in its page's list")]
    fn a_mapping_that_is_not_listed_does_not_go() {
        let mut aliases = Aliases::new(8);
        let mut head = NONE;
        for index in 0..3 {
            assert_eq!(aliases.add(&mut head, mapping(index), MAX_ALIASES), Ok(()));
        }
        aliases.remove(&mut head, mapping(3));
    }

    #[test]
    fn a_full_table_refuses_and_changes_nothing() {
        let mut aliases = Aliases::new(2);
        let mut head = NONE;
        for index in 0..2 {
            assert_eq!(aliases.add(&mut head, mapping(index), MAX_ALIASES), Ok(()));
        }
        assert_eq!(aliases.add(&mut head, mapping(2), MAX_ALIASES), Err(TooMany));
        assert_eq!(listed(&aliases, head).len(), 2);
        assert_eq!(aliases.free_nodes(), 0);
        let mut other = NONE;
        assert_eq!(aliases.add(&mut other, mapping(3), MAX_ALIASES), Ok(()));
        assert_eq!(aliases.add(&mut other, mapping(4), MAX_ALIASES), Err(TooMany));
        assert_eq!(listed(&aliases, other).len(), 1);
    }
}
