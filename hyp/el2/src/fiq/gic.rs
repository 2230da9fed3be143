//! FIQ sources of a GIC, for `oche.fiq=virtual` on a CPU that is not Apple's: interrupts of group
//! 0, on a machine without EL3.
//!
//! It replaces Apple's FIQ sources in tests without an M1 (`docs/m1.md`). A timer's interrupt is
//! never acknowledged, so it behaves as on Apple's CPUs: it is asserted while the timer is. The
//! board sets the priorities: [`MASKS_TIMERS`] masks those of the guest's timers, but not those of
//! IPIs (SGIs) and of EL2's own timer. IPIs are acknowledged here, and the guest's accesses to the
//! registers of group 0 trap and are emulated, as those to Apple's `IPI_SR` are. Source: Arm IHI
//! 0069, by register name.

use aarch64_cpu::registers::{ICC_SRE_EL2, ICH_HCR_EL2, ID_AA64PFR0_EL1, Readable, Writeable};

use crate::fiq::{PendingFiqs, Timers};
use crate::registers::*;
use crate::syndrome::register_number;

/// `ICC_PMR_EL1`: masks nothing, or all but priorities below this number.
const MASKS_NOTHING: u64 = 0xff;
const MASKS_TIMERS: u64 = 0x80;
/// `ICH_HCR_EL2.TALL0`: the guest's accesses to the registers of group 0 trap. The virtual
/// interface itself stays off.
const ICH_HCR_TRAP_GROUP_0: u64 = 1 << 11;
/// Number of kinds of IPIs (SGIs), which have the first interrupt numbers.
const CALLS: u64 = 16;
/// Interrupt numbers from here on mean that there is none.
const SPECIAL: u64 = 1020;
/// The number that a register reads if there is no interrupt.
const NOTHING: u64 = 1023;

/// `ID_AA64PFR0_EL1.GIC`: the CPU interface has system registers.
pub(super) fn has_registers() -> bool {
    id_field(ID_AA64PFR0_EL1.get(), 24) != 0
}

/// Whether interrupts of group 0, which are FIQs, are enabled.
pub(super) fn has_fiqs() -> bool {
    has_registers() && IccIgrpen0El1.read() & 1 != 0
}

/// Gives the guest the CPU interface, with or without the registers of group 0.
pub(super) fn route(is_virtual: bool) {
    ICC_SRE_EL2.write(
        ICC_SRE_EL2::ENABLE::SET
            + ICC_SRE_EL2::DIB::SET
            + ICC_SRE_EL2::DFB::SET
            + ICC_SRE_EL2::SRE::SET,
    );
    synchronize_context();
    if is_virtual {
        // With FMO set, the guest accesses virtual priority mask and control registers; the
        // physical ones are EL2's.
        IccPmrEl1.write(MASKS_NOTHING);
        IccCtlrEl1.write(0);
        ICH_HCR_EL2.set(ICH_HCR_TRAP_GROUP_0);
    } else {
        if ICH_HCR_EL2.get() & ICH_HCR_TRAP_GROUP_0 != 0 {
            // The self-test tries both routes; otherwise the mask is left to firmware and the
            // guest.
            IccPmrEl1.write(MASKS_NOTHING);
        }
        // The virtual interface is off, and EL1 accesses the physical one, since IMO and FMO are
        // clear.
        ICH_HCR_EL2.set(0);
    }
}

/// Masks both timers unless both are in `timers`: priorities cannot distinguish them. A poll finds
/// one that was masked in vain.
pub(super) fn open(timers: Timers) {
    // The write is self-synchronizing. Source: Arm IHI 0069, `ICC_PMR_EL1`.
    IccPmrEl1.write(if timers == Timers::BOTH { MASKS_NOTHING } else { MASKS_TIMERS });
}

/// Acknowledges all IPIs and records them as pending. Returns whether there was any.
pub(super) fn take(pending: &mut PendingFiqs) -> bool {
    let mut took = false;
    for _ in 0..CALLS {
        if IccHppir0El1.read() >= CALLS {
            break;
        }
        let number = IccIar0El1.read();
        if number < SPECIAL {
            IccEoir0El1.write(number);
            synchronize_context();
        }
        if number >= CALLS {
            break;
        }
        pending.ipi(number as u8);
        took = true;
    }
    took
}

const IAR0: u16 = register_number(3, 0, 12, 8, 0);
const EOIR0: u16 = register_number(3, 0, 12, 8, 1);
const HPPIR0: u16 = register_number(3, 0, 12, 8, 2);
/// `ICC_AP0R0_EL1` to `ICC_AP0R3_EL1`: active priorities, always none.
const AP0R0: u16 = register_number(3, 0, 12, 8, 4);
const AP0R3: u16 = register_number(3, 0, 12, 8, 7);
const BPR0: u16 = register_number(3, 0, 12, 8, 3);
const SGI1R: u16 = register_number(3, 0, 12, 11, 5);
const ASGI1R: u16 = register_number(3, 0, 12, 11, 6);
const SGI0R: u16 = register_number(3, 0, 12, 11, 7);
const IGRPEN0: u16 = register_number(3, 0, 12, 12, 6);

/// Handles the guest's access to a trapped register. Returns the value of a read (any value for a
/// write), or `None` if the register is not handled here.
pub(super) fn access(pending: &mut PendingFiqs, number: u16, write: Option<u64>) -> Option<u64> {
    let first = pending.first_ipi();
    Some(match (number, write) {
        (IAR0, None) => {
            first.inspect(|kind| pending.drop_ipi(*kind));
            first.map_or(NOTHING, u64::from)
        }
        (HPPIR0, None) => first.map_or(NOTHING, u64::from),
        // The interrupt has already ended in the hardware.
        (EOIR0, Some(_)) | (AP0R0..=AP0R3, _) => 0,
        (BPR0, None) => IccBpr0El1.read(),
        (IGRPEN0, None) => IccIgrpen0El1.read(),
        (BPR0, Some(value)) => write_to(value, |value| IccBpr0El1.write(value)),
        (IGRPEN0, Some(value)) => write_to(value, |value| IccIgrpen0El1.write(value)),
        // With FMO set, these trap for all groups.
        (SGI0R, Some(value)) => write_to(value, |value| IccSgi0rEl1.write(value)),
        (SGI1R, Some(value)) => write_to(value, |value| IccSgi1rEl1.write(value)),
        (ASGI1R, Some(value)) => write_to(value, |value| IccAsgi1rEl1.write(value)),
        _ => return None,
    })
}

/// The exception return that follows synchronizes the context.
fn write_to(value: u64, write: impl Fn(u64)) -> u64 {
    write(value);
    0
}
