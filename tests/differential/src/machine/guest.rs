//! The guest's driver: what Linux's IOMMU and DMA code does with tables, IOVAs and pages.
//!
//! Source of its habits: Linux 6.1 `io-pgtable-dart.c` (tables), `iova.c` (allocation from the top,
//! aligned to the size rounded up to a power of two, freed places first), `dma-iommu.c` (one flush
//! a map or unmap).

use crate::program::{Choice, Source, Target};
use oche_sim::random::Random;
use oche_types::addr::Gfn;
use std::collections::BTreeMap;

/// The first page below the top of the IOVAs that a PCI device gets on an M1.
pub(super) const TOP: u32 = 0xb_ff44;
/// Bytes from one packed receive buffer to the next. Source: Linux
/// `drivers/net/ethernet/broadcom/tg3.c`, 1600 bytes and the `skb_shared_info` behind them.
pub(super) const BUFFER_BYTES: usize = 1984;

/// A set of tables.
pub(super) struct Domain {
    pub(super) roots: [Gfn; 4],
    /// Leaf tables by TTBR and first-level index.
    pub(super) tables: BTreeMap<u16, Gfn>,
    pub(super) streams: Vec<(usize, usize)>,
    /// Freed places by size.
    pub(super) freed: BTreeMap<u32, Vec<u32>>,
    pub(super) bottom: u32,
}

pub(super) struct Mapping {
    pub(super) domain: usize,
    pub(super) first: u32,
    pub(super) size: u32,
    /// Whether the allocator gave it.
    pub(super) is_allocated: bool,
    pub(super) pages: Vec<Gfn>,
}

/// What the guest's kernel knows.
pub(super) struct Guest {
    pub(super) ram: Vec<Gfn>,
    pub(super) domains: Vec<Option<Domain>>,
    pub(super) mappings: Vec<Mapping>,
    /// How often a page is in use: mappings of it and tables in it.
    pub(super) users: BTreeMap<Gfn, u32>,
    pub(super) former: Vec<(usize, u32)>,
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

    pub(super) fn is_free(&self, page: Gfn) -> bool {
        self.ram.binary_search(&page).is_ok() && !self.users.contains_key(&page)
    }

    pub(super) fn take(&mut self, page: Gfn) {
        *self.users.entry(page).or_default() += 1;
    }

    pub(super) fn release(&mut self, page: Gfn) {
        if let Some(count) = self.users.get_mut(&page) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(&page);
            }
        }
    }

    pub(super) fn free_page(&self, random: &mut Random) -> Option<Gfn> {
        (0..24).map(|_| self.ram[random.index(self.ram.len())]).find(|&page| self.is_free(page))
    }

    /// Pages for a mapping of `count`, of the wanted kind if there are any.
    pub(super) fn pages(
        &self,
        source: Source,
        count: u32,
        random: &mut Random,
    ) -> Option<Vec<Gfn>> {
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
    pub(super) fn allocate(&mut self, count: u32) -> (u32, u32) {
        let size = if count < 32 { count.next_power_of_two() } else { count };
        if let Some(first) = self.freed.get_mut(&size).and_then(Vec::pop) {
            return (first, size);
        }
        let align = size.next_power_of_two();
        self.bottom = (self.bottom - size) & !(align - 1);
        (self.bottom, size)
    }
}
