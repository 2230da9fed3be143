//! Loss of power, which the guest may cause at any moment: commands are repeated, and a DART that
//! may have forgotten something is programmed again.

use oche_engine::host::InvalidateTimedOut;
use oche_types::addr::HostGranule;
use oche_types::dart::stream::{STREAMS, StreamId, StreamSet};

use super::commands::CommandFailed;
use super::handle::{Contents, DartHandle};
use super::hardware::{BusError, Hardware};
use super::registers::{TCR, TTBR, tcr, ttbr, ttbr_value};
use crate::power::Power;

/// How long a power domain may be in transition to another state, in milliseconds. Linux gives up
/// after 100 us.
const POWER_MILLISECONDS: u64 = 1;
/// How often a command is made again when the DART did not answer though it has power: the power
/// may come and go.
const ATTEMPTS: u32 = 3;
/// The last stream. Nothing on an M1 is connected to it.
pub(super) const IDLE_STREAM: usize = STREAMS - 1;

impl<H: Hardware> DartHandle<'_, H> {
    /// Invalidates what the hardware has cached of `streams`; see [`Self::run`].
    pub(super) fn invalidate(&mut self, streams: StreamSet) -> Result<(), InvalidateTimedOut> {
        self.run(streams, Self::flush)
    }

    /// Has `stream` translate through the tables at `root`, or blocks it; see [`Self::run`]. The
    /// streams of a DART that was not taken over are the guest's or firmware's, and stay.
    pub(super) fn set_root(
        &mut self,
        stream: StreamId,
        root: Option<HostGranule>,
    ) -> Result<(), InvalidateTimedOut> {
        self.state.roots[stream.index()] = root;
        if !self.state.is_taken_over {
            return Ok(());
        }
        let mut streams = StreamSet::default();
        streams.insert(stream);
        self.run(streams, Self::program_streams)
    }

    /// Carries out `command` for `streams`. A DART that does not hold what it must is programmed
    /// and flushed as a whole instead.
    ///
    /// Without power there is nothing to carry out: no access uses what it held from here on, since
    /// it translates nothing until it is programmed, and the next command programs it.
    ///
    /// # Errors
    ///
    /// [`InvalidateTimedOut`]: it may use what it held. The next command programs it as well.
    fn run(
        &mut self,
        streams: StreamSet,
        command: fn(&mut Self, StreamSet) -> Result<(), CommandFailed>,
    ) -> Result<(), InvalidateTimedOut> {
        for _ in 0..ATTEMPTS {
            match self.settled_power() {
                Power::On => {}
                Power::Off => {
                    self.state.contents = Contents::Nothing;
                    return Ok(());
                }
                Power::Unreachable => break,
            }
            let was_current = self.state.contents == Contents::Current;
            self.state.contents = Contents::Older;
            let done = if was_current { command(self, streams) } else { self.program() };
            match done {
                // Where nothing answers, a read may look like the end of a command.
                Ok(()) if self.hardware.power(self.id) == Power::On => {
                    self.state.contents = Contents::Current;
                    return Ok(());
                }
                Ok(()) | Err(CommandFailed::Bus) => {}
                Err(CommandFailed::Busy) => break,
            }
        }
        self.state.contents = Contents::Older;
        Err(InvalidateTimedOut)
    }

    /// The state of the power domains, after they have had time to settle: once, until they have
    /// settled again.
    fn settled_power(&mut self) -> Power {
        let limit = POWER_MILLISECONDS * self.hardware.ticks_per_millisecond();
        let start = self.hardware.ticks();
        loop {
            let power = self.hardware.power(self.id);
            let is_late =
                self.state.is_unreachable || self.hardware.ticks().wrapping_sub(start) > limit;
            if power != Power::Unreachable || is_late {
                self.state.is_unreachable = power == Power::Unreachable;
                return power;
            }
        }
    }

    /// Programs the DART again if it has lost its power since the last command. Leaves a DART that
    /// was not taken over alone.
    pub(super) fn restore(&mut self) {
        if !self.state.is_taken_over {
            return;
        }
        let contents = self.state.contents;
        match self.hardware.power(self.id) {
            Power::On if contents == Contents::Current && self.holds_what_it_must() => return,
            Power::On => {}
            // The registers that the guest accesses are emulated, and nothing translates meanwhile.
            Power::Off => {
                self.state.contents = Contents::Nothing;
                return;
            }
            Power::Unreachable => return,
        }
        if contents != Contents::Older {
            self.report_remembered();
        }
        self.state.contents = Contents::Older;
        // If this fails, the next command programs all of it, and reports what goes wrong.
        let _ = self.invalidate(StreamSet(u16::MAX));
    }

    /// Whether the registers of every attached stream hold what they must, and the last stream's,
    /// which is enough to see that the DART has forgotten all of them. Only the bits that Oche
    /// relies on are compared: others may read back otherwise than they were written.
    fn holds_what_it_must(&self) -> bool {
        let attached =
            StreamSet(u16::MAX).iter().filter(|stream| self.state.root(*stream).is_some());
        let mut streams = attached.chain(StreamId::new(IDLE_STREAM));
        streams.all(|stream| self.is_programmed(stream) == Ok(true))
    }

    fn is_programmed(&self, stream: StreamId) -> Result<bool, BusError> {
        let control = tcr(stream).read(self.hardware, self.id)?;
        let has_root = match self.state.root(stream) {
            Some(root) => {
                ttbr(stream, 0).read(self.hardware, self.id)?.matches_all(ttbr_value(Some(root)))
            }
            None => true,
        };
        Ok(has_root && control.is_set(TCR::TRANSLATE) && !control.is_set(TCR::BYPASS))
    }

    /// Logs, once, a DART that has forgotten its tables and translates or bypasses all the same:
    /// until now its devices could have reached memory that is not theirs.
    fn report_remembered(&mut self) {
        if self.state.has_remembered {
            return;
        }
        for stream in StreamSet(u16::MAX).iter() {
            let (Ok(control), Ok(base)) = (
                tcr(stream).read(self.hardware, self.id),
                ttbr(stream, 0).read(self.hardware, self.id),
            ) else {
                return;
            };
            let expected = ttbr_value(self.state.root(stream));
            let has_other_table = base.is_set(TTBR::VALID) && !base.matches_all(expected);
            if control.is_set(TCR::BYPASS) || control.is_set(TCR::TRANSLATE) && has_other_table {
                self.state.has_remembered = true;
                log::error!(
                    "DART {} stream {} came back with TCR {:#x}, TTBR {:#x}",
                    self.id.index(),
                    stream.index(),
                    control.get(),
                    base.get()
                );
                return;
            }
        }
    }
}
