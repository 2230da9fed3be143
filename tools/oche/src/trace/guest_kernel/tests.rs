use std::fs::File;

use super::*;
use made::{IMAGE, MODULE_AT, Made, ORDERS, Order, RAM};

mod damaged;
mod made;

fn sorted(mut functions: Vec<Function>) -> Vec<Function> {
    functions.sort();
    functions
}

#[test]
fn each_order_of_the_tables_gives_the_same_names() {
    for order in ORDERS {
        let names = read(&Made::new(order)).unwrap();
        assert_eq!(names.kernel, "Linux version 6.12.0-made (a test) #1", "{order:?}");
        assert_eq!(names.missing, Vec::<String>::new(), "{order:?}");
        assert_eq!(sorted(names.functions), sorted(made::functions()), "{order:?}");
        assert_eq!(names.devices, made::devices(), "{order:?}");
    }
}

#[test]
fn a_kernel_without_names_of_data_has_functions_and_a_reason() {
    for order in [Order::Old, Order::OldWithNumbers, Order::New] {
        let names = read(&Made::with(order, false)).unwrap();
        let known = made::functions();
        let found = names.functions.iter().filter(|one| one.name.starts_with("func_"));
        assert!(found.clone().all(|one| known.contains(one)), "{order:?}");
        assert_eq!(found.count(), 2300, "{order:?}");
        let [modules, devices] = &*names.missing else { panic!("{:?}", names.missing) };
        assert!(
            modules.contains("CONFIG_KALLSYMS_ALL") && modules.contains("symbols"),
            "{modules}"
        );
        assert!(devices.contains("drivers"), "{devices}");
    }
    let error = read(&Made::with(Order::Place, false)).unwrap_err().to_string();
    assert!(error.contains("CONFIG_KALLSYMS_ALL"), "{error}");
}

#[test]
fn a_kernel_that_lies_in_memory_twice_is_read_where_it_runs() {
    for order in ORDERS {
        let mut made = Made::new(order);
        // A loader's copy: no page tables are in it.
        let end = made.bytes.len();
        let mut copy = made.bytes[IMAGE..IMAGE + 0x6_0000].to_vec();
        copy.resize(0x8_0000, 0);
        made.bytes.extend(copy);
        assert_eq!(end % 0x1_0000, 0);
        let names = read(&made).unwrap();
        assert_eq!(sorted(names.functions), sorted(made::functions()), "{order:?}");
    }
}

/// The RAM that no kernel is in has no names, and says so.
#[test]
fn a_memory_without_a_kernel_is_refused_with_the_remedy() {
    let ram: File = tempfile::tempfile().unwrap();
    ram.set_len(64 << 20).unwrap();
    let memory = RamFile::new(&ram, RAM).unwrap();
    let error = read(&memory).unwrap_err().to_string();
    assert!(error.contains("CONFIG_KALLSYMS") && error.contains("oche trace symbols"), "{error}");
}

#[test]
fn a_file_is_memory_from_its_base_on() {
    let ram: File = tempfile::tempfile().unwrap();
    ram.set_len(64 << 20).unwrap();
    let made = Made::new(Order::New);
    std::os::unix::fs::FileExt::write_all_at(&ram, &made.bytes[IMAGE..], IMAGE as u64).unwrap();
    let memory = RamFile::new(&ram, RAM).unwrap();
    assert_eq!(read(&memory).unwrap(), read(&made).unwrap());
    let mut word = [0; 8];
    assert!(memory.read(RAM + (64 << 20) - 8, &mut word));
    assert!(!memory.read(RAM + (64 << 20) - 7, &mut word));
    assert!(!memory.read(RAM - 1, &mut word));
    assert!(!memory.read(u64::MAX, &mut word));
    let ranges = memory.ranges();
    assert!(ranges.iter().any(|range| range.contains(&(RAM + IMAGE as u64 + 0x3_0000))));
}

#[test]
fn a_module_whose_memory_is_not_what_it_was_is_missing_alone() {
    // One of its symbols, its name, and the types.
    for (at, bytes) in [(0x218, [0; 24].as_slice()), (0x401, b"\x01"), (0x108, &[0xff; 4])] {
        let mut made = Made::new(Order::New);
        made.put(MODULE_AT + at, bytes);
        let names = read(&made).unwrap();
        let is_kernels = |function: &Function| function.module.is_none();
        assert!(names.functions.iter().all(is_kernels), "{at:#x}");
        let [missing] = &*names.missing else { panic!("{at:#x}: {:?}", names.missing) };
        assert!(missing.contains("made_module") && missing.contains("--add"), "{missing}");
    }
}
