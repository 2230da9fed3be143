//! What a disk does that no DART translates: it uses pages where they are at home.

use super::transfer::Transfer;
use super::{Checked, Machine};
use crate::program::{Choice, Mode, Rights, Site};
use oche_types::addr::{Gfn, PAGE_BYTES};

impl<const C: bool> Machine<C> {
    /// A disk uses a page physically: it is at home with all that anybody wrote, and stays there
    /// until the disk has done. What the disk writes is everybody's once the use ends in which it
    /// wrote it.
    pub(super) fn disk(
        &mut self,
        page: Choice,
        length: usize,
        is_write: bool,
        stays: bool,
    ) -> Checked {
        let Some(page) = self.choose_for_disk(page) else { return Ok(()) };
        self.begin_use(page)?;
        let (offset, length) = self.place(length);
        let seen = self.host.opened_load(page.home(), offset, length);
        self.judge_load(page, offset, seen)?;
        if is_write {
            if stays {
                // Another command uses the page as well.
                self.begin_use(page)?;
            }
            self.disk_store(page, offset, length);
            self.end_use(page);
            // A mapping of the page may have been refused for want of memory.
            self.take_events()?;
            if let Some((domain, iova_page)) = self.some_mapping(page) {
                self.read_by_device(domain, iova_page, offset, length)?;
            }
        }
        if !is_write && !stays {
            self.end_use(page);
        }
        Ok(())
    }

    pub(super) fn disk_map(&mut self, domain: usize, page: Choice, rights: Rights) -> Checked {
        let Some(domain) = self.guest.domain(domain) else { return Ok(()) };
        if self.setting.mode == Mode::Concurrent {
            return Ok(());
        }
        let Some(page) = self.choose_for_disk(page) else { return Ok(()) };
        self.begin_use(page)?;
        let (offset, length) = self.place(32);
        self.disk_store(page, offset, length);
        self.map_pages(domain, vec![page], rights, Site::Allocator, false, true)?;
        if let Some(first) = self.guest.mappings.last().map(|mapping| mapping.first) {
            self.read_by_device(domain, first, offset, length)?;
        }
        self.end_use(page);
        Ok(())
    }

    /// A mapping of `page`, if there is one: its domain and the page of IOVAs.
    fn some_mapping(&mut self, page: Gfn) -> Option<(usize, u32)> {
        let found = self.guest.mappings.iter().flat_map(|mapping| {
            let own = (mapping.first..).zip(&mapping.pages).filter(|(_, own)| **own == page);
            own.map(|(iova_page, _)| (mapping.domain, iova_page))
        });
        let found: Vec<_> = found.collect();
        let place = self.random.index(found.len().max(1));
        found.get(place).copied()
    }

    /// A device that uses `domain`, if there is one, reads.
    fn read_by_device(
        &mut self,
        domain: usize,
        iova_page: u32,
        offset: usize,
        length: usize,
    ) -> Checked {
        let Some((dart, stream)) = self.guest.streams(domain).pop() else { return Ok(()) };
        let iova = u64::from(iova_page) << 12 | offset as u64;
        self.transfer(&Transfer { dart, stream, iova, length, data: None, is_overlapped: false })
    }

    /// Ends what the disk is doing. Returns the page that `choice` means, unless the disk does not
    /// use it.
    fn choose_for_disk(&mut self, choice: Choice) -> Option<Gfn> {
        while let Some(page) = self.held.last().copied() {
            self.end_use(page);
        }
        let page = self.choose(choice);
        let may_be_refused = self.setting.frames < 1000;
        let is_unused = self.views.is_table(page)
            || self.guest.is_table(page)
            || (may_be_refused && self.is_any_stream_between());
        (!is_unused).then_some(page)
    }

    fn begin_use(&mut self, page: Gfn) -> Checked {
        self.deliver_to(page, 0, PAGE_BYTES);
        self.counts.disk_uses += 1;
        self.counts.fetched += u64::from(self.host.location(page) != Some(page.home()));
        self.fetched.insert(page);
        self.engine.pin(&mut self.host, page);
        self.held.push(page);
        self.after_call()?;
        if self.host.location(page) != Some(page.home()) {
            return Err(format!(
                "the disk uses {page:?}, which is at {:?}",
                self.host.location(page)
            ));
        }
        Ok(())
    }

    fn end_use(&mut self, page: Gfn) {
        self.held.pop();
        self.engine.unpin(&mut self.host, page);
    }

    fn disk_store(&mut self, page: Gfn, offset: usize, length: usize) {
        let data = self.random_data(length);
        self.host.opened_store(page.home(), offset, &data);
        self.note_cpu_store(page, offset, data.bytes());
    }
}
