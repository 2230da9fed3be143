//! Emulation against a page of bytes.

use super::*;
use crate::instruction::decode;

const PAGE: Gfn = Gfn(7);
const FAR: u64 = 0xffff_0000_1234_5000;

struct Bytes {
    bytes: [u8; PAGE_BYTES],
    /// The reports of watched bytes: offset, bytes, whether it was a store, and the first words.
    reported: Vec<(usize, usize, bool, [u64; 2])>,
    traps_loads: bool,
}

#[expect(unsafe_code, reason = "a model of the engine")]
// SAFETY: it has no page at a place and no view.
unsafe impl TrappedPages for Bytes {
    fn access(&mut self, _pc: u64, _address: u64, _kind: AccessKind) -> FaultDisposition {
        FaultDisposition::Emulate(PAGE)
    }

    fn load_known(&mut self, _pc: u64, _address: u64, _parts: Parts) -> Option<[u64; 2]> {
        None
    }

    fn store_known(&mut self, _pc: u64, _at: u64, _parts: Parts, _values: [u64; 2]) -> bool {
        false
    }

    fn locate(&self, _page: Gfn) -> Option<Hfn> {
        None
    }

    fn load(&mut self, _page: Gfn, offset: usize, bytes: usize) -> u64 {
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(&self.bytes[offset..offset + bytes]);
        u64::from_le_bytes(value)
    }

    fn store(&mut self, _page: Gfn, offset: usize, bytes: usize, value: u64) {
        self.bytes[offset..offset + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }

    fn trap_loads(&mut self, _page: Gfn) {
        self.traps_loads = true;
    }

    fn begin_view(&mut self) -> Option<u64> {
        None
    }

    fn open(&mut self, _page: Gfn) -> bool {
        true
    }

    fn close(&mut self, _page: Gfn) {}

    fn is_watching(&self) -> bool {
        true
    }

    fn report_watched(&mut self, watched: &WatchedAccess, value: &Value) {
        self.reported.push((watched.offset, watched.bytes, watched.is_write, [value[0], value[1]]));
    }
}

#[derive(Default)]
struct Cpu {
    registers: [u64; 31],
    stack_pointer: u64,
}

impl GuestRegisters for Cpu {
    fn get(&self, number: u8) -> u64 {
        self.registers.get(usize::from(number)).copied().unwrap_or(0)
    }

    fn set(&mut self, number: u8, value: u64) {
        if let Some(register) = self.registers.get_mut(usize::from(number)) {
            *register = value;
        }
    }

    fn stack_pointer(&self) -> u64 {
        self.stack_pointer
    }

    fn set_stack_pointer(&mut self, value: u64) {
        self.stack_pointer = value;
    }

    fn program_counter(&self) -> u64 {
        FAR + 0x100
    }
}

struct Bench {
    pages: Bytes,
    monitors: Monitors,
    cpus: [Cpu; 2],
}

impl Bench {
    fn new() -> Self {
        let bytes = core::array::from_fn(|index| (index * 7) as u8);
        let mut bench = Self {
            pages: Bytes { bytes, reported: Vec::new(), traps_loads: false },
            monitors: Monitors::new(),
            cpus: Default::default(),
        };
        for cpu in &mut bench.cpus {
            cpu.registers[2] = FAR + 0x40;
            cpu.stack_pointer = FAR + 0x80;
        }
        bench
    }

    fn run(&mut self, cpu: usize, instruction: u32) -> bool {
        let access = decode(instruction).expect("an access that is emulated");
        emulate(&mut self.pages, &mut self.monitors, cpu, PAGE, FAR, &access, &mut self.cpus[cpu])
    }

    fn word(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.pages.bytes[offset..offset + 8].try_into().expect("eight bytes"))
    }
}

#[test]
fn loads_and_stores_move_bytes_and_write_back() {
    let mut bench = Bench::new();
    assert!(bench.run(0, 0xa8c1_0c41)); // ldp x1, x3, [x2], #16
    assert_eq!(bench.cpus[0].registers[1..4], [bench.word(0x40), FAR + 0x50, bench.word(0x48)]);
    bench.cpus[0].registers[1] = 0x1122_3344_5566_7788;
    assert!(bench.run(0, 0x3900_0fe1)); // strb w1, [sp, #3]
    assert_eq!(bench.pages.bytes[0x83], 0x88);
    assert!(bench.run(0, 0xf81f_0fe1)); // str x1, [sp, #-16]!
    assert_eq!(
        (bench.word(0x70), bench.cpus[0].stack_pointer),
        (0x1122_3344_5566_7788, FAR + 0x70)
    );
    assert!(bench.run(0, 0x5800_0041)); // ldr x1, .+8
    assert_eq!(bench.cpus[0].registers[1], bench.word(0x108));
}

#[test]
fn a_watch_reports_every_access_with_its_bytes_and_value() {
    let mut bench = Bench::new();
    bench.cpus[0].registers[1] = 0x1122_3344_5566_7788;
    let word = |bench: &Bench, offset| bench.word(offset);
    let (first, second) = (word(&bench, 0x40), word(&bench, 0x48));
    for (instruction, offset, bytes, is_write, value) in [
        (0x3900_0fe1, 0x83, 1, true, [0x88, 0]), // strb w1, [sp, #3]
        (0x7980_0044, 0x40, 2, false, [first & 0xffff, 0]), // ldrsh x4, [x2]
        (0x2940_1444, 0x40, 8, false, [first, 0]), // ldp w4, w5, [x2]
        (0xa940_1444, 0x40, 16, false, [first, second]), // ldp x4, x5, [x2]
        (0x2900_0441, 0x40, 8, true, [0x5566_7788_5566_7788, 0]), // stp w1, w1, [x2]
        (0xc85f_7c44, 0x40, 8, false, [0x5566_7788_5566_7788, 0]), // ldxr x4, [x2]
        (0xc806_7c41, 0x40, 8, true, [0x1122_3344_5566_7788, 0]), // stxr w6, x1, [x2]
    ] {
        assert!(bench.run(0, instruction), "{instruction:#x}");
        assert_eq!(
            bench.pages.reported.pop(),
            Some((offset, bytes, is_write, value)),
            "{instruction:#x}"
        );
    }
    assert!(bench.run(0, 0xc806_7c41), "a store-exclusive whose load was not seen");
    assert_eq!(bench.pages.reported, [], "it stored nothing");
}

#[test]
fn what_a_stepped_instruction_touches_is_reported_by_its_bits_where_that_is_easy() {
    use crate::instruction::{MAX_BYTES, stepped_bytes, stepped_offset};
    assert_eq!(stepped_offset(0xd50b_7429, 0x2c3), 0x2c0, "dc zva, x9");
    assert_eq!(stepped_offset(0x3d80_0001, 0x2c3), 0x2c3, "str q1, [x0]");
    for (instruction, bytes) in [
        (0x3d80_0001, 16),        // str q1, [x0]
        (0xfd00_0001, 8),         // str d1, [x0]
        (0xbd40_0001, 4),         // ldr s1, [x0]
        (0x3d00_0001, 1),         // str b1, [x0]
        (0xad00_0801, 32),        // stp q1, q2, [x0]
        (0x6d00_0801, 16),        // stp d1, d2, [x0]
        (0x9c00_0041, 16),        // ldr q1, .+8
        (0xf821_0002, 8),         // ldadd x1, x2, [x0]
        (0x3821_0002, 1),         // ldaddb w1, w2, [x0]
        (0x88a1_7c02, 4),         // cas w1, w2, [x0]
        (0x4820_7c02, 16),        // casp x0, x1, x2, x3, [x0]
        (0x4c00_2000, MAX_BYTES), // st1 {v0-v3}, [x0]
        (0xd50b_7420, MAX_BYTES), // dc zva, x0
    ] {
        assert_eq!(stepped_bytes(instruction), bytes, "{instruction:#x}");
    }
}

#[test]
fn an_access_that_leaves_the_page_or_begins_before_it_is_not_touched() {
    let mut bench = Bench::new();
    let before = bench.pages.bytes;
    for base in [FAR + 0xffc, FAR - 4, FAR + 0x1000] {
        bench.cpus[0].registers[2] = base;
        assert!(!bench.run(0, 0xf900_0041), "str x1, [x2] at {base:#x}");
        assert_eq!(bench.cpus[0].registers[2], base);
    }
    assert_eq!(bench.pages.bytes, before);
    bench.cpus[0].registers[2] = (FAR & 0x00ff_ffff_ffff_ffff | 0x5a << 56) + 8;
    assert!(bench.run(0, 0xf900_0041), "a tag in the top byte is no address");
}

const LOAD_EXCLUSIVE: u32 = 0xc85f_7c41; // ldxr x1, [x2]
const STORE_EXCLUSIVE: u32 = 0xc804_7c43; // stxr w4, x3, [x2]

#[test]
fn an_exclusive_pair_succeeds_unless_somebody_stored_between() {
    let mut bench = Bench::new();
    bench.cpus[0].registers[3] = 99;
    assert!(bench.run(0, LOAD_EXCLUSIVE) && bench.run(0, STORE_EXCLUSIVE));
    assert_eq!((bench.cpus[0].registers[4], bench.word(0x40)), (0, 99));
    assert!(bench.run(0, STORE_EXCLUSIVE));
    assert_eq!(bench.cpus[0].registers[4], 1, "once only");

    assert!(bench.run(0, LOAD_EXCLUSIVE));
    // Another CPU stores the very same value: the value does not show it.
    bench.cpus[1].registers[1] = 99;
    assert!(bench.run(1, 0xf900_0041));
    assert!(bench.run(0, STORE_EXCLUSIVE));
    assert_eq!(bench.cpus[0].registers[4], 1);

    assert!(bench.run(0, LOAD_EXCLUSIVE));
    bench.pages.bytes[0x41] ^= 1; // a device
    assert!(bench.run(0, STORE_EXCLUSIVE));
    assert_eq!(bench.cpus[0].registers[4], 1);
}

#[test]
fn a_store_exclusive_whose_load_was_not_seen_asks_for_the_next_one() {
    let mut bench = Bench::new();
    assert!(bench.run(0, STORE_EXCLUSIVE));
    assert_eq!(bench.cpus[0].registers[4], 1);
    assert!(bench.pages.traps_loads);
}

#[test]
fn the_exclusive_pair_of_two_registers_is_all_or_nothing() {
    let mut bench = Bench::new();
    bench.cpus[0].registers[5] = 55;
    bench.cpus[0].registers[6] = 66;
    assert!(bench.run(0, 0xc87f_0c41)); // ldxp x1, x3, [x2]
    assert_eq!(bench.cpus[0].registers[3], bench.word(0x48));
    assert!(bench.run(0, 0xc824_1845)); // stxp w4, x5, x6, [x2]
    assert_eq!((bench.cpus[0].registers[4], bench.word(0x40), bench.word(0x48)), (0, 55, 66));
}

#[test]
fn a_monitor_ends_with_its_sequence() {
    let mut bench = Bench::new();
    bench.cpus[0].registers[3] = 99;
    let before = bench.word(0x40);
    assert!(bench.run(0, LOAD_EXCLUSIVE));
    // CLREX, or whatever else is not followed to the store-exclusive.
    bench.monitors.end(0);
    assert!(bench.run(0, STORE_EXCLUSIVE));
    assert_eq!((bench.cpus[0].registers[4], bench.word(0x40)), (1, before));
}

#[test]
fn a_store_exclusive_of_another_size_or_place_fails() {
    for (load, store) in [
        (0x885f_7c41, 0xc804_7c43),     // ldxr w1, [x2]; stxr w4, x3, [x2]
        (0xc85f_7c41, 0x8804_7c43),     // ldxr x1, [x2]; stxr w4, w3, [x2]
        (0x887f_1441, 0xc804_7c43),     // ldxp w1, w5, [x2]; stxr w4, x3, [x2]
        (0xc85f_7c41_u32, 0x8824_1843), // ldxr x1, [x2]; stxp w4, w3, w6, [x2]
    ] {
        let mut bench = Bench::new();
        // What either finds is 0, so that the values do not show it.
        bench.pages.bytes.fill(0);
        bench.cpus[0].registers[3] = 99;
        assert!(bench.run(0, load) && bench.run(0, store), "{load:#x} {store:#x}");
        assert_eq!((bench.cpus[0].registers[4], bench.word(0x40)), (1, 0), "{load:#x} {store:#x}");
    }
    let mut bench = Bench::new();
    assert!(bench.run(0, LOAD_EXCLUSIVE));
    bench.cpus[0].registers[2] += 8;
    assert!(bench.run(0, STORE_EXCLUSIVE));
    assert_eq!(bench.cpus[0].registers[4], 1);
}

#[test]
fn an_instruction_that_was_replaced_does_not_agree_with_the_fault() {
    let bench = Bench::new();
    let agree = |instruction: u32, far, is_write| {
        agreement(&decode(instruction).expect("emulated"), &bench.cpus[0], far, is_write)
    };
    let at = FAR + 0x40;
    let (load, store) = (0xf940_0041, 0xf900_0041); // ldr x1, [x2]; str x1, [x2]
    assert_eq!(agree(load, at, false), Agreement::Same(at));
    assert_eq!(agree(store, at, true), Agreement::Same(at));
    assert_eq!(agree(store, at, false), Agreement::Other, "a load that became a store");
    assert_eq!(agree(load, at, true), Agreement::Other);
    assert_eq!(agree(STORE_EXCLUSIVE, at, false), Agreement::Other);
    assert_eq!(agree(LOAD_EXCLUSIVE, at, true), Agreement::Other);
    assert_eq!(agree(0xf900_0441, at, true), Agreement::Other, "str x1, [x2, #8]");
    assert_eq!(agree(store, at + 8, true), Agreement::Other);
    assert_eq!(agree(store, at - 1, true), Agreement::Other);
    assert_eq!(agree(store, at ^ 0x5a << 56, true), Agreement::Same(at), "a tag is no address");
}

#[test]
fn an_access_across_pages_agrees_with_a_fault_in_either() {
    let mut bench = Bench::new();
    bench.cpus[0].registers[2] = FAR + 0xff8;
    let access = decode(0xa900_0c41).expect("stp x1, x3, [x2]");
    for (far, agrees) in [(FAR + 0xff8, true), (FAR + 0x1000, true), (FAR + 0x1008, false)] {
        let expected = if agrees { Agreement::Crosses } else { Agreement::Other };
        assert_eq!(agreement(&access, &bench.cpus[0], far, true), expected, "{far:#x}");
    }
}
