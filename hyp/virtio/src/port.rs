//! The trace as a port in the guest: read, it is a trace file; written, it takes orders. Allocates
//! when it is made and never again.

use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;

use oche_trace::control::Control;
use oche_trace::directory::{Layout, Machine};
use oche_trace::export::{self, CHUNK_RECORDS, Export};
use oche_trace::words::Words;

use crate::console::Port;

/// Longest line of orders.
const LINE_BYTES: usize = 512;
/// The order that ends the file: the port's reader reaches its end.
const END: &[u8] = b"end";
/// The order that gives up what the boot before left: the next file begins with this one.
const FORGET: &[u8] = b"forget";
/// Events wait for others for this part of a second at most, as far as there are traps.
const WAIT_PARTS: u64 = 20;

/// Bytes of heap that a port takes when it is made, as a buddy allocator rounds them: two exports
/// and a line.
pub const HEAP_BYTES: usize = 2 * export::HEAP_BYTES + LINE_BYTES.next_power_of_two();

/// What is behind `/dev/virtio-ports/org.oche.trace`.
///
/// Each time it is opened a new file begins, with all that the rings still hold. Lines that are
/// written to it are those of [`Control::apply`], or `end`; what is neither is left alone.
#[derive(Debug)]
pub struct TracePort {
    words: &'static [AtomicU64],
    counter_hz: u64,
    /// What the boot before left, which every file begins with.
    previous: Option<Previous>,
    export: Export,
    is_open: bool,
    line: Vec<u8>,
    /// `CNTPCT_EL0` at the trap that is being handled.
    now: u64,
    pulled: u64,
}

/// The trace of the boot before.
#[derive(Debug)]
struct Previous {
    words: &'static [AtomicU64],
    export: Export,
    /// Whether the reader has not come to its end.
    is_pending: bool,
}

impl TracePort {
    /// The port of the trace in `words`, and of what the boot before left, with its layout.
    pub fn new(
        words: &'static [AtomicU64],
        layout: Layout,
        previous: Option<(&'static [AtomicU64], Layout)>,
    ) -> Self {
        let previous = previous.map(|(words, layout)| Previous {
            words,
            export: Export::new(&words, layout),
            is_pending: false,
        });
        Self {
            words,
            counter_hz: Machine::read(&words).counter_hz,
            previous,
            export: Export::new(&words, layout),
            is_open: false,
            line: Vec::with_capacity(LINE_BYTES),
            now: 0,
            pulled: 0,
        }
    }

    /// It is `now`, in ticks. Returns whether there is enough to bother the guest's reader with.
    #[inline]
    pub fn is_due(&mut self, now: u64) -> bool {
        self.now = now;
        self.is_open && self.has_enough(now)
    }

    #[inline(never)]
    fn has_enough(&self, now: u64) -> bool {
        if self.is_previous_pending() {
            return true;
        }
        let waiting = self.export.waiting(&self.words);
        let is_old = now.saturating_sub(self.pulled) >= self.counter_hz / WAIT_PARTS;
        waiting >= CHUNK_RECORDS as u64 || waiting > 0 && is_old
    }

    fn is_previous_pending(&self) -> bool {
        self.previous.as_ref().is_some_and(|previous| previous.is_pending)
    }

    /// Obeys the line that has come, and begins another in the same memory.
    fn end_line(&mut self) {
        let mut line = core::mem::take(&mut self.line);
        self.obey(line.trim_ascii());
        line.clear();
        self.line = line;
    }

    fn obey(&mut self, line: &[u8]) {
        if line == FORGET {
            // Not while it is being sent.
            if let Some(previous) = self.previous.take_if(|previous| !previous.is_pending) {
                Words::store(&previous.words, 0, 0);
            }
            return;
        }
        if line == END {
            // The next opening begins a new file, whatever was asked of this one.
            self.export.end();
            return;
        }
        let Some(mut control) = Control::current(&self.words) else { return };
        if str::from_utf8(line).is_ok_and(|line| control.apply(line).is_ok()) {
            control.publish(&self.words);
        }
    }
}

impl Port for TracePort {
    const NAME: &'static str = "org.oche.trace";

    fn set_open(&mut self, is_open: bool) {
        self.is_open = is_open;
        if let Some(previous) = &mut self.previous {
            previous.is_pending = is_open;
            previous.export.begin(false);
            previous.export.end();
        }
        self.export.begin(self.previous.is_some());
        self.line.clear();
    }

    fn pull(&mut self, into: &mut [u8]) -> usize {
        self.pulled = self.now;
        if !self.is_open {
            return 0;
        }
        if let Some(previous) = self.previous.as_mut().filter(|previous| previous.is_pending) {
            let count = previous.export.fill(&previous.words, self.now, into);
            if count != 0 {
                return count;
            }
            previous.is_pending = false;
        }
        self.export.fill(&self.words, self.now, into)
    }

    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                b'\n' => self.end_line(),
                byte if self.line.len() < LINE_BYTES => self.line.push(*byte),
                // A line that long is none; what is kept of it is no order.
                _ => {}
            }
        }
    }

    fn is_over(&self) -> bool {
        self.is_open && !self.is_previous_pending() && self.export.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oche_trace::control::ControlReader;
    use oche_trace::directory::DirectoryWriter;
    use oche_trace::record::RECORD_BYTES;
    use oche_trace::ring::RingWriter;
    use oche_trace::words::Text;
    use oche_types::addr::Gfn;
    use oche_types::event::{Event, Kind};

    fn booted() -> (&'static [AtomicU64], Layout) {
        let layout = Layout::new(1, 1024 * RECORD_BYTES);
        let words: Vec<AtomicU64> =
            (0..layout.total_bytes() / 8).map(|_| AtomicU64::new(0)).collect();
        let words: &'static [AtomicU64] = words.leak();
        let machine = Machine {
            board: Text::new("test"),
            release: Text::new(""),
            counter_hz: 1000,
            start_ticks: 0,
            wall_clock_nanoseconds: None,
        };
        DirectoryWriter::begin(&words, layout, &machine).finish();
        (words, layout)
    }

    fn read(port: &mut TracePort) -> usize {
        let mut buffer = [0; 4096];
        let mut total = 0;
        loop {
            let count = port.pull(&mut buffer);
            if count == 0 {
                return total;
            }
            total += count;
        }
    }

    #[test]
    fn the_reader_is_bothered_for_a_page_of_events_or_after_a_while() {
        let (words, layout) = booted();
        let mut port = TracePort::new(words, layout, None);
        let mut writer = RingWriter::new(layout, 0).unwrap();
        let mut record = |count: u64| {
            (0..count).for_each(|_| {
                writer.record(&words, 1, 0, &Event::Table { page: Gfn(1), is_unsync: true })
            });
        };
        record(1000);
        assert!(!port.is_due(1), "the port has no reader");
        port.set_open(true);
        assert!(port.is_due(1));
        assert!(read(&mut port) > 1000 * RECORD_BYTES);
        assert!(!port.is_due(500));
        record(1);
        assert!(!port.is_due(50) && port.is_due(51));
        record(CHUNK_RECORDS as u64 - 1);
        assert!(port.is_due(2));
    }

    #[test]
    fn lines_are_orders_in_whatever_pieces_and_nonsense_is_left_alone() {
        let (words, layout) = booted();
        let mut port = TracePort::new(words, layout, None);
        let mut asked = ControlReader::default();
        port.set_open(true);
        for piece in ["kin", "ds map\nnonsense\n", "\n", "iova 0x1000-0x1fff\r\n"] {
            port.push(piece.as_bytes());
        }
        port.push(&[0xff; 5000]);
        port.push(b"\n");
        let (setting, control) = asked.changed(&words).expect("it was ordered");
        assert_eq!((setting, control.events.kinds()), (2, 1 << Kind::Map.number()));
        assert_eq!(control.events.selection().first, 0x1000);
    }

    #[test]
    fn the_order_to_end_ends_the_file_and_opening_begins_a_new_one() {
        let (words, layout) = booted();
        let mut port = TracePort::new(words, layout, None);
        port.set_open(true);
        let whole = read(&mut port);
        port.push(b"end\n");
        assert!(!port.is_over());
        assert!(read(&mut port) > 0 && port.is_over());
        port.set_open(false);
        assert!(!port.is_over() && read(&mut port) == 0);
        port.set_open(true);
        assert_eq!(read(&mut port), whole);
    }

    #[test]
    fn a_file_begins_with_what_the_boot_before_left_until_it_is_forgotten() {
        let ((words, layout), (before, _)) = (booted(), booted());
        let mut writer = RingWriter::new(layout, 0).unwrap();
        (0..500).for_each(|_| {
            writer.record(&before, 1, 0, &Event::Table { page: Gfn(1), is_unsync: true })
        });
        let mut port = TracePort::new(words, layout, Some((before, layout)));
        port.set_open(true);
        assert!(port.is_due(0), "there is something to send at once");
        let both = read(&mut port);
        assert!(!port.is_over() && !port.is_due(0));
        port.push(b"forget\n");
        port.set_open(true);
        assert!(both > read(&mut port) + 500 * RECORD_BYTES);
        assert_eq!(before[0].load(core::sync::atomic::Ordering::Relaxed), 0);
    }
}
