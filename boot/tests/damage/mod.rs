//! The fixture, a second reader, and damage: that none to an FDT is a panic.
//!
//! The fixture is what QEMU 7.2 dumps for `-M virt,virtualization=on,gic-version=3,iommu=smmuv3
//! -smp 4 -m 2G`, without its padding (`dtc -I dtb -O dtb`).

use oche_boot::blob;
use oche_boot::guest_fdt::{Changes, Edit, VirtioPort, rewrite};
use oche_boot::machine::Machine;
use oche_boot::normalize::MAX_NORMALIZED_BYTES;
use oche_types::range::PhysRange;

#[path = "../fuzz/random.rs"]
mod random;

use random::Random;

pub(crate) const FIXTURE: &[u8] = include_bytes!("../data/qemu-virt.dtb");
pub(crate) const PORT: VirtioPort = VirtioPort {
    window: PhysRange { start: 0x0918_0000, end: 0x0918_1000 },
    interrupt_parent: None,
    interrupt: [0, 200, 1],
};
/// Two gigabytes without an image low down and a pool at the top.
pub(crate) const MEMORY: [PhysRange; 2] = [
    PhysRange { start: 0x4000_0000, end: 0x4020_0000 },
    PhysRange { start: 0x4060_0000, end: 0xa000_0000 },
];

/// Room for a normalized tree.
pub(crate) fn buffer() -> Vec<u8> {
    vec![0; MAX_NORMALIZED_BYTES]
}

/// Reads with another parser than the one that wrote.
pub(crate) fn cells(tree: &fdt::Fdt<'_>, path: &str, name: &str) -> Vec<u32> {
    let node = tree.find_node(path).unwrap_or_else(|| panic!("no node {path}"));
    let property = node.property(name).unwrap_or_else(|| panic!("no {name} in {path}"));
    property
        .value
        .chunks_exact(4)
        .map(|cell| u32::from_be_bytes(cell.try_into().expect("four")))
        .collect()
}

pub(crate) fn has(tree: &fdt::Fdt<'_>, path: &str, name: &str) -> bool {
    tree.find_node(path).is_some_and(|node| node.property(name).is_some())
}

/// Reads `bytes` as boot does. What matters is that it returns.
fn read_and_rewrite(bytes: &[u8], board: Option<&dyn Edit>) -> bool {
    let mut buffer = buffer();
    let Ok(machine) = Machine::read(bytes, &mut buffer) else { return false };
    machine.chosen_options(&mut |_, _| {});
    let changes = Changes {
        memory: &MEMORY,
        initrd: None,
        bootargs: Some("quiet"),
        board,
        port: Some(PORT),
        reserved: &[],
        spin_table: &[],
    };
    rewrite(machine.blob(), &changes).is_ok_and(|blob| blob::check(&blob).is_ok())
}

/// Every truncation is refused.
pub(crate) fn truncate(board: Option<&dyn Edit>) {
    assert!(read_and_rewrite(FIXTURE, board));
    for length in 0..FIXTURE.len() {
        assert!(!read_and_rewrite(&FIXTURE[..length], board), "{length}");
        // And with a header that agrees with the length.
        let mut bytes = FIXTURE[..length].to_vec();
        if let Some(size) = bytes.get_mut(4..8) {
            size.copy_from_slice(&(length as u32).to_be_bytes());
            read_and_rewrite(&bytes, board);
        }
    }
}

/// No damage is a panic.
pub(crate) fn damage(board: Option<&dyn Edit>) {
    let mut survivors = 0;
    for seed in 0..4000u64 {
        let mut random = Random(seed);
        let mut bytes = FIXTURE.to_vec();
        for _ in 0..=random.below(8) {
            // Every other seed aims at the tokens and lengths, which are words, or at the header.
            let at = match seed % 4 {
                0 => random.below(40),
                1 => random.below(bytes.len() / 4) * 4 + 3,
                _ => random.below(bytes.len()),
            };
            bytes[at] = match random.below(3) {
                0 => bytes[at] ^ 1 << random.below(8),
                1 => random.below(10) as u8,
                _ => random.below(256) as u8,
            };
        }
        survivors += usize::from(read_and_rewrite(&bytes, board));
    }
    assert!(survivors > 100, "some damage is only to values: {survivors}");
}
