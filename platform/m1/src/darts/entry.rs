//! Entries of a t8020-type DART's 16K tables ("DART1"): what Oche's shadow tables hold on a Mac.
//!
//! Two levels of 2048 entries below a TTBR: bits 35:25 of the IOVA select the table, bits 24:14 the
//! page, and 32-bit IOVAs use TTBR 0 alone. Source: Linux 6.1 `io-pgtable-dart.c`, m1n1
//! `dart8020.py`, OpenBSD `apldart.c`.

use oche_types::addr::{HostGranule, SLOTS, SlotRun};
use oche_types::dart::entry::{
    NO_READ, NO_WRITE, Permission, VALID, WINDOW_END_SHIFT, WINDOW_OFF, WINDOW_START_SHIFT,
};

/// Bits 35:14 of the physical address, in place.
const ADDRESS: u64 = 0xf_ffff_c000;
/// Last four-byte unit of a 16 KiB page: the window's end is inclusive.
const LAST_UNIT: u16 = 0xfff;

/// A part of a 16 KiB page that a device may reach, in units of four bytes, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    start: u16,
    end: u16,
}

impl Window {
    /// The whole page.
    pub const WHOLE: Self = Self { start: 0, end: LAST_UNIT };

    /// `slots`, 4 KiB each.
    pub fn of(slots: SlotRun) -> Self {
        const UNITS: usize = (LAST_UNIT as usize + 1) / SLOTS;
        Self { start: (slots.first() * UNITS) as u16, end: ((slots.last() + 1) * UNITS - 1) as u16 }
    }
}

/// The leaf entry that lets a device reach `window` of `frame`. Nothing allowed is no entry at all.
///
/// With the whole page the check is switched off too, as Linux does: that much is proven on
/// hardware. A narrower window relies on hardware checking it. OpenBSD does rely on it; Linux never
/// has.
pub fn leaf(frame: HostGranule, permission: Permission, window: Window) -> u64 {
    if permission.is_none() {
        return 0;
    }
    let no_read = if permission.read { 0 } else { NO_READ };
    let no_write = if permission.write { 0 } else { NO_WRITE };
    let check = if window == Window::WHOLE { WINDOW_OFF } else { 0 };
    let bounds =
        u64::from(window.start) << WINDOW_START_SHIFT | u64::from(window.end) << WINDOW_END_SHIFT;
    bounds | frame.address() & ADDRESS | no_read | no_write | check | VALID
}

/// The first-level entry that names the leaf table in `table`.
pub fn table(table: HostGranule) -> u64 {
    table.address() & ADDRESS | VALID
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frame at physical 0x8_4567_8000.
    const FRAME: HostGranule = HostGranule((0x8_4567_8000_u64 >> 14) as u32);

    #[test]
    fn a_whole_page_is_what_linux_writes_for_it() {
        let bits = |permission| leaf(FRAME, permission, Window::WHOLE);
        assert_eq!(bits(Permission::READ_WRITE), 0x000f_ff08_4567_8003);
        assert_eq!(bits(Permission::READ_ONLY), 0x000f_ff08_4567_8083);
        assert_eq!(bits(Permission::WRITE_ONLY), 0x000f_ff08_4567_8103);
        assert_eq!(bits(Permission::default()), 0);
        assert_eq!(table(FRAME), 0x8_4567_8001);
    }

    #[test]
    fn a_window_of_slots_is_checked_and_spans_them_to_the_byte() {
        let Some(middle) = SlotRun::new(1, 2) else { panic!("slots 1 to 2 are a run") };
        let entry = leaf(FRAME, Permission::READ_WRITE, Window::of(middle));
        assert_eq!(entry & WINDOW_OFF, 0);
        let start_bytes = (entry >> 52 & 0xfff) * 4;
        let end_bytes = (entry >> 40 & 0xfff) * 4 + 4;
        assert_eq!((start_bytes, end_bytes), (0x1000, 0x3000));
        assert_eq!(Window::of(SlotRun::ALL), Window::WHOLE);
    }

    /// The guest's 4K entries and these must agree on what a permission is.
    #[test]
    fn the_permission_bits_are_those_that_the_guest_writes() {
        use oche_types::dart::entry::{decode_leaf, encode_leaf};
        for bits in 1..4 {
            let permission = Permission { read: bits & 1 != 0, write: bits & 2 != 0 };
            let ours = leaf(FRAME, permission, Window::WHOLE);
            assert_eq!(decode_leaf(ours).map(|leaf| leaf.permission), Some(permission));
            assert_eq!(ours, encode_leaf(oche_types::addr::Gfn(FRAME.page(0).0), permission));
        }
    }
}
