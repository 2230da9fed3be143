//! EL2's accesses to devices, which survive that a device does not answer.
//!
//! A bus error is reported in one of two ways, and which one is the machine's choice:
//! - synchronously: the load or store takes an external abort to EL2. The vectors find the
//!   instruction in the table of fixups and go on behind it;
//! - asynchronously: an SError becomes pending. EL2 runs with SErrors masked and routed to EL1, so
//!   without more the guest would take it, at an instruction that has nothing to do with it. Each
//!   access is therefore complete (`DSB SY`) before `ISR_EL1.A` is read, and so is what the guest
//!   did before. Where the access made an SError pending, SErrors are routed to EL2 and unmasked
//!   for two instructions, and it is taken here.
//!
//! An SError that was pending before is the guest's and stays so. It hides one that the access
//! causes, so how the access went is unknown then, and it counts as a bus error
//! ([`ReportedBy::Unknown`]). A guest that masks SErrors and leaves one pending thereby fails every
//! access that EL2 makes on that CPU, for as long as it likes; that is no more than it can do by
//! switching a device's power off, and EL2 answers it in the same way. What firmware left is taken
//! before the guest runs ([`take_pending`]). The barrier before each access also completes what EL2
//! has stored to memory, before a device is reported to use it. Source: Arm ARM DDI 0487,
//! "Synchronous and asynchronous exceptions", "Asynchronous exception routing", `ISR_EL1`,
//! `HCR_EL2.AMO`.
#![expect(unsafe_code, reason = "accesses to registers of devices")]

use core::arch::global_asm;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::registers::{DAIF, ESR_EL2, HCR_EL2, Readable};

use crate::fixup::{self, Ending, Fixup};
use crate::frame::{FRAME_BYTES, TrapFrame};
use crate::registers::IsrEl1;
use crate::{apple, percpu};

/// Bus errors that the log names, one after the other at the same address counted once; a guest can
/// cause as many as it likes.
const MAX_REPORTED: u32 = 32;
/// `PSTATE.A`.
const SPSR_A: u64 = 1 << 8;
/// The vectors of the current level with its own stack: a synchronous exception, an SError.
const SYNCHRONOUS: u64 = 0x200;
const SYSTEM_ERROR: u64 = 0x380;

static REPORTED: AtomicU32 = AtomicU32::new(0);
static LAST: AtomicU64 = AtomicU64::new(0);

/// A device did not answer. The access is over, and a read gave no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusError {
    /// The address that was read or written.
    pub address: u64,
    /// How the CPU reported it.
    pub report: ReportedBy,
    /// `L2C_ERR_STS`, `ADR` and `INF` of Apple's CPUs.
    pub details: Option<[u64; 3]>,
}

/// How a CPU reports a bus error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportedBy {
    /// By a synchronous external abort.
    Abort,
    /// By an SError.
    SystemError,
    /// Not, as far as EL2 can see: an SError of the guest was pending before. What was read, if the
    /// device answered.
    Unknown(u64),
}

impl fmt::Display for BusError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = match self.report {
            ReportedBy::Abort => "a synchronous external abort",
            ReportedBy::SystemError => "an SError",
            ReportedBy::Unknown(_) => {
                return write!(
                    out,
                    "an SError of the guest's is pending: no answer at {:#x} counts",
                    self.address
                );
            }
        };
        write!(out, "nothing answers at {:#x}: {report}", self.address)?;
        let Some([status, address, information]) = self.details else { return Ok(()) };
        write!(out, ", L2C_ERR_STS {status:#x} ADR {address:#x} INF {information:#x}")
    }
}

/// What the assembly gives: `ISR_EL1` after the access, with that before it in the upper half, or
/// [`ABORT`]; and what was loaded.
#[repr(C)]
struct Ended {
    status: u64,
    value: u64,
}

/// No value of two `ISR_EL1`, whose bits above 10 are 0.
const ABORT: u64 = u64::MAX;

unsafe extern "C" {
    fn oche_mmio_read32(address: u64, unused: u64) -> Ended;
    fn oche_mmio_read64(address: u64, unused: u64) -> Ended;
    fn oche_mmio_write32(address: u64, value: u64) -> Ended;
    fn oche_mmio_write64(address: u64, value: u64) -> Ended;
    fn oche_mmio_take_system_error();
}

/// The 32-bit register at `address`.
///
/// # Errors
///
/// [`BusError`]: nothing answers.
///
/// # Safety
///
/// `address` is aligned and mapped as Device memory, and reading it has no effect that breaks
/// Rust's rules.
pub unsafe fn read32(address: u64) -> Result<u32, BusError> {
    // SAFETY: the caller's promise; the assembly changes no memory.
    let ended = unsafe { oche_mmio_read32(address, 0) };
    result(address, &ended).map(|value| value as u32)
}

/// The 64-bit register at `address`.
///
/// # Errors
///
/// As for [`read32`].
///
/// # Safety
///
/// As for [`read32`].
pub unsafe fn read64(address: u64) -> Result<u64, BusError> {
    // SAFETY: as for `read32`.
    let ended = unsafe { oche_mmio_read64(address, 0) };
    result(address, &ended)
}

/// Writes the 32-bit register at `address`.
///
/// # Errors
///
/// As for [`read32`].
///
/// # Safety
///
/// `address` is aligned and mapped as Device memory, and what the device does then breaks no rule
/// of Rust's.
pub unsafe fn write32(address: u64, value: u32) -> Result<(), BusError> {
    // SAFETY: the caller's promise.
    let ended = unsafe { oche_mmio_write32(address, u64::from(value)) };
    result(address, &ended).map(|_| ())
}

/// Writes the 64-bit register at `address`.
///
/// # Errors
///
/// As for [`read32`].
///
/// # Safety
///
/// As for [`write32`].
pub unsafe fn write64(address: u64, value: u64) -> Result<(), BusError> {
    // SAFETY: as for `write32`.
    let ended = unsafe { oche_mmio_write64(address, value) };
    result(address, &ended).map(|_| ())
}

fn result(address: u64, ended: &Ended) -> Result<u64, BusError> {
    let ending = match ended.status {
        ABORT => None,
        status => Some(fixup::ending(status >> 32, status & 0xffff_ffff)),
    };
    let report = match ending {
        Some(Ending::Done) => return Ok(ended.value),
        // Apple's registers describe the guest's error.
        Some(Ending::Unknown) => {
            return Err(BusError {
                address,
                report: ReportedBy::Unknown(ended.value),
                details: None,
            });
        }
        Some(Ending::SystemError) => {
            take_system_error();
            ReportedBy::SystemError
        }
        None => ReportedBy::Abort,
    };
    Err(BusError { address, report, details: apple::take_bus_error() })
}

/// Routes SErrors to EL2 and unmasks them for two instructions: a pending one is taken.
fn take_system_error() {
    // SAFETY: changes no memory, and restores `HCR_EL2` and `PSTATE`; what is taken meanwhile has a
    // fixup.
    unsafe { oche_mmio_take_system_error() };
}

/// Takes an SError that is pending on this CPU before the guest runs: the firmware's. It would hide
/// EL2's own.
pub fn take_pending() {
    if !fixup::has_system_error(IsrEl1.read()) {
        return;
    }
    take_system_error();
    let details = apple::take_bus_error();
    let is_left = fixup::has_system_error(IsrEl1.read());
    let state = if is_left { "and stays so" } else { "and was taken" };
    log::warn!(
        "cpu {}: an SError of the firmware's was pending {state}: {details:x?}",
        percpu::index()
    );
}

/// Does as after a bus error that an SError reports, with none pending. Whether `HCR_EL2` and
/// `PSTATE` are then as they were.
pub fn test_system_error_window() -> bool {
    let state = || (HCR_EL2.get(), DAIF.get());
    let before = state();
    take_system_error();
    state() == before
}

/// Logs a bus error at a register of `device`, the first few of all. Not for the console's own
/// device.
pub fn report(device: &dyn fmt::Display, error: &BusError) {
    let is_new = LAST.swap(error.address, Ordering::Relaxed) != error.address;
    if is_new && REPORTED.fetch_add(1, Ordering::Relaxed) < MAX_REPORTED {
        log::warn!("{device}: {error}");
    }
}

/// Where the exception at EL2 in `frame` goes on, if it is a bus error of an access here. Neither
/// panics nor waits.
///
/// # Safety
///
/// Only the vectors call this, with the frame that they stored and will restore.
pub(crate) unsafe fn fix_up(frame: *mut TrapFrame, vector: u64) -> bool {
    // A frame at the top of the stack is not where EL2 was interrupted: an access has callers above
    // it. To return from there would leave SP on the guest's frame.
    if frame.addr() as u64 + FRAME_BYTES as u64 == percpu::stack_top(percpu::index()) {
        return false;
    }
    // SAFETY: the vectors stored it on this CPU's stack, and use it again only after we return.
    let frame = unsafe { &mut *frame };
    let is_ours = match vector {
        SYNCHRONOUS => fixup::is_external_abort(ESR_EL2.get()),
        SYSTEM_ERROR => true,
        _ => false,
    };
    let Some(resume) = fixup::resume(fixups(vector == SYSTEM_ERROR), frame.elr).filter(|_| is_ours)
    else {
        return false;
    };
    frame.elr = resume;
    if vector == SYSTEM_ERROR {
        frame.spsr |= SPSR_A;
    }
    true
}

/// The table's entries for one kind of exception.
fn fixups(is_system_error: bool) -> impl Iterator<Item = Fixup> {
    let start = (&raw const oche_mmio_fixups) as u64;
    let split = (&raw const oche_mmio_system_error_fixups) as u64;
    let end = (&raw const oche_mmio_fixups_end) as u64;
    let range = if is_system_error { split..end } else { start..split };
    // Distances from the table's start: the image runs wherever it was loaded.
    let word = move |at: u64| {
        let distance = core::ptr::with_exposed_provenance::<i32>(at as usize);
        // SAFETY: an aligned word of the table, in the image's read-only data.
        start.wrapping_add_signed(i64::from(unsafe { distance.read() }))
    };
    range.step_by(12).map(move |at| Fixup {
        start: word(at),
        end: word(at + 4),
        resume: word(at + 8),
    })
}

unsafe extern "C" {
    static oche_mmio_fixups: u8;
    static oche_mmio_system_error_fixups: u8;
    static oche_mmio_fixups_end: u8;
}

global_asm!(
    r#"
    // x0 = address, x1 = value. Gives x0 = `Ended::status`, x1 = what was loaded.
    .macro mmio_access name, instruction:vararg
    .global \name
\name:
    // What the guest's accesses made pending is the guest's.
    dsb     sy
    isb
    mrs     x2, isr_el1
.L\name\()_access:
    \instruction
.L\name\()_done:
    dsb     sy
    isb
    mrs     x3, isr_el1
    orr     x0, x3, x2, lsl #32
    ret
.L\name\()_fixup:
    mov     x0, #{abort}
    ret
    .endm

    .section .text.mmio, "ax"
    mmio_access oche_mmio_read32, ldr w1, [x0]
    mmio_access oche_mmio_read64, ldr x1, [x0]
    mmio_access oche_mmio_write32, str w1, [x0]
    mmio_access oche_mmio_write64, str x1, [x0]

    .global oche_mmio_take_system_error
oche_mmio_take_system_error:
    mrs     x3, hcr_el2
    orr     x4, x3, #{amo}
    msr     hcr_el2, x4
    isb
.L_unmasked:
    msr     daifclr, #4
    isb
    msr     daifset, #4
.L_masked:
    msr     hcr_el2, x3
    isb
    ret

    .section .rodata.mmio, "a"
    .balign 4
    .macro fixup start, end, resume
    .word   \start - oche_mmio_fixups
    .word   \end - oche_mmio_fixups
    .word   \resume - oche_mmio_fixups
    .endm
    .global oche_mmio_fixups
oche_mmio_fixups:
    fixup .Loche_mmio_read32_access, .Loche_mmio_read32_done, .Loche_mmio_read32_fixup
    fixup .Loche_mmio_read64_access, .Loche_mmio_read64_done, .Loche_mmio_read64_fixup
    fixup .Loche_mmio_write32_access, .Loche_mmio_write32_done, .Loche_mmio_write32_fixup
    fixup .Loche_mmio_write64_access, .Loche_mmio_write64_done, .Loche_mmio_write64_fixup
    .global oche_mmio_system_error_fixups
oche_mmio_system_error_fixups:
    fixup .L_unmasked, .L_masked, .L_masked
    .global oche_mmio_fixups_end
oche_mmio_fixups_end:
"#,
    abort = const ABORT as i64,
    // `HCR_EL2.AMO`.
    amo = const 1 << 5,
);
