//! Event records, in which the SMMU reports an access that it refused. Source: ARM IHI 0070, 7.3.

use crate::iommu_map::RequesterId;

/// 64-bit words of an event record.
pub const EVENT_WORDS: usize = 4;

/// A decoded event record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An access of a requester that its translation tables refused.
    Refused {
        /// The requester.
        requester: RequesterId,
        /// The input address, 64 bits.
        iova: u64,
        /// Whether it was a write.
        is_write: bool,
    },
    /// Any other event, such as an access of a requester that is not on the map.
    Other {
        /// The event's number (7.3).
        number: u8,
        /// The StreamID in the event.
        stream_id: u32,
    },
}

/// Decodes `record`. Accepts any bits.
pub fn decode(record: [u64; EVENT_WORDS]) -> Event {
    let [first, second, iova, _] = record;
    let number = (first & 0xff) as u8;
    let stream_id = (first >> 32) as u32;
    match (number, u16::try_from(stream_id)) {
        (F_WALK_EABT | F_TRANSLATION | F_ADDR_SIZE | F_ACCESS | F_PERMISSION, Ok(id)) => {
            Event::Refused {
                requester: RequesterId(id),
                iova,
                is_write: second & READ_NOT_WRITE == 0,
            }
        }
        _ => Event::Other { number, stream_id },
    }
}

/// `RnW`.
const READ_NOT_WRITE: u64 = 1 << 35;

const F_WALK_EABT: u8 = 0x0b;
const F_TRANSLATION: u8 = 0x10;
const F_ADDR_SIZE: u8 = 0x11;
const F_ACCESS: u8 = 0x12;
const F_PERMISSION: u8 = 0x13;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_translation_fault_says_who_where_and_whether_it_wrote() {
        let record = [0x10 | 0x08 << 32, 1 << 35, 0xbfff_0010, 0];
        let fault =
            |is_write| Event::Refused { requester: RequesterId(8), iova: 0xbfff_0010, is_write };
        assert_eq!(decode(record), fault(false));
        assert_eq!(decode([record[0], 0, record[2], 0]), fault(true));
    }

    #[test]
    fn every_record_decodes_and_only_refused_accesses_are_faults() {
        for number in 0..=0xff_u64 {
            let is_fault = matches!(decode([number, 0, 0, 0]), Event::Refused { .. });
            assert_eq!(is_fault, matches!(number, 0x0b | 0x10..=0x13), "{number:#x}");
        }
        assert!(matches!(decode([u64::MAX; EVENT_WORDS]), Event::Other { .. }));
        assert!(matches!(decode([0x10 | 0x1_0000 << 32, 0, 0, 0]), Event::Other { .. }));
    }
}
