//! What the guest's driver does: it keeps tables and mappings, and flushes.

use super::guest::{BUFFER_BYTES, Domain, Mapping, TOP};
use super::{Checked, Machine};
use crate::program::{Mode, Rights, Site, Source};
use crate::reference::{encode_leaf, encode_table};
use oche_reference::registers::{TCR, TCR_TRANSLATE, TTBR};
use oche_types::addr::{Gfn, PAGE_BYTES};
use std::collections::BTreeMap;

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

    pub(super) fn map_pages(
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

    pub(super) fn amend(
        &mut self,
        mapping: u16,
        page: usize,
        source: Option<Source>,
        rights: Rights,
        flush: bool,
    ) -> Checked {
        let count = self.guest.mappings.len();
        if count == 0 {
            return Ok(());
        }
        let index = usize::from(mapping) % count;
        let (domain, first, mut pages) = {
            let mapping = &self.guest.mappings[index];
            (mapping.domain, mapping.first, mapping.pages.clone())
        };
        let at = page % pages.len();
        let new = source.and_then(|source| self.guest.pages(source, 1, &mut self.random));
        let gone = match new.as_deref() {
            Some(&[page, ..]) => {
                self.guest.take(page);
                vec![std::mem::replace(&mut pages[at], page)]
            }
            _ => pages.split_off(at.max(1)),
        };
        for (index, &page) in pages.iter().enumerate() {
            self.set_leaf(domain, first + index as u32, leaf(page, rights))?;
        }
        for index in pages.len()..self.guest.mappings[index].pages.len() {
            self.set_leaf(domain, first + index as u32, 0)?;
        }
        self.guest.mappings[index].pages = pages;
        if flush {
            self.flush_domain(domain)?;
        }
        gone.into_iter().for_each(|page| self.guest.release(page));
        Ok(())
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

    /// As Linux does it: every DART of the domain, with the domain's streams. In a quiescent
    /// program, all other streams that use its tables as well.
    pub(super) fn flush_domain(&mut self, domain: usize) -> Checked {
        if self.setting.mode == Mode::Quiescent {
            return self.settle();
        }
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
