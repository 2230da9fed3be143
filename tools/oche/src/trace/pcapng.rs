//! A trace as packets for Wireshark: an event a packet, an interface a DART, on link type `USER0`.
//!
//! A packet is the record's 32 bytes, then what the record alone does not hold, as items of `u16`
//! kind, `u16` length and that many bytes; little-endian, as records are. `docs/trace.md` lists the
//! items; `wireshark/oche.lua` reads them.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::Duration;

use oche_trace::record::{RECORD_BYTES, Record};
use oche_trace::snapshot::bytes_behind;
use oche_trace::text::Clock;
use oche_types::dart::stream::MAX_DARTS;
use oche_types::event::{Event, Kind};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};
use rustc_hash::FxHashMap;

use super::callers::ByCaller;
use super::description::{TraceDescription, plain};
use super::filter::{Chooser, EventFilter};
use super::lifetime::{Lifetimes, MappingChange, StreamPlace};
use super::reader::{ByteSource, TraceFile, TraceItem};
use super::symbols::{NameCache, Symbols};
use super::words::nanoseconds_between;

/// The items of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum PacketItem {
    /// The device's name, UTF-8.
    Device = 1,
    /// The guest's code as `name+0x10`, UTF-8.
    Code = 2,
    /// Bytes of a snapshot.
    Payload = 3,
    /// Of an unmap: `u64` number of the packet that mapped it (0: none), `u64` nanoseconds that it
    /// was mapped.
    Mapped = 4,
    /// `u64` nanoseconds since Oche's start.
    Time = 5,
}

/// Writes the events of `session` that `filter` admits.
///
/// # Errors
///
/// Those of `out`.
pub fn write_pcapng<S: ByteSource>(
    trace: &TraceFile<S>,
    session: usize,
    filter: &EventFilter,
    symbols: &Symbols,
    out: &mut impl Write,
) -> io::Result<()> {
    let Some(of) = trace.sessions.get(session) else { return Ok(()) };
    let clock = of.description.clock();
    let start = super::summary::wall_clock(of, clock, clock.start_ticks).unwrap_or(0);
    let mut packets = Packets::new(filter, symbols, out)?;
    packets.begin(&of.description, start)?;
    for item in trace.events_of(session) {
        packets.item(&item)?;
    }
    packets.finish()
}

/// Writes events one after the other as packets, of one boot or of several.
pub struct Packets<'a, W: Write> {
    filter: &'a EventFilter,
    symbols: &'a Symbols,
    names: NameCache<'a>,
    writer: PcapNgWriter<W>,
    /// The boot under way.
    boot: Option<Boot<'a>>,
    /// By DART of this boot: its interface. `MAX_DARTS`: events of no DART.
    interfaces: FxHashMap<usize, u32>,
    /// Interfaces of all boots.
    interface_count: u32,
    lifetimes: Lifetimes,
    /// By space and IOVA page: the number of the packet that mapped it.
    mapped_in: FxHashMap<(u16, u32), u64>,
    written: u64,
    lost: u64,
    /// By CPU: a snapshot or a watched access whose bytes are still coming.
    snapshots: FxHashMap<u8, Pending>,
    by: ByCaller,
}

/// What packets need to know of a boot.
struct Boot<'a> {
    description: TraceDescription,
    chooser: Chooser<'a>,
    clock: Clock,
    /// Wall-clock time of Oche's start; 0 where it is not known.
    start: Duration,
}

/// A snapshot or a watched access whose bytes are still coming.
struct Pending {
    record: Record,
    bytes: Vec<u8>,
    wanted: usize,
    code: u64,
}

impl<'a, W: Write> Packets<'a, W> {
    /// Writes what `filter` admits, by the names in `symbols`.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn new(filter: &'a EventFilter, symbols: &'a Symbols, out: W) -> io::Result<Self> {
        Ok(Self {
            filter,
            symbols,
            names: NameCache::new(symbols),
            by: ByCaller::new(symbols),
            writer: PcapNgWriter::new(out).map_err(to_io)?,
            boot: None,
            interfaces: FxHashMap::default(),
            interface_count: 0,
            lifetimes: Lifetimes::default(),
            mapped_in: FxHashMap::default(),
            written: 0,
            lost: 0,
            snapshots: FxHashMap::default(),
        })
    }

    /// A boot begins, at `start` in nanoseconds since 1970 UTC (0: not known).
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn begin(&mut self, description: &TraceDescription, start: u64) -> io::Result<()> {
        self.end_snapshots()?;
        self.boot = Some(Boot {
            chooser: Chooser::new(self.filter, description, self.symbols),
            clock: description.clock(),
            start: Duration::from_nanos(start),
            description: description.clone(),
        });
        self.interfaces.clear();
        self.lifetimes = Lifetimes::default();
        self.mapped_in.clear();
        self.by.restart();
        Ok(())
    }

    /// An event of the boot, or a loss. Those of one CPU come in order.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn item(&mut self, item: &TraceItem) -> io::Result<()> {
        match item {
            TraceItem::Record(record) => self.record(record),
            TraceItem::Lost { cpu, records } | TraceItem::Unreadable { cpu, records } => {
                if self.boot.as_ref().is_some_and(|boot| boot.chooser.has_cpu(*cpu)) {
                    self.lost = self.lost.saturating_add(*records);
                }
                Ok(())
            }
            TraceItem::Session(_) => Ok(()),
        }
    }

    /// Hands what is written on at once.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }

    fn admits(&mut self, record: &Record, value: &[u8]) -> bool {
        self.boot.as_mut().is_some_and(|boot| boot.chooser.admits(record, value))
    }

    fn record(&mut self, record: &Record) -> io::Result<()> {
        let code = self.by.apply(record).program_counter();
        if record.kind() == Some(Kind::Data) {
            return self.data(record);
        }
        if let Some(pending) = self.snapshots.remove(&record.cpu()) {
            // Its bytes ended early: some were lost.
            self.snapshot(pending)?;
        }
        let change = self.lifetimes.apply(record);
        if let Some(wanted) = bytes_behind(record) {
            let pending = Pending { record: *record, bytes: Vec::new(), wanted, code };
            self.snapshots.insert(record.cpu(), pending);
            return Ok(());
        }
        if !self.admits(record, &[]) {
            return Ok(());
        }
        let mut packet = self.packet(record, code);
        match change {
            MappingChange::Mapped { mapping, .. } => {
                let key = (self.lifetimes.space(mapping.owner), mapping.iova.0);
                self.mapped_in.insert(key, self.written + 1);
            }
            MappingChange::Unmapped { at, iova, mapping } => {
                let number =
                    self.mapped_in.remove(&(self.lifetimes.space(at), iova.0)).unwrap_or(0);
                if let Some(mapping) = mapping {
                    let clock = self.boot.as_ref().map(|boot| boot.clock);
                    let span = clock.map_or(0, |clock| {
                        nanoseconds_between(clock, mapping.since.time, record.time())
                    });
                    let bytes = [number.to_le_bytes(), span.to_le_bytes()].concat();
                    item(&mut packet, PacketItem::Mapped, &bytes);
                }
            }
            MappingChange::None | MappingChange::Permission { .. } => {}
        }
        let original = packet.len();
        self.write(record, packet, original)
    }

    fn data(&mut self, record: &Record) -> io::Result<()> {
        let Some(pending) = self.snapshots.get_mut(&record.cpu()) else { return Ok(()) };
        let Some(Event::Data { words }) = record.event() else { return Ok(()) };
        pending.bytes.extend(words.into_iter().flat_map(u64::to_le_bytes));
        if pending.bytes.len() < pending.wanted {
            return Ok(());
        }
        match self.snapshots.remove(&record.cpu()) {
            Some(pending) => self.snapshot(pending),
            None => Ok(()),
        }
    }

    fn snapshot(&mut self, mut pending: Pending) -> io::Result<()> {
        pending.bytes.truncate(pending.wanted);
        if !self.admits(&pending.record, &pending.bytes) {
            return Ok(());
        }
        let mut packet = self.packet(&pending.record, pending.code);
        item(&mut packet, PacketItem::Payload, &pending.bytes);
        let original = packet.len() + pending.wanted - pending.bytes.len();
        self.write(&pending.record, packet, original)
    }

    /// The packet of `record`, which is put down to `code`.
    fn packet(&mut self, record: &Record, code: u64) -> Vec<u8> {
        let mut packet = Vec::with_capacity(128);
        packet.extend_from_slice(&record.to_bytes());
        let boot = self.boot.as_ref();
        let time = boot.map_or(0, |boot| boot.clock.nanoseconds(record.time()));
        item(&mut packet, PacketItem::Time, &time.to_le_bytes());
        let place =
            record.dart().zip(record.stream()).map(|(dart, stream)| StreamPlace::new(dart, stream));
        if let Some((place, boot)) = place.zip(boot) {
            item(&mut packet, PacketItem::Device, boot.description.name_of(place).as_bytes());
        }
        if let Some(name) = self.names.get(code) {
            item(&mut packet, PacketItem::Code, name.as_bytes());
        }
        packet
    }

    fn write(&mut self, record: &Record, packet: Vec<u8>, original: usize) -> io::Result<()> {
        let interface_id = self.interface(record)?;
        let options = match std::mem::take(&mut self.lost) {
            0 => Vec::new(),
            lost => vec![EnhancedPacketOption::DropCount(lost)],
        };
        let timestamp = self.boot.as_ref().map_or(Duration::ZERO, |boot| {
            boot.start.saturating_add(Duration::from_nanos(boot.clock.nanoseconds(record.time())))
        });
        // 64 bits of nanoseconds are all that the file has room for.
        let timestamp = timestamp.min(Duration::from_nanos(u64::MAX));
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp,
            original_len: original as u32,
            data: Cow::Owned(packet),
            options,
        };
        self.writer.write_pcapng_block(block).map_err(to_io)?;
        self.written += 1;
        Ok(())
    }

    fn interface(&mut self, record: &Record) -> io::Result<u32> {
        let dart = record.dart().map_or(MAX_DARTS, |dart| dart.index());
        if let Some(interface) = self.interfaces.get(&dart) {
            return Ok(*interface);
        }
        let Some(boot) = &self.boot else { return Ok(0) };
        let known = boot.description.darts.iter().find(|entry| entry.dart.index() == dart);
        let name = match known {
            Some(entry) => plain(entry.name.as_str()),
            None if dart == MAX_DARTS => "oche".into(),
            None => format!("dart{dart}"),
        };
        let board = plain(boot.description.machine.board.as_str());
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::USER0,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(name)),
                InterfaceDescriptionOption::IfHardware(Cow::Owned(board)),
                // Nanoseconds.
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        };
        self.writer.write_pcapng_block(block).map_err(to_io)?;
        let interface = self.interface_count;
        self.interface_count += 1;
        self.interfaces.insert(dart, interface);
        Ok(interface)
    }

    /// Writes what waited for its bytes, and hands all on.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn finish(mut self) -> io::Result<()> {
        self.end_snapshots()?;
        self.flush()
    }

    /// No more bytes of snapshots come.
    fn end_snapshots(&mut self) -> io::Result<()> {
        let cpus: Vec<u8> = self.snapshots.keys().copied().collect();
        for cpu in cpus {
            if let Some(pending) = self.snapshots.remove(&cpu) {
                self.snapshot(pending)?;
            }
        }
        Ok(())
    }
}

fn item(packet: &mut Vec<u8>, kind: PacketItem, bytes: &[u8]) {
    let bytes = bytes.get(..bytes.len().min(usize::from(u16::MAX))).unwrap_or_default();
    packet.extend_from_slice(&(kind as u16).to_le_bytes());
    packet.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    packet.extend_from_slice(bytes);
}

fn to_io(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

/// Bytes of a packet before its items.
pub const PACKET_HEADER_BYTES: usize = RECORD_BYTES;

#[cfg(test)]
mod tests;
