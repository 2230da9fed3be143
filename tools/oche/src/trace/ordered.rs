//! Events that come CPU by CPU, as they happen, put in the order of time.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use oche_trace::record::Record;

use super::description::TraceDescription;
use super::follow::{Follower, LiveSource};
use super::reader::TraceItem;

/// How long an event waits for earlier ones of other CPUs: a recorder writes a CPU's events every
/// 200 ms.
const HOLD: Duration = Duration::from_millis(400);
/// Time between two looks at the source.
const POLL: Duration = Duration::from_millis(50);

/// Takes events in the order of time.
pub trait Sink {
    /// A boot of Oche begins.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    fn begin(&mut self, description: TraceDescription) -> io::Result<()>;

    /// An event or a loss.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    fn item(&mut self, item: TraceItem) -> io::Result<()>;

    /// Nothing more comes for now, or (`is_all`) of this boot.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    fn flush(&mut self, is_all: bool) -> io::Result<()>;
}

/// Holds events back until earlier ones of other CPUs cannot come any more.
pub struct Ordered<S> {
    /// Where they go.
    pub sink: S,
    /// By time and arrival: what waits for earlier events.
    held: BTreeMap<(u64, u64), TraceItem>,
    arrivals: u64,
    newest: u64,
    /// When which time was the newest.
    seen: VecDeque<(Instant, u64)>,
    /// By CPU: records lost before its next one.
    lost: BTreeMap<usize, u64>,
    failed: Option<io::Error>,
}

impl<S: Sink> Ordered<S> {
    /// Nothing is held.
    pub fn new(sink: S) -> Self {
        Self {
            sink,
            held: BTreeMap::new(),
            arrivals: 0,
            newest: 0,
            seen: VecDeque::new(),
            lost: BTreeMap::new(),
            failed: None,
        }
    }

    /// Follows `source` until its end, until `is_over`, or until the sink fails. What is held is
    /// let go at the end.
    ///
    /// # Errors
    ///
    /// The source's, outside; the sink's, inside.
    pub fn follow(
        &mut self,
        source: &mut LiveSource,
        is_over: impl Fn() -> bool,
    ) -> anyhow::Result<io::Result<()>> {
        loop {
            while source.poll(self)? && !is_over() && self.failed.is_none() {
                self.release(false);
            }
            let is_last = is_over() || source.has_ended();
            self.release(is_last);
            match self.failed.take() {
                Some(error) => return Ok(Err(error)),
                None if is_last => return Ok(Ok(())),
                None => std::thread::sleep(POLL),
            }
        }
    }

    /// Lets go of all that is held.
    #[cfg(test)]
    pub(super) fn flush_all(&mut self) {
        self.release(true);
        assert!(self.failed.is_none());
    }

    fn hold(&mut self, time: u64, item: TraceItem) {
        self.arrivals += 1;
        self.held.insert((time, self.arrivals), item);
    }

    /// Lets go of what has waited long enough, or of all.
    fn release(&mut self, is_all: bool) {
        let now = Instant::now();
        if self.seen.back().is_none_or(|(_, time)| *time != self.newest) {
            self.seen.push_back((now, self.newest));
        }
        let mut until = None;
        while self.seen.front().is_some_and(|(since, _)| now.duration_since(*since) >= HOLD) {
            until = self.seen.pop_front().map(|(_, time)| time).max(until);
        }
        let until = if is_all { Some(u64::MAX) } else { until };
        while let Some(first) = self.held.first_entry()
            && until.is_some_and(|until| first.key().0 <= until)
            && self.failed.is_none()
        {
            let item = first.remove();
            self.failed = self.sink.item(item).err();
        }
        if self.failed.is_none() {
            self.failed = self.sink.flush(is_all).err();
        }
    }
}

impl<S: Sink> Follower for Ordered<S> {
    fn begin(&mut self, description: TraceDescription) {
        self.release(true);
        self.held.clear();
        self.seen.clear();
        self.lost.clear();
        self.newest = 0;
        if self.failed.is_none() {
            self.failed = self.sink.begin(description).err();
        }
    }

    fn take(&mut self, record: &Record) {
        self.newest = self.newest.max(record.time());
        let cpu = usize::from(record.cpu());
        if let Some(records) = self.lost.remove(&cpu) {
            self.hold(record.time(), TraceItem::Lost { cpu, records });
        }
        self.hold(record.time(), TraceItem::Record(*record));
    }

    fn lose(&mut self, cpu: usize, records: u64) {
        if records > 0 {
            let known = self.lost.entry(cpu).or_default();
            *known = known.saturating_add(records);
        }
    }

    fn count(&mut self, _: Vec<(String, u64)>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::made::with_every_error;

    /// Items as they come out.
    #[derive(Default)]
    struct Items(Vec<TraceItem>);

    impl Sink for Items {
        fn begin(&mut self, _: TraceDescription) -> io::Result<()> {
            Ok(())
        }

        fn item(&mut self, item: TraceItem) -> io::Result<()> {
            self.0.push(item);
            Ok(())
        }

        fn flush(&mut self, _: bool) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_comes_out_before_it_has_waited_and_losses_come_before_what_follows() {
        let trace = with_every_error().open();
        let mut ordered = Ordered::new(Items::default());
        ordered.begin(trace.sessions[0].description.clone());
        let mut records = Vec::new();
        trace.scan(0, |record| records.push(record));
        ordered.take(&records[0]);
        ordered.lose(0, 7);
        ordered.take(&records[1]);
        ordered.release(false);
        assert_eq!((ordered.held.len(), ordered.sink.0.len()), (3, 0));
        ordered.release(true);
        let [TraceItem::Record(_), TraceItem::Lost { cpu: 0, records: 7 }, TraceItem::Record(_)] =
            ordered.sink.0[..]
        else {
            panic!("{:?}", ordered.sink.0)
        };
    }
}
