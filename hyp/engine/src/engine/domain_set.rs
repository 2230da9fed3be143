//! A set of domains, of which the first is found without a look at the others.

use alloc::vec::Vec;

use oche_types::Invariant;

use crate::heap::bytes_of;
use crate::host::DomainId;

const BITS: usize = u64::BITS as usize;

/// A set of domains, a bit a domain.
#[derive(Debug)]
pub(super) struct DomainSet(Vec<u64>);

impl DomainSet {
    /// An empty set of domains with numbers below `domains`.
    pub(super) fn new(domains: usize) -> Self {
        Self(alloc::vec![0; domains.div_ceil(BITS)])
    }

    /// Bytes of heap that [`Self::new`] takes.
    pub(super) const fn bytes(domains: usize) -> usize {
        bytes_of::<u64>(domains.div_ceil(BITS))
    }

    pub(super) fn insert(&mut self, domain: DomainId) {
        *self.word(domain) |= bit(domain);
    }

    pub(super) fn remove(&mut self, domain: DomainId) {
        *self.word(domain) &= !bit(domain);
    }

    /// The domain with the lowest number.
    pub(super) fn first(&self) -> Option<DomainId> {
        let (index, word) = self.0.iter().enumerate().find(|(_, word)| **word != 0)?;
        Some(DomainId((index * BITS) as u16 + word.trailing_zeros() as u16))
    }

    fn word(&mut self, domain: DomainId) -> &mut u64 {
        self.0.get_mut(usize::from(domain.0) / BITS).must("a domain's number is below the maximum")
    }
}

fn bit(domain: DomainId) -> u64 {
    1 << (usize::from(domain.0) % BITS)
}

#[cfg(test)]
mod tests {
    use super::{DomainId, DomainSet};

    #[test]
    fn the_first_of_a_set_is_the_lowest() {
        let mut set = DomainSet::new(200);
        assert_eq!(set.first(), None);
        for domain in [199, 64, 63, 128, 0] {
            set.insert(DomainId(domain));
        }
        for domain in [0, 63, 64, 128, 199] {
            assert_eq!(set.first(), Some(DomainId(domain)));
            set.remove(DomainId(domain));
        }
        assert_eq!(set.first(), None);
    }

    #[test]
    #[should_panic(expected = "a domain's number is below the maximum")]
    fn a_set_has_no_more_domains_than_it_was_made_for() {
        DomainSet::new(64).insert(DomainId(64));
    }
}
