//! What each CPU measures of itself, and whether it goes back to where firmware has it wait.
//!
//! m1n1 leaves each CPU in a loop that calls the function whose address is stored to its word, and
//! clears the word when the function returns. Source: m1n1 `src/smp.c`, `smp_secondary_entry`. So a
//! CPU measures itself in a function and is then where it was, for the kernel that follows. CPUs
//! are called one after the other.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, HCR_EL2, Readable, Writeable};
use alloc::string::String;
use oche_boot::bare::selftest::{Verdict, print_line};
use oche_boot::bare::{fail_open, spin_table, stage1};
use oche_boot::machine::Machine;
use oche_el2::{cache, fiq, smp};
use oche_types::range::PhysRange;

use super::cpu_code::{ENTERED, FAULTED, FINISHED, RECORDS, Record, oche_probe_cpu};

/// Time within which a CPU must have gone back, in milliseconds.
const PATIENCE_MILLISECONDS: u64 = 500;
/// `HCR_EL2.FMO`, `IMO` and `AMO`.
const TAKEN_TO_EL2: u64 = 1 << 3 | 1 << 4 | 1 << 5;
/// `MIDR_EL1.Implementer` of Apple.
const APPLE: u64 = 0x61;
/// The identification registers that Oche reads, as numbers in the identification space: `PFR0`,
/// `PFR1`, `DFR0`, `MMFR0` to `MMFR2`.
const READ_BY_OCHE: [usize; 6] = [0, 1, 8, 24, 25, 26];
/// The lines of a CPU that only Apple's have.
const APPLE_LINES: [&str; 4] = ["ctrr", "hid4", "timer-fiq", "l2c"];

/// Has the boot CPU measure itself, for the others to be compared with, and returns its record. It
/// does not execute WFI yet.
pub(super) fn measure_boot_cpu(machine: &Machine<'_>) -> Option<&'static Record> {
    for (record, affinity) in RECORDS.iter().zip(machine.affinities()) {
        record.affinity.store(*affinity, Ordering::Relaxed);
    }
    flush();
    call_here();
    find(smp::own_affinity())
}

/// Reports the lines of each CPU; `boot_cpu` is the last, and executes WFI only if it `may_wait`.
/// Returns whether every CPU has left the probe's code, which U-Boot would be copied over.
pub(super) fn report(
    machine: &Machine<'_>,
    image: PhysRange,
    boot_cpu: Option<&Record>,
    may_wait: bool,
) -> bool {
    let own = smp::own_affinity();
    // The boot CPU's WFI comes last: if a CPU does not come back from one, no further CPU executes
    // it.
    let mut can_wait = fiq::hw::has_fiqs();
    for (affinity, word) in machine.spin_table().filter(|(affinity, _)| *affinity != own) {
        let Some(record) = find(affinity) else { continue };
        record.is_to_wait.store(u64::from(can_wait), Ordering::Relaxed);
        call(machine, affinity, word, record);
        if record.state.load(Ordering::Relaxed) != 0 {
            describe(affinity, record, boot_cpu, image);
        }
        if is_inside(record) {
            can_wait = false;
            // If it wakes, it must not execute U-Boot in the probe's place.
            fail_open::disarm();
        }
    }
    let Some(record) = boot_cpu else { return false };
    record.is_to_wait.store(u64::from(can_wait && may_wait), Ordering::Relaxed);
    // As firmware has it for the other CPUs: interrupts that are taken to EL2 end a WFI there.
    let plain = HCR_EL2.get();
    HCR_EL2.set(plain | TAKEN_TO_EL2);
    call_here();
    HCR_EL2.set(plain);
    describe(own, record, boot_cpu, image);
    !RECORDS.iter().any(is_inside)
}

/// Whether the CPU executes the probe's code.
fn is_inside(record: &Record) -> bool {
    record.state.load(Ordering::Relaxed) == ENTERED
}

fn find(affinity: u64) -> Option<&'static Record> {
    RECORDS.iter().find(|record| record.affinity.load(Ordering::Relaxed) == affinity)
}

/// Makes this CPU's stores visible to CPUs without caches, and theirs to this one.
fn flush() {
    let start = (&raw const RECORDS) as u64;
    cache::clean_and_invalidate(PhysRange { start, end: start + size_of_val(&RECORDS) as u64 });
}

fn call_here() {
    // SAFETY: it keeps all registers but those that a call may change, and writes its own record.
    unsafe { oche_probe_cpu() };
}

/// Has the CPU that waits for `word` measure itself, and reports how it goes.
fn call(machine: &Machine<'_>, affinity: u64, word: u64, record: &Record) {
    let line = |what: &str| alloc::format!("cpu{affinity:#x}.{what}");
    let at = PhysRange { start: word, end: word.saturating_add(8) };
    let is_usable = word.is_multiple_of(8) && machine.ram.covers(&at);
    if !is_usable || stage1::check_store(word).is_err() {
        let value = format_args!("{word:#x}");
        return print_line(&line("enters"), value, "release-address", Verdict::Wrong);
    }
    flush();
    let has_entered = || {
        flush();
        record.state.load(Ordering::Acquire) != 0
    };
    let began = CNTPCT_EL0.get();
    // SAFETY: firmware's word, in RAM, to which EL2 may store; the function keeps all memory but
    // its record and the stack that it is called on.
    unsafe { spin_table::release(word, oche_probe_cpu as *const () as u64) };
    let mut entered = wait(began, has_entered);
    if entered.is_none() {
        // It must not come later, when other code is in the probe's place. One that has just read
        // the word still comes.
        // SAFETY: as above; 0 has it go on waiting.
        unsafe { spin_table::release(word, 0) };
        entered = wait(CNTPCT_EL0.get(), has_entered);
    }
    report_time(&line("enters"), entered);
    if entered.is_none() {
        return;
    }
    // SAFETY: as above; EL2 maps it for good.
    let word = unsafe { &*(word as *const AtomicU64) };
    let returned = wait(CNTPCT_EL0.get(), || {
        cache::clean_and_invalidate(at);
        word.load(Ordering::Acquire) == 0
    });
    flush();
    report_time(&line("returns"), returned);
}

/// Waits until `is_so`. Returns the ticks since `began`, or `None` if it took too long.
fn wait(began: u64, mut is_so: impl FnMut() -> bool) -> Option<u64> {
    let limit = CNTFRQ_EL0.get() / 1000 * PATIENCE_MILLISECONDS;
    loop {
        let has_come = is_so();
        let took = CNTPCT_EL0.get().wrapping_sub(began);
        if has_come {
            return Some(took);
        }
        if took > limit {
            return None;
        }
        spin_loop();
    }
}

/// Reports how many ticks it took, or that it never happened.
fn report_time(name: &str, ticks: Option<u64>) {
    match ticks {
        Some(ticks) => print_line(name, ticks, "ticks", Verdict::Ok),
        None => print_line(name, "never", "ticks", Verdict::Wrong),
    }
}

/// Reports what a CPU wrote into its record.
fn describe(affinity: u64, record: &Record, boot_cpu: Option<&Record>, image: PhysRange) {
    let line = |what: &str| alloc::format!("cpu{affinity:#x}.{what}");
    let value = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let hexadecimal = |word: &AtomicU64| alloc::format!("{:#x}", value(word));
    if value(&record.state) == FAULTED {
        let place = alloc::format!(
            "{:#x},{:#x},{:#x}",
            value(&record.syndrome),
            value(&record.exception_link),
            value(&record.far)
        );
        print_line(&line("exception"), place, "ESR,ELR,FAR", Verdict::Wrong);
    }
    print_line(&line("midr"), hexadecimal(&record.midr), "MIDR_EL1", Verdict::Figure);
    print_line(&line("hcr"), hexadecimal(&record.hcr), "HCR_EL2", Verdict::Figure);
    print_line(&line("sctlr"), hexadecimal(&record.sctlr), "SCTLR_EL2", Verdict::Figure);
    let hertz = value(&record.counter_hertz);
    print_line(&line("cntfrq"), hertz, "Hz", hertz == CNTFRQ_EL0.get());
    let (others, is_alike) = differing(record, boot_cpu);
    print_line(&line("ids"), others, "that-differ", is_alike);
    if value(&record.midr) >> 24 & 0xff == APPLE {
        let [start, end, control] = &record.ctrr;
        let range = PhysRange { start: value(start), end: value(end) };
        print_line(&line("ctrr"), range, "CTRR_A_LWR..UPR", range.end <= image.start);
        print_line(&line("ctrr-control"), hexadecimal(control), "CTRR_CTL", Verdict::Figure);
        print_line(&line("hid4"), hexadecimal(&record.cache_control), "HID4", Verdict::Figure);
        let unit = "VM_TMR_FIQ_ENA";
        print_line(&line("timer-fiq"), hexadecimal(&record.timer_fiq), unit, Verdict::Figure);
        print_line(&line("l2c"), hexadecimal(&record.l2c_status), "L2C_ERR_STS", Verdict::Figure);
    } else {
        for name in APPLE_LINES {
            print_line(&line(name), "-", "-", Verdict::Skipped("not Apple's CPU"));
        }
    }
    wait_for_interrupt(&line("wfi"), record);
}

/// The identification registers that differ from the boot CPU's, by number, and whether Oche reads
/// none of them.
fn differing(record: &Record, boot_cpu: Option<&Record>) -> (String, bool) {
    let Some(boot_cpu) = boot_cpu else { return (String::from("unknown"), false) };
    let mut names = String::new();
    let mut is_alike = true;
    for (number, (own, other)) in record.ids.iter().zip(&boot_cpu.ids).enumerate() {
        if own.load(Ordering::Relaxed) != other.load(Ordering::Relaxed) {
            let comma = if names.is_empty() { "" } else { "," };
            names.push_str(&alloc::format!("{comma}c{}-{}", 4 + number / 8, number % 8));
            is_alike &= !READ_BY_OCHE.contains(&number);
        }
    }
    (if names.is_empty() { String::from("none") } else { names }, is_alike)
}

/// Reports whether WFI kept every register, and how late it ended.
fn wait_for_interrupt(name: &str, record: &Record) {
    let value = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let (has_ended, asked) = (value(&record.state) == FINISHED, value(&record.is_to_wait) != 0);
    if !asked {
        return print_line(name, "-", "-", Verdict::Skipped("nothing would end it for sure"));
    }
    if !has_ended {
        return print_line(name, "never-ends", "lost,ticks", Verdict::Wrong);
    }
    let lost = value(&record.lost);
    let late = value(&record.woken).wrapping_sub(value(&record.due)) as i64;
    print_line(name, alloc::format!("{lost:#x},{late}"), "lost,ticks", lost == 0);
}
