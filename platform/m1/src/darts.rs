//! The driver of the real DARTs: what the engine asks of an IOMMU, on t8020 registers.
//!
//! # Power
//!
//! The guest owns the power domains and may change them at any moment, on another CPU too. So:
//! - A DART is accessed only where its domains say that it answers. A domain that gates its clock
//!   by itself does.
//! - A DART without power has forgotten its registers and its TLB. It comes back with streams that
//!   neither translate nor bypass (an assumption, `docs/m1.md`), so nothing walks a table that Oche
//!   has put to another use meanwhile. It is programmed and flushed before it translates again.
//! - A DART that does not answer and may have kept what it held has not been flushed, and that is
//!   an error.
//! - Whatever is done next to a DART of either kind programs and flushes all of it. Before the
//!   guest's accesses the registers that matter are compared, which finds a loss of power that
//!   nothing else has shown.
//!
//! All sources: `docs/hardware/dart.md`.

use alloc::vec::Vec;

use oche_engine::host::{DeviceFault, DomainId, InvalidateTimedOut, Iommu};
use oche_types::addr::{HostGranule, SlotRun};
use oche_types::dart::entry::Permission;
use oche_types::dart::registers::{
    CONFIG, ERROR, ERROR_ADDRESS_HIGH, ERROR_ADDRESS_LOW, Error, PARAMS1, PARAMS2, STREAM_COMMAND,
    STREAM_SELECT, STREAMS_ENABLE, StreamCommand, TCR, TTBR, TTBRS, Tcr, Ttbr,
};
use oche_types::dart::stream::{DartId, Members, STREAMS, StreamId, StreamSet};

use crate::entry::{self, Window};
use crate::found::Power;
use crate::ownership::{Condition, Takeover, TakeoverFailed};
use crate::registers::ttbr;

/// The bit of `CONFIG` that freezes TCRs and TTBRs until reset. Source: Linux `apple-dart.c`,
/// `DART_CONFIG_LOCK`.
const CONFIG_LOCK: u32 = 1 << 15;
/// Bits of `ERROR`'s code that say that the access was a write. Source: m1n1 `hw/dart8020.py`.
const WRITE_CODES: u16 = 1 << 3 | 1 << 10;
/// How long an invalidation may take, in milliseconds. Linux gives up after 100 us; a DART that
/// takes this long is given no time at all from then on, until it has ended a command again.
const PATIENCE_MILLISECONDS: u64 = 1000;
/// How long a power domain may be on its way to another state, in milliseconds. Linux gives up
/// after 100 us.
const POWER_MILLISECONDS: u64 = 1;
/// How often a command is made again when the DART did not answer though it has power: the power
/// may come and go.
const ATTEMPTS: u32 = 3;

/// A register did not answer: the access was not made, and a read gave no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusError;

/// Why a DART has not done what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// It did not answer.
    Bus,
    /// It did not end a command in time.
    Busy,
}

impl From<BusError> for Failure {
    fn from(_: BusError) -> Self {
        Self::Bus
    }
}

/// The machine under the driver. Offsets are into one DART's registers.
///
/// Registers are Device memory: accesses to those of one DART reach it in program order. They are
/// not ordered with accesses to Normal memory, which is where tables and buffers are; the two
/// barriers are for that.
pub trait Hardware {
    /// Reads a 32-bit register.
    ///
    /// # Errors
    ///
    /// [`BusError`], when nothing answers.
    fn read(&self, dart: DartId, offset: u64) -> Result<u32, BusError>;
    /// Writes a 32-bit register.
    ///
    /// # Errors
    ///
    /// As for [`Self::read`].
    fn write(&mut self, dart: DartId, offset: u64, value: u32) -> Result<(), BusError>;
    /// Completes every earlier store to memory before any later register access: a table walk that
    /// the access causes finds what was stored.
    fn complete_stores(&mut self);
    /// Orders every earlier register read before any later access to memory: a load finds what
    /// devices had written when the register was read.
    fn order_loads(&mut self);
    /// What its power domains say.
    fn power(&self, dart: DartId) -> Power;
    /// A counter that never stops.
    fn ticks(&self) -> u64;
    /// How often it counts in a millisecond.
    fn ticks_per_millisecond(&self) -> u64;
}

/// Invalidations that [`Darts::test_idle`] makes.
pub const ROUNDS: u64 = 8;
/// The stream that it uses: the last one, which nothing on an M1 is connected to.
const IDLE_STREAM: usize = STREAMS - 1;

/// What an idle DART answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tested {
    /// `PARAMS1`.
    pub params1: u32,
    /// `PARAMS2`.
    pub params2: u32,
    /// Bits of a TTBR that keep what is written, the valid bit apart.
    pub ttbr_bits: u32,
    /// A TCR in which only translation was turned on, as it reads back.
    pub tcr: u32,
    /// Ticks of [`ROUNDS`] invalidations, or `None` if one did not end in time.
    pub invalidations: Option<u64>,
}

/// What a DART's registers and TLB hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contents {
    /// What they must.
    Current,
    /// Nothing: it had no power.
    Nothing,
    /// Perhaps something older: a command was not confirmed.
    Older,
}

#[derive(Clone, Copy, Debug)]
struct Dart {
    /// Oche programs it, for good.
    is_taken_over: bool,
    roots: [Option<HostGranule>; STREAMS],
    /// It did not end its last command in time.
    is_stuck: bool,
    contents: Contents,
    /// Its domains were on their way to another state for too long when they were looked at last.
    is_unreachable: bool,
    /// It was once found to translate or bypass where it should have forgotten everything.
    has_remembered: bool,
    /// How often it was programmed again.
    repairs: u32,
}

impl Dart {
    const NEW: Self = Self {
        is_taken_over: false,
        roots: [None; STREAMS],
        is_stuck: false,
        contents: Contents::Older,
        is_unreachable: false,
        has_remembered: false,
        repairs: 0,
    };
}

/// All DARTs of the machine that Oche may emulate.
#[derive(Debug)]
pub struct Darts<H> {
    hardware: H,
    darts: Vec<Dart>,
    /// No DART that was taken over may use anything older than it must.
    is_confirmed: bool,
    has_windows: bool,
}

impl<H: Hardware> Darts<H> {
    /// The driver of `count` DARTs, none of which is taken over. Accesses nothing. `has_windows`:
    /// entries are limited to a part of their page where that is what the guest mapped.
    pub fn new(hardware: H, count: usize, has_windows: bool) -> Self {
        let darts = alloc::vec![Dart::NEW; count];
        Self { hardware, darts, is_confirmed: true, has_windows }
    }

    fn read_condition(&self, dart: DartId) -> Result<Condition, BusError> {
        let mut condition = Condition {
            is_locked: self.hardware.read(dart, CONFIG)? & CONFIG_LOCK != 0,
            live: StreamSet::default(),
            bypass: StreamSet::default(),
        };
        for stream in StreamSet(u16::MAX).iter() {
            let tcr = Tcr::from_bits(self.hardware.read(dart, tcr_of(stream))?);
            if tcr.bypass() {
                condition.bypass.insert(stream);
            }
            let mut has_table = false;
            for index in 0..TTBRS {
                has_table |=
                    Ttbr::from_bits(self.hardware.read(dart, ttbr_of(stream, index))?).valid();
            }
            if tcr.translate() && has_table {
                condition.live.insert(stream);
            }
        }
        Ok(condition)
    }

    /// Tries what can be tried on a DART that is on, not locked, not taken over, and translates no
    /// stream; `None` of any other. All registers are as they were.
    pub fn test_idle(&mut self, dart: DartId) -> Option<Tested> {
        let stream = StreamId::new(IDLE_STREAM)?;
        let is_free = self.darts.get(dart.index()).is_some_and(|entry| !entry.is_taken_over)
            && self.condition(dart).is_some_and(|condition| !condition.is_taken())
            && self.hardware.read(dart, tcr_of(stream)) == Ok(0);
        if is_free { self.test_stream(dart, stream).ok() } else { None }
    }

    fn test_stream(&mut self, dart: DartId, stream: StreamId) -> Result<Tested, BusError> {
        let selected = self.hardware.read(dart, STREAM_SELECT)?;
        let register = ttbr_of(stream, 0);
        let kept = self.hardware.read(dart, register)?;
        self.hardware.write(dart, register, u32::MAX >> 1)?;
        let ttbr_bits = self.hardware.read(dart, register)?;
        self.hardware.write(dart, register, kept)?;
        // No table: what would come from this stream faults.
        self.hardware.write(dart, tcr_of(stream), Tcr::new().with_translate(true).into_bits())?;
        let tcr = self.hardware.read(dart, tcr_of(stream))?;
        self.hardware.write(dart, tcr_of(stream), 0)?;
        let mut streams = StreamSet::default();
        streams.insert(stream);
        let began = self.hardware.ticks();
        let has_ended = (0..ROUNDS).all(|_| self.flush(dart, streams).is_ok());
        let took = self.hardware.ticks().wrapping_sub(began);
        self.hardware.write(dart, STREAM_SELECT, selected)?;
        Ok(Tested {
            params1: self.hardware.read(dart, PARAMS1)?,
            params2: self.hardware.read(dart, PARAMS2)?,
            ttbr_bits,
            tcr,
            invalidations: has_ended.then_some(took),
        })
    }

    /// Reads a register of a DART that the guest or firmware programs.
    ///
    /// # Errors
    ///
    /// [`BusError`], when nothing answers: the guest gets the same.
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
    /// access of the guest to its emulated registers. Does nothing to a DART that was not taken
    /// over.
    pub fn restore(&mut self, dart: DartId) {
        let Some(entry) = self.darts.get(dart.index()).filter(|entry| entry.is_taken_over) else {
            return;
        };
        let contents = entry.contents;
        match self.hardware.power(dart) {
            Power::On if contents == Contents::Current && self.holds_what_it_must(dart) => return,
            Power::On => {}
            // The registers that the guest accesses are emulated, and nothing translates meanwhile.
            Power::Off => return self.set_contents(dart, Contents::Nothing),
            Power::Unreachable => return,
        }
        if contents != Contents::Older {
            self.report_remembered(dart);
        }
        self.set_contents(dart, Contents::Older);
        if let Some(entry) = self.darts.get_mut(dart.index()) {
            entry.repairs = entry.repairs.saturating_add(1);
        }
        // If it does not work the next command programs all of it, and reports what goes wrong.
        let _ = self.run(dart, StreamSet(u16::MAX), Self::flush);
    }

    /// How often `dart` was programmed again, since it may have forgotten something.
    pub fn repairs(&self, dart: DartId) -> u32 {
        self.darts.get(dart.index()).map_or(0, |entry| entry.repairs)
    }

    /// Whether the registers of every attached stream hold what they must, and the last stream's,
    /// which is enough to see that the DART has forgotten all of them. Only the bits that Oche
    /// relies on are compared: others may read back otherwise than they were written.
    fn holds_what_it_must(&self, dart: DartId) -> bool {
        let Some(entry) = self.darts.get(dart.index()) else { return true };
        let attached =
            StreamSet(u16::MAX).iter().filter(|stream| entry.roots[stream.index()].is_some());
        let holds = |stream: StreamId| -> Result<bool, BusError> {
            let tcr = Tcr::from_bits(self.hardware.read(dart, tcr_of(stream))?);
            let is_root = match entry.roots[stream.index()] {
                Some(root) => {
                    self.hardware.read(dart, ttbr_of(stream, 0))? == ttbr(root).into_bits()
                }
                None => true,
            };
            Ok(is_root && tcr.translate() && !tcr.bypass())
        };
        attached.chain(StreamId::new(IDLE_STREAM)).all(|stream| holds(stream) == Ok(true))
    }

    /// Reports, once, a DART that has forgotten its tables and translates or bypasses all the same:
    /// until now its devices could have reached memory that is not theirs.
    fn report_remembered(&mut self, dart: DartId) {
        let Some(entry) = self.darts.get_mut(dart.index()).filter(|entry| !entry.has_remembered)
        else {
            return;
        };
        for stream in StreamSet(u16::MAX).iter() {
            let (Ok(tcr), Ok(first)) = (
                self.hardware.read(dart, tcr_of(stream)),
                self.hardware.read(dart, ttbr_of(stream, 0)),
            ) else {
                return;
            };
            let tcr = Tcr::from_bits(tcr);
            let expected = entry.roots[stream.index()].map_or(0, |root| ttbr(root).into_bits());
            let has_other_table = Ttbr::from_bits(first).valid() && first != expected;
            if tcr.bypass() || tcr.translate() && has_other_table {
                entry.has_remembered = true;
                log::error!(
                    "DART {} stream {} came back with TCR {:#x}, TTBR {first:#x}",
                    dart.index(),
                    stream.index(),
                    tcr.into_bits()
                );
                return;
            }
        }
    }

    fn set_contents(&mut self, dart: DartId, contents: Contents) {
        if let Some(entry) = self.darts.get_mut(dart.index()) {
            entry.contents = contents;
        }
        let mut driven = self.darts.iter().filter(|entry| entry.is_taken_over);
        self.is_confirmed = driven.all(|entry| entry.contents != Contents::Older);
    }

    /// Looks again at the power of each DART that may hold something older: one that has none by
    /// now holds nothing.
    fn look_for_lost_power(&mut self) {
        for dart in (0..self.darts.len()).filter_map(DartId::new) {
            let is_older = |entry: &Dart| entry.is_taken_over && entry.contents == Contents::Older;
            if self.darts.get(dart.index()).is_some_and(is_older)
                && self.hardware.power(dart) == Power::Off
            {
                self.set_contents(dart, Contents::Nothing);
            }
        }
    }

    fn is_current(&self, dart: DartId) -> bool {
        self.darts.get(dart.index()).is_some_and(|entry| entry.contents == Contents::Current)
    }

    /// What the power domains say, when they have had time to reach their state: once, until they
    /// have reached one.
    fn settled_power(&mut self, dart: DartId) -> Power {
        let Some(entry) = self.darts.get_mut(dart.index()) else { return Power::Off };
        let limit = POWER_MILLISECONDS * self.hardware.ticks_per_millisecond();
        let start = self.hardware.ticks();
        loop {
            let power = self.hardware.power(dart);
            let is_late = entry.is_unreachable || self.hardware.ticks().wrapping_sub(start) > limit;
            if power != Power::Unreachable || is_late {
                entry.is_unreachable = power == Power::Unreachable;
                return power;
            }
        }
    }

    /// Has `dart` carry out `command` for `streams`; if it does not hold what it must, it is
    /// programmed and flushed altogether.
    ///
    /// Without power there is nothing to carry out: no access uses what it held from here on, since
    /// it translates nothing until it is programmed, and that is the next thing that is done to it.
    ///
    /// # Errors
    ///
    /// [`InvalidateTimedOut`]: it may use what it held. The next thing that is done to it is the
    /// same.
    fn run(
        &mut self,
        dart: DartId,
        streams: StreamSet,
        command: fn(&mut Self, DartId, StreamSet) -> Result<(), Failure>,
    ) -> Result<(), InvalidateTimedOut> {
        for _ in 0..ATTEMPTS {
            match self.settled_power(dart) {
                Power::On => {}
                Power::Off => {
                    self.set_contents(dart, Contents::Nothing);
                    return Ok(());
                }
                Power::Unreachable => break,
            }
            let was_current = self.is_current(dart);
            self.set_contents(dart, Contents::Older);
            let done = if was_current { command(self, dart, streams) } else { self.program(dart) };
            match done {
                // Where nothing answers, what is read might look like the end of a command.
                Ok(()) if self.hardware.power(dart) == Power::On => {
                    self.set_contents(dart, Contents::Current);
                    return Ok(());
                }
                Ok(()) | Err(Failure::Bus) => {}
                Err(Failure::Busy) => break,
            }
        }
        self.set_contents(dart, Contents::Older);
        Err(InvalidateTimedOut)
    }

    /// Makes all of the hardware's streams what they must be, and waits until nothing older is
    /// used.
    ///
    /// A stream that is blocked translates without a table, so its accesses fault. A TCR of 0 is
    /// not used for that: Linux takes it for blocked, and QEMU's model does not.
    fn program(&mut self, dart: DartId) -> Result<(), Failure> {
        for stream in StreamSet(u16::MAX).iter() {
            self.program_stream(dart, stream)?;
        }
        self.hardware.write(dart, STREAMS_ENABLE, u32::from(u16::MAX))?;
        self.flush(dart, StreamSet(u16::MAX))
    }

    /// Makes `streams` what they must be, and waits until nothing older is used.
    fn program_streams(&mut self, dart: DartId, streams: StreamSet) -> Result<(), Failure> {
        for stream in streams.iter() {
            self.program_stream(dart, stream)?;
        }
        self.flush(dart, streams)
    }

    /// # Order
    ///
    /// The table's entries are stored before a register names it: from then on the hardware may
    /// walk it, whether or not anything is invalidated.
    fn program_stream(&mut self, dart: DartId, stream: StreamId) -> Result<(), BusError> {
        let root = self.darts.get(dart.index()).and_then(|entry| entry.roots[stream.index()]);
        let first = root.map_or(0, |root| ttbr(root).into_bits());
        self.hardware.complete_stores();
        for index in 0..TTBRS {
            self.hardware.write(
                dart,
                ttbr_of(stream, index),
                if index == 0 { first } else { 0 },
            )?;
        }
        self.hardware.write(dart, tcr_of(stream), Tcr::new().with_translate(true).into_bits())
    }

    /// Drops what the hardware has cached of `streams`.
    ///
    /// # Order
    ///
    /// Table stores, then the command: a walk that begins after what was cached is gone finds the
    /// new entries. The end of the command, then loads: what devices wrote by the old entries is
    /// seen.
    fn flush(&mut self, dart: DartId, streams: StreamSet) -> Result<(), Failure> {
        self.wait(dart)?;
        self.hardware.complete_stores();
        self.hardware.write(dart, STREAM_SELECT, u32::from(streams.0))?;
        let command = StreamCommand::new().with_invalidate(true);
        self.hardware.write(dart, STREAM_COMMAND, command.into_bits())?;
        self.wait(dart)?;
        self.hardware.order_loads();
        Ok(())
    }

    fn wait(&mut self, dart: DartId) -> Result<(), Failure> {
        let Some(entry) = self.darts.get_mut(dart.index()) else { return Ok(()) };
        let patience = if entry.is_stuck { 0 } else { PATIENCE_MILLISECONDS };
        let limit = patience * self.hardware.ticks_per_millisecond();
        let start = self.hardware.ticks();
        loop {
            let command = StreamCommand::from_bits(self.hardware.read(dart, STREAM_COMMAND)?);
            let is_late = self.hardware.ticks().wrapping_sub(start) > limit;
            if !command.busy() || is_late {
                if command.busy() && !entry.is_stuck {
                    log::error!(
                        "DART {} did not end its command within {PATIENCE_MILLISECONDS} ms",
                        dart.index()
                    );
                }
                entry.is_stuck = command.busy();
                return if command.busy() { Err(Failure::Busy) } else { Ok(()) };
            }
        }
    }

    fn set_ttbr(
        &mut self,
        dart: DartId,
        stream: StreamId,
        root: Option<HostGranule>,
    ) -> Result<(), InvalidateTimedOut> {
        let Some(entry) = self.darts.get_mut(dart.index()) else { return Ok(()) };
        entry.roots[stream.index()] = root;
        // The streams of a DART that was not taken over are the guest's or firmware's.
        if !entry.is_taken_over {
            return Ok(());
        }
        let mut streams = StreamSet::default();
        streams.insert(stream);
        self.run(dart, streams, Self::program_streams)
    }
}

impl<H: Hardware> Takeover for Darts<H> {
    fn condition(&self, dart: DartId) -> Option<Condition> {
        if self.hardware.power(dart) != Power::On {
            return None;
        }
        self.read_condition(dart).ok()
    }

    fn take_over(&mut self, dart: DartId) -> Result<(), TakeoverFailed> {
        self.run(dart, StreamSet(u16::MAX), Self::flush)
            .map_err(|InvalidateTimedOut| TakeoverFailed::TimedOut)?;
        let is_current = self.is_current(dart);
        let entry = self.darts.get_mut(dart.index()).filter(|_| is_current);
        entry.ok_or(TakeoverFailed::PowerLost)?.is_taken_over = true;
        Ok(())
    }
}

fn tcr_of(stream: StreamId) -> u64 {
    TCR + 4 * stream.index() as u64
}

fn ttbr_of(stream: StreamId, index: usize) -> u64 {
    TTBR + 16 * stream.index() as u64 + 4 * index as u64
}

impl<H: Hardware> Iommu for Darts<H> {
    // No source says that it does not, and every driver flushes after it maps.
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
        let attached = self.set_ttbr(dart, stream, Some(root));
        if attached.is_err() {
            // Rather nothing than what was there before.
            self.block(dart, stream);
        }
        attached
    }

    fn block(&mut self, dart: DartId, stream: StreamId) {
        if self.set_ttbr(dart, stream, None).is_err() {
            log::error!(
                "DART {} stream {}: blocking was not confirmed",
                dart.index(),
                stream.index()
            );
        }
    }

    fn invalidate(&mut self, _: DomainId, members: &Members) -> Result<(), InvalidateTimedOut> {
        let flushed = members.iter().map(|(dart, streams)| self.run(dart, streams, Self::flush));
        flushed.fold(Ok(()), Result::and)
    }

    /// A device that is suspended may never be touched again, so its DART's power is asked for
    /// here.
    fn is_confirmed(&mut self) -> bool {
        if !self.is_confirmed {
            self.look_for_lost_power();
        }
        self.is_confirmed
    }

    fn next_fault(&mut self, dart: DartId) -> Option<DeviceFault> {
        if self.hardware.power(dart) != Power::On {
            return None;
        }
        self.take_fault(dart).ok().flatten()
    }
}

impl<H: Hardware> Darts<H> {
    fn take_fault(&mut self, dart: DartId) -> Result<Option<DeviceFault>, BusError> {
        let value = self.hardware.read(dart, ERROR)?;
        let error = Error::from_bits(value);
        if !error.flag() {
            return Ok(None);
        }
        let low = self.hardware.read(dart, ERROR_ADDRESS_LOW)?;
        let high = self.hardware.read(dart, ERROR_ADDRESS_HIGH)?;
        self.hardware.write(dart, ERROR, value)?;
        let stream = StreamId::new(usize::from(error.stream()));
        Ok(stream.map(|stream| DeviceFault {
            stream,
            iova: u64::from(high) << 32 | u64::from(low),
            is_write: error.code() & WRITE_CODES != 0,
        }))
    }
}

#[cfg(test)]
mod tests;
