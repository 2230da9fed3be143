//! What is written is what is read, and nothing else is believed.

use super::*;
use crate::words::tests::Shared;
use alloc::string::String;
use alloc::string::ToString;
use alloc::vec::Vec;

const LAYOUT_BYTES: usize = DIRECTORY_BYTES + 2 * 4096;

fn machine() -> Machine {
    Machine {
        board: Text::new("qemu-virt"),
        release: Text::new("0.1.0 (ceabe3a4f01d, build 3f2a9c1be0d4)"),
        counter_hz: 62_500_000,
        start_ticks: 1234,
        wall_clock_nanoseconds: None,
    }
}

fn written() -> (Shared, Layout) {
    let words = Shared::new(LAYOUT_BYTES);
    let layout = Layout::new(2, 5000);
    let mut writer = DirectoryWriter::begin(&words, layout, &machine());
    writer.dart(DartId::new(1).unwrap(), 0x0910_4000, "dart1");
    writer.device(0x0108, DartId::new(1).unwrap(), StreamId::new(9).unwrap(), "nvme");
    writer.finish();
    (words, layout)
}

#[test]
fn a_directory_reads_back_as_it_was_written() {
    let (words, layout) = written();
    assert_eq!(layout.ring_records(), 128);
    assert_eq!(layout.total_bytes(), LAYOUT_BYTES);
    assert_eq!(Layout::read(&words, LAYOUT_BYTES), Ok(layout));
    assert_eq!(Machine::read(&words), machine());
    let darts: Vec<_> =
        darts(&words).map(|entry| (entry.dart.index(), entry.registers, entry.name)).collect();
    assert_eq!(darts, [(1, 0x0910_4000, Text::new("dart1"))]);
    let devices: Vec<_> = devices(&words).collect();
    let expected = DeviceEntry {
        requester: 0x0108,
        dart: DartId::new(1).unwrap(),
        stream: StreamId::new(9).unwrap(),
        name: Text::new("nvme"),
    };
    assert_eq!(devices, [expected]);
}

#[test]
fn until_it_is_finished_and_once_it_is_rewritten_there_is_no_directory() {
    let (words, layout) = written();
    let writer = DirectoryWriter::begin(&words, layout, &machine());
    assert_eq!(Layout::read(&words, LAYOUT_BYTES), Err(DirectoryError::Absent));
    writer.finish();
    assert_eq!(Layout::read(&words, LAYOUT_BYTES), Ok(layout));
}

#[test]
fn counters_show_by_name_and_by_cpu() {
    let (words, layout) = written();
    store_statistics(&words, &Statistics { maps: 7, ..Statistics::default() });
    let counters_of_1 = cpu_counters(layout, 1).unwrap();
    words.store(counters_of_1.start + Exit::SecureCall as usize, 2);
    assert!(cpu_counters(layout, 2).is_none());
    assert_eq!(counters_of_1.len(), Exit::NAMES.len());
    let shown: Vec<(String, Option<usize>, u64)> = counters(&words, layout)
        .filter(|counter| counter.value != 0)
        .map(|counter| (counter.name.as_str().to_string(), counter.cpu, counter.value))
        .collect();
    assert_eq!(shown, [("maps".to_string(), None, 7), ("exits_smc".to_string(), Some(1), 2)]);
}

#[test]
fn a_directory_whose_sizes_contradict_each_other_is_refused() {
    for (offset, value) in [
        (header::VERSION, pair(VERSION, 1)),
        (header::TOTAL, LAYOUT_BYTES as u64 + 8),
        (header::TOTAL, LAYOUT_BYTES as u64 - 8),
        (header::CPUS, pair(0, 32)),
        (header::CPUS, pair(33, 32)),
        (header::CPUS, pair(2, 24)),
        (header::RING_BASE, u64::MAX - 7),
        (header::RING_BASE, 64),
        (header::RING_STRIDE, u64::MAX / 2),
        (header::RING_STRIDE, 8),
        (header::RING_RECORDS, 100),
        (header::RING_RECORDS, 1 << 63),
    ] {
        let (words, _) = written();
        words.store(offset / 8, value);
        let read = Layout::read(&words, LAYOUT_BYTES);
        assert_eq!(read, Err(DirectoryError::Damaged), "{offset:#x} = {value:#x}");
    }
    let (words, _) = written();
    words.store(header::VERSION / 8, pair(2, DIRECTORY_BYTES as u32));
    assert_eq!(Layout::read(&words, LAYOUT_BYTES), Err(DirectoryError::Version(2)));
}

#[test]
fn more_devices_than_fit_are_left_out() {
    let (words, layout) = written();
    let mut writer = DirectoryWriter::begin(&words, layout, &machine());
    for index in 0..MAX_DEVICES + 5 {
        writer.device(index as u32, DartId::new(0).unwrap(), StreamId::new(0).unwrap(), "device");
    }
    writer.finish();
    assert_eq!(devices(&words).count(), MAX_DEVICES);
    assert_eq!(
        counters(&words, layout).count(),
        Statistics::NAMES.len() + 2 * (Exit::NAMES.len() + 2)
    );
}

#[test]
fn what_the_boot_before_left_is_kept_until_another_boot_leaves_something() {
    let layout = Layout::new(2, 256 * 32);
    let (now, before) = (Shared::new(layout.total_bytes()), Shared::new(layout.total_bytes()));
    assert!(!keep_previous(&now, &before, layout.total_bytes()), "nothing was left");
    assert_eq!(Layout::read_previous(&before, layout.total_bytes()), Err(DirectoryError::Absent));
    for boot in 1..3 {
        let machine = Machine {
            board: Text::new("test"),
            release: Text::new("0.1.0 (ceabe3a4f01d, build 3f2a9c1be0d4)"),
            counter_hz: 1000,
            start_ticks: boot,
            wall_clock_nanoseconds: None,
        };
        DirectoryWriter::begin(&now, layout, &machine).finish();
        now.store(layout.total_bytes() / 8 - 1, boot);
        assert!(keep_previous(&now, &before, layout.total_bytes()));
        assert_eq!(Layout::read(&now, layout.total_bytes()), Err(DirectoryError::Absent));
        // A boot that came to nothing leaves nothing, and takes nothing.
        assert!(!keep_previous(&now, &before, layout.total_bytes()));
        assert_eq!(Layout::read_previous(&before, layout.total_bytes()), Ok(layout));
        assert_eq!(Machine::read(&before), machine);
        assert_eq!(before.load(layout.total_bytes() / 8 - 1), boot);
        assert_eq!(description(&before).next(), Some(MAGIC));
    }
    now.store(0, MAGIC);
    now.store(2, u64::MAX);
    assert!(!keep_previous(&now, &before, layout.total_bytes()), "its sizes contradict each other");
    assert_eq!(Layout::read_previous(&before, layout.total_bytes()), Ok(layout));
}
