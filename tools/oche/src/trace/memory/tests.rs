//! A RAM file with an Oche in it, made by the hypervisor's own code.

use super::*;
use std::io::Write;
use std::path::PathBuf;

use oche_trace::directory::{DirectoryWriter, Machine, cpu_counters, store_statistics};
use oche_trace::ring::RingWriter;
use oche_trace::statistics::{Exit, Statistics};
use oche_trace::words::Text;
use oche_types::dart::stream::{DartId, StreamId};
use oche_types::event::Event;

/// Simulates the hypervisor: owns a RAM file and writes to it as EL2 does to memory.
pub(crate) struct Hypervisor {
    _directory: tempfile::TempDir,
    pub(crate) ram: PathBuf,
    file: File,
    pub(crate) layout: Layout,
    writers: Vec<RingWriter>,
}

/// The directory's offset in the RAM file.
pub(crate) const OFFSET: u64 = 3 * ALIGNMENT;

impl Hypervisor {
    /// A machine with `cpus` CPUs and `records` records a ring, not booted yet.
    pub(crate) fn new(cpus: usize, records: usize) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let ram = directory.path().join("ram");
        let file =
            File::options().create_new(true).read(true).write(true).open(&ram).expect("a RAM file");
        file.set_len(16 << 20).expect("a sparse file");
        let layout = Layout::new(cpus, records * 32);
        Self { _directory: directory, ram, file, layout, writers: Vec::new() }
    }

    /// Boots it at tick `start`.
    pub(crate) fn boot(&mut self, start: u64) {
        let machine = Machine {
            board: Text::new("qemu-virt"),
            release: Text::new("0.1.0 (ceabe3a4f01d, build 3f2a9c1be0d4)"),
            counter_hz: 1_000_000_000,
            start_ticks: start,
            wall_clock_nanoseconds: None,
        };
        let mut writer = DirectoryWriter::begin(self, self.layout, &machine);
        writer.dart(dart(), 0x0910_0000, "dart0");
        writer.device(0x08, dart(), StreamId::new(1).unwrap(), "0000:00:01.0");
        writer.finish();
        self.writers =
            (0..self.layout.cpus()).filter_map(|cpu| RingWriter::new(self.layout, cpu)).collect();
    }

    pub(crate) fn record(&mut self, cpu: usize, time: u64, event: &Event) {
        let mut writers = std::mem::take(&mut self.writers);
        writers[cpu].record(self, time, 0xffff_8000_0000_0000 | time << 2, event);
        self.writers = writers;
    }
}

impl Words for Hypervisor {
    fn load(&self, index: usize) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, OFFSET + index as u64 * 8).unwrap();
        u64::from_le_bytes(bytes)
    }

    fn store(&self, index: usize, value: u64) {
        self.file.write_all_at(&value.to_le_bytes(), OFFSET + index as u64 * 8).unwrap();
    }
}

pub(crate) fn dart() -> DartId {
    DartId::new(0).unwrap()
}

#[test]
fn a_directory_is_found_wherever_it_stands_and_counters_show_by_name() {
    let mut hypervisor = Hypervisor::new(2, 8);
    assert!(TraceMemory::find(&File::open(&hypervisor.ram).unwrap()).unwrap().is_none());
    hypervisor.boot(5);
    store_statistics(&hypervisor, &Statistics { flushes: 11, ..Statistics::default() });
    for cpu in 0..2 {
        let counters = cpu_counters(hypervisor.layout, cpu).unwrap();
        hypervisor.store(counters.start + Exit::DartRegister as usize, 1);
    }
    let memory =
        TraceMemory::find(&File::open(&hypervisor.ram).unwrap()).unwrap().expect("it is there");
    assert_eq!((memory.offset(), memory.layout()), (OFFSET, hypervisor.layout));
    let counters = read_statistics(&hypervisor.ram).unwrap();
    let value =
        |name: &str| counters.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
    assert_eq!(value("flushes"), Some(11));
    assert_eq!(value("exits_dart_register"), Some(2));
    assert_eq!(value("exits_dart_register[1]"), Some(1));
}

#[test]
fn a_file_without_oche_or_with_a_newer_one_gives_an_error_of_one_line() {
    let mut hypervisor = Hypervisor::new(1, 8);
    let error = read_statistics(&hypervisor.ram).unwrap_err().to_string();
    assert!(error.contains("no trace directory"), "{error}");
    hypervisor.boot(0);
    hypervisor.store(1, 0x0001_0000_0000_0009);
    let error = read_statistics(&hypervisor.ram).unwrap_err().to_string();
    assert!(error.contains("version 9") && !error.contains('\n'), "{error}");
}

#[test]
fn a_file_that_ends_within_the_rings_is_refused_and_one_with_an_odd_end_is_read() {
    let mut hypervisor = Hypervisor::new(1, 8);
    hypervisor.boot(0);
    hypervisor.file.set_len(OFFSET + 0x1_0000).unwrap();
    assert!(read_statistics(&hypervisor.ram).unwrap_err().to_string().contains("damaged"));
    hypervisor.file.set_len(OFFSET + 0x1_0000 + 8 * 32 + 3).unwrap();
    assert!(read_statistics(&hypervisor.ram).is_ok());
    let mut short = File::create(hypervisor.ram.with_extension("short")).unwrap();
    short.write_all(b"OCHET").unwrap();
    assert!(read_statistics(&hypervisor.ram.with_extension("short")).is_err());
}
