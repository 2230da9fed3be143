//! Registers, the window, the TLB and faults of the strict DART.

use super::{DartSetting, INVALIDATION, SimulatedDart, Supply};
use crate::memory::BoardMemory;

const BASE: u64 = 0x6_8100_8000;
const TABLES: u64 = 0x8_1000_0000;

fn store(dart: &mut SimulatedDart, memory: &BoardMemory, offset: u64, value: u32) {
    memory.set_word(BASE + offset, value);
    dart.written(memory, if offset == 0x40 { BASE + 0x40 } else { BASE });
}

fn flush(dart: &mut SimulatedDart, memory: &BoardMemory) {
    store(dart, memory, 0x34, 0xffff);
    store(dart, memory, 0x20, 1 << 20);
    assert_eq!(memory.word(BASE + 0x20), 4, "busy");
    std::thread::sleep(INVALIDATION);
    dart.tick(memory);
    assert_eq!(memory.word(BASE + 0x20), 0);
}

fn mapped() -> (BoardMemory, SimulatedDart) {
    let memory = BoardMemory::create().expect("a file");
    let mut dart = SimulatedDart::new(&memory, 0, BASE, DartSetting::Idle);
    memory.write(TABLES, &((TABLES + 0x4000) | 1).to_le_bytes());
    // Read and write, in the second 4 KiB alone.
    let entry = 0x400_u64 << 52 | 0x7ff_u64 << 40 | 0x8_2000_0000 | 1;
    memory.write(TABLES + 0x4000 + 8, &entry.to_le_bytes());
    store(&mut dart, &memory, 0x200, 0x8000_0000 | (TABLES >> 12) as u32);
    store(&mut dart, &memory, 0x100, 0x80);
    flush(&mut dart, &memory);
    (memory, dart)
}

#[test]
fn a_window_is_checked_and_a_fault_latched_until_it_is_cleared() {
    let (memory, mut dart) = mapped();
    assert_eq!(dart.translate(&memory, 0, 0x5004, true), Ok(0x8_2000_1004));
    assert_eq!(dart.translate(&memory, 0, 0x6000, true), Err(()));
    assert_eq!(memory.word(BASE + 0x40), 1 << 31 | 1 << 10 | 1 << 7);
    assert_eq!(memory.word(BASE + 0x50), 0x6000);
    assert_eq!(dart.translate(&memory, 0, 0x9000, false), Err(()));
    assert_eq!(memory.word(BASE + 0x50), 0x6000, "the first one stays");
    store(&mut dart, &memory, 0x40, u32::MAX);
    assert_eq!(memory.word(BASE + 0x40), 0);
}

#[test]
fn what_is_cached_stays_until_it_is_invalidated() {
    let (memory, mut dart) = mapped();
    assert!(dart.translate(&memory, 0, 0x5000, false).is_ok());
    assert!(dart.translate(&memory, 0, 0x8000, false).is_err());
    memory.write(TABLES + 0x4000 + 8, &[0; 8]);
    memory.write(TABLES + 0x4000 + 16, &(0xfff_u64 << 40 | 0x8_3000_0000 | 1).to_le_bytes());
    assert!(dart.translate(&memory, 0, 0x5000, false).is_ok(), "a stale entry");
    assert!(dart.translate(&memory, 0, 0x8000, false).is_err(), "a stale hole");
    flush(&mut dart, &memory);
    assert!(dart.translate(&memory, 0, 0x5000, false).is_err());
    assert_eq!(dart.translate(&memory, 0, 0x8000, false), Ok(0x8_3000_0000));
}

#[test]
fn what_hardware_does_not_forgive_is_noted() {
    let memory = BoardMemory::create().expect("a file");
    let mut off = SimulatedDart::new(&memory, 0, BASE, DartSetting::Off);
    store(&mut off, &memory, 0x100, 0x80);
    assert_eq!(off.violations.len(), 1);
    off.read();
    assert_eq!((off.violations.len(), off.unreadable()), (2, Some((BASE, 0x300))));
    let mut locked = SimulatedDart::new(&memory, 0, BASE, DartSetting::Locked);
    store(&mut locked, &memory, 0x100, 0);
    assert_eq!((locked.violations.len(), memory.word(BASE + 0x100)), (1, 0x80));
    let (memory, mut busy) = mapped();
    store(&mut busy, &memory, 0x20, 1 << 20);
    store(&mut busy, &memory, 0x20, 1 << 20);
    assert_eq!(busy.violations.len(), 1);
}

#[test]
fn a_dart_without_a_clock_keeps_what_it_has_cached_and_one_without_power_forgets_it() {
    let (memory, mut dart) = mapped();
    let copies = |dart: &mut SimulatedDart| dart.copy(&memory, 0, 0x5000, 0x5004, 4).is_ok();
    assert!(copies(&mut dart));
    memory.write(TABLES + 0x4000 + 8, &[0; 8]);
    dart.supply(&memory, Supply::Held);
    assert!(!copies(&mut dart), "nothing works without a clock");
    dart.supply(&memory, Supply::On);
    assert!(copies(&mut dart), "a stale entry");
    dart.supply(&memory, Supply::Off);
    assert_eq!((copies(&mut dart), memory.word(BASE + 0x100)), (false, u32::MAX));
    dart.supply(&memory, Supply::On);
    assert_eq!((copies(&mut dart), memory.word(BASE + 0x100), dart.unreadable()), (false, 0, None));
}
