//! A set of domains, of which the first is found without a look at the others.

use oche_types::Invariant;

use crate::granule::alias::MAX_DOMAINS;
use crate::host::DomainId;

const BITS: usize = u64::BITS as usize;
const WORDS: usize = MAX_DOMAINS.div_ceil(BITS);

/// A set of domains, a bit a domain.
#[derive(Debug, Default)]
pub(super) struct DomainSet {
    words: [u64; WORDS],
    /// The words that are not zero, a bit each.
    occupied: u8,
}

const _: () = assert!(WORDS <= u8::BITS as usize, "`DomainSet::occupied` has a bit a word");

impl DomainSet {
    pub(super) fn insert(&mut self, domain: DomainId) {
        let (index, bit) = position(domain);
        *self.word(index) |= bit;
        self.occupied |= 1 << index;
    }

    pub(super) fn remove(&mut self, domain: DomainId) {
        let (index, bit) = position(domain);
        let word = self.word(index);
        *word &= !bit;
        if *word == 0 {
            self.occupied &= !(1 << index);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.occupied == 0
    }

    /// The domain with the lowest number.
    pub(super) fn first(&self) -> Option<DomainId> {
        let index = self.occupied.trailing_zeros() as usize;
        let word = self.words.get(index)?;
        Some(DomainId((index * BITS) as u16 + word.trailing_zeros() as u16))
    }

    fn word(&mut self, index: usize) -> &mut u64 {
        self.words.get_mut(index).must("a domain's number is below the maximum")
    }
}

/// The word that has the bit of `domain`, and the bit.
fn position(domain: DomainId) -> (usize, u64) {
    let number = usize::from(domain.0);
    (number / BITS, 1 << (number % BITS))
}

#[cfg(test)]
mod tests {
    use super::{DomainId, DomainSet, MAX_DOMAINS};

    #[test]
    fn the_first_of_a_set_is_the_lowest() {
        let mut set = DomainSet::default();
        assert_eq!(set.first(), None);
        for domain in [199, 64, 63, 128, 0, 255, 64] {
            set.insert(DomainId(domain));
        }
        for domain in [0, 63, 64, 128, 199, 255] {
            assert!(!set.is_empty());
            assert_eq!(set.first(), Some(DomainId(domain)));
            set.remove(DomainId(domain));
        }
        assert!(set.is_empty());
        assert_eq!(set.first(), None);
    }

    #[test]
    fn a_domain_that_is_removed_twice_removes_no_other() {
        let mut set = DomainSet::default();
        set.insert(DomainId(70));
        set.insert(DomainId(71));
        set.remove(DomainId(70));
        set.remove(DomainId(70));
        assert_eq!(set.first(), Some(DomainId(71)));
    }

    #[test]
    #[should_panic(expected = "a domain's number is below the maximum")]
    fn a_set_has_no_domain_beyond_the_maximum() {
        DomainSet::default().insert(DomainId(MAX_DOMAINS as u16));
    }
}
