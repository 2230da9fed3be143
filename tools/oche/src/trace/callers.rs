//! By which code: events of a flush are put down to the guest's code that had something mapped or
//! unmapped.
//!
//! The instruction that traps is nearly always the DART driver's. Where the trace has the flush's
//! callers and the functions' names are known, the first caller outside of the kernel's DMA layer
//! takes its place.

use std::ops::Range;
use std::sync::Arc;

use oche_trace::call_chain::callers;
use oche_trace::record::Record;
use oche_trace::snapshot::bytes_behind;
use oche_types::event::{Event, Kind};
use rustc_hash::FxHashMap;

use super::reader::TraceItem;
use super::symbols::Symbols;

/// Prefixes of the names of functions that map on behalf of others. Source: Linux 6.1,
/// `drivers/iommu`, `kernel/dma`, `mm/dmapool.c`, `drivers/virtio/virtio_ring.c`.
const LAYER: [&str; 22] = [
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
    "dma_pool",
    "scsi_dma",
    "vring_",
    "virtqueue_",
    "detach_buf_",
];
/// An instruction's bytes: a call stands right before the place that it returns to.
const INSTRUCTION_BYTES: u64 = 4;

/// By CPU, what the guest's flush under way is put down to.
///
/// A flush is over at its `flush_done`. Where that is not in the trace, since it was lost or a
/// filter left it out, the next event of another instruction ends it: what happens in polls, timers
/// and later flushes is never put down to it.
#[derive(Clone, Debug, Default)]
pub struct Flushes<T>(FxHashMap<u8, (u64, T)>);

impl<T: Clone> Flushes<T> {
    /// The flush whose callers are in `record` begins.
    pub fn begin(&mut self, record: &Record, to: T) {
        self.0.insert(record.cpu(), (record.program_counter(), to));
    }

    /// What `record` is put down to, if it is of a flush whose callers are known.
    #[inline]
    pub fn of(&mut self, record: &Record) -> Option<T> {
        if self.0.is_empty() { None } else { self.find(record) }
    }

    fn find(&mut self, record: &Record) -> Option<T> {
        let kind = record.kind();
        if kind == Some(Kind::Filter) {
            self.0.clear();
        }
        let (trapped, to) = self.0.get(&record.cpu())?;
        // What a device did, and not a CPU, has no code, and neither have bytes.
        if record.program_counter() == 0 {
            return None;
        }
        let found = (record.program_counter() == *trapped).then(|| to.clone());
        if found.is_none() || kind == Some(Kind::FlushDone) {
            self.0.remove(&record.cpu());
        }
        found
    }

    /// Records of `cpu` are missing.
    pub fn lose(&mut self, cpu: usize) {
        self.0.remove(&(cpu as u8));
    }
}

/// Return addresses that are still coming.
#[derive(Clone, Debug)]
struct Coming {
    record: Record,
    bytes: Vec<u8>,
    wanted: usize,
}

/// Follows the records of a trace, all CPUs', in order.
#[derive(Clone, Debug, Default)]
pub struct ByCaller {
    /// Addresses of the DMA layer's functions.
    layer: Arc<[Range<u64>]>,
    coming: FxHashMap<u8, Coming>,
    /// The code that each flush is put down to.
    flushes: Flushes<u64>,
    /// By CPU: the number of the next record, if none is lost.
    next: Vec<Option<u32>>,
}

impl ByCaller {
    /// With the names in `symbols`; without any, every event stays with the instruction that
    /// trapped.
    pub fn new(symbols: &Symbols) -> Self {
        let layer = symbols.ranges(|name| LAYER.iter().any(|begin| name.starts_with(begin)));
        Self { layer: layer.into(), ..Self::default() }
    }

    /// Another boot of Oche begins: what was under way in the one before is over.
    pub fn restart(&mut self) {
        *self = Self { layer: Arc::clone(&self.layer), ..Self::default() };
    }

    /// The number that was due from `cpu`, if one is known; the one after `sequence` is due next.
    #[inline]
    fn counted(&mut self, cpu: u8, sequence: u32) -> Option<u32> {
        let index = usize::from(cpu);
        if self.next.len() <= index {
            self.next.resize(index + 1, None);
        }
        self.next.get_mut(index).and_then(|next| next.replace(sequence.wrapping_add(1)))
    }

    /// `record`, put down to who caused it.
    pub fn apply(&mut self, record: &Record) -> Record {
        if self.layer.is_empty() {
            return *record;
        }
        let (cpu, sequence) = (record.cpu(), record.sequence());
        if self.counted(cpu, sequence).is_some_and(|next| next != sequence) {
            self.flushes.lose(usize::from(cpu));
            self.coming.remove(&cpu);
        }
        match record.kind() {
            Some(Kind::Callers | Kind::CallChain) => {
                self.flushes.lose(usize::from(cpu));
                let wanted = bytes_behind(record).unwrap_or(0);
                let coming = Coming { record: *record, bytes: Vec::new(), wanted };
                self.coming.insert(cpu, coming);
                self.settle(cpu);
                return *record;
            }
            Some(Kind::Data) => {
                if let (Some(coming), Some(Event::Data { words })) =
                    (self.coming.get_mut(&cpu), record.event())
                {
                    coming.bytes.extend(words.into_iter().flat_map(u64::to_le_bytes));
                    self.settle(cpu);
                }
                return *record;
            }
            _ => {}
        }
        match self.flushes.of(record) {
            Some(caller) => record.with_program_counter(caller),
            None => *record,
        }
    }

    /// Once all of a CPU's callers are there: chooses among them.
    fn settle(&mut self, cpu: u8) {
        if self.coming.get(&cpu).is_some_and(|coming| coming.bytes.len() < coming.wanted) {
            return;
        }
        let Some(Coming { record, mut bytes, wanted }) = self.coming.remove(&cpu) else { return };
        bytes.truncate(wanted);
        if let Some(caller) = self.choose(&callers(&record, &bytes).unwrap_or_default()) {
            self.flushes.begin(&record, caller);
        }
    }

    /// The call in the first of the `callers` (return addresses, innermost first) outside of the
    /// layer; where all that is known of them is the layer's, the outermost. The DART driver is
    /// innermost, and may be a module whose names are not known: what is before the layer's first
    /// function is not what called it.
    pub fn choose(&self, callers: &[u64]) -> Option<u64> {
        if self.layer.is_empty() {
            return None;
        }
        let calls = callers.iter().map(|address| address.wrapping_sub(INSTRUCTION_BYTES));
        let before = calls.clone().position(|call| self.is_layer(call)).unwrap_or(0);
        let outermost = calls.clone().next_back();
        calls.skip(before).find(|call| !self.is_layer(*call)).or(outermost)
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

    /// Records with the numbers that their CPUs give them.
    struct Numbered {
        by: ByCaller,
        sequences: [u32; 3],
    }

    impl Numbered {
        fn new(symbols: &Symbols) -> Self {
            Self { by: ByCaller::new(symbols), sequences: [7; 3] }
        }

        fn apply_from(&mut self, program_counter: u64, cpu: u8, event: &Event) -> u64 {
            let sequence = &mut self.sequences[usize::from(cpu)];
            let stamp = Stamp { cpu, program_counter, sequence: *sequence, time: 0 };
            *sequence += 1;
            let record = self.by.apply(&Record::new(stamp, event));
            assert_eq!(record.event(), Some(*event));
            record.program_counter()
        }

        fn apply(&mut self, cpu: u8, event: &Event) -> u64 {
            self.apply_from(TRAP, cpu, event)
        }

        /// A chain of an IOMMU's function, the DMA layer's and the driver's, of the old kind or
        /// the new.
        fn chain(&mut self, is_old: bool) {
            let dart = DartId::FIRST;
            if is_old {
                self.apply(1, &Event::Callers { dart, frames: 4, first: at(0x210) });
                self.apply(1, &Event::Data { words: [at(0x408), at(0x310)] });
                self.apply(1, &Event::Data { words: [at(0x510), 0] });
            } else {
                let near = |address: u64| address.wrapping_sub(TRAP) & 0xffff_ffff;
                let nearest = near(at(0x210)) | near(at(0x408)) << 32;
                self.apply(1, &Event::CallChain { dart, frames: 4, is_cut: false, nearest });
                let rest = near(at(0x310)) | near(at(0x510)) << 32;
                self.apply(1, &Event::Data { words: [rest, 0] });
            }
        }
    }

    fn at(offset: u64) -> u64 {
        0xffff_8000_0000_0000 + offset
    }

    const FLUSH: Event = Event::Flush { dart: DartId::FIRST, streams: StreamSet(1) };

    fn symbols() -> Symbols {
        let names =
            [(at(0x100), "apple_dart_tlb"), (at(0x200), "iommu_map"), (at(0x300), "nvme_queue_rq")];
        let names =
            names.into_iter().chain([(at(0x400), "dma_map_page_attrs"), (at(0x500), "blk_mq")]);
        Symbols::new(names.map(|(address, name)| (address, name.to_owned())).collect(), 0)
    }

    #[test]
    fn a_flush_is_put_down_to_the_first_caller_outside_of_the_dma_layer() {
        for is_old in [false, true] {
            let mut by = Numbered::new(&symbols());
            assert_eq!(by.apply(1, &FLUSH), TRAP, "nothing is known");
            by.chain(is_old);
            assert_eq!(by.apply(1, &FLUSH), at(0x30c));
            assert_eq!(by.apply(2, &FLUSH), TRAP, "another CPU's flush");
            let done = Event::FlushDone { dart: DartId::FIRST, pages: 1, is_busy: false };
            assert_eq!(by.apply(1, &done), at(0x30c));
            assert_eq!(by.apply(1, &FLUSH), TRAP, "another flush");
        }
    }

    #[test]
    fn a_flush_whose_end_is_missing_ends_all_the_same() {
        let map = Event::Moved { page: oche_types::addr::Gfn(1), to: oche_types::addr::Hfn(2) };
        let after = |act: fn(&mut Numbered)| {
            let mut by = Numbered::new(&symbols());
            by.chain(false);
            assert_eq!(by.apply(1, &map), at(0x30c));
            act(&mut by);
            by.apply(1, &map)
        };
        assert_eq!(after(|_| ()), at(0x30c));
        let poll = |by: &mut Numbered| {
            assert_eq!(by.apply_from(TRAP + 8, 1, &FLUSH), TRAP + 8, "a poll");
        };
        assert_eq!(after(poll), TRAP);
        assert_eq!(after(|by| by.sequences[1] += 1), TRAP, "a record was lost");
        assert_eq!(after(|by| by.by.restart()), TRAP, "another boot");
        let filter = |by: &mut Numbered| {
            by.apply(2, &Event::Filter { generation: 1, is_whole: false });
        };
        assert_eq!(after(filter), TRAP, "another filter");
        let none = |by: &mut Numbered| {
            let dart = DartId::FIRST;
            by.apply(1, &Event::CallChain { dart, frames: 0, is_cut: true, nearest: 0 });
        };
        assert_eq!(after(none), TRAP, "a flush without callers");
    }

    #[test]
    fn a_chain_that_is_cut_by_a_loss_and_unknown_names_change_nothing() {
        let chain = Event::Callers { dart: DartId::FIRST, frames: 1, first: at(0x210) };
        let mut by = Numbered::new(&Symbols::default());
        by.apply(1, &chain);
        assert_eq!(by.apply(1, &FLUSH), TRAP);
        let mut by = Numbered::new(&symbols());
        by.apply(1, &Event::Callers { dart: DartId::FIRST, frames: 3, first: at(0x210) });
        by.sequences[1] += 1;
        by.apply(1, &Event::Data { words: [at(0x310), at(0x510)] });
        assert_eq!(by.apply(1, &FLUSH), TRAP);
    }

    #[test]
    fn a_dart_driver_without_names_is_not_what_called_the_layer() {
        let by = ByCaller::new(&symbols());
        let (dart_driver, driver) = (0xffff_a000_0000_1004, 0xffff_a000_0100_2008);
        let chain = [dart_driver, at(0x210), at(0x408), at(0x310)];
        assert_eq!(by.choose(&chain), Some(at(0x30c)));
        let unknown = [dart_driver, at(0x210), at(0x408), driver, at(0x510)];
        assert_eq!(by.choose(&unknown), Some(driver - 4), "and not who called it");
        assert_eq!(by.choose(&[dart_driver, at(0x310)]), Some(dart_driver - 4), "no layer");
        let names =
            [(at(0x100), "dma_alloc_attrs"), (at(0x200), "dma_pool_alloc"), (at(0x300), "x")];
        let names = names.map(|(address, name)| (address, name.to_owned()));
        let by = ByCaller::new(&Symbols::new(names.into(), 0));
        assert_eq!(by.choose(&[at(0x110), at(0x210), at(0x310)]), Some(at(0x30c)), "a pool's user");
    }

    #[test]
    fn a_virtio_ring_maps_for_its_driver() {
        let names = [
            (at(0x100), "iommu_map"),
            (at(0x200), "dma_map_page_attrs"),
            (at(0x300), "vring_map_one_sg"),
            (at(0x400), "virtqueue_add_split"),
            (at(0x500), "virtqueue_add_sgs"),
            (at(0x600), "virtblk_add_req"),
            (at(0x700), "vring_unmap_one_split"),
            (at(0x800), "detach_buf_split"),
            (at(0x900), "virtio_queue_rq"),
        ];
        let names = names.map(|(address, name)| (address, name.to_owned()));
        let by = ByCaller::new(&Symbols::new(names.into(), 0));
        let chain = [0x110, 0x210, 0x310, 0x410, 0x510, 0x610, 0x910].map(at);
        assert_eq!(by.choose(&chain), Some(at(0x60c)));
        let unmap = [0x110, 0x710, 0x810, 0x410, 0x910].map(at);
        assert_eq!(by.choose(&unmap), Some(at(0x90c)));
    }

    #[test]
    fn where_all_is_the_layers_the_outermost_is_shown() {
        let by = ByCaller::new(&symbols());
        assert_eq!(by.choose(&[at(0x110), at(0x210), at(0x410)]), Some(at(0x40c)));
        let dart_driver = 0xffff_a000_0000_1004;
        assert_eq!(by.choose(&[dart_driver, at(0x210)]), Some(at(0x20c)));
        assert_eq!(by.choose(&[]), None);
        let mut by = Numbered::new(&symbols());
        by.apply(1, &Event::Callers { dart: DartId::FIRST, frames: 1, first: at(0x210) });
        assert_eq!(by.apply(1, &FLUSH), at(0x20c));
    }
}
