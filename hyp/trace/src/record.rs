//! One event as four 64-bit words: the unit of the rings, of the trace file, and of everything read
//! from them.
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
//! Words are little-endian wherever they become bytes. The table of
//! [`events!`](oche_types::events!) defines detail and payload. Bits that it does not name
//! are written as 0 and ignored when read, so that a later version can use them.

mod pack;
#[cfg(test)]
mod tests;

use oche_types::dart::stream::{DartId, StreamId};
use oche_types::event::{Event, Kind};

use pack::{Packed, pack, unpack};

/// Words in a record.
pub const RECORD_WORDS: usize = 4;
/// Bytes in a record.
pub const RECORD_BYTES: usize = RECORD_WORDS * 8;
/// The word of a record that holds its sequence number. Writers store it first and readers load it
/// last.
pub const SEQUENCE_WORD: usize = 1;
/// Bytes that an [`Event::Data`] carries.
pub const DATA_BYTES: usize = 16;

/// An event with its stamp, packed. Any four words are a record; [`Record::event`] says whether
/// they mean something to this version, and the words are kept when they do not.
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
    /// The guest's program counter, a virtual address; of bits 63:48 only bit 63 is kept. 0 for
    /// none.
    pub program_counter: u64,
}

const PC_BITS: u32 = 48;
const PC_UPPER: u64 = 1 << PC_BITS;
const DETAIL_SHIFT: u32 = PC_BITS + 1;

impl Record {
    /// Packs `event`. Numbers that do not fit are shown as the most that does (a frame has 16384
    /// bytes, and `LiveMove::merged_bytes` is at most 32767); of a program counter bits 47:0 and 63
    /// are kept.
    #[inline(always)]
    pub fn new(stamp: Stamp, event: &Event) -> Self {
        let Packed { kind, dart, stream, detail, payload, code } = pack(event);
        let upper = if stamp.program_counter >> 63 != 0 { PC_UPPER } else { 0 };
        let sequence = u64::from(stamp.sequence)
            | u64::from(kind) << 32
            | u64::from(stamp.cpu) << 40
            | u64::from(dart) << 48
            | u64::from(stream) << 56;
        let caused_by = stamp.program_counter & (PC_UPPER - 1) | upper | detail << DETAIL_SHIFT;
        Self([stamp.time, sequence, code.unwrap_or(caused_by), payload])
    }

    /// What happened, or `None` where this version does not know the kind or one of its numbers.
    #[inline]
    pub fn event(&self) -> Option<Event> {
        unpack(&Packed {
            kind: self.kind_number(),
            dart: (self.0[1] >> 48) as u8,
            stream: (self.0[1] >> 56) as u8,
            detail: u64::from(self.detail()),
            payload: self.payload(),
            code: Some(self.0[2]),
        })
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
}
