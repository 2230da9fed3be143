//! What U-Boot wrote to a DART, from the trace.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use oche::trace::TraceFile;
use oche::trace::reader::TraceItem;
use oche_types::dart::registers::{PARAMS1, STREAM_COMMAND, STREAM_SELECT, TCR, TTBR};
use oche_types::dart::stream::DartId;
use oche_types::event::Event;

/// The registers of all streams: their TCRs, and their TTBRs up to here.
const TTBR_END: u64 = TTBR + 0x100;
const ALL_STREAMS: u32 = 0xffff;
const TCR_TRANSLATE: u32 = 1 << 7;
const TCR_BYPASS: u32 = 1 << 8 | 1 << 12;
const TTBR_VALID: u32 = 1 << 31;
const INVALIDATE: u32 = 1 << 20;

/// How U-Boot has a DART pass DMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By bypass, which it prefers.
    Bypass,
    /// By tables.
    Tables,
}

/// All that came before the kernel's driver, which reads `PARAMS1` first: U-Boot's never reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    /// The last value that was written to each register.
    registers: BTreeMap<u64, u32>,
    /// Streams that bypassed.
    bypassed: u32,
    /// Streams that translated.
    translated: u32,
    /// Streams that had tables.
    rooted: u32,
    /// The registers of streams were written since the last invalidation of all streams.
    is_unflushed: bool,
    has_ended: bool,
}

impl History {
    /// Reads that of the DART whose registers are at `base`.
    pub(super) fn read(trace: &TraceFile, base: u64) -> Result<Self> {
        let session = trace.sessions.first().context("the trace has no boot")?;
        let entry = session.description.darts.iter().find(|entry| entry.registers == base);
        let dart = entry.with_context(|| format!("the trace has no DART {base:#x}"))?.dart;
        let mut history = Self::default();
        for item in trace.events() {
            match item {
                TraceItem::Record(record) => {
                    record.event().iter().for_each(|event| history.take(dart, event));
                }
                TraceItem::Lost { .. } | TraceItem::Unreadable { .. } if !history.has_ended => {
                    bail!("the trace is not whole: {item:?}");
                }
                _ => {}
            }
        }
        Ok(history)
    }

    fn take(&mut self, dart: DartId, event: &Event) {
        let Event::Register { dart: own, offset, is_write, value } = *event else { return };
        let offset = u64::from(offset);
        if own != dart || self.has_ended {
            return;
        }
        if !is_write {
            self.has_ended = offset == PARAMS1;
            return;
        }
        self.registers.insert(offset, value);
        match offset {
            TCR..TTBR => {
                let stream = 1 << ((offset - TCR) / 4);
                self.is_unflushed = true;
                self.bypassed |= if value == TCR_BYPASS { stream } else { 0 };
                self.translated |= if value == TCR_TRANSLATE { stream } else { 0 };
            }
            TTBR..TTBR_END => {
                let stream = 1 << ((offset - TTBR) / 16);
                self.is_unflushed = true;
                self.rooted |= if value & TTBR_VALID != 0 { stream } else { 0 };
            }
            STREAM_COMMAND if value & INVALIDATE != 0 => {
                self.is_unflushed &= self.registers.get(&STREAM_SELECT) != Some(&ALL_STREAMS);
            }
            _ => {}
        }
    }

    /// Checks that every stream passed DMA in this way and no other, and was given up before the
    /// kernel: no translation, no tables, and an invalidation behind that.
    pub(super) fn judge(&self, way: Way) -> Result<()> {
        let passed = (self.bypassed, self.translated, self.rooted);
        let wanted = match way {
            Way::Bypass => (ALL_STREAMS, 0, 0),
            Way::Tables => (0, ALL_STREAMS, ALL_STREAMS),
        };
        if passed != wanted {
            bail!("bypassed, translated, with tables: {passed:x?}, not {wanted:x?}");
        }
        let is_on = |(offset, value): &(&u64, &u32)| **offset >= TCR && **value != 0;
        if let Some((offset, value)) = self.registers.iter().find(is_on) {
            bail!("U-Boot left {value:#x} in register {offset:#x}");
        }
        if self.is_unflushed {
            bail!("U-Boot left what the DART has cached");
        }
        if !self.has_ended {
            bail!("no kernel has looked at the DART");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use oche_types::dart::registers::{PARAMS1, STREAM_COMMAND, STREAM_SELECT, TCR, TTBR};
    use oche_types::dart::stream::DartId;
    use oche_types::event::Event;

    use super::{History, Way};

    fn history(writes: &[(u64, u32)]) -> History {
        let mut history = History::default();
        let event = |offset: u64, is_write, value| Event::Register {
            dart: DartId::FIRST,
            offset: offset as u16,
            is_write,
            value,
        };
        for (offset, value) in writes {
            history.take(DartId::FIRST, &event(*offset, true, *value));
        }
        history.take(DartId::FIRST, &event(PARAMS1, false, 0));
        history.take(DartId::FIRST, &event(TCR, true, 0x80));
        history
    }

    fn streams(first: u64, step: u64, value: u32) -> Vec<(u64, u32)> {
        (0..16).map(|stream| (first + step * stream, value)).collect()
    }

    #[test]
    fn only_a_dart_that_was_driven_and_given_up_passes() {
        let flush = [(STREAM_SELECT, 0xffff), (STREAM_COMMAND, 1 << 20)];
        let bypass = [streams(TCR, 4, 0x1100), streams(TCR, 4, 0), flush.to_vec()].concat();
        assert!(history(&bypass).judge(Way::Bypass).is_ok());
        assert!(history(&bypass).judge(Way::Tables).is_err());
        assert!(history(&bypass[1..]).judge(Way::Bypass).is_err(), "a stream never bypassed");
        let tables = [
            streams(TTBR, 16, 0x8080_0000),
            streams(TCR, 4, 0x80),
            streams(TCR, 4, 0),
            streams(TTBR, 16, 0),
            flush.to_vec(),
        ];
        let without = |part: usize| {
            let parts = tables.iter().enumerate().filter(|(number, _)| *number != part);
            history(&parts.flat_map(|(_, writes)| writes.clone()).collect::<Vec<_>>())
        };
        assert!(without(tables.len()).judge(Way::Tables).is_ok());
        for part in 0..tables.len() {
            assert!(without(part).judge(Way::Tables).is_err(), "part {part} is missing");
        }
    }
}
