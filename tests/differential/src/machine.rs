//! Runs a program on the engine in its simulated machine and on the reference beside it.

mod checks;
mod cpus;
mod devices;
mod disk;
mod driver;
mod events;
mod exact;
mod flush;
mod guest;
mod hostile;
mod invariants;
mod operations;
mod overlap;
mod registers;
mod transfer;

use super::history::{History, Roots};
use super::pages::{IovaPages, RefusedPages, RefusedTables};
use super::sharing::Sharing;
use super::views::Views;
use crate::counts::Counts;
use crate::program::{Mode, Operation, Setting};
use crate::reference::GuestMemory;
use guest::Guest;
use oche_engine::{Configuration, Isolation};
use oche_reference::registers::{PARAMS1, PARAMS2, STREAMS_ENABLE};
use oche_sim::access::Data;
use oche_sim::cpu_tables::PageState;
use oche_sim::engine::{Engine, slice_of};
use oche_sim::machine::{SimulatedMachine, initial_words};
use oche_sim::memory::FormerWords;
use oche_sim::random::Random;
use oche_sim::setup::{Layout, Options};
use oche_types::addr::{Gfn, HostGranule, PAGE_BYTES};
use oche_types::dart::stream::{DartId, StreamId};
use oche_types::selection::{MAX_WATCHED_BYTES, MAX_WATCHES, Selection};
use rustc_hash::{FxHashMap, FxHashSet};
use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use transfer::{ExpectedRead, PageUse};

/// What differs, in a sentence.
pub type Checked<T = ()> = Result<T, String>;

/// Operations from one comparison of all memory to the next.
const WHOLE_CHECK_EVERY: u64 = 100;

/// Memory of a program that has ended, to be used again by the next with as much.
struct Former {
    words: FormerWords,
    memory: GuestMemory,
    /// Of each page whether nothing was ever stored there.
    is_initial: Vec<bool>,
}

thread_local! {
    static FORMER: RefCell<Vec<Former>> = const { RefCell::new(Vec::new()) };
}

impl Former {
    /// What is kept of a program with the RAM of `layout`, or new memory.
    fn take(layout: &Layout) -> Self {
        let former = FORMER.with_borrow_mut(|all| {
            let index = all.iter().position(|former| former.memory.has_runs(&layout.ram));
            index.map(|index| all.swap_remove(index))
        });
        former.unwrap_or_else(|| Self {
            words: FormerWords::default(),
            memory: GuestMemory::new(&layout.ram),
            is_initial: Vec::new(),
        })
    }
}

/// A fault to be reported to the guest.
struct ExpectedFault {
    dart: usize,
    stream: usize,
    iova: u64,
    is_write: bool,
    codes: u16,
}

/// A red zone's hit that the engine reported.
struct ReportedHit {
    /// The tables that the stream uses by now.
    roots: Option<Roots>,
    iova_page: u32,
    /// The first byte's place in the page.
    first: usize,
}

/// Engine, world and reference.
pub struct Machine<const C: bool> {
    setting: Setting,
    host: SimulatedMachine<C>,
    engine: Engine,
    history: History,
    views: Views,
    sharing: Sharing,
    guest: Guest,
    /// Decides all that an operation leaves open.
    random: Random,
    counts: Counts,
    reads: FxHashMap<u64, ExpectedRead>,
    faults: VecDeque<ExpectedFault>,
    /// The latched fault of each DART is not known: the guest wrote something odd into `ERROR`.
    odd_errors: BTreeSet<usize>,
    refused: RefusedPages,
    refused_tables: RefusedTables,
    /// Red zones with a write that must be reported, in a quiescent program.
    red_zones: FxHashSet<(Roots, u32)>,
    /// What devices wrote that may have gone into a red zone, by page of IOVAs, with the place in
    /// the page.
    stray_writes: FxHashMap<u32, Vec<(usize, Data)>>,
    /// The same in a quiescent program, by red zone, since the zone was made or reported last.
    zone_writes: FxHashMap<(Roots, u32), Vec<(usize, Data)>>,
    /// The red zone's hit that was reported last, whose bytes come next.
    reported: Option<ReportedHit>,
    /// Pages that may only be read, into whose copy in a granule a device wrote all the same.
    strays: IovaPages,
    /// Pages that the disk uses, and pages that it used while they were mapped: these have a copy
    /// until they are not.
    held: Vec<Gfn>,
    fetched: BTreeSet<Gfn>,
    /// Pages whose copies were given up, since a CPU fetched from them or walked tables in them,
    /// until they are not mapped.
    given_up: BTreeSet<Gfn>,
    live_maps: FxHashMap<(u32, Gfn), i64>,
    /// Per page of RAM: how often it had been stored into, on both sides, when all its bytes were
    /// the same.
    compared: Vec<Option<(u32, PageState)>>,
    overlap: Vec<crate::program::During>,
    /// Hardware failed by an injected fault: from here on only broken contracts and panics count.
    is_blind: bool,
    operations: u64,
}

impl<const C: bool> Machine<C> {
    /// A machine just reset, with the guest's driver loaded.
    pub fn new(setting: &Setting) -> Self {
        let (layout, options) = (layout_of(setting), options_of(setting));
        let Former { words, memory, is_initial } = Former::take(&layout);
        let mut host =
            SimulatedMachine::new(&layout, options, setting.cpus, setting.darts, 0, words);
        let mut history = History::new(memory, setting.darts);
        let pages: Vec<Gfn> = history.memory.pages().collect();
        initialize(&mut host, &mut history, &pages, &is_initial);
        let ram: Vec<_> =
            layout.ram.iter().map(|&(first, pages)| first..Gfn(first.0 + pages)).collect();
        let configuration = Configuration {
            darts: setting.darts,
            ram: &ram,
            pool: layout.pool.clone(),
            isolation: setting.isolation,
        };
        let mut engine = Engine::new(&configuration, &mut host, slice_of(setting.pages));
        if setting.is_watched {
            engine.watch(&mut host, &watched_ranges());
        }
        let mut machine = Self {
            setting: *setting,
            host,
            engine,
            history,
            views: Views::new(&layout.ram),
            sharing: Sharing::default(),
            guest: Guest::new(pages),
            random: Random::new(0),
            counts: Counts::default(),
            reads: FxHashMap::default(),
            faults: VecDeque::new(),
            odd_errors: BTreeSet::new(),
            refused: RefusedPages::default(),
            refused_tables: RefusedTables::default(),
            red_zones: FxHashSet::default(),
            held: Vec::new(),
            fetched: BTreeSet::new(),
            given_up: BTreeSet::new(),
            stray_writes: FxHashMap::default(),
            zone_writes: FxHashMap::default(),
            reported: None,
            strays: IovaPages::default(),
            live_maps: FxHashMap::default(),
            compared: vec![None; setting.pages as usize],
            overlap: Vec::new(),
            is_blind: false,
            operations: 0,
        };
        machine.probe();
        machine
    }

    /// The driver's probe. Whatever it finds wrong shows in the program's first comparison.
    fn probe(&mut self) {
        for dart in 0..self.setting.darts {
            let _ = self.read_register(dart, PARAMS1);
            let _ = self.read_register(dart, PARAMS2);
            let _ = self.write_register(dart, STREAMS_ENABLE, 0xffff);
        }
    }

    /// Runs one operation.
    ///
    /// # Errors
    ///
    /// What differs.
    pub fn step(&mut self, operation: &Operation, seed: u64) -> Checked {
        self.random = Random::new(seed);
        self.host.random = Random::new(seed ^ 0x5eed_0000_0000);
        self.operations += 1;
        let done = self.perform(operation);
        self.after(done)?;
        if self.operations.is_multiple_of(WHOLE_CHECK_EVERY) {
            let done = self.check_all_memory();
            let done = match self.setting.mode {
                Mode::Quiescent => done.and_then(|()| self.check_maps()),
                Mode::Concurrent => done,
            };
            self.after(done)?;
        }
        Ok(())
    }

    /// Everything arrives, everything is flushed, everything is compared.
    ///
    /// # Errors
    ///
    /// What differs.
    pub fn finish(mut self) -> Checked<Counts> {
        let done = self.wind_up();
        self.after(done)?;
        self.counts.programs = 1;
        let words = self.host.take_words();
        let is_initial =
            self.history.memory.pages().map(|page| self.history.changes(page) == 0).collect();
        let former = Former { words, memory: self.history.memory, is_initial };
        FORMER.with_borrow_mut(|all| all.push(former));
        Ok(self.counts)
    }

    fn wind_up(&mut self) -> Checked {
        self.host.deliver(|_| true);
        self.check_answers()?;
        for dart in 0..self.setting.darts {
            self.flush(dart, u16::MAX)?;
        }
        self.check_all_memory()?;
        self.check_maps()?;
        for dart in 0..self.setting.darts {
            self.handle_fault(dart)?;
        }
        Ok(())
    }

    /// A broken contract counts in any case, a difference only while the hardware works.
    fn after(&mut self, done: Checked) -> Checked {
        if let Some(violation) = self.host.take_violation() {
            return Err(format!("broken contract: {violation}"));
        }
        let done = done.and_then(|()| self.check_answers());
        if self.is_blind { Ok(()) } else { done }
    }

    fn dart(&self, dart: u8) -> usize {
        usize::from(dart) % self.setting.darts
    }

    /// Whether `page` may have more than one copy. With strict isolation a single mapping may be
    /// one.
    fn is_shared(&self, page: Gfn) -> bool {
        let has_copy =
            self.setting.isolation == Isolation::Strict && self.views.may_be_mapped(page);
        has_copy || self.views.is_shared(page) || self.fetched.contains(&page)
    }

    fn describe(&self, page: Gfn) -> PageUse {
        PageUse {
            mappings: self.views.mappings(page),
            is_unsettled: self.views.is_unsettled(page),
            is_table: self.views.is_table(page),
        }
    }

    /// Whether the engine refused to map `page` at page `iova_page` of the tables of `roots`.
    fn is_refused(&self, roots: Roots, iova_page: u32, page: Gfn) -> bool {
        self.refused.contains(roots, iova_page, page)
            || self.refused_tables.contains(roots, iova_page)
    }

    /// Whether any page, or a table, is refused at page `iova_page` of tables that the stream may
    /// be using.
    fn is_any_refused(&self, dart: usize, stream: usize, iova_page: u32) -> bool {
        self.history.possible_roots(dart, stream).iter().flatten().any(|roots| {
            self.refused.is_any_at(roots, iova_page)
                || self.refused_tables.contains(roots, iova_page)
        })
    }

    fn random_data(&mut self, length: usize) -> Data {
        let mut bytes = [0; 32];
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.random.bits().to_le_bytes());
        }
        Data::new(&bytes[..length.min(32)])
    }
}

/// The DART and stream as the engine names them; both come from below their bounds.
fn name(dart: usize, stream: usize) -> (DartId, StreamId) {
    let dart = DartId::new(dart).expect("a machine has fewer DARTs than that");
    (dart, StreamId::new(stream % 16).expect("below 16"))
}

/// Below the top of the IOVAs that the guest allocates from, as much as can be watched at once.
fn watched_ranges() -> [Selection; MAX_WATCHES] {
    core::array::from_fn(|index| {
        let last = u64::from(guest::TOP) * PAGE_BYTES as u64 - 1 - index as u64 * MAX_WATCHED_BYTES;
        Selection { first: last + 1 - MAX_WATCHED_BYTES, last, ..Selection::ALL }
    })
}

/// Two runs of guest RAM with a hole between them, and the engine's frames.
fn layout_of(setting: &Setting) -> Layout {
    let first = setting.pages * 3 / 4;
    Layout {
        ram: vec![(Gfn(0x4_0002), first), (Gfn(0x4_4001), setting.pages - first)],
        pool: HostGranule(0x2_0000)..HostGranule(0x2_0000 + setting.frames),
    }
}

fn options_of(setting: &Setting) -> Options {
    Options {
        board: setting.board,
        has_windows: setting.has_windows,
        scarce_tables: setting.scarce_tables,
        timeouts: setting.timeouts,
        poisons_homes: true,
        injection: setting.injection,
    }
}

/// Gives every page of RAM its first bytes, on both sides. On the reference's, the pages of a
/// former program for which `is_initial` holds have them.
fn initialize<const C: bool>(
    host: &mut SimulatedMachine<C>,
    history: &mut History,
    pages: &[Gfn],
    is_initial: &[bool],
) {
    for (number, &page) in pages.iter().enumerate() {
        host.initialize(page);
        if is_initial.get(number) == Some(&true) {
            continue;
        }
        let bytes = history.memory.page_mut(page).unwrap_or_default();
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(initial_words(page)) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
    }
}
