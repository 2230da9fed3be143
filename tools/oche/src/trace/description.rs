//! The description of a trace's machine: board, clock, DARTs and the devices behind them.

use oche_trace::directory::{self, DartEntry, DeviceEntry, Machine};
use oche_trace::record::Record;
use oche_trace::text::Clock;
use oche_types::dart::stream::{DartId, MAX_DARTS, STREAMS, StreamId};

use super::lifetime::StreamPlace;

/// The machine, as a trace directory describes it.
#[derive(Clone, Debug)]
pub struct TraceDescription {
    /// Board, counter, start.
    pub machine: Machine,
    /// The DARTs.
    pub darts: Vec<DartEntry>,
    /// The devices.
    pub devices: Vec<DeviceEntry>,
    names: Vec<Option<String>>,
    /// The clock that views show instead of Oche's own.
    shown: Option<Clock>,
}

impl TraceDescription {
    /// Reads the directory at the start of `words`.
    pub fn read(words: &[u64]) -> Self {
        let devices: Vec<DeviceEntry> = directory::devices(&words).collect();
        let mut names: Vec<Option<String>> = vec![None; MAX_DARTS * STREAMS];
        for device in &devices {
            // Functions of one device may share a stream: all are named.
            let name = plain(device.name.as_str());
            match names.get_mut(place(device.dart, device.stream)) {
                Some(Some(known)) => *known = format!("{known}+{name}"),
                Some(none) => *none = Some(name),
                None => {}
            }
        }
        Self {
            machine: Machine::read(&words),
            darts: directory::darts(&words).collect(),
            devices,
            names,
            shown: None,
        }
    }

    /// Oche's version, commit and build, safe on a terminal; empty where the trace has none.
    pub fn release(&self) -> String {
        let text = self.machine.release.as_str();
        text.chars().map(|char| if char.is_control() { '_' } else { char }).collect()
    }

    /// How the trace's ticks become the seconds that views show: since Oche's start, unless another
    /// clock was chosen.
    pub fn clock(&self) -> Clock {
        self.shown.unwrap_or_else(|| self.own_clock())
    }

    /// Makes views show `clock`.
    pub fn show_clock(&mut self, clock: Clock) {
        self.shown = Some(clock);
    }

    /// How the trace's ticks become seconds since Oche's start.
    pub fn own_clock(&self) -> Clock {
        Clock { counter_hz: self.machine.counter_hz, start_ticks: self.machine.start_ticks }
    }

    /// The name, one word, of what `stream` of `dart` is, if it has one.
    pub fn device(&self, dart: DartId, stream: StreamId) -> Option<&str> {
        self.names.get(place(dart, stream))?.as_deref()
    }

    /// All devices' names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().flatten().map(String::as_str)
    }

    /// The name of what is at `place`, or `dartN/streamM` where it has none.
    pub fn name_of(&self, place: StreamPlace) -> String {
        match self.names.get(place.index()) {
            Some(Some(name)) => name.clone(),
            _ => format!("dart{}/stream{}", place.dart(), place.stream()),
        }
    }

    /// The name of the device that `record` is about, if it is about one and it has a name.
    pub fn device_of(&self, record: &Record) -> Option<&str> {
        self.device(record.dart()?, record.stream()?)
    }
}

/// `name` as one word that is safe on a terminal and in a line of fields, whatever the file holds.
pub fn plain(name: &str) -> String {
    name.chars()
        .map(|char| if char.is_control() || char.is_whitespace() { '_' } else { char })
        .collect()
}

fn place(dart: DartId, stream: StreamId) -> usize {
    dart.index() * STREAMS + stream.index()
}
