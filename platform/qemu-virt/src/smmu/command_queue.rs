//! The command queue: what Oche asks, and waiting until it is done. Source: ARM IHI 0070, 3.5, 4,
//! 7.1.

use tock_registers::interfaces::{Readable, Writeable};

use super::barrier;
use super::block::Block;
use super::command::{COMMAND_WORDS, Command};
use super::poll;
use super::queue::Position;
use super::registers::{CMDQ_CONS, GERROR, Registers};

/// Why commands are not known to be complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandFailed {
    /// They were not consumed in time.
    TimedOut,
    /// The SMMU rejected one of them; the others are complete.
    Refused,
}

pub(super) struct CommandQueue {
    entries: Block,
    produced: Position,
    consumed: Position,
}

impl CommandQueue {
    /// Creates a queue of 2^`entries_log2` commands (`entries_log2` is at most 8).
    pub(super) fn new(entries_log2: u32) -> Self {
        let first = Position::first(entries_log2);
        let bytes_log2 = entries_log2 + ENTRY_LOG2;
        Self { entries: Block::new(bytes_log2), produced: first, consumed: first }
    }

    /// Physical address of the queue.
    pub(super) fn address(&self) -> u64 {
        self.entries.address()
    }

    /// Issues `commands` and a CMD_SYNC, and waits until all are complete.
    ///
    /// # Order
    ///
    /// The SMMU sees every earlier store, including those to tables and descriptors, before it
    /// reads the first command. On return with `Ok`, the accesses that used what the commands
    /// invalidated are complete (IHI 0070, 4.7.3), and Oche sees what they wrote.
    ///
    /// # Errors
    ///
    /// [`CommandFailed`]; then nothing may be assumed of accesses under way.
    pub(super) fn run(
        &mut self,
        registers: &Registers,
        commands: impl IntoIterator<Item = Command>,
    ) -> Result<(), CommandFailed> {
        let mut result = Ok(());
        for command in commands.into_iter().chain([Command::Synchronize]) {
            if self.room() == 0 {
                result = result.and(self.wait_for_room(registers, 1));
            }
            if self.room() == 0 {
                return result;
            }
            for (index, word) in command.words().into_iter().enumerate() {
                self.entries.store(self.produced.place() * COMMAND_WORDS + index, word);
            }
            self.produced = self.produced.next();
        }
        result.and(self.wait_for_room(registers, self.capacity()))
    }

    /// Whether the SMMU has consumed all commands, whether or not there was an error.
    pub(super) fn is_idle(&mut self, registers: &Registers) -> bool {
        self.consumed = self.produced.seen(registers.zero.cmdq_cons.read(CMDQ_CONS::RD));
        self.room() == self.capacity() && !registers.has_error(GERROR::CMDQ_ERR)
    }

    /// Publishes the producer index, and waits until `room` entries are free.
    fn wait_for_room(&mut self, registers: &Registers, room: u32) -> Result<(), CommandFailed> {
        barrier::complete();
        registers.zero.cmdq_prod.set(self.produced.value());
        let mut result = Ok(());
        for _ in 0..poll::BOUND {
            self.consumed = self.produced.seen(registers.zero.cmdq_cons.read(CMDQ_CONS::RD));
            if self.room() >= room {
                barrier::complete();
                return result;
            }
            if registers.has_error(GERROR::CMDQ_ERR) {
                self.skip_refused(registers);
                result = Err(CommandFailed::Refused);
            }
            poll::pause();
        }
        Err(CommandFailed::TimedOut)
    }

    /// Puts a sync in place of the command at which the SMMU stopped, and lets it go on: what is
    /// behind it must not be lost for it. Source: IHI 0070, 7.1 and 7.5.
    fn skip_refused(&mut self, registers: &Registers) {
        for (index, word) in Command::Synchronize.words().into_iter().enumerate() {
            self.entries.store(self.consumed.place() * COMMAND_WORDS + index, word);
        }
        barrier::complete();
        registers.acknowledge(GERROR::CMDQ_ERR);
    }

    /// Number of commands that fit.
    pub(super) fn capacity(&self) -> u32 {
        self.produced.entries()
    }

    fn room(&self) -> u32 {
        self.capacity().saturating_sub(self.produced.ahead_of(self.consumed))
    }
}

const ENTRY_LOG2: u32 = (COMMAND_WORDS * size_of::<u64>()).trailing_zeros();
