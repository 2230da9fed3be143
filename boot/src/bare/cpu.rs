//! CPUs: one record each, their stacks, and starting the others.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use oche_types::MOST_CPUS;
use oche_types::range::{PhysRange, RangeList};

use crate::bare::counters::Counters;
use crate::bare::frame::TrapFrame;
use crate::bare::registers::TpidrEl2;
use crate::bare::{cache, el2, entry, firmware, mmio, panic, spin_table, stage1, trap};
use crate::lock;
use crate::psci::{self, status};

/// Stack slots in the linker script.
pub const STACKS: usize = MOST_CPUS;
/// Bytes of a slot. Slots are aligned to their size.
pub const STACK_BYTES: usize = 65536;
/// Bytes at the low end of a slot that are never mapped.
pub const GUARD_BYTES: u64 = 4096;

const OFF: u8 = 0;
const STARTING: u8 = 1;
const ON: u8 = 2;
/// In Oche, until the guest writes an address into the CPU's slot.
const WAITING: u8 = 3;

/// One CPU.
#[derive(Debug)]
pub struct Cpu {
    affinity: AtomicU64,
    state: AtomicU8,
    has_run: AtomicBool,
    entry: AtomicU64,
    context: AtomicU64,
    /// Where a CPU from a spin table waits for its entry in the guest, or 0.
    slot: AtomicU64,
    /// Its exits from the guest.
    pub exits: Counters,
}

impl Cpu {
    const fn new() -> Self {
        Self {
            affinity: AtomicU64::new(u64::MAX),
            state: AtomicU8::new(OFF),
            has_run: AtomicBool::new(false),
            entry: AtomicU64::new(0),
            context: AtomicU64::new(0),
            slot: AtomicU64::new(0),
            exits: Counters::new(),
        }
    }

    /// It exists and has been started at least once.
    pub fn has_run(&self) -> bool {
        self.has_run.load(Ordering::Relaxed)
    }
}

static CPUS: [Cpu; MOST_CPUS] = [const { Cpu::new() }; MOST_CPUS];
/// Where a guest may ask a CPU to begin.
static GUEST_MEMORY: lock::Once<RangeList> = lock::Once::new();

/// What a CPU reads with its MMU off. The entry assembly knows the offsets.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Start {
    ttbr: AtomicU64,
    tcr: AtomicU64,
    mair: AtomicU64,
    stack: AtomicU64,
    index: AtomicU64,
    affinity: AtomicU64,
}

/// Offset of a `Start`'s affinity, and its size, in bytes.
pub(super) const START_AFFINITY: usize = core::mem::offset_of!(Start, affinity);
pub(super) const START_BYTES: usize = size_of::<Start>();

const _: () = assert!(core::mem::offset_of!(Start, mair) == 16);
const _: () = assert!(core::mem::offset_of!(Start, stack) == 24);
const _: () = assert!(core::mem::offset_of!(Start, index) == 32);

impl Start {
    const fn new() -> Self {
        let [ttbr, tcr, mair, stack, index] = [const { AtomicU64::new(0) }; 5];
        // No CPU's.
        Self { ttbr, tcr, mair, stack, index, affinity: AtomicU64::new(u64::MAX) }
    }
}

pub(super) static STARTS: [Start; MOST_CPUS] = [const { Start::new() }; MOST_CPUS];

/// Notes this CPU's number.
pub fn set_index(index: usize) {
    TpidrEl2.write(index as u64);
}

/// This CPU's number, below [`MOST_CPUS`].
pub fn index() -> usize {
    TpidrEl2.read() as usize % MOST_CPUS
}

/// This CPU's record.
pub fn this() -> &'static Cpu {
    // The index is reduced, so this is a CPU.
    CPUS.get(index()).unwrap_or(&CPUS[0])
}

/// All records; those of CPUs that do not exist have never counted anything.
pub fn all() -> &'static [Cpu] {
    &CPUS
}

/// One past the highest address of the stack slot of CPU `index`.
pub fn stack_top(index: usize) -> u64 {
    entry::stacks().start + ((index % STACKS + 1) * STACK_BYTES) as u64
}

/// Fills in what other CPUs need to start. `affinities` in the FDT's order; the boot CPU finds itself among them.
pub fn prepare(affinities: &[u64], own: u64, guest_memory: RangeList) {
    GUEST_MEMORY.set(guest_memory);
    let others = affinities.iter().filter(|affinity| **affinity != own);
    let affinities = core::iter::once(&own).chain(others).enumerate();
    for ((index, affinity), (cpu, start)) in affinities.zip(CPUS.iter().zip(&STARTS)) {
        cpu.affinity.store(*affinity, Ordering::Relaxed);
        start.ttbr.store(stage1::root(), Ordering::Relaxed);
        start.tcr.store(stage1::tcr(), Ordering::Relaxed);
        start.mair.store(stage1::MAIR, Ordering::Relaxed);
        start.stack.store(stack_top(index), Ordering::Relaxed);
        start.index.store(index as u64, Ordering::Relaxed);
        start.affinity.store(*affinity, Ordering::Relaxed);
    }
    CPUS[0].state.store(ON, Ordering::Release);
    let start = (&raw const STARTS) as u64;
    cache::clean_and_invalidate(PhysRange { start, end: start + size_of_val(&STARTS) as u64 });
}

/// Whether there is room for an instruction of the guest at guest-physical `address`.
pub fn is_guest_memory(address: u64) -> bool {
    let range = PhysRange { start: address, end: address.saturating_add(4) };
    GUEST_MEMORY.get().is_some_and(|memory| memory.covers(&range))
}

/// Starts the CPU with `affinity` at `entry_point` in the guest. Returns a PSCI status.
pub fn start(affinity: u64, entry_point: u64, context: u64) -> i64 {
    if !is_guest_memory(entry_point) || !entry_point.is_multiple_of(4) {
        return status::INVALID_ADDRESS;
    }
    // Also keeps the records of CPUs that do not exist from matching.
    if affinity != psci::affinity(affinity) {
        return status::INVALID_PARAMETERS;
    }
    let found = CPUS.iter().zip(&STARTS).find(|(cpu, _)| cpu.affinity.load(Ordering::Relaxed) == affinity);
    let Some((cpu, start)) = found else { return status::INVALID_PARAMETERS };
    match cpu.state.compare_exchange(OFF, STARTING, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        Err(STARTING) => return status::ON_PENDING,
        Err(_) => return status::ALREADY_ON,
    }
    cpu.entry.store(entry_point, Ordering::Relaxed);
    cpu.context.store(context, Ordering::Relaxed);
    let result = firmware::cpu_on(affinity, entry::secondary_entry(), (&raw const *start) as u64);
    if result != status::SUCCESS {
        // Unless it says itself that it is on: it refused to stop and firmware knew before.
        let _ = cpu.state.compare_exchange(STARTING, OFF, Ordering::AcqRel, Ordering::Relaxed);
    }
    result
}

/// The number of the CPU with `affinity`.
pub(super) fn find(affinity: u64) -> Option<usize> {
    CPUS.iter().position(|cpu| cpu.affinity.load(Ordering::Relaxed) == affinity)
}

/// Has CPU `index`, when it comes, wait for an address in `slot`.
pub(super) fn will_wait(index: usize, slot: u64) {
    let cpu = CPUS.get(index).expect("a CPU that was found has a record");
    cpu.state.store(STARTING, Ordering::Relaxed);
    cpu.slot.store(slot, Ordering::Release);
}

/// Whether CPU `index` has come and waits.
pub(super) fn is_waiting(index: usize) -> bool {
    CPUS.get(index).is_some_and(|cpu| cpu.state.load(Ordering::Acquire) == WAITING)
}

/// Whether the CPU with `affinity` has been started and does not run yet.
pub fn is_starting(affinity: u64) -> bool {
    CPUS.iter().any(|cpu| {
        cpu.affinity.load(Ordering::Relaxed) == affinity && cpu.state.load(Ordering::Acquire) == STARTING
    })
}

/// Stops this CPU. Returns a PSCI status if firmware refuses.
pub fn stop() -> i64 {
    let cpu = this();
    // Off first: once firmware has stopped this CPU nobody could say so. A CPU_ON in between is told by
    // firmware that the CPU is still on, and that answer is relayed.
    cpu.state.store(OFF, Ordering::Release);
    let result = firmware::cpu_off();
    cpu.state.store(ON, Ordering::Release);
    result
}

/// The rest of another CPU's start: MMU on, on its own stack.
#[unsafe(no_mangle)]
extern "C" fn oche_secondary(index: u64) -> ! {
    set_index(index as usize);
    panic::install_vectors();
    el2::check_entry();
    mmio::take_pending();
    let cpu = this();
    el2::configure();
    let slot = cpu.slot.load(Ordering::Acquire);
    if slot != 0 {
        cpu.state.store(WAITING, Ordering::Release);
        cpu.entry.store(spin_table::wait(slot), Ordering::Relaxed);
    }
    cpu.state.store(ON, Ordering::Release);
    let context = cpu.context.load(Ordering::Relaxed);
    enter_guest(cpu.entry.load(Ordering::Relaxed), context)
}

/// Enters the guest at EL1 with `argument` in x0 and everything else zero. This CPU's stack starts afresh.
pub fn enter_guest(entry_point: u64, argument: u64) -> ! {
    this().has_run.store(true, Ordering::Relaxed);
    el2::reset_guest();
    let mut frame = TrapFrame { elr: entry_point, spsr: el2::GUEST_PSTATE, ..TrapFrame::default() };
    frame.set_register(0, argument);
    trap::enter(&frame, stack_top(index()))
}

/// The affinity of the CPU that runs this.
pub fn own_affinity() -> u64 {
    psci::affinity(crate::bare::registers::MpidrEl1.read())
}
