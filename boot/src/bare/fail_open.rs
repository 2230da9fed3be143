//! Failing open: if Oche cannot go on before the guest's first instruction, and the packed kernel
//! is U-Boot, U-Boot starts natively, as if Oche were not there. A Mac that boots untethered then
//! still boots, and it takes no recovery mode to remove Oche.
//!
//! This ends when the first of the other CPUs enters Oche ([`disarm`]), since firmware cannot have
//! it back. Everything that can fail happens before.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use oche_el2::console::print;
use oche_el2::{features, firmware};

use crate::bare::entry::FdtAddress;
use crate::bare::handover::NativeStart;
use crate::bare::memory::bytes;
use crate::bare::packed::{self, PackedFiles};
use crate::options::{BootOptions, FailOpen};

static IS_ARMED: AtomicBool = AtomicBool::new(false);
static FDT: AtomicU64 = AtomicU64::new(0);
/// `oche.fail-open` as seconds or one of the two below.
static CHOICE: AtomicU64 = AtomicU64::new(NOT_READ);
const OFF: u64 = u64::MAX;
const NOT_READ: u64 = u64::MAX - 1;

/// From here on, a failure starts U-Boot with `fdt`, which is what firmware passed.
pub(super) fn arm(fdt: FdtAddress) {
    FDT.store(fdt.0, Ordering::Relaxed);
    IS_ARMED.store(true, Ordering::Relaxed);
    firmware::set_fallback(start_u_boot);
}

/// From here on, a failure stops the machine.
pub fn disarm() {
    IS_ARMED.store(false, Ordering::Relaxed);
}

/// Sets the option, once all options have been read.
pub(super) fn choose(choice: FailOpen) {
    let number = match choice {
        FailOpen::After { seconds } => u64::from(seconds),
        FailOpen::Off => OFF,
    };
    CHOICE.store(number, Ordering::Relaxed);
}

/// Starts U-Boot natively if it is what was packed; otherwise returns.
fn start_u_boot() {
    // Also ends what a failure in here would begin again.
    if !IS_ARMED.swap(false, Ordering::Relaxed) || !features::has_host_extensions() {
        return;
    }
    let native = match NativeStart::find() {
        Ok(Some(native)) => native,
        Ok(None) => return,
        Err(reason) => return print(format_args!("oche: U-Boot cannot start: {reason}\n")),
    };
    let seconds = seconds();
    if seconds == OFF {
        return;
    }
    count_down(seconds);
    let fdt = FdtAddress(FDT.load(Ordering::Relaxed));
    // SAFETY: no other CPU has entered Oche, or `disarm` had been called.
    unsafe { native.start(fdt) }
}

/// The option's number. A failure before the device tree's options are read finds it in the packed
/// text alone.
fn seconds() -> u64 {
    if CHOICE.load(Ordering::Relaxed) == NOT_READ {
        let mut options = BootOptions::default();
        let text = PackedFiles::find(packed::room()).map_or(&[][..], |files| bytes(files.options));
        options.take_text(str::from_utf8(text).unwrap_or(""), &mut |_| ());
        choose(options.fail_open);
    }
    CHOICE.load(Ordering::Relaxed)
}

/// Leaves the reason for the failure on the screen for some `seconds`.
fn count_down(seconds: u64) {
    print(format_args!("oche: U-Boot starts without Oche in {seconds} s:"));
    for left in (0..seconds).rev() {
        wait_a_second();
        print(format_args!(" {left}"));
    }
    print(format_args!("\n"));
}

fn wait_a_second() {
    let began = CNTPCT_EL0.get();
    while CNTPCT_EL0.get().wrapping_sub(began) < CNTFRQ_EL0.get() {
        core::hint::spin_loop();
    }
}
