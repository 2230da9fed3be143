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
    drivers: Vec<Option<String>>,
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
            drivers: vec![None; MAX_DARTS * STREAMS],
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

    /// Learns which drivers of the guest its devices are bound to: pairs of a device's name as
    /// Linux has it, and its driver's. What is learned later holds.
    pub fn learn_drivers<'a>(&mut self, bound: impl Iterator<Item = (&'a str, &'a str)>) {
        let bound: Vec<(&str, &str)> = bound.collect();
        let mut learned: Vec<Option<String>> = vec![None; self.drivers.len()];
        for device in &self.devices {
            let is_it = |(linux, _): &&(&str, &str)| is_same(device.name.as_str(), linux);
            let Some((_, driver)) = bound.iter().find(is_it) else { continue };
            let driver = plain(driver);
            match learned.get_mut(place(device.dart, device.stream)) {
                Some(Some(known)) if known.split('+').any(|part| part == driver) => {}
                Some(Some(known)) => *known = format!("{known}+{driver}"),
                Some(none) => *none = Some(driver),
                None => {}
            }
        }
        for (known, learned) in self.drivers.iter_mut().zip(learned) {
            *known = learned.or(known.take());
        }
    }

    /// The guest's driver of what is at `place`, where the trace has it.
    pub fn driver_of(&self, place: StreamPlace) -> Option<&str> {
        self.drivers.get(place.index())?.as_deref()
    }

    /// The name of what is at `place`, with its driver where that is known: `0000:00:01.0 (nvme)`.
    pub fn label_of(&self, place: StreamPlace) -> String {
        labelled(&self.name_of(place), self.driver_of(place))
    }

    /// Whether the name of what is at `place`, or that of its driver, contains `wanted`.
    pub fn is_called(&self, place: StreamPlace, wanted: &str) -> bool {
        self.name_of(place).contains(wanted)
            || self.driver_of(place).is_some_and(|driver| driver.contains(wanted))
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

/// `name (driver)`, or `name` where the driver is not known.
pub fn labelled(name: &str, driver: Option<&str>) -> String {
    driver.map_or_else(|| name.to_owned(), |driver| format!("{name} ({driver})"))
}

/// Whether Linux calls a device `linux` that is `name` in a device tree or on a bus: a node
/// `usb@382280000` is the platform device `382280000.usb` (Linux, drivers/of/device.c,
/// `of_device_make_bus_id`).
fn is_same(name: &str, linux: &str) -> bool {
    let is_node = |(node, address): (&str, &str)| {
        linux.split_once('.').is_some_and(|(at, of)| at == address && of == node)
    };
    name == linux || name.split_once('@').is_some_and(is_node)
}

fn place(dart: DartId, stream: StreamId) -> usize {
    dart.index() * STREAMS + stream.index()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::made::Made;

    fn stream_place(dart: usize, stream: usize) -> StreamPlace {
        let at = crate::trace::made::at(dart, stream, 0);
        StreamPlace::new(at.dart, at.stream)
    }

    #[test]
    fn a_device_is_shown_with_its_driver_and_found_by_it() {
        let trace = Made::new().open();
        let mut of = trace.sessions[0].description.clone();
        assert_eq!(of.label_of(stream_place(0, 1)), "nvme");
        of.learn_drivers([("nvme", "nvme_pci"), ("another", "none")].into_iter());
        assert_eq!(of.label_of(stream_place(0, 1)), "nvme (nvme_pci)");
        assert_eq!(of.label_of(stream_place(0, 2)), "e1000e");
        assert!(of.is_called(stream_place(0, 1), "_pci"));
        assert!(!of.is_called(stream_place(0, 2), "_pci"));
        of.learn_drivers([("e1000e", "wild\u{1b}driver")].into_iter());
        assert_eq!(of.label_of(stream_place(0, 2)), "e1000e (wild_driver)");
        assert_eq!(of.driver_of(stream_place(0, 1)), Some("nvme_pci"), "it stays known");
    }

    #[test]
    fn a_node_of_a_device_tree_is_the_platform_device_of_linux() {
        assert!(is_same("usb@382280000", "382280000.usb"));
        assert!(is_same("0000:00:01.0", "0000:00:01.0"));
        assert!(!is_same("usb@382280000", "502280000.usb"));
        assert!(!is_same("usb@382280000", "382280000.nvme"));
        assert!(!is_same("usb", "382280000.usb"));
    }
}
