//! The memory that the FDT offers is the guest's: it can be reached, all of it, and Oche's is kept out of it.

use super::Tally;
use super::console::print;
use super::dart::load;
use super::start::faults;
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
        let end = start + bytes;
        if name.starts_with(b"oche@") {
            image =
                if is_no_map { is_out_of_reach(start, end) } else { Err("the kernel may map Oche's image") };
        }
        if is_no_map {
            print(format_args!("guest: no-map {start:#x}..{end:#x}\n"));
        }
        if let Some(slot) = kept.get_mut(count) {
            *slot = (start, end);
            count += 1;
        }
    });
    tally.case(format_args!("the hypervisor's image is a no-map reservation"), image);
    let mut looks = 0;
    let mut between = None;
    let mut last_end = None;
    // What cannot be reached ends the guest with its exception.
    tree.memory(|start, bytes| {
        let end = start + bytes;
        print(format_args!("guest: memory {start:#x}..{end:#x}\n"));
        if let Some(last_end) = last_end.replace(end) {
            between = Some(between.unwrap_or(Ok(())).and(is_out_of_reach(last_end, start)));
        }
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
    tally.case(
        format_args!("the hypervisor's own memory cannot"),
        between.unwrap_or(Err("none lies between what is offered")),
    );
}

/// Whether no load from `start` to `end` succeeds, where one is tried for every [`STRIDE`] and at both ends.
fn is_out_of_reach(start: u64, end: u64) -> Result<(), &'static str> {
    let mut places = (start..end).step_by(STRIDE as usize).chain([end - 8]);
    if places.all(|place| faults(|| _ = load(place))) { Ok(()) } else { Err("it can be read") }
}
