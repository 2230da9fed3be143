//! CPUs' accesses to trapped pages: the common case, and pages that are open for one CPU.

use oche_types::addr::{Gfn, Hfn, PAGE_BYTES};
use oche_types::event::Event;

use crate::engine::Engine;
use crate::granule::copy_set::Parts;
use crate::host::Host;

impl Engine {
    /// Carries out a CPU's load of `parts` at guest-physical `address`, inside a page, if the page
    /// traps loads, as it must, only for its copies: as [`Self::access_trapped`] and
    /// [`Self::load_trapped`] do. The second of the values is 0 if there is one part. Otherwise
    /// does nothing.
    #[inline]
    pub fn load_known(
        &mut self,
        host: &mut impl Host,
        address: u64,
        parts: Parts,
    ) -> Option<[u64; 2]> {
        let page = Gfn::containing(address)?;
        let set = self.mapper.trapped_copies(page, false)?;
        host.event(Event::Access { address, is_write: false });
        let offset = address as usize % PAGE_BYTES;
        match set.load_parts(host, offset, parts) {
            Some(values) => Some(values),
            None => Some(self.mapper.merge_and_load(host, page, offset, parts)),
        }
    }

    /// Carries out a CPU's store of `parts` with `values` at guest-physical `address`, inside a
    /// page, if the page traps stores, as it must, only for its copies: as [`Self::access_trapped`]
    /// and [`Self::store_trapped`] do. Otherwise returns false, and does nothing.
    #[inline]
    pub fn store_known(
        &mut self,
        host: &mut impl Host,
        address: u64,
        parts: Parts,
        values: [u64; 2],
    ) -> bool {
        let Some(page) = Gfn::containing(address) else { return false };
        let Some(set) = self.mapper.trapped_copies(page, true) else { return false };
        host.event(Event::Access { address, is_write: true });
        let offset = address as usize % PAGE_BYTES;
        if !set.store_parts(host, offset, parts, values) {
            self.mapper.store_unaligned(host, page, offset, parts, values);
        }
        true
    }

    /// Opens the trapped `page` for direct accesses of one CPU: makes its copies equal and returns
    /// the host page to access.
    ///
    /// Until [`Self::close_trapped`] no other CPU may access the page, and the engine must not be
    /// called.
    pub fn open_trapped(&mut self, host: &mut impl Host, page: Gfn) -> Hfn {
        self.mapper.open(host, page)
    }

    /// Closes the trapped `page` after the direct accesses of a CPU: copies what the CPU stored.
    pub fn close_trapped(&mut self, host: &mut impl Host, page: Gfn) {
        self.mapper.close(host, page);
    }

    /// Traps loads of `page` too, until its trap is removed. Called for a store-exclusive that
    /// trapped on a page whose loads do not trap, so that its load-exclusive was not seen: the next
    /// pair is seen whole.
    pub fn trap_loads(&mut self, host: &mut impl Host, page: Gfn) {
        self.mapper.trap_loads(host, page);
    }
}
