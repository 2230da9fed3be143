//! Which pages a submission entry names: `PRP1`, `PRP2`, and the lists that `PRP2` can lead to.

use super::interface::{Entry, Name, NvmeHost, PAGE};

/// A block is taken to be this long, in bytes, as it is on Apple's disks. With shorter ones more
/// entries of a list are looked at than the command has, and what they happen to name stays home
/// meanwhile.
const BLOCK_BYTES: u64 = 4096;

/// What a command of the admin queue names.
pub(super) fn of_admin<M: NvmeHost>(entry: &Entry, machine: &mut M, name: &mut Name<'_, M>) {
    let dwords = match entry[0] & 0xff {
        // Get Log Page: `NUMDL` and `NUMDU`, less one. Firmware Image Download: `NUMD`, less one.
        0x02 => (entry[5] >> 16 & 0xffff_ffff) + 1,
        0x11 => (entry[5] & 0xffff_ffff) + 1,
        _ => 0,
    };
    named(entry, dwords * 4, machine, name);
}

/// What a command of the other queue names.
pub(super) fn of_io<M: NvmeHost>(entry: &Entry, machine: &mut M, name: &mut Name<'_, M>) {
    let blocks = match entry[0] & 0xff {
        // Write, Read, Compare.
        0x01 | 0x02 | 0x05 => (entry[6] & 0xffff) + 1,
        _ => 0,
    };
    named(entry, blocks * BLOCK_BYTES, machine, name);
}

/// Both pages, and what a list at `PRP2` names where `bytes` bytes need one. A list's last entry
/// leads to the next list where more follow.
fn named<M: NvmeHost>(entry: &Entry, bytes: u64, machine: &mut M, name: &mut Name<'_, M>) {
    let (first, list) = (entry[3], entry[4]);
    for address in [first, list].into_iter().filter(|address| *address != 0) {
        name(machine, address);
    }
    let mut left = (first % PAGE + bytes).div_ceil(PAGE).saturating_sub(1);
    if first == 0 || left < 2 {
        return;
    }
    let mut at = list & !7;
    while left != 0 {
        let Some(address) = machine.word(at) else { return };
        let is_last = at % PAGE == PAGE - 8;
        if address == 0 || !name(machine, address) {
            return;
        }
        if is_last && left > 1 {
            at = address & !7;
        } else {
            left -= 1;
            at += 8;
        }
    }
}
