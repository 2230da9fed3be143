//! The emulated DARTs: passes the guest's accesses to its DARTs to the engine, and connects the
//! engine to the machine.
//!
//! There is one [`EmulatedDarts`], behind a lock that a CPU holds for one trap, whose work the
//! engine bounds.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use oche_el2::device::{IoError, IoResult};
use oche_el2::fault::TrapContext;
use oche_el2::percpu;
use oche_el2::stage2::Stage2;
use oche_el2::tlb::Cpus;
use oche_el2::trapped_page::{TrappedPages, Value};
use oche_engine::budget::Budget;
use oche_engine::host::Iommu;
use oche_engine::{
    AccessKind, Configuration, Engine, FaultDisposition, Isolation, Parts, WatchedAccess,
};
use oche_trace::directory::Layout;
use oche_types::addr::{FRAME_BYTES, Gfn, Hfn, HostGranule, PAGE_BYTES, PAGE_WORDS};
use oche_types::dart::stream::DartId;
use oche_types::event::Event;
use oche_types::range::PhysRange;
use oche_types::selection::{MAX_WATCHES, Selection};

use crate::host::PlatformHost;
use crate::port::{SetInterrupt, TraceConsole};
use crate::recorder::{Description, Recorder};

#[cfg(feature = "measure")]
mod measure;

/// What boot passes to [`EmulatedDarts::new`].
pub struct Setup<'a, I> {
    /// The IOMMU's driver.
    pub iommu: I,
    /// The description of the machine in the trace; its DARTs are the emulated ones.
    pub description: &'a Description,
    /// The guest's RAM, ascending, without Oche's own memory.
    pub ram: &'a [PhysRange],
    /// The memory of the frame pool.
    pub pool: PhysRange,
    /// How exactly permissions are enforced.
    pub isolation: Isolation,
    /// The stage-2 tables, which map all of `ram`.
    pub stage2: Stage2<Cpus>,
    /// The trace's memory; may be empty.
    pub trace: PhysRange,
    /// The layout of that memory.
    pub trace_layout: Layout,
    /// The filter at the start: commands separated by `;`.
    pub trace_orders: &'a str,
    /// The current time, in nanoseconds since 1970 UTC.
    pub wall_clock_nanoseconds: Option<u64>,
    /// The interrupt of the trace port, or `None` if the board has no trace port.
    pub set_port_interrupt: Option<SetInterrupt>,
}

/// The engine with the host that it uses.
pub struct EmulatedDarts<I> {
    machine: PlatformHost<I>,
    engine: Engine,
    /// The trace port, if there is one.
    port: Option<TraceConsole>,
    /// Buffer for the snapshot of a page.
    words: Box<[u64; PAGE_WORDS]>,
}

impl<I: Iommu> EmulatedDarts<I> {
    /// Creates the engine. Every stream is blocked until the guest attaches it.
    pub fn new(setup: Setup<'_, I>) -> Self {
        let recorder = Recorder::new(
            setup.trace,
            setup.trace_layout,
            setup.description,
            setup.wall_clock_nanoseconds,
            setup.ram.iter().chain([&setup.pool]).copied().collect(),
        );
        let darts = setup.description.darts.len();
        let mut machine = PlatformHost { stage2: setup.stage2, iommu: setup.iommu, recorder };
        let ram: Vec<Range<Gfn>> = setup.ram.iter().filter_map(pages).collect();
        let pool = frames(setup.pool);
        let configuration = Configuration { darts, ram: &ram, pool, isolation: setup.isolation };
        let engine = Engine::new(&configuration, &mut machine);
        machine.recorder.order(setup.trace_orders);
        let port = machine.recorder.port().zip(setup.set_port_interrupt);
        let port = port.map(|(port, set_interrupt)| TraceConsole::new(port, set_interrupt));
        Self { machine, engine, port, words: Box::new([0; PAGE_WORDS]) }
    }

    /// The IOMMU's driver.
    pub fn iommu(&mut self) -> &mut I {
        &mut self.machine.iommu
    }

    /// Begins a trap that does not concern the engine: the guest accessed hardware registers. What
    /// is recorded until the next trap is attributed to `context`.
    pub fn pass_through(&mut self, context: TrapContext, event: &Event) {
        self.begin(context);
        self.machine.recorder.record(event);
        self.machine.recorder.end();
    }

    /// Loads `bytes` bytes at `offset` of a DART's registers for the guest, or stores the low
    /// `bytes` bytes of `write` there.
    ///
    /// # Errors
    ///
    /// [`IoError::NoRegister`] if no register supports the access: the guest takes an external
    /// abort.
    #[inline(always)]
    pub fn access_dart(
        &mut self,
        context: TrapContext,
        dart: DartId,
        offset: u64,
        bytes: usize,
        write: Option<u64>,
    ) -> IoResult {
        self.begin(context);
        let answer = match write {
            None => self.engine.read(&mut self.machine, dart, offset, bytes).map(u64::from),
            Some(value) => {
                // For a value of more than 32 bits, the width makes the engine refuse the access.
                self.engine.write(&mut self.machine, dart, offset, bytes, value as u32).map(|()| 0)
            }
        };
        self.end_trap();
        answer.map_err(|_| IoError::NoRegister)
    }

    /// Runs `act` in a trap for an untranslated bus master. It may use [`Self::pin_all`],
    /// [`Self::unpin_all`] and [`Self::word`].
    pub fn for_master<T>(&mut self, context: TrapContext, act: impl FnOnce(&mut Self) -> T) -> T {
        self.begin(context);
        let result = act(self);
        self.end_trap();
        result
    }

    /// See [`Engine::trap_budget`].
    pub fn trap_budget(&self) -> Budget {
        self.engine.trap_budget()
    }

    /// See [`Engine::pin_all`].
    #[must_use]
    pub fn pin_all(&mut self, pages: &[Gfn], budget: &mut Budget) -> usize {
        self.engine.pin_all(&mut self.machine, pages, budget)
    }

    /// See [`Engine::unpin_all`].
    #[must_use]
    pub fn unpin_all(&mut self, pages: &[Gfn], budget: &mut Budget) -> usize {
        self.engine.unpin_all(&mut self.machine, pages, budget)
    }

    /// The aligned word at guest-physical `address`, as a CPU loads it, or `None` if it is not
    /// guest RAM.
    pub fn word(&mut self, address: u64) -> Option<u64> {
        let page = Gfn::containing(address).filter(|page| self.engine.is_ram(*page))?;
        let offset = (address as usize % PAGE_BYTES) & !7;
        Some(self.engine.load_trapped(&mut self.machine, page, offset, 8))
    }

    /// Loads `bytes` bytes at `offset` of the trace port's registers for the guest, or stores the
    /// low `bytes` bytes of `write` there.
    ///
    /// # Errors
    ///
    /// [`IoError::NoRegister`] if there is no trace port.
    pub fn access_port(
        &mut self,
        context: TrapContext,
        offset: u64,
        bytes: usize,
        write: Option<u64>,
    ) -> IoResult {
        let loaded = match write {
            None => self.port.as_ref().ok_or(IoError::NoRegister)?.load(offset, bytes),
            Some(value) => {
                self.begin(context);
                let port = self.port.as_mut().ok_or(IoError::NoRegister)?;
                port.store(&mut self.engine, &mut self.machine, offset, bytes, value);
                0
            }
        };
        self.machine.recorder.end();
        Ok(loaded)
    }

    /// Begins a trap. Applies the requests of the trace's control block.
    #[inline]
    fn begin(&mut self, context: TrapContext) {
        if self.machine.recorder.begin(context) {
            self.set_watches();
        } else {
            self.engine.continue_watch_pass(&mut self.machine);
        }
    }

    #[cold]
    #[inline(never)]
    fn set_watches(&mut self) {
        let mut watches = [Selection::NONE; MAX_WATCHES];
        let mut count = 0;
        for (place, watch) in watches.iter_mut().zip(self.machine.recorder.watches()) {
            *place = watch;
            count += 1;
        }
        self.engine.watch(&mut self.machine, &watches[..count]);
    }

    /// Takes snapshots that were asked for, and passes new records to the trace port.
    #[inline]
    fn end_trap(&mut self) {
        if self.machine.recorder.takes_snapshots() {
            self.take_snapshots();
        }
        self.machine.recorder.end();
        if let Some(port) = &mut self.port {
            port.go_on(&mut self.engine, &mut self.machine);
        }
    }

    #[cold]
    #[inline(never)]
    fn take_snapshots(&mut self) {
        while let Some(wanted) = self.machine.recorder.wanted_snapshot() {
            let count = self.machine.recorder.snapshot_words();
            if self.engine.is_ram(wanted.page) {
                self.load_words(wanted.page, count);
                let words = &*self.words;
                self.machine.recorder.record_snapshot(&wanted, |word| words[word]);
            }
        }
    }

    /// Copies the first `count` words of `page`, which is guest RAM, as CPUs load them, and zeros
    /// for the rest.
    fn load_words(&mut self, page: Gfn, count: usize) {
        self.words.fill(0);
        for (index, word) in self.words.iter_mut().enumerate().take(count) {
            *word = self.engine.load_trapped(&mut self.machine, page, index * 8, 8);
        }
    }
}

// SAFETY: the engine locates no page but the guest's RAM, and accesses nothing but that and its
// copies. Stage 2 fills the view from the shared tables, and opens a page where the engine has it.
unsafe impl<I: Iommu> TrappedPages for EmulatedDarts<I> {
    fn access(&mut self, program_counter: u64, address: u64, kind: AccessKind) -> FaultDisposition {
        self.begin(TrapContext { cpu: percpu::index(), program_counter, frame_pointer: 0 });
        let trapped = self.engine.access_trapped(&mut self.machine, address, kind);
        self.end_trap();
        trapped
    }

    #[inline]
    fn load_known(&mut self, pc: u64, address: u64, parts: Parts) -> Option<[u64; 2]> {
        self.begin(TrapContext { cpu: percpu::index(), program_counter: pc, frame_pointer: 0 });
        let values = self.engine.load_known(&mut self.machine, address, parts)?;
        self.end_trap();
        Some(values)
    }

    #[inline]
    fn store_known(&mut self, pc: u64, address: u64, parts: Parts, values: [u64; 2]) -> bool {
        self.begin(TrapContext { cpu: percpu::index(), program_counter: pc, frame_pointer: 0 });
        let is_known = self.engine.store_known(&mut self.machine, address, parts, values);
        if is_known {
            self.end_trap();
        }
        is_known
    }

    fn locate(&self, page: Gfn) -> Option<Hfn> {
        self.engine.find(page)
    }

    fn load(&mut self, page: Gfn, offset: usize, bytes: usize) -> u64 {
        self.engine.load_trapped(&mut self.machine, page, offset, bytes)
    }

    fn store(&mut self, page: Gfn, offset: usize, bytes: usize, value: u64) {
        self.engine.store_trapped(&mut self.machine, page, offset, bytes, value);
    }

    fn trap_loads(&mut self, page: Gfn) {
        self.engine.trap_loads(&mut self.machine, page);
    }

    fn begin_view(&mut self) -> Option<u64> {
        self.machine.stage2.begin_view()
    }

    fn open(&mut self, page: Gfn) -> bool {
        let at = self.engine.open_trapped(&mut self.machine, page);
        self.machine.stage2.open_in_view(page, at)
    }

    fn close(&mut self, page: Gfn) {
        self.engine.close_trapped(&mut self.machine, page);
    }

    fn is_watching(&self) -> bool {
        self.engine.is_watching()
    }

    fn report_watched(&mut self, watched: &WatchedAccess, value: &Value) {
        let word = |index: usize| value.get(index).copied().unwrap_or(0);
        self.engine.report_watched(&mut self.machine, watched, word);
    }
}

/// The whole pages of a range; `None` if that is empty.
fn pages(range: &PhysRange) -> Option<Range<Gfn>> {
    let range = range.shrunk_to(PAGE_BYTES as u64);
    let page = |address| Gfn::containing(address).expect("invariant: guest RAM lies below 2^44");
    let pages = page(range.start)..page(range.end);
    (!pages.is_empty()).then_some(pages)
}

/// The whole frames of a range.
fn frames(range: PhysRange) -> Range<HostGranule> {
    let range = range.shrunk_to(FRAME_BYTES as u64);
    let number = |address: u64| u32::try_from(address / FRAME_BYTES as u64);
    let frame =
        |address| HostGranule(number(address).expect("invariant: the pool lies below 2^46"));
    frame(range.start)..frame(range.end)
}
