//! The guest's memory as the engine places it, for virtual devices: an access finds migrated pages
//! and keeps all copies equal.

use core::sync::atomic::{Ordering, fence};

use oche_types::addr::{Gfn, PAGE_BYTES};
use oche_types::guest_memory::{GuestMemory, NotMemory};

use crate::Engine;
use crate::host::Host;

/// The guest's memory, accessed through the engine. It lives as long as the engine's lock is held.
#[derive(Debug)]
pub struct EngineMemory<'a, W> {
    engine: core::cell::RefCell<(&'a mut Engine, &'a mut W)>,
}

impl<'a, W: Host> EngineMemory<'a, W> {
    /// Gives access to all of the guest's RAM and nothing else.
    pub fn new(engine: &'a mut Engine, host: &'a mut W) -> Self {
        Self { engine: core::cell::RefCell::new((engine, host)) }
    }

    /// Calls `each` for the parts of the range, each within an aligned word of 8 bytes, with: page,
    /// offset, number of bytes, and number of bytes before it.
    fn pieces(
        &self,
        address: u64,
        bytes: usize,
        mut each: impl FnMut(&mut Engine, &mut W, Gfn, usize, usize, usize),
    ) -> Result<(), NotMemory> {
        let mut parts = self.engine.borrow_mut();
        let (engine, host) = &mut *parts;
        let mut done = 0;
        while done < bytes {
            let at = address.checked_add(done as u64).ok_or(NotMemory)?;
            let page = Gfn::containing(at).filter(|page| engine.is_ram(*page)).ok_or(NotMemory)?;
            let offset = (at % PAGE_BYTES as u64) as usize;
            let count = (8 - offset % 8).min(bytes - done);
            each(engine, host, page, offset, count, done);
            done += count;
        }
        Ok(())
    }
}

impl<W: Host> GuestMemory for EngineMemory<'_, W> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), NotMemory> {
        self.pieces(address, into.len(), |engine, host, page, offset, count, done| {
            let value = engine.load_trapped(host, page, offset, count).to_le_bytes();
            for (to, from) in into.iter_mut().skip(done).zip(value).take(count) {
                *to = from;
            }
        })
    }

    fn write(&mut self, address: u64, from: &[u8]) -> Result<(), NotMemory> {
        self.pieces(address, from.len(), |engine, host, page, offset, count, done| {
            let bytes = from.iter().skip(done).take(count);
            let value = bytes.rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            engine.store_trapped(host, page, offset, count, value);
        })
    }

    fn publish(&mut self, address: u64, value: u16) -> Result<(), NotMemory> {
        if !address.is_multiple_of(2) {
            return Err(NotMemory);
        }
        fence(Ordering::SeqCst);
        self.write(address, &value.to_le_bytes())?;
        // The store completes before the caller reads whether the driver wants an interrupt.
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn observe(&self, address: u64) -> Result<u16, NotMemory> {
        if !address.is_multiple_of(2) {
            return Err(NotMemory);
        }
        let mut bytes = [0; 2];
        self.read(address, &mut bytes)?;
        fence(Ordering::SeqCst);
        Ok(u16::from_le_bytes(bytes))
    }
}
