//! A guest that means harm: any value in tables and registers.

use super::{Checked, Machine};
use crate::reference::{encode_leaf, encode_table};
use oche_reference::registers::{TCR, TTBR};
use oche_reference::walk::{NO_READ, NO_WRITE, VALID, WINDOW_OFF};

impl<const C: bool> Machine<C> {
    /// Writes garbage into a table.
    pub(super) fn break_table(
        &mut self,
        domain: usize,
        is_first: bool,
        word: usize,
        garbage: u8,
        flush: bool,
    ) -> Checked {
        let Some(domain) = self.guest.domain(domain) else { return Ok(()) };
        let Some(table) = self.guest.some_table(domain, is_first, &mut self.random) else {
            return Ok(());
        };
        self.guest.is_hostile = true;
        let page = self.guest.choose(crate::program::Choice::Mapped(word as u16), &mut self.random);
        let value = match garbage % 10 {
            0 => 0,
            1 => self.random.bits(),
            2 => self.random.bits() & !VALID,
            3 => encode_table(page),
            4 => encode_table(table),
            5 => encode_leaf(page, true, true) & !WINDOW_OFF | self.random.bits() << 52,
            6 => encode_leaf(page, true, true) ^ NO_READ ^ NO_WRITE,
            7 => encode_leaf(page, self.random.chance(1, 2), self.random.chance(1, 2)),
            8 => encode_leaf(table, true, false),
            _ => u64::MAX,
        };
        // Mostly where a driver's entries are: at the end of the tables.
        let word = if self.random.chance(3, 4) { 511 - word % 192 } else { word % 512 };
        // A page that names itself as its leaf table is both levels at once: every entry counts
        // twice.
        self.store(table, word * 8, &value.to_le_bytes())?;
        if flush { self.flush_domain(domain) } else { Ok(()) }
    }

    /// Writes garbage into a TTBR or TCR.
    pub(super) fn break_register(
        &mut self,
        dart: usize,
        stream: usize,
        register: u8,
        garbage: u8,
    ) -> Checked {
        self.guest.is_hostile = true;
        let page =
            self.guest.choose(crate::program::Choice::Any(register.into()), &mut self.random);
        let bits = self.random.bits() as u32;
        if register >= 4 {
            let value =
                [0, 0x80, 0x180, 0x1100, bits, 0x80, 0x100, bits & !0x80][usize::from(garbage % 8)];
            return self.write_register(dart, TCR + 4 * stream as u64, value);
        }
        let domain = self.guest.domain(usize::from(garbage));
        let table = domain
            .and_then(|domain| self.guest.some_table(domain, garbage & 1 == 0, &mut self.random));
        let table = table.unwrap_or(page).0;
        let value = match garbage % 8 {
            0 => 0,
            1 => bits,
            2 => 1 << 31 | page.0,
            3 => 1 << 31 | bits & 0x7_ffff,
            _ => 1 << 31 | table,
        };
        self.write_register(dart, TTBR + 16 * stream as u64 + 4 * u64::from(register), value)
    }
}
