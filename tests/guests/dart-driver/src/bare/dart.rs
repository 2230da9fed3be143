//! A DART as drivers program it, and the DMA engine that the board has behind each.

use core::arch::asm;

use oche_guest_common::mmio::RegisterBlock;
use oche_guest_common::{Check, check};

use super::interrupts;

// Registers. Source: `docs/hardware/dart.md`, "Registers".
pub(super) const PARAMS1: u64 = 0;
pub(super) const PARAMS2: u64 = 4;
pub(super) const COMMAND: u64 = 0x20;
pub(super) const SELECT: u64 = 0x34;
pub(super) const ERROR: u64 = 0x40;
pub(super) const ERROR_IOVA: u64 = 0x50;
pub(super) const ERROR_IOVA_HIGH: u64 = 0x54;
pub(super) const CONFIG: u64 = 0x60;
pub(super) const ENABLE: u64 = 0xfc;
/// Streams of a DART.
pub(super) const STREAMS: u64 = 16;
/// `TCR`: translate.
pub(super) const TRANSLATE: u32 = 0x80;
/// `COMMAND`: invalidate the selected streams; busy.
const INVALIDATE: u32 = 1 << 20;
const BUSY: u32 = 1 << 2;

/// Polls before an invalidation counts as failed.
const MAX_POLLS: u32 = 50_000_000;

/// Words of a DMA engine: the request, then its four operands, then the result.
const REQUEST: u64 = 0;
const OPERANDS: u64 = 4;
const RESULT: u64 = 20;
/// Results: done, or something else for a refused access.
const DONE: u32 = 1;

/// The `TCR` of a stream.
pub(super) const fn tcr(stream: u64) -> u64 {
    0x100 + 4 * stream
}

/// A `TTBR` of a stream.
pub(super) const fn ttbr(stream: u64, index: u64) -> u64 {
    0x200 + 16 * stream + 4 * index
}

/// A `TTBR` that is valid, of the table at `root`.
pub(super) const fn ttbr_of(root: u64) -> u32 {
    1 << 31 | (root >> 12) as u32
}

/// One DART.
#[derive(Clone, Copy)]
pub(super) struct Dart {
    pub(super) registers: RegisterBlock,
    /// The DMA engine behind it.
    engine: RegisterBlock,
}

impl Dart {
    /// The DART at `base`, with the DMA engine behind it.
    pub(super) const fn new(base: u64, engine: RegisterBlock) -> Self {
        Self { registers: RegisterBlock::new(base), engine }
    }

    pub(super) fn read(self, offset: u64) -> u32 {
        self.registers.read(offset)
    }

    pub(super) fn write(self, offset: u64, value: u32) {
        self.registers.write(offset, value);
    }

    /// As Linux resets a DART: nothing translates, every stream is enabled, errors are cleared, all
    /// is invalidated.
    pub(super) fn reset(self) -> Check {
        for stream in 0..STREAMS {
            self.write(tcr(stream), 0);
            (0..4).for_each(|index| self.write(ttbr(stream, index), 0));
        }
        self.write(ENABLE, 0xffff);
        self.clear_error();
        self.flush(0xffff)
    }

    /// Writes back what `ERROR` holds, which clears it.
    pub(super) fn clear_error(self) {
        self.write(ERROR, self.read(ERROR));
    }

    /// Lets `stream` translate by the first-level tables at `tables`.
    pub(super) fn attach(self, stream: u64, tables: &[u64]) {
        for index in 0..4 {
            let table = tables.get(index as usize).map_or(0, |table| ttbr_of(*table));
            self.write(ttbr(stream, index), table);
        }
        self.write(tcr(stream), TRANSLATE);
    }

    /// Invalidates streams and waits.
    pub(super) fn flush(self, streams: u32) -> Check {
        self.write(SELECT, streams);
        self.write(COMMAND, INVALIDATE);
        let is_done = (0..MAX_POLLS).any(|_| self.read(COMMAND) & BUSY == 0);
        check(is_done, "the DART stays busy")
    }

    /// Has the device behind `stream` copy between two IOVAs. `false`: an access was refused.
    pub(super) fn copy(
        self,
        stream: u32,
        from: u64,
        to: u64,
        bytes: u32,
    ) -> Result<bool, &'static str> {
        self.request(1, [stream, from as u32, to as u32, bytes])
    }

    /// Makes the DART lose power and get it back.
    pub(super) fn power_cycle(self) -> Check {
        self.request(2, [0; 4]).map(|_| ())
    }

    /// Has the device behind `stream` read at `iova` while the DART carries out the next
    /// invalidation.
    pub(super) fn read_in_next_flush(self, stream: u32, iova: u64) -> Check {
        self.request(3, [stream, iova as u32, 0, 0]).map(|_| ())
    }

    /// Makes the DART stay busy with its next command for ever.
    pub(super) fn hang_commands(self) -> Check {
        self.request(4, [0; 4]).map(|_| ())
    }

    fn request(self, request: u32, operands: [u32; 4]) -> Result<bool, &'static str> {
        self.engine.write(RESULT, 0);
        for (index, operand) in operands.into_iter().enumerate() {
            self.engine.write(OPERANDS + 4 * index as u64, operand);
        }
        // Tables and memory are visible to the engine before the request.
        // SAFETY: a barrier.
        unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
        interrupts::without_ticks(|| self.engine.write(REQUEST, request));
        let mut results = (0..MAX_POLLS).map(|_| self.engine.read(RESULT));
        match results.find(|result| *result != 0) {
            Some(result) => Ok(result == DONE),
            None => Err("the DMA engine does not answer"),
        }
    }
}
