//! A DART as drivers drive it, and the DMA engine that the board has behind each.

use core::arch::asm;
use core::cell::UnsafeCell;

/// Polls before an invalidation counts as failed.
const PATIENCE: u32 = 50_000_000;
/// DMA engines of the board: one a DART, in its order. Words: order, stream, source, target, bytes,
/// result.
const ENGINES: u64 = 0x2_1000_0000;
const ENGINE_BYTES: u64 = 0x1000;

/// Pages for tables and buffers, all zero at first.
pub(super) const PAGES: usize = 64;

#[repr(C, align(16384))]
struct Arena(UnsafeCell<[[u64; 512]; PAGES]>);

// SAFETY: one CPU uses it.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(UnsafeCell::new([[0; 512]; PAGES]));

/// The physical address of page `index` of the arena; four in a row from a multiple of four share
/// 16 KiB.
pub(super) fn page(index: usize) -> u64 {
    ARENA.0.get() as u64 + (index % PAGES) as u64 * 4096
}

/// Stores a word of memory, and orders it before what follows.
pub(super) fn store(address: u64, value: u64) {
    // SAFETY: an address in the arena; devices read it at any time.
    unsafe { (address as *mut u64).write_volatile(value) };
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Loads a word of memory.
pub(super) fn load(address: u64) -> u64 {
    // SAFETY: as for `store`.
    unsafe { (address as *const u64).read_volatile() }
}

/// Fills a page with words that tell where they are.
pub(super) fn fill(address: u64, seed: u64) {
    (0..512).for_each(|word| store(address + word * 8, seed << 32 | word));
}

/// Whether `bytes` at an address are what [`fill`] put into a page.
pub(super) fn is_filled(address: u64, seed: u64, bytes: u64) -> bool {
    (0..bytes / 8).all(|word| load(address + word * 8) == seed << 32 | word)
}

/// One DART.
#[derive(Clone, Copy)]
pub(super) struct Dart {
    pub(super) base: u64,
    /// Its place in the board's list.
    pub(super) number: u64,
}

impl Dart {
    pub(super) fn read(self, offset: u64) -> u32 {
        let value: u32;
        // SAFETY: a register of a DART.
        unsafe {
            asm!("ldr {0:w}, [{1}]", out(reg) value, in(reg) self.base + offset, options(nostack))
        };
        value
    }

    pub(super) fn write(self, offset: u64, value: u32) {
        // SAFETY: as for `read`.
        unsafe {
            asm!("str {0:w}, [{1}]", in(reg) value, in(reg) self.base + offset, options(nostack))
        };
    }

    /// As Linux resets a DART: nothing translates, every stream is enabled, errors are cleared, all
    /// is invalidated.
    pub(super) fn reset(self) -> Result<(), &'static str> {
        for stream in 0..16 {
            self.write(0x100 + 4 * stream, 0);
            (0..4).for_each(|index| self.write(0x200 + 16 * stream + 4 * index, 0));
        }
        self.write(0xfc, 0xffff);
        let error = self.read(0x40);
        self.write(0x40, error);
        self.flush(0xffff)
    }

    /// Has `stream` translate by the first-level tables at `tables`.
    pub(super) fn attach(self, stream: u64, tables: &[u64]) {
        for index in 0..4 {
            let table =
                tables.get(index as usize).map_or(0, |table| 1 << 31 | (table >> 12) as u32);
            self.write(0x200 + 16 * stream + 4 * index, table);
        }
        self.write(0x100 + 4 * stream, 0x80);
    }

    /// Invalidates streams and waits.
    pub(super) fn flush(self, streams: u32) -> Result<(), &'static str> {
        self.write(0x34, streams);
        self.write(0x20, 1 << 20);
        (0..PATIENCE).any(|_| self.read(0x20) & 4 == 0).then_some(()).ok_or("the DART stays busy")
    }

    /// Has the device behind `stream` copy between two IOVAs; `false`: it was refused.
    pub(super) fn copy(
        self,
        stream: u32,
        from: u64,
        to: u64,
        bytes: u32,
    ) -> Result<bool, &'static str> {
        self.order(1, [stream, from as u32, to as u32, bytes])
    }

    /// Has the DART lose power, and get it back.
    pub(super) fn power_cycle(self) -> Result<(), &'static str> {
        self.order(2, [0; 4]).map(|_| ())
    }

    /// Has the device behind `stream` read at `iova` while the DART carries out the next
    /// invalidation.
    pub(super) fn read_in_next_flush(self, stream: u32, iova: u64) -> Result<(), &'static str> {
        self.order(3, [stream, iova as u32, 0, 0]).map(|_| ())
    }

    /// Has the DART never end a command from now on.
    pub(super) fn end_no_command_any_more(self) -> Result<(), &'static str> {
        self.order(4, [0; 4]).map(|_| ())
    }

    fn order(self, order: u32, words: [u32; 4]) -> Result<bool, &'static str> {
        let engine = Self { base: ENGINES + self.number * ENGINE_BYTES, number: 0 };
        engine.write(20, 0);
        for (index, word) in words.into_iter().enumerate() {
            engine.write(4 + 4 * index as u64, word);
        }
        // The tables and the memory come before the bell.
        // SAFETY: a barrier.
        unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
        super::fiq::quietly(|| engine.write(0, order));
        match (0..PATIENCE).map(|_| engine.read(20)).find(|result| *result != 0) {
            Some(result) => Ok(result == 1),
            None => Err("the device does not answer"),
        }
    }
}
