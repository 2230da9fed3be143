//! Damaged and wild memory: nothing panics, nothing takes long, and what no longer fits is refused.
//!
//! `OCHE_INPUTS=100000 cargo test --release -p oche --lib wild_memory` tries so many.

use super::made::{IMAGE, MODULE_AT, Made, ORDERS, Order};
use crate::trace::numbers::Numbers;

use super::{Function, made, read, sorted};

/// Inputs of an ordinary run.
const INPUTS: u64 = 40;

/// A part of the kernel, a byte of it, and what the byte becomes.
const DAMAGE: [(&str, usize, u8); 14] = [
    ("count", 0, 0x01),
    ("count", 1, 0xff),
    ("names", 0, 0),
    ("names", 0, 1),
    ("names", 0, 0xff),
    ("markers", 4, 0x77),
    ("markers", 8, 0xff),
    ("tokens", 3, b'a'),
    ("index", 2, 0x55),
    ("index", 511, 0xff),
    ("offsets", 43, 0x7e),
    ("banner", 0, b'l'),
    ("root", 0x800, 0),
    ("last table", 0x200, 0),
];

#[test]
fn tables_with_a_damaged_field_are_refused() {
    for order in ORDERS {
        for (part, offset, value) in DAMAGE {
            let mut made = Made::new(order);
            let at = made.at[part] + offset;
            assert_ne!(made.bytes[at], value, "{order:?} {part}+{offset}");
            made.put(at, &[value]);
            let error = match read(&made) {
                Ok(_) => panic!("{order:?} {part}+{offset}: read in spite of it"),
                Err(error) => error.to_string(),
            };
            assert!(!error.contains('\n') && error.contains("--add"), "{error}");
        }
    }
}

#[test]
fn a_base_that_is_not_the_kernels_is_refused() {
    for order in [Order::Old, Order::OldWithNumbers, Order::New] {
        for (byte, value) in [(7, 0x7f), (3, 0x55), (2, 0x24), (0, 1)] {
            let mut made = Made::new(order);
            made.put(made.at["base"] + byte, &[value]);
            assert!(read(&made).is_err(), "{order:?} base+{byte}");
        }
    }
}

#[test]
fn damaged_types_cost_the_modules_and_devices_alone() {
    for (offset, value) in [(0, 0), (2, 9), (4, 0xff), (11, 0x10), (15, 0x7f), (24 + 7, 0x1f)] {
        let mut made = Made::new(Order::New);
        made.put(made.at["types"] + offset, &[value]);
        let names = read(&made).unwrap();
        assert!(names.functions.iter().all(|function| function.module.is_none()));
        assert!(names.devices.is_empty());
        assert_eq!(names.missing.len(), 2, "types+{offset}: {:?}", names.missing);
    }
}

#[test]
fn lists_that_lead_nowhere_or_in_a_circle_end() {
    for part in ["modules", "set"] {
        let mut made = Made::new(Order::New);
        made.put(made.at[part], &[0x10]);
        let names = read(&made).unwrap();
        assert_eq!(names.missing.len(), 1, "{part}: {:?}", names.missing);
    }
    // The module follows itself.
    let mut made = Made::new(Order::New);
    let itself: [u8; 16] = made.bytes[IMAGE + 0x2_2000..][..16].try_into().unwrap();
    made.put(MODULE_AT + 8, &itself);
    let names = read(&made).unwrap();
    assert!(names.missing.iter().any(|line| line.contains("damaged")), "{:?}", names.missing);
}

/// Page tables that lead to themselves: the walk has as many steps as levels.
#[test]
fn page_tables_that_are_their_own_are_refused() {
    for order in ORDERS {
        let mut made = Made::new(order);
        let root = made.at["root"];
        let descriptor = (made::RAM + root as u64) | 3;
        for entry in 0..512 {
            made.put(root + entry * 8, &descriptor.to_le_bytes());
        }
        assert!(read(&made).is_err(), "{order:?}");
    }
}

#[test]
fn wild_memory_is_read_or_refused() {
    let inputs = std::env::var("OCHE_INPUTS").ok().and_then(|text| text.parse().ok());
    let mut numbers = Numbers(1);
    let known = sorted(made::functions());
    let kernels = ORDERS.map(Made::new);
    for input in 0..inputs.unwrap_or(INPUTS) {
        let mut made = kernels[numbers.below(4)].clone();
        let parts: Vec<usize> = made.at.values().copied().chain([MODULE_AT]).collect();
        for _ in 0..1 + numbers.below(6) {
            let part = parts[numbers.below(parts.len())];
            let reach = [64, 0x3000][numbers.below(2)];
            let at = part + numbers.below(reach);
            let length = 1 + numbers.below(8);
            let bytes: Vec<u8> = (0..length).map(|_| numbers.next() as u8).collect();
            made.put(at, &bytes);
        }
        if numbers.below(8) == 0 {
            let length = IMAGE + numbers.below(made.bytes.len() - IMAGE);
            made.bytes.truncate(length);
        }
        if let Ok(names) = read(&made) {
            // A character of a name may have changed; no address has, and no name is made up.
            let is_known = |one: &Function| {
                let at = known.partition_point(|other| other.address < one.address);
                known.get(at).is_some_and(|other| other.address == one.address)
                    || one.module.is_some()
            };
            let strange: Vec<_> = names.functions.iter().filter(|one| !is_known(one)).collect();
            assert!(strange.len() <= 8, "input {input}: {strange:x?}");
        }
    }
}
