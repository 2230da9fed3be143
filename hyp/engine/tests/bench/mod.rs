//! A guest, a machine and a device for the engine's own tests: as simple as can be, with no caches.
//!
//! The simulated machine, with stale TLBs and late writes, is in the `tests` crate. This one is for
//! reading: one test, one rule.

mod machine;

use core::ops::Range;

use oche_engine::host::{CpuAccess, Memory};
use oche_engine::{AccessKind, Configuration, Engine, FaultDisposition, Isolation};
use oche_types::addr::{Gfn, HostGranule, IovaPage};
use oche_types::dart::entry::{Permission, encode_leaf, encode_table};
use oche_types::dart::registers::{STREAM_COMMAND, STREAM_SELECT, STREAMS_ENABLE, TCR, TTBR};
use oche_types::event::Event;

pub(crate) use machine::{FIRST_TABLE, Machine, POOL, RAM, dart, page, stream};
use machine::{RAM_PAGES, TABLES};

/// A guest that drives DART 0 and 1 as Linux does.
pub(crate) struct Bench {
    pub(crate) machine: Machine,
    pub(crate) engine: Engine,
}

impl Bench {
    /// A machine with `frames` frames of pool, DART 0's stream 0 translating through empty tables.
    /// Byte 0 of guest page n holds n.
    pub(crate) fn new(frames: u32) -> Self {
        Self::with(frames, Isolation::Page)
    }

    /// As [`Self::new`], with what a person may choose.
    pub(crate) fn with(frames: u32, isolation: Isolation) -> Self {
        Self::sized(RAM_PAGES, POOL..POOL + frames, isolation)
    }

    /// As [`Self::with`], with so many pages of guest RAM and these frames of pool.
    pub(crate) fn sized(pages: u32, pool: Range<u32>, isolation: Isolation) -> Self {
        let mut machine = Machine::default();
        let configuration = Configuration {
            darts: 2,
            ram: &[Gfn(RAM)..Gfn(RAM + pages)],
            pool: HostGranule(pool.start)..HostGranule(pool.end),
            isolation,
        };
        let engine = Engine::new(&configuration, &mut machine);
        let mut bench = Self { machine, engine };
        for index in 0..192 {
            bench.machine.cpu_write(page(index), 0, index as u8);
        }
        bench.attach(0, 0);
        bench.machine.events.clear();
        bench
    }

    /// Points a stream at the guest's tables and flushes it.
    pub(crate) fn attach(&mut self, dart: usize, stream: usize) {
        self.write(dart, STREAMS_ENABLE, 0xffff);
        self.write(dart, TTBR + 16 * stream as u64, 1 << 31 | TABLES);
        self.write(dart, TCR + 4 * stream as u64, 1 << 7);
        self.flush(dart, stream);
    }

    pub(crate) fn write(&mut self, number: usize, offset: u64, value: u32) {
        let written = self.engine.write(&mut self.machine, dart(number), offset, 4, value);
        assert_eq!(written, Ok(()));
    }

    pub(crate) fn read(&mut self, number: usize, offset: u64) -> u32 {
        self.engine.read(&mut self.machine, dart(number), offset, 4).expect("a register is there")
    }

    /// Sets the guest's entry for page `iova` (a page number below 1024), without a flush.
    pub(crate) fn set(&mut self, iova: u32, leaf: Option<(Gfn, Permission)>) {
        self.set_raw(iova, leaf.map_or(0, |(page, permission)| encode_leaf(page, permission)));
    }

    /// As [`Self::set`], any bits.
    pub(crate) fn set_raw(&mut self, iova: u32, entry: u64) {
        let table = Gfn(TABLES + 1 + (iova >> 9));
        self.store(Gfn(TABLES), (iova >> 9) as usize, encode_table(table));
        self.store(table, (iova & 511) as usize, entry);
    }

    /// Clears the guest's entry for the first 2 MiB, without a flush.
    pub(crate) fn clear_first_level_entry(&mut self) {
        self.store(Gfn(TABLES), 0, 0);
    }

    /// Maps one page in a table that is linked already, with no store into the first level, and
    /// flushes.
    pub(crate) fn map_below(&mut self, iova: u32, number: u32) {
        let entry = encode_leaf(page(number), Permission::READ_WRITE);
        self.store(Gfn(TABLES + 1 + (iova >> 9)), (iova & 511) as usize, entry);
        self.flush(0, 0);
    }

    fn store(&mut self, page: Gfn, word: usize, value: u64) {
        if self.machine.cpu_access(page) != CpuAccess::ReadWrite {
            let trapped =
                self.engine.access_trapped(&mut self.machine, page.address(), AccessKind::Store);
            assert_eq!(trapped, FaultDisposition::Retry);
            assert_eq!(
                self.machine.cpu_access(page),
                CpuAccess::ReadWrite,
                "a trapped store must be able to go on"
            );
        }
        let at = self.machine.cpu_page(page);
        self.machine.store(at, word, value);
    }

    /// A CPU loads byte `offset` of page `number`, as the trap of the page asks for.
    pub(crate) fn cpu_load(&mut self, number: u32, offset: usize) -> u8 {
        if self.machine.cpu_access(page(number)) != CpuAccess::None {
            return self.machine.cpu_read(page(number), offset);
        }
        match self.trap(number, AccessKind::Load) {
            FaultDisposition::Emulate(page) => {
                self.engine.load_trapped(&mut self.machine, page, offset, 1) as u8
            }
            trapped => {
                assert_eq!(trapped, FaultDisposition::Retry);
                assert_ne!(self.machine.cpu_access(page(number)), CpuAccess::None);
                self.machine.cpu_read(page(number), offset)
            }
        }
    }

    /// A CPU stores to byte `offset` of page `number`, as the trap of the page asks for.
    pub(crate) fn cpu_store(&mut self, number: u32, offset: usize, value: u8) {
        if self.machine.cpu_access(page(number)) == CpuAccess::ReadWrite {
            return self.machine.cpu_write(page(number), offset, value);
        }
        match self.trap(number, AccessKind::Store) {
            FaultDisposition::Emulate(page) => {
                self.engine.store_trapped(&mut self.machine, page, offset, 1, value.into());
            }
            trapped => {
                assert_eq!(trapped, FaultDisposition::Retry);
                assert_eq!(self.machine.cpu_access(page(number)), CpuAccess::ReadWrite);
                self.machine.cpu_write(page(number), offset, value);
            }
        }
    }

    /// Hands the engine a CPU's access that stage 2 refused.
    pub(crate) fn trap(&mut self, number: u32, access: AccessKind) -> FaultDisposition {
        self.engine.access_trapped(&mut self.machine, page(number).address(), access)
    }

    /// Invalidates a stream.
    pub(crate) fn flush(&mut self, dart: usize, stream: usize) {
        self.write(dart, STREAM_SELECT, 1 << stream);
        self.write(dart, STREAM_COMMAND, 1 << 20);
        assert_eq!(self.read(dart, STREAM_COMMAND) & 4, 0);
    }

    /// Maps pages read-write from page `iova` on, and flushes.
    pub(crate) fn map(&mut self, iova: u32, pages: &[u32]) {
        for (index, number) in pages.iter().enumerate() {
            self.set(iova + index as u32, Some((page(*number), Permission::READ_WRITE)));
        }
        self.flush(0, 0);
    }

    /// Unmaps `count` pages from page `iova` on, and flushes.
    pub(crate) fn unmap(&mut self, iova: u32, count: u32) {
        (iova..iova + count).for_each(|iova| self.set(iova, None));
        self.flush(0, 0);
    }

    /// What stream 0 of DART 0 reads at byte `offset` of page `iova`.
    pub(crate) fn device_read(&mut self, iova: u32, offset: u64) -> Option<u8> {
        self.machine.device_read(dart(0), stream(0), IovaPage(iova).iova() + offset)
    }

    /// Has stream 0 of DART 0 write. False: a fault.
    pub(crate) fn device_write(&mut self, iova: u32, offset: u64, value: u8) -> bool {
        self.machine.device_write(dart(0), stream(0), IovaPage(iova).iova() + offset, value)
    }

    pub(crate) fn is_home(&self, number: u32) -> bool {
        self.engine.locate(page(number)) == page(number).home()
    }

    /// Events so far that `is_it` accepts.
    pub(crate) fn count(&self, is_it: impl Fn(&Event) -> bool) -> usize {
        self.machine.events.iter().filter(|event| is_it(event)).count()
    }
}
