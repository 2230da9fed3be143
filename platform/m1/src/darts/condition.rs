//! The condition in which a DART is found, and the words that show it.

use core::fmt;

use oche_types::dart::registers::TTBRS;
use oche_types::dart::stream::{DartId, STREAMS, StreamSet};
use tock_registers::LocalRegisterCopy;

use super::hardware::{BusError, Hardware};
use super::registers::{CONFIG, TCR, TTBR, tcr, ttbr};
use crate::ownership::Condition;

/// The registers of a DART that decide who programs it, as they were read.
#[derive(Clone, Copy, Debug)]
pub struct RawWords {
    config: u32,
    tcr: [u32; STREAMS],
    ttbr: [[u32; TTBRS]; STREAMS],
}

impl RawWords {
    /// Reads them. Changes nothing.
    pub(super) fn read(hardware: &impl Hardware, dart: DartId) -> Result<Self, BusError> {
        let mut words = Self {
            config: CONFIG.read(hardware, dart)?.get(),
            tcr: [0; STREAMS],
            ttbr: [[0; TTBRS]; STREAMS],
        };
        let places = words.tcr.iter_mut().zip(&mut words.ttbr);
        for (stream, (control, tables)) in StreamSet(u16::MAX).iter().zip(places) {
            *control = tcr(stream).read(hardware, dart)?.get();
            for (index, table) in tables.iter_mut().enumerate() {
                *table = ttbr(stream, index).read(hardware, dart)?.get();
            }
        }
        Ok(words)
    }

    /// What they show.
    pub(super) fn condition(&self) -> Condition {
        let mut condition = Condition {
            is_locked: LocalRegisterCopy::<u32, CONFIG::Register>::new(self.config)
                .is_set(CONFIG::LOCK),
            live: StreamSet::default(),
            bypass: StreamSet::default(),
        };
        let words = self.tcr.iter().zip(&self.ttbr);
        for (stream, (control, tables)) in StreamSet(u16::MAX).iter().zip(words) {
            let control = LocalRegisterCopy::<u32, TCR::Register>::new(*control);
            if control.is_set(TCR::BYPASS) {
                condition.bypass.insert(stream);
            }
            if control.is_set(TCR::TRANSLATE) && tables.iter().copied().any(is_valid) {
                condition.live.insert(stream);
            }
        }
        condition
    }
}

fn is_valid(table: u32) -> bool {
    LocalRegisterCopy::<u32, TTBR::Register>::new(table).is_set(TTBR::VALID)
}

/// `config=`, each TCR that is not 0 with its stream, and each valid TTBR with its stream and
/// number.
impl fmt::Display for RawWords {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "config={:#x}", self.config)?;
        for (stream, control) in self.tcr.iter().enumerate().filter(|(_, control)| **control != 0) {
            write!(out, ",tcr{stream}={control:#x}")?;
        }
        for (stream, tables) in self.ttbr.iter().enumerate() {
            for (index, table) in tables.iter().enumerate().filter(|(_, table)| is_valid(**table)) {
                write!(out, ",ttbr{stream}.{index}={table:#x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::RawWords;
    use oche_types::dart::registers::TTBRS;
    use oche_types::dart::stream::{STREAMS, StreamSet};

    #[test]
    fn the_words_that_decide_are_printed_and_no_others() {
        let mut words = RawWords { config: 0x8000, tcr: [0; STREAMS], ttbr: [[0; TTBRS]; STREAMS] };
        assert_eq!(words.to_string(), "config=0x8000");
        (words.tcr[0], words.ttbr[0][1], words.ttbr[0][2]) = (0x80, 0x8080_1234, 0x1234);
        (words.tcr[15], words.ttbr[15][0]) = (0x100, 0);
        assert_eq!(words.to_string(), "config=0x8000,tcr0=0x80,tcr15=0x100,ttbr0.1=0x80801234");
        let condition = words.condition();
        assert!(condition.is_locked);
        assert_eq!((condition.live, condition.bypass), (StreamSet(1), StreamSet(1 << 15)));
    }
}
