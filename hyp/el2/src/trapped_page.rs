//! Trapped pages: Oche carries out the guest's accesses to pages that have more than one copy.
//!
//! There are two ways. The instruction alone decides which one is used:
//! - *Emulation*, for loads and stores of one or two general-purpose registers
//!   ([`crate::instruction`]), and for the exclusives. It accesses memory through the engine, which
//!   merges only the accessed words. This takes some microseconds; a step takes several times as
//!   long. Exclusives cannot be stepped: every return to the guest clears the CPU's monitor, so the
//!   store-exclusive would never succeed. After an emulated load-exclusive, the CPU's
//!   store-exclusive would fail without a trap, so the CPU is stepped up to there.
//! - *A single step*, for all other instructions. The page is opened for this CPU alone, in a view
//!   of stage 2, and the CPU executes the instruction itself. Afterwards all copies are made equal.
//!   Load and store instructions that the architecture adds later therefore need no code here.
//!
//! Both hold the engine's lock from the trap until all copies are equal. On other CPUs the page
//! stays trapped, and they wait for the lock. Accesses to a trapped page are therefore serialized.
//!
//! An instruction fetch from such a page, or a table walk in it, cannot be carried out on several
//! copies. The engine then drops the page's bounce pages.

#[cfg(target_os = "none")]
pub mod hw;
#[cfg(target_os = "none")]
pub mod known;

pub mod monitor;
pub mod progress;

use oche_engine::{AccessKind, FaultDisposition, Parts, WatchedAccess};
use oche_types::addr::{Gfn, Hfn, PAGE_BYTES};
use oche_types::event::WatchHow;

use crate::guest_registers::GuestRegisters;
use crate::instruction::{Access, Operation};
use monitor::Monitors;

/// What trapped pages need from a platform: the engine, and the view in which a page is opened for
/// one CPU.
///
/// # Safety
///
/// EL2 loads instructions of the guest from what [`Self::locate`] returns, and runs the guest on
/// the tables that [`Self::begin_view`] returns: the one is guest RAM, and the others map for this
/// CPU what the shared tables map and the opened page, nothing else. The other methods access only
/// guest RAM and its copies.
#[expect(unsafe_code, reason = "what EL2 reads for the guest, and what a CPU reaches, rests on it")]
pub unsafe trait TrappedPages {
    /// See `Engine::access_trapped`. `pc` is recorded in the trace.
    fn access(&mut self, pc: u64, address: u64, kind: AccessKind) -> FaultDisposition;
    /// See `Engine::load_known`. `pc` is recorded in the trace.
    fn load_known(&mut self, pc: u64, address: u64, parts: Parts) -> Option<[u64; 2]>;
    /// See `Engine::store_known`. `pc` is recorded in the trace.
    fn store_known(&mut self, pc: u64, address: u64, parts: Parts, values: [u64; 2]) -> bool;
    /// The host page that holds `page`, if it is guest RAM.
    fn locate(&self, page: Gfn) -> Option<Hfn>;
    /// See `Engine::load_trapped`.
    fn load(&mut self, page: Gfn, offset: usize, bytes: usize) -> u64;
    /// See `Engine::store_trapped`.
    fn store(&mut self, page: Gfn, offset: usize, bytes: usize, value: u64);
    /// See `Engine::trap_loads`.
    fn trap_loads(&mut self, page: Gfn);
    /// Resets the view of stage 2, so that it maps what the shared tables map. Returns the address
    /// of its root, or `None` if there is no memory for it.
    fn begin_view(&mut self) -> Option<u64>;
    /// Opens `page` in the view: see `Engine::open_trapped`. Returns false if the view has no room.
    fn open(&mut self, page: Gfn) -> bool;
    /// See `Engine::close_trapped`.
    fn close(&mut self, page: Gfn);
    /// See `Engine::is_watching`.
    fn is_watching(&self) -> bool;
    /// See `Engine::report_watched`. `value` holds the bytes of the access.
    fn report_watched(&mut self, watched: &WatchedAccess, value: &Value);
}

/// The bytes of an access, in the order of their addresses, as little-endian words.
pub type Value = [u64; 8];

/// How an instruction, read again after the trap, agrees with the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// It makes the access that faulted, at this virtual address, inside one page.
    Same(u64),
    /// It makes the access that faulted, which crosses into another page.
    Crosses,
    /// It is another instruction now.
    Other,
}

/// Compares `access`, decoded from the instruction at the program counter now, with a fault of a
/// store or load at the virtual address `far`. Another CPU may have replaced the instruction by one
/// that needs other rights.
#[inline(always)]
pub fn agreement(
    access: &Access,
    registers: &impl GuestRegisters,
    far: u64,
    is_write: bool,
) -> Agreement {
    let address = registers.address(access);
    let length = access.length() as u64;
    // The top byte may be a tag, which `FAR_EL2` need not contain. `FAR_EL2` is the address of the
    // first byte that faulted.
    let distance = far.wrapping_sub(address) << 8 >> 8;
    if access.is_write() != is_write || distance >= length {
        return Agreement::Other;
    }
    let is_inside = address % PAGE_BYTES as u64 + length <= PAGE_BYTES as u64;
    if is_inside { Agreement::Same(address) } else { Agreement::Crosses }
}

/// Carries out `access` to the trapped `page` for CPU number `cpu`. `far` is the virtual address
/// that faulted. Returns false, and does nothing, if the access is not inside that page.
///
/// The caller has checked, under the engine's lock, that stage 1 allows the access and translates
/// it to `page`.
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
    // The top byte may be a tag, which `FAR_EL2` need not contain.
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
        is_pair: access.is_pair,
        length: access.length(),
    };
    match access.kind {
        Operation::Load => trapped.load_into(access, registers),
        Operation::Store => trapped.store_from(access.registers(), registers),
        Operation::LoadExclusive => {
            let values = trapped.load_exclusive();
            trapped.report(false, values);
            trapped.set_loaded(access, values, registers);
        }
        Operation::StoreExclusive => {
            let values = access.registers.map(|register| registers.get(register));
            let is_stored = trapped.store_exclusive(values);
            if is_stored {
                trapped.report(true, values);
            }
            registers.set(access.status, u64::from(!is_stored));
        }
    }
    registers.write_back(access);
    true
}

/// The place of an access, with what is needed to carry it out.
struct TrappedAccess<'a, G> {
    pages: &'a mut G,
    monitors: &'a mut Monitors,
    cpu: usize,
    page: Gfn,
    offset: usize,
    /// Number of bytes of each part.
    bytes: usize,
    is_pair: bool,
    /// Number of bytes of the whole access.
    length: usize,
}

impl<G: TrappedPages> TrappedAccess<'_, G> {
    /// Reports the parts `values` that were loaded or stored, if the page is watched.
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
        self.pages
            .report_watched(&WatchedAccess { page, offset, bytes: length, is_write, how }, &value);
    }

    /// Loads each part into its register.
    fn load_into(&mut self, access: &Access, registers: &mut impl GuestRegisters) {
        let values = self.values();
        self.report(false, values);
        self.set_loaded(access, values, registers);
    }

    fn set_loaded(&self, access: &Access, values: [u64; 2], registers: &mut impl GuestRegisters) {
        for (number, value) in access.registers().iter().zip(values) {
            registers.set(*number, access.extension.apply(value, access.bytes));
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

    /// Stores if nothing has stored there since the load-exclusive: a CPU's store would have
    /// cleared the monitor, and a device's write would have changed the value.
    fn store_exclusive(&mut self, values: [u64; 2]) -> bool {
        let Some(seen) = self.monitors.take(self.cpu, self.place()) else {
            // The load-exclusive did not trap, or there was none. The next one will trap.
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
