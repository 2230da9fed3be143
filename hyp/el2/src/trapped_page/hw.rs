//! Handling of a CPU's access to a trapped page: emulation or a step, under the engine's lock.

use core::sync::atomic::{Ordering, fence};

use oche_engine::{AccessKind, FaultDisposition, WatchedAccess};
use oche_types::MAX_CPUS;
use oche_types::addr::{Gfn, PAGE_BYTES};
use oche_types::event::WatchHow;

use crate::fault::{Resume, Stage2Fault};
use crate::frame::TrapFrame;
use crate::guest_registers::hw::FrameRegisters;
use crate::inject::hw::inject_store_fault;
use crate::instruction::{self, Access, InstructionSet, Operation};
use crate::lock::{Parked, SpinGuard, SpinLock};
use crate::percpu;
use crate::stage2::MAX_OPENED;
use crate::step::hw::{self as step, SavedDebugState};
use crate::translation::{Translation, instruction, raw_instruction, recheck_translation};
use crate::trapped_page::monitor::Monitors;
use crate::trapped_page::progress::{self, Load, MAX_APART, Progress, SequenceOutcome};
use crate::trapped_page::{self, Agreement, TrappedPages, Value};

/// The state of trapped accesses, besides the engine's.
static STATE: SpinLock<State> = SpinLock::new(State {
    monitors: Monitors::new(),
    progress: [Progress::new(); MAX_CPUS],
    steps: [const { None }; MAX_CPUS],
    exclusive_sequences: [None; MAX_CPUS],
});

struct State {
    monitors: Monitors,
    /// Each CPU's load-exclusives.
    progress: [Progress; MAX_CPUS],
    /// Each CPU's step in the view. There is one view, and the CPU that uses it holds the engine's
    /// lock, so there is at most one step.
    steps: [Option<Step>; MAX_CPUS],
    /// The exclusive sequence of each CPU that is in one.
    exclusive_sequences: [Option<ExclusiveSequence>; MAX_CPUS],
}

/// A step under way.
struct Step {
    /// The engine's lock, which is held while the guest executes the instruction.
    engine: Parked,
    debug_state: SavedDebugState,
    opened: [Option<Opened>; MAX_OPENED],
}

/// A page that the stepped instruction accesses.
#[derive(Clone, Copy)]
struct Opened {
    page: Gfn,
    /// For a watch: the bytes that the instruction accesses, and their values before.
    watched: WatchedAccess,
    before: Value,
}

/// Most instructions that are stepped between a load-exclusive and its store-exclusive.
const MAX_SEQUENCE: u8 = 24;

/// The state of a CPU that has executed a load-exclusive on a trapped page. Its own monitor is
/// clear, so its store-exclusive would always fail, without a trap. The CPU is therefore stepped up
/// to the store-exclusive, with no page open and no lock held, and the store-exclusive is emulated
/// as well.
#[derive(Clone, Copy)]
struct ExclusiveSequence {
    debug_state: SavedDebugState,
    load: Load,
    left: u8,
}

/// Handles a fault at a page that the engine traps. `engine` is the lock around the engine.
///
/// The syndrome may be out of date, because the CPU has waited for the lock. Before an access is
/// emulated, the instruction must be the one that faulted ([`trapped_page::agreement`]) and stage 1
/// must still allow it ([`recheck_translation`]). Otherwise the CPU repeats the access.
pub fn on_fault<G: TrappedPages>(
    engine: &'static SpinLock<G>,
    fault: &Stage2Fault,
    frame: &mut TrapFrame,
) -> Resume {
    let mut pages = engine.lock();
    match pages.access(frame.elr, fault.address, access_kind(fault)) {
        FaultDisposition::NotGuestMemory => Resume::Abort,
        FaultDisposition::Retry => Resume::Same,
        // Cache maintenance transfers no data, and all memory is coherent.
        FaultDisposition::Emulate(_) if fault.abort.is_cache_maintenance => Resume::Next,
        FaultDisposition::Emulate(page) => {
            let Some(access) = access(frame) else {
                return step_unknown(pages, page, fault, frame);
            };
            match trapped_page::agreement(
                &access,
                &FrameRegisters { frame },
                fault.far,
                fault.abort.is_write,
            ) {
                Agreement::Other => Resume::Same,
                Agreement::Crosses => begin_step(pages, page, fault, frame, &[None; MAX_OPENED]),
                Agreement::Same(address) => {
                    if recheck_translation(address, &access, frame, page) != Translation::Same {
                        return Resume::Same;
                    }
                    emulate(&mut *pages, page, address, &access, frame);
                    if access.kind != Operation::LoadExclusive {
                        return Resume::Next;
                    }
                    let values = STATE.lock().monitors.values(percpu::index());
                    let load = Load { page, pc: frame.elr, address, values };
                    drop(pages);
                    frame.advance();
                    step_to_store(engine, load, frame, MAX_SEQUENCE);
                    Resume::Same
                }
            }
        }
    }
}

/// Steps an instruction that is not emulated. A load-exclusive makes no progress like that; after
/// too many of them the page's bounce pages are dropped.
fn step_unknown<G: TrappedPages>(
    mut pages: SpinGuard<'static, G>,
    page: Gfn,
    fault: &Stage2Fault,
    frame: &mut TrapFrame,
) -> Resume {
    let is_exclusive =
        raw_instruction(frame).is_some_and(|(word, set)| instruction::is_load_exclusive(word, set));
    let load = Load { page, pc: frame.elr, address: fault.far, values: None };
    if is_exclusive && is_stuck(load, SequenceOutcome::Hopeless, || true) {
        return give_up(&mut *pages, page, frame);
    }
    begin_step(pages, page, fault, frame, &[None; MAX_OPENED])
}

/// Carries out an access that [`recheck_translation`] allowed, with the lock held since then.
fn emulate(
    pages: &mut impl TrappedPages,
    page: Gfn,
    address: u64,
    access: &Access,
    frame: &mut TrapFrame,
) {
    let mut state = STATE.lock();
    // Orders the access after the guest's own earlier stores and before its later ones.
    fence(Ordering::SeqCst);
    let is_done = trapped_page::emulate(
        pages,
        &mut state.monitors,
        percpu::index(),
        page,
        address,
        access,
        &mut FrameRegisters { frame },
    );
    fence(Ordering::SeqCst);
    assert!(is_done, "an access inside one page is emulated");
}

/// Continues after the load-exclusive `load`: emulates the store-exclusive if it is next, steps an
/// instruction that only computes, and ends the sequence at any other. Only a step keeps the
/// monitor set.
fn step_to_store<G: TrappedPages>(
    engine: &'static SpinLock<G>,
    load: Load,
    frame: &mut TrapFrame,
    left: u8,
) {
    let word = instruction(frame).filter(|_| !step::is_guest_stepping());
    let outcome = match word.map(|word| (word, instruction::decode(word))) {
        // A guest that single-steps itself breaks its exclusive sequences anyway.
        None => SequenceOutcome::Waits,
        Some((_, Some(access @ Access { kind: Operation::StoreExclusive, .. }))) => {
            store_exclusive(engine, load.page, load.address, frame, &access)
        }
        Some((word, _)) if !instruction::is_plain(word) => progress::end_at(word),
        Some(_) if left == 0 => SequenceOutcome::Hopeless,
        Some(_) => {
            let debug_state = step::arm(frame, None);
            let sequence = ExclusiveSequence { debug_state, load, left: left - 1 };
            let old = of_this_cpu(&mut STATE.lock().exclusive_sequences).replace(sequence);
            assert!(old.is_none(), "a CPU is in one sequence at a time");
            return;
        }
    };
    end_monitor();
    if is_stuck(load, outcome, || progress::store_is_ahead(instructions_from(frame))) {
        let _ = give_up(&mut *engine.lock(), load.page, frame);
    }
}

/// The guest's instructions, starting with the next one, as far as they can be read.
fn instructions_from(frame: &TrapFrame) -> impl Iterator<Item = u32> {
    let addresses = (0..MAX_APART as u64).map(|index| frame.elr.wrapping_add(4 * index));
    addresses.map_while(|elr| instruction(&TrapFrame { elr, ..*frame }))
}

/// Emulates the store-exclusive at the end of a sequence. If stage 1 does not allow it, the guest
/// takes the fault: the CPU's own store-exclusive, whose monitor is clear, might not check.
fn store_exclusive<G: TrappedPages>(
    engine: &'static SpinLock<G>,
    page: Gfn,
    address: u64,
    frame: &mut TrapFrame,
    access: &Access,
) -> SequenceOutcome {
    if trapped_page::agreement(access, &FrameRegisters { frame }, address, true)
        != Agreement::Same(address)
    {
        return SequenceOutcome::Open;
    }
    let mut pages = engine.lock();
    let in_page = address & (PAGE_BYTES as u64 - 1);
    if pages.access(frame.elr, page.address() | in_page, AccessKind::Store)
        != FaultDisposition::Emulate(page)
    {
        // The guest executes the pair again without Oche.
        return SequenceOutcome::Emulated;
    }
    match recheck_translation(address, access, frame, page) {
        Translation::Same => {
            emulate(&mut *pages, page, address, access, frame);
            frame.advance();
            SequenceOutcome::Emulated
        }
        Translation::Fault(status) => {
            drop(pages);
            inject_store_fault(status, address, frame);
            SequenceOutcome::Emulated
        }
        Translation::Other => SequenceOutcome::Open,
    }
}

/// Clears other CPUs' monitors for a store of this CPU whose parts begin at `offsets` of `page`.
#[inline]
pub(super) fn note_store(page: Gfn, offsets: [usize; 2]) {
    let monitors = &mut STATE.lock().monitors;
    for offset in offsets {
        monitors.note_store(percpu::index(), page, offset);
    }
}

fn of_this_cpu<T>(all: &mut [T; MAX_CPUS]) -> &mut T {
    all.get_mut(percpu::index()).expect("a CPU's number is below the maximum")
}

fn end_monitor() {
    STATE.lock().monitors.end(percpu::index());
}

/// Records the outcome of `load`. Returns whether its page's bounce pages must be dropped.
fn is_stuck(load: Load, outcome: SequenceOutcome, may_store: impl FnOnce() -> bool) -> bool {
    of_this_cpu(&mut STATE.lock().progress).note(load, outcome, may_store)
}

/// Drops the bounce pages of `page`, for an access that cannot be carried out on several copies.
fn give_up(pages: &mut impl TrappedPages, page: Gfn, frame: &TrapFrame) -> Resume {
    match pages.access(frame.elr, page.address(), AccessKind::Walk) {
        FaultDisposition::NotGuestMemory => Resume::Abort,
        FaultDisposition::Retry | FaultDisposition::Emulate(_) => Resume::Same,
    }
}

/// Ends or continues the step in which the current exception was taken. `fault` is set if the
/// engine traps a page that the instruction accessed. Returns how the guest continues, or `None` if
/// the exception must be handled as if there had been no step, with `frame` as it was before.
pub fn on_step<G: TrappedPages>(
    engine: &'static SpinLock<G>,
    is_done: bool,
    frame: &mut TrapFrame,
    fault: impl FnOnce() -> Option<Stage2Fault>,
) -> Option<Resume> {
    let sequence = of_this_cpu(&mut STATE.lock().exclusive_sequences).take();
    if let Some(sequence) = sequence {
        let is_complete = step::disarm(frame, &sequence.debug_state, is_done);
        if is_complete {
            step_to_store(engine, sequence.load, frame, sequence.left);
        } else {
            end_monitor();
        }
        return is_done.then_some(Resume::Same);
    }
    let step = of_this_cpu(&mut STATE.lock().steps).take();
    let Step { engine: parked, debug_state, opened } =
        step.expect("a CPU that steps without a sequence has begun a step");
    let mut pages = engine.resume(parked);
    let _ = step::disarm(frame, &debug_state, is_done);
    if is_done {
        close_all(&mut *pages, &opened);
        report_after(&mut *pages, &opened);
        return Some(Resume::Same);
    }
    // This translates by the shared tables, which are in use again.
    let fault = fault();
    // What was stored so far must reach all copies before the engine is called for anything else.
    close_all(&mut *pages, &opened);
    let fault = fault?;
    match pages.access(frame.elr, fault.address, access_kind(&fault)) {
        FaultDisposition::Emulate(page) => Some(begin_step(pages, page, &fault, frame, &opened)),
        FaultDisposition::Retry => Some(Resume::Same),
        FaultDisposition::NotGuestMemory => None,
    }
}

/// Opens `page`, and those in `opened`, for this CPU, and makes it execute one instruction. The
/// lock stays held.
fn begin_step<G: TrappedPages>(
    mut pages: SpinGuard<'static, G>,
    page: Gfn,
    fault: &Stage2Fault,
    frame: &mut TrapFrame,
    opened: &[Option<Opened>; MAX_OPENED],
) -> Resume {
    // Another CPU may have stored an instruction that reads or changes the masks that a step sets.
    let word = raw_instruction(frame).filter(|(_, set)| *set == InstructionSet::A64);
    if word.is_some_and(|(word, _)| !instruction::may_touch_memory(word)) {
        return Resume::Same;
    }
    let mut opened = *opened;
    let slot = opened.iter_mut().find(|slot| slot.is_none());
    let watched = touched(page, fault, frame);
    let has_room =
        slot.is_some_and(|slot| slot.replace(Opened { page, watched, before: [0; 8] }).is_none());
    let root = pages.begin_view().filter(|_| has_room);
    let is_open = root.is_some() && opened.iter().flatten().all(|opened| pages.open(opened.page));
    let (Some(root), true) = (root, is_open) else {
        // The instruction accesses more pages than can be open, or there is no memory: drop the
        // bounce pages of this one.
        return give_up(&mut *pages, page, frame);
    };
    if pages.is_watching() {
        for opened in opened.iter_mut().flatten() {
            opened.before = value_of(&mut *pages, &opened.watched);
        }
        if let Some(newest) = opened.iter().flatten().next_back() {
            pages.report_watched(&newest.watched, &newest.before);
        }
    }
    let mut state = STATE.lock();
    for opened in opened.iter().flatten() {
        state.monitors.note_stores(percpu::index(), opened.page);
    }
    let debug_state = step::arm(frame, Some(root));
    let old =
        of_this_cpu(&mut state.steps).replace(Step { engine: pages.park(), debug_state, opened });
    assert!(old.is_none(), "a CPU is in one step at a time");
    Resume::Same
}

fn close_all(pages: &mut impl TrappedPages, opened: &[Option<Opened>; MAX_OPENED]) {
    for opened in opened.iter().flatten() {
        pages.close(opened.page);
    }
}

/// The bytes of `page` that the instruction to be stepped accesses, as far as its encoding shows.
fn touched(page: Gfn, fault: &Stage2Fault, frame: &TrapFrame) -> WatchedAccess {
    let (bytes, offset) = (instruction::MAX_BYTES, fault.address as usize % PAGE_BYTES);
    let (bytes, offset) = match instruction(frame) {
        Some(instruction) => (
            instruction::stepped_bytes(instruction),
            instruction::stepped_offset(instruction, offset),
        ),
        None => (bytes, offset),
    };
    WatchedAccess { page, offset, bytes, is_write: fault.abort.is_write, how: WatchHow::Before }
}

/// Reports the bytes after a step, if they are watched and the instruction stored or could have.
fn report_after(pages: &mut impl TrappedPages, opened: &[Option<Opened>; MAX_OPENED]) {
    if !pages.is_watching() {
        return;
    }
    for opened in opened.iter().flatten() {
        let after = value_of(pages, &opened.watched);
        if opened.watched.is_write || after != opened.before {
            let watched = WatchedAccess { is_write: true, how: WatchHow::After, ..opened.watched };
            pages.report_watched(&watched, &after);
        }
    }
}

/// The value of the bytes of `watched` now.
fn value_of(pages: &mut impl TrappedPages, watched: &WatchedAccess) -> Value {
    let left =
        watched.bytes.min(instruction::MAX_BYTES).min(PAGE_BYTES.saturating_sub(watched.offset));
    core::array::from_fn(|word| match left.saturating_sub(word * 8).min(8) {
        0 => 0,
        bytes => pages.load(watched.page, watched.offset + word * 8, bytes),
    })
}

fn access_kind(fault: &Stage2Fault) -> AccessKind {
    match (fault.abort.on_table_walk, fault.is_fetch, fault.abort.is_write) {
        (true, ..) => AccessKind::Walk,
        (_, true, _) => AccessKind::Fetch,
        (.., true) => AccessKind::Store,
        (.., false) => AccessKind::Load,
    }
}

/// The access that the guest's instruction makes, if EL2 emulates it in the guest's current state.
fn access(frame: &TrapFrame) -> Option<Access> {
    instruction(frame).and_then(instruction::decode)
}
