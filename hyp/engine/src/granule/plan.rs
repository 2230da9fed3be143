//! The plan of a granule: what becomes of each of its slots, decided from its state, from what is
//! wanted, and from an [`Env`]. A plan changes nothing.
//!
//! Some plans say what has to be done before the rest can be decided: unmap, move the granule, or
//! give pages entries of their own in stage 2. After that the granule is planned again.

use oche_types::Invariant;
use oche_types::addr::{Gfn, HostGranule, SLOTS};
use oche_types::dart::entry::{Leaf, Permission};
use oche_types::event::Refusal;

use crate::granule::Isolation;
use crate::granule::alias::{MAX_ALIASES, MAX_WRITTEN_ALIASES};
use crate::granule::direct;
use crate::granule::env::{Env, PageFacts, Stage2Entry};
use crate::granule::state::{Form, GranuleState};
use crate::granule::strict;

/// What a granule needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The pages in these slots need entries of their own in stage 2.
    PrepareEntries([bool; SLOTS]),
    /// Some slots are unmapped.
    Unmap(Unmapping),
    /// All pages of a direct granule move to a frame of the pool, so that another finds room.
    Migrate(Split),
    /// The rest is decided for each slot.
    Map(Mappings),
}

/// Which slots are unmapped, and what becomes of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unmapping {
    pub(super) is_leaving: [bool; SLOTS],
    /// For a direct granule that cannot keep the others where they are: they move.
    pub(super) split: Option<Split>,
}

/// The move of pages of a direct granule to a frame of the pool. The bytes of marked slots are
/// kept as they were when they were copied: devices may write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) is_written: [bool; SLOTS],
}

/// What becomes of each slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mappings {
    pub(super) backing: Backing,
    pub(super) steps: [Step; SLOTS],
}

/// The frame of the granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backing {
    /// As it is.
    Unchanged,
    /// This one, in which the pages are at home.
    Direct(HostGranule),
    /// A new one of the pool.
    NewFrame,
}

/// What becomes of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Keep,
    /// Its page is mapped with another permission.
    SetPermission(Permission),
    /// The page in it moves home, and it becomes a bounce page.
    Demote,
    /// It gets this page.
    Map(Leaf, Filling),
    /// This page is not mapped.
    Refuse(Gfn, Refusal),
}

/// How a slot gets its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filling {
    /// The page is there already, at home.
    Direct,
    /// The page moves there.
    Move,
    /// The slot becomes a bounce page.
    Bounce,
    /// It becomes a bounce page that may be written, and the page gets a twin.
    BounceWithTwin,
}

/// What is left of the environment's memory while a plan is made.
struct Supply {
    single_pages: usize,
    nodes: usize,
}

/// Decides what a granule with `state` needs next, so that it maps `wanted`.
pub(super) fn plan(state: &GranuleState, wanted: &[Option<Leaf>; SLOTS], env: &Env) -> Plan {
    let is_leaving = leaving(state, wanted, env.isolation);
    if is_leaving.contains(&true) {
        return unmap(state, is_leaving, env);
    }
    let mut mappings = Mappings { backing: Backing::Unchanged, steps: [Step::Keep; SLOTS] };
    let mut new = [None; SLOTS];
    let mut all = [None; SLOTS];
    for (index, leaf) in wanted.iter().enumerate() {
        // An entry without permissions is not a mapping.
        let Some(leaf) = leaf.filter(|leaf| !leaf.permission.is_none()) else { continue };
        let slot = state.slots.get(index).copied().flatten();
        let step = match slot {
            Some(slot) if slot.permission == leaf.permission => Step::Keep,
            Some(_) => Step::SetPermission(leaf.permission),
            None if !leaf.whole_page => Step::Refuse(leaf.page, Refusal::SubPageWindow),
            None if !facts(env, index).is_ram => Step::Refuse(leaf.page, Refusal::NotGuestMemory),
            None => {
                set(&mut new, index, Some(leaf));
                Step::Keep
            }
        };
        set(&mut mappings.steps, index, step);
        if !matches!(step, Step::Refuse(..)) {
            set(&mut all, index, Some(leaf));
        }
    }
    if new.iter().all(Option::is_none) {
        return Plan::Map(mappings);
    }
    if let Err(reason) = env.tables {
        return refuse_all(mappings, &new, reason);
    }
    match (direct::frame(state.form, &all, env), state.form) {
        (Some(frame), _) => map_directly(mappings, frame, &new, env),
        (None, Form::Direct(_)) => migrate(state, mappings, &new, env),
        (None, _) => map_relocated(state, mappings, &new, env),
    }
}

/// Which slots of `state` have to be unmapped. A bounce page whose permission changes is unmapped
/// and mapped again; with strict isolation, so is every slot.
pub(super) fn leaving(
    state: &GranuleState,
    wanted: &[Option<Leaf>; SLOTS],
    isolation: Isolation,
) -> [bool; SLOTS] {
    let mut leaving = [false; SLOTS];
    for ((slot, wanted), leaving) in state.slots.iter().zip(wanted).zip(&mut leaving) {
        let Some(slot) = slot else { continue };
        *leaving = match wanted.filter(|wanted| wanted.whole_page && !wanted.permission.is_none()) {
            Some(wanted) => {
                let is_exact = slot.is_bounce || isolation == Isolation::Strict;
                wanted.page != slot.page || (is_exact && wanted.permission != slot.permission)
            }
            None => true,
        };
    }
    leaving
}

/// Unmaps the slots in `is_leaving` if what the granule keeps can stay where it is. That depends on
/// nothing but the granule and `has_windows`.
pub(super) fn unmap_in_place(
    state: &GranuleState,
    is_leaving: [bool; SLOTS],
    has_windows: bool,
) -> Option<Unmapping> {
    let kept = kept(state, is_leaving);
    let is_direct = matches!(state.form, Form::Direct(_));
    let stays = !is_direct || !kept.contains(&true) || (has_windows && direct::is_run(kept));
    stays.then_some(Unmapping { is_leaving, split: None })
}

/// Which mapped slots of `state` are not in `is_leaving`.
fn kept(state: &GranuleState, is_leaving: [bool; SLOTS]) -> [bool; SLOTS] {
    let mut kept = state.slots.map(|slot| slot.is_some());
    for (kept, is_leaving) in kept.iter_mut().zip(is_leaving) {
        *kept &= !is_leaving;
    }
    kept
}

/// Unmaps the slots in `is_leaving`. What a direct granule keeps stays where it is if a narrower
/// window is enough, and moves otherwise. If there is no memory for that, all its slots are
/// unmapped: the next plan maps again what is still wanted, or refuses it.
fn unmap(state: &GranuleState, is_leaving: [bool; SLOTS], env: &Env) -> Plan {
    if let Some(unmapping) = unmap_in_place(state, is_leaving, env.has_windows) {
        return Plan::Unmap(unmapping);
    }
    let kept = kept(state, is_leaving);
    if let Some(shared) = shared_entries(kept, env) {
        return Plan::PrepareEntries(shared);
    }
    Plan::Unmap(match split(state, kept, env) {
        Ok(split) => Unmapping { is_leaving, split: Some(split) },
        Err(_) => Unmapping { is_leaving: [true; SLOTS], split: None },
    })
}

/// Moves a direct granule, so that the pages in `new` find room, or refuses them.
fn migrate(
    state: &GranuleState,
    mappings: Mappings,
    new: &[Option<Leaf>; SLOTS],
    env: &Env,
) -> Plan {
    let kept = state.slots.map(|slot| slot.is_some());
    if let Some(shared) = shared_entries(kept, env) {
        return Plan::PrepareEntries(shared);
    }
    match split(state, kept, env) {
        Ok(split) => Plan::Migrate(split),
        Err(reason) => refuse_all(mappings, new, reason),
    }
}

/// The slots of `members` whose pages have no entries of their own yet, if there are any.
fn shared_entries(members: [bool; SLOTS], env: &Env) -> Option<[bool; SLOTS]> {
    let mut shared = members;
    for (shared, facts) in shared.iter_mut().zip(&env.pages) {
        *shared &= facts.entry == Stage2Entry::Shared;
    }
    shared.contains(&true).then_some(shared)
}

/// The move of the slots in `kept`, if there is memory for it.
fn split(state: &GranuleState, kept: [bool; SLOTS], env: &Env) -> Result<Split, Refusal> {
    let mut is_written = [false; SLOTS];
    for ((is_written, facts), _) in
        is_written.iter_mut().zip(&env.pages).zip(kept).filter(|(_, is_kept)| *is_kept)
    {
        if facts.entry == Stage2Entry::Unsplittable {
            return Err(Refusal::OutOfStage2Tables);
        }
        *is_written = state.permission().write || facts.is_pinned;
    }
    let pages = is_written.iter().filter(|is_written| **is_written).count();
    if !env.has_frame || pages > env.single_pages {
        return Err(Refusal::PoolExhausted);
    }
    Ok(Split { is_written })
}

/// Maps the pages in `new` at home, or none if one of them has no room in its list: a window has no
/// holes.
fn map_directly(
    mut mappings: Mappings,
    frame: HostGranule,
    new: &[Option<Leaf>; SLOTS],
    env: &Env,
) -> Plan {
    let mut supply = Supply::of(env);
    for (index, leaf) in leaves(new) {
        if !supply.take_place(facts(env, index).mappings, MAX_ALIASES) {
            return refuse_all(mappings, new, Refusal::TooManyAliases);
        }
        set(&mut mappings.steps, index, Step::Map(leaf, Filling::Direct));
    }
    mappings.backing = Backing::Direct(frame);
    Plan::Map(mappings)
}

/// Maps the pages in `new` in a frame of the pool.
fn map_relocated(
    state: &GranuleState,
    mut mappings: Mappings,
    new: &[Option<Leaf>; SLOTS],
    env: &Env,
) -> Plan {
    if let Some(shared) = shared_entries(new.map(|leaf| leaf.is_some()), env) {
        return Plan::PrepareEntries(shared);
    }
    let new = join(state, new, &mut mappings.steps, env);
    let is_private = strict::needs_private(state, &new, env.isolation);
    for (slot, step) in state.slots.iter().zip(&mut mappings.steps) {
        if is_private && strict::is_exposed(slot) {
            *step = Step::Demote;
        }
    }
    let mut supply = Supply::of(env);
    let mut has_frame = matches!(state.form, Form::Relocated(_));
    for (index, leaf) in leaves(&new) {
        let facts = with_earlier(facts(env, index), leaf.page, &mappings.steps);
        let filling = if facts.entry == Stage2Entry::Unsplittable {
            Err(Refusal::OutOfStage2Tables)
        } else if !has_frame && !env.has_frame {
            Err(Refusal::PoolExhausted)
        } else {
            supply.fill(leaf, is_private && !leaf.permission.write, facts)
        };
        has_frame |= filling.is_ok();
        let step = match filling {
            Ok(filling) => Step::Map(leaf, filling),
            Err(reason) => Step::Refuse(leaf.page, reason),
        };
        set(&mut mappings.steps, index, step);
    }
    if has_frame && state.form == Form::Empty {
        mappings.backing = Backing::NewFrame;
    }
    Plan::Map(mappings)
}

/// Those of `new` that may share a granule with what is mapped and with each other. The others are
/// refused.
fn join(
    state: &GranuleState,
    new: &[Option<Leaf>; SLOTS],
    steps: &mut [Step; SLOTS],
    env: &Env,
) -> [Option<Leaf>; SLOTS] {
    let mut joined = [None; SLOTS];
    for (index, leaf) in leaves(new) {
        let mapped = state.slots.iter().flatten().map(|slot| slot.permission);
        let others = mapped.chain(joined.iter().flatten().map(|leaf: &Leaf| leaf.permission));
        match strict::can_join(others, leaf.permission, env) {
            Ok(()) => set(&mut joined, index, Some(leaf)),
            Err(reason) => set(steps, index, Step::Refuse(leaf.page, reason)),
        }
    }
    joined
}

/// `facts` of `page`, with what earlier `steps` of the same plan make of it.
fn with_earlier(mut facts: PageFacts, page: Gfn, steps: &[Step; SLOTS]) -> PageFacts {
    for step in steps {
        if let Step::Map(leaf, filling) = step
            && leaf.page == page
        {
            facts.mappings += 1;
            facts.has_twin |= *filling == Filling::BounceWithTwin;
        }
    }
    facts
}

impl Supply {
    fn of(env: &Env) -> Self {
        let Env { single_pages, nodes, .. } = *env;
        Self { single_pages, nodes }
    }

    /// Takes a place in the list of a page with `mappings`, of which there must be fewer than
    /// `max`.
    fn take_place(&mut self, mappings: usize, max: usize) -> bool {
        // A single mapping needs no node, so the second needs two.
        let nodes = match mappings {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        let has_place = mappings < max && nodes <= self.nodes;
        if has_place {
            self.nodes -= nodes;
        }
        has_place
    }

    /// How a slot of a relocated granule gets the page in `leaf`, of which `facts` are known.
    fn fill(&mut self, leaf: Leaf, is_private: bool, facts: PageFacts) -> Result<Filling, Refusal> {
        let is_alias = is_private || facts.is_pinned || facts.mappings != 0;
        let is_written = is_alias && (leaf.permission.write || facts.is_pinned);
        let needs_twin = is_written && !facts.has_twin;
        if needs_twin && self.single_pages == 0 {
            return Err(Refusal::PoolExhausted);
        }
        let is_compared = needs_twin || (is_alias && facts.has_twin);
        let max = if is_compared { MAX_WRITTEN_ALIASES } else { MAX_ALIASES };
        if !self.take_place(facts.mappings, max) {
            return Err(Refusal::TooManyAliases);
        }
        self.single_pages -= usize::from(needs_twin);
        Ok(match (is_alias, needs_twin) {
            (false, _) => Filling::Move,
            (true, false) => Filling::Bounce,
            (true, true) => Filling::BounceWithTwin,
        })
    }
}

/// Refuses all pages in `new`.
fn refuse_all(mut mappings: Mappings, new: &[Option<Leaf>; SLOTS], reason: Refusal) -> Plan {
    for (index, leaf) in leaves(new) {
        set(&mut mappings.steps, index, Step::Refuse(leaf.page, reason));
    }
    Plan::Map(mappings)
}

fn leaves(slots: &[Option<Leaf>; SLOTS]) -> impl Iterator<Item = (usize, Leaf)> {
    slots.iter().enumerate().filter_map(|(index, leaf)| leaf.map(|leaf| (index, leaf)))
}

fn facts(env: &Env, index: usize) -> PageFacts {
    *env.pages.get(index).must("a granule has four slots")
}

fn set<T>(slots: &mut [T; SLOTS], index: usize, value: T) {
    *slots.get_mut(index).must("a granule has four slots") = value;
}

#[cfg(test)]
mod tests;
