//! Spin-table CPUs, which firmware left waiting for an address in memory: Oche takes them before
//! the guest runs, and offers them to it again.
//!
//! m1n1 has started every CPU of a Mac before Oche; each waits at EL2, with its MMU off, for a word
//! to become an address. Oche writes its own address there first, so that no CPU ever enters the
//! guest at EL2. The CPU then waits in Oche for a word that the guest may write, and enters the
//! guest at EL1 at that address. Source: Linux `Documentation/arm64/booting.rst`, "Entry" of
//! secondary CPUs with a spin table.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use alloc::vec::Vec;
use oche_el2::failure::Failure;
use oche_el2::firmware::fatal;
use oche_el2::{cache, smp};
use oche_types::MAX_CPUS;
use oche_types::range::{PAGE, PhysRange};

use crate::bare::stage1;
use crate::guest_fdt::SpinCpu;
use crate::machine::Machine;

/// Bytes between two words: at least a cache line.
const SLOT_BYTES: u64 = 128;
const _: () = assert!(SLOT_BYTES * MAX_CPUS as u64 <= PAGE, "one page has all words");
/// Time within which a CPU must enter Oche, in milliseconds.
const PATIENCE_MILLISECONDS: u64 = 500;

/// A CPU that waits in firmware's spin table.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaitingCpu {
    affinity: u64,
    /// How Oche takes it; `None` if it stays off.
    taken: Option<Taken>,
}

/// How a CPU is taken.
#[derive(Clone, Copy, Debug)]
struct Taken {
    /// Its number in Oche.
    index: usize,
    /// Firmware's word.
    word: u64,
    /// The word in which the guest will release it.
    slot: u64,
}

impl WaitingCpu {
    /// The CPU in the guest's FDT, if it enters Oche.
    pub(super) fn present(&self) -> SpinCpu {
        SpinCpu { affinity: self.affinity, release: self.taken.map(|taken| taken.slot) }
    }
}

/// Every CPU of the machine's spin table, and checks that EL2 can store to the word of each.
/// Changes nothing. `slots` is an unused page that stage 2 maps for the guest. Call it after
/// [`smp::prepare`].
pub(super) fn find(machine: &Machine<'_>, slots: PhysRange) -> Vec<WaitingCpu> {
    let own = smp::own_affinity();
    let others = machine.spin_table().filter(|(affinity, _)| *affinity != own);
    let find_one = |(affinity, word)| {
        let taken = find_one(machine, slots, affinity, word);
        WaitingCpu { affinity, taken }
    };
    others.map(find_one).collect()
}

fn find_one(machine: &Machine<'_>, slots: PhysRange, affinity: u64, word: u64) -> Option<Taken> {
    let Some(index) = smp::find(affinity) else {
        log::warn!("cpu {affinity:#x} stays off: Oche runs on at most {MAX_CPUS} CPUs");
        return None;
    };
    let at = PhysRange { start: word, end: word.saturating_add(8) };
    if !word.is_multiple_of(8) || !machine.ram.covers(&at) {
        log::warn!("cpu {affinity:#x} stays off: its release address {word:#x} is not in RAM");
        return None;
    }
    if let Err(result) = stage1::check_store(word) {
        fatal(
            Failure::ReleaseAddress,
            format_args!(
                "cpu {affinity:#x}: EL2 cannot store to its release address {word:#x}: PAR_EL1 {result:#x}"
            ),
        );
    }
    Some(Taken { index, word, slot: slots.start + index as u64 * SLOT_BYTES })
}

/// Takes the CPUs, and returns the new release address of each for the guest. `slots` is the page
/// that [`find`] got. Call it after stage 2 was built.
pub(super) fn take(waiting: &[WaitingCpu], slots: PhysRange) -> Vec<SpinCpu> {
    // SAFETY: the layout gave this page to this use alone; it is RAM that EL2 maps.
    unsafe { core::ptr::write_bytes(slots.start as *mut u8, 0, PAGE as usize) };
    cache::clean_and_invalidate(slots);
    log::info!("CPUs wait for the guest's words in {slots}");
    let take_one = |cpu: &WaitingCpu| match cpu.taken {
        Some(taken) if take_one(cpu.affinity, &taken) => cpu.present(),
        _ => SpinCpu { affinity: cpu.affinity, release: None },
    };
    waiting.iter().map(take_one).collect()
}

/// Has the CPU enter Oche. Returns whether it came.
fn take_one(affinity: u64, taken: &Taken) -> bool {
    let Taken { index, word, slot } = *taken;
    smp::will_wait(index, slot);
    // SAFETY: firmware's word, in RAM, to which EL2 may store.
    unsafe { release(word, smp::spin_entry()) };
    let deadline = CNTPCT_EL0.get() + CNTFRQ_EL0.get() / 1000 * PATIENCE_MILLISECONDS;
    while CNTPCT_EL0.get() < deadline {
        if smp::is_waiting(index) {
            return true;
        }
        core::hint::spin_loop();
    }
    log::warn!("cpu {affinity:#x} stays off: it did not start within {PATIENCE_MILLISECONDS} ms");
    false
}

/// Has the CPU that waits for `word` go to `entry`.
///
/// # Safety
///
/// `word` is firmware's, EL2 may store to it, and a CPU that enters at `entry`, with its MMU off,
/// keeps Oche's memory as it is.
pub unsafe fn release(word: u64, entry: u64) {
    // SAFETY: the caller's promise; the CPU that waits for it is the only other reader.
    unsafe { &*(word as *const AtomicU64) }.store(entry, Ordering::Release);
    // The waiting CPU has its caches off.
    cache::clean_and_invalidate(PhysRange { start: word, end: word + 8 });
    wake_all();
}

/// Wakes CPUs that wait for a store, which has been cleaned and so is complete.
fn wake_all() {
    // SAFETY: a hint.
    unsafe { asm!("sev", options(nostack, preserves_flags)) };
}
