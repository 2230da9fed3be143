//! The functions of loaded modules, as kernel/module/kallsyms.c of Linux gives them to
//! /proc/kallsyms: each module has a symbol table of ELF, and the types of its symbols beside it.

use super::super::names::Function;
use super::btf::Types;
use super::lists::{Virtual, word_at};
use super::memory::{u32_at, u64_at};
use super::tables::is_function;

/// Most modules of a kernel.
const MAX_MODULES: usize = 4096;
/// Most symbols of a module.
const MAX_SYMBOLS: u64 = 1 << 18;
/// Most bytes of a module's names.
const MAX_STRINGS: usize = 16 << 20;
/// Most bytes of a module's name (MODULE_NAME_LEN) and of a symbol's (KSYM_NAME_LEN).
const MAX_NAME: usize = 512;
/// Bytes of a symbol (struct elf64_sym).
const SYMBOL: usize = 24;

/// The places of what is read in the kernel's structures.
#[derive(Clone, Copy, Debug)]
struct Places {
    list: u64,
    name: u64,
    state: u64,
    kallsyms: u64,
    symbols: u64,
    count: u64,
    strings: u64,
    types: u64,
}

impl Places {
    fn find(types: &Types) -> Option<Self> {
        let [list, name, state, kallsyms] =
            types.offsets("module", ["list", "name", "state", "kallsyms"])?;
        let [symbols, count, strings, kinds] =
            types.offsets("mod_kallsyms", ["symtab", "num_symtab", "strtab", "typetab"])?;
        Some(Self { list, name, state, kallsyms, symbols, count, strings, types: kinds })
    }
}

/// What was read of the modules.
#[derive(Debug, Default)]
pub(super) struct Modules {
    pub(super) functions: Vec<Function>,
    /// Modules that could not be read, with the reason.
    pub(super) missing: Vec<String>,
}

/// Reads the functions of the modules in the list `head`.
///
/// # Errors
///
/// None could be read.
pub(super) fn read(memory: Virtual<'_>, types: &Types, head: u64) -> Result<Modules, String> {
    let Some(places) = Places::find(types) else {
        return Err("its types have no module with a table of names".into());
    };
    let mut modules = Modules::default();
    for entry in memory.list(head, MAX_MODULES)? {
        let at = entry.wrapping_sub(places.list);
        let Some(name) = memory.text(at.wrapping_add(places.name), MAX_NAME) else {
            modules.missing.push(format!("the module at {at:#x} has no readable name"));
            continue;
        };
        match functions(memory, &places, at, &name) {
            Ok(functions) => modules.functions.extend(functions),
            Err(why) => modules.missing.push(format!("the module {name}: {why}")),
        }
    }
    Ok(modules)
}

/// MODULE_STATE_UNFORMED of include/linux/module.h: its tables are not there yet.
const UNFORMED: u64 = 3;

fn functions(
    memory: Virtual<'_>,
    places: &Places,
    at: u64,
    module: &str,
) -> Result<Vec<Function>, String> {
    let word = |at: u64| memory.word(at).ok_or("it cannot be read");
    if word(at.wrapping_add(places.state))? & 0xffff_ffff == UNFORMED {
        return Ok(Vec::new());
    }
    let table = word(at.wrapping_add(places.kallsyms))?;
    let field = |offset: u64| word(table.wrapping_add(offset));
    let count = field(places.count)? & 0xffff_ffff;
    if count > MAX_SYMBOLS {
        return Err(format!("it claims {count} symbols"));
    }
    let count = count as usize;
    let read = |at: u64, length: usize| memory.bytes(at, length).ok_or("its symbols are not there");
    let symbols = read(field(places.symbols)?, count * SYMBOL)?;
    let types = read(field(places.types)?, count)?;
    let places_of_names = (0..count).filter_map(|index| u32_at(&symbols, index * SYMBOL));
    let last = places_of_names.max().unwrap_or(0) as usize;
    if last > MAX_STRINGS {
        return Err("a symbol's name is out of bounds".into());
    }
    let strings = memory.bytes_up_to(field(places.strings)?, last + MAX_NAME);
    let mut functions = Vec::new();
    // The first symbol of ELF is none.
    for (index, kind) in types.iter().enumerate().skip(1) {
        let symbol = symbols.get(index * SYMBOL..(index + 1) * SYMBOL).unwrap_or_default();
        // Tables have no holes: this is memory that is not what it was taken for.
        if symbol.iter().all(|byte| *byte == 0) {
            return Err("its table of symbols has a hole".into());
        }
        let place = u32_at(symbol, 0).unwrap_or(0) as usize;
        if place == 0 || !is_function(*kind) {
            continue;
        }
        let name = word_at(&strings, place).filter(|name| name.len() <= MAX_NAME);
        let address = u64_at(symbol, 8).filter(|address| address >> 52 == 0xfff);
        let (Some(name), Some(address)) = (name, address) else {
            return Err(format!("its symbol {index} has no name, or no address of the kernel's"));
        };
        // `$x` marks code for disassemblers.
        if !name.starts_with('$') {
            functions.push(Function { address, name, module: Some(module.to_owned()) });
        }
    }
    Ok(functions)
}
