//! Commands to a DART that has power: programming its streams, and invalidating its TLB.

use oche_types::dart::registers::TTBRS;
use oche_types::dart::stream::{StreamId, StreamSet};

use super::handle::DartHandle;
use super::hardware::{BusError, Hardware};
use super::registers::{
    STREAM_COMMAND, STREAM_SELECT, STREAMS_ENABLE, TCR, select_value, tcr, ttbr, ttbr_value,
};

/// How long an invalidation may take, in milliseconds. Linux gives up after 100 us. A DART that
/// exceeds this limit is given no time at all from then on, until it has completed a command again.
const PATIENCE_MILLISECONDS: u64 = 1000;

/// Why a DART has not carried out a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommandFailed {
    /// It did not answer.
    Bus,
    /// It did not complete a command in time.
    Busy,
}

impl From<BusError> for CommandFailed {
    fn from(_: BusError) -> Self {
        Self::Bus
    }
}

impl<H: Hardware> DartHandle<'_, H> {
    /// Programs all streams from the driver's state, and waits until nothing older is used.
    ///
    /// A stream that is blocked translates without a table, so its accesses fault. A TCR of 0 is
    /// not used for that: Linux takes it for blocked, and QEMU's model does not.
    pub(super) fn program(&mut self) -> Result<(), CommandFailed> {
        for stream in StreamSet(u16::MAX).iter() {
            self.program_stream(stream)?;
        }
        let all = STREAMS_ENABLE::STREAMS.val(u32::from(u16::MAX));
        STREAMS_ENABLE.write(self.hardware, self.id, all)?;
        self.flush(StreamSet(u16::MAX))
    }

    /// Programs `streams` from the driver's state, and waits until nothing older is used.
    pub(super) fn program_streams(&mut self, streams: StreamSet) -> Result<(), CommandFailed> {
        for stream in streams.iter() {
            self.program_stream(stream)?;
        }
        self.flush(streams)
    }

    /// # Order
    ///
    /// The table's entries are stored before a register names it: from then on the hardware may
    /// walk it, whether or not anything is invalidated.
    fn program_stream(&mut self, stream: StreamId) -> Result<(), BusError> {
        let root = self.state.root(stream);
        self.hardware.complete_stores();
        for index in 0..TTBRS {
            let value = ttbr_value(root.filter(|_| index == 0));
            ttbr(stream, index).write(self.hardware, self.id, value)?;
        }
        tcr(stream).write(self.hardware, self.id, TCR::TRANSLATE::SET)
    }

    /// Invalidates what the hardware has cached of `streams`.
    ///
    /// # Order
    ///
    /// Table stores, then the command: a walk that begins after what was cached is gone finds the
    /// new entries. The end of the command, then loads: what devices wrote by the old entries is
    /// seen.
    pub(super) fn flush(&mut self, streams: StreamSet) -> Result<(), CommandFailed> {
        self.wait()?;
        self.hardware.complete_stores();
        STREAM_SELECT.write(self.hardware, self.id, select_value(streams))?;
        STREAM_COMMAND.write(self.hardware, self.id, STREAM_COMMAND::INVALIDATE::SET)?;
        self.wait()?;
        self.hardware.order_loads();
        Ok(())
    }

    /// Waits until the DART is not busy.
    fn wait(&mut self) -> Result<(), CommandFailed> {
        let patience = if self.state.is_stuck { 0 } else { PATIENCE_MILLISECONDS };
        let limit = patience * self.hardware.ticks_per_millisecond();
        let start = self.hardware.ticks();
        loop {
            let command = STREAM_COMMAND.read(self.hardware, self.id)?;
            let is_late = self.hardware.ticks().wrapping_sub(start) > limit;
            if !command.is_set(STREAM_COMMAND::BUSY) {
                self.state.is_stuck = false;
                return Ok(());
            }
            if is_late {
                if !self.state.is_stuck {
                    log::error!(
                        "DART {} did not end its command within {PATIENCE_MILLISECONDS} ms",
                        self.id.index()
                    );
                }
                self.state.is_stuck = true;
                return Err(CommandFailed::Busy);
            }
        }
    }
}
