//! Virtual FIQ injection on this CPU: writes what [`crate::fiq`] decides to the registers.
//!
//! Without `oche.fiq=virtual` only [`configure`] is called. Each CPU has its own state, whose lock
//! is never contended, since FIQs are masked at EL2.
#![expect(unsafe_code, reason = "the frame that the vectors stored")]

use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTHP_CTL_EL2, HCR_EL2, Readable, Writeable};
use oche_trace::statistics::Exit;
use oche_types::MAX_CPUS;

use super::{apple, gic};
use crate::apple::is_apple;
use crate::fiq::{self, POLL_MICROSECONDS, PendingFiqs, Poll, Route, Timers, VirtualFiq};
use crate::frame::TrapFrame;
use crate::lock::{Once, SpinLock};
use crate::registers::{CnthpTvalEl2, CntpCtlEl02, CntvCtlEl02, HCR_VF, synchronize_context};
use crate::syndrome::RegisterAccess;
use crate::{panic, percpu};

/// `SPSR_EL2.M`, without the bit for EL1h.
const SPSR_MODE: u64 = 0xe;
const SPSR_EL0: u64 = 0;

static IS_VIRTUAL: AtomicBool = AtomicBool::new(false);
static VIRTUAL_FIQS: [SpinLock<VirtualFiq>; MAX_CPUS] =
    [const { SpinLock::new(VirtualFiq::new()) }; MAX_CPUS];

/// Sets the route. It takes effect on each CPU when the CPU is next configured.
pub fn set_route(route: Route) {
    IS_VIRTUAL.store(route == Route::Virtual, Ordering::Relaxed);
}

/// Whether FIQs are routed to EL2.
pub(crate) fn is_virtual() -> bool {
    IS_VIRTUAL.load(Ordering::Relaxed)
}

/// The FIQ sources of this CPU, besides the guest's timers.
#[derive(Clone, Copy)]
enum Wires {
    Apple,
    Gic,
    /// A GIC without system registers, on which guests do not use FIQs.
    None,
}

fn wires() -> Wires {
    match (is_apple(), gic::has_registers()) {
        (true, _) => Wires::Apple,
        (_, true) => Wires::Gic,
        _ => Wires::None,
    }
}

/// Configures the route on this CPU, with nothing pending. `HCR_EL2`, `HACR_EL2` and EL2's timer
/// must have their reset values.
pub(crate) fn configure() {
    let virtual_fiq = VirtualFiq::new();
    match wires() {
        Wires::Apple if is_virtual() => apple::trap(&virtual_fiq.pending),
        Wires::Gic => gic::route(is_virtual()),
        Wires::Apple | Wires::None => {}
    }
    open(Timers::BOTH);
    *own().lock() = virtual_fiq;
}

/// This CPU's state.
fn own() -> &'static SpinLock<VirtualFiq> {
    VIRTUAL_FIQS.get(percpu::index()).expect("invariant: a CPU's number is below the maximum")
}

/// Masks the guest's timers except `timers`.
fn open(timers: Timers) {
    match wires() {
        Wires::Apple => apple::open(timers),
        Wires::Gic if is_virtual() => gic::open(timers),
        Wires::Gic | Wires::None => {}
    }
}

/// Acknowledges FIQ sources in the hardware. Returns whether there was any.
fn take(pending: &mut PendingFiqs) -> bool {
    match wires() {
        Wires::Apple => apple::take(pending),
        Wires::Gic => gic::take(pending),
        Wires::None => false,
    }
}

/// Whether the guest's timers raise FIQs on this machine.
pub fn has_fiqs() -> bool {
    match wires() {
        Wires::Apple => true,
        Wires::Gic => gic::has_fiqs(),
        Wires::None => false,
    }
}

/// The guest's timers that assert a FIQ. A GIC's timers do not if their interrupts are IRQs, as
/// Linux configures them.
fn lines() -> Timers {
    if !has_fiqs() {
        return Timers::default();
    }
    Timers {
        virtual_timer: fiq::is_asserted(CntvCtlEl02.read()),
        physical_timer: fiq::is_asserted(CntpCtlEl02.read()),
    }
}

/// Turns EL2's own timer off if it has fired. Returns whether it had.
fn end_poll() -> bool {
    let has_fired = fiq::is_asserted(CNTHP_CTL_EL2.get());
    if has_fired {
        CNTHP_CTL_EL2.set(0);
        synchronize_context();
    }
    has_fired
}

/// A FIQ that keeps code at EL1 from going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndlessFiq {
    /// It was taken to EL2, though `HCR_EL2.FMO` is clear.
    AtEl2,
    /// It comes from no source that Oche knows, and does not end.
    Storm,
}

/// What the self-test does at such a FIQ.
static PROBE_END: Once<fn(EndlessFiq)> = Once::new();

/// Has `end` called at a FIQ that keeps code at EL1 from going on. It returns if that code is not
/// its own.
pub fn set_probe_end(end: fn(EndlessFiq)) {
    PROBE_END.set(end);
}

/// Ends the self-test's code at EL1, if that was interrupted. Its timers may be what interrupts.
fn end_probe(why: EndlessFiq) {
    if let Some(end) = PROBE_END.get() {
        end(why);
    }
}

/// Handles a FIQ that was taken from the guest. Called by the vectors.
///
/// # Safety
///
/// Only the vectors may call this, with the frame that they just stored.
#[unsafe(no_mangle)]
unsafe extern "C" fn oche_fiq_from_guest(frame: *mut TrapFrame) {
    if !is_virtual() {
        end_probe(EndlessFiq::AtEl2);
        // SAFETY: the frame is the vectors' own, and this does not return.
        unsafe { panic::oche_unexpected(frame, 0x500) };
    }
    let mut virtual_fiq = own().lock();
    let has_fired = end_poll();
    percpu::this().exits.count(if has_fired { Exit::FiqPoll } else { Exit::Fiq });
    let took = take(&mut virtual_fiq.pending);
    let lines = lines();
    if virtual_fiq.came(lines, took || has_fired) {
        drop(virtual_fiq);
        end_probe(EndlessFiq::Storm);
        virtual_fiq = own().lock();
        log::warn!(
            "cpu {}: FIQs come from no source that Oche knows, and do not end",
            percpu::index()
        );
    }
    go_back(&mut virtual_fiq, lines, has_fired);
}

/// Updates VF before this CPU returns to the guest from any other exit, so that it is cleared as
/// soon as possible.
#[inline]
pub(crate) fn before_return() {
    if is_virtual() {
        update();
    }
}

#[inline(never)]
fn update() {
    // During a step FIQs are not taken to EL2, and HCR_EL2 is restored at its end.
    if percpu::this().is_stepping() {
        return;
    }
    let mut virtual_fiq = own().lock();
    let has_fired = end_poll();
    take(&mut virtual_fiq.pending);
    go_back(&mut virtual_fiq, lines(), has_fired);
}

fn go_back(virtual_fiq: &mut VirtualFiq, lines: Timers, has_fired: bool) {
    let outputs = virtual_fiq.update(lines, has_fired);
    open(outputs.open);
    if let Wires::Apple = wires() {
        apple::trap(&virtual_fiq.pending);
    }
    match outputs.poll {
        Poll::Start => {
            CnthpTvalEl2.write((CNTFRQ_EL0.get() * POLL_MICROSECONDS / 1_000_000).max(1));
            CNTHP_CTL_EL2.write(CNTHP_CTL_EL2::ENABLE::SET);
        }
        Poll::Keep => {}
        Poll::Stop => CNTHP_CTL_EL2.set(0),
    }
    let hcr = HCR_EL2.get();
    let wanted = if outputs.is_pending { hcr | HCR_VF } else { hcr & !HCR_VF };
    if wanted != hcr {
        HCR_EL2.set(wanted);
    }
    // The exception return, which follows, synchronises the context.
}

/// Carries out the guest's access to a register that is trapped for virtual FIQs. Returns false for
/// any other register.
pub(crate) fn on_register(access: RegisterAccess, frame: &mut TrapFrame) -> bool {
    // EL0 may not access these registers, and the access would be made with EL2's rights.
    if !is_virtual() || frame.spsr & SPSR_MODE == SPSR_EL0 {
        return false;
    }
    let mut virtual_fiq = own().lock();
    // FIQs that arrived meanwhile must be visible to this access.
    take(&mut virtual_fiq.pending);
    let write = (!access.is_read).then(|| frame.register(access.register));
    let answer = match wires() {
        Wires::Apple => apple::access(&mut virtual_fiq.pending, access.number, write),
        Wires::Gic => gic::access(&mut virtual_fiq.pending, access.number, write),
        Wires::None => None,
    };
    let Some(value) = answer else { return false };
    if access.is_read {
        frame.set_register(access.register, value);
    }
    true
}
