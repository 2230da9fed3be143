//! Records for people: one line each, in the manner of ftrace, without an allocator.
//!
//! ```text
//!           oche-0     [002] .....    12.345678901: map: IOMMU: iova=0x00000000bff43000 - ... dart=0 stream=2 ...
//! ```
//!
//! `map`, `unmap` and `io_page_fault` begin with the fields of Linux's trace events of these names
//! (`include/trace/events/iommu.h`), so that scripts written for those read these; ours follow.

use core::fmt;

use oche_types::event::{Event, Kind};
use oche_types::events;

use crate::record::Record;

/// How ticks become seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Ticks a second; 0 is taken as 1.
    pub counter_hz: u64,
    /// The tick that counts as second 0. Earlier ones show as 0. A value from 2^63 on stands for a
    /// tick before 0, as its two's complement: a clock that had run for long when the counter
    /// began.
    pub start_ticks: u64,
}

impl Clock {
    /// Whole seconds and nanoseconds from the start to `ticks`.
    pub fn seconds(self, ticks: u64) -> (u64, u32) {
        let hz = self.counter_hz.max(1);
        let since = match self.start_ticks >> 63 {
            0 => ticks.saturating_sub(self.start_ticks),
            _ => ticks.wrapping_sub(self.start_ticks),
        };
        let rest = u128::from(since % hz) * 1_000_000_000 / u128::from(hz);
        (since / hz, rest as u32)
    }

    /// Nanoseconds from the start to `ticks`, as far as 64 bits go.
    pub fn nanoseconds(self, ticks: u64) -> u64 {
        let (seconds, rest) = self.seconds(ticks);
        seconds.saturating_mul(1_000_000_000).saturating_add(u64::from(rest))
    }
}

/// What an event's fields are given to, in the order in which people read them.
pub trait Fields {
    /// A number that people read in hexadecimal, as `digits` digits at least.
    fn hex(&mut self, name: &str, value: u64, digits: usize);
    /// A number that people read in decimal.
    fn number(&mut self, name: &str, value: u64);
    /// A word of a fixed set, or a name.
    fn word(&mut self, name: &str, value: &str);
    /// A range of `bytes` addresses from `start`.
    fn range(&mut self, name: &str, start: u64, bytes: u64);

    /// A number as with [`Self::hex`], or that there is none.
    fn hex_or_none(&mut self, name: &str, value: Option<u64>, digits: usize) {
        match value {
            Some(value) => self.hex(name, value, digits),
            None => self.word(name, "none"),
        }
    }

    /// Sixteen bytes, as two digits each.
    fn bytes(&mut self, name: &str, words: [u64; 2]) {
        let mut digits = [0; 32];
        let bytes = words.into_iter().flat_map(u64::to_le_bytes);
        for (to, byte) in digits.as_chunks_mut().0.iter_mut().zip(bytes) {
            *to = [HEX_DIGITS[usize::from(byte >> 4)], HEX_DIGITS[usize::from(byte & 0xf)]];
        }
        self.word(name, str::from_utf8(&digits).unwrap_or_default());
    }
}

/// Hands what `record` holds to `fields`, except its time, CPU and kind; `device` is the name of
/// the device that its DART and stream stand for, where known.
pub fn describe(record: &Record, device: Option<&str>, fields: &mut impl Fields) {
    describe_payload(record, fields);
    if let Some(dart) = record.dart() {
        fields.number("dart", dart.index() as u64);
    }
    if let Some(stream) = record.stream() {
        fields.number("stream", stream.index() as u64);
    }
    if let Some(device) = device {
        fields.word("device", device);
    }
    if record.program_counter() != 0 {
        fields.hex("pc", record.program_counter(), 16);
    }
    fields.number("seq", u64::from(record.sequence()));
}

/// Hands the fields of `record`'s kind alone to `fields`, without those that every event has.
pub fn describe_payload(record: &Record, fields: &mut impl Fields) {
    match record.event() {
        Some(event) => describe_event(&event, fields),
        None => {
            fields.number("kind", u64::from(record.kind_number()));
            fields.hex("detail", u64::from(record.detail()), 4);
            fields.hex("payload", record.payload(), 16);
        }
    }
}

/// Generates what an event's fields are called and how they are read.
macro_rules! descriptions {
    ($(
        $(#[$doc:meta])*
        $kind:ident = $number:literal, $name:literal {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $place:ident($($at:tt)*),)*
        }
        $(also $also:ident: $also_type:ty = $also_place:ident($($also_at:tt)*) from $value:expr;)?
        reach($($reach:tt)*)
        text($($method:ident($($argument:expr),*)),* $(,)?)
        counts($($counts:tt)*)
    )*) => {
        fn describe_event(event: &Event, fields: &mut impl Fields) {
            match *event {
                $(Event::$kind { $($field),* } => {
                    let _ = ($($field,)*);
                    $(fields.$method($($argument),*);)*
                })*
            }
        }
    };
}

events!(descriptions);

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The word for a record's kind in every output; `unknown` for those of a later version.
pub fn kind_name(record: &Record) -> &'static str {
    record.kind().map_or("unknown", Kind::name)
}

/// Most bytes of a line; a longer one would be cut. The longest event with the longest device name
/// has about 270.
pub const LINE_BYTES: usize = 384;

/// One record as text, without a line break.
pub struct Line {
    bytes: [u8; LINE_BYTES],
    length: usize,
}

impl Line {
    /// The line for `record`; `device` is the name of the device that its DART and stream stand
    /// for.
    pub fn of(record: &Record, clock: Clock, device: Option<&str>) -> Self {
        let mut line = Self { bytes: [0; LINE_BYTES], length: 0 };
        line.push("          oche-0     [");
        line.push_number(u64::from(record.cpu()), 3, b'0');
        line.push("] ..... ");
        let (seconds, nanoseconds) = clock.seconds(record.time());
        line.push_number(seconds, 5, b' ');
        line.push(".");
        line.push_number(u64::from(nanoseconds), 9, b'0');
        line.push(": ");
        line.push(kind_name(record));
        line.push(":");
        match record.kind() {
            Some(Kind::Map | Kind::Unmap) => line.push(" IOMMU:"),
            Some(Kind::Fault) => {
                line.push(" IOMMU:oche ");
                line.push(device.unwrap_or("unknown"));
            }
            _ => {}
        }
        describe(record, device, &mut line);
        line
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn push(&mut self, text: &str) {
        self.push_bytes(text.as_bytes());
    }

    fn push_bytes(&mut self, text: &[u8]) {
        let end = self.length + text.len();
        if let Some(to) = self.bytes.get_mut(self.length..end) {
            to.copy_from_slice(text);
            self.length = end;
        }
    }

    /// Pushes `value` in decimal, right-aligned in at least `width` (up to 20) places filled with
    /// `fill`.
    fn push_number(&mut self, mut value: u64, width: usize, fill: u8) {
        let mut digits = [fill; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        let first = first.min(digits.len().saturating_sub(width));
        self.push_bytes(&digits[first..]);
    }

    /// Pushes `value` in hexadecimal with at least `width` (1 to 16) digits.
    fn push_hex(&mut self, value: u64, width: usize) {
        let mut digits = [b'0'; 16];
        for (place, digit) in digits.iter_mut().rev().enumerate() {
            *digit = HEX_DIGITS[(value >> (4 * place) & 0xf) as usize];
        }
        let needed = (16 - value.leading_zeros() as usize / 4).max(width).min(16);
        self.push("0x");
        self.push_bytes(&digits[16 - needed..]);
    }

    fn push_name(&mut self, name: &str) {
        self.push(" ");
        self.push(name);
        self.push("=");
    }
}

impl Fields for Line {
    fn hex(&mut self, name: &str, value: u64, digits: usize) {
        self.push_name(name);
        self.push_hex(value, digits);
    }

    fn number(&mut self, name: &str, value: u64) {
        self.push_name(name);
        self.push_number(value, 1, b' ');
    }

    fn word(&mut self, name: &str, value: &str) {
        self.push_name(name);
        self.push(value);
    }

    fn range(&mut self, name: &str, start: u64, bytes: u64) {
        self.hex(name, start, 16);
        self.push(" - ");
        self.push_hex(start.saturating_add(bytes), 16);
    }
}

impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.as_bytes().utf8_chunks() {
            formatter.write_str(chunk.valid())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Stamp;
    use alloc::string::{String, ToString};
    use oche_types::addr::{Gfn, IovaPage};
    use oche_types::dart::entry::Permission;
    use oche_types::dart::stream::{DartId, StreamId};
    use oche_types::event::{Place, Placement};

    const CLOCK: Clock = Clock { counter_hz: 24_000_000, start_ticks: 24_000_000 };

    fn line(event: &Event, device: Option<&str>) -> String {
        let stamp = Stamp {
            time: 24_000_000 * 13 + 12_000_000 + 1,
            sequence: 77,
            cpu: 2,
            program_counter: 0xffff_8000_0812_3450,
        };
        Line::of(&Record::new(stamp, event), CLOCK, device).to_string()
    }

    fn at() -> Place {
        Place {
            dart: DartId::new(1).unwrap(),
            stream: StreamId::new(9).unwrap(),
            iova: IovaPage(0xb_ff43),
        }
    }

    #[test]
    fn a_map_reads_like_linux_and_says_more_after_it() {
        let event = Event::Map {
            at: at(),
            page: Gfn(0x4_6781),
            permission: Permission::WRITE_ONLY,
            placement: Placement::Migrated,
        };
        assert_eq!(
            line(&event, Some("0000:00:01.0")),
            "          oche-0     [002] .....    12.500000041: map: IOMMU: iova=0x00000000bff43000 - \
             0x00000000bff44000 paddr=0x0000000046781000 size=4096 perm=-w placement=migrated dart=1 stream=9 \
             device=0000:00:01.0 pc=0xffff800008123450 seq=77"
        );
    }

    #[test]
    fn a_fault_names_its_device_as_linux_does() {
        let event = Event::Fault {
            dart: at().dart,
            stream: at().stream,
            iova: 0xbff4_3123,
            code: 2,
            is_write: true,
            is_hidden: false,
        };
        let text = line(&event, Some("nvme"));
        assert!(text.contains(
            "io_page_fault: IOMMU:oche nvme iova=0x00000000bff43123 flags=0x0001 code=0x002"
        ));
        assert!(line(&event, None).contains("IOMMU:oche unknown iova="));
    }

    #[test]
    fn a_kind_of_a_later_version_shows_its_words() {
        let record = Record([24_000_000, 200 << 32, 3 << 49, 0xabc]);
        let text = Line::of(&record, CLOCK, None).to_string();
        assert!(
            text.ends_with(
                "unknown: kind=200 detail=0x0003 payload=0x0000000000000abc dart=0 stream=0 seq=0"
            ),
            "{text}"
        );
    }

    #[test]
    fn the_longest_line_fits() {
        let device = "d".repeat(56);
        let event = Event::Map {
            at: Place { iova: IovaPage(u32::MAX), ..at() },
            page: Gfn(u32::MAX),
            permission: Permission::READ_WRITE,
            placement: Placement::Migrated,
        };
        let stamp =
            Stamp { time: u64::MAX, sequence: u32::MAX, cpu: 255, program_counter: u64::MAX };
        let text = Line::of(
            &Record::new(stamp, &event),
            Clock { counter_hz: 0, start_ticks: 0 },
            Some(&device),
        );
        assert!(text.to_string().ends_with("pc=0xffffffffffffffff seq=4294967295"), "{text}");
    }

    #[test]
    fn ticks_before_the_start_and_a_clock_that_stands_are_harmless() {
        assert_eq!(CLOCK.seconds(0), (0, 0));
        assert_eq!(Clock { counter_hz: 0, start_ticks: 0 }.nanoseconds(u64::MAX), u64::MAX);
        assert_eq!(CLOCK.nanoseconds(24_000_000 + 24), 1000);
    }
}
