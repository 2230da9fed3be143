//! The callers of the guest's code, from its chain of frame records, which is not trusted.
//!
//! A frame record is two words at X29: the caller's X29, and the address that the function returns
//! to. Source: Procedure Call Standard for the Arm 64-bit Architecture (AAPCS64), 6.4.6 "The Frame
//! Pointer". The guest may put anything there: the walk ends at a record that cannot be read, after
//! [`MAX_CALLERS`], and before it would need more than [`MAX_PAGES`].

#[cfg(target_os = "none")]
pub mod hw;

use oche_types::call_chain::{CallChain, MAX_CALLERS, NO_DISTANCE, Origin, is_kernel};

/// Most pages of the guest's stacks that one walk looks at. The DMA layer's frames take half a page
/// and may lie across a boundary, and the chain may go on from an interrupt's stack to a task's.
pub const MAX_PAGES: usize = 2;
/// Bytes of a frame record. Compilers align them so, as they do the stack, and a record that is not
/// aligned ends the chain: so none crosses the end of a page.
const RECORD_BYTES: u64 = 16;
/// The smallest page of a guest's tables.
const PAGE_BYTES: u64 = 4096;

/// Walks the chain from `frame_pointer`, for an event of the kernel's instruction at
/// `program_counter`. Code in the lower half of the address space has no chain.
///
/// `locate` returns what to add to an address in the virtual page that it is given, to reach the
/// same byte in memory that `read` may read, or `None` if there is none. `read` returns the two
/// words there.
#[inline(always)]
pub fn walk(
    frame_pointer: u64,
    program_counter: u64,
    mut locate: impl FnMut(u64) -> Option<u64>,
    read: impl Fn(u64) -> [u64; 2],
) -> CallChain {
    let origin = Origin::of(program_counter);
    let mut distances = [NO_DISTANCE; MAX_CALLERS];
    let (mut frame, mut count) = (frame_pointer, 0_usize);
    // No frame is in this page.
    let (mut page, mut offset) = (!frame, 0);
    let mut pages = if is_kernel(program_counter) { MAX_PAGES } else { 0 };
    let mut is_cut = pages != 0;
    // Most of a chain is in one page: the way through here decides what it costs.
    while let Some(to) = distances.get_mut(count) {
        if !is_in(page, frame) {
            page = frame & !(PAGE_BYTES - 1);
            if frame == 0 || pages == 0 || !is_in(page, frame) {
                is_cut &= frame != 0;
                break;
            }
            pages = pages.wrapping_sub(1);
            let Some(found) = locate(page) else { break };
            offset = found;
        }
        let [next, address] = read(frame.wrapping_add(offset));
        let Some(distance) = origin.distance(address) else {
            is_cut = address != 0;
            break;
        };
        *to = distance;
        count = count.wrapping_add(1);
        frame = next;
    }
    CallChain::new(&distances, count, is_cut)
}

/// Whether `frame` is aligned and in the page at `page`.
#[inline(always)]
fn is_in(page: u64, frame: u64) -> bool {
    (frame ^ page) & !(PAGE_BYTES - RECORD_BYTES) == 0
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use oche_types::call_chain::address;

    use super::*;

    const TRAP: u64 = 0xffff_8000_0000_0000;
    /// Where the pages of a test are in memory.
    const OFFSET: u64 = 0x7_0000_0000;

    /// What the walk finds: the return addresses, and whether it was cut.
    fn walked(start: u64, memory: &[(u64, [u64; 2])]) -> (Vec<u64>, bool) {
        let find = |at: u64| memory.iter().find(|(address, _)| *address == at.wrapping_sub(OFFSET));
        let has_page = |page| memory.iter().any(|(address, _)| address & !0xfff == page);
        let chain = walk(
            start,
            TRAP,
            |page| has_page(page).then_some(OFFSET),
            |at| find(at).map_or([0; 2], |(_, record)| *record),
        );
        let halves = chain.words.iter().flat_map(|word| [*word as i32, (*word >> 32) as i32]);
        let distances: Vec<i32> = halves.collect();
        assert!(distances[chain.count..].iter().all(|distance| *distance == 0));
        let addresses = distances[..chain.count].iter().map(|one| address(TRAP, *one));
        (addresses.collect(), chain.is_cut)
    }

    #[test]
    fn return_addresses_come_innermost_first_and_without_signatures() {
        let memory = [
            (0x1000, [0x1020, TRAP + 0x10]),
            (0x1020, [0x1ff0, 0x00a5_8000_0000_0020]),
            (0x1ff0, [0x2010, TRAP - 0x30]),
            (0x2010, [0, TRAP + 4]),
        ];
        let addresses = vec![TRAP + 0x10, TRAP + 0x20, TRAP - 0x30, TRAP + 4];
        assert_eq!(walked(0x1000, &memory), (addresses, false));
    }

    #[test]
    fn an_end_that_was_not_seen_marks_the_chain() {
        let far = (0x1010, [0, TRAP + (1 << 33)]);
        for (record, is_cut) in [
            ([0, TRAP + 8], false),
            ([0x1010, TRAP + 8], true),
            ([0x1001, TRAP + 8], true),
            ([0x1ff8, TRAP + 8], true),
            ([0x1018, TRAP + 8], true),
            ([0x9000, TRAP + 8], true),
        ] {
            assert_eq!(walked(0x1000, &[(0x1000, record), far]), (vec![TRAP + 8], is_cut));
        }
        let last = (0x1010, [0, 0]);
        assert_eq!(walked(0x1000, &[(0x1000, [0x1010, TRAP]), last]), (vec![TRAP], false));
    }

    #[test]
    fn whatever_x29_holds_the_chain_ends() {
        for start in [1, 4, 0x1ff8, 0xffff_ffff_ffff_fff8, u64::MAX, 0x1000] {
            assert_eq!(walked(start, &[]), (vec![], true), "{start:#x}");
        }
        assert_eq!(walked(0, &[(0, [8, TRAP])]), (vec![], false));
        let itself = walked(0x1000, &[(0x1000, [0x1000, TRAP + 5])]);
        assert_eq!(itself, (vec![TRAP + 5; MAX_CALLERS], true), "a record that names itself");
        let circle = [(0x1000, [0x2000, TRAP + 1]), (0x2000, [0x1000, TRAP + 2])];
        assert_eq!(walked(0x1000, &circle).0.len(), MAX_PAGES, "a circle of two pages");
        let circle = [(0x1000, [0x1010, TRAP + 1]), (0x1010, [0x1000, TRAP + 2])];
        assert_eq!(walked(0x1000, &circle).0.len(), MAX_CALLERS, "a circle in a page");
    }

    #[test]
    fn a_walk_reads_no_more_than_its_bounds_and_only_what_was_located() {
        let mut state = 8_u64;
        for _ in 0..10_000 {
            let (reads, mut pages) = (Cell::new(0), Vec::new());
            let mut random = || {
                state = state.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) + 1;
                state
            };
            let (start, near) = (random(), random());
            let located = Cell::new(u64::MAX);
            let chain = walk(
                start & !15,
                TRAP,
                |page| {
                    assert!(page.is_multiple_of(PAGE_BYTES));
                    pages.push(page);
                    located.set(page);
                    Some(0)
                },
                |at| {
                    reads.set(reads.get() + 1);
                    assert!(at.is_multiple_of(16) && at >= located.get());
                    assert!(at - located.get() <= PAGE_BYTES - RECORD_BYTES);
                    // Mostly in the same page.
                    let step = at.wrapping_mul(near) >> 50;
                    [at.wrapping_add(step & !15), TRAP + (step & 0xff)]
                },
            );
            assert!(pages.len() <= MAX_PAGES && reads.get() <= MAX_CALLERS);
            assert!(chain.count <= reads.get());
        }
    }
}
