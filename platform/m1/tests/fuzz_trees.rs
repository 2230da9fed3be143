//! Damaged trees of a Mac: whatever is read from them, nothing panics, and two parsers agree.
//!
//! The long form: `cargo test -p oche-m1 --test fuzz_trees -- --ignored`, with further trees in
//! `OCHE_DEVICE_TREES` (paths, separated by colons).

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use oche_boot::tree::Tree;
use oche_m1::{aic, device_tree, framebuffer};

#[path = "../../../boot/tests/fuzz/mod.rs"]
mod fuzz;

use fuzz::{run, with_named_trees};

/// Inputs of one run in the test command, and of one in the long form.
const SHORT: u64 = 5_000;
const LONG: u64 = 1_000_000;

type Cells<'a> = (&'a str, &'a [u32]);

fn node(name: &str, compatible: &str, properties: &[Cells<'_>]) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new_unchecked(name);
    if !compatible.is_empty() {
        node.add_property(DeviceTreeProperty::new_unchecked("compatible", compatible));
    }
    for (name, cells) in properties {
        node.add_property(DeviceTreeProperty::new_unchecked(*name, cells.to_vec()));
    }
    node
}

fn with(mut parent: DeviceTreeNode, children: Vec<DeviceTreeNode>) -> DeviceTreeNode {
    children.into_iter().for_each(|child| parent.add_child(child));
    parent
}

/// What Oche reads of a Mac's tree: DARTs, their clients and power domains, the interrupt
/// controller, the NVMe controller and the framebuffer.
fn mac() -> Vec<u8> {
    let domain = |offset: u32, phandle: u32| {
        let name = format!("power-controller@{offset:x}");
        let compatible = "apple,t8103-pmgr-pwrstate\0apple,pmgr-pwrstate";
        node(&name, compatible, &[("reg", &[offset, 4]), ("phandle", &[phandle])])
    };
    let dart = |address: u32, phandle: u32| {
        let reg = [2, address, 0, 0x4000];
        let properties: [Cells<'_>; 4] = [
            ("reg", &reg),
            ("phandle", &[phandle]),
            ("interrupts", &[0, phandle, 4]),
            ("power-domains", &[1, 2]),
        ];
        node(&format!("iommu@2{address:08x}"), "apple,t8103-dart", &properties)
    };
    let power = node("power-management@23b700000", "", &[("reg", &[2, 0x3b70_0000, 0, 0x14000])]);
    let controller: [Cells<'_>; 2] = [("reg", &[2, 0x3b10_0000, 0, 0x8000]), ("phandle", &[7])];
    let nvme: [Cells<'_>; 2] = [("reg", &[2, 0x7bcc_0000, 0, 0x4000]), ("power-domains", &[2])];
    let map = [0, 11, 1, 1, 0x100, 12, 2, 1];
    let soc = with(
        node("soc", "", &[("#address-cells", &[2]), ("#size-cells", &[2])]),
        vec![
            with(power, vec![domain(0x100, 1), domain(0x108, 2)]),
            node("interrupt-controller@23b100000", "apple,t8103-aic\0apple,aic", &controller),
            dart(0x3500_4000, 11),
            dart(0x3130_4000, 12),
            node("nvme@27bcc0000", "apple,t8103-nvme-ans2\0apple,nvme-ans2", &nvme),
            node("pcie@690000000", "apple,pcie", &[("iommu-map", &map)]),
            node("spi@235100000", "", &[("iommus", &[11, 3]), ("msi-ranges", &[7, 0, 704, 1, 32])]),
        ],
    );
    let mut screen =
        node("framebuffer@9e0df8000", "simple-framebuffer", &[("reg", &[9, 0xe0df_8000, 0, 4])]);
    screen.add_property(DeviceTreeProperty::new_unchecked("format", "x2r10g10b10"));
    for (name, value) in [("width", 2560u32), ("height", 1600), ("stride", 10240)] {
        screen.add_property(DeviceTreeProperty::new_unchecked(name, value));
    }
    let memory = [8, 0, 1, 0xc000_0000];
    let mut tree = DeviceTree::new();
    tree.root = with(
        node("", "apple,j313\0apple,t8103", &[("#address-cells", &[2]), ("#size-cells", &[2])]),
        vec![
            node("memory@800000000", "", &[("reg", &memory)]),
            with(node("chosen", "", &[]), vec![screen]),
            soc,
        ],
    );
    tree.to_dtb()
}

/// What boot reads on a Mac.
fn read(input: &[u8], tree: Option<Tree<'_>>) {
    // Before the tree is known to be sound.
    let _: Option<framebuffer::BootScreen> = framebuffer::find(input);
    let Some(tree) = tree else { return };
    let darts = device_tree::darts(&tree);
    assert!(device_tree::candidates(&darts).count() <= darts.len());
    let _: Vec<u64> =
        device_tree::nvme(&tree).map_or_else(Vec::new, |at| device_tree::power(&tree, at));
    let _: Option<aic::PortLine> = aic::free_line(&tree);
}

#[test]
fn the_tree_of_a_mac_is_read_whole() {
    let mut darts = Vec::new();
    let outcomes = run(&[mac()], 1, &mut |_, tree| {
        let tree = tree.expect("the first input is the tree itself");
        assert_eq!(device_tree::nvme(&tree), Some(0x2_7bcc_0000));
        assert_eq!(aic::free_line(&tree).map(|line| line.number()), Some(895));
        darts = device_tree::darts(&tree);
    });
    assert_eq!(outcomes.accepted, 1);
    let [first, second] = &darts[..] else { panic!("two DARTs: {darts:?}") };
    assert_eq!(first.power, [0x2_3b70_0100, 0x2_3b70_0108]);
    assert_eq!(first.clients, [(1, "pcie@690000000".into()), (3, "spi@235100000".into())]);
    assert_eq!(second.clients, [(2, "pcie@690000000".to_owned())]);
}

#[test]
fn damaged_trees_of_a_mac_are_refused_or_read_alike() {
    let outcomes = run(&[mac()], SHORT, &mut read);
    assert!(outcomes.accepted > SHORT as usize / 5, "{outcomes:?}");
}

#[test]
#[ignore = "takes minutes: see above"]
fn a_million_damaged_trees_of_a_mac_are_refused_or_read_alike() {
    let outcomes = run(&with_named_trees(&mac()), LONG, &mut read);
    println!("{outcomes:?}");
    assert!(outcomes.accepted > LONG as usize / 5, "{outcomes:?}");
}
