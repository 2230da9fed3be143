//! The registers of a t8020 DART with 4 KiB pages.

use super::memory::{GuestMemory, Page};
use super::walk::{code, walk};

/// Bits 27:24 hold log2 of the page size; read-only. Source: Linux `apple-dart.c`, `DART_PARAMS1`.
pub const PARAMS1: u64 = 0x00;
/// Bit 0: bypass is supported; read-only. Source: Linux, `DART_PARAMS2`.
pub const PARAMS2: u64 = 0x04;
/// Bit 20 invalidates the selected streams, bit 2 is busy. Source: Linux, `DART_STREAM_COMMAND`.
pub const STREAM_COMMAND: u64 = 0x20;
/// One bit a stream. Source: Linux, `DART_STREAM_SELECT`.
pub const STREAM_SELECT: u64 = 0x34;
/// Flag 31, stream 27:24, code 11:0; written back to clear. Source: Linux, `DART_ERROR`.
pub const ERROR: u64 = 0x40;
/// IOVA of the latched fault. Source: Linux, `DART_ERROR_ADDR_LO`.
pub const ERROR_ADDRESS_LOW: u64 = 0x50;
/// Its upper half. Source: Linux, `DART_ERROR_ADDR_HI`.
pub const ERROR_ADDRESS_HIGH: u64 = 0x54;
/// Bit 15 locks TCRs and TTBRs until reset. Source: Linux, `DART_CONFIG_LOCK`.
pub const CONFIG: u64 = 0x60;
/// One bit a stream. Source: Linux, `DART_STREAMS_ENABLE`.
pub const STREAMS_ENABLE: u64 = 0xfc;
/// Translation control, four bytes a stream. Source: Linux, `DART_TCR`.
pub const TCR: u64 = 0x100;
/// Table bases, sixteen bytes a stream. Source: Linux, `DART_TTBR`.
pub const TTBR: u64 = 0x200;

/// `TCR` bit 7. Source: Linux, `DART_TCR_TRANSLATE_ENABLE`.
pub const TCR_TRANSLATE: u32 = 1 << 7;
/// `STREAM_COMMAND` bit 20. Source: Linux, `DART_STREAM_COMMAND_INVALIDATE`.
pub const INVALIDATE: u32 = 1 << 20;
/// `STREAM_COMMAND` bit 2. Source: Linux, `DART_STREAM_COMMAND_BUSY`.
pub const BUSY: u32 = 1 << 2;
/// `CONFIG` bit 15.
pub const LOCK: u32 = 1 << 15;
/// `ERROR` bit 31. Source: Linux, `DART_ERROR_FLAG`.
pub const ERROR_FLAG: u32 = 1 << 31;

/// Streams of a t8020-type DART. Source: Linux 6.1 prints `16 streams` for it.
pub const STREAMS: usize = 16;

/// Bytes of a DART's registers. Source: Linux `t8103.dtsi`, `reg` of every `apple,t8103-dart`.
pub const REGISTERS_BYTES: u64 = 0x4000;

/// Whether an access of `bytes` bytes at `offset` can be answered: 32 bits, aligned, inside.
/// Anything else is a bus error.
pub fn is_register_access(offset: u64, bytes: usize) -> bool {
    bytes == 4 && offset.is_multiple_of(4) && offset < REGISTERS_BYTES
}

/// A DART with 4 KiB pages.
#[derive(Clone, Debug)]
pub struct Dart {
    /// Translation controls as the guest wrote them.
    pub tcr: [u32; STREAMS],
    /// Table bases as the guest wrote them.
    pub ttbr: [[u32; 4]; STREAMS],
    /// The streams that may do DMA.
    pub enabled: u32,
    select: u32,
    is_locked: bool,
    error: u32,
    error_iova: u64,
}

impl Default for Dart {
    fn default() -> Self {
        Self {
            tcr: [0; STREAMS],
            ttbr: [[0; 4]; STREAMS],
            enabled: 0,
            select: 0,
            is_locked: false,
            error: 0,
            error_iova: 0,
        }
    }
}

impl Dart {
    /// The value of a 32-bit read of the register at `offset`, or `None` if it is not documented.
    pub fn read(&self, offset: u64) -> Option<u32> {
        Some(match offset {
            PARAMS1 => 12 << 24,
            PARAMS2 | STREAM_COMMAND => 0,
            STREAM_SELECT => self.select,
            ERROR => self.error,
            ERROR_ADDRESS_LOW if self.error != 0 => self.error_iova as u32,
            ERROR_ADDRESS_HIGH if self.error != 0 => (self.error_iova >> 32) as u32,
            CONFIG => u32::from(self.is_locked) * LOCK,
            STREAMS_ENABLE => self.enabled,
            _ => {
                if let Some(stream) = stream_of_tcr(offset) {
                    self.tcr[stream]
                } else if let Some((stream, index)) = stream_of_ttbr(offset) {
                    self.ttbr[stream][index]
                } else {
                    return None;
                }
            }
        })
    }

    /// Carries out a 32-bit write of `value` to the register at `offset`.
    pub fn write(&mut self, offset: u64, value: u32) {
        match offset {
            STREAM_SELECT => self.select = value & 0xffff,
            STREAMS_ENABLE => self.enabled = value & 0xffff,
            CONFIG => self.is_locked |= value & LOCK != 0,
            // Drivers write back what they read; the flag's bit is the one that matters.
            ERROR if value & ERROR_FLAG != 0 => self.error = 0,
            _ if self.is_locked => {}
            _ => {
                if let Some(stream) = stream_of_tcr(offset) {
                    self.tcr[stream] = value;
                } else if let Some((stream, index)) = stream_of_ttbr(offset) {
                    self.ttbr[stream][index] = value;
                }
            }
        }
    }

    /// The streams that a command acts on now.
    pub fn selected(&self) -> u16 {
        self.select as u16
    }

    /// Whether TCRs and TTBRs are locked.
    pub fn is_locked(&self) -> bool {
        self.is_locked
    }

    /// Whether `stream`'s accesses go through its tables. Bypass is not supported, so its bit means
    /// nothing.
    pub fn translates(&self, stream: usize) -> bool {
        self.tcr[stream] & TCR_TRANSLATE != 0
    }

    /// The guest page that an access of `stream` reaches, or the code with which it faults.
    pub fn translate(
        &self,
        memory: &GuestMemory,
        stream: usize,
        iova: u64,
        is_write: bool,
    ) -> Result<Page, u16> {
        if !self.translates(stream) || self.enabled >> stream & 1 == 0 {
            return Err(code::NO_TTBR);
        }
        walk(memory, self.ttbr[stream], (iova >> 12) as u32, is_write)
    }

    /// Latches a fault, unless one is latched already. Returns whether this one was latched.
    pub fn latch(&mut self, stream: usize, code: u16, iova: u64) -> bool {
        if self.error & ERROR_FLAG != 0 {
            return false;
        }
        self.error = ERROR_FLAG | (stream as u32) << 24 | u32::from(code);
        self.error_iova = iova;
        true
    }
}

/// The stream whose TCR lies at `offset`.
pub fn stream_of_tcr(offset: u64) -> Option<usize> {
    let index = offset.checked_sub(TCR)? / 4;
    (offset.is_multiple_of(4) && index < STREAMS as u64).then_some(index as usize)
}

/// The stream whose TTBR lies at `offset`, and which of its four.
pub fn stream_of_ttbr(offset: u64) -> Option<(usize, usize)> {
    let index = offset.checked_sub(TTBR)? / 4;
    (offset.is_multiple_of(4) && index < 4 * STREAMS as u64)
        .then_some((index as usize / 4, index as usize % 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walk::{encode_leaf, encode_table};

    fn machine() -> (Dart, GuestMemory) {
        let mut memory = GuestMemory::new(&[(Page(0x100), 16)]);
        let mut store = |page, word, value| assert!(memory.set_word(Page(page), word, value));
        store(0x100, 3, encode_table(Page(0x101)));
        store(0x101, 5, encode_leaf(Page(0x109), true, false));
        let mut dart = Dart::default();
        dart.write(STREAMS_ENABLE, 0xffff);
        dart.write(TTBR + 16 * 2 + 4, 0x8000_0100);
        dart.write(TCR + 8, TCR_TRANSLATE);
        (dart, memory)
    }

    #[test]
    fn a_walk_finds_the_page_and_each_missing_step_has_its_code() {
        let (dart, memory) = machine();
        let iova = 1 << 30 | 3 << 21 | 5 << 12;
        assert_eq!(dart.translate(&memory, 2, iova, false), Ok(Page(0x109)));
        assert_eq!(dart.translate(&memory, 2, iova, true), Err(code::WRITE));
        assert_eq!(dart.translate(&memory, 2, iova + 0x1000, false), Err(code::NO_LEAF));
        assert_eq!(dart.translate(&memory, 2, iova + (1 << 21), false), Err(code::NO_L1));
        assert_eq!(dart.translate(&memory, 2, iova + (1 << 30), false), Err(code::NO_TTBR));
        assert_eq!(dart.translate(&memory, 3, iova, false), Err(code::NO_TTBR));
    }

    #[test]
    fn a_latched_fault_stays_until_it_is_written_back() {
        let (mut dart, _) = machine();
        assert!(dart.latch(2, code::NO_LEAF, 0x1234_5000));
        assert!(!dart.latch(3, code::WRITE, 0x1000));
        assert_eq!(dart.read(ERROR), Some(0x8200_0004));
        assert_eq!(dart.read(ERROR_ADDRESS_LOW), Some(0x1234_5000));
        dart.write(ERROR, 0x8200_0004);
        assert_eq!(dart.read(ERROR), Some(0));
    }

    #[test]
    fn only_aligned_words_inside_are_accesses() {
        assert!(is_register_access(0, 4) && is_register_access(0x3ffc, 4));
        for (offset, bytes) in [(0, 1), (0, 2), (0, 8), (2, 4), (0x4000, 4)] {
            assert!(!is_register_access(offset, bytes), "{bytes} bytes at {offset:#x}");
        }
    }

    #[test]
    fn a_locked_dart_keeps_its_tables() {
        let (mut dart, _) = machine();
        dart.write(CONFIG, LOCK);
        dart.write(TCR + 8, 0);
        assert_eq!(dart.read(TCR + 8), Some(TCR_TRANSLATE));
    }
}
