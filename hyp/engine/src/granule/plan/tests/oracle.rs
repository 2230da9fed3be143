//! What the contract asks of plans, in terms of what they lead to.

use alloc::vec::Vec;

use oche_types::addr::{HostGranule, SLOTS};
use oche_types::dart::entry::Leaf;
use oche_types::event::Refusal;

use super::{DEVICE, WRITE, in_order};
use crate::granule::Isolation;
use crate::granule::alias::{MAX_ALIASES, MAX_WRITTEN_ALIASES};
use crate::granule::env::{Env, PageFacts, Stage2Entry};
use crate::granule::state::{Form, GranuleState, Slot};

/// Where plans have led, and how.
#[derive(Debug)]
pub(super) struct End {
    pub(super) state: GranuleState,
    pub(super) refused: [Option<Refusal>; SLOTS],
    pub(super) was_unmapped: [bool; SLOTS],
    pub(super) twins: usize,
}

/// What the contract asks for. Returns what is wrong.
pub(super) fn check(
    before: &GranuleState,
    wanted: &[Option<Leaf>; SLOTS],
    env: &Env,
    end: &End,
) -> Result<(), &'static str> {
    let after = &end.state;
    let mapped = || after.slots.iter().flatten();
    let is_strict = env.isolation == Isolation::Strict;
    let will_write = mapped().any(|slot| slot.permission.write);
    for index in 0..SLOTS {
        let wanted = wanted[index].filter(|leaf| !leaf.permission.is_none());
        let mapped = after.slots[index].map(|slot| slot.leaf());
        let is_right = match end.refused[index] {
            None => mapped == wanted,
            Some(reason) => {
                mapped.is_none() && wanted.is_some_and(|leaf| may_refuse(reason, leaf, env))
            }
        };
        if !is_right {
            return Err("a slot maps what is wanted, or is refused for a reason");
        }
        let had = before.slots[index].map(|slot| slot.leaf());
        let is_stuck = |facts: &PageFacts| facts.entry == Stage2Entry::Unsplittable && facts.is_ram;
        let can_split =
            env.has_frame && env.single_pages == SLOTS && !env.pages.iter().any(is_stuck);
        if had.is_some() && had == wanted && can_split && end.was_unmapped[index] {
            return Err("a slot stays mapped, because nothing changes in it");
        }
        let facts = &env.pages[index];
        if let (Form::Relocated(_), Some(slot), None) = (after.form, after.slots[index], had) {
            let earlier = after.slots[..index].iter().flatten();
            let is_again = { earlier }.any(|earlier| earlier.page == slot.page);
            let is_private = is_strict && will_write && !slot.permission.write;
            let is_other = facts.mappings != 0 || facts.is_pinned || is_again;
            let must_be = is_other || is_private;
            // A writer that is refused for lack of memory may have made it a private copy.
            if slot.is_bounce != must_be && !(slot.is_bounce && is_strict && lacks_memory(end)) {
                return Err("a slot is a bounce page exactly if it must be");
            }
        }
    }
    if end.twins != twins_needed(before, end, env) || end.twins > env.single_pages {
        return Err("a page gets a twin exactly if a copy of it can be written");
    }
    let is_moved =
        matches!((before.form, after.form), (Form::Direct(_) | Form::Empty, Form::Relocated(_)));
    if is_moved && !env.has_frame {
        return Err("no frame is used that is not there");
    }
    match after.form {
        Form::Empty if !after.is_vacant() => Err("an empty granule maps nothing"),
        Form::Direct(_) | Form::Relocated(_) if after.is_vacant() => Err("nothing mapped, no form"),
        Form::Direct(frame) => check_direct(frame, after, env),
        _ if fits_directly(before, wanted, env) => Err("a frame in order stays home"),
        Form::Relocated(_) if is_strict => check_strict(after, env),
        _ => Ok(()),
    }
}

/// Whether a page was refused although it could be mapped if there were more memory.
fn lacks_memory(end: &End) -> bool {
    end.refused.iter().flatten().any(|reason| {
        !matches!(
            reason,
            Refusal::MixedPermission | Refusal::NotGuestMemory | Refusal::SubPageWindow
        )
    })
}

/// How many of the pages in new slots get a copy that can be written, and have no twin.
fn twins_needed(before: &GranuleState, end: &End, env: &Env) -> usize {
    let mut pages = Vec::new();
    for (index, slot) in end.state.slots.iter().enumerate() {
        let had = before.slots[index].filter(|_| !end.was_unmapped[index]).map(Slot::leaf);
        let Some(slot) = slot.filter(|slot| slot.is_bounce && had != Some(slot.leaf())) else {
            continue;
        };
        let facts = &env.pages[index];
        if (slot.permission.write || facts.is_pinned)
            && !facts.has_twin
            && !pages.contains(&slot.page)
        {
            pages.push(slot.page);
        }
    }
    pages.len()
}

fn check_strict(after: &GranuleState, env: &Env) -> Result<(), &'static str> {
    let mapped = || after.slots.iter().flatten();
    let is_write_only = |slot: &Slot| slot.permission == WRITE;
    let will_write = mapped().any(|slot| slot.permission.write);
    let first = mapped().next().map(is_write_only);
    if mapped().any(|slot| will_write && !slot.permission.write && !slot.is_bounce) {
        Err("no page is exposed to a neighbour's right to write")
    } else if env.can_forbid_reads && mapped().any(|slot| Some(is_write_only(slot)) != first) {
        Err("no page is exposed to a neighbour's right to read")
    } else {
        Ok(())
    }
}

fn check_direct(frame: HostGranule, after: &GranuleState, env: &Env) -> Result<(), &'static str> {
    let mut first = None;
    let mut last = 0;
    let mut count = 0;
    let mut permissions = after.slots.iter().flatten().map(|slot| slot.permission);
    let permission = permissions.next();
    for (index, slot) in after.slots.iter().enumerate() {
        let Some(slot) = slot else { continue };
        if slot.is_bounce || slot.page.home() != frame.page(index) {
            return Err("a direct granule has its pages at home, in order");
        }
        (last, count) = (index, count + 1);
        first.get_or_insert(index);
    }
    if first.is_some_and(|first| last + 1 - first != count) {
        return Err("a window has no hole");
    }
    if !env.has_windows && count != SLOTS {
        return Err("without windows a direct granule is whole");
    }
    if env.isolation == Isolation::Strict && permissions.any(|other| Some(other) != permission) {
        return Err("one direct entry has one permission");
    }
    Ok(())
}

/// Whether `wanted`, in a granule of which nothing is mapped, must be direct: a whole frame, or
/// with windows one that devices only read or to which Linux adds nothing.
fn fits_directly(before: &GranuleState, wanted: &[Option<Leaf>; SLOTS], env: &Env) -> bool {
    let has_room = |facts: &PageFacts| facts.mappings < MAX_ALIASES && facts.stays_home;
    let fits = |(index, leaf): (usize, &Option<Leaf>)| {
        leaf.is_some_and(|leaf| {
            leaf.page == in_order(index)
                && leaf.whole_page
                && !leaf.permission.is_none()
                && has_room(&env.pages[index])
        })
    };
    let is_mapping = |leaf: &&Leaf| !leaf.permission.is_none();
    let count = wanted.iter().flatten().filter(is_mapping).count();
    let first = wanted.iter().position(|leaf| leaf.as_ref().filter(is_mapping).is_some());
    let run = first.map_or(0..0, |first| first..(first + count).min(SLOTS));
    let is_run = wanted.iter().enumerate().filter(|(index, _)| run.contains(index)).all(fits);
    let leaves = || wanted.iter().flatten().filter(is_mapping);
    let is_uniform = leaves().all(|leaf| leaves().all(|other| leaf.permission == other.permission));
    let reads_only = leaves().all(|leaf| !leaf.permission.write);
    let is_whole = count == SLOTS;
    let may_be_short = env.has_windows && (reads_only || (first == Some(0) && count >= 3));
    before.form == Form::Empty
        && count != 0
        && run.len() == count
        && is_run
        && (is_whole || may_be_short)
        && (is_uniform || env.isolation == Isolation::Page)
        && env.tables.is_ok()
        && env.nodes >= 2 * SLOTS
}

/// Whether `reason` can be why `leaf` is not mapped.
fn may_refuse(reason: Refusal, leaf: Leaf, env: &Env) -> bool {
    let is_any = |what: fn(&PageFacts) -> bool| env.pages.iter().any(what);
    match reason {
        Refusal::SubPageWindow => !leaf.whole_page,
        Refusal::NotGuestMemory => leaf.whole_page && leaf.page == DEVICE,
        _ if !leaf.whole_page || leaf.page == DEVICE => false,
        Refusal::MixedPermission => env.isolation == Isolation::Strict && env.can_forbid_reads,
        Refusal::PoolExhausted => {
            !env.has_frame || env.single_pages != SLOTS || env.tables == Err(reason)
        }
        Refusal::OutOfStage2Tables => is_any(|facts| facts.entry == Stage2Entry::Unsplittable),
        Refusal::TooManyAliases => {
            env.nodes < 2 * SLOTS || is_any(|facts| facts.mappings >= MAX_WRITTEN_ALIASES)
        }
        _ => env.tables == Err(reason),
    }
}
