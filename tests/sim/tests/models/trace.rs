//! The trace's ring: a reader beside the CPU that writes.

use super::*;

/// The trace's memory, of which only the words that are used exist.
struct TraceWords {
    words: BTreeMap<usize, AtomicU64>,
    load: Ordering,
    store: Ordering,
    number_is_last: bool,
}

impl TraceWords {
    fn new(layout: Layout, (load, store): (Ordering, Ordering), number_is_last: bool) -> Self {
        let end = layout.total_bytes() / 8;
        let ring = end - layout.ring_records() as usize * 4;
        // The head, and the ring.
        let words = [0x100 / 8]
            .into_iter()
            .chain(ring..end)
            .map(|word| (word, AtomicU64::new(0)))
            .collect();
        Self { words, load, store, number_is_last }
    }
}

impl Words for TraceWords {
    fn load(&self, index: usize) -> u64 {
        self.words.get(&index).map_or(0, |word| word.load(self.load))
    }

    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.words.get(&index) {
            word.store(value, self.store);
        }
    }

    fn store_record(&self, index: usize, record: &Record) {
        let numbered = [SEQUENCE_WORD, 0, 2, 3];
        let order = if self.number_is_last { [0, 2, 3, SEQUENCE_WORD] } else { numbered };
        order.into_iter().for_each(|word| Words::store(self, index + word, record.0[word]));
    }
}

/// One CPU writes two records into a ring of one, while a reader reads: each record that it is
/// given is whole.
fn ring_model(orders: (Ordering, Ordering), number_is_last: bool) {
    let layout = Layout::new(1, 32);
    let words = Arc::new(TraceWords::new(layout, orders, number_is_last));
    let mut writer = RingWriter::new(layout, 0).expect("a ring");
    let mut write = {
        let words = Arc::clone(&words);
        move |number: u64| {
            writer.record(
                &*words,
                10 + number,
                0,
                &Event::InvalidateTimedOut {
                    dart: oche_types::dart::stream::DartId::new(number as usize).expect("a DART"),
                },
            )
        }
    };
    write(1);
    let reader = {
        let words = Arc::clone(&words);
        thread::spawn(move || {
            let mut reader = RingReader::new(layout, 0).expect("a ring");
            let mut into = [Record::default(); 1];
            let batch = reader.read(&*words, &mut into);
            for record in &into[..batch.count] {
                let dart = match record.event() {
                    Some(Event::InvalidateTimedOut { dart }) => dart.index() as u64,
                    other => panic!("a record that was not written: {other:?}"),
                };
                assert_eq!(record.0[0], 10 + dart, "a record of two halves");
            }
        })
    };
    write(2);
    reader.join().expect("the reader");
}

#[test]
fn a_record_of_the_trace_is_whole_or_not_given() {
    explore(|| ring_model((Ordering::Acquire, Ordering::Release), false));
}

#[test]
#[should_panic]
fn a_reader_of_the_trace_that_does_not_acquire_is_found() {
    explore(|| ring_model((Ordering::Relaxed, Ordering::Release), false));
}

#[test]
#[should_panic]
fn a_writer_of_the_trace_that_numbers_last_is_found() {
    explore(|| ring_model((Ordering::Acquire, Ordering::Release), true));
}
