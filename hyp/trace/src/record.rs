//! One event as four 64-bit words: the unit of the rings, of the trace file, and of everything read from them.
//!
//! | Word | Bits  | Holds |
//! |------|-------|-------|
//! | 0    | 63:0  | time: `CNTPCT_EL0` when the event was recorded, in ticks of `CNTFRQ_EL0` |
//! | 1    | 31:0  | sequence: how many records this CPU had written before, modulo 2^32 |
//! | 1    | 39:32 | kind: a number of [`Kind`]; 0 is never written |
//! | 1    | 47:40 | CPU that recorded it, as Oche numbers them |
//! | 1    | 55:48 | DART, or 0xff where none is meant |
//! | 1    | 63:56 | stream, or 0xff where none is meant |
//! | 2    | 47:0  | low bits of the guest's program counter (`ELR_EL2`); 0 where no guest instruction caused it |
//! | 2    | 48    | whether bits 63:48 of the program counter are ones (the guest's kernel) or zeros |
//! | 2    | 63:49 | detail: 15 bits, by kind |
//! | 3    | 63:0  | payload, by kind |
//!
//! A [`Kind::Data`] record has sixteen bytes of its own in words 2 and 3.
//!
//! Words are little-endian wherever they become bytes. [`Kind`] says what detail and payload are. Bits that
//! it does not name are written as 0 and ignored when read, so that a later version can use them.

use oche_types::addr::{Frame, Gfn, Hfn, IovaPage, PAGE_BYTES};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, StreamId, StreamSet};
use oche_types::event::{Event, Kind, Place, Placement, Refusal, WatchHow};

/// Words in a record.
pub const RECORD_WORDS: usize = 4;
/// Bytes in a record.
pub const RECORD_BYTES: usize = RECORD_WORDS * 8;
/// The word of a record that holds its sequence number. Writers store it first and readers load it last.
pub const SEQUENCE_WORD: usize = 1;
/// Bytes that an [`Event::Data`] carries.
pub const DATA_BYTES: usize = 16;

/// An event with its stamp, packed. Any four words are a record; [`Record::event`] says whether they mean
/// something to this version, and the words are kept when they do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record(pub [u64; RECORD_WORDS]);

/// When, where and by which guest code an event came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// `CNTPCT_EL0`, in ticks.
    pub time: u64,
    /// Records that the CPU wrote before, modulo 2^32.
    pub sequence: u32,
    /// The CPU.
    pub cpu: u8,
    /// The guest's program counter, a virtual address; of bits 63:48 only bit 63 is kept. 0 for none.
    pub program_counter: u64,
}

const NONE: u8 = 0xff;
const PC_BITS: u32 = 48;
const PC_UPPER: u64 = 1 << PC_BITS;
const DETAIL_SHIFT: u32 = PC_BITS + 1;
/// Largest detail: 15 bits.
pub const DETAIL_MAX: u16 = 0x7fff;
const FAULT_CODE: u16 = 0x1fff;
const FAULT_WRITE: u16 = 1 << 13;
const FAULT_HIDDEN: u16 = 1 << 14;
const SNAPSHOT_BYTES: u16 = 0x1fff;
const SNAPSHOT_WRITTEN: u16 = 1 << 14;
const CALLERS_FRAMES: u16 = 0xf;
const WATCH_BYTES: u16 = 0x7f;
const WATCH_HOW_SHIFT: u32 = 8;
const WATCH_HOWS: [WatchHow; 4] = [WatchHow::Exact, WatchHow::Before, WatchHow::After, WatchHow::GivenUp];
const PLACEMENT_SHIFT: u32 = 2;
const PLACEMENT_MASK: u16 = 0xf;
const REASON_MASK: u16 = 0xff;
const PLACEMENTS: [Placement; 3] = [Placement::Direct, Placement::Composed, Placement::Replica];
const REFUSALS: [Refusal; 11] = [
    Refusal::PoolExhausted,
    Refusal::NotGuestMemory,
    Refusal::DeviceNotDirect,
    Refusal::SubPageWindow,
    Refusal::TooManyAliases,
    Refusal::TableNotGuestMemory,
    Refusal::TooManyTables,
    Refusal::TooManySpaces,
    Refusal::OutOfStage2Tables,
    Refusal::NotGuardable,
    Refusal::MixedPermission,
];

impl Record {
    /// Packs `event`. What does not fit is cut at the type's end: of `LiveMove::merged_bytes` the most that is
    /// shown is 32767 (a frame has 16384), of `Fault::code` 13 bits (the register has 12), of a program
    /// counter bits 47:0 and 63.
    #[inline]
    pub fn new(stamp: Stamp, event: &Event) -> Self {
        let Body { kind, dart, stream, detail, payload } = Body::of(event);
        let upper = if stamp.program_counter >> 63 != 0 { PC_UPPER } else { 0 };
        let sequence = u64::from(stamp.sequence)
            | u64::from(kind.number()) << 32
            | u64::from(stamp.cpu) << 40
            | u64::from(dart) << 48
            | u64::from(stream) << 56;
        let code = match event {
            Event::Data([first, _]) => *first,
            _ => stamp.program_counter & (PC_UPPER - 1) | upper | u64::from(detail) << DETAIL_SHIFT,
        };
        Self([stamp.time, sequence, code, payload])
    }

    /// What happened, or `None` where this version does not know the kind or one of its numbers.
    #[inline]
    pub fn event(&self) -> Option<Event> {
        self.decode()
    }

    /// `CNTPCT_EL0` when it was recorded, in ticks.
    #[inline]
    pub fn time(&self) -> u64 {
        self.0[0]
    }

    /// Records that the CPU had written before, modulo 2^32.
    #[inline]
    pub fn sequence(&self) -> u32 {
        self.0[SEQUENCE_WORD] as u32
    }

    /// The kind's number, known or not.
    #[inline]
    pub fn kind_number(&self) -> u8 {
        (self.0[1] >> 32) as u8
    }

    /// The kind, if this version knows it.
    #[inline]
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_number(self.kind_number())
    }

    /// The CPU that recorded it.
    #[inline]
    pub fn cpu(&self) -> u8 {
        (self.0[1] >> 40) as u8
    }

    /// The DART meant, if one is.
    #[inline]
    pub fn dart(&self) -> Option<DartId> {
        DartId::new(usize::from((self.0[1] >> 48) as u8))
    }

    /// The stream meant, if one is.
    #[inline]
    pub fn stream(&self) -> Option<StreamId> {
        StreamId::new(usize::from((self.0[1] >> 56) as u8))
    }

    /// The guest's program counter, a virtual address, bits 62:48 filled from bit 63; 0 for none.
    #[inline]
    pub fn program_counter(&self) -> u64 {
        if self.kind() == Some(Kind::Data) {
            return 0;
        }
        let low = self.0[2] & (PC_UPPER - 1);
        if self.0[2] & PC_UPPER == 0 { low } else { low | !(PC_UPPER - 1) }
    }

    /// The same event, caused by the code at `program_counter` instead.
    pub fn with_program_counter(mut self, program_counter: u64) -> Self {
        const PC: u64 = (1 << (PC_BITS + 1)) - 1;
        let upper = if program_counter >> 63 == 1 { PC_UPPER } else { 0 };
        self.0[2] = self.0[2] & !PC | program_counter & (PC_UPPER - 1) | upper;
        self
    }

    /// The kind's 15 bits.
    #[inline]
    pub fn detail(&self) -> u16 {
        (self.0[2] >> DETAIL_SHIFT) as u16
    }

    /// The kind's word.
    #[inline]
    pub fn payload(&self) -> u64 {
        self.0[3]
    }

    /// When, where and by which code.
    #[inline]
    pub fn stamp(&self) -> Stamp {
        Stamp {
            time: self.time(),
            sequence: self.sequence(),
            cpu: self.cpu(),
            program_counter: self.program_counter(),
        }
    }

    /// The record as it stands in memory and in files.
    pub fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(self.0) {
            *to = word.to_le_bytes();
        }
        bytes
    }

    /// The record that `bytes` are.
    #[inline]
    pub fn from_bytes(bytes: &[u8; RECORD_BYTES]) -> Self {
        let mut words = [0; RECORD_WORDS];
        for (to, from) in words.iter_mut().zip(bytes.as_chunks().0) {
            *to = u64::from_le_bytes(*from);
        }
        Self(words)
    }

    #[inline]
    fn decode(&self) -> Option<Event> {
        let detail = self.detail();
        let payload = self.payload();
        let low = payload as u32;
        let high = (payload >> 32) as u32;
        let flag = detail & 1 != 0;
        Some(match self.kind()? {
            Kind::Register => {
                Event::Register { dart: self.dart()?, offset: high as u16, is_write: flag, value: low }
            }
            Kind::Flush => Event::Flush { dart: self.dart()?, streams: StreamSet(low as u16) },
            Kind::FlushDone => Event::FlushDone { dart: self.dart()?, pages: low, is_busy: flag },
            Kind::Map => Event::Map {
                at: self.place(high)?,
                page: Gfn(low),
                permission: Permission { read: flag, write: detail & 2 != 0 },
                placement: *PLACEMENTS.get(usize::from(detail >> PLACEMENT_SHIFT & PLACEMENT_MASK))?,
            },
            Kind::Permission => Event::Permission {
                at: self.place(high)?,
                page: Gfn(low),
                permission: Permission { read: flag, write: detail & 2 != 0 },
            },
            Kind::Unmap => Event::Unmap { at: self.place(high)?, page: Gfn(low) },
            Kind::Refused => Event::Refused {
                at: self.place(high)?,
                page: Gfn(low),
                reason: *REFUSALS.get(usize::from(detail & REASON_MASK))?,
            },
            Kind::Moved => Event::Moved { page: Gfn(low), to: Hfn(high) },
            Kind::LiveMove => {
                Event::LiveMove { at: self.place(high)?, to: Frame(low), merged_bytes: u32::from(detail) }
            }
            Kind::Merged => Event::Merged { page: Gfn(low), bytes: high },
            Kind::RedZone => {
                Event::RedZone { at: self.place(high)?, offset: low as u16, bytes: (low >> 16) as u16 }
            }
            Kind::Fault => Event::Fault {
                dart: self.dart()?,
                stream: self.stream()?,
                iova: payload,
                code: detail & FAULT_CODE,
                is_write: detail & FAULT_WRITE != 0,
                is_hidden: detail & FAULT_HIDDEN != 0,
            },
            Kind::Table => Event::Table { page: Gfn(low), is_open: flag },
            Kind::Attach => Event::Attach {
                dart: self.dart()?,
                stream: self.stream()?,
                root: if flag { Some(Gfn(low)) } else { None },
            },
            Kind::InvalidateTimedOut => Event::InvalidateTimedOut { dart: self.dart()? },
            Kind::Access => Event::Access { address: payload, is_write: flag },
            Kind::Filter => Event::Filter { generation: low, is_whole: flag },
            Kind::Snapshot => Event::Snapshot {
                at: self.place(high)?,
                page: Gfn(low),
                is_written: detail & SNAPSHOT_WRITTEN != 0,
                bytes: detail & SNAPSHOT_BYTES,
            },
            Kind::Data => Event::Data([self.0[2], payload]),
            Kind::Callers => {
                Event::Callers { dart: self.dart()?, frames: (detail & CALLERS_FRAMES) as u8, first: payload }
            }
            Kind::Fetched => Event::Fetched { page: Gfn(low), from: Hfn(high) },
            Kind::Watch => Event::Watch {
                at: self.place(high / PAGE_BYTES as u32)?,
                offset: (high % PAGE_BYTES as u32) as u16,
                page: Gfn(low),
                bytes: (detail >> 1 & WATCH_BYTES) as u8,
                is_write: flag,
                how: *WATCH_HOWS.get(usize::from(detail >> WATCH_HOW_SHIFT & 3))?,
            },
        })
    }

    #[inline]
    fn place(&self, iova: u32) -> Option<Place> {
        Some(Place { dart: self.dart()?, stream: self.stream()?, iova: IovaPage(iova) })
    }
}

/// An event's part of the words.
struct Body {
    kind: Kind,
    dart: u8,
    stream: u8,
    detail: u16,
    payload: u64,
}

impl Body {
    #[inline]
    fn of(event: &Event) -> Self {
        match *event {
            Event::Register { dart, offset, is_write, value } => {
                Self::new(Kind::Register, u32::from(offset), value).dart(dart).detail(u16::from(is_write))
            }
            Event::Flush { dart, streams } => Self::new(Kind::Flush, 0, u32::from(streams.0)).dart(dart),
            Event::FlushDone { dart, pages, is_busy } => {
                Self::new(Kind::FlushDone, 0, pages).dart(dart).detail(u16::from(is_busy))
            }
            Event::Map { at, page, permission, placement } => {
                let detail = u16::from(permission.read)
                    | u16::from(permission.write) << 1
                    | u16::from(placement as u8) << PLACEMENT_SHIFT;
                Self::new(Kind::Map, at.iova.0, page.0).place(at).detail(detail)
            }
            Event::Permission { at, page, permission } => {
                let detail = u16::from(permission.read) | u16::from(permission.write) << 1;
                Self::new(Kind::Permission, at.iova.0, page.0).place(at).detail(detail)
            }
            Event::Unmap { at, page } => Self::new(Kind::Unmap, at.iova.0, page.0).place(at),
            Event::Refused { at, page, reason } => {
                Self::new(Kind::Refused, at.iova.0, page.0).place(at).detail(u16::from(reason as u8))
            }
            Event::Moved { page, to } => Self::new(Kind::Moved, to.0, page.0),
            Event::Fetched { page, from } => Self::new(Kind::Fetched, from.0, page.0),
            Event::LiveMove { at, to, merged_bytes } => {
                let merged = u16::try_from(merged_bytes).unwrap_or(DETAIL_MAX).min(DETAIL_MAX);
                Self::new(Kind::LiveMove, at.iova.0, to.0).place(at).detail(merged)
            }
            Event::Merged { page, bytes } => Self::new(Kind::Merged, bytes, page.0),
            Event::RedZone { at, offset, bytes } => {
                let low = u32::from(offset) | u32::from(bytes) << 16;
                let behind = (PAGE_BYTES as u16).saturating_sub(offset).min(DATA_BYTES as u16);
                Self::new(Kind::RedZone, at.iova.0, low).place(at).detail(behind)
            }
            Event::Fault { dart, stream, iova, code, is_write, is_hidden } => {
                let write = if is_write { FAULT_WRITE } else { 0 };
                let hidden = if is_hidden { FAULT_HIDDEN } else { 0 };
                Self { payload: iova, ..Self::new(Kind::Fault, 0, 0) }
                    .dart(dart)
                    .stream(stream)
                    .detail(code & FAULT_CODE | write | hidden)
            }
            Event::Table { page, is_open } => Self::new(Kind::Table, 0, page.0).detail(u16::from(is_open)),
            Event::Attach { dart, stream, root } => Self::new(Kind::Attach, 0, root.map_or(0, |root| root.0))
                .dart(dart)
                .stream(stream)
                .detail(u16::from(root.is_some())),
            Event::InvalidateTimedOut { dart } => Self::new(Kind::InvalidateTimedOut, 0, 0).dart(dart),
            Event::Access { address, is_write } => {
                Self { payload: address, ..Self::new(Kind::Access, 0, 0) }.detail(u16::from(is_write))
            }
            Event::Filter { generation, is_whole } => {
                Self::new(Kind::Filter, 0, generation).detail(u16::from(is_whole))
            }
            Event::Snapshot { at, page, is_written, bytes } => {
                let written = if is_written { SNAPSHOT_WRITTEN } else { 0 };
                let detail = bytes & SNAPSHOT_BYTES | written;
                Self::new(Kind::Snapshot, at.iova.0, page.0).place(at).detail(detail)
            }
            Event::Callers { dart, frames, first } => {
                Self { payload: first, ..Self::new(Kind::Callers, 0, 0) }
                    .dart(dart)
                    .detail(u16::from(frames) & CALLERS_FRAMES)
            }
            Event::Watch { at, offset, page, bytes, is_write, how } => {
                let detail = u16::from(is_write)
                    | (u16::from(bytes) & WATCH_BYTES) << 1
                    | u16::from(how as u8) << WATCH_HOW_SHIFT;
                let iova = at.iova.0.wrapping_mul(PAGE_BYTES as u32) | u32::from(offset);
                Self::new(Kind::Watch, iova, page.0).place(at).detail(detail)
            }
            Event::Data([_, payload]) => Self { payload, ..Self::new(Kind::Data, 0, 0) },
        }
    }

    fn new(kind: Kind, high: u32, low: u32) -> Self {
        Self { kind, dart: NONE, stream: NONE, detail: 0, payload: u64::from(high) << 32 | u64::from(low) }
    }

    fn dart(self, dart: DartId) -> Self {
        Self { dart: dart.index() as u8, ..self }
    }

    fn stream(self, stream: StreamId) -> Self {
        Self { stream: stream.index() as u8, ..self }
    }

    fn place(self, place: Place) -> Self {
        self.dart(place.dart).stream(place.stream)
    }

    fn detail(self, detail: u16) -> Self {
        Self { detail, ..self }
    }
}

#[cfg(test)]
mod tests;
