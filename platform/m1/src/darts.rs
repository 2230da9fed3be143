//! The driver of the real DARTs: what the engine asks of an IOMMU, on t8020 registers.
//!
//! A DART whose power domain is off is never touched: reading it would be a bus error. It has forgotten
//! everything by then, so there is nothing to invalidate, and what it must know is written again when the guest
//! touches it next. All sources: `docs/m1.md`, "The registers of a DART".

use alloc::vec::Vec;
use core::fmt;

use oche_hyp::addr::{Frame, SlotRun};
use oche_hyp::dart::entry::Permission;
use oche_hyp::dart::registers::{
    CONFIG, ERROR, ERROR_ADDRESS_HIGH, ERROR_ADDRESS_LOW, Error, PARAMS1, PARAMS2, STREAM_COMMAND,
    STREAM_SELECT, STREAMS_ENABLE, StreamCommand, TCR, TTBR, TTBRS, Tcr, Ttbr,
};
use oche_hyp::dart::stream::{DartId, Members, STREAMS, StreamId, StreamSet};
use oche_hyp::world::{DeviceFault, InvalidateTimedOut, Iommu, SpaceId};

use crate::entry::{self, Window};
use crate::registers::ttbr;

/// The bit of `CONFIG` that freezes TCRs and TTBRs until reset. Source: Linux `apple-dart.c`, `DART_CONFIG_LOCK`.
const CONFIG_LOCK: u32 = 1 << 15;
/// Bits of `ERROR`'s code that say that the access was a write. Source: m1n1 `hw/dart8020.py`.
const WRITE_CODES: u16 = 1 << 3 | 1 << 10;
/// How long an invalidation may take, in milliseconds. Linux gives up after 100 us; whoever takes this long is given
/// no time at all from then on, until it has ended a command again.
const PATIENCE_MILLISECONDS: u64 = 1000;

/// A register did not answer: the access was not made, and a read gave no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusError;

impl From<BusError> for InvalidateTimedOut {
    /// What was not made is not known to be done.
    fn from(_: BusError) -> Self {
        Self
    }
}

/// The machine under the driver. Offsets are into one DART's registers.
///
/// Registers are Device memory: accesses to those of one DART reach it in program order. They are not ordered with
/// accesses to Normal memory, which is where tables and buffers are; the two barriers are for that.
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
    /// Completes every earlier store to memory before any later register access: a table walk that the access
    /// causes finds what was stored.
    fn complete_stores(&mut self);
    /// Orders every earlier register read before any later access to memory: a load finds what devices had written
    /// when the register was read.
    fn order_loads(&mut self);
    /// Whether the DART may be touched at all.
    fn is_powered(&self, dart: DartId) -> bool;
    /// A counter that never stops.
    fn ticks(&self) -> u64;
    /// How often it counts in a millisecond.
    fn ticks_per_millisecond(&self) -> u64;
}

/// Who speaks to a DART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It was off when Oche looked: what it is shows when the guest first touches it.
    Unknown,
    /// The guest, with its own 16K tables, until it asks for the page size.
    Direct,
    /// The guest, for good: it is locked, or translates for firmware.
    Left,
    /// Oche; the guest sees a virtual DART with 4K pages.
    Mediated,
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
    /// Ticks of [`ROUNDS`] invalidations, or `None` if one did not end in time.
    pub invalidations: Option<u64>,
}

/// How a DART was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// TCRs and TTBRs are frozen.
    pub is_locked: bool,
    /// Streams that translate.
    pub live: StreamSet,
    /// Streams that bypass translation.
    pub bypass: StreamSet,
}

impl Condition {
    /// Whether Oche must leave it as it is.
    pub fn is_taken(&self) -> bool {
        self.is_locked || !self.live.is_empty()
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = [("live", self.live), ("bypass", self.bypass)]
            .into_iter()
            .filter(|(_, streams)| !streams.is_empty())
            .peekable();
        match (self.is_locked, words.peek()) {
            (true, None) => return out.write_str("locked"),
            (true, Some(_)) => out.write_str("locked, ")?,
            (false, None) => return out.write_str("idle"),
            (false, Some(_)) => {}
        }
        while let Some((word, streams)) = words.next() {
            let comma = if words.peek().is_some() { ", " } else { "" };
            write!(out, "{word} {:#x}{comma}", streams.0)?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
struct Dart {
    mode: Mode,
    roots: [Option<Frame>; STREAMS],
    /// It did not end its last command in time.
    is_stuck: bool,
}

/// All DARTs of the machine that Oche may mediate.
#[derive(Debug)]
pub struct Darts<H> {
    hardware: H,
    darts: Vec<Dart>,
    /// The DART whose registers the guest touches now.
    touched: Option<DartId>,
    has_windows: bool,
}

impl<H: Hardware> Darts<H> {
    /// Looks at `count` DARTs, and touches those only that are on. Changes nothing. `has_windows`: entries are
    /// limited to a part of their page where that is what the guest mapped.
    pub fn new(hardware: H, count: usize, has_windows: bool) -> Self {
        let darts = (0..count)
            .map(|_| Dart { mode: Mode::Unknown, roots: [None; STREAMS], is_stuck: false })
            .collect();
        let mut all = Self { hardware, darts, touched: None, has_windows };
        for dart in (0..count).filter_map(DartId::new) {
            all.settle_mode(dart);
        }
        all
    }

    /// Who speaks to `dart`; one that was off when last asked is looked at again.
    pub fn mode(&mut self, dart: DartId) -> Mode {
        if self.darts.get(dart.index()).is_some_and(|entry| entry.mode == Mode::Unknown) {
            self.settle_mode(dart);
        }
        self.darts.get(dart.index()).map_or(Mode::Left, |entry| entry.mode)
    }

    /// What `dart` is like, or `None` while it is off or does not answer.
    pub fn condition(&self, dart: DartId) -> Option<Condition> {
        if !self.hardware.is_powered(dart) {
            return None;
        }
        self.read_condition(dart).ok()
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
                has_table |= Ttbr::from_bits(self.hardware.read(dart, ttbr_of(stream, index))?).valid();
            }
            if tcr.translate() && has_table {
                condition.live.insert(stream);
            }
        }
        Ok(condition)
    }

    /// Tries what can be tried on a DART that is on, not locked, and translates for nobody; `None` of any other. All
    /// registers are as they were.
    pub fn test_idle(&mut self, dart: DartId) -> Option<Tested> {
        let stream = StreamId::new(IDLE_STREAM)?;
        let is_free = self.mode(dart) == Mode::Direct
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
            invalidations: has_ended.then_some(took),
        })
    }

    fn settle_mode(&mut self, dart: DartId) {
        let mode = match self.condition(dart) {
            None => Mode::Unknown,
            Some(condition) if condition.is_taken() => Mode::Left,
            Some(_) => Mode::Direct,
        };
        if let Some(entry) = self.darts.get_mut(dart.index()) {
            entry.mode = mode;
        }
    }

    /// The guest has asked for the page size: from now on it sees a virtual DART. Every stream faults until the
    /// guest's own tables say otherwise. `false`: streams translate by now, or it ends no command, and the DART
    /// stays the guest's.
    #[must_use]
    pub fn take_over(&mut self, dart: DartId) -> bool {
        if self.condition(dart).is_none_or(|condition| condition.is_taken()) {
            return false;
        }
        let is_done = self.program(dart).is_ok();
        if let Some(entry) = self.darts.get_mut(dart.index()) {
            entry.mode = if is_done { Mode::Mediated } else { Mode::Left };
        }
        is_done
    }

    /// The guest's own access to a DART that is still its own.
    ///
    /// # Errors
    ///
    /// [`BusError`], when nothing answers: the guest gets the same.
    pub fn read(&self, dart: DartId, offset: u64) -> Result<u32, BusError> {
        self.hardware.read(dart, offset)
    }

    /// As [`Self::read`].
    ///
    /// # Errors
    ///
    /// As for [`Self::read`].
    pub fn write(&mut self, dart: DartId, offset: u64, value: u32) -> Result<(), BusError> {
        self.hardware.write(dart, offset, value)
    }

    /// The guest touches `dart`: so it is on, and may have been off since. What it forgot is written again.
    pub fn touch(&mut self, dart: DartId) {
        self.touched = Some(dart);
        let Some(entry) = self.darts.get(dart.index()).filter(|entry| entry.mode == Mode::Mediated) else {
            return;
        };
        let sign = StreamSet(u16::MAX).iter().find(|stream| entry.roots[stream.index()].is_some());
        let Some(stream) = sign.or(StreamId::new(0)) else { return };
        let expected = Tcr::new().with_translate(true).into_bits();
        if self.hardware.is_powered(dart) && self.hardware.read(dart, tcr_of(stream)) != Ok(expected) {
            // Nothing more can be done about a DART that does not end its invalidation: the engine will meet it again.
            let _ = self.program(dart);
        }
    }

    /// Makes all of the hardware's streams what they must be, and waits until nothing older is used.
    ///
    /// A stream that is blocked translates without a table, so its accesses fault. That a TCR of 0 blocks is Linux's
    /// belief and not QEMU's; this is nobody's doubt.
    fn program(&mut self, dart: DartId) -> Result<(), InvalidateTimedOut> {
        for stream in StreamSet(u16::MAX).iter() {
            self.program_stream(dart, stream)?;
        }
        self.hardware.write(dart, STREAMS_ENABLE, u32::from(u16::MAX))?;
        self.flush(dart, StreamSet(u16::MAX))
    }

    /// # Order
    ///
    /// The table's entries are stored before a register names it: from then on the hardware may walk it, whether or
    /// not anything is invalidated.
    fn program_stream(&mut self, dart: DartId, stream: StreamId) -> Result<(), BusError> {
        let root = self.darts.get(dart.index()).and_then(|entry| entry.roots[stream.index()]);
        let first = root.map_or(0, |root| ttbr(root).into_bits());
        self.hardware.complete_stores();
        for index in 0..TTBRS {
            self.hardware.write(dart, ttbr_of(stream, index), if index == 0 { first } else { 0 })?;
        }
        self.hardware.write(dart, tcr_of(stream), Tcr::new().with_translate(true).into_bits())
    }

    /// Drops what the hardware has cached of `streams`.
    ///
    /// # Order
    ///
    /// Table stores, then the command: a walk that begins after what was cached is gone finds the new entries.
    /// The end of the command, then loads: what devices wrote by the old entries is seen.
    fn flush(&mut self, dart: DartId, streams: StreamSet) -> Result<(), InvalidateTimedOut> {
        self.wait(dart)?;
        self.hardware.complete_stores();
        self.hardware.write(dart, STREAM_SELECT, u32::from(streams.0))?;
        let command = StreamCommand::new().with_invalidate(true);
        self.hardware.write(dart, STREAM_COMMAND, command.into_bits())?;
        self.wait(dart)?;
        self.hardware.order_loads();
        Ok(())
    }

    fn wait(&mut self, dart: DartId) -> Result<(), InvalidateTimedOut> {
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
                return if command.busy() { Err(InvalidateTimedOut) } else { Ok(()) };
            }
        }
    }

    fn point(
        &mut self,
        dart: DartId,
        stream: StreamId,
        root: Option<Frame>,
    ) -> Result<(), InvalidateTimedOut> {
        let Some(entry) = self.darts.get_mut(dart.index()) else { return Ok(()) };
        entry.roots[stream.index()] = root;
        if entry.mode != Mode::Mediated || !self.hardware.is_powered(dart) {
            return Ok(());
        }
        self.program_stream(dart, stream)?;
        let mut streams = StreamSet::default();
        streams.insert(stream);
        self.flush(dart, streams)
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

    fn leaf_entry(&self, frame: Frame, permission: Permission, slots: SlotRun) -> u64 {
        entry::leaf(frame, permission, Window::of(slots))
    }

    fn table_entry(&self, table: Frame) -> u64 {
        entry::table(table)
    }

    fn attach(&mut self, dart: DartId, stream: StreamId, _: SpaceId, root: Frame) {
        if self.point(dart, stream, Some(root)).is_err() {
            // Rather nothing than what was there before.
            self.block(dart, stream);
        }
    }

    fn block(&mut self, dart: DartId, stream: StreamId) {
        if self.point(dart, stream, None).is_err() {
            log::error!("DART {} stream {}: blocking was not confirmed", dart.index(), stream.index());
        }
    }

    fn invalidate(&mut self, _: SpaceId, members: &Members) -> Result<(), InvalidateTimedOut> {
        for (dart, streams) in members.iter() {
            if self.hardware.is_powered(dart) {
                self.flush(dart, streams)?;
            }
        }
        Ok(())
    }

    /// Of the DART alone that the guest touches now: another one may be off.
    fn next_fault(&mut self) -> Option<DeviceFault> {
        let dart = self.touched.filter(|dart| self.hardware.is_powered(*dart))?;
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
            dart,
            stream,
            iova: u64::from(high) << 32 | u64::from(low),
            is_write: error.code() & WRITE_CODES != 0,
        }))
    }
}

#[cfg(test)]
mod tests;
