//! Calls to firmware from EL2: PSCI through `SMC`.
#![expect(unsafe_code, reason = "calls to firmware")]

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::console;
use crate::failure::Failure;
use crate::lock::Once;
use crate::psci::{function, status};

/// How each line begins that is no panic's.
pub const PREFIX: &str = "oche: ";

/// What boot does before the guest runs, instead of stopping the machine.
static FALLBACK: Once<fn()> = Once::new();
/// What is called before the fallback.
static LAST_WORDS: Once<fn()> = Once::new();

/// What a person should do where the machine does not go on, one line each; an empty text is no
/// line.
#[derive(Clone, Copy, Debug)]
pub struct Advice {
    /// How to find the cause.
    pub report: &'static str,
    /// How to use the machine again once it has stopped.
    pub stopped: &'static str,
    /// What to do if the guest prints nothing.
    pub silent: &'static str,
}

static ADVICE: Once<Advice> = Once::new();

/// Sets what [`fatal`] and a panic print behind the reason, and boot before the guest starts.
pub fn set_advice(advice: Advice) {
    ADVICE.set(advice);
}

/// Prints `line` of the advice, with `prefix` before it.
pub fn advise(prefix: &str, line: fn(&Advice) -> &'static str) {
    let text = ADVICE.get().map_or("", line);
    if !text.is_empty() {
        console::print(format_args!("{prefix}{text}\n"));
    }
}

/// Sets `fallback` to be called where Oche cannot go on, by [`fatal`] or a panic. If it returns,
/// the machine stops.
pub fn set_fallback(fallback: fn()) {
    FALLBACK.set(fallback);
}

/// Sets `last_words` to be called before the fallback, to show what would be lost.
pub fn set_last_words(last_words: fn()) {
    LAST_WORDS.set(last_words);
}

/// Calls the fallback, if one is set.
pub(crate) fn fall_back() {
    if let Some(last_words) = LAST_WORDS.get() {
        last_words();
    }
    if let Some(fallback) = FALLBACK.get() {
        fallback();
    }
}

/// Whether firmware answers `SMC`.
static ANSWERS: AtomicBool = AtomicBool::new(false);

/// Sets whether the machine has PSCI through `SMC`. If not, every call returns `NOT_SUPPORTED`: on
/// a CPU without EL3, `SMC` is UNDEFINED.
pub fn set_present(present: bool) {
    ANSWERS.store(present, Ordering::Relaxed);
}

/// Calls firmware with x0 to x3; returns its x0.
///
/// # Order
///
/// Stores before the call are visible to every CPU: it may start a CPU, which does not acquire
/// them, or stop this one.
pub fn call(arguments: [u64; 4]) -> u64 {
    if !ANSWERS.load(Ordering::Relaxed) {
        return status::NOT_SUPPORTED as u64;
    }
    let [mut x0, x1, x2, x3] = arguments;
    // SAFETY: the calls are PSCI's and SMCCC's, which preserve memory and x18 to x30. Version 1.0
    // of the convention does not preserve x4 to x17.
    unsafe {
        asm!(
            "dsb ishst",
            "smc #0",
            inout("x0") x0, inout("x1") x1 => _, inout("x2") x2 => _, inout("x3") x3 => _,
            out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _,
            out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _,
            options(nostack)
        );
    }
    x0
}

/// Starts a CPU in Oche. Returns the PSCI status.
pub fn cpu_on(affinity: u64, entry_point: u64, context: u64) -> i64 {
    call([u64::from(function::CPU_ON_64), affinity, entry_point, context]) as i32 as i64
}

/// Stops this CPU. Returns the PSCI status only if firmware refuses.
pub fn cpu_off() -> i64 {
    call([u64::from(function::CPU_OFF), 0, 0, 0]) as i32 as i64
}

/// Turns the machine off, or stops this CPU for good if firmware cannot.
pub fn power_off() -> ! {
    call([u64::from(function::SYSTEM_OFF), 0, 0, 0]);
    halt()
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: waits for an interrupt, which is masked; changes nothing.
        unsafe { asm!("wfi", options(nomem, nostack, preserves_flags)) };
    }
}

/// Prints `oche: fatal:` with the reason and the code, and turns the machine off unless there is a
/// fallback.
pub fn fatal(failure: Failure, reason: core::fmt::Arguments<'_>) -> ! {
    console::on_fatal();
    console::print(format_args!("oche: fatal: {reason} ({})\n", failure.code()));
    advise(PREFIX, |advice| advice.report);
    fall_back();
    advise(PREFIX, |advice| advice.stopped);
    power_off()
}
