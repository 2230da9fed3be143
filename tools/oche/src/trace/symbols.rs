//! Names for the guest's code: those inside the trace, or a System.map, a copy of /proc/kallsyms or
//! an ELF file's symbols, moved to where the kernel was loaded.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use object::{Object, ObjectSymbol, SymbolKind};
use rustc_hash::FxHashMap;

use super::description::plain;
use super::names::{Function, Names};
use super::reader::{ByteSource, TraceFile};

/// Farthest that code may be from the symbol before it and still be called after it: 1 MiB.
/// Functions are smaller.
const FARTHEST: u64 = 1 << 20;

/// The sources of names.
#[derive(Clone, Debug, Default, Args)]
pub struct SymbolOptions {
    /// Name the guest's code from its System.map, or a copy of its /proc/kallsyms (knows modules,
    /// needs no offset)
    #[arg(long, value_name = "FILE")]
    pub symbols: Option<PathBuf>,
    /// Name the guest's code from the symbol table of its vmlinux
    #[arg(long, value_name = "ELF")]
    pub vmlinux: Option<PathBuf>,
    /// Add this to the addresses of System.map or vmlinux: `_text` in /proc/kallsyms
    /// less `_text` there
    #[arg(long, value_name = "BYTES", value_parser = parse_offset, default_value = "0")]
    pub kaslr_offset: u64,
}

impl SymbolOptions {
    /// The files that are read.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.symbols.iter().chain(&self.vmlinux).map(PathBuf::as_path)
    }

    /// Reads the chosen sources; nothing where none is chosen.
    ///
    /// # Errors
    ///
    /// A file cannot be read or has no symbols.
    pub fn load(&self) -> Result<Symbols> {
        let mut functions = Vec::new();
        if let Some(path) = &self.symbols {
            functions.extend(read_map(path)?.functions);
        }
        if let Some(path) = &self.vmlinux {
            functions.extend(read_elf(path)?);
        }
        for function in &mut functions {
            function.address = function.address.wrapping_add(self.kaslr_offset);
        }
        Ok(Symbols::of(functions))
    }

    /// Reads the chosen sources; where none is chosen, the names that the trace itself has for the
    /// boot `session`, or for its only one. The names of one boot are not those of another: the
    /// kernel chooses its place anew.
    ///
    /// # Errors
    ///
    /// As [`SymbolOptions::load`]; or the trace's names are damaged.
    pub fn load_for<S: ByteSource>(
        &self,
        trace: &TraceFile<S>,
        session: Option<usize>,
    ) -> Result<Symbols> {
        if self.files().next().is_some() {
            return self.load();
        }
        let only = (trace.sessions.len() == 1).then_some(0);
        let Some(session) = session.or(only) else { return Ok(Symbols::default()) };
        Ok(Symbols::of(trace.names(session)?.into_iter().flat_map(|names| names.functions)))
    }
}

/// Names by address.
#[derive(Debug, Default)]
pub struct Symbols {
    /// By address, ascending.
    sorted: Vec<Symbol>,
    modules: Vec<String>,
}

#[derive(Debug)]
struct Symbol {
    address: u64,
    /// `None`: what two modules had at this address, one after the other, has no name.
    name: Option<String>,
    /// Its module's place among the modules.
    module: Option<usize>,
}

/// The code at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The function that it is in.
    pub function: &'a str,
    /// How many bytes into it.
    pub offset: u64,
    /// The module that the function is in.
    pub module: Option<&'a str>,
}

impl fmt::Display for Place<'_> {
    /// As Linux prints it: `nvme_map_data+0x1c [nvme]`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}+{:#x}", self.function, self.offset)?;
        self.module.map_or(Ok(()), |module| write!(out, " [{module}]"))
    }
}

impl Symbols {
    /// These names of the kernel itself, each `offset` bytes farther up.
    pub fn new(symbols: Vec<(u64, String)>, offset: u64) -> Self {
        let function = |(address, name): (u64, String)| Function {
            address: address.wrapping_add(offset),
            name,
            module: None,
        };
        Self::of(symbols.into_iter().map(function))
    }

    /// The names of several moments, the earlier first.
    pub fn of(functions: impl IntoIterator<Item = Function>) -> Self {
        let mut modules: Vec<String> = Vec::new();
        let mut numbers: FxHashMap<String, usize> = FxHashMap::default();
        let mut number = |module: String| {
            *numbers.entry(module).or_insert_with_key(|module| {
                modules.push(module.clone());
                modules.len() - 1
            })
        };
        let mut sorted: Vec<Symbol> = functions
            .into_iter()
            .map(|Function { address, name, module }| Symbol {
                address,
                name: Some(name),
                module: module.map(&mut number),
            })
            .collect();
        // Of several names for one address the one that is no alias reads best: the shortest.
        let length = |symbol: &Symbol| symbol.name.as_ref().map(String::len);
        sorted
            .sort_by(|a, b| (a.address, length(a), &a.name).cmp(&(b.address, length(b), &b.name)));
        sorted.dedup_by(|later, kept| {
            if later.address != kept.address {
                return false;
            }
            if later.module != kept.module {
                kept.name = None;
            }
            true
        });
        let mut symbols = Self { sorted, modules };
        symbols.forget_shared_pages();
        symbols
    }

    /// Modules never share a page. Where two have names on one, the one was there after the other,
    /// and which of them an event means is not known.
    fn forget_shared_pages(&mut self) {
        const PAGE_BITS: u32 = 12;
        let pages = self
            .sorted
            .chunk_by_mut(|one, next| one.address >> PAGE_BITS == next.address >> PAGE_BITS);
        for page in pages {
            let first = page.first().and_then(|symbol| symbol.module);
            if page.iter().any(|symbol| symbol.module != first) {
                page.iter_mut().for_each(|symbol| symbol.name = None);
            }
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// The addresses of the functions whose names `is_wanted` chooses, ascending.
    pub fn ranges(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<std::ops::Range<u64>> {
        let ends = self.sorted.iter().skip(1).map(|symbol| symbol.address).chain([u64::MAX]);
        let all = self
            .sorted
            .iter()
            .zip(ends)
            .filter(|(symbol, _)| symbol.name.as_deref().is_some_and(&is_wanted));
        all.map(|(Symbol { address, .. }, end)| *address..end.min(address.saturating_add(FARTHEST)))
            .collect()
    }

    /// The code at `program_counter`.
    pub fn find(&self, program_counter: u64) -> Option<Place<'_>> {
        let after = self.sorted.partition_point(|symbol| symbol.address <= program_counter);
        let symbol = self.sorted.get(after.checked_sub(1)?)?;
        let offset = program_counter - symbol.address;
        let module = symbol.module.and_then(|module| self.modules.get(module));
        let function = symbol.name.as_deref().filter(|_| offset < FARTHEST)?;
        Some(Place { function, offset, module: module.map(String::as_str) })
    }

    /// `program_counter` for people: `name+0x10 [module]`, or the number where it has no name; `-`
    /// for none.
    pub fn name(&self, program_counter: u64) -> String {
        match (program_counter, self.find(program_counter)) {
            (0, _) => "-".into(),
            (_, Some(place)) => place.to_string(),
            (_, None) => format!("{program_counter:#x}"),
        }
    }
}

/// Names as they are asked for, kept: a trace has millions of events and a few hundred places in
/// the code.
#[derive(Debug)]
pub struct NameCache<'a> {
    symbols: &'a Symbols,
    names: FxHashMap<u64, Option<String>>,
}

impl<'a> NameCache<'a> {
    /// Most names that are kept; a wild trace has more.
    const MOST: usize = 1 << 16;

    /// Keeps names of `symbols`.
    pub fn new(symbols: &'a Symbols) -> Self {
        Self { symbols, names: FxHashMap::default() }
    }

    /// `name+0x10` for `program_counter`, if it has a name.
    pub fn get(&mut self, program_counter: u64) -> Option<&str> {
        if self.symbols.is_empty() || program_counter == 0 {
            return None;
        }
        if self.names.len() >= Self::MOST {
            self.names.clear();
        }
        let name = self
            .names
            .entry(program_counter)
            .or_insert_with(|| self.symbols.find(program_counter).map(|place| place.to_string()));
        name.as_deref()
    }
}

/// Reads a System.map, or a copy of /proc/kallsyms.
///
/// # Errors
///
/// The file cannot be read, or has no symbols or no addresses.
pub(crate) fn read_map(path: &Path) -> Result<Names> {
    let bytes =
        std::fs::read(path).with_context(|| format!("reading the symbols {}", path.display()))?;
    let names = Names::from_kallsyms(&String::from_utf8_lossy(&bytes));
    if names.functions.is_empty() {
        bail!(
            "{} has no line such as `ffff800008000000 T _text`: not a System.map",
            path.display()
        );
    }
    if names.functions.iter().all(|function| function.address == 0) {
        bail!("{}: all addresses are 0; copy /proc/kallsyms as root", path.display());
    }
    Ok(names)
}

fn read_elf(path: &Path) -> Result<Vec<Function>> {
    let bytes =
        std::fs::read(path).with_context(|| format!("reading the symbols {}", path.display()))?;
    let file = object::File::parse(&*bytes)
        .with_context(|| format!("{} is no ELF file", path.display()))?;
    let code =
        file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition());
    let functions: Vec<_> = code
        .filter_map(|symbol| {
            let name = plain(symbol.name().ok()?);
            Some(Function { address: symbol.address(), name, module: None })
        })
        .collect();
    if functions.is_empty() {
        bail!("{} has no symbols: it was stripped", path.display());
    }
    Ok(functions)
}

fn parse_offset(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "a number of bytes, such as 0x31200000".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::made::with_every_error;

    const KALLSYMS: &str = "ffff800008000000 T _text\nffff800008000100 t do_it\nffff800008000100 W alias_of_do_it\n\
        ffff800008000200 D data\nffffba4b2d700000 t apple_dart_probe\t[apple_dart]\nnothing\nffff800008000080 t $x\n";

    fn symbols(offset: u64) -> Symbols {
        let mut functions = Names::from_kallsyms(KALLSYMS).functions;
        functions.iter_mut().for_each(|function| function.address += offset);
        Symbols::of(functions)
    }

    #[test]
    fn code_is_named_after_the_function_that_it_is_in() {
        let symbols = symbols(0);
        assert_eq!(symbols.name(0xffff_8000_0800_0180), "do_it+0x80");
        assert_eq!(symbols.name(0xffff_8000_0800_00ff), "_text+0xff");
        assert_eq!(symbols.name(0xffff_ba4b_2d70_0734), "apple_dart_probe+0x734 [apple_dart]");
        assert_eq!(symbols.name(0x1000), "0x1000");
        assert_eq!(symbols.name(0), "-");
    }

    fn function(address: u64, name: &str, module: &str) -> Function {
        let module = (!module.is_empty()).then(|| module.to_owned());
        Function { address, name: name.into(), module }
    }

    #[test]
    fn what_two_modules_had_one_after_the_other_has_no_name() {
        let symbols = Symbols::of([
            function(0x1_1000, "old_a", "old"),
            function(0x1_2000, "old_b", "old"),
            function(0x1_2100, "old_c", "old"),
            function(0x1_2080, "new_a", "new"),
            function(0x1_3000, "new_b", "new"),
        ]);
        assert_eq!(symbols.name(0x1_1010), "old_a+0x10 [old]");
        assert_eq!(symbols.name(0x1_2010), "0x12010");
        assert_eq!(symbols.name(0x1_2090), "0x12090");
        assert_eq!(symbols.name(0x1_3004), "new_b+0x4 [new]");
    }

    #[test]
    fn a_traces_own_names_are_used_unless_others_are_chosen() {
        let mut made = with_every_error();
        let names = |functions| Names { functions, ..Names::default() };
        made.names = vec![
            names(vec![function(0x1000, "early", "")]),
            names(vec![function(0x1000, "early", ""), function(0x5000, "late", "usb")]),
        ];
        let symbols = SymbolOptions::default().load_for(&made.open(), None).unwrap();
        assert_eq!(
            (symbols.name(0x1004), symbols.name(0x5000)),
            ("early+0x4".into(), "late+0x0 [usb]".into())
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0000000000001000 T other\n").unwrap();
        let options =
            SymbolOptions { symbols: Some(file.path().into()), ..SymbolOptions::default() };
        let symbols = options.load_for(&made.open(), None).unwrap();
        assert_eq!(
            (symbols.name(0x1004), symbols.name(0x5000)),
            ("other+0x4".into(), "other+0x4000".into())
        );
    }

    #[test]
    fn what_is_far_from_every_function_has_no_name() {
        assert_eq!(symbols(0).find(0xffff_8000_0900_0000), None);
    }

    #[test]
    fn a_kernel_that_was_moved_is_found_with_its_offset() {
        assert_eq!(symbols(0x20_0000).name(0xffff_8000_0820_0104), "do_it+0x4");
        assert_eq!(parse_offset("0x200000"), Ok(0x20_0000));
        assert!(parse_offset("2M").is_err());
    }

    #[test]
    fn a_file_without_symbols_is_named_in_one_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello\n").unwrap();
        let both = |options: SymbolOptions| options.load().unwrap_err().to_string();
        let map =
            both(SymbolOptions { symbols: Some(file.path().into()), ..SymbolOptions::default() });
        assert!(map.contains("not a System.map"), "{map}");
        let elf =
            both(SymbolOptions { vmlinux: Some(file.path().into()), ..SymbolOptions::default() });
        assert!(elf.contains("is no ELF file"), "{elf}");
        std::fs::write(file.path(), "0000000000000000 T _text\n").unwrap();
        let hidden =
            both(SymbolOptions { symbols: Some(file.path().into()), ..SymbolOptions::default() });
        assert!(hidden.contains("as root"), "{hidden}");
    }

    #[test]
    fn a_cache_gives_what_the_symbols_give() {
        let symbols = symbols(0);
        let mut cache = NameCache::new(&symbols);
        for _ in 0..2 {
            assert_eq!(cache.get(0xffff_8000_0800_0180), Some("do_it+0x80"));
            assert_eq!(cache.get(0x1000), None);
        }
    }
}
