//! The emulated DART: the registers of a t8020 DART with 4 KiB pages, no bypass, 16 streams and
//! four TTBRs for each stream.
//!
//! It is state only. A write changes it and returns a command, which the engine carries out.
//! Registers read back what the guest wrote, because suspend saves and restores them (Linux
//! `apple-dart.c`, `apple_dart_suspend`).

use oche_types::dart::registers::{
    CONFIG, ERROR, ERROR_ADDRESS_HIGH, ERROR_ADDRESS_LOW, Error, FaultCode, PARAMS1, PARAMS2,
    Params1, REGION_BYTES, STREAM_COMMAND, STREAM_SELECT, STREAMS_ENABLE, StreamCommand, TCR, TTBR,
    TTBRS, Tcr, Ttbr,
};
use oche_types::dart::stream::{STREAMS, StreamId, StreamSet};

/// Registers below this offset keep what is written to them.
const FILE_BYTES: u64 = 0x300;
const FILE_WORDS: usize = FILE_BYTES as usize / 4;
/// The bit of `CONFIG` that freezes TCRs and TTBRs until reset.
const CONFIG_LOCK: u32 = 1 << 15;

/// Why no DART register answers an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// The access is not 32 bits wide.
    Width,
    /// The offset is not a multiple of four bytes.
    Alignment,
    /// The offset is past the end of the registers.
    Range,
}

/// What the engine must do after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Command {
    /// Nothing.
    None,
    /// Check whether these streams may translate: a register that decides it was written.
    Recheck(StreamSet),
    /// Apply the changes in the tables of these streams.
    Invalidate(StreamSet),
}

/// One emulated DART.
#[derive(Clone, Debug)]
pub(crate) struct EmulatedDart {
    file: [u32; FILE_WORDS],
}

impl EmulatedDart {
    /// The state after reset: no stream is enabled or translates.
    pub(crate) fn new() -> Self {
        Self { file: [0; FILE_WORDS] }
    }

    /// The value that the guest reads at `offset`. `is_busy` says whether an invalidation is under
    /// way.
    pub(crate) fn read(
        &self,
        offset: u64,
        bytes: usize,
        is_busy: bool,
    ) -> Result<u32, AccessError> {
        check(offset, bytes)?;
        Ok(match offset {
            PARAMS1 => Params1::new().with_page_shift(12).into_bits(),
            PARAMS2 => 0,
            STREAM_COMMAND => {
                StreamCommand::from_bits(self.word(STREAM_COMMAND)).with_busy(is_busy).into_bits()
            }
            _ => self.word(offset),
        })
    }

    /// Stores what the guest writes at `offset`, and returns what the engine must do.
    pub(crate) fn write(
        &mut self,
        offset: u64,
        bytes: usize,
        value: u32,
    ) -> Result<Command, AccessError> {
        check(offset, bytes)?;
        let is_locked = self.word(CONFIG) & CONFIG_LOCK != 0;
        match offset {
            PARAMS1 | PARAMS2 | ERROR_ADDRESS_LOW | ERROR_ADDRESS_HIGH => {}
            // Write one to clear.
            ERROR => self.set(ERROR, self.word(ERROR) & !value),
            CONFIG => self.set(CONFIG, value | self.word(CONFIG) & CONFIG_LOCK),
            STREAM_COMMAND => {
                self.set(STREAM_COMMAND, value);
                if StreamCommand::from_bits(value).invalidate() {
                    return Ok(Command::Invalidate(StreamSet(self.word(STREAM_SELECT) as u16)));
                }
            }
            STREAMS_ENABLE => {
                self.set(STREAMS_ENABLE, value);
                return Ok(Command::Recheck(StreamSet(u16::MAX)));
            }
            TCR..TTBR if is_locked => {}
            TTBR..FILE_BYTES if is_locked => {}
            TCR..TTBR => {
                self.set(offset, value);
                if let Some(stream) = StreamId::new(((offset - TCR) / 4) as usize) {
                    let mut streams = StreamSet::default();
                    streams.insert(stream);
                    return Ok(Command::Recheck(streams));
                }
            }
            _ => self.set(offset, value),
        }
        Ok(Command::None)
    }

    /// The valid TTBRs of `stream`, or `None` if all its accesses must fault.
    pub(crate) fn roots(&self, stream: StreamId) -> Option<[Ttbr; TTBRS]> {
        let is_enabled = StreamSet(self.word(STREAMS_ENABLE) as u16).contains(stream);
        let tcr = Tcr::from_bits(self.word(TCR + 4 * stream.index() as u64));
        if !is_enabled || !tcr.translate() {
            return None;
        }
        let mut roots = [Ttbr::new(); TTBRS];
        for (index, root) in roots.iter_mut().enumerate() {
            let register =
                Ttbr::from_bits(self.word(TTBR + (16 * stream.index() + 4 * index) as u64));
            // The address in an invalid TTBR is ignored: streams that differ only there share a
            // domain.
            *root = if register.valid() { register } else { Ttbr::new() };
        }
        roots.iter().any(Ttbr::valid).then_some(roots)
    }

    /// Latches a fault in the ERROR registers. Returns false if an earlier one is still latched;
    /// that one stays.
    #[must_use]
    pub(crate) fn latch(&mut self, stream: StreamId, code: FaultCode, iova: u64) -> bool {
        if Error::from_bits(self.word(ERROR)).flag() {
            return false;
        }
        let error =
            Error::new().with_flag(true).with_stream(stream.index() as u8).with_code(code as u16);
        self.set(ERROR, error.into_bits());
        self.set(ERROR_ADDRESS_LOW, iova as u32);
        self.set(ERROR_ADDRESS_HIGH, (iova >> 32) as u32);
        true
    }

    fn word(&self, offset: u64) -> u32 {
        self.file.get(offset as usize / 4).copied().unwrap_or(0)
    }

    fn set(&mut self, offset: u64, value: u32) {
        if let Some(word) = self.file.get_mut(offset as usize / 4) {
            *word = value;
        }
    }
}

// The TCRs and TTBRs of all sixteen streams are in the file.
const _: () = assert!(TTBR + 16 * STREAMS as u64 <= FILE_BYTES && TCR + 4 * STREAMS as u64 <= TTBR);

fn check(offset: u64, bytes: usize) -> Result<(), AccessError> {
    if bytes != 4 {
        Err(AccessError::Width)
    } else if !offset.is_multiple_of(4) {
        Err(AccessError::Alignment)
    } else if offset >= REGION_BYTES {
        Err(AccessError::Range)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(writes: &[(u64, u32)]) -> EmulatedDart {
        let mut dart = EmulatedDart::new();
        for (offset, value) in writes {
            assert!(dart.write(*offset, 4, *value).is_ok());
        }
        dart
    }

    fn stream(index: usize) -> StreamId {
        StreamId::new(index).expect("a test names streams that exist")
    }

    #[test]
    fn linux_sees_4k_pages_and_no_bypass() {
        let dart = EmulatedDart::new();
        assert_eq!(dart.read(PARAMS1, 4, false), Ok(0x0c00_0000));
        assert_eq!(dart.read(PARAMS2, 4, false), Ok(0));
    }

    #[test]
    fn every_tcr_and_ttbr_reads_back_as_written() {
        let mut dart = EmulatedDart::new();
        for offset in (TCR..TTBR + 16 * STREAMS as u64).step_by(4) {
            let value = 0x8000_0000 | offset as u32;
            assert!(dart.write(offset, 4, value).is_ok());
            assert_eq!(dart.read(offset, 4, false), Ok(value));
        }
    }

    #[test]
    fn an_access_that_is_not_an_aligned_word_is_refused() {
        let mut dart = EmulatedDart::new();
        for bytes in [1, 2, 8, 16] {
            assert_eq!(dart.read(0, bytes, false), Err(AccessError::Width));
            assert_eq!(dart.write(0, bytes, 0), Err(AccessError::Width));
        }
        assert_eq!(dart.read(2, 4, false), Err(AccessError::Alignment));
        assert_eq!(dart.read(REGION_BYTES, 4, false), Err(AccessError::Range));
        assert_eq!(dart.read(REGION_BYTES - 4, 4, false), Ok(0));
    }

    #[test]
    fn a_stream_translates_only_enabled_with_translate_set_and_a_valid_ttbr() {
        let all = [(STREAMS_ENABLE, 1 << 3), (TCR + 12, 0x80), (TTBR + 48, 0x8000_1234)];
        assert!(written(&all).roots(stream(3)).is_some());
        for missing in 0..all.len() {
            let some: alloc::vec::Vec<_> = all
                .iter()
                .enumerate()
                .filter(|(index, _)| *index != missing)
                .map(|(_, write)| *write)
                .collect();
            assert_eq!(written(&some).roots(stream(3)), None, "without write {missing}");
        }
        assert_eq!(written(&all).roots(stream(2)), None);
    }

    #[test]
    fn the_first_fault_stays_until_it_is_cleared() {
        let mut dart = EmulatedDart::new();
        assert!(dart.latch(stream(5), FaultCode::NoLeaf, 0x1_2345_6789));
        assert!(!dart.latch(stream(6), FaultCode::Read, 0));
        assert_eq!(dart.read(ERROR, 4, false), Ok(0x8500_0004));
        assert_eq!(dart.read(ERROR_ADDRESS_LOW, 4, false), Ok(0x2345_6789));
        assert_eq!(dart.read(ERROR_ADDRESS_HIGH, 4, false), Ok(1));
        assert_eq!(dart.write(ERROR, 4, 0x8500_0004), Ok(Command::None));
        assert_eq!(dart.read(ERROR, 4, false), Ok(0));
        assert!(dart.latch(stream(6), FaultCode::Read, 0));
    }

    #[test]
    fn the_lock_freezes_tables_and_not_commands() {
        let mut dart = written(&[(TTBR, 0x8000_0001), (CONFIG, CONFIG_LOCK), (CONFIG, 0)]);
        assert_eq!(dart.write(TTBR, 4, 0x8000_0002), Ok(Command::None));
        assert_eq!(dart.write(TCR, 4, 0x80), Ok(Command::None));
        assert_eq!(dart.read(TTBR, 4, false), Ok(0x8000_0001));
        assert_eq!(dart.read(TCR, 4, false), Ok(0));
        assert_eq!(dart.write(STREAM_SELECT, 4, 1), Ok(Command::None));
        assert_eq!(dart.write(STREAM_COMMAND, 4, 1 << 20), Ok(Command::Invalidate(StreamSet(1))));
    }
}
