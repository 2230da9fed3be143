//! The callers of the guest's code, from its chain of frame records, which is not trusted.
//!
//! A frame record is two words at X29: the caller's X29, and the address that the function returns
//! to. Source: Procedure Call Standard for the Arm 64-bit Architecture (AAPCS64), 6.4.6 "The Frame
//! Pointer". The guest may put anything there: the walk ends at a record that cannot be read, and
//! after a fixed number of records.

#[cfg(target_os = "none")]
pub mod hw;

/// Most frames that are walked.
pub const MAX_FRAMES: usize = 12;
/// Bytes of a frame record.
const RECORD_BYTES: u64 = 16;
/// The smallest page of a guest's tables: a record that crosses its end is not read.
const PAGE_BYTES: u64 = 4096;

/// Walks the chain from `frame_pointer`, stores the return addresses in `into`, and returns their
/// number. `read` returns the two words at an aligned virtual address whose page holds both, or
/// `None` if they cannot be read.
pub fn walk(
    frame_pointer: u64,
    into: &mut [u64],
    mut read: impl FnMut(u64) -> Option<[u64; 2]>,
) -> usize {
    let mut frame = frame_pointer;
    let mut count = 0;
    for to in into.iter_mut().take(MAX_FRAMES) {
        let is_whole = frame % PAGE_BYTES <= PAGE_BYTES - RECORD_BYTES;
        if frame == 0 || !frame.is_multiple_of(8) || !is_whole {
            break;
        }
        let Some([next, address]) = read(frame) else { break };
        if address == 0 {
            break;
        }
        *to = without_signature(address);
        count += 1;
        if next == frame {
            break;
        }
        frame = next;
    }
    count
}

/// A return address without its pointer authentication code: bit 55 selects the half of the address
/// space, and the bits above 47 are copies of it. Source: Arm ARM DDI 0487, "Pointer
/// authentication", D8.8 in issue J.
fn without_signature(address: u64) -> u64 {
    const UPPER: u64 = !0 << 48;
    if address >> 55 & 1 == 1 { address | UPPER } else { address & !UPPER }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(start: u64, memory: &[(u64, [u64; 2])]) -> Vec<u64> {
        let mut into = [0; MAX_FRAMES];
        let read =
            |at| memory.iter().find(|(address, _)| *address == at).map(|(_, record)| *record);
        let count = walk(start, &mut into, read);
        into[..count].to_vec()
    }

    #[test]
    fn return_addresses_come_innermost_first_and_without_signatures() {
        let memory = [
            (0x1000, [0x1020, 0xffff_8000_0000_0010]),
            (0x1020, [0x1ff0, 0x00a5_8000_0000_0020]),
            (0x1ff0, [0, 0x0055_8000_0000_0030]),
        ];
        let signed = 0xffff_8000_0000_0020;
        assert_eq!(chain(0x1000, &memory), [0xffff_8000_0000_0010, signed, 0x8000_0000_0030]);
    }

    #[test]
    fn whatever_x29_holds_the_chain_ends() {
        for start in [0, 1, 4, 0x1ff8, 0xffff_ffff_ffff_fff8, u64::MAX] {
            assert_eq!(chain(start, &[]), [], "{start:#x}");
        }
        assert_eq!(chain(0x1000, &[(0x1000, [0x1000, 5])]), [5], "a record that names itself");
        let circle = [(0x1000, [0x2000, 1]), (0x2000, [0x1000, 2])];
        assert_eq!(chain(0x1000, &circle).len(), MAX_FRAMES, "a circle");
        assert_eq!(chain(0x1000, &[(0x1000, [0x2000, 0])]), [], "no return address");
        let mut reads = 0;
        let mut into = [0; 64];
        let count = walk(8, &mut into, |at| {
            assert!(at.is_multiple_of(8) && at % PAGE_BYTES <= PAGE_BYTES - RECORD_BYTES);
            reads += 1;
            Some([at.wrapping_mul(0x9e37_79b9_7f4a_7c15) & !7, at])
        });
        assert!(count <= MAX_FRAMES && reads <= MAX_FRAMES);
    }
}
