//! The FIQ handler, the timers behind it, and what each CPU has counted.
//!
//! On a Mac the timers and IPIs are FIQs: levels, which end when their source is quiet. The stub
//! wires a GIC so. The handler polls each source, as Linux does on a Mac. An IPI is acknowledged at
//! a GIC's register; a Mac has one of Apple's instead.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use oche_guest_common::cpu::{self, MAX_CPUS};

/// Between ticks in the background.
const BACKGROUND_MICROSECONDS: u64 = 1000;
/// How long anything may take before it counts as lost.
const TIMEOUT_MICROSECONDS: u64 = 10_000_000;
/// From an IPI to the tick that its receiver arms.
pub(super) const TICK_MICROSECONDS: u64 = 200;
/// The interrupt that the stub wires as IPI.
const IPI: u64 = 1;
/// `CNTx_CTL`: ENABLE and ISTATUS, without IMASK.
const ASSERTS: u64 = 0b101;
/// From here on a GIC's interrupt numbers mean that there is no interrupt.
const SPECIAL: u64 = 1020;

/// How many FIQs a CPU has taken, by source.
pub(super) struct FiqCounts {
    pub(super) virtual_ticks: AtomicU64,
    pub(super) physical_ticks: AtomicU64,
    pub(super) ipis: AtomicU64,
    /// FIQs without a source.
    pub(super) spurious: AtomicU64,
}

static COUNTS: [FiqCounts; MAX_CPUS] = [const {
    FiqCounts {
        virtual_ticks: AtomicU64::new(0),
        physical_ticks: AtomicU64::new(0),
        ipis: AtomicU64::new(0),
        spurious: AtomicU64::new(0),
    }
}; MAX_CPUS];
/// Counter ticks between the first CPU's timer ticks in the background, or 0.
static PERIOD: AtomicU64 = AtomicU64::new(0);
/// The handler polls for IPIs too. That traps where EL2 injects FIQs.
static TAKES_IPIS: AtomicBool = AtomicBool::new(true);

macro_rules! reads {
    ($($read:ident $name:literal)*) => {$(
        fn $read() -> u64 {
            let value;
            // SAFETY: a register of a timer or of this CPU's interrupt controller interface; no
            // memory.
            unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack)) };
            value
        }
    )*};
}
reads! {
    virtual_control "cntv_ctl_el0"
    physical_control "cntp_ctl_el0"
    acknowledge "S3_0_C12_C8_0"
}

macro_rules! writes {
    ($($write:ident $name:literal)*) => {$(
        fn $write(value: u64) {
            // SAFETY: as for reading.
            unsafe { asm!(concat!("msr ", $name, ", {}"), "isb", in(reg) value, options(nostack)) };
        }
    )*};
}
writes! {
    set_virtual_control "cntv_ctl_el0"
    set_virtual_timer "cntv_tval_el0"
    set_physical_control "cntp_ctl_el0"
    set_physical_timer "cntp_tval_el0"
    end "S3_0_C12_C8_1"
    send_ipi_register "S3_0_C12_C11_7"
}

/// Sends the IPI to the CPUs whose bits are set in `targets`.
pub(super) fn send_ipi(targets: u64) {
    send_ipi_register(IPI << 24 | targets);
}

fn now() -> u64 {
    let value;
    // SAFETY: reads the counter.
    unsafe { asm!("isb", "mrs {}, cntpct_el0", out(reg) value, options(nostack)) };
    value
}

fn ticks_of(microseconds: u64) -> u64 {
    let frequency: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
    microseconds * frequency / 1_000_000
}

/// Masks FIQs, or unmasks them.
pub(super) fn mask(is_masked: bool) {
    if is_masked {
        // SAFETY: keeps everything but PSTATE.F.
        unsafe { asm!("msr daifset, #1", options(nostack)) };
    } else {
        // SAFETY: FIQs have a handler, which keeps all that they interrupt.
        unsafe { asm!("msr daifclr, #1", "isb", options(nostack)) };
    }
}

/// What the CPU of QEMU's number `cpu` has counted.
pub(super) fn counts(cpu: usize) -> &'static FiqCounts {
    COUNTS.get(cpu).unwrap_or(&COUNTS[0])
}

/// Whether the virtual timer asserts its FIQ.
pub(super) fn is_virtual_asserted() -> bool {
    virtual_control() & 7 == ASSERTS
}

/// Lets the handler poll for IPIs, or not.
pub(super) fn poll_ipis(is_polled: bool) {
    TAKES_IPIS.store(is_polled, Ordering::SeqCst);
}

/// The handler, with FIQs masked.
pub(super) fn handle() {
    let own = counts(cpu::index());
    let has_source = take_ipi(own) | take_virtual_tick(own) | take_physical_tick(own);
    if !has_source {
        own.spurious.fetch_add(1, Ordering::SeqCst);
    }
}

fn take_ipi(own: &FiqCounts) -> bool {
    if !TAKES_IPIS.load(Ordering::SeqCst) {
        return false;
    }
    let interrupt = acknowledge();
    if interrupt < SPECIAL {
        end(interrupt);
    }
    if interrupt != IPI {
        return false;
    }
    own.ipis.fetch_add(1, Ordering::SeqCst);
    if cpu::index() != 0 {
        arm_virtual(TICK_MICROSECONDS);
    }
    true
}

fn take_virtual_tick(own: &FiqCounts) -> bool {
    if !is_virtual_asserted() {
        return false;
    }
    let period = PERIOD.load(Ordering::SeqCst);
    if cpu::index() == 0 && period != 0 {
        set_virtual_timer(period);
    } else {
        set_virtual_control(0);
    }
    own.virtual_ticks.fetch_add(1, Ordering::SeqCst);
    true
}

fn take_physical_tick(own: &FiqCounts) -> bool {
    if physical_control() & 7 != ASSERTS {
        return false;
    }
    set_physical_control(0);
    own.physical_ticks.fetch_add(1, Ordering::SeqCst);
    true
}

/// Arms this CPU's virtual timer for one tick.
pub(super) fn arm_virtual(microseconds: u64) {
    set_virtual_timer(ticks_of(microseconds));
    set_virtual_control(1);
}

/// Arms this CPU's physical timer for one tick.
pub(super) fn arm_physical(microseconds: u64) {
    set_physical_timer(ticks_of(microseconds));
    set_physical_control(1);
}

/// Waits until `is_so`, for ten seconds. Returns whether it came to be.
pub(super) fn wait(is_so: impl Fn() -> bool) -> bool {
    let begin = now();
    let limit = ticks_of(TIMEOUT_MICROSECONDS);
    while !is_so() {
        if now() - begin > limit {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// Waits for the given time.
pub(super) fn pass(microseconds: u64) {
    let begin = now();
    while now() - begin < ticks_of(microseconds) {
        core::hint::spin_loop();
    }
}

/// Starts the first CPU's periodic timer tick.
pub(super) fn start_ticking() {
    PERIOD.store(ticks_of(BACKGROUND_MICROSECONDS), Ordering::SeqCst);
    arm_virtual(BACKGROUND_MICROSECONDS);
    mask(false);
}

/// Stops the tick and waits until none is due.
pub(super) fn stop_ticking() {
    PERIOD.store(0, Ordering::SeqCst);
    pass(2 * BACKGROUND_MICROSECONDS);
    mask(true);
}

/// Runs `work`, whose stores the board watches, with the periodic tick stopped. QEMU 7.2 carries
/// out a store that stops the machine a second time if an interrupt is pending at that moment, on
/// whichever level it is taken. Oche's own timer stops with the guest's.
pub(super) fn without_ticks(work: impl FnOnce()) {
    if cpu::index() != 0 || PERIOD.load(Ordering::SeqCst) == 0 {
        return work();
    }
    mask(true);
    set_virtual_control(0);
    // There is no IPI; where this traps, Oche sees that the timer is quiet.
    _ = acknowledge();
    work();
    set_virtual_control(1);
    mask(false);
}

/// What a CPU without work does: FIQs wake it.
pub(super) fn idle() -> ! {
    loop {
        wait_for_interrupt();
        mask(false);
        mask(true);
    }
}

/// `WFI`.
pub(super) fn wait_for_interrupt() {
    // SAFETY: waits; a timer or an IPI wakes.
    unsafe { asm!("wfi", options(nostack)) };
}
