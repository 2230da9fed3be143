//! The stream table and the context descriptors in memory.

use alloc::vec::Vec;

use oche_engine::host::DomainId;
use oche_types::addr::{FRAME_BYTES, HostGranule};

use super::barrier;
use super::block::Block;
use super::structures::{
    ABORTING_ENTRY, Asid, BUS_ENTRIES_LOG2, ENTRY_ATTRIBUTES, OutputSize, STRUCTURE_BYTES,
    STRUCTURE_WORDS, bus_descriptor, context_descriptor, context_root, translating_entry,
};
use crate::iommu_map::{IommuMap, RequesterId};

/// Base-2 logarithm of the number of PCI buses.
const BUSES_LOG2: u32 = 8;
/// Number of bits of a requester ID.
pub(super) const REQUESTER_BITS: u32 = BUSES_LOG2 + BUS_ENTRIES_LOG2;
/// Base-2 logarithm of the bytes of a level 1 descriptor.
const DESCRIPTOR_LOG2: u32 = 3;
const STRUCTURE_LOG2: u32 = STRUCTURE_BYTES.trailing_zeros();
const FRAME_LOG2: u32 = FRAME_BYTES.trailing_zeros();

/// The two-level stream table: a descriptor for each bus, and entries for the buses on the map.
pub(super) struct StreamTable {
    buses: Block,
    entries: Vec<(u8, Block)>,
}

impl StreamTable {
    /// Creates a table in which every requester of `map` uses the context at `blocking` and every
    /// other requester's accesses abort.
    pub(super) fn new(map: &IommuMap, blocking: u64) -> Self {
        let mut table =
            Self { buses: Block::new(BUSES_LOG2 + DESCRIPTOR_LOG2), entries: Vec::new() };
        for connection in map.connections() {
            table.add_bus(connection.requester.bus());
            table.set_context(connection.requester, blocking);
        }
        table
    }

    /// Physical address of the level 1 table.
    pub(super) fn address(&self) -> u64 {
        self.buses.address()
    }

    /// Makes `requester`, which is on the map, translate through the context at physical `context`.
    ///
    /// It is one store: the SMMU reads the old or the new entry.
    pub(super) fn set_context(&mut self, requester: RequesterId, context: u64) {
        let (_, entries) = self
            .entries
            .iter_mut()
            .find(|(bus, _)| *bus == requester.bus())
            .expect("invariant: the bus of each requester on the map has entries");
        entries.store(requester.place_on_bus() * STRUCTURE_WORDS, translating_entry(context));
    }

    fn add_bus(&mut self, bus: u8) {
        if self.entries.iter().any(|(known, _)| *known == bus) {
            return;
        }
        let mut entries = Block::new(BUS_ENTRIES_LOG2 + STRUCTURE_LOG2);
        for place in 0..1 << BUS_ENTRIES_LOG2 {
            entries.store(place * STRUCTURE_WORDS + 1, ENTRY_ATTRIBUTES);
            entries.store(place * STRUCTURE_WORDS, ABORTING_ENTRY);
        }
        self.buses.store(usize::from(bus), bus_descriptor(entries.address()));
        self.entries.push((bus, entries));
    }
}

/// The context descriptors: that of the blocking context, then one for each domain. The index of a
/// descriptor is its ASID.
pub(super) struct Contexts {
    descriptors: Block,
    roots: Vec<Option<HostGranule>>,
    blocking_root: Block,
    output: OutputSize,
}

impl Contexts {
    /// Creates the blocking context's descriptor and room for `domains` more.
    pub(super) fn new(domains: usize, output: OutputSize) -> Self {
        let count = (domains + 1).next_power_of_two();
        let descriptors = Block::new(count.trailing_zeros() + STRUCTURE_LOG2);
        let blocking_root = Block::new(FRAME_LOG2);
        let roots = alloc::vec![None; domains];
        let mut contexts = Self { descriptors, roots, blocking_root, output };
        contexts.store(BLOCKING, contexts.blocking_root());
        contexts
    }

    /// Physical address of the descriptor of the blocking context.
    pub(super) fn blocking(&self) -> u64 {
        self.descriptors.address()
    }

    /// The first-level table of the blocking context.
    pub(super) fn blocking_root(&self) -> HostGranule {
        HostGranule((self.blocking_root.address() >> FRAME_LOG2) as u32)
    }

    /// Physical address of the descriptor of `domain`.
    pub(super) fn address(&self, domain: DomainId) -> u64 {
        self.blocking() + u64::from(self.asid(domain).0) * STRUCTURE_BYTES
    }

    /// The ASID of `domain`. `bring_up` has checked that there are enough.
    pub(super) fn asid(&self, domain: DomainId) -> Asid {
        assert!(
            usize::from(domain.0) < self.roots.len(),
            "the engine was built with fewer domains"
        );
        Asid(domain.0 + 1)
    }

    /// Sets `root` in the descriptor of `domain`. Returns whether it has changed.
    ///
    /// Only the root word of a descriptor in use changes, by one store, so the SMMU sees the old or
    /// the new root.
    pub(super) fn set_root(&mut self, domain: DomainId, root: HostGranule) -> bool {
        let asid = self.asid(domain);
        let known = self.roots.get_mut(usize::from(domain.0));
        let known = known.expect("invariant: an ASID is that of a domain");
        match known.replace(root) {
            Some(before) if before == root => return false,
            Some(_) => {
                let word = usize::from(asid.0) * STRUCTURE_WORDS + ROOT_WORD;
                self.descriptors.store(word, context_root(root));
            }
            None => self.store(asid, root),
        }
        true
    }

    /// Stores a descriptor that is not valid yet. The word with the valid bit is stored last.
    fn store(&mut self, asid: Asid, root: HostGranule) {
        let words = context_descriptor(asid, self.output, root);
        let first = usize::from(asid.0) * STRUCTURE_WORDS;
        for (index, value) in words.into_iter().enumerate().skip(1) {
            self.descriptors.store(first + index, value);
        }
        barrier::complete();
        self.descriptors.store(first, words[0]);
    }
}

/// The blocking context's ASID.
const BLOCKING: Asid = Asid(0);
/// Index of the word with `TTB0` in a descriptor.
const ROOT_WORD: usize = 1;
