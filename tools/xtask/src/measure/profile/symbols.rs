//! Names for the instructions of an image, from its ELF file: the compiled function, and the
//! functions that were inlined into it, with their lines.

use std::collections::BTreeMap;
use std::path::Path;

use addr2line::gimli::{self, EndianSlice, LittleEndian};
use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind, SymbolSection};
use oche::{source_paths, workspace};

/// The name of what has none.
const UNKNOWN: &str = "?";

/// The symbols and the debug information of an ELF file.
pub(super) struct Symbols<'elf> {
    /// Compiled functions by their start.
    functions: BTreeMap<u64, String>,
    /// The code, which begins at address 0.
    code: &'elf [u8],
    lines: addr2line::Context<EndianSlice<'elf, LittleEndian>>,
}

/// A place in a source file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The function's own name, without its path and its generic arguments.
    pub(super) function: String,
    /// The file: of this project from the checkout's top, else from its crate's or library's.
    pub(super) file: String,
    pub(super) line: u32,
    /// It is this project's code, and no library's.
    pub(super) is_own: bool,
}

impl<'elf> Symbols<'elf> {
    /// Reads `elf`.
    ///
    /// # Errors
    ///
    /// It is no ELF file, or has no debug information.
    pub(super) fn read(elf: &'elf [u8]) -> Result<Self> {
        let file = object::read::elf::ElfFile64::<object::Endianness>::parse(elf)?;
        let section = |id: gimli::SectionId| -> Result<_, gimli::Error> {
            let data = file.section_by_name(id.name()).and_then(|section| section.data().ok());
            Ok(EndianSlice::new(data.unwrap_or_default(), LittleEndian))
        };
        let dwarf = gimli::Dwarf::load(section)?;
        let lines = addr2line::Context::from_dwarf(dwarf).context("its debug information")?;
        let is_function = |kind| matches!(kind, SymbolKind::Text | SymbolKind::Label);
        let functions = file.symbols().filter(|symbol| {
            matches!(symbol.section(), SymbolSection::Section(_)) && is_function(symbol.kind())
        });
        let functions = functions.filter_map(|symbol| {
            let name = symbol.name().ok().filter(|name| !name.starts_with('$'))?;
            Some((symbol.address(), demangled(name)))
        });
        let code = file.sections().find(|section| section.address() == 0 && is_code(section));
        let code = code.and_then(|section| section.data().ok()).unwrap_or_default();
        Ok(Self { functions: functions.collect(), code, lines })
    }

    /// The compiled function that `address` lies in, and its start.
    pub(super) fn function_at(&self, address: u64) -> (u64, &str) {
        let found = self.functions.range(..=address).next_back();
        found.map_or((address, UNKNOWN), |(start, name)| (*start, name.as_str()))
    }

    /// The function that the instruction at `address` calls by `BL`, or ends with by `B`.
    pub(super) fn callee(&self, address: u64) -> Option<u64> {
        let place = usize::try_from(address).ok()?;
        let word = self.code.get(place..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))?;
        let target = branch_target(address, word)?;
        self.functions.contains_key(&target).then_some(target)
    }

    /// The place of the instruction at `address`, and those that it was inlined into, from the
    /// inside to the outside.
    ///
    /// # Errors
    ///
    /// The debug information is broken.
    pub(super) fn places(&self, address: u64) -> Result<Vec<Place>> {
        let mut frames = self.lines.find_frames(address).skip_all_loads()?;
        let mut places = Vec::new();
        while let Some(frame) = frames.next()? {
            let name = match &frame.function {
                Some(name) => demangled(&name.raw_name()?),
                None => self.function_at(address).1.to_owned(),
            };
            let (file, line) = frame.location.map_or((None, None), |at| (at.file, at.line));
            let file = file.unwrap_or(UNKNOWN);
            places.push(Place {
                function: short_name(&name),
                file: short_path(file),
                line: line.unwrap_or(0),
                is_own: own_path(file).is_some(),
            });
        }
        if places.is_empty() {
            let function = self.function_at(address).1.to_owned();
            let file = "assembly".to_owned();
            places.push(Place { function, file, line: 0, is_own: true });
        }
        Ok(places)
    }
}

#[cfg(test)]
impl<'elf> Symbols<'elf> {
    /// `functions` by their start in `code`, without debug information.
    pub(super) fn of_code(functions: &[(u64, &str)], code: &'elf [u8]) -> Self {
        let section = |_| Ok::<_, gimli::Error>(EndianSlice::new(&[][..], LittleEndian));
        let dwarf = gimli::Dwarf::load(section).unwrap();
        let functions = functions.iter().map(|(start, name)| (*start, (*name).to_owned()));
        let lines = addr2line::Context::from_dwarf(dwarf).unwrap();
        Self { functions: functions.collect(), code, lines }
    }

    /// The start of the function the name of which ends with `name`.
    pub(super) fn start_of(&self, name: &str) -> u64 {
        let found = self.functions.iter().find(|(_, known)| known.ends_with(name));
        *found.unwrap_or_else(|| panic!("no function is called {name}")).0
    }
}

impl Place {
    /// The folder of the crate, or what the file is called where there is none.
    pub(super) fn krate(&self) -> &str {
        self.file.split_once("/src/").map_or(&self.file, |(folder, _)| folder)
    }
}

fn is_code<'data>(section: &impl ObjectSection<'data>) -> bool {
    section.kind() == object::SectionKind::Text
}

/// The target of `BL` and `B`.
///
/// Source: Arm ARM DDI 0487, C6.2 "B" and "BL".
fn branch_target(address: u64, word: u32) -> Option<u64> {
    let is_branch = word & 0x7c00_0000 == 0x1400_0000;
    // Shifted up and down again, bit 25 is the sign.
    let offset = i64::from((word << 6).cast_signed() >> 4);
    is_branch.then(|| address.wrapping_add_signed(offset))
}

/// A symbol's name as Rust has it, without the hash.
fn demangled(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

/// `<impl a::B>::c<d::E>` as `c`: what is left of a name without paths and generic arguments.
fn short_name(name: &str) -> String {
    let mut plain = String::new();
    let mut depth = 0u32;
    for letter in name.chars() {
        match letter {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(letter),
            _ => {}
        }
    }
    // The compiler splits functions, and marks the parts.
    let plain = plain.split(" (.llvm").next().unwrap_or(name);
    let plain = plain.split(".llvm.").next().unwrap_or(plain);
    let mut parts = plain.rsplit("::").filter(|part| !part.is_empty());
    let last = parts.next().unwrap_or(name).trim();
    match parts.next() {
        // A closure has its function's name, where the file has one.
        Some(function) if last.starts_with('{') => format!("{function}::{last}"),
        _ => last.to_owned(),
    }
}

/// `path` from the checkout's top, if it is of this project. Programs for the host have it in full.
fn own_path(path: &str) -> Option<String> {
    let in_full = || Path::new(path).strip_prefix(workspace::root()).ok()?.to_str();
    path.strip_prefix(source_paths::OWN).or_else(in_full).map(str::to_owned)
}

/// `path`, as `source_paths` has it, from the top of the checkout, of its crate or of Rust's
/// library.
fn short_path(path: &str) -> String {
    if let Some(own) = own_path(path) {
        return own;
    }
    if let Some(krate) = path.strip_prefix(source_paths::CRATES) {
        return krate.split_once('/').map_or(krate, |(_, file)| file).to_owned();
    }
    match path.split_once("/library/") {
        Some((_, file)) => format!("library/{file}"),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Symbols, branch_target, short_name, short_path};

    #[test]
    fn targets_of_branches_are_decoded() {
        assert_eq!(branch_target(0x1000, 0x9400_0002), Some(0x1008));
        assert_eq!(branch_target(0x1000, 0x97ff_ffff), Some(0xffc));
        assert_eq!(branch_target(0x1000, 0x1400_0400), Some(0x2000));
        assert_eq!(
            (branch_target(0x1000, 0xd65f_03c0), branch_target(0, 0x5400_0040)),
            (None, None)
        );
    }

    #[test]
    fn names_lose_paths_hashes_and_generic_arguments() {
        for (name, short) in [
            ("oche_engine::pool::red_zone_damage", "red_zone_damage"),
            ("<oche::a::B<C<D>> as oche::e::F>::first_difference", "first_difference"),
            ("load<oche_qemu_virt::smmu::Smmu>", "load"),
            ("core::ptr::read::<[u8; 8]>", "read"),
            ("{closure#0}", "{closure#0}"),
            ("oche::work::{{closure}}", "work::{{closure}}"),
            ("oche::work::end.llvm.1753707", "end"),
            ("memcpy", "memcpy"),
        ] {
            assert_eq!(short_name(name), short, "{name}");
        }
    }

    #[test]
    fn paths_begin_at_the_top_of_what_they_belong_to() {
        for (path, short) in [
            ("./hyp/engine/src/pool.rs", "hyp/engine/src/pool.rs"),
            ("/cargo/index-1/fdt-0.1.5/src/lib.rs", "fdt-0.1.5/src/lib.rs"),
            ("/rustc/59807616e/library/core/src/ptr/mod.rs", "library/core/src/ptr/mod.rs"),
            ("/else/where.rs", "/else/where.rs"),
        ] {
            assert_eq!(short_path(path), short);
        }
    }

    /// Is inlined into [`outer_of_the_test`].
    #[inline(always)]
    fn inner_of_the_test(number: &mut u64) -> u64 {
        *number = number.wrapping_mul(3);
        *number
    }

    #[inline(never)]
    fn outer_of_the_test(number: &mut u64) -> u64 {
        inner_of_the_test(number) + 1
    }

    #[test]
    fn a_known_address_has_the_inlined_function_and_its_caller() {
        let elf = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let symbols = Symbols::read(&elf).unwrap();
        assert_eq!(outer_of_the_test(&mut 1), 4);
        let start = symbols.start_of("outer_of_the_test");
        assert!(symbols.function_at(start + 1).1.ends_with("outer_of_the_test"));
        let chains = (start..start + 64).map(|address| symbols.places(address).unwrap());
        let found = chains.into_iter().find_map(|places| {
            let is = |index: usize, name| places.get(index)?.function.eq(name).then_some(());
            let at = (0..places.len()).find(|at| is(*at, "inner_of_the_test").is_some())?;
            is(at + 1, "outer_of_the_test")?;
            Some((places[at].clone(), places[at + 1].clone()))
        });
        let (inner, outer) = found.expect("an instruction of the inlined function");
        assert_eq!((inner.file.as_str(), outer.file.as_str()), (file!(), file!()));
        assert!(inner.line < outer.line && inner.is_own, "{inner:?} {outer:?}");
    }
}
