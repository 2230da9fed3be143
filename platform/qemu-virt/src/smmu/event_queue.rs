//! The event queue: what the SMMU refused. Source: ARM IHI 0070, 3.5, 7.2, 7.4.

use tock_registers::interfaces::{Readable, Writeable};

use super::barrier;
use super::block::Block;
use super::event::EVENT_WORDS;
use super::queue::Position;
use super::registers::{EVENTQ_PROD, GERROR, Registers};

pub(super) struct EventQueue {
    records: Block,
    consumed: Position,
    produced: Position,
    /// OVACKFLG: bit 31 of CONS, which is set to bit 31 of PROD to acknowledge an overflow.
    acknowledged: u32,
    losses: u64,
}

impl EventQueue {
    /// Creates a queue of 2^`entries_log2` records (`entries_log2` is at most 9).
    pub(super) fn new(entries_log2: u32) -> Self {
        let first = Position::first(entries_log2);
        let records = Block::new(entries_log2 + RECORD_LOG2);
        Self { records, consumed: first, produced: first, acknowledged: 0, losses: 0 }
    }

    /// Physical address of the queue.
    pub(super) fn address(&self) -> u64 {
        self.records.address()
    }

    /// Number of records that fit.
    pub(super) fn entries(&self) -> u32 {
        self.consumed.entries()
    }

    /// Removes the oldest record from the queue and returns it.
    ///
    /// # Order
    ///
    /// `None` is returned only after a read of PROD that follows the last write of CONS. A later
    /// record therefore finds the queue empty and raises the interrupt again (IHI 0070, 3.18.1).
    pub(super) fn pop(&mut self, registers: &Registers) -> Option<[u64; EVENT_WORDS]> {
        if self.produced == self.consumed {
            self.read_produced(registers);
            if self.produced == self.consumed {
                return None;
            }
        }
        let first = self.consumed.place() * EVENT_WORDS;
        let record = core::array::from_fn(|index| self.records.load(first + index));
        self.consumed = self.consumed.next();
        self.write_consumed(registers);
        Some(record)
    }

    /// Number of times that records were lost since the last call.
    pub(super) fn take_losses(&mut self, registers: &Registers) -> u64 {
        if registers.has_error(GERROR::EVENTQ_ABT_ERR) {
            registers.acknowledge(GERROR::EVENTQ_ABT_ERR);
            self.losses += 1;
        }
        core::mem::take(&mut self.losses)
    }

    fn read_produced(&mut self, registers: &Registers) {
        let value = registers.one.eventq_prod.extract();
        // The SMMU has written the records before the index.
        barrier::complete();
        self.produced = self.consumed.seen(value.read(EVENTQ_PROD::WR));
        let overflow = value.get() & OVERFLOW;
        if overflow != self.acknowledged {
            self.acknowledged = overflow;
            self.losses += 1;
            self.write_consumed(registers);
        }
    }

    fn write_consumed(&self, registers: &Registers) {
        // The record must be read before the SMMU may overwrite it.
        barrier::complete();
        registers.one.eventq_cons.set(self.consumed.value() | self.acknowledged);
    }
}

const RECORD_LOG2: u32 = (EVENT_WORDS * size_of::<u64>()).trailing_zeros();
const OVERFLOW: u32 = 1 << 31;
