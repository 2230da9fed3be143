//! CPUs that firmware left waiting for an address in memory: taken before the guest runs, and offered to it again.
//!
//! m1n1 has started every CPU of a Mac before Oche; each waits at EL2, with its MMU off, for a word to become an
//! address. Oche writes its own address there first, so that no CPU ever enters the guest at EL2. The CPU then
//! waits in Oche for a word that the guest may write, and enters the guest at EL1 where that word says.
//! Source: Linux `Documentation/arm64/booting.rst`, "Entry" of secondary CPUs with a spin table.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use alloc::vec::Vec;
use oche_types::MOST_CPUS;
use oche_types::range::{PAGE, PhysRange};

use crate::bare::firmware::fatal;
use crate::bare::{cache, cpu, stage1};
use crate::guest_fdt::SpinCpu;
use crate::machine::Machine;

/// Bytes between two words: a cache line or more.
const SLOT_BYTES: u64 = 128;
const _: () = assert!(SLOT_BYTES * MOST_CPUS as u64 <= PAGE, "one page has all words");
/// How long one CPU may take to come, in milliseconds.
const PATIENCE_MILLISECONDS: u64 = 500;

/// The CPUs, one bit each, whose guest was once warned of a word that is no address.
static WARNED: AtomicU32 = AtomicU32::new(0);
const _: () = assert!(MOST_CPUS <= u32::BITS as usize, "each CPU has a bit");

unsafe extern "C" {
    fn oche_spin_entry() -> !;
}

global_asm!(
    r#"
    // A CPU from the spin table: MMU off, any state. It finds its own `Start` by its affinity.
    .section .text.spin, "ax"
    .global oche_spin_entry
    .type oche_spin_entry, %function
oche_spin_entry:
    msr     daifset, #0xf
    mrs     x9, mpidr_el1
    mov     x10, #0xffffff              // MPIDR_EL1: Aff2, Aff1, Aff0 in 23:0, Aff3 in 39:32
    movk    x10, #0xff, lsl #32
    and     x9, x9, x10
    adrp    x0, {starts}
    add     x0, x0, :lo12:{starts}
    mov     x11, #{count}
1:  ldr     x12, [x0, #{affinity}]
    cmp     x12, x9
    b.eq    oche_secondary_entry
    add     x0, x0, #{bytes}
    subs    x11, x11, #1
    b.ne    1b
    // Nobody knows this CPU.
2:  wfe
    b       2b
"#,
    starts = sym cpu::STARTS,
    count = const MOST_CPUS,
    affinity = const cpu::START_AFFINITY,
    bytes = const cpu::START_BYTES,
);

/// Takes every CPU of the machine's spin table, and says where the guest will find each. `slots` is a page that
/// stage 2 maps for the guest and nobody else uses. [`cpu::prepare`] has run, and stage 2 is built.
pub fn take(machine: &Machine<'_>, slots: PhysRange) -> Vec<SpinCpu> {
    let own = cpu::own_affinity();
    // SAFETY: the layout gave this page to this use alone; it is RAM that EL2 maps.
    unsafe { core::ptr::write_bytes(slots.start as *mut u8, 0, PAGE as usize) };
    cache::clean_and_invalidate(slots);
    log::info!("CPUs wait for the guest's words in {slots}");
    let others = machine.spin_table().filter(|(affinity, _)| *affinity != own);
    others.map(|(affinity, word)| take_one(machine, slots, affinity, word)).collect()
}

fn take_one(machine: &Machine<'_>, slots: PhysRange, affinity: u64, word: u64) -> SpinCpu {
    let nobody = SpinCpu { affinity, release: None };
    let at = PhysRange { start: word, end: word.saturating_add(8) };
    let Some(index) = cpu::find(affinity) else {
        log::warn!("cpu {affinity:#x} stays off: there are records for {MOST_CPUS} CPUs");
        return nobody;
    };
    if !word.is_multiple_of(8) || !machine.ram.covers(&at) {
        log::warn!("cpu {affinity:#x} stays off: its release address {word:#x} is not in RAM");
        return nobody;
    }
    if let Err(result) = stage1::check_store(word) {
        fatal(format_args!(
            "cpu {affinity:#x}: EL2 cannot store to its release address {word:#x}: PAR_EL1 {result:#x}"
        ));
    }
    let slot = slots.start + index as u64 * SLOT_BYTES;
    cpu::will_wait(index, slot);
    // SAFETY: firmware's word, in RAM that EL2 maps; the CPU that waits for it is the only other who looks.
    unsafe { &*(word as *const AtomicU64) }.store(oche_spin_entry as *const () as u64, Ordering::Release);
    // The waiting CPU has its caches off.
    cache::clean_and_invalidate(at);
    wake_all();
    let deadline = CNTPCT_EL0.get() + CNTFRQ_EL0.get() / 1000 * PATIENCE_MILLISECONDS;
    while CNTPCT_EL0.get() < deadline {
        if cpu::is_waiting(index) {
            return SpinCpu { affinity, release: Some(slot) };
        }
        core::hint::spin_loop();
    }
    log::warn!("cpu {affinity:#x} stays off: it did not come within {PATIENCE_MILLISECONDS} ms");
    nobody
}

/// Waits until the guest writes an address of its memory into `slot`, and gives it. What is none is refused: the word
/// becomes 0 again.
pub(super) fn wait(slot: u64) -> u64 {
    let line = PhysRange { start: slot, end: slot + 8 };
    // SAFETY: `take` gave this CPU a word of Oche's memory, which EL2 maps for ever.
    let word = unsafe { &*(slot as *const AtomicU64) };
    loop {
        // A guest with its caches off writes past this CPU's: drop the line before each look.
        cache::clean_and_invalidate(line);
        let entry = word.load(Ordering::Acquire);
        if cpu::is_guest_memory(entry) && entry.is_multiple_of(4) {
            return entry;
        }
        if entry != 0 {
            // A guest can store as many such words as it likes.
            let bit = 1 << cpu::index();
            if WARNED.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
                log::warn!("cpu {}: released at {entry:#x}, which is not the guest's memory", cpu::index());
            }
            // Unless the guest has thought better of it meanwhile.
            let _ = word.compare_exchange(entry, 0, Ordering::AcqRel, Ordering::Relaxed);
            continue;
        }
        // The guest sends an event behind its store; one that came since the look makes this return at once.
        // SAFETY: waits.
        unsafe { asm!("wfe", options(nostack, preserves_flags)) };
    }
}

/// Wakes CPUs that wait for a store that is cleaned, and so complete.
fn wake_all() {
    // SAFETY: a hint.
    unsafe { asm!("sev", options(nostack, preserves_flags)) };
}
