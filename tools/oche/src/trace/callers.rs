//! By which code: events of a flush are put down to the guest's code that had something mapped or
//! unmapped.
//!
//! The instruction that traps is nearly always the DART driver's. Where the trace has the flush's
//! callers (`callers on`) and the functions' names are known, the first caller outside of the
//! kernel's DMA layer takes its place.

use std::ops::Range;
use std::sync::Arc;

use oche_trace::record::Record;
use oche_trace::snapshot::bytes_behind;
use oche_types::event::{Event, Kind};
use rustc_hash::FxHashMap;

use super::reader::TraceItem;
use super::symbols::Symbols;

/// Prefixes of the names of functions that map on behalf of others. Source: Linux 6.1,
/// `drivers/iommu`, `kernel/dma`.
const LAYER: [&str; 18] = [
    "apple_dart",
    "dart_",
    "io_pgtable",
    "iommu",
    "__iommu",
    "_iommu",
    "iova",
    "free_iova",
    "alloc_iova",
    "fq_",
    "queue_iova",
    "dma_map",
    "dma_unmap",
    "__dma_map",
    "__dma",
    "dma_alloc",
    "dma_free",
    "scsi_dma",
];
/// An instruction's bytes: a call stands right before the place that it returns to.
const INSTRUCTION_BYTES: u64 = 4;

/// Follows the records of a trace, all CPUs', in order.
#[derive(Clone, Debug, Default)]
pub struct ByCaller {
    /// Addresses of the DMA layer's functions.
    layer: Arc<[Range<u64>]>,
    /// By CPU: return addresses as they come, and how many there will be.
    coming: FxHashMap<u8, (Vec<u64>, usize)>,
    /// By CPU: the code that the flush under way is put down to.
    caller: FxHashMap<u8, u64>,
}

impl ByCaller {
    /// With the names in `symbols`; without any, every event stays with the instruction that
    /// trapped.
    pub fn new(symbols: &Symbols) -> Self {
        let layer = symbols.ranges(|name| LAYER.iter().any(|begin| name.starts_with(begin)));
        Self { layer: layer.into(), ..Self::default() }
    }

    /// `record`, put down to who caused it.
    pub fn apply(&mut self, record: &Record) -> Record {
        let cpu = record.cpu();
        match record.kind() {
            Some(Kind::Callers) if !self.layer.is_empty() => {
                self.caller.remove(&cpu);
                if let Some(Event::Callers { first, .. }) = record.event() {
                    let wanted = 1 + bytes_behind(record).unwrap_or(0) / 8;
                    self.coming.insert(cpu, (vec![first], wanted));
                    self.settle(cpu);
                }
                return *record;
            }
            Some(Kind::Data) => {
                if let (Some((addresses, _)), Some(Event::Data { words })) =
                    (self.coming.get_mut(&cpu), record.event())
                {
                    addresses.extend(words);
                    self.settle(cpu);
                }
                return *record;
            }
            _ if self.caller.is_empty() => return *record,
            _ => {}
        }
        let Some(caller) = self.caller.get(&cpu).copied() else { return *record };
        if record.kind() == Some(Kind::FlushDone) {
            self.caller.remove(&cpu);
        }
        // What a device did, and not a CPU, has no code.
        if record.program_counter() == 0 { *record } else { record.with_program_counter(caller) }
    }

    /// Once all of a CPU's callers are there: chooses the first outside of the layer.
    fn settle(&mut self, cpu: u8) {
        let Some((addresses, wanted)) = self.coming.get(&cpu) else { return };
        if addresses.len() < *wanted {
            return;
        }
        let calls =
            addresses.iter().take(*wanted).map(|address| address.wrapping_sub(INSTRUCTION_BYTES));
        if let Some(caller) = { calls }.find(|call| !self.is_layer(*call)) {
            self.caller.insert(cpu, caller);
        }
        self.coming.remove(&cpu);
    }

    fn is_layer(&self, address: u64) -> bool {
        let after = self.layer.partition_point(|range| range.start <= address);
        after
            .checked_sub(1)
            .and_then(|index| self.layer.get(index))
            .is_some_and(|range| range.contains(&address))
    }
}

/// The items of `items`, each event put down to who caused it.
pub fn by_caller(
    items: impl Iterator<Item = TraceItem>,
    symbols: &Symbols,
) -> impl Iterator<Item = TraceItem> {
    let mut by = ByCaller::new(symbols);
    items.map(move |item| match item {
        TraceItem::Record(record) => TraceItem::Record(by.apply(&record)),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oche_trace::record::Stamp;
    use oche_types::dart::stream::{DartId, StreamSet};

    const TRAP: u64 = 0xffff_8000_0000_0104;

    fn record(cpu: u8, event: &Event) -> Record {
        Record::new(Stamp { cpu, program_counter: TRAP, ..Stamp::default() }, event)
    }

    fn symbols() -> Symbols {
        let at = |offset: u64| 0xffff_8000_0000_0000 + offset;
        let names =
            [(at(0x100), "apple_dart_tlb"), (at(0x200), "iommu_map"), (at(0x300), "nvme_queue_rq")];
        let names =
            names.into_iter().chain([(at(0x400), "dma_map_page_attrs"), (at(0x500), "blk_mq")]);
        Symbols::new(names.map(|(address, name)| (address, name.to_owned())).collect(), 0)
    }

    #[test]
    fn a_flush_is_put_down_to_the_first_caller_outside_of_the_dma_layer() {
        let mut by = ByCaller::new(&symbols());
        let at = |offset: u64| 0xffff_8000_0000_0000 + offset;
        let dart = DartId::FIRST;
        let flush = record(1, &Event::Flush { dart, streams: StreamSet(1) });
        assert_eq!(by.apply(&flush), flush, "nothing is known");
        by.apply(&record(1, &Event::Callers { dart, frames: 4, first: at(0x210) }));
        by.apply(&record(1, &Event::Data { words: [at(0x408), at(0x310)] }));
        by.apply(&record(1, &Event::Data { words: [at(0x510), 0] }));
        assert_eq!(by.apply(&flush).program_counter(), at(0x30c));
        assert_eq!(by.apply(&flush).event(), flush.event());
        let other = record(2, &Event::Flush { dart, streams: StreamSet(1) });
        assert_eq!(by.apply(&other), other, "another CPU's flush");
        let done = record(1, &Event::FlushDone { dart, pages: 1, is_busy: false });
        assert_eq!(by.apply(&done).program_counter(), at(0x30c));
        assert_eq!(by.apply(&flush), flush, "another flush");
    }

    #[test]
    fn a_chain_within_the_layer_and_unknown_names_change_nothing() {
        let flush = record(1, &Event::Flush { dart: DartId::FIRST, streams: StreamSet(1) });
        let chain = record(
            1,
            &Event::Callers { dart: DartId::FIRST, frames: 1, first: 0xffff_8000_0000_0210 },
        );
        for symbols in [symbols(), Symbols::default()] {
            let mut by = ByCaller::new(&symbols);
            by.apply(&chain);
            assert_eq!(by.apply(&flush), flush);
        }
    }
}
