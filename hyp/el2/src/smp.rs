//! Starting and stopping CPUs.
#![expect(unsafe_code, reason = "assembly, and words that the guest shares")]

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::registers::{MPIDR_EL1, Readable};
use oche_types::MAX_CPUS;
use oche_types::range::{PhysRange, RangeList};

use crate::frame::TrapFrame;
use crate::percpu::{self, CPUS, OFF};
use crate::psci::{self, status};
use crate::{cache, cpu_setup, firmware, guest, mmio, vectors};

mod entry;

use entry::STARTS;
pub use entry::spin as spin_entry;

const STARTING: u8 = 1;
const ON: u8 = 2;
/// The CPU waits in Oche until the guest writes an address into its slot.
const WAITING: u8 = 3;

/// The registers of EL2's own stage 1, the same on every CPU.
#[derive(Clone, Copy, Debug)]
pub struct Regime {
    /// `TTBR0_EL2`.
    pub ttbr: u64,
    /// `TCR_EL2`.
    pub tcr: u64,
    /// `MAIR_EL2`.
    pub mair: u64,
}

/// Prepares the start of the other CPUs, and sets the guest's memory. `affinities` are in the FDT's
/// order and include the boot CPU, which runs this.
pub fn prepare(affinities: &[u64], own: Regime, guest_memory: RangeList) {
    guest::set_memory(guest_memory);
    let this = own_affinity();
    let others = affinities.iter().filter(|affinity| **affinity != this);
    let affinities = core::iter::once(&this).chain(others).enumerate();
    for ((index, affinity), (cpu, start)) in affinities.zip(CPUS.iter().zip(&STARTS)) {
        cpu.affinity.store(*affinity, Ordering::Relaxed);
        start.ttbr.store(own.ttbr, Ordering::Relaxed);
        start.tcr.store(own.tcr, Ordering::Relaxed);
        start.mair.store(own.mair, Ordering::Relaxed);
        start.stack.store(percpu::stack_top(index), Ordering::Relaxed);
        start.index.store(index as u64, Ordering::Relaxed);
        start.affinity.store(*affinity, Ordering::Relaxed);
    }
    CPUS[0].state.store(ON, Ordering::Release);
    let start = (&raw const STARTS) as u64;
    cache::clean_and_invalidate(PhysRange { start, end: start + size_of_val(&STARTS) as u64 });
}

/// Starts the CPU with `affinity` at `entry_point` in the guest. Returns a PSCI status.
pub fn start(affinity: u64, entry_point: u64, context: u64) -> i64 {
    if !guest::is_memory(entry_point) || !entry_point.is_multiple_of(4) {
        return status::INVALID_ADDRESS;
    }
    // This also excludes the states of CPUs that do not exist.
    if affinity != psci::affinity(affinity) {
        return status::INVALID_PARAMETERS;
    }
    let found =
        CPUS.iter().zip(&STARTS).find(|(cpu, _)| cpu.affinity.load(Ordering::Relaxed) == affinity);
    let Some((cpu, start)) = found else { return status::INVALID_PARAMETERS };
    match cpu.state.compare_exchange(OFF, STARTING, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        Err(STARTING) => return status::ON_PENDING,
        Err(_) => return status::ALREADY_ON,
    }
    cpu.entry.store(entry_point, Ordering::Relaxed);
    cpu.context.store(context, Ordering::Relaxed);
    let result = firmware::cpu_on(affinity, entry::secondary(), (&raw const *start) as u64);
    if result != status::SUCCESS {
        // Not if the CPU itself has set ON, because firmware refused to stop it and returned that
        // it is on.
        let _ = cpu.state.compare_exchange(STARTING, OFF, Ordering::AcqRel, Ordering::Relaxed);
    }
    result
}

/// The number of the CPU with `affinity`.
pub fn find(affinity: u64) -> Option<usize> {
    CPUS.iter().position(|cpu| cpu.affinity.load(Ordering::Relaxed) == affinity)
}

/// Makes CPU `index` wait for an address in `slot` once it has entered Oche.
pub fn will_wait(index: usize, slot: u64) {
    let cpu = CPUS.get(index).expect("a CPU that was found has a record");
    cpu.state.store(STARTING, Ordering::Relaxed);
    cpu.slot.store(slot, Ordering::Release);
}

/// Whether CPU `index` has entered Oche and waits.
pub fn is_waiting(index: usize) -> bool {
    let cpu = CPUS.get(index).expect("invariant: a CPU that was found has a record");
    cpu.state.load(Ordering::Acquire) == WAITING
}

/// Whether the CPU with `affinity` is being started.
pub fn is_starting(affinity: u64) -> bool {
    CPUS.iter().any(|cpu| {
        cpu.affinity.load(Ordering::Relaxed) == affinity
            && cpu.state.load(Ordering::Acquire) == STARTING
    })
}

/// Stops this CPU. Returns a PSCI status if firmware refuses.
pub fn stop() -> i64 {
    let cpu = percpu::this();
    // The state is set to OFF first, because a stopped CPU cannot store it. For a CPU_ON in
    // between, firmware returns that the CPU is still on, and that result is forwarded.
    cpu.state.store(OFF, Ordering::Release);
    let result = firmware::cpu_off();
    cpu.state.store(ON, Ordering::Release);
    result
}

/// The CPUs, one bit each, for which an invalid address was logged.
static WARNED: AtomicU32 = AtomicU32::new(0);
const _: () = assert!(MAX_CPUS <= u32::BITS as usize, "each CPU has a bit");

/// Waits until the guest writes an address of its memory into `slot`, and returns it. Any other
/// value is replaced by 0.
fn wait_for_release(slot: u64) -> u64 {
    let line = PhysRange { start: slot, end: slot + 8 };
    // SAFETY: boot gave this CPU a word of Oche's memory, which EL2 maps for ever.
    let word = unsafe { &*(slot as *const AtomicU64) };
    loop {
        // A guest with its caches off does not write into this CPU's cache: invalidate the line
        // before each load.
        cache::clean_and_invalidate(line);
        let entry = word.load(Ordering::Acquire);
        if guest::is_memory(entry) && entry.is_multiple_of(4) {
            return entry;
        }
        if entry != 0 {
            // Logged once, because a guest can store any number of such words.
            let bit = 1 << percpu::index();
            if WARNED.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
                log::warn!(
                    "cpu {}: released at {entry:#x}, which is not the guest's memory",
                    percpu::index()
                );
            }
            // Not if the guest has stored another word meanwhile.
            let _ = word.compare_exchange(entry, 0, Ordering::AcqRel, Ordering::Relaxed);
            continue;
        }
        // The guest sends an event behind its store; one that came since the load makes this return
        // at once.
        // SAFETY: waits.
        unsafe { asm!("wfe", options(nostack, preserves_flags)) };
    }
}

/// The rest of another CPU's start, with its MMU on and on its own stack.
#[unsafe(no_mangle)]
extern "C" fn oche_secondary(index: u64) -> ! {
    percpu::set_index(index as usize);
    vectors::install();
    cpu_setup::check_entry();
    mmio::take_pending();
    let cpu = percpu::this();
    cpu_setup::configure();
    let slot = cpu.slot.load(Ordering::Acquire);
    if slot != 0 {
        cpu.state.store(WAITING, Ordering::Release);
        cpu.entry.store(wait_for_release(slot), Ordering::Relaxed);
    }
    cpu.state.store(ON, Ordering::Release);
    let context = cpu.context.load(Ordering::Relaxed);
    enter_guest(cpu.entry.load(Ordering::Relaxed), context)
}

/// Enters the guest at EL1 with `argument` in x0 and all other registers zero. Discards this CPU's
/// stack.
pub fn enter_guest(entry_point: u64, argument: u64) -> ! {
    percpu::this().has_run.store(true, Ordering::Relaxed);
    cpu_setup::reset_guest();
    let mut frame =
        TrapFrame { elr: entry_point, spsr: cpu_setup::GUEST_PSTATE, ..TrapFrame::default() };
    frame.set_register(0, argument);
    vectors::enter(&frame, percpu::stack_top(percpu::index()))
}

/// The affinity of this CPU.
pub fn own_affinity() -> u64 {
    psci::affinity(MPIDR_EL1.get())
}
