//! The other CPUs: each is found in the device tree, released as Linux releases it, and reports its
//! affinity.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use oche_guest_common::cpu::{self, MAX_CPUS};
use oche_guest_common::fdt::{Cpu, Tree};
use oche_guest_common::{CaseReport, Check, check, print};

use super::interrupts;

/// Polls before a CPU counts as lost.
const MAX_POLLS: u32 = 200_000_000;
/// Stands for an affinity: the CPU arrived at another exception level than EL1.
const NOT_AT_EL1: u64 = u64::MAX;

/// The affinity of each CPU that arrived, plus one, by the device tree's order.
static ARRIVED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
/// The number in the device tree of the CPU that is being released.
static NEXT: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn released_cpu_entry() -> !;
}

// A released CPU has no register of its own to find its number in.
global_asm!(
    r#"
    .section .text, "ax"
    .global released_cpu_entry
released_cpu_entry:
    adrp    x9, {next}
    add     x9, x9, :lo12:{next}
    ldr     x0, [x9]
    b       guest_secondary_entry
"#,
    next = sym NEXT,
);

/// Releases all CPUs. Returns the numbers of those that arrived, by affinity.
pub(super) fn run(report: &mut CaseReport, tree: &Tree) -> ([usize; MAX_CPUS], usize) {
    let mut others = [0; MAX_CPUS];
    let mut count = 0;
    let mut released = 1;
    for (number, cpu) in tree.cpus().enumerate().take(MAX_CPUS).skip(1) {
        let result = release(tree, number, &cpu);
        if result.is_ok() {
            others[count] = cpu.affinity as usize & 0xff;
            count += 1;
        }
        released += 1;
        report.case(format_args!("cpu {:#x} comes", cpu.affinity), result);
    }
    print(format_args!("guest: {released} CPUs\n"));
    (others, count)
}

fn release(tree: &Tree, number: usize, cpu: &Cpu) -> Check {
    let is_memory =
        tree.memory().any(|(start, bytes)| (start..start + bytes).contains(&cpu.release));
    check(!is_memory, "its release address is memory")?;
    // Device registers, and Oche's own memory.
    refuses(cpu.release, 0x1000)?;
    refuses(cpu.release, cpu.release & !0xfff)?;
    wake(number, cpu)
}

/// Whether a CPU that is released to `place`, which is no memory of the guest's, stays and clears
/// the word.
fn refuses(release: u64, place: u64) -> Check {
    let word = store_release(release, place);
    for _ in 0..MAX_POLLS {
        if word.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        core::hint::spin_loop();
    }
    Err("it is released to an address that is not the guest's memory")
}

fn wake(number: usize, cpu: &Cpu) -> Check {
    check(cpu.release != 0, "no release address")?;
    NEXT.store(number as u64, Ordering::SeqCst);
    // The other CPU reads it with its caches off.
    // SAFETY: keeps data.
    unsafe { asm!("dc civac, {}", "dsb sy", in(reg) &raw const NEXT, options(nostack)) };
    store_release(cpu.release, released_cpu_entry as *const () as u64);
    for _ in 0..MAX_POLLS {
        match ARRIVED[number].load(Ordering::SeqCst) {
            0 => core::hint::spin_loop(),
            who if who == cpu.affinity + 1 => return Ok(()),
            NOT_AT_EL1 => return Err("it arrived, but not at EL1"),
            _ => return Err("another CPU arrived"),
        }
    }
    Err("it did not arrive")
}

/// Stores an entry address to a release address as Linux does.
fn store_release(release: u64, entry: u64) -> &'static AtomicU64 {
    // SAFETY: the word that the device tree names for a CPU.
    let word = unsafe { &*(release as *const AtomicU64) };
    word.store(entry, Ordering::SeqCst);
    // SAFETY: cache maintenance and an event.
    unsafe { asm!("dc civac, {}", "dsb sy", "sev", in(reg) release, options(nostack)) };
    word
}

/// Runs on another CPU, with its MMU on.
pub(super) fn arrive(number: u64) -> ! {
    let is_at_el1 = cpu::exception_level() == 1;
    let who = if is_at_el1 { (cpu::affinity() & 0xff_00ff_ffff) + 1 } else { NOT_AT_EL1 };
    if let Some(slot) = ARRIVED.get(number as usize) {
        slot.store(who, Ordering::SeqCst);
    }
    interrupts::idle()
}
