//! The driver of the hardware DARTs: what the engine asks of an IOMMU, on t8020 registers.
//!
//! # Power
//!
//! The guest owns the power domains and may change them at any moment, on another CPU too. So:
//! - A DART is accessed only while its domains show that it answers. A domain that gates its clock
//!   by itself does.
//! - A DART without power has forgotten its registers and its TLB. It comes back with streams that
//!   neither translate nor bypass (an assumption, `docs/m1.md`), so nothing walks a table that Oche
//!   has put to another use meanwhile. It is programmed and flushed before it translates again.
//! - A DART that does not answer and may have kept what it held has not been flushed, and that is
//!   an error.
//! - The next command to a DART of either kind programs and flushes all of it. Before the guest's
//!   accesses the registers that matter are compared, which finds a loss of power that nothing else
//!   has shown.
//!
//! # Files
//!
//! `registers` names the registers, which are accessed through the trait [`Hardware`]; [`entry`]
//! encodes table entries. A `DartHandle` is one DART, borrowed for an operation: `commands`
//! programs and flushes it, `recovery` repeats commands and programs it again after a loss of
//! power.
//!
//! All sources: `docs/hardware/dart.md`.

mod commands;
mod condition;
pub mod entry;
mod fault;
mod handle;
pub mod hardware;
mod idle_test;
mod recovery;
pub(crate) mod registers;

use alloc::vec::Vec;

use oche_engine::host::{DeviceFault, DomainId, InvalidateTimedOut, Iommu};
use oche_types::addr::{HostGranule, SlotRun};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, Members, StreamId, StreamSet};

use crate::ownership::{Condition, Takeover, TakeoverFailed};
use crate::power::Power;
pub use condition::RawWords;
use entry::Window;
use handle::{Contents, DartHandle, DartState};
use hardware::{BusError, Hardware};
pub use idle_test::{IdleTest, ROUNDS};

/// The driver of all DARTs that Oche may emulate.
#[derive(Debug)]
pub struct DartDriver<H> {
    hardware: H,
    darts: Vec<DartState>,
    has_windows: bool,
}

impl<H: Hardware> DartDriver<H> {
    /// The driver of `count` DARTs, none of which is taken over. Accesses nothing. `has_windows`:
    /// entries are limited to a part of their page where that is what the guest mapped.
    pub fn new(hardware: H, count: usize, has_windows: bool) -> Self {
        Self { hardware, darts: alloc::vec![DartState::NEW; count], has_windows }
    }

    fn handle(&mut self, dart: DartId) -> DartHandle<'_, H> {
        let state = self.darts.get_mut(dart.index());
        let state = state.expect("invariant: the engine uses DARTs that the driver was given");
        DartHandle { hardware: &mut self.hardware, id: dart, state }
    }

    /// Tests what can be tested on a DART that is on, not locked, not taken over, and translates no
    /// stream; `None` for any other. All registers are as they were afterwards.
    pub fn test_idle(&mut self, dart: DartId) -> Option<IdleTest> {
        if self.handle(dart).state.is_taken_over || self.condition(dart)?.is_taken() {
            return None;
        }
        self.handle(dart).test_stream()
    }

    /// The hardware below.
    pub fn hardware(&self) -> &H {
        &self.hardware
    }

    /// The registers that decide who programs `dart`, or `None` while it has no power or does not
    /// answer.
    pub fn raw_words(&self, dart: DartId) -> Option<RawWords> {
        if self.hardware.power(dart) != Power::On {
            return None;
        }
        RawWords::read(&self.hardware, dart).ok()
    }

    /// Reads a register of a DART that the guest or firmware programs.
    ///
    /// # Errors
    ///
    /// [`BusError`], when no device answers: the guest takes the same.
    pub fn read(&self, dart: DartId, offset: u64) -> Result<u32, BusError> {
        if self.hardware.power(dart) != Power::On {
            return Err(BusError);
        }
        self.hardware.read(dart, offset)
    }

    /// Writes a register of a DART that the guest or firmware programs.
    ///
    /// # Errors
    ///
    /// As for [`Self::read`].
    pub fn write(&mut self, dart: DartId, offset: u64, value: u32) -> Result<(), BusError> {
        if self.hardware.power(dart) != Power::On {
            return Err(BusError);
        }
        self.hardware.write(dart, offset, value)
    }

    /// Programs `dart` again if it has lost its power since the last command: called before each
    /// access of the guest to its emulated registers. Leaves a DART that was not taken over alone.
    pub fn restore(&mut self, dart: DartId) {
        self.handle(dart).restore();
    }

    /// Checks the power of each DART that may hold something older: one that has none by now holds
    /// nothing.
    fn look_for_lost_power(&mut self) {
        for (index, state) in self.darts.iter_mut().enumerate() {
            let Some(dart) = DartId::new(index) else { return };
            if state.may_use_older() && self.hardware.power(dart) == Power::Off {
                state.contents = Contents::Nothing;
            }
        }
    }
}

#[expect(unsafe_code, reason = "what devices reach rests on the answers")]
// SAFETY: the condition is read from the registers of a DART that has power. A DART is reported as
// taken over after every stream's tables are unset and an invalidation of all has been confirmed.
unsafe impl<H: Hardware> Takeover for DartDriver<H> {
    fn condition(&self, dart: DartId) -> Option<Condition> {
        self.raw_words(dart).map(|words| words.condition())
    }

    fn take_over(&mut self, dart: DartId) -> Result<(), TakeoverFailed> {
        let mut handle = self.handle(dart);
        handle
            .invalidate(StreamSet(u16::MAX))
            .map_err(|InvalidateTimedOut| TakeoverFailed::TimedOut)?;
        if handle.state.contents != Contents::Current {
            return Err(TakeoverFailed::PowerLost);
        }
        handle.state.is_taken_over = true;
        Ok(())
    }
}

#[expect(unsafe_code, reason = "the engine's isolation rests on this driver")]
// SAFETY: an entry names one frame, with the permission and the window asked for. Attaching,
// blocking and invalidating return after BUSY is clear again, or report that it is not; what was
// not confirmed is repeated before `is_confirmed` returns true.
unsafe impl<H: Hardware> Iommu for DartDriver<H> {
    // No source shows that it does not, and every driver flushes after it maps.
    const CACHES_INVALID_ENTRIES: bool = true;
    // Bit 8 of a leaf entry. Source: Linux `io-pgtable-dart.c`, `APPLE_DART1_PTE_PROT_NO_READ`.
    const CAN_FORBID_READS: bool = true;

    fn has_windows(&self) -> bool {
        self.has_windows
    }

    fn leaf_entry(&self, frame: HostGranule, permission: Permission, slots: SlotRun) -> u64 {
        entry::leaf(frame, permission, Window::of(slots))
    }

    fn table_entry(&self, table: HostGranule) -> u64 {
        entry::table(table)
    }

    fn attach(
        &mut self,
        dart: DartId,
        stream: StreamId,
        _: DomainId,
        root: HostGranule,
    ) -> Result<(), InvalidateTimedOut> {
        let attached = self.handle(dart).set_root(stream, Some(root));
        if attached.is_err() {
            // Rather no tables than the former ones.
            self.block(dart, stream);
        }
        attached
    }

    fn block(&mut self, dart: DartId, stream: StreamId) {
        if self.handle(dart).set_root(stream, None).is_err() {
            log::error!(
                "DART {} stream {}: blocking was not confirmed",
                dart.index(),
                stream.index()
            );
        }
    }

    fn invalidate(&mut self, _: DomainId, members: &Members) -> Result<(), InvalidateTimedOut> {
        let flushed = members.iter().map(|(dart, streams)| self.handle(dart).invalidate(streams));
        flushed.fold(Ok(()), Result::and)
    }

    /// A device that is suspended may never be used again, so its DART's power is checked here.
    fn is_confirmed(&mut self) -> bool {
        self.look_for_lost_power();
        !self.darts.iter().any(DartState::may_use_older)
    }

    fn next_fault(&mut self, dart: DartId) -> Option<DeviceFault> {
        if self.hardware.power(dart) != Power::On {
            return None;
        }
        fault::take_fault(&mut self.hardware, dart).ok().flatten()
    }
}

#[cfg(test)]
mod tests;
