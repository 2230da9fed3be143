//! Damaged device trees: refused for a reason, or read alike by two parsers.
//!
//! The long form: `cargo test -p oche-boot --test fuzz_trees -- --ignored`, with further trees in
//! `OCHE_DEVICE_TREES` (paths, separated by colons).

use oche_boot::guest_fdt::{Changes, rewrite};
use oche_boot::machine::Machine;
use oche_boot::tree::Tree;
use oche_types::range::PhysRange;

mod fuzz;

use fuzz::{run, with_named_trees};

/// QEMU's tree: `damage/mod.rs` says which.
const QEMU: &[u8] = include_bytes!("data/qemu-virt.dtb");
/// Inputs of one run in the test command, and of one in the long form.
const SHORT: u64 = 10_000;
const LONG: u64 = 1_000_000;

/// What boot does with a tree. What matters is that it returns.
fn boot(_: &[u8], tree: Option<Tree<'_>>) {
    let Some(machine) = tree.and_then(|tree| Machine::of(tree).ok()) else { return };
    machine.chosen_options(&mut |_, _| {});
    let memory = [PhysRange { start: 0x4000_0000, end: 0x8000_0000 }];
    let changes = Changes {
        memory: &memory,
        initrd: None,
        bootargs: Some("quiet"),
        board: None,
        port: None,
        reserved: &[],
        spin_table: &[],
    };
    if let Ok(blob) = rewrite(machine.blob(), &changes) {
        let mut buffer = vec![0; blob.len()];
        let guest = Machine::read(&blob, &mut buffer).expect("what Oche wrote can be read");
        assert_eq!(guest.ram.as_slice(), memory);
    }
}

#[test]
fn damaged_trees_are_refused_or_read_alike() {
    let outcomes = run(&[QEMU.to_vec()], SHORT, &mut boot);
    assert!(outcomes.accepted > SHORT as usize / 5, "{outcomes:?}");
    assert_eq!(outcomes.refused.len(), 8, "every reason occurs: {outcomes:?}");
}

#[test]
#[ignore = "takes minutes: see above"]
fn a_million_damaged_trees_are_refused_or_read_alike() {
    let outcomes = run(&with_named_trees(QEMU), LONG, &mut boot);
    println!("{outcomes:?}");
    assert!(outcomes.accepted > LONG as usize / 5, "{outcomes:?}");
}
