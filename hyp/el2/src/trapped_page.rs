//! Trapped pages: a CPU's access that must reach more than one copy, carried out on behalf of the
//! guest.
//!
//! Two ways, chosen by the instruction alone:
//! - *Emulation*, for loads and stores of one or two general-purpose registers
//!   ([`crate::instruction`]), and for the exclusives. It reads and writes through the engine,
//!   which merges just the words that are touched: some microseconds where a step costs several
//!   times that. Exclusives cannot be stepped at all: every return to the guest clears its monitor,
//!   so the pair would never succeed. Behind an emulated load-exclusive the CPU's store-exclusive
//!   would fail without a trap, so the CPU is stepped that far.
//! - *A single step*, for everything else. The page is opened for this CPU alone, in a view of
//!   stage 2 of its own, and the CPU executes the very instruction; afterwards all copies are made
//!   equal. Whatever the architecture adds to the load and store instructions works without a line
//!   of code here.
//!
//! Both happen under the engine's lock, from the trap to the last copy; other CPUs keep finding the
//! page trapped and wait for the lock. So accesses to a trapped page happen one after the other.
//!
//! A fetch of instructions from such a page, or a walk of tables in it, cannot be done on several
//! copies; there the engine gives the copies up.

#[cfg(target_os = "none")]
pub mod hw;

pub mod monitor;
pub mod progress;

use oche_engine::{AccessKind, FaultDisposition, WatchedAccess};
use oche_types::addr::{Gfn, PAGE_BYTES};
use oche_types::event::WatchHow;

use crate::guest_registers::GuestRegisters;
use crate::instruction::{Access, Extension, Operation};
use monitor::Monitors;

/// What a machine offers for trapped pages: the engine, and the view in which it is opened to one
/// CPU.
pub trait TrappedPages {
    /// A CPU's access was stopped by stage 2: see `Engine::access_trapped`. `pc` is for the trace.
    fn trapped(&mut self, pc: u64, address: u64, reach: AccessKind) -> FaultDisposition;
    /// See `Engine::load_trapped`.
    fn load(&mut self, page: Gfn, offset: usize, bytes: usize) -> u64;
    /// See `Engine::store_trapped`.
    fn store(&mut self, page: Gfn, offset: usize, bytes: usize, value: u64);
    /// See `Engine::trap_loads`.
    fn trap_loads(&mut self, page: Gfn);
    /// Begins a view of stage 2 in which nothing differs from the shared one. Returns its root's
    /// address, or `None` where there is no memory for it.
    fn begin_view(&mut self) -> Option<u64>;
    /// Opens `page` in the view; see `Engine::open_trapped`. False: the view has no room.
    fn open(&mut self, page: Gfn) -> bool;
    /// See `Engine::close_trapped`.
    fn settle(&mut self, page: Gfn);
    /// See `Engine::is_watching`.
    fn is_watching(&self) -> bool;
    /// See `Engine::report_watched`; `value` is that of the bytes, from the first on.
    fn report(&mut self, watched: &WatchedAccess, value: &Value);
}

/// Bytes that an access touches, in the order of their addresses, as little-endian words.
pub type Value = [u64; 8];

/// How an instruction, read again, fits the fault that brought the CPU here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// It makes that very access, at this virtual address, inside one page.
    Same(u64),
    /// It makes that access, and touches another page as well.
    Crosses,
    /// It is another by now.
    Other,
}

/// Compares `access`, as decoded from what is at the program counter now, with a fault at the
/// virtual address `far` of a store or of a load. Another CPU may have replaced the instruction,
/// which may then have other rights to ask for.
pub fn agreement(
    access: &Access,
    registers: &impl GuestRegisters,
    far: u64,
    is_write: bool,
) -> Agreement {
    let address = registers.address(access);
    let length = access.length() as u64;
    // A top byte may be a tag; `FAR_EL2` need not have it. The fault is at the first byte that met
    // it.
    let distance = far.wrapping_sub(address) << 8 >> 8;
    if access.is_write() != is_write || distance >= length {
        return Agreement::Other;
    }
    let is_inside = address % PAGE_BYTES as u64 + length <= PAGE_BYTES as u64;
    if is_inside { Agreement::Same(address) } else { Agreement::Crosses }
}

/// Carries `access` out on the trapped `page`, for CPU number `cpu`; `far` is the virtual address
/// that was stopped. False: it reaches beyond the page, or begins on another, and nothing was done.
///
/// The caller has seen, under the engine's lock, that stage 1 allows the access and leads to
/// `page`.
pub fn emulate(
    pages: &mut impl TrappedPages,
    monitors: &mut Monitors,
    cpu: usize,
    page: Gfn,
    far: u64,
    access: &Access,
    registers: &mut impl GuestRegisters,
) -> bool {
    let address = registers.address(access);
    let offset = address as usize % PAGE_BYTES;
    // A top byte may be a tag; `FAR_EL2` need not have it.
    let is_same_page = (address ^ far) << 8 >> 20 == 0;
    if !is_same_page || offset + access.length() > PAGE_BYTES {
        return false;
    }
    let mut trapped = TrappedAccess {
        pages,
        monitors,
        cpu,
        page,
        offset,
        bytes: usize::from(access.bytes),
        is_pair: access.is_pair(),
        length: access.length(),
    };
    match access.kind {
        Operation::Load { register, extension } => {
            trapped.load_into(&[register], extension, registers)
        }
        Operation::Store { register } => trapped.store_from(&[register], registers),
        Operation::LoadPair { registers: pair, extension } => {
            trapped.load_into(&pair, extension, registers);
        }
        Operation::StorePair { registers: pair } => trapped.store_from(&pair, registers),
        Operation::LoadExclusive { registers: pair, is_pair } => {
            let values = trapped.load_exclusive();
            trapped.report(false, values);
            let loaded = pair.get(..1 + usize::from(is_pair)).unwrap_or(&pair);
            trapped.set_loaded(loaded, values, Extension::Zero, registers);
        }
        Operation::StoreExclusive { status, registers: pair, .. } => {
            let values = pair.map(|register| registers.get(register));
            let is_stored = trapped.store_exclusive(values);
            if is_stored {
                trapped.report(true, values);
            }
            registers.set(status, u64::from(!is_stored));
        }
    }
    registers.write_back(access);
    true
}

/// An access's place, and all that knows of it.
struct TrappedAccess<'a, G> {
    pages: &'a mut G,
    monitors: &'a mut Monitors,
    cpu: usize,
    page: Gfn,
    offset: usize,
    /// Of each part.
    bytes: usize,
    is_pair: bool,
    /// Of the whole.
    length: usize,
}

impl<G: TrappedPages> TrappedAccess<'_, G> {
    /// Reports to a watch that the parts `values` were loaded or stored.
    fn report(&mut self, is_write: bool, values: [u64; 2]) {
        if !self.pages.is_watching() {
            return;
        }
        let mut value = [0; 8];
        match (self.bytes, value.first_chunk_mut()) {
            (8, Some(words)) => *words = values,
            (bytes, _) => {
                // Two parts of at most four bytes are one word.
                let bits = 8 * bytes as u32 % 64;
                let part = |part: u64| part & ((1 << bits) - 1);
                value[0] = part(values[0]) | part(values[1]) << bits;
            }
        }
        let Self { page, offset, length, .. } = *self;
        let how = WatchHow::Exact;
        self.pages.report(&WatchedAccess { page, offset, bytes: length, is_write, how }, &value);
    }

    /// Loads each part into the register of that number.
    fn load_into(
        &mut self,
        numbers: &[u8],
        extension: Extension,
        registers: &mut impl GuestRegisters,
    ) {
        let values = self.values();
        self.report(false, values);
        self.set_loaded(numbers, values, extension, registers);
    }

    fn set_loaded(
        &self,
        numbers: &[u8],
        values: [u64; 2],
        extension: Extension,
        registers: &mut impl GuestRegisters,
    ) {
        for (number, value) in numbers.iter().zip(values) {
            registers.set(*number, extension.apply(value, self.bytes as u8));
        }
    }

    /// Stores each part from the register of that number.
    fn store_from(&mut self, numbers: &[u8], registers: &impl GuestRegisters) {
        let mut values = [0; 2];
        for (index, (number, value)) in numbers.iter().zip(&mut values).enumerate() {
            *value = registers.get(*number);
            self.store(index, *value);
        }
        self.report(true, values);
    }

    /// Part `index` of the access.
    fn load(&mut self, index: usize) -> u64 {
        self.pages.load(self.page, self.offset + index * self.bytes, self.bytes)
    }

    fn store(&mut self, index: usize, value: u64) {
        self.monitors.note_store(self.cpu, self.page, self.offset + index * self.bytes);
        self.pages.store(self.page, self.offset + index * self.bytes, self.bytes, value);
    }

    fn values(&mut self) -> [u64; 2] {
        [self.load(0), if self.is_pair { self.load(1) } else { 0 }]
    }

    fn place(&self) -> monitor::MonitoredBytes {
        let Self { page, offset, bytes, is_pair, .. } = *self;
        monitor::MonitoredBytes { page, offset, bytes, is_pair }
    }

    fn load_exclusive(&mut self) -> [u64; 2] {
        let values = self.values();
        self.monitors.begin(self.cpu, self.place(), values);
        values
    }

    /// Stores if nothing else did since the load-exclusive: no CPU, or its store would have cleared
    /// the monitor; no device, or the value would be another.
    fn store_exclusive(&mut self, values: [u64; 2]) -> bool {
        let Some(seen) = self.monitors.take(self.cpu, self.place()) else {
            // The load-exclusive went by unseen, or there was none. The next one will be seen.
            self.pages.trap_loads(self.page);
            return false;
        };
        if self.values() != seen {
            return false;
        }
        for (index, value) in values.into_iter().enumerate().take(1 + usize::from(self.is_pair)) {
            self.store(index, value);
        }
        true
    }
}

#[cfg(test)]
mod tests;
