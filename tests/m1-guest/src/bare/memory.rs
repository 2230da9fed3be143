//! The memory that the FDT offers is the guest's: it can be reached, all of it, and Oche's is kept out of it.

use super::Tally;
use super::dart::load;
use super::tree::Tree;

/// From one look to the next, in bytes: Oche's image begins at such an address and is smaller.
const STRIDE: u64 = 2 << 20;
/// Most reservations.
const MOST: usize = 32;

pub(super) fn run(tally: &mut Tally, tree: &Tree) {
    let mut image = Err("no reservation is Oche's image");
    let mut kept = [(0, 0); MOST];
    let mut count = 0;
    tree.reserved(|name, start, bytes, is_no_map| {
        if name.starts_with(b"oche@") {
            image = if is_no_map { Ok(()) } else { Err("the kernel may map Oche's image") };
        }
        if let Some(slot) = kept.get_mut(count) {
            *slot = (start, start + bytes);
            count += 1;
        }
    });
    tally.case(format_args!("the hypervisor's image is a no-map reservation"), image);
    let mut looks = 0;
    // What cannot be reached ends the guest with its exception.
    tree.memory(|start, bytes| {
        let end = start + bytes;
        let first = start.next_multiple_of(STRIDE);
        let places = (first..end).step_by(STRIDE as usize).chain([start.next_multiple_of(8), (end - 8) & !7]);
        for place in places {
            if !kept.iter().any(|(start, end)| (*start..*end).contains(&place)) {
                load(place);
                looks += 1;
            }
        }
    });
    tally.case(
        format_args!("all memory that is offered can be reached"),
        if looks > 100 { Ok(()) } else { Err("there is hardly any") },
    );
}
