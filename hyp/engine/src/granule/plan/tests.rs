//! Every plan, checked against what the contract asks for: all states of the four slots, with all
//! that may be wanted in them, with and without windows, in both modes of isolation. Then scarcity:
//! of the pool, of lists of mappings, and of stage 2's tables.
//!
//! [`check`] knows nothing of how a plan is made. It looks at where plans lead: at the granule once
//! no more plan is due.

use alloc::vec;
use alloc::vec::Vec;

use super::*;
use crate::granule::state::Slot;
use crate::granule::whole::whole;
use oracle::{End, check};

mod oracle;

/// The frame whose pages are in order.
const FRAME: HostGranule = HostGranule(5);
/// The frame of the pool that a relocated granule has.
const POOL: HostGranule = HostGranule(900);
const READ: Permission = Permission { read: true, write: false };
const WRITE: Permission = Permission { read: false, write: true };
const BOTH: Permission = Permission::READ_WRITE;
const PERMISSIONS: [Permission; 3] = [READ, WRITE, BOTH];
/// A page that is no RAM.
const DEVICE: Gfn = Gfn(9999);

/// The page of slot `index` in [`FRAME`].
fn in_order(index: usize) -> Gfn {
    Gfn(FRAME.page(index).0)
}

/// A page for slot `index` that is in another frame, at another place.
fn scattered(index: usize) -> Gfn {
    Gfn(40 + 4 * index as u32 + (index as u32 + 1) % 4)
}

fn leaf(page: Gfn, permission: Permission) -> Leaf {
    Leaf { page, permission, whole_page: true }
}

/// An environment in which nothing is scarce.
fn plenty(isolation: Isolation, has_windows: bool, wanted: &[Option<Leaf>; SLOTS]) -> Env {
    let facts = PageFacts {
        is_ram: true,
        stays_home: true,
        is_pinned: false,
        has_twin: false,
        mappings: 0,
        entry: Stage2Entry::Own,
    };
    Env {
        isolation,
        has_windows,
        can_forbid_reads: true,
        direct_before: None,
        pages: wanted.map(|leaf| match leaf {
            Some(leaf) if leaf.page != DEVICE => facts,
            _ => PageFacts::NO_RAM,
        }),
        tables: Ok(()),
        has_frame: true,
        single_pages: SLOTS,
        nodes: 2 * SLOTS,
    }
}

/// Carries out plans in the simplest way until none is due.
fn settle(before: &GranuleState, wanted: &[Option<Leaf>; SLOTS], env: &Env) -> End {
    let (mut state, mut env) = (*before, *env);
    let (refused, was_unmapped) = ([None; SLOTS], [false; SLOTS]);
    let mut end = End { state, refused, was_unmapped, twins: 0 };
    for _ in 0..6 {
        match plan(&state, wanted, &env) {
            Plan::PrepareEntries(shared) => {
                for (facts, _) in env.pages.iter_mut().zip(shared).filter(|(_, shared)| *shared) {
                    facts.entry = Stage2Entry::Own;
                }
            }
            Plan::Unmap(Unmapping { is_leaving, split }) => {
                for (index, slot) in state.slots.iter_mut().enumerate() {
                    end.was_unmapped[index] |= is_leaving[index] && slot.is_some();
                    *slot = slot.filter(|_| !is_leaving[index]);
                }
                match (state.is_vacant(), split) {
                    (true, _) => state.form = Form::Empty,
                    (false, Some(_)) => state.form = Form::Relocated(POOL),
                    (false, None) => {}
                }
            }
            Plan::Migrate(_) => state.form = Form::Relocated(POOL),
            Plan::Map(Mappings { backing, steps }) => {
                match backing {
                    Backing::Unchanged => {}
                    Backing::Direct(frame) => state.form = Form::Direct(frame),
                    Backing::NewFrame => state.form = Form::Relocated(POOL),
                }
                for (index, step) in steps.into_iter().enumerate() {
                    let slot = &mut state.slots[index];
                    match step {
                        Step::Keep => {}
                        Step::SetPermission(permission) => {
                            slot.as_mut().expect("mapped").permission = permission;
                        }
                        Step::Demote => slot.as_mut().expect("mapped").is_bounce = true,
                        Step::Map(Leaf { page, permission, .. }, filling) => {
                            let is_bounce = !matches!(filling, Filling::Direct | Filling::Move);
                            end.twins += usize::from(filling == Filling::BounceWithTwin);
                            let new = Slot { page, permission, is_bounce, is_filled: true };
                            assert_eq!(slot.replace(new), None, "a slot is filled that is empty");
                        }
                        Step::Refuse(_, reason) => end.refused[index] = Some(reason),
                    }
                }
                return End { state, ..end };
            }
        }
    }
    panic!("plans come to an end: {before:?} {wanted:?}");
}

/// Checks where plans lead from `before`.
fn try_one(before: &GranuleState, wanted: &[Option<Leaf>; SLOTS], env: &Env) -> End {
    let end = settle(before, wanted, env);
    if let Err(wrong) = check(before, wanted, env, &end) {
        panic!("{wrong}: {before:?} {wanted:?} {env:?} {end:?}");
    }
    end
}

/// Calls `act` with every choice of one of `choices` for each slot.
fn for_each<T: Copy>(choices: impl Fn(usize) -> Vec<T>, mut act: impl FnMut([T; SLOTS])) {
    let choices: [Vec<T>; SLOTS] = core::array::from_fn(choices);
    let total = choices.iter().map(Vec::len).product::<usize>();
    for mut number in 0..total {
        act(core::array::from_fn(|index| {
            let length = choices[index].len();
            let choice = choices[index][number % length];
            number /= length;
            choice
        }));
    }
}

/// What a slot can hold and what can be wanted there.
type SlotChoice = (Option<Slot>, Option<Leaf>);

fn slot_choices(held: Vec<Option<Slot>>, wanted: &[Option<Leaf>]) -> Vec<SlotChoice> {
    held.into_iter().flat_map(|held| wanted.iter().map(move |wanted| (held, *wanted))).collect()
}

/// What can be wanted in slot `index`.
fn wanted_choices(index: usize, permissions: &[Permission]) -> Vec<Option<Leaf>> {
    let mut wanted = vec![None, Some(leaf(DEVICE, BOTH))];
    for permission in permissions {
        wanted.push(Some(leaf(in_order(index), *permission)));
        wanted.push(Some(leaf(scattered(index), *permission)));
    }
    wanted
}

fn held_choices(index: usize, permissions: &[Permission], kinds: &[bool]) -> Vec<Option<Slot>> {
    let mut held = vec![None];
    for permission in permissions {
        held.extend(kinds.iter().map(|is_bounce| {
            let (page, permission, is_bounce) = (in_order(index), *permission, *is_bounce);
            Some(Slot { page, permission, is_bounce, is_filled: true })
        }));
    }
    held
}

/// Whether plans can have led to `state`.
fn is_possible(state: &GranuleState, env: &Env) -> bool {
    let wanted = state.slots.map(|slot| slot.map(Slot::leaf));
    let (refused, was_unmapped) = ([None; SLOTS], [false; SLOTS]);
    let end = End { state: *state, refused, was_unmapped, twins: 0 };
    check(state, &wanted, env, &end).is_ok()
}

fn try_all(
    form: Form,
    env_for: impl Fn(&[Option<Leaf>; SLOTS]) -> Env,
    choices: impl Fn(usize) -> Vec<SlotChoice>,
) -> usize {
    let mut tried = 0;
    for_each(choices, |slots| {
        let state = GranuleState { form, slots: slots.map(|(held, _)| held) };
        let wanted = slots.map(|(_, wanted)| wanted);
        let env = env_for(&wanted);
        if is_possible(&state, &env) {
            try_one(&state, &wanted, &env);
            tried += 1;
        }
    });
    tried
}

const MODES: [(Isolation, bool); 4] = [
    (Isolation::Page, false),
    (Isolation::Page, true),
    (Isolation::Strict, false),
    (Isolation::Strict, true),
];

#[test]
fn every_plan_of_an_empty_granule_keeps_the_contract() {
    for (isolation, has_windows) in MODES {
        let tried = try_all(
            Form::Empty,
            |wanted| plenty(isolation, has_windows, wanted),
            |index| {
                let mut wanted = wanted_choices(index, &PERMISSIONS);
                wanted.push(Some(Leaf { whole_page: false, ..leaf(in_order(index), BOTH) }));
                wanted.push(Some(leaf(in_order(index), Permission::default())));
                slot_choices(vec![None], &wanted)
            },
        );
        assert_eq!(tried, 10_usize.pow(4));
    }
}

#[test]
fn a_whole_granule_is_mapped_and_unmapped_as_its_plan_says() {
    let mut found = 0;
    for (isolation, has_windows) in MODES {
        for_each(
            |index| {
                let mut wanted = wanted_choices(index, &PERMISSIONS);
                wanted.push(Some(Leaf { whole_page: false, ..leaf(in_order(index), BOTH) }));
                wanted.push(Some(leaf(in_order(index), Permission::default())));
                wanted
            },
            |wanted| {
                let Some((frame, permission)) = whole(&wanted) else { return };
                found += 1;
                let mut env = plenty(isolation, has_windows, &wanted);
                // What need not be known.
                (env.has_frame, env.single_pages, env.nodes) = (false, 0, 0);
                env.pages[0].is_pinned = true;
                env.pages[1].entry = Stage2Entry::Unsplittable;
                let steps = wanted.map(|leaf| Step::Map(leaf.expect("whole"), Filling::Direct));
                let mappings = Mappings { backing: Backing::Direct(frame), steps };
                assert_eq!(plan(&GranuleState::EMPTY, &wanted, &env), Plan::Map(mappings));
                let state = GranuleState::whole(frame, permission);
                assert_eq!(state.slots.map(|slot| slot.map(Slot::leaf)), wanted);
                let unmapping = Unmapping { is_leaving: [true; SLOTS], split: None };
                assert_eq!(plan(&state, &[None; SLOTS], &env), Plan::Unmap(unmapping));
            },
        );
    }
    assert_eq!(found, MODES.len() * PERMISSIONS.len(), "each permission in each mode");
}

#[test]
fn every_plan_of_a_direct_granule_keeps_the_contract() {
    for (isolation, has_windows) in MODES {
        let tried = try_all(
            Form::Direct(FRAME),
            |wanted| plenty(isolation, has_windows, wanted),
            |index| {
                let held = held_choices(index, &PERMISSIONS, &[false]);
                slot_choices(held, &wanted_choices(index, &PERMISSIONS))
            },
        );
        assert!(tried > 4096, "{tried}");
    }
}

#[test]
fn every_plan_of_a_relocated_granule_keeps_the_contract() {
    for (isolation, has_windows) in MODES {
        // A relocated granule treats a write-only page like any other unless isolation is strict.
        let permissions = match isolation {
            Isolation::Page => &[READ, BOTH][..],
            Isolation::Strict => &PERMISSIONS,
        };
        let tried = try_all(
            Form::Relocated(POOL),
            |wanted| plenty(isolation, has_windows, wanted),
            |index| {
                let held = held_choices(index, permissions, &[false, true]);
                slot_choices(held, &wanted_choices(index, permissions))
            },
        );
        assert!(tried > 500_000, "{tried}");
    }
}

/// What may be known of a page.
fn scarce_facts() -> Vec<PageFacts> {
    let mut all = Vec::new();
    for mappings in [0, 1, 2, MAX_WRITTEN_ALIASES, MAX_ALIASES] {
        for (is_pinned, has_twin) in [(false, false), (true, false), (false, true), (true, true)] {
            for entry in [Stage2Entry::Own, Stage2Entry::Shared, Stage2Entry::Unsplittable] {
                let stays_home = mappings != 1;
                let is_ram = true;
                all.push(PageFacts { is_ram, stays_home, is_pinned, has_twin, mappings, entry });
            }
        }
    }
    all
}

/// Granules with what is wanted there, of which the first two pages are of interest.
fn shapes() -> Vec<(GranuleState, [Option<Leaf>; SLOTS])> {
    let slot = |index, permission| {
        Some(Slot { page: in_order(index), permission, is_bounce: false, is_filled: true })
    };
    let in_order = |permission| core::array::from_fn(|at| Some(leaf(in_order(at), permission)));
    let twice = |one, other| {
        let page = scattered(0);
        [Some(leaf(page, one)), Some(leaf(page, other)), None, None]
    };
    let pair =
        |one, other| [Some(leaf(scattered(0), one)), Some(leaf(scattered(1), other)), None, None];
    let direct = GranuleState {
        form: Form::Direct(FRAME),
        slots: core::array::from_fn(|at| slot(at, BOTH)),
    };
    let mut run = direct;
    run.slots[2..].fill(None);
    let mut holed: [Option<Leaf>; SLOTS] = in_order(BOTH);
    holed[2] = None;
    let mut grown: [Option<Leaf>; SLOTS] = in_order(BOTH);
    grown[2..].fill(None);
    grown[3] = Some(leaf(scattered(3), BOTH));
    let own =
        GranuleState { form: Form::Relocated(POOL), slots: [None, None, slot(2, READ), None] };
    let beside = |one, other| {
        let [first, second, ..] = pair(one, other);
        [first, second, own.slots[2].map(Slot::leaf), None]
    };
    vec![
        (GranuleState::EMPTY, in_order(BOTH)),
        (GranuleState::EMPTY, twice(READ, BOTH)),
        (GranuleState::EMPTY, twice(BOTH, BOTH)),
        (GranuleState::EMPTY, pair(READ, BOTH)),
        (GranuleState::EMPTY, pair(BOTH, WRITE)),
        (direct, holed),
        (run, grown),
        (own, beside(READ, READ)),
        (own, beside(BOTH, READ)),
    ]
}

#[test]
fn plans_use_no_more_memory_than_there_is_and_refuse_for_a_reason() {
    let all_facts = scarce_facts();
    let pair =
        |number: usize| (all_facts[number % all_facts.len()], all_facts[number / all_facts.len()]);
    let supplies = || {
        [(true, SLOTS, 8), (true, 1, 8), (true, 0, 8), (true, SLOTS, 1), (true, SLOTS, 0)]
            .into_iter()
            .chain([(false, 0, 8)])
    };
    for (before, wanted) in shapes() {
        for number in 0..all_facts.len().pow(2) {
            for (has_frame, single_pages, nodes) in supplies() {
                for (isolation, has_windows) in MODES {
                    if before == GranuleState::EMPTY || has_windows || !before.slots.contains(&None)
                    {
                        let mut env = plenty(isolation, has_windows, &wanted);
                        (env.pages[0], env.pages[1]) = pair(number);
                        if wanted[0].map(|leaf| leaf.page) == wanted[1].map(|leaf| leaf.page) {
                            env.pages[1] = env.pages[0];
                        }
                        let is_relocated = matches!(before.form, Form::Relocated(_));
                        env.has_frame = has_frame || is_relocated;
                        (env.single_pages, env.nodes) = (single_pages, nodes);
                        try_one(&before, &wanted, &env);
                        env.tables = Err(Refusal::TooManyTables);
                        try_one(&before, &wanted, &env);
                    }
                }
            }
        }
    }
}
