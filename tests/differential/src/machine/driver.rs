//! The guest's driver: what Linux's IOMMU and DMA code does with tables, IOVAs and pages.
//!
//! Source of its habits: Linux 6.1 `io-pgtable-dart.c` (tables), `iova.c` (allocation from the top,
//! aligned to the size rounded up to a power of two, freed places first), `dma-iommu.c` (one flush
//! a map or unmap).

use super::{Checked, Machine};
use crate::program::{Choice, Rights, Site, Source, Target};
use crate::reference::{encode_leaf, encode_table};
use oche_reference::registers::{TCR, TCR_TRANSLATE, TTBR};
use oche_sim::random::Random;
use oche_types::addr::{Gfn, PAGE_BYTES};
use std::collections::BTreeMap;

/// The first page below the top of the IOVAs that a PCI device gets on an M1.
pub(super) const TOP: u32 = 0xb_ff44;
/// Bytes from one packed receive buffer to the next. Source: Linux
/// `drivers/net/ethernet/broadcom/tg3.c`, 1600 bytes and the `skb_shared_info` behind them.
const BUFFER_BYTES: usize = 1984;

/// A set of tables.
struct Domain {
    roots: [Gfn; 4],
    /// Leaf tables by TTBR and first-level index.
    tables: BTreeMap<u16, Gfn>,
    streams: Vec<(usize, usize)>,
    /// Freed places by size.
    freed: BTreeMap<u32, Vec<u32>>,
    bottom: u32,
}

struct Mapping {
    domain: usize,
    first: u32,
    size: u32,
    /// Whether the allocator gave it.
    is_allocated: bool,
    pages: Vec<Gfn>,
}

/// What the guest's kernel knows.
pub(super) struct Guest {
    ram: Vec<Gfn>,
    domains: Vec<Option<Domain>>,
    mappings: Vec<Mapping>,
    /// How often a page is in use: mappings of it and tables in it.
    users: BTreeMap<Gfn, u32>,
    former: Vec<(usize, u32)>,
    /// Somebody wrote garbage: anything may be in tables.
    pub(super) is_hostile: bool,
}

impl Guest {
    pub(super) fn new(ram: Vec<Gfn>) -> Self {
        Self {
            ram,
            domains: Vec::new(),
            mappings: Vec::new(),
            users: BTreeMap::new(),
            former: Vec::new(),
            is_hostile: false,
        }
    }

    /// Whether the guest keeps a table in `page`.
    pub(super) fn is_table(&self, page: Gfn) -> bool {
        let is_in = |domain: &Domain| {
            domain.roots.contains(&page) || domain.tables.values().any(|t| *t == page)
        };
        self.domains.iter().flatten().any(is_in)
    }

    /// A live domain near `number`.
    pub(super) fn domain(&self, number: usize) -> Option<usize> {
        let live: Vec<usize> =
            (0..self.domains.len()).filter(|&index| self.domains[index].is_some()).collect();
        live.get(number % live.len().max(1)).copied()
    }

    /// A table of `domain`.
    pub(super) fn some_table(
        &self,
        domain: usize,
        is_first: bool,
        random: &mut Random,
    ) -> Option<Gfn> {
        let domain = self.domains.get(domain)?.as_ref()?;
        if is_first {
            return Some(domain.roots[random.index(4) & random.index(4)]);
        }
        domain.tables.values().nth(random.index(domain.tables.len())).copied()
    }

    /// The streams that use `domain`.
    pub(super) fn streams(&self, domain: usize) -> Vec<(usize, usize)> {
        self.domains
            .get(domain)
            .and_then(Option::as_ref)
            .map_or(Vec::new(), |domain| domain.streams.clone())
    }

    pub(super) fn choose(&self, choice: Choice, random: &mut Random) -> Gfn {
        match choice {
            Choice::Mapped(number) if !self.mappings.is_empty() => {
                let mapping = &self.mappings[usize::from(number) % self.mappings.len()];
                mapping.pages[random.index(mapping.pages.len())]
            }
            Choice::Mapped(number) | Choice::Any(number) => {
                self.ram[usize::from(number) % self.ram.len()]
            }
        }
        .clamped(&self.ram)
    }

    /// DART, stream and page of IOVAs that `target` means.
    pub(super) fn resolve(
        &self,
        target: Target,
        stream: u8,
        darts: usize,
        random: &mut Random,
    ) -> Option<(usize, usize, u32)> {
        let (domain, iova_page) = match target {
            Target::Mapping(number) | Target::Beside(number) => {
                let mapping =
                    self.mappings.get(usize::from(number) % self.mappings.len().max(1))?;
                let page = mapping.first + random.below(mapping.pages.len() as u64) as u32;
                match target {
                    Target::Beside(_) => (mapping.domain, page ^ (1 + random.below(3) as u32)),
                    _ => (mapping.domain, page),
                }
            }
            Target::Former(number) => {
                let &(domain, page) =
                    self.former.get(usize::from(number) % self.former.len().max(1))?;
                (domain, page)
            }
            Target::Anywhere(page) => {
                return Some((
                    usize::from(stream) % darts,
                    usize::from(stream % 16),
                    page & 0xf_ffff,
                ));
            }
        };
        let streams = self.streams(domain);
        let &(dart, stream) = streams.get(usize::from(stream) % streams.len().max(1))?;
        Some((dart, stream, iova_page))
    }

    fn is_free(&self, page: Gfn) -> bool {
        self.ram.binary_search(&page).is_ok() && !self.users.contains_key(&page)
    }

    fn take(&mut self, page: Gfn) {
        *self.users.entry(page).or_default() += 1;
    }

    fn release(&mut self, page: Gfn) {
        if let Some(count) = self.users.get_mut(&page) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&page);
            }
        }
    }

    fn free_page(&self, random: &mut Random) -> Option<Gfn> {
        (0..24).map(|_| self.ram[random.index(self.ram.len())]).find(|&page| self.is_free(page))
    }

    /// Pages for a mapping of `count`, of the wanted kind if there are any.
    fn pages(&self, source: Source, count: u32, random: &mut Random) -> Option<Vec<Gfn>> {
        let mut pages = Vec::new();
        match source {
            Source::Row | Source::Frames => {
                let mask = if source == Source::Frames { !3 } else { u32::MAX };
                for _ in 0..12 {
                    let first = self.ram[random.index(self.ram.len())].0 & mask;
                    if (first..first + count).all(|page| self.is_free(Gfn(page))) {
                        return Some((first..first + count).map(Gfn).collect());
                    }
                }
            }
            Source::Repeated => {
                let page = self.free_page(random)?;
                return Some(vec![page; count.min(6) as usize]);
            }
            Source::Table => {
                let domain = self.domain(random.index(8))?;
                pages.push(self.some_table(domain, random.chance(1, 3), random)?);
            }
            Source::Outside => {
                let outside = [
                    0,
                    0x4_0001,
                    0x4_4000,
                    0x8_0003,
                    0xff_ffff,
                    0x4_0000 + random.below(0x8000) as u32,
                ];
                pages.push(Gfn(outside[random.index(outside.len())]));
            }
            Source::Alias => {}
            Source::Scattered => {}
        }
        while pages.len() < count as usize {
            let alias = (source == Source::Alias && random.chance(2, 3)).then(|| {
                let mapping = self.mappings.get(random.index(self.mappings.len()))?;
                mapping.pages.get(random.index(mapping.pages.len())).copied()
            });
            pages.push(match alias.flatten() {
                Some(page) => page,
                None => self.free_page(random)?,
            });
        }
        Some(pages)
    }
}

trait Clamped {
    fn clamped(self, ram: &[Gfn]) -> Self;
}

impl Clamped for Gfn {
    /// Itself where there is RAM, else the first page of RAM.
    fn clamped(self, ram: &[Gfn]) -> Self {
        if ram.binary_search(&self).is_ok() { self } else { ram[0] }
    }
}

impl Domain {
    /// Where `count` pages go.
    fn allocate(&mut self, count: u32) -> (u32, u32) {
        let size = if count < 32 { count.next_power_of_two() } else { count };
        if let Some(first) = self.freed.get_mut(&size).and_then(Vec::pop) {
            return (first, size);
        }
        let align = size.next_power_of_two();
        self.bottom = (self.bottom - size) & !(align - 1);
        (self.bottom, size)
    }
}

impl<const C: bool> Machine<C> {
    pub(super) fn new_domain(&mut self) -> Checked {
        let mut roots = [Gfn(0); 4];
        if self.guest.domains.iter().flatten().count() >= 5 {
            return Ok(());
        }
        for root in &mut roots {
            let Some(page) = self.guest.free_page(&mut self.random) else { return Ok(()) };
            self.guest.take(page);
            self.zero(page)?;
            *root = page;
        }
        let (tables, streams, freed) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        self.guest.domains.push(Some(Domain { roots, tables, streams, freed, bottom: TOP }));
        Ok(())
    }

    pub(super) fn attach(
        &mut self,
        domain: usize,
        dart: usize,
        stream: usize,
        flush: bool,
    ) -> Checked {
        let Some(domain) = self.guest.domain(domain) else { return Ok(()) };
        if self.history.darts[dart].is_locked() {
            return Ok(());
        }
        self.forget_stream(dart, stream);
        let Some(Some(entry)) = self.guest.domains.get_mut(domain) else { return Ok(()) };
        entry.streams.push((dart, stream));
        let roots = entry.roots;
        for (index, root) in roots.into_iter().enumerate() {
            let offset = TTBR + 16 * stream as u64 + 4 * index as u64;
            self.write_register(dart, offset, 1 << 31 | root.0)?;
        }
        self.write_register(dart, TCR + 4 * stream as u64, TCR_TRANSLATE)?;
        if flush { self.flush_domain(domain) } else { Ok(()) }
    }

    pub(super) fn detach(&mut self, dart: usize, stream: usize, flush: bool) -> Checked {
        if self.history.darts[dart].is_locked() {
            return Ok(());
        }
        self.forget_stream(dart, stream);
        self.write_register(dart, TCR + 4 * stream as u64, 0)?;
        if flush { self.flush(dart, 1 << stream) } else { Ok(()) }
    }

    fn forget_stream(&mut self, dart: usize, stream: usize) {
        for domain in self.guest.domains.iter_mut().flatten() {
            domain.streams.retain(|&other| other != (dart, stream));
        }
    }

    /// Linux unmaps nothing here: the streams stop, and the tables' pages are memory again.
    pub(super) fn free_domain(&mut self, domain: usize) -> Checked {
        let Some(domain) = self.guest.domain(domain) else { return Ok(()) };
        let streams = self.guest.streams(domain);
        if streams.iter().any(|&(dart, _)| self.history.darts[dart].is_locked()) {
            return Ok(());
        }
        for (dart, stream) in streams {
            self.detach(dart, stream, true)?;
        }
        let Some(freed) = self.guest.domains.get_mut(domain).and_then(Option::take) else {
            return Ok(());
        };
        for page in freed.roots.into_iter().chain(freed.tables.into_values()) {
            self.guest.release(page);
        }
        let (gone, kept) =
            std::mem::take(&mut self.guest.mappings).into_iter().partition(|m| m.domain == domain);
        self.guest.mappings = kept;
        let gone: Vec<Mapping> = gone;
        gone.iter().flat_map(|mapping| &mapping.pages).for_each(|&page| self.guest.release(page));
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one operation")]
    pub(super) fn map(
        &mut self,
        domain: usize,
        count: u32,
        source: Source,
        rights: Rights,
        site: Site,
        fill: bool,
        flush: bool,
    ) -> Checked {
        let Some(domain) = self.guest.domain(domain) else { return Ok(()) };
        let Some(pages) = self.guest.pages(source, count, &mut self.random) else { return Ok(()) };
        self.map_pages(domain, pages, rights, site, fill, flush)
    }

    /// As a network driver fills its ring: buffers from one piece of memory, each mapped by itself.
    pub(super) fn pack(&mut self, domain: usize, buffers: usize, rights: Rights) -> Checked {
        let Some(domain) = self.guest.domain(domain) else { return Ok(()) };
        let count = (buffers * BUFFER_BYTES).div_ceil(PAGE_BYTES) as u32;
        let Some(pages) = self.guest.pages(Source::Row, count, &mut self.random) else {
            return Ok(());
        };
        for buffer in 0..buffers {
            let (start, end) = (buffer * BUFFER_BYTES, (buffer + 1) * BUFFER_BYTES - 1);
            let own = pages.get(start / PAGE_BYTES..=end / PAGE_BYTES).unwrap_or_default().to_vec();
            self.map_pages(domain, own, rights, Site::Allocator, false, true)?;
        }
        Ok(())
    }

    fn map_pages(
        &mut self,
        domain: usize,
        pages: Vec<Gfn>,
        rights: Rights,
        site: Site,
        fill: bool,
        flush: bool,
    ) -> Checked {
        let count = pages.len() as u32;
        let Some(Some(entry)) = self.guest.domains.get_mut(domain) else { return Ok(()) };
        let edges = [1, 0x1ff, 0x3_ffff, 0x7_fffe, 0xf_ffff, 0x1f, 0x5_0003, 0];
        let (first, size, is_allocated) = match site {
            Site::Edge(edge) => {
                let first = edges[usize::from(edge) % edges.len()];
                let is_taken = |m: &Mapping| {
                    m.domain == domain && first < m.first + m.size && m.first < first + count
                };
                if first + count > 1 << 20 || self.guest.mappings.iter().any(is_taken) {
                    return Ok(());
                }
                (first, count, false)
            }
            Site::Allocator => {
                let (first, size) = entry.allocate(count);
                (first, size, true)
            }
        };
        if fill {
            for &page in &pages {
                if self.history.memory.contains(page)
                    && !self.views.is_table(page)
                    && !self.guest.is_table(page)
                {
                    let offset = self.random.index(PAGE_BYTES / 32) * 32;
                    let data = self.random_data(32);
                    self.store(page, offset, data.bytes())?;
                }
            }
        }
        pages.iter().for_each(|&page| self.guest.take(page));
        for (index, &page) in pages.iter().enumerate() {
            self.set_leaf(domain, first + index as u32, leaf(page, rights))?;
        }
        self.guest.mappings.push(Mapping { domain, first, size, is_allocated, pages });
        if flush { self.flush_domain(domain) } else { Ok(()) }
    }

    pub(super) fn unmap(&mut self, mapping: u16, flush: bool) -> Checked {
        let count = self.guest.mappings.len();
        if count == 0 {
            return Ok(());
        }
        let Mapping { domain, first, size, is_allocated, pages } =
            self.guest.mappings.swap_remove(usize::from(mapping) % count);
        for index in 0..pages.len() as u32 {
            self.set_leaf(domain, first + index, 0)?;
        }
        if flush {
            self.flush_domain(domain)?;
        }
        for &page in &pages {
            self.guest.release(page);
            // The driver reads what the device wrote.
            if flush && self.history.memory.contains(page) {
                let (offset, length) = (self.random.index(PAGE_BYTES - 32), 32);
                self.load(page, offset, length)?;
            }
        }
        self.guest.former.push((domain, first + self.random.below(pages.len() as u64) as u32));
        if self.guest.former.len() > 32 {
            self.guest.former.remove(0);
        }
        if is_allocated && let Some(Some(domain)) = self.guest.domains.get_mut(domain) {
            domain.freed.entry(size).or_default().push(first);
        }
        Ok(())
    }

    pub(super) fn replace(
        &mut self,
        mapping: u16,
        source: Source,
        rights: Rights,
        flush: bool,
    ) -> Checked {
        let count = self.guest.mappings.len();
        if count == 0 {
            return Ok(());
        }
        let index = usize::from(mapping) % count;
        let (domain, first, length) = {
            let mapping = &self.guest.mappings[index];
            (mapping.domain, mapping.first, mapping.pages.len())
        };
        let Some(mut pages) = self.guest.pages(source, length as u32, &mut self.random) else {
            return Ok(());
        };
        pages.resize(length, pages[0]);
        for (index, &page) in pages.iter().enumerate() {
            self.guest.take(page);
            self.set_leaf(domain, first + index as u32, leaf(page, rights))?;
        }
        let old = std::mem::replace(&mut self.guest.mappings[index].pages, pages);
        old.into_iter().for_each(|page| self.guest.release(page));
        if flush { self.flush_domain(domain) } else { Ok(()) }
    }

    pub(super) fn permit(&mut self, mapping: u16, rights: Rights, flush: bool) -> Checked {
        let count = self.guest.mappings.len();
        if count == 0 {
            return Ok(());
        }
        let mapping = &self.guest.mappings[usize::from(mapping) % count];
        let (domain, first, pages) = (mapping.domain, mapping.first, mapping.pages.clone());
        for (index, &page) in pages.iter().enumerate() {
            self.set_leaf(domain, first + index as u32, leaf(page, rights))?;
        }
        if flush { self.flush_domain(domain) } else { Ok(()) }
    }

    /// Stores a leaf, with a new table where there is none.
    fn set_leaf(&mut self, domain: usize, iova_page: u32, entry: u64) -> Checked {
        let number = (iova_page >> 9) as u16;
        let Some(Some(found)) = self.guest.domains.get(domain) else { return Ok(()) };
        let (root, table) =
            (found.roots[usize::from(number >> 9) & 3], found.tables.get(&number).copied());
        let table = match table {
            Some(table) => table,
            None if entry == 0 => return Ok(()),
            None => {
                let Some(page) = self.guest.free_page(&mut self.random) else { return Ok(()) };
                self.guest.take(page);
                self.zero(page)?;
                self.store(root, usize::from(number & 511) * 8, &encode_table(page).to_le_bytes())?;
                if let Some(Some(domain)) = self.guest.domains.get_mut(domain) {
                    domain.tables.insert(number, page);
                }
                page
            }
        };
        self.store(table, (iova_page & 511) as usize * 8, &entry.to_le_bytes())
    }

    /// A page from the kernel's allocator, zeroed.
    fn zero(&mut self, page: Gfn) -> Checked {
        (0..PAGE_BYTES / 32).try_for_each(|index| self.store(page, index * 32, &[0; 32]))
    }

    /// As Linux does it: every DART of the domain, with the domain's streams.
    pub(super) fn flush_domain(&mut self, domain: usize) -> Checked {
        let streams = self.guest.streams(domain);
        for dart in 0..self.setting.darts {
            let own = streams.iter().filter(|(other, _)| *other == dart);
            let set = own.fold(0, |set, (_, stream)| set | 1 << stream);
            if set != 0 {
                self.flush(dart, set)?;
            }
        }
        Ok(())
    }
}

fn leaf(page: Gfn, rights: Rights) -> u64 {
    let (read, write) = match rights {
        Rights::Both => (true, true),
        Rights::ToDevice => (true, false),
        Rights::FromDevice => (false, true),
        Rights::Neither => (false, false),
    };
    encode_leaf(page, read, write)
}
