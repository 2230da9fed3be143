//! Who drives the 16K IOMMU: an M1's own DART driver on simulated registers, or a model of an
//! SMMU's.
//!
//! What a driver does to the hardware is a sequence of [`Step`]s. The machine carries them out in
//! that order when the driver has returned, and lets CPUs and devices act in between: nothing that
//! a driver reads depends on them.

use crate::setup::Board;
use oche_engine::host::{DomainId, InvalidateTimedOut, Iommu};
use oche_m1::darts::DartDriver;
use oche_m1::darts::hardware::{BusError, Hardware};
use oche_m1::ownership::Takeover;
use oche_m1::power::Power;
use oche_types::addr::HostGranule;
use oche_types::dart::registers::{
    STREAM_COMMAND, STREAM_SELECT, StreamCommand, TCR, TTBR, Tcr, Ttbr,
};
use oche_types::dart::stream::{DartId, Members, STREAMS, StreamId, StreamSet};
use std::cell::RefCell;
use std::mem;
use std::rc::Rc;

/// Registers of a DART, in words.
const FILE_WORDS: usize = 0x300 / 4;
/// Reads of the command register that find it busy: after a command, and after one that does not
/// end in time.
const BUSY_READS: u32 = 2;
const HANGING_READS: u32 = 3;
/// By how much the counter goes on each time that it is read: a third read of a busy register comes
/// too late.
const TICKS: u64 = 400;

/// Something that a driver did. Streams are counted through all IOMMUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Every table store made before is visible to walks.
    CompleteStores,
    /// Every device write that has landed is visible to loads.
    OrderLoads,
    /// A stream translates through another table, or through none.
    Table(usize, Option<HostGranule>),
    /// What is cached of streams of one IOMMU is being dropped.
    Begin(DartId, StreamSet),
    /// It is gone, and accesses that used it are complete.
    End(DartId, StreamSet),
}

#[derive(Debug)]
struct File {
    words: [u32; FILE_WORDS],
    tables: [Option<HostGranule>; STREAMS],
    busy_reads: u32,
    /// The streams of the command under way, if it will end.
    command: Option<StreamSet>,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<File>,
    steps: Vec<Step>,
    ticks: u64,
    /// Commands from the next one on that do not end in time.
    hanging: u32,
}

/// The registers of all DARTs.
#[derive(Clone, Debug, Default)]
pub struct Registers(Rc<RefCell<State>>);

impl Registers {
    fn step(&self, step: Step) {
        self.0.borrow_mut().steps.push(step);
    }
}

fn number(dart: DartId, stream: usize) -> usize {
    dart.index() * STREAMS + stream
}

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: it has no device but the model's.
unsafe impl Hardware for Registers {
    fn read(&self, dart: DartId, offset: u64) -> Result<u32, BusError> {
        let state = &mut *self.0.borrow_mut();
        let file = state.files.get_mut(dart.index()).ok_or(BusError)?;
        if offset != STREAM_COMMAND {
            return file.words.get(offset as usize / 4).copied().ok_or(BusError);
        }
        let is_busy = file.busy_reads != 0;
        file.busy_reads = file.busy_reads.saturating_sub(1);
        if let (0, Some(streams)) = (file.busy_reads, file.command) {
            file.command = None;
            state.steps.push(Step::End(dart, streams));
        }
        Ok(StreamCommand::new().with_busy(is_busy).into_bits())
    }

    fn write(&mut self, dart: DartId, offset: u64, value: u32) -> Result<(), BusError> {
        let State { files, steps, hanging, .. } = &mut *self.0.borrow_mut();
        let file = files.get_mut(dart.index()).ok_or(BusError)?;
        *file.words.get_mut(offset as usize / 4).ok_or(BusError)? = value;
        let stream = match offset {
            STREAM_COMMAND => {
                let streams = StreamSet(file.words[STREAM_SELECT as usize / 4] as u16);
                steps.push(Step::Begin(dart, streams));
                let is_hanging = *hanging != 0;
                *hanging = hanging.saturating_sub(1);
                file.busy_reads = if is_hanging { HANGING_READS } else { BUSY_READS };
                file.command = (!is_hanging).then_some(streams);
                return Ok(());
            }
            TCR..TTBR => (offset - TCR) / 4,
            TTBR.. => (offset - TTBR) / 16,
            _ => return Ok(()),
        } as usize;
        let word = |offset: u64| file.words[offset as usize / 4];
        let tcr = Tcr::from_bits(word(TCR + 4 * stream as u64));
        let root = Ttbr::from_bits(word(TTBR + 16 * stream as u64));
        let table = (tcr.translate() && root.valid()).then_some(HostGranule(root.page() / 4));
        if mem::replace(&mut file.tables[stream], table) != table {
            steps.push(Step::Table(number(dart, stream), table));
        }
        Ok(())
    }

    fn complete_stores(&mut self) {
        self.step(Step::CompleteStores);
    }

    fn order_loads(&mut self) {
        self.step(Step::OrderLoads);
    }

    fn power(&self, _: DartId) -> Power {
        Power::On
    }

    fn ticks(&self) -> u64 {
        let state = &mut *self.0.borrow_mut();
        state.ticks += TICKS;
        state.ticks
    }

    fn ticks_per_millisecond(&self) -> u64 {
        1
    }
}

/// A driver, and what it did.
#[derive(Debug)]
pub struct Driver {
    registers: Registers,
    /// An M1's; `None`: the SMMU's is played.
    darts: Option<DartDriver<Registers>>,
}

impl Driver {
    /// A driver of `count` IOMMUs, every stream blocked.
    pub fn new(board: Board, count: usize) -> Self {
        let registers = Registers::default();
        let file = || File {
            words: [0; FILE_WORDS],
            tables: [None; STREAMS],
            busy_reads: 0,
            command: None,
        };
        registers.0.borrow_mut().files.extend((0..count).map(|_| file()));
        let darts = (board == Board::Dart).then(|| {
            let mut darts = DartDriver::new(registers.clone(), count, true);
            for dart in (0..count).filter_map(DartId::new) {
                assert_eq!(darts.take_over(dart), Ok(()), "nothing translates yet");
            }
            darts
        });
        registers.0.borrow_mut().steps.clear();
        Self { registers, darts }
    }

    /// Takes what the driver did; to be given back with [`Self::reuse`].
    pub fn take_steps(&mut self) -> Vec<Step> {
        mem::take(&mut self.registers.0.borrow_mut().steps)
    }

    /// Memory for the next steps.
    pub fn reuse(&mut self, mut steps: Vec<Step>) {
        steps.clear();
        self.registers.0.borrow_mut().steps = steps;
    }

    /// See [`Iommu::attach`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn attach(
        &mut self,
        dart: DartId,
        stream: StreamId,
        domain: DomainId,
        root: HostGranule,
    ) -> Result<(), InvalidateTimedOut> {
        if let Some(darts) = &mut self.darts {
            return darts.attach(dart, stream, domain, root);
        }
        self.move_stream(dart, stream, Some(root));
        Ok(())
    }

    /// See [`Iommu::block`].
    pub fn block(&mut self, dart: DartId, stream: StreamId) {
        match &mut self.darts {
            Some(darts) => darts.block(dart, stream),
            None => self.move_stream(dart, stream, None),
        }
    }

    /// See [`Iommu::is_confirmed`].
    pub fn is_confirmed(&mut self) -> bool {
        self.darts.as_mut().is_none_or(Iommu::is_confirmed)
    }

    /// See [`Iommu::invalidate`]. So many commands from its first one on do not end in time; of an
    /// SMMU all of its own.
    pub fn invalidate(
        &mut self,
        domain: DomainId,
        members: &Members,
        hanging: u32,
    ) -> Result<(), InvalidateTimedOut> {
        if let Some(darts) = &mut self.darts {
            self.registers.0.borrow_mut().hanging = hanging;
            return darts.invalidate(domain, members);
        }
        self.registers.step(Step::CompleteStores);
        members.iter().for_each(|(dart, streams)| self.registers.step(Step::Begin(dart, streams)));
        if hanging != 0 {
            return Err(InvalidateTimedOut);
        }
        members.iter().for_each(|(dart, streams)| self.registers.step(Step::End(dart, streams)));
        self.registers.step(Step::OrderLoads);
        Ok(())
    }

    fn move_stream(&mut self, dart: DartId, stream: StreamId, root: Option<HostGranule>) {
        let mut streams = StreamSet::default();
        streams.insert(stream);
        for step in [
            Step::CompleteStores,
            Step::Table(number(dart, stream.index()), root),
            Step::Begin(dart, streams),
            Step::End(dart, streams),
            Step::OrderLoads,
        ] {
            self.registers.step(step);
        }
    }
}
