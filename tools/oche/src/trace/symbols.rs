//! Names for the guest's code: System.map, /proc/kallsyms or an ELF file's symbols, moved to where
//! the kernel was loaded.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use object::{Object, ObjectSymbol, SymbolKind};
use rustc_hash::FxHashMap;

use super::description::plain;

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

    /// Reads the chosen sources.
    ///
    /// # Errors
    ///
    /// A file cannot be read or has no symbols.
    pub fn load(&self) -> Result<Symbols> {
        let mut symbols = Vec::new();
        if let Some(path) = &self.symbols {
            symbols.extend(read_map(path)?);
        }
        if let Some(path) = &self.vmlinux {
            symbols.extend(read_elf(path)?);
        }
        Ok(Symbols::new(symbols, self.kaslr_offset))
    }
}

/// Names by address.
#[derive(Debug, Default)]
pub struct Symbols {
    /// By address, ascending.
    sorted: Vec<(u64, String)>,
}

impl Symbols {
    /// These names, each `offset` bytes farther up.
    pub fn new(mut symbols: Vec<(u64, String)>, offset: u64) -> Self {
        for (address, _) in &mut symbols {
            *address = address.wrapping_add(offset);
        }
        // Of several names for one address the one that is no alias reads best: the shortest.
        symbols.sort_by(|(a, one), (b, other)| (a, one.len(), one).cmp(&(b, other.len(), other)));
        symbols.dedup_by_key(|(address, _)| *address);
        Self { sorted: symbols }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// The addresses of the functions whose names `is_wanted` chooses, ascending.
    pub fn ranges(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<std::ops::Range<u64>> {
        let ends = self.sorted.iter().skip(1).map(|(address, _)| *address).chain([u64::MAX]);
        let all = self.sorted.iter().zip(ends).filter(|((_, name), _)| is_wanted(name));
        all.map(|((start, _), end)| *start..end.min(start.saturating_add(FARTHEST))).collect()
    }

    /// The function that `program_counter` is in, and how far into it.
    pub fn find(&self, program_counter: u64) -> Option<(&str, u64)> {
        let after = self.sorted.partition_point(|(address, _)| *address <= program_counter);
        let (address, name) = self.sorted.get(after.checked_sub(1)?)?;
        let offset = program_counter - address;
        if offset < FARTHEST { Some((name, offset)) } else { None }
    }

    /// `program_counter` for people: `name+0x10`, or the number where it has no name; `-` for none.
    pub fn name(&self, program_counter: u64) -> String {
        match (program_counter, self.find(program_counter)) {
            (0, _) => "-".into(),
            (_, Some((name, offset))) => format!("{name}+{offset:#x}"),
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
        let name = self.names.entry(program_counter).or_insert_with(|| {
            let (name, offset) = self.symbols.find(program_counter)?;
            let mut text = name.to_owned();
            // Writing to a String does not fail.
            let _ = write!(text, "+{offset:#x}");
            Some(text)
        });
        name.as_deref()
    }
}

fn read_map(path: &Path) -> Result<Vec<(u64, String)>> {
    let bytes =
        std::fs::read(path).with_context(|| format!("reading the symbols {}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let symbols: Vec<_> = text.lines().filter_map(parse_line).collect();
    if symbols.is_empty() {
        bail!(
            "{} has no line such as `ffff800008000000 T _text`: not a System.map",
            path.display()
        );
    }
    if symbols.iter().all(|(address, _)| *address == 0) {
        bail!("{}: all addresses are 0; copy /proc/kallsyms as root", path.display());
    }
    Ok(symbols)
}

/// Understands `ffff800008000000 T _text` and, from kallsyms, `ffff... t apple_dart_probe
/// [apple_dart]`. What is no code is left out.
fn parse_line(line: &str) -> Option<(u64, String)> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let kind = words.next()?;
    let name = words.next()?;
    // `$x` and `$d` mark code and data for disassemblers.
    if !matches!(kind, "t" | "T" | "w" | "W") || name.starts_with('$') {
        return None;
    }
    let module = words.next().unwrap_or_default();
    Some((address, plain(&format!("{name}{module}"))))
}

fn read_elf(path: &Path) -> Result<Vec<(u64, String)>> {
    let bytes =
        std::fs::read(path).with_context(|| format!("reading the symbols {}", path.display()))?;
    let file = object::File::parse(&*bytes)
        .with_context(|| format!("{} is no ELF file", path.display()))?;
    let code =
        file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition());
    let symbols: Vec<_> =
        code.filter_map(|symbol| Some((symbol.address(), plain(symbol.name().ok()?)))).collect();
    if symbols.is_empty() {
        bail!("{} has no symbols: it was stripped", path.display());
    }
    Ok(symbols)
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

    const KALLSYMS: &str = "ffff800008000000 T _text\nffff800008000100 t do_it\nffff800008000100 W alias_of_do_it\n\
        ffff800008000200 D data\nffffba4b2d700000 t apple_dart_probe\t[apple_dart]\nnothing\nffff800008000080 t $x\n";

    fn symbols(offset: u64) -> Symbols {
        Symbols::new(KALLSYMS.lines().filter_map(parse_line).collect(), offset)
    }

    #[test]
    fn code_is_named_after_the_function_that_it_is_in() {
        let symbols = symbols(0);
        assert_eq!(symbols.name(0xffff_8000_0800_0180), "do_it+0x80");
        assert_eq!(symbols.name(0xffff_8000_0800_00ff), "_text+0xff");
        assert_eq!(symbols.name(0xffff_ba4b_2d70_0734), "apple_dart_probe[apple_dart]+0x734");
        assert_eq!(symbols.name(0x1000), "0x1000");
        assert_eq!(symbols.name(0), "-");
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
