//! The kernel's image in memory: where it is, what it is called, and where its own page tables map
//! it. That is what makes its tables of names more than a copy that lies about.

use std::collections::BTreeMap;

use memchr::memmem;

use super::memory::Memory;
use super::tables::{Base, Symbol, Tables};
use super::walk::PageTables;

/// Bytes of the image before `_stext`: SEGMENT_ALIGN of arch/arm64/kernel/vmlinux.lds.S. They hold
/// the header of the boot protocol, which a running kernel may have overwritten.
const HEAD: i64 = 64 << 10;
/// Where page tables may begin.
const PAGE: u64 = 4096;
/// Most bytes of an image: arch/arm64/include/asm/memory.h gives a kernel 128 MiB.
const MAX_IMAGE: u64 = 128 << 20;
/// The start of `linux_banner` (init/version-timestamp.c).
const BANNER: &[u8] = b"Linux version ";
/// Most bytes of it.
const MAX_BANNER: usize = 1024;

/// The symbols that are used by name.
const WANTED: [&str; 10] = [
    "_text",
    "_stext",
    "_etext",
    "_end",
    "linux_banner",
    "swapper_pg_dir",
    "modules",
    "devices_kset",
    "__start_BTF",
    "__stop_BTF",
];
/// Those that every page table of a running kernel maps.
const MAPPED: [&str; 4] = ["_stext", "_etext", "linux_banner", "swapper_pg_dir"];

/// A kernel in memory that runs there.
#[derive(Debug)]
pub(super) struct Image {
    tables: Tables,
    text: Text,
    /// The bytes from `_text` on that its names are of.
    bytes: u64,
    wanted: BTreeMap<&'static str, i64>,
    /// The text of `linux_banner`.
    pub(super) release: String,
    /// The page tables that `swapper_pg_dir` is, if that has a name.
    pub(super) pages: Option<PageTables>,
}

/// `_text`: its offset in the tables, its physical and its virtual address.
#[derive(Clone, Copy, Debug)]
struct Text {
    offset: i64,
    physical: u64,
    address: u64,
}

impl Image {
    /// The image that `tables` are in, if its page tables map it.
    pub(super) fn find(memory: Memory<'_>, tables: Tables) -> Result<Self, String> {
        let wanted = wanted(&tables);
        let start = wanted.get("_stext").map(|start| start - HEAD);
        // Without CONFIG_KALLSYMS_ALL, `_text` has no name: it lies before the code.
        let Some(offset) = wanted.get("_text").copied().or(start) else {
            return Err("the names have neither _text nor _stext".into());
        };
        let last = tables.symbols().last().map_or(0, |symbol| symbol.offset);
        let end = wanted.get("_end").copied().unwrap_or(last);
        let bytes = u64::try_from(end - offset).ok().filter(|bytes| *bytes <= MAX_IMAGE);
        let Some(bytes) = bytes else {
            return Err("the names are of more than an image's 128 MiB".into());
        };
        let text = Text { offset, physical: 0, address: 0 };
        let mut image = Self { tables, text, bytes, wanted, release: String::new(), pages: None };
        match image.tables.base {
            Base::Relative(base) => {
                image.text.address = base.wrapping_add_signed(offset);
                image.text.physical = image.search_physical(memory)?;
            }
            Base::Place(at) => {
                let physical = at.checked_add_signed(offset);
                image.text.physical = physical.ok_or("the names are of no place in memory")?;
                image.text.address = image.search_virtual(memory)?;
            }
        }
        if image.tables.at.checked_sub(image.text.physical).is_none_or(|inside| inside >= bytes) {
            return Err("the names do not lie in the image that they are of".into());
        }
        if let Some(root) = image.place("swapper_pg_dir") {
            image.pages = PageTables::at(memory, root, &image.known());
            if image.pages.is_none() {
                return Err(NOT_MAPPED.into());
            }
        }
        image.release = image.banner(memory)?;
        Ok(image)
    }

    /// The symbols, by address.
    pub(super) fn symbols(&self) -> impl Iterator<Item = (u64, Symbol<'_>)> {
        self.tables.symbols().map(|symbol| (self.address(symbol.offset), symbol))
    }

    /// The virtual address of the symbol `name`, one of those that are used here.
    pub(super) fn symbol(&self, name: &str) -> Option<u64> {
        self.wanted.get(name).map(|offset| self.address(*offset))
    }

    fn address(&self, offset: i64) -> u64 {
        self.text.address.wrapping_add_signed(offset - self.text.offset)
    }

    fn place(&self, name: &str) -> Option<u64> {
        let inside = self.wanted.get(name)? - self.text.offset;
        let inside = u64::try_from(inside).ok().filter(|inside| *inside < self.bytes)?;
        Some(self.text.physical + inside)
    }

    /// The kernel's banner: at the place of its name, or, without a name, the first in the image.
    fn banner(&self, memory: Memory<'_>) -> Result<String, String> {
        let at = match self.wanted.contains_key("linux_banner") {
            true => self.place("linux_banner"),
            false => {
                let image = memory.bytes(self.text.physical, self.bytes as usize);
                let image = image.ok_or("the image cannot be read whole")?;
                let mut all = memmem::find_iter(&image, BANNER);
                let is_release =
                    |at: &usize| image.get(at + BANNER.len()).is_some_and(u8::is_ascii_digit);
                all.find(is_release).map(|at| self.text.physical + at as u64)
            }
        };
        let bytes = at.and_then(|at| memory.bytes(at, MAX_BANNER)).unwrap_or_default();
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let is_banner = line.starts_with(BANNER) && line.len() < bytes.len();
        match String::from_utf8(line.to_vec()) {
            Ok(line) if is_banner && !line.contains(char::is_control) => Ok(line),
            _ => Err("the kernel's banner is not where the names say it is".into()),
        }
    }

    /// Virtual addresses that the page tables must map, with their physical ones.
    fn known(&self) -> Vec<(u64, u64)> {
        MAPPED.iter().filter_map(|name| Some((self.symbol(name)?, self.place(name)?))).collect()
    }

    /// The physical address of `_text`, of a kernel whose virtual addresses are known: as any of
    /// the page tables in the image has it. All that map it must agree.
    fn search_physical(&self, memory: Memory<'_>) -> Result<u64, String> {
        let known: Vec<u64> = MAPPED.iter().filter_map(|name| self.symbol(name)).collect();
        let [first, _, ..] = *known else {
            return Err("the names lack _stext or _etext".into());
        };
        let at = self.tables.at & !(PAGE - 1);
        let near = at.saturating_sub(MAX_IMAGE)..at.saturating_add(MAX_IMAGE);
        let ranges = memory.0.ranges().into_iter();
        let ranges = ranges.map(|range| {
            let start = range.start.max(near.start).next_multiple_of(PAGE);
            start..range.end.min(near.end)
        });
        let mut found = None;
        for root in ranges.flat_map(|range| range.step_by(PAGE as usize)) {
            for (_, start) in PageTables::all_at(memory, root, first) {
                let Some(text) = start.checked_sub(first - self.text.address) else { continue };
                let both = known.iter().map(|from| (*from, text + (from - self.text.address)));
                let both: Vec<_> = both.collect();
                let is_inside = self.tables.at.checked_sub(text).is_some_and(|at| at < self.bytes);
                if !is_inside || PageTables::at(memory, root, &both).is_none() {
                    continue;
                }
                if found.is_some_and(|other| other != text) {
                    return Err("the kernel's page tables map it to more than one place".into());
                }
                found = Some(text);
            }
        }
        found.ok_or_else(|| NOT_MAPPED.into())
    }

    /// The virtual address of `_text`, of a kernel whose physical addresses are known: where its
    /// page tables map it.
    fn search_virtual(&mut self, memory: Memory<'_>) -> Result<u64, String> {
        let (Some(root), Some(start)) = (self.place("swapper_pg_dir"), self.place("_stext")) else {
            return Err(
                "the names count from their own place, and without CONFIG_KALLSYMS_ALL the page \
                 tables that say where that is have no name"
                    .into(),
            );
        };
        let mut found = Vec::new();
        for (tables, address) in PageTables::search(memory, root, start) {
            let text = address - (start - self.text.physical);
            self.text.address = text;
            let is_mapped = |(from, to): &(u64, u64)| tables.translate(memory, *from) == Some(*to);
            if self.known().iter().all(is_mapped) && !found.contains(&text) {
                found.push(text);
            }
        }
        match *found {
            [address] => Ok(address),
            [] => Err(NOT_MAPPED.into()),
            [..] => Err("the kernel's page tables map it more than once".into()),
        }
    }
}

/// Why there are tables of names, and no kernel that runs.
const NOT_MAPPED: &str =
    "no page tables of the kernel map it: it is a copy of the image, or has not started";

/// The offsets of the symbols that are used. A name that two symbols have is that of neither.
fn wanted(tables: &Tables) -> BTreeMap<&'static str, i64> {
    let mut found: BTreeMap<&'static str, Option<i64>> = BTreeMap::new();
    for symbol in tables.symbols() {
        if let Some(name) = WANTED.iter().find(|name| **name == symbol.name) {
            let offset = if found.contains_key(name) { None } else { Some(symbol.offset) };
            found.insert(*name, offset);
        }
    }
    found.into_iter().filter_map(|(name, offset)| Some((name, offset?))).collect()
}
