//! What shaping the guest's IOVA space could save: how many pages of packed receive buffers could
//! have all of their mappings in one slot, and so in one frame, if every mapping of a page were
//! given the slot that suits best.
//!
//! Linux aligns a mapping of two pages to two (`drivers/iommu/iova.c`, `alloc_iova`,
//! `size_aligned`), so a buffer that straddles two pages begins in slot 0 or 2 and ends in slot 1
//! or 3, whatever is reserved around it.

/// Bytes of the chunks that Linux carves network buffers from, downwards (`mm/page_alloc.c`,
/// `page_frag_alloc_align`).
const CHUNK: usize = 32 * 1024;
const PAGE: usize = 4096;

/// What a driver carves: bytes of a fragment, of its headroom, and of what it maps behind that.
struct Buffers {
    fragment: usize,
    headroom: usize,
    mapped: usize,
}

/// Pages of a chunk in which no straddling buffer ends (`.0`), and in which none begins (`.1`):
/// with one slot reserved for mappings of one page, these are the pages whose mappings can all
/// agree, if that slot is even, or odd.
fn agreeing(buffers: &Buffers) -> (usize, usize) {
    let (mut has_end, mut has_begin) = ([false; CHUNK / PAGE], [false; CHUNK / PAGE]);
    for number in 1..=CHUNK / buffers.fragment {
        let first = CHUNK - number * buffers.fragment + buffers.headroom;
        let (begin, end) = (first / PAGE, (first + buffers.mapped - 1) / PAGE);
        if begin != end {
            (has_begin[begin], has_end[end]) = (true, true);
        }
    }
    let free = |has: [bool; CHUNK / PAGE]| has.iter().filter(|has| !**has).count();
    (free(has_end), free(has_begin))
}

/// Sources of the sizes: Linux 6.1 `tg3.c`, `e1000e/netdev.c`, `brcmfmac/msgbuf.c`, with 1500 bytes
/// a packet.
#[test]
fn at_most_three_pages_in_eight_could_do_without_a_guard_if_the_guests_iovas_were_shaped() {
    let tg3 = Buffers { fragment: 1984, headroom: 64, mapped: 1600 };
    let brcmfmac = Buffers { fragment: 2432, headroom: 64, mapped: 2048 };
    let e1000e = Buffers { fragment: 1920, headroom: 64, mapped: 1522 };
    assert_eq!([tg3, brcmfmac, e1000e].map(|buffers| agreeing(&buffers)), [(3, 3), (3, 3), (2, 2)]);
}
