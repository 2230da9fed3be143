//! Chains of callers as records, and back.

use alloc::vec::Vec;

use oche_types::call_chain::{CallChain, MAX_CALLERS, address};
use oche_types::dart::stream::DartId;
use oche_types::event::Event;

use crate::record::{DATA_BYTES, Record};
use crate::words::GROUP;

/// Distances in the first record, and in one that follows.
const IN_FIRST: usize = 2;
const IN_DATA: usize = DATA_BYTES / 4;
/// Most records that follow the first.
const MAX_DATA: usize = GROUP - 1;
const IN_ONE: usize = IN_FIRST + IN_DATA;
const _: () = assert!(MAX_DATA == 2 && IN_FIRST + MAX_DATA * IN_DATA == MAX_CALLERS);

/// The event that holds the chain of a flush of `dart`, and what [`Event::Data`] behind it hold, of
/// which [`following`] are needed.
#[inline(always)]
pub fn records(dart: DartId, chain: &CallChain) -> (Event, [[u64; 2]; MAX_DATA]) {
    let [nearest, one, two, three, four] = chain.words;
    let frames = (chain.count & 0xf) as u8;
    let event = Event::CallChain { dart, frames, is_cut: chain.is_cut, nearest };
    (event, [[one, two], [three, four]])
}

/// How many [`Event::Data`] follow the record of a chain.
#[inline(always)]
pub fn following(chain: &CallChain) -> usize {
    if chain.count > IN_ONE { MAX_DATA } else { usize::from(chain.count > IN_FIRST) }
}

/// The callers that a record of either kind names, innermost first: addresses that functions return
/// to. `bytes` are those of the records behind it. `None` if it is of no such kind.
pub fn callers(record: &Record, bytes: &[u8]) -> Option<Vec<u64>> {
    match record.event()? {
        Event::Callers { first, .. } => {
            let words = bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
            Some([first].into_iter().chain(words).collect())
        }
        Event::CallChain { frames, nearest, .. } => {
            let words = bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes));
            let first = [nearest as i32, (nearest >> 32) as i32];
            let distances = first.into_iter().chain(words).take(usize::from(frames));
            let code = record.program_counter();
            Some(distances.map(|distance| address(code, distance)).collect())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Stamp;
    use crate::snapshot::bytes_behind;

    const TRAP: u64 = 0xffff_8000_0812_3450;

    #[test]
    fn a_chain_of_any_length_comes_back_from_its_records() {
        let one = |index: usize| [1, -1][index % 2] * (0x7fff_ff00 - index as i32);
        for count in 0..=MAX_CALLERS {
            let mut chain = CallChain { count, is_cut: count % 2 == 0, ..CallChain::default() };
            for index in 0..count {
                let distance = u64::from(one(index).cast_unsigned());
                chain.words[index / 2] |= distance << (index % 2 * 32);
            }
            let (event, data) = records(DartId::FIRST, &chain);
            let stamp = Stamp { program_counter: TRAP, ..Stamp::default() };
            let record = Record::new(stamp, &event);
            let wanted = bytes_behind(&record).unwrap_or(0);
            assert_eq!(wanted.div_ceil(DATA_BYTES), following(&chain));
            let words = data.as_flattened().iter().flat_map(|word| word.to_le_bytes());
            let bytes: Vec<u8> = words.take(wanted).collect();
            let found = callers(&record, &bytes).expect("a chain");
            let expected = (0..count).map(|index| address(TRAP, one(index)));
            assert_eq!(found, expected.collect::<Vec<u64>>());
            assert!(matches!(event, Event::CallChain { is_cut, .. } if is_cut == chain.is_cut));
        }
    }

    #[test]
    fn the_chains_of_older_recordings_are_read_and_other_records_have_none() {
        let stamp = Stamp { program_counter: TRAP, ..Stamp::default() };
        let old = Event::Callers { dart: DartId::FIRST, frames: 3, first: 5 };
        let bytes: Vec<u8> = [6_u64, 7].into_iter().flat_map(u64::to_le_bytes).collect();
        assert_eq!(callers(&Record::new(stamp, &old), &bytes), Some(Vec::from([5, 6, 7])));
        let other = Event::InvalidateTimedOut { dart: DartId::FIRST };
        assert_eq!(callers(&Record::new(stamp, &other), &bytes), None);
    }
}
