//! FDTs: what QEMU's describes, what the guest is given instead, and that no damage to one is a
//! panic.
#![expect(clippy::disallowed_methods, reason = "the trees are the tests' own, and sound")]

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, Property};
use oche_boot::blob::{self, Refusal};
use oche_boot::guest_fdt::{Changes, GuestFdtError, Reservation, SpinCpu, VirtioPort, rewrite};
use oche_boot::machine::{Machine, MachineError};
use oche_boot::normalize::MAX_SIBLINGS;
use oche_boot::options::BootOptions;
use oche_types::range::PhysRange;

mod damage;

use damage::{FIXTURE, MEMORY, PORT, buffer, cells, has};

fn rewritten(blob: &[u8], options: &BootOptions<'_>) -> Vec<u8> {
    let initrd = Some(PhysRange { start: 0x4800_0000, end: 0x4812_3456 });
    let changes = Changes {
        memory: &MEMORY,
        initrd,
        bootargs: options.bootargs,
        board: None,
        port: Some(PORT),
        reserved: &[],
        spin_table: &[],
    };
    rewrite(blob, &changes).expect("the fixture can be edited")
}

#[test]
fn qemus_tree_has_what_qemu_was_given() {
    let mut buffer = buffer();
    let machine = Machine::read(FIXTURE, &mut buffer).expect("QEMU writes sound trees");
    assert_eq!(machine.ram.as_slice(), [PhysRange { start: 0x4000_0000, end: 0xc000_0000 }]);
    assert_eq!(machine.affinities(), [0, 1, 2, 3]);
    assert_eq!(machine.cpus_ignored, 0);
    assert!(machine.has_psci_smc, "with EL2, PSCI is by SMC");
    assert_eq!(machine.initrd, None);
    assert!(machine.reserved.as_slice().is_empty());
    assert_eq!(machine.blob(), FIXTURE, "dtc writes no NOPs and no gaps");
    assert!(machine.has_compatible("arm,smmu-v3") && machine.has_compatible("arm,pl011"));
    assert!(!machine.has_compatible("arm,smmu-v") && !machine.has_compatible("apple,t8103-dart"));
}

#[test]
fn the_guest_finds_the_port_that_oche_plays() {
    let blob = rewritten(FIXTURE, &BootOptions::default());
    let tree = fdt::Fdt::new(&blob).expect("it parses");
    let path = "/virtio_mmio@9180000";
    assert_eq!(cells(&tree, path, "reg"), [0, 0x0918_0000, 0, 0x1000]);
    assert_eq!(cells(&tree, path, "interrupts"), [0, 200, 1]);
    assert!(has(&tree, path, "dma-coherent") && !has(&tree, path, "interrupt-parent"));
    let node = tree.find_node(path).expect("it is there");
    assert_eq!(
        node.property("compatible").map(|property| property.value),
        Some(b"virtio,mmio\0".as_slice())
    );
}

#[test]
fn a_port_names_the_interrupt_controller_that_it_is_wired_to() {
    let port = VirtioPort { interrupt_parent: Some(0x8002), interrupt: [0, 895, 4], ..PORT };
    let changes = Changes {
        memory: &MEMORY,
        initrd: None,
        bootargs: None,
        board: None,
        port: Some(port),
        reserved: &[],
        spin_table: &[],
    };
    let blob = rewrite(FIXTURE, &changes).expect("sound");
    let tree = fdt::Fdt::new(&blob).expect("it parses");
    assert_eq!(cells(&tree, "/virtio_mmio@9180000", "interrupt-parent"), [0x8002]);
    assert_eq!(cells(&tree, "/virtio_mmio@9180000", "interrupts"), [0, 895, 4]);
}

#[test]
fn the_guest_sees_its_memory_its_initrd_and_its_command_line() {
    let mut options = BootOptions::default();
    options.take("oche.bootargs", "console=ttyAMA0 quiet", &mut |_| panic!("it is good"));
    let blob = rewritten(FIXTURE, &options);
    let mut buffer = buffer();
    let machine = Machine::read(&blob, &mut buffer).expect("what was written can be read");
    assert_eq!(machine.ram.as_slice(), MEMORY);
    assert_eq!(machine.initrd, Some(PhysRange { start: 0x4800_0000, end: 0x4812_3456 }));
    assert_eq!(machine.affinities(), [0, 1, 2, 3]);
    let tree = fdt::Fdt::new(&blob).expect("another parser reads it too");
    assert_eq!(tree.chosen().bootargs(), Some("console=ttyAMA0 quiet"));
    assert_eq!(tree.all_nodes().filter(|node| node.name.starts_with("memory@")).count(), 1);
}

#[test]
fn without_the_boards_part_only_memory_and_chosen_change() {
    let changes = Changes {
        memory: &MEMORY,
        initrd: None,
        bootargs: None,
        board: None,
        port: None,
        reserved: &[],
        spin_table: &[],
    };
    let once = rewrite(FIXTURE, &changes).expect("sound");
    let tree = fdt::Fdt::new(&once).expect("sound");
    assert!(
        tree.find_compatible(&["arm,smmu-v3"]).is_some() && has(&tree, "/pcie@10000000", "msi-map")
    );
    assert_eq!(rewrite(&once, &changes).expect("sound"), once, "and a second time changes nothing");
}

/// Names that are longer than the specification's 31 bytes, as in the GPU's node on a Mac.
#[test]
fn a_property_with_a_long_name_survives() {
    const NAME: &str = "apple,avg-power-target-filter-tc";
    assert!(NAME.len() > 31);
    let mut tree = DeviceTree::from_fdt(&blob::check(FIXTURE).expect("sound").fdt);
    let mut node = DeviceTreeNode::new_unchecked("gpu@406400000");
    node.add_property(DeviceTreeProperty::new_unchecked(NAME, 125u32));
    tree.root.add_child(node);
    let blob = rewritten(&tree.to_dtb(), &BootOptions::default());
    let tree = blob::check(&blob).expect("sound").fdt;
    let node = tree.find_node("/gpu@406400000").expect("kept");
    assert_eq!(node.property(NAME).expect("kept").value_as::<u32>(), Ok(125));
}

#[test]
fn options_in_chosen_are_handed_over_and_a_damaged_one_is_named() {
    let mut tree = DeviceTree::from_fdt(&blob::check(FIXTURE).expect("sound").fdt);
    let chosen = tree.root.child_mut("chosen").expect("QEMU writes one");
    chosen.add_property(DeviceTreeProperty::new_unchecked("oche.pool", "128M"));
    chosen.add_property(DeviceTreeProperty::new_unchecked("oche.log", vec![0xff_u8, 0xfe, 0]));
    let blob = tree.to_dtb();
    let mut found = Vec::new();
    let mut buffer = buffer();
    let machine = Machine::read(&blob, &mut buffer).expect("sound");
    machine.chosen_options(&mut |name, value| {
        found.push((name.to_owned(), value.to_owned()));
    });
    found.sort();
    assert_eq!(found, [("oche.log".into(), String::new()), ("oche.pool".into(), "128M".into())]);
}

#[test]
fn a_machine_without_memory_or_cpus_is_refused() {
    let without = |name: &str| {
        let mut tree = DeviceTree::from_fdt(&blob::check(FIXTURE).expect("sound").fdt);
        let full: Vec<String> = tree.root.children().map(|child| child.name().to_owned()).collect();
        for child in full.iter().filter(|full| full.split('@').next() == Some(name)) {
            tree.root.remove_child(child);
        }
        Machine::read(&tree.to_dtb(), &mut buffer()).err()
    };
    assert_eq!(without("memory"), Some(MachineError::NoMemory));
    assert_eq!(without("cpus"), Some(MachineError::NoCpus));
    assert_eq!(without("psci"), None);
}

#[test]
fn every_truncation_is_refused() {
    damage::truncate(None);
}

#[test]
fn no_damage_is_a_panic() {
    damage::damage(None);
}

/// Why boot refuses QEMU's tree with `node` in its root.
fn refusal_with(node: DeviceTreeNode) -> Option<MachineError> {
    let mut tree = DeviceTree::from_fdt(&blob::check(FIXTURE).expect("sound").fdt);
    tree.root.add_child(node);
    Machine::read(&tree.to_dtb(), &mut buffer()).err()
}

#[test]
fn nesting_is_bounded() {
    // The root is the first level.
    let nested = |levels: usize| {
        (2..levels).fold(DeviceTreeNode::new_unchecked("leaf"), |node, _| {
            let mut parent = DeviceTreeNode::new_unchecked("node");
            parent.add_child(node);
            parent
        })
    };
    assert_eq!(refusal_with(nested(blob::MAX_LEVELS)), None);
    let refused = Some(MachineError::Refused(Refusal::Nesting));
    assert_eq!(refusal_with(nested(blob::MAX_LEVELS + 1)), refused);
}

#[test]
fn names_are_bounded() {
    let named = |bytes: usize| DeviceTreeNode::new_unchecked("n".repeat(bytes));
    assert_eq!(refusal_with(named(blob::MAX_NAME_BYTES)), None);
    let refused = Some(MachineError::Refused(Refusal::Name));
    assert_eq!(refusal_with(named(blob::MAX_NAME_BYTES + 1)), refused);
}

#[test]
fn siblings_are_bounded() {
    let parent = |children: usize| {
        let mut node = DeviceTreeNode::new_unchecked("parent");
        for child in 0..children {
            node.add_child(DeviceTreeNode::new_unchecked(format!("child@{child:x}")));
        }
        node
    };
    assert_eq!(refusal_with(parent(MAX_SIBLINGS)), None);
    let refused = Some(MachineError::Refused(Refusal::Siblings));
    assert_eq!(refusal_with(parent(MAX_SIBLINGS + 1)), refused);
}

/// QEMU's tree with `range` in its memory reservation block and `boot_cpu` in its header.
fn with_reservation(range: PhysRange, boot_cpu: u32) -> Vec<u8> {
    let mut blob = FIXTURE.to_vec();
    let word = |at: usize| u32::from_be_bytes(FIXTURE[at..at + 4].try_into().expect("four bytes"));
    let entry = [range.start.to_be_bytes(), range.size().to_be_bytes()].concat();
    let block = word(16) as usize;
    blob.splice(block..block, entry);
    // The size, and where the structure and the strings begin; all lie behind the reservations.
    for (at, value) in [(4, word(4) + 16), (8, word(8) + 16), (12, word(12) + 16), (28, boot_cpu)] {
        blob[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    blob
}

#[test]
fn the_memory_reservation_block_is_firmwares_memory_for_oche_and_for_the_guest() {
    let kept = PhysRange { start: 0x4700_0000, end: 0x4701_2000 };
    let blob = with_reservation(kept, 0x103);
    let mut room = buffer();
    let machine = Machine::read(&blob, &mut room).expect("sound");
    assert_eq!(machine.reserved.as_slice(), [kept]);
    assert_eq!(machine.blob()[28..32], 0x103_u32.to_be_bytes(), "the boot CPU's id");
    let guest = rewritten(machine.blob(), &BootOptions::default());
    let mut room = buffer();
    assert_eq!(Machine::read(&guest, &mut room).expect("sound").reserved.as_slice(), [kept]);
}

/// A tree as m1n1 leaves it, as far as it matters: three CPUs that wait in a spin table, and no
/// reservations.
fn spin_tree() -> Vec<u8> {
    let set = |node: &mut DeviceTreeNode, name: &str, value: Vec<u8>| {
        node.add_property(DeviceTreeProperty::new_unchecked(name, value.as_slice()));
    };
    let mut tree = DeviceTree::new();
    let mut cpus = DeviceTreeNode::new_unchecked("cpus");
    set(&mut cpus, "#address-cells", vec![0, 0, 0, 2]);
    set(&mut cpus, "#size-cells", vec![0; 4]);
    for (affinity, release) in [(0u64, 0u64), (1, 0x8_0100_1048), (0x1_0100, 0x8_0100_1088)] {
        let mut cpu = DeviceTreeNode::new_unchecked(format!("cpu@{affinity:x}"));
        set(&mut cpu, "reg", affinity.to_be_bytes().to_vec());
        set(&mut cpu, "enable-method", b"spin-table\0".to_vec());
        set(&mut cpu, "cpu-release-addr", release.to_be_bytes().to_vec());
        cpus.add_child(cpu);
    }
    let mut memory = DeviceTreeNode::new_unchecked("memory@801000000");
    set(
        &mut memory,
        "reg",
        [0x8_0100_0000u64, 0x4000_0000].iter().flat_map(|word| word.to_be_bytes()).collect(),
    );
    for name in ["#address-cells", "#size-cells"] {
        set(&mut tree.root, name, vec![0, 0, 0, 2]);
    }
    tree.root.add_child(cpus);
    tree.root.add_child(memory);
    tree.to_dtb()
}

#[test]
fn cpus_that_wait_in_a_table_are_found_with_their_words() {
    let blob = spin_tree();
    let mut buffer = buffer();
    let machine = Machine::read(&blob, &mut buffer).expect("sound");
    let found: Vec<(u64, u64)> = machine.spin_table().collect();
    assert_eq!(found, [(1, 0x8_0100_1048), (0x1_0100, 0x8_0100_1088)]);
    assert_eq!(machine.affinities(), [0, 1, 0x1_0100]);
}

#[test]
fn the_guest_finds_its_cpus_elsewhere_and_no_node_of_a_dead_one() {
    let image = PhysRange { start: 0x8_0800_0000, end: 0x8_0820_0000 };
    let slots = PhysRange { start: 0x8_3fe0_0000, end: 0x8_3fe0_1000 };
    let changes = Changes {
        memory: &[PhysRange { start: 0x8_0100_0000, end: 0x8_3000_0000 }],
        initrd: None,
        bootargs: None,
        board: None,
        port: None,
        reserved: &[
            Reservation { name: "oche", range: image, no_map: true },
            Reservation { name: "cpu-release", range: slots, no_map: false },
        ],
        spin_table: &[
            SpinCpu { affinity: 1, release: None },
            SpinCpu { affinity: 0x1_0100, release: Some(slots.start + 128) },
        ],
    };
    let blob = rewrite(&spin_tree(), &changes).expect("rewritten");
    let mut buffer = buffer();
    let guest = Machine::read(&blob, &mut buffer).expect("sound");
    assert_eq!(guest.affinities(), [0, 0x1_0100]);
    assert_eq!(guest.spin_table().collect::<Vec<_>>(), [(0x1_0100, slots.start + 128)]);
    assert_eq!(guest.reserved.as_slice(), [image, slots]);
    let tree = fdt::Fdt::new(&blob).expect("sound");
    assert!(has(&tree, "/reserved-memory/oche@808000000", "no-map"));
    assert!(!has(&tree, "/reserved-memory/cpu-release@83fe00000", "no-map"));
}

#[test]
fn spin_table_cpu_that_the_tree_lacks_is_an_error() {
    let cpu = SpinCpu { affinity: 7, release: Some(0x8_3fe0_0080) };
    let changes = Changes {
        memory: &[PhysRange { start: 0x8_0100_0000, end: 0x8_3000_0000 }],
        initrd: None,
        bootargs: None,
        board: None,
        port: None,
        reserved: &[],
        spin_table: &[cpu],
    };
    assert_eq!(rewrite(&spin_tree(), &changes).err(), Some(GuestFdtError::Cpus));
}
