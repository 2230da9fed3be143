//! The hardware below the driver, as a trait: MMIO at EL2, simulated registers in host tests.

use oche_types::dart::stream::DartId;

use crate::power::Power;

/// No device answered: the access was not made, and a read returned no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusError;

/// The machine below the driver. Offsets are into the registers of one DART.
///
/// Registers are Device memory: accesses to those of one DART reach it in program order. They are
/// not ordered with accesses to Normal memory, which holds tables and buffers; the two barriers
/// order them.
///
/// # Safety
///
/// Each method is what its text says, for the registers and the memory that it is given. The driver
/// decides by them that no device reaches a frame any more.
#[expect(unsafe_code, reason = "what devices reach rests on these operations")]
pub unsafe trait Hardware {
    /// Reads a 32-bit register: one volatile access.
    ///
    /// # Errors
    ///
    /// [`BusError`], when no device answers.
    fn read(&self, dart: DartId, offset: u64) -> Result<u32, BusError>;
    /// Writes a 32-bit register: one volatile access.
    ///
    /// # Errors
    ///
    /// As for [`Self::read`].
    fn write(&mut self, dart: DartId, offset: u64, value: u32) -> Result<(), BusError>;
    /// Completes every earlier store to memory before any later register access: a table walk that
    /// the access causes finds the stored entries.
    fn complete_stores(&mut self);
    /// Orders every earlier register read before any later access to memory: a load finds what
    /// devices had written when the register was read.
    fn order_loads(&mut self);
    /// The state of the DART's power domains.
    fn power(&self, dart: DartId) -> Power;
    /// A counter that never stops.
    fn ticks(&self) -> u64;
    /// The frequency of [`Self::ticks`], in kHz.
    fn ticks_per_millisecond(&self) -> u64;
}
