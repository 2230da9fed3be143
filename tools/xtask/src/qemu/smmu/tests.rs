//! A hand-made SMMU whose tables are right, and then damaged in one place each.

use std::collections::HashMap;

use super::{Owners, Physical, StreamTableRegisters, Survey, is_covered};

const STREAM_TABLE: u64 = 0x4800_0000;
const CONTEXT: u64 = 0x4801_0000;
const ROOT: u64 = 0x4801_4000;
const LEAVES: u64 = 0x4801_8000;
const POOL: u64 = 0x4900_0000;
const GUEST: u64 = 0x5000_0000;

#[derive(Default)]
struct Words(HashMap<u64, u64>);

impl Physical for Words {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Option<()> {
        if !(0x4000_0000..0x6000_0000).contains(&address) {
            return None;
        }
        for (index, chunk) in buffer.chunks_mut(8).enumerate() {
            let word = self.0.get(&(address + index as u64 * 8)).copied().unwrap_or(0);
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
        Some(())
    }
}

fn owners() -> Owners {
    Owners {
        guest: vec![0x4000_0000..0x4800_0000, GUEST..0x6000_0000],
        pool: Some(POOL..POOL + 0x10_0000),
    }
}

/// Stream 8 translates: one frame of the guest, one of the pool.
fn good() -> (StreamTableRegisters, Words) {
    let registers =
        StreamTableRegisters { control: 1, table_base: STREAM_TABLE, table_configuration: 8 };
    let mut words = Words::default();
    words.0.insert(STREAM_TABLE + 8 * 64, 1 | 5 << 1 | CONTEXT);
    words.0.insert(CONTEXT, 28 | 2 << 6 | 1 << 30 | 1 << 31 | 1 << 41);
    words.0.insert(CONTEXT + 8, ROOT);
    words.0.insert(ROOT + 5 * 8, LEAVES | 3);
    words.0.insert(LEAVES, GUEST | 0x403);
    words.0.insert(LEAVES + 2047 * 8, (POOL + 0x4000) | 0x403);
    (registers, words)
}

fn survey(damage: impl FnOnce(&mut StreamTableRegisters, &mut Words)) -> Survey {
    let (mut registers, mut words) = good();
    damage(&mut registers, &mut words);
    let mut survey = Survey::default();
    survey.add(registers, &words, &owners());
    survey
}

#[test]
fn right_tables_are_counted_and_found_right() {
    let survey = survey(|_, _| {});
    survey.judge().unwrap();
    assert_eq!(
        (survey.most_streams, survey.contexts, survey.contexts_of_16k, survey.tables),
        (1, 1, 1, 2)
    );
    assert_eq!(
        (survey.frames_of_guest, survey.frames_of_pool, survey.frames_of_devices),
        (1, 1, 0)
    );
}

#[test]
fn a_two_level_stream_table_is_walked_too() {
    let survey = survey(|registers, words| {
        registers.table_configuration = 8 | 6 << 6 | 1 << 16;
        registers.table_base = 0x4802_0000;
        words.0.insert(0x4802_0000, STREAM_TABLE | 7);
    });
    survey.judge().unwrap();
    assert_eq!(survey.most_streams, 1);
}

/// Each damage with a word of the complaint that must follow.
#[test]
fn every_damage_is_noticed() {
    type Damage = fn(&mut StreamTableRegisters, &mut Words);
    let damages: [(&str, Damage); 12] = [
        ("off", |registers, _| registers.control = 0),
        ("bypasses", |_, words| *words.0.get_mut(&(STREAM_TABLE + 8 * 64)).unwrap() = 1 | 4 << 1),
        ("stage 2", |_, words| *words.0.get_mut(&(STREAM_TABLE + 8 * 64)).unwrap() = 1 | 7 << 1),
        ("4K granule", |_, words| *words.0.get_mut(&CONTEXT).unwrap() &= !(3 << 6)),
        ("64K granule", |_, words| *words.0.get_mut(&CONTEXT).unwrap() ^= 3 << 6),
        ("T0SZ 25", |_, words| *words.0.get_mut(&CONTEXT).unwrap() ^= 28 ^ 25),
        ("upper addresses", |_, words| *words.0.get_mut(&CONTEXT).unwrap() ^= 1 << 30),
        ("lies in the guest's memory", |_, words| {
            *words.0.get_mut(&(ROOT + 40)).unwrap() = GUEST | 3
        }),
        ("not in RAM", |_, words| *words.0.get_mut(&(ROOT + 40)).unwrap() = 0x7000_0000 | 3),
        ("neither", |_, words| *words.0.get_mut(&LEAVES).unwrap() = CONTEXT & !0x3fff | 3),
        // A block of 32 MiB in which the pool lies, and more.
        ("in part", |_, words| *words.0.get_mut(&(ROOT + 40)).unwrap() = 0x4800_0000 | 1),
        ("reserved descriptor", |_, words| *words.0.get_mut(&LEAVES).unwrap() = GUEST | 1),
    ];
    for (complaint, damage) in damages {
        let survey = survey(damage);
        let reported = survey.violations.join("; ");
        assert!(reported.contains(complaint), "expected {complaint:?} in {reported:?}");
        assert!(survey.judge().is_err());
    }
}

#[test]
fn a_look_at_nothing_shows_nothing() {
    let survey = survey(|_, words| words.0.clear());
    assert!(survey.violations.is_empty());
    assert!(survey.judge().unwrap_err().to_string().contains("nothing was mapped"));
}

#[test]
fn adjoining_ranges_cover_together() {
    assert!(is_covered(0..10, &[0..4, 4..10]));
    assert!(!is_covered(0..10, &[0..4, 5..10]));
}
