//! The guest's FDT on qemu-virt: emulated DARTs instead of QEMU's SMMU.
#![expect(clippy::disallowed_methods, reason = "the trees are the tests' own, and sound")]

use oche_boot::guest_fdt::{Changes, rewrite};
use oche_qemu_virt::guest_fdt::Darts;
use oche_qemu_virt::iommu_map::Choice;
use oche_types::range::PhysRange;

#[path = "../../../boot/tests/damage/mod.rs"]
mod damage;

use damage::{FIXTURE, MEMORY, PORT, cells, has};

const WINDOWS: [PhysRange; 2] = [
    PhysRange { start: 0x0910_0000, end: 0x0910_4000 },
    PhysRange { start: 0x0910_4000, end: 0x0910_8000 },
];

fn darts(map: &Choice) -> Darts<'_> {
    Darts { windows: &WINDOWS, interrupt: [0, 74, 1], replaces: "arm,smmu-v3", map }
}

fn rewritten(map: &Choice) -> Vec<u8> {
    let changes = Changes {
        memory: &MEMORY,
        initrd: None,
        bootargs: None,
        board: Some(&darts(map)),
        port: Some(PORT),
        reserved: &[],
        spin_table: &[],
    };
    rewrite(FIXTURE, &changes).expect("the fixture can be edited")
}

#[test]
fn darts_stand_where_the_smmu_stood() {
    let blob = rewritten(&Choice::default());
    let tree = fdt::Fdt::new(&blob).expect("sound");
    assert!(tree.find_compatible(&["arm,smmu-v3"]).is_none());
    assert!(fdt::Fdt::new(FIXTURE).expect("sound").find_compatible(&["arm,smmu-v3"]).is_some());
    let mut phandles = Vec::new();
    for window in WINDOWS {
        let path = format!("/iommu@{:x}", window.start);
        let node = tree.find_node(&path).expect("a DART");
        assert_eq!(node.compatible().expect("has one").first(), "apple,t8103-dart");
        assert_eq!(cells(&tree, &path, "reg"), [0, window.start as u32, 0, 0x4000]);
        assert_eq!(cells(&tree, &path, "interrupts"), [0, 74, 1]);
        assert_eq!(cells(&tree, &path, "#iommu-cells"), [1]);
        phandles.extend(cells(&tree, &path, "phandle"));
    }
    let owners = |phandle| {
        let is_owner = |node: &fdt::node::FdtNode<'_, '_>| {
            node.property("phandle")
                .is_some_and(|property| property.as_usize() == Some(phandle as usize))
        };
        tree.all_nodes().filter(is_owner).count()
    };
    assert!(phandles.iter().all(|phandle| owners(*phandle) == 1), "no phandle is used twice");

    let host = "/pcie@10000000";
    assert!(!has(&tree, host, "msi-map") && !has(&tree, host, "msi-parent"));
    assert!(
        has(&tree, host, "dma-coherent") && has(&tree, host, "interrupt-map"),
        "the rest stays"
    );
    let map = cells(&tree, host, "iommu-map");
    assert_eq!(map.len(), 32 * 4, "one entry for each slot");
    assert_eq!(map[4..8], [0x08, phandles[0], 1, 1]);
    assert_eq!(map[31 * 4..], [0xf8, phandles[1], 15, 1]);
    assert_eq!(cells(&tree, host, "iommu-map-mask"), [0xfff8], "a slot's functions are one");
}

#[test]
fn a_map_of_the_users_own_names_requesters_exactly() {
    let blob = rewritten(&Choice::parse("0x08:0:3,0x11:1:15").expect("it is good"));
    let tree = fdt::Fdt::new(&blob).expect("sound");
    let [first, second] =
        WINDOWS.map(|window| cells(&tree, &format!("/iommu@{:x}", window.start), "phandle")[0]);
    assert_eq!(
        cells(&tree, "/pcie@10000000", "iommu-map"),
        [0x08, first, 3, 1, 0x11, second, 15, 1]
    );
    assert!(!has(&tree, "/pcie@10000000", "iommu-map-mask"));
}

#[test]
fn every_truncation_is_refused() {
    damage::truncate(Some(&darts(&Choice::default())));
}

#[test]
fn no_damage_is_a_panic() {
    damage::damage(Some(&darts(&Choice::default())));
}
