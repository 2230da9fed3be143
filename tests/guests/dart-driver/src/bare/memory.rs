//! The memory that the device tree lists: all of it can be accessed, and none of Oche's memory is
//! part of it or can be accessed.

use oche_guest_common::exception::attempt;
use oche_guest_common::fdt::Tree;
use oche_guest_common::{CaseReport, Check, check, print};

use super::arena::load;

/// Bytes from one probed address to the next. Oche's image begins at such an address and is
/// smaller.
const STRIDE: u64 = 2 << 20;
/// Most ranges in a list.
const MAX_RANGES: usize = 64;
/// Fewer probes of Oche's memory than this are too few: its pool alone has 64 MiB.
const MIN_HIDDEN_PROBES: usize = 32;
/// The same for the guest's memory.
const MIN_PROBES: usize = 100;

pub(super) fn run(report: &mut CaseReport, tree: &Tree) {
    let (reserved, image) = reservations(tree);
    report.case(format_args!("the hypervisor's image is a no-map reservation"), image);
    let (offered, probes) = probe_offered(tree, &reserved);
    report.case(
        format_args!("all memory that is offered can be accessed"),
        check(probes > MIN_PROBES, "there is hardly any"),
    );
    let mut releases = Ranges::NONE;
    for cpu in tree.cpus() {
        let page = cpu.release & !0xfff;
        releases.push((page, page + 0x1000));
    }
    report.case(
        format_args!("the hypervisor's own memory cannot be accessed"),
        hidden_is_inaccessible(tree, &offered, &releases),
    );
    report.case(
        format_args!("the hypervisor adds no bank of memory"),
        check(
            offered.count <= tree.board_memory().count(),
            "there are more banks than the board has",
        ),
    );
}

/// What the device tree reserves, and whether Oche's image is among it and cannot be accessed.
fn reservations(tree: &Tree) -> (Ranges, Check) {
    let mut image = Err("no reservation is Oche's image");
    let mut reserved = Ranges::NONE;
    for one in tree.reservations() {
        let (start, end) = (one.start, one.start + one.bytes);
        if one.name.starts_with("oche@") {
            image = if one.is_no_map {
                is_inaccessible(start, end)
            } else {
                Err("the kernel may map Oche's image")
            };
        }
        if one.is_no_map {
            print(format_args!("guest: no-map {start:#x}..{end:#x}\n"));
        }
        reserved.push((start, end));
    }
    (reserved, image)
}

/// Loads from all memory that the device tree lists and does not reserve. An exception ends the
/// guest. Returns the memory, and the number of loads.
fn probe_offered(tree: &Tree, reserved: &Ranges) -> (Ranges, usize) {
    let mut probes = 0;
    let mut offered = Ranges::NONE;
    for (start, bytes) in tree.memory() {
        let end = start + bytes;
        print(format_args!("guest: memory {start:#x}..{end:#x}\n"));
        offered.push((start, end));
        for place in places(start, end).filter(|place| !reserved.contains(*place)) {
            load(place);
            probes += 1;
        }
    }
    (offered, probes)
}

/// A few ranges of memory.
struct Ranges {
    all: [(u64, u64); MAX_RANGES],
    count: usize,
}

impl Ranges {
    const NONE: Self = Self { all: [(0, 0); MAX_RANGES], count: 0 };

    fn push(&mut self, range: (u64, u64)) {
        self.all[self.count] = range;
        self.count += 1;
    }

    fn contains(&self, place: u64) -> bool {
        self.all[..self.count].iter().any(|(start, end)| (*start..*end).contains(&place))
    }
}

/// Addresses of words to probe: both ends, and one for every [`STRIDE`].
fn places(start: u64, end: u64) -> impl Iterator<Item = u64> {
    let first = start.next_multiple_of(STRIDE);
    (first..end).step_by(STRIDE as usize).chain([start.next_multiple_of(8), (end - 8) & !7])
}

/// Whether no load succeeds from memory of the board that is not offered. The page with the CPUs'
/// release addresses is exempt.
fn hidden_is_inaccessible(tree: &Tree, offered: &Ranges, releases: &Ranges) -> Check {
    let mut probes = 0;
    let mut is_accessible = false;
    for (start, bytes) in tree.board_memory() {
        let ends = offered.all[..offered.count].iter().map(|(_, end)| *end);
        let ends = ends.filter(|end| (start..start + bytes).contains(end));
        for place in places(start, start + bytes).chain(ends) {
            if !offered.contains(place) && !releases.contains(place) {
                probes += 1;
                is_accessible |= !faults(place);
            }
        }
    }
    check(!is_accessible, "it can be read")?;
    check(probes > MIN_HIDDEN_PROBES, "there is hardly any")
}

/// Whether no load from `start` to `end` succeeds, with one for every [`STRIDE`] and at both ends.
fn is_inaccessible(start: u64, end: u64) -> Check {
    let mut places = (start..end).step_by(STRIDE as usize).chain([end - 8]);
    check(places.all(faults), "it can be read")
}

fn faults(place: u64) -> bool {
    attempt(|| _ = load(place)).is_some()
}
