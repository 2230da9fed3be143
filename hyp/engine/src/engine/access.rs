//! CPUs' accesses to trapped pages: the common case, and pages that are open for one CPU.

use oche_types::addr::{Gfn, Hfn};
use oche_types::event::Event;

use crate::engine::Engine;
use crate::host::Host;

impl Engine {
    /// Handles a CPU's load or store at guest-physical `address` as [`Self::access_trapped`] does,
    /// if the page is known as trapped: then returns true, for `FaultDisposition::Emulate`.
    /// Otherwise does nothing.
    #[inline]
    pub fn access_known(&mut self, host: &mut impl Host, address: u64, is_write: bool) -> bool {
        let is_known = Gfn::containing(address)
            .is_some_and(|page| self.mapper.is_known_as_trapped(page, is_write));
        if is_known {
            host.event(Event::Access { address, is_write });
        }
        is_known
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
