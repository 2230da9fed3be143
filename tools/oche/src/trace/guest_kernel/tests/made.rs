//! A small kernel in memory, made by the test: its tables of names in each order that Linux has
//! had, page tables, types, a module and devices.

use std::collections::BTreeMap;
use std::ops::Range;

use super::super::memory::GuestMemory;
use crate::trace::names::{DeviceName, Function};

/// The guest-physical address of the memory's first byte.
pub(super) const RAM: u64 = 0x4000_0000;
/// Where the image is, above that.
pub(super) const IMAGE: usize = 0x20_0000;
/// The address of `_text`.
const TEXT: u64 = 0xffff_8000_8123_0000;
/// The address of a module's memory, and where it is above [`RAM`].
const MODULE: u64 = 0xffff_8000_0100_0000;
pub(super) const MODULE_AT: usize = 0x40_0000;
const BANNER: &str = "Linux version 6.12.0-made (a test) #1";
/// Functions of the kernel.
const FUNCTIONS: usize = 2300;

/// The orders of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Linux 6.1.
    Old,
    /// Linux 6.2.
    OldWithNumbers,
    /// Linux 6.12.
    New,
    /// Linux 7.2.
    Place,
}

pub(super) const ORDERS: [Order; 4] = [Order::Old, Order::OldWithNumbers, Order::New, Order::Place];

/// The memory with the kernel in it.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) bytes: Vec<u8>,
    /// The places of parts, above [`RAM`].
    pub(super) at: BTreeMap<&'static str, usize>,
}

impl GuestMemory for Made {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let start = address.checked_sub(RAM).and_then(|start| usize::try_from(start).ok());
        let bytes = start.and_then(|start| self.bytes.get(start..start.checked_add(into.len())?));
        bytes.map(|bytes| into.copy_from_slice(bytes)).is_some()
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        std::iter::once(RAM..RAM + self.bytes.len() as u64).collect()
    }
}

/// Symbols with their places in the image, by place.
fn symbols(has_data: bool) -> Vec<(u64, String)> {
    let mut all = vec![(0x1_0000, "T_stext".to_owned())];
    let function = |index: usize| (0x1_0000 + index as u64 * 16, format!("tfunc_{index}"));
    all.extend((0..FUNCTIONS).map(function));
    all.push((0x2_0000, "D_etext".into()));
    if has_data {
        all.insert(0, (0, "T_text".into()));
        all.push((0x2_1000, "Dlinux_banner".into()));
        all.push((0x2_2000, "Dmodules".into()));
        all.push((0x2_2100, "Bdevices_kset".into()));
        all.push((0x5_0000, "R__start_BTF".into()));
        all.push((0x5_0000 + types().len() as u64, "R__stop_BTF".into()));
        all.push((0x6_0000, "Tswapper_pg_dir".into()));
    }
    all.push((0x8_0000, if has_data { "B_end" } else { "T_einittext" }.into()));
    all
}

/// What must be read of it.
pub(super) fn functions() -> Vec<Function> {
    let own = symbols(true).into_iter().filter(|(_, name)| name.starts_with(['t', 'T']));
    let own = own.map(|(at, name)| Function {
        address: TEXT + at,
        name: name[1..].to_owned(),
        module: None,
    });
    let its = |at: u64, name: &str| Function {
        address: MODULE + at,
        name: name.to_owned(),
        module: Some("made_module".into()),
    };
    own.chain([its(0x3000, "made_probe"), its(0x3040, "made_remove")]).collect()
}

pub(super) fn devices() -> Vec<DeviceName> {
    let device = |name: &str, driver: Option<&str>| DeviceName {
        name: name.into(),
        driver: driver.map(Into::into),
    };
    vec![device("0000:00:01.0", Some("made_driver")), device("0000:00:02.0", None)]
}

fn token(index: usize) -> Vec<u8> {
    match index {
        0x80 => b"func_".to_vec(),
        0x81 => b"tfunc_".to_vec(),
        0x21..=0x7e => vec![index as u8],
        _ => format!("x{index:x}_").into_bytes(),
    }
}

fn compressed(name: &str) -> Vec<u8> {
    let (first, rest) = match (name.strip_prefix("tfunc_"), name.split_once("func_")) {
        (Some(rest), _) => (vec![0x81], rest),
        (None, Some((before, rest))) => ([before.as_bytes(), &[0x80]].concat(), rest),
        (None, None) => (Vec::new(), name),
    };
    [first, rest.as_bytes().to_vec()].concat()
}

impl Made {
    /// A kernel with everything.
    pub(super) fn new(order: Order) -> Self {
        Self::with(order, true)
    }

    /// The same; without `has_data` as a kernel without CONFIG_KALLSYMS_ALL has it.
    pub(super) fn with(order: Order, has_data: bool) -> Self {
        let mut made = Self { bytes: vec![0; 0x50_0000], at: BTreeMap::new() };
        made.tables(order, has_data);
        let banner = format!("{BANNER}\n");
        made.put(IMAGE + 0x2_1000, banner.as_bytes());
        made.put(IMAGE + 0x5_0000, &types());
        made.page_tables();
        made.module();
        made.devices();
        let own = [("banner", 0x2_1000), ("modules", 0x2_2000), ("set", 0x2_2100)];
        let more = [("types", 0x5_0000), ("root", 0x6_0000), ("last table", 0x6_3000)];
        made.at.extend(own.into_iter().chain(more).map(|(name, at)| (name, IMAGE + at)));
        made
    }

    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn word(&mut self, at: usize, word: u64) {
        self.put(at, &word.to_le_bytes());
    }

    fn tables(&mut self, order: Order, has_data: bool) {
        let symbols = symbols(has_data);
        let align = if order == Order::Place { 4 } else { 8 };
        let is_old = matches!(order, Order::Old | Order::OldWithNumbers);
        let mut names = Vec::new();
        let mut markers = Vec::new();
        for (index, (_, name)) in symbols.iter().enumerate() {
            if index % 256 == 0 {
                markers.extend((names.len() as u32).to_le_bytes());
            }
            let name = compressed(name);
            names.push(name.len() as u8);
            names.extend(name);
        }
        let (mut tokens, mut index) = (Vec::new(), Vec::new());
        for number in 0..256 {
            index.extend((tokens.len() as u16).to_le_bytes());
            tokens.extend(token(number));
            tokens.push(0);
        }
        let numbers = vec![7; symbols.len() * 3];
        let mut at = IMAGE + 0x3_0000 + align;
        let mut put = |made: &mut Self, name: &'static str, bytes: &[u8]| {
            at = at.next_multiple_of(align);
            made.at.insert(name, at);
            made.put(at, bytes);
            at += bytes.len();
        };
        let first = symbols[0].0;
        let offsets: Vec<u8> =
            symbols.iter().flat_map(|(at, _)| ((at - first) as u32).to_le_bytes()).collect();
        if is_old {
            put(self, "offsets", &offsets);
            put(self, "base", &(TEXT + first).to_le_bytes());
        }
        put(self, "count", &(symbols.len() as u32).to_le_bytes());
        put(self, "names", &names);
        put(self, "markers", &markers);
        if order == Order::OldWithNumbers {
            put(self, "numbers", &numbers);
        }
        put(self, "tokens", &tokens);
        put(self, "index", &index);
        if !is_old {
            put(self, "offsets", &offsets);
        }
        if order == Order::New {
            put(self, "base", &(TEXT + first).to_le_bytes());
        }
        if order == Order::Place {
            let at = self.at["offsets"];
            for (index, (symbol, _)) in symbols.iter().enumerate() {
                let place = (at + index * 4 - IMAGE) as i64;
                self.put(at + index * 4, &((*symbol as i64 - place) as i32).to_le_bytes());
            }
        }
    }

    /// Pages of 4 KiB, addresses of 48 bits.
    fn page_tables(&mut self) {
        let own = |table: usize| IMAGE + 0x6_0000 + table * 0x1000;
        let index = |address: u64, level: u32| (address >> (39 - 9 * level) & 511) as usize * 8;
        let table = |at: usize| (RAM + at as u64) | 3;
        for (address, at, below) in
            [(TEXT, IMAGE, [own(1), own(2), own(3)]), (MODULE, MODULE_AT, [own(1), own(4), own(5)])]
        {
            let mut tables = own(0);
            for (level, below) in below.into_iter().enumerate() {
                self.word(tables + index(address, level as u32), table(below));
                tables = below;
            }
            for page in 0..0x90 {
                let from = address + page * 0x1000;
                // Inner shareable, accessed: bits that are no address.
                let page = (RAM + at as u64 + page * 0x1000) | 0x40_0000_0000_0703;
                self.word(tables + index(from, 3), page);
            }
        }
    }

    /// struct module, its table of names, symbols, types and strings: see [`types`].
    fn module(&mut self) {
        let head = TEXT + 0x2_2000;
        let list = MODULE + 8;
        self.word(IMAGE + 0x2_2000, list);
        self.word(IMAGE + 0x2_2008, list);
        self.word(MODULE_AT + 8, head);
        self.word(MODULE_AT + 16, head);
        self.put(MODULE_AT + 24, b"made_module\0");
        self.word(MODULE_AT + 80, MODULE + 0x100);
        for (index, word) in [MODULE + 0x200, 5, MODULE + 0x400, MODULE + 0x300].iter().enumerate()
        {
            self.word(MODULE_AT + 0x100 + index * 8, *word);
        }
        self.put(MODULE_AT + 0x300, b"?tTtd");
        self.put(MODULE_AT + 0x400, b"\0made_probe\0made_remove\0$x\0made_data\0");
        for (index, (name, at)) in
            [(1u32, 0x3000u64), (12, 0x3040), (24, 0x3000), (27, 0x4000)].iter().enumerate()
        {
            let place = MODULE_AT + 0x200 + (index + 1) * 24;
            self.put(place, &name.to_le_bytes());
            self.word(place + 8, MODULE + at);
        }
    }

    /// Two devices on a bus, and one on none.
    fn devices(&mut self) {
        let set = MODULE + 0x1000;
        self.word(IMAGE + 0x2_2100, set);
        let heads: Vec<u64> = (0..4).map(|index| MODULE + 0x1000 + index * 0x100).collect();
        for index in 0..4 {
            let at = MODULE_AT + 0x1000 + index * 0x100;
            // kset.list; kobject.entry of a device is 16 bytes into it.
            let entry = |index: usize| heads[index] + if index == 0 { 0 } else { 16 };
            let places = at + if index == 0 { 0 } else { 16 };
            self.word(places, entry((index + 1) % 4));
            self.word(places + 8, entry((index + 3) % 4));
        }
        let device = |index: usize| MODULE_AT + 0x1000 + index * 0x100;
        for (index, text) in [(1, "0000:00:01.0\0"), (2, "0000:00:02.0\0"), (3, "tty1\0")] {
            self.put(device(index) + 0x60, text.as_bytes());
            self.word(device(index) + 8, MODULE + (device(index) + 0x60 - MODULE_AT) as u64);
            self.word(device(index) + 0x20, if index == 3 { 0 } else { TEXT });
        }
        self.word(device(1) + 0x28, MODULE + 0x1200 + 0x80);
        self.word(device(2) + 0x80, MODULE + 0x1200 + 0x90);
        self.put(device(2) + 0x90, b"made_driver\0");
    }
}

/// The kernel's types: the structures that are read, and types between them.
fn types() -> Vec<u8> {
    let structures: [(&str, &[(&str, u32)]); 6] = [
        ("module", &[("state", 0), ("list", 8), ("name", 24), ("kallsyms", 80)]),
        ("mod_kallsyms", &[("symtab", 0), ("num_symtab", 8), ("strtab", 16), ("typetab", 24)]),
        ("kset", &[("list", 0)]),
        ("kobject", &[("name", 0), ("entry", 8)]),
        ("device", &[("kobj", 8), ("bus", 0x20), ("driver", 0x28)]),
        ("device_driver", &[("name", 0)]),
    ];
    let mut strings = vec![0];
    let mut types = Vec::new();
    let text = |strings: &mut Vec<u8>, name: &str| {
        let at = strings.len() as u32;
        strings.extend(name.as_bytes());
        strings.push(0);
        at
    };
    let words = |types: &mut Vec<u8>, words: &[u32]| {
        types.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    };
    for (name, members) in structures {
        // An integer and an array, to be passed over.
        words(&mut types, &[0, 1 << 24, 8, 64, 0, 3 << 24, 0, 1, 1, 4]);
        let name = text(&mut strings, name);
        words(&mut types, &[name, 4 << 24 | members.len() as u32, 0x100]);
        for (member, offset) in members {
            let name = text(&mut strings, member);
            words(&mut types, &[name, 1, offset * 8]);
        }
    }
    let mut bytes = Vec::new();
    words(&mut bytes, &[0x0001_eb9f, 24, 0, types.len() as u32, types.len() as u32]);
    words(&mut bytes, &[strings.len() as u32]);
    [bytes, types, strings].concat()
}
