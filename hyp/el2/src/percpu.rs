//! The state and the stack of each CPU. This module depends on no other.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use aarch64_cpu::registers::{Readable, TPIDR_EL2, Writeable};
use oche_types::MAX_CPUS;

use crate::counters::Counters;
use crate::image;

/// Stack slots in the linker script.
pub const STACKS: usize = MAX_CPUS;
/// Bytes of a slot. Slots are aligned to their size.
pub const STACK_BYTES: usize = 65536;
/// Bytes at the low end of a slot that are never mapped.
pub const GUARD_BYTES: u64 = 4096;

/// A CPU's `state` before it is started.
pub(super) const OFF: u8 = 0;

/// The state of one CPU. The module `smp` starts and stops CPUs.
///
/// Aligned so that no two CPUs write the same cache line.
#[derive(Debug)]
#[repr(align(256))]
pub struct Cpu {
    pub(super) affinity: AtomicU64,
    pub(super) state: AtomicU8,
    pub(super) has_run: AtomicBool,
    pub(super) entry: AtomicU64,
    pub(super) context: AtomicU64,
    /// Address of the word in which a CPU of a spin table waits for its entry in the guest, or 0.
    pub(super) slot: AtomicU64,
    /// Whether it is in a step. Only the CPU itself accesses this.
    pub(super) is_stepping: AtomicBool,
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
            is_stepping: AtomicBool::new(false),
            exits: Counters::new(),
        }
    }

    /// Whether this CPU is in a step of one instruction, which the current exception ends or
    /// interrupts.
    #[inline]
    pub(super) fn is_stepping(&self) -> bool {
        self.is_stepping.load(Ordering::Relaxed)
    }

    /// Whether the CPU exists and has been started at least once.
    pub fn has_run(&self) -> bool {
        self.has_run.load(Ordering::Relaxed)
    }
}

pub(super) static CPUS: [Cpu; MAX_CPUS] = [const { Cpu::new() }; MAX_CPUS];

/// Sets this CPU's number.
pub fn set_index(index: usize) {
    assert!(index < MAX_CPUS, "invariant: a CPU's number is below the maximum: {index}");
    TPIDR_EL2.set(index as u64);
}

/// This CPU's number, below [`MAX_CPUS`].
#[inline]
pub fn index() -> usize {
    TPIDR_EL2.get() as usize % MAX_CPUS
}

/// This CPU's state.
#[inline]
pub fn this() -> &'static Cpu {
    CPUS.get(index()).expect("invariant: a CPU's number is below the maximum")
}

/// The states of all CPUs, including those that do not exist.
pub fn all() -> &'static [Cpu] {
    &CPUS
}

/// One past the highest address of the stack slot of CPU `index`.
pub fn stack_top(index: usize) -> u64 {
    image::stacks().start + ((index % STACKS + 1) * STACK_BYTES) as u64
}
