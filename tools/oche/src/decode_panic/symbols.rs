//! Functions and lines for the addresses of an image, from its ELF file.

use std::collections::BTreeMap;

use addr2line::gimli::{self, EndianSlice, LittleEndian};
use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind, SymbolSection};
use schemars::JsonSchema;
use serde::Serialize;

use crate::source_paths::{CRATES, OWN};

/// A function that an address lies in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Function {
    /// Its name.
    pub(super) name: String,
    /// The source file, where it is known: from the checkout's top, or the crate's or library's.
    pub(super) file: Option<String>,
    /// The line in it.
    pub(super) line: Option<u32>,
    /// Whether it was inlined into the next one.
    pub(super) is_inlined: bool,
}

/// The symbols and line tables of an ELF file.
pub(super) struct ImageSymbols<'elf> {
    /// Names by the first address, and the bytes of each; 0 where the file does not say.
    functions: BTreeMap<u64, (u64, String)>,
    lines: addr2line::Context<EndianSlice<'elf, LittleEndian>>,
}

impl<'elf> ImageSymbols<'elf> {
    /// Reads `elf`.
    ///
    /// # Errors
    ///
    /// It is no ELF file, or has no symbols.
    pub(super) fn read(elf: &'elf [u8]) -> Result<Self> {
        let file = object::read::elf::ElfFile64::<object::Endianness>::parse(elf)
            .context("it is not an ELF file")?;
        let section = |id: gimli::SectionId| -> Result<_, gimli::Error> {
            let data = file.section_by_name(id.name()).and_then(|section| section.data().ok());
            Ok(EndianSlice::new(data.unwrap_or_default(), LittleEndian))
        };
        let dwarf = gimli::Dwarf::load(section).context("its line tables")?;
        let lines = addr2line::Context::from_dwarf(dwarf).context("its line tables")?;
        let is_function = |kind| matches!(kind, SymbolKind::Text | SymbolKind::Label);
        let symbols = file.symbols().filter(|symbol| {
            matches!(symbol.section(), SymbolSection::Section(_)) && is_function(symbol.kind())
        });
        let named = symbols.filter_map(|symbol| {
            // `$x` and `$d` mark code and data for disassemblers.
            let name = symbol.name().ok().filter(|name| !name.starts_with('$'))?;
            Some((symbol.address(), (symbol.size(), demangled(name))))
        });
        let functions: BTreeMap<_, _> = named.collect();
        if functions.is_empty() {
            anyhow::bail!("it has no symbols: it was stripped");
        }
        Ok(Self { functions, lines })
    }

    /// The functions that `address` lies in, from the innermost to the one that was not inlined;
    /// none if it is in no function.
    pub(super) fn at(&self, address: u64) -> Vec<Function> {
        let mut found = Vec::new();
        let Some(outer) = self.symbol_at(address) else { return found };
        // Broken line tables leave what the symbols say.
        if let Ok(mut frames) = self.lines.find_frames(address).skip_all_loads() {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref().and_then(|name| name.raw_name().ok());
                let (file, line) = frame.location.map_or((None, None), |at| (at.file, at.line));
                found.push(Function {
                    name: name.map_or_else(|| outer.clone(), |name| demangled(&name)),
                    file: file.map(short_path),
                    line,
                    is_inlined: true,
                });
            }
        }
        if found.is_empty() {
            let name = outer.clone();
            found.push(Function { name, file: None, line: None, is_inlined: true });
        }
        if let Some(last) = found.last_mut() {
            // The symbol has the path, which the line tables leave out.
            last.name = outer;
            last.is_inlined = false;
        }
        found
    }

    fn symbol_at(&self, address: u64) -> Option<String> {
        let (start, (bytes, name)) = self.functions.range(..=address).next_back()?;
        let offset = address - start;
        match *bytes {
            // A label of assembly, which may be another one's that has no symbol.
            0 => Some(format!("assembly, {offset:#x} bytes behind {name}")),
            bytes => (offset < bytes).then(|| name.clone()),
        }
    }
}

/// A source's path from the top of the checkout, of its crate or of Rust's library.
fn short_path(path: &str) -> String {
    if let Some(own) = path.strip_prefix(OWN) {
        return own.to_owned();
    }
    let krate = path.strip_prefix(CRATES).and_then(|path| path.split_once('/'));
    let library = path.strip_prefix("/rustc/").and_then(|path| path.split_once('/'));
    krate.or(library).map_or(path, |(_, file)| file).to_owned()
}

/// A symbol's name as Rust has it, without the hash.
fn demangled(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

#[cfg(test)]
mod tests {
    use super::{ImageSymbols, short_path};

    #[test]
    fn paths_begin_at_the_top_of_what_they_belong_to() {
        for (path, short) in [
            ("./hyp/el2/src/panic.rs", "hyp/el2/src/panic.rs"),
            ("/cargo/index-1/fdt-0.1.5/src/lib.rs", "fdt-0.1.5/src/lib.rs"),
            ("/rustc/59807616e/library/core/src/ptr/mod.rs", "library/core/src/ptr/mod.rs"),
            ("/else/where.rs", "/else/where.rs"),
        ] {
            assert_eq!(short_path(path), short);
        }
    }

    #[test]
    fn a_function_of_this_program_is_found_by_an_address_in_it() {
        let elf = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let symbols = ImageSymbols::read(&elf).unwrap();
        let own = "a_function_of_this_program_is_found_by_an_address_in_it";
        let is_own =
            |(_, (bytes, name)): &(&u64, &(u64, String))| *bytes > 8 && name.ends_with(own);
        let (start, _) = symbols.functions.iter().find(is_own).expect("this function");
        let found = symbols.at(start + 4);
        let last = found.last().expect("a function");
        assert!(last.name.ends_with(own) && !last.is_inlined, "{found:?}");
        assert!(
            found.iter().any(|one| one.file.as_ref().is_some_and(|file| file.ends_with(".rs")))
        );
    }

    #[test]
    fn what_is_no_elf_file_is_refused() {
        assert!(ImageSymbols::read(b"oche").is_err());
    }
}
