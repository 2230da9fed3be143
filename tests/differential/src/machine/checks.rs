//! Comparison of whole pages, of where pages lie, and of the trace's live mappings.

use super::{Checked, Machine};
use crate::program::Mode;
use crate::sharing::CPU;
use oche_types::addr::{Gfn, PAGE_BYTES};
use rustc_hash::FxHashMap;

impl<const C: bool> Machine<C> {
    /// The bytes of `page` now: all those that everybody must agree on are compared.
    pub(super) fn check_page(&mut self, page: Gfn) -> Checked {
        self.deliver_to(page, 0, PAGE_BYTES);
        if self.is_shared(page) || self.sharing.has(page) {
            self.look_at_all_of(page)?;
        }
        let (Some(expected), Some(found)) = (self.history.memory.page(page), self.host.view(page))
        else {
            return Ok(());
        };
        let Some(number) = self.history.memory.number(page) else { return Ok(()) };
        let state = (self.history.changes(page), self.host.state(page));
        self.counts.compared_bytes += PAGE_BYTES as u64;
        // Nothing was stored on either side since they were found equal.
        if self.compared[number] == Some(state) {
            return Ok(());
        }
        let (words, _) = expected.as_chunks::<8>();
        let different = |all, (expected, found): (&[u8; 8], &u64)| {
            all | (u64::from_le_bytes(*expected) ^ found)
        };
        if words.iter().zip(found).fold(0, different) == 0 {
            self.compared[number] = Some(state);
            return Ok(());
        }
        for (word, (expected, found)) in expected.chunks_exact(8).zip(found).enumerate() {
            let found = found.to_le_bytes();
            if expected == found {
                continue;
            }
            for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
                let offset = word * 8 + index;
                if *expected != found && !self.sharing.others(page, offset, CPU).contains(&found) {
                    return Err(format!(
                        "CPUs see {found:#04x} at offset {offset:#x} of {page:?} (at {:?}, {}), where the guest's \
                         memory holds {expected:#04x}",
                        self.host.location(page),
                        self.describe(page),
                    ));
                }
            }
        }
        Ok(())
    }

    /// C4 for one page.
    pub(super) fn check_home(&mut self, page: Gfn) -> Checked {
        if self.views.may_be_mapped(page) || !self.history.memory.contains(page) {
            return Ok(());
        }
        self.counts.home_checks += 1;
        if self.host.location(page) != Some(page.home()) {
            return Err(format!(
                "no DART maps {page:?} and it is not home but at {:?}",
                self.host.location(page)
            ));
        }
        self.check_page(page)
    }

    pub(super) fn check_all_memory(&mut self) -> Checked {
        let pages: Vec<Gfn> = self.history.memory.pages().collect();
        for page in pages {
            if Some(self.engine.locate(page)) != self.host.location(page) {
                return Err(format!(
                    "the engine has {page:?} at {:?}, stage 2 has it at {:?}",
                    self.engine.locate(page),
                    self.host.location(page)
                ));
            }
            if self.views.may_be_mapped(page) {
                self.check_page(page)?;
            } else {
                self.check_home(page)?;
            }
        }
        Ok(())
    }

    /// The engine's own account of what is mapped is the tables', but for what it refused. A
    /// refusal may be over in a concurrent program, and a table's in any.
    pub(super) fn check_maps(&self) -> Checked {
        let mut wanted: FxHashMap<(u32, Gfn), (i64, i64)> = FxHashMap::default();
        for (roots, iova_page, page) in self.views.leaves(&self.history) {
            let (least, most) = wanted.entry((iova_page, page)).or_default();
            let is_refused = self.is_refused(roots, iova_page, page);
            let may_be_over = self.setting.mode == Mode::Concurrent
                || self.refused_tables.contains(roots, iova_page);
            *least += i64::from(!is_refused);
            *most += i64::from(!is_refused || may_be_over);
        }
        let is_missing = |(key, (least, _)): &(&(u32, Gfn), &(i64, i64))| {
            self.live_maps.get(key).copied().unwrap_or(0) < *least
        };
        let is_extra = |(key, live): &(&(u32, Gfn), &i64)| {
            wanted.get(key).is_none_or(|(_, most)| **live > *most)
        };
        let missing: Vec<_> = wanted.iter().filter(is_missing).take(3).collect();
        let extra: Vec<_> = self.live_maps.iter().filter(is_extra).take(3).collect();
        if missing.is_empty() && extra.is_empty() {
            return Ok(());
        }
        Err(format!(
            "the trace's live mappings are not the tables': tables {missing:x?}, trace {extra:x?}"
        ))
    }
}
