//! The memory that the FDT offers is the guest's: it can be reached, all of it, and Oche's is kept
//! out of it.

use super::Tally;
use super::console::print;
use super::dart::load;
use super::start::faults;
use super::tree::Tree;

/// From one look to the next, in bytes: Oche's image begins at such an address and is smaller.
const STRIDE: u64 = 2 << 20;
/// Most reservations, and most ranges of memory.
const MOST: usize = 48;
/// Looks at Oche's memory that are too few: its pool alone has 64 MiB.
const LEAST: usize = 32;

pub(super) fn run(tally: &mut Tally, tree: &Tree) {
    let mut image = Err("no reservation is Oche's image");
    let mut kept = [(0, 0); MOST];
    let mut count = 0;
    tree.reserved(|name, start, bytes, is_no_map| {
        let end = start + bytes;
        if name.starts_with(b"oche@") {
            image = if is_no_map {
                is_out_of_reach(start, end)
            } else {
                Err("the kernel may map Oche's image")
            };
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
    let mut offered = Ranges::NONE;
    // What cannot be reached ends the guest with its exception.
    tree.memory(|start, bytes| {
        let end = start + bytes;
        print(format_args!("guest: memory {start:#x}..{end:#x}\n"));
        offered.push((start, end));
        for place in places(start, end) {
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
    let mut releases = Ranges::NONE;
    tree.cpus(|_, _, release| releases.push((release & !0xfff, (release & !0xfff) + 0x1000)));
    tally.case(
        format_args!("the hypervisor's own memory cannot"),
        rest_is_out_of_reach(tree, &offered, &releases),
    );
    let mut banks = 0;
    tree.board_memory(|_, _| banks += 1);
    tally.case(
        format_args!("the hypervisor adds no bank of memory"),
        if offered.count <= banks {
            Ok(())
        } else {
            Err("there are more banks than the board has")
        },
    );
}

/// A few ranges of memory.
struct Ranges {
    all: [(u64, u64); MOST],
    count: usize,
}

impl Ranges {
    const NONE: Self = Self { all: [(0, 0); MOST], count: 0 };

    fn push(&mut self, range: (u64, u64)) {
        self.all[self.count] = range;
        self.count += 1;
    }

    fn contains(&self, place: u64) -> bool {
        self.all[..self.count].iter().any(|(start, end)| (*start..*end).contains(&place))
    }
}

/// Addresses of words to look at: both ends, and one for every [`STRIDE`].
fn places(start: u64, end: u64) -> impl Iterator<Item = u64> {
    let first = start.next_multiple_of(STRIDE);
    (first..end).step_by(STRIDE as usize).chain([start.next_multiple_of(8), (end - 8) & !7])
}

/// Whether no load succeeds from memory of the board's that is not offered, but for the page of the
/// release addresses.
fn rest_is_out_of_reach(
    tree: &Tree,
    offered: &Ranges,
    releases: &Ranges,
) -> Result<(), &'static str> {
    let mut tried = 0;
    let mut is_reached = false;
    tree.board_memory(|start, bytes| {
        let ends = offered.all[..offered.count].iter().map(|(_, end)| *end);
        let ends = ends.filter(|end| (start..start + bytes).contains(end));
        for place in places(start, start + bytes).chain(ends) {
            if !offered.contains(place) && !releases.contains(place) {
                tried += 1;
                is_reached |= !faults(|| _ = load(place));
            }
        }
    });
    match (is_reached, tried) {
        (true, _) => Err("it can be read"),
        (false, 0..=LEAST) => Err("there is hardly any"),
        _ => Ok(()),
    }
}

/// Whether no load from `start` to `end` succeeds, where one is tried for every [`STRIDE`] and at
/// both ends.
fn is_out_of_reach(start: u64, end: u64) -> Result<(), &'static str> {
    let mut places = (start..end).step_by(STRIDE as usize).chain([end - 8]);
    if places.all(|place| faults(|| _ = load(place))) { Ok(()) } else { Err("it can be read") }
}
