//! Which pages a submission entry names: `PRP1`, `PRP2`, and the lists that `PRP2` can lead to.

use super::interface::{Entry, Name, NvmeHost, PAGE};

/// The assumed length of a block in bytes, as on Apple's disks. With shorter blocks more entries of
/// a list are read than the command has, and the pages that they happen to name are pinned too.
const BLOCK_BYTES: u64 = 4096;

/// The pages that a command of the admin queue names.
pub(super) fn of_admin<M: NvmeHost>(entry: &Entry, machine: &mut M, name: &mut Name<'_, M>) {
    let dwords = match entry[0] & 0xff {
        // Get Log Page: `NUMDL` and `NUMDU`, less one. Firmware Image Download: `NUMD`, less one.
        0x02 => (entry[5] >> 16 & 0xffff_ffff) + 1,
        0x11 => (entry[5] & 0xffff_ffff) + 1,
        _ => 0,
    };
    named(entry, dwords * 4, machine, name);
}

/// The pages that a command of the I/O queue names.
pub(super) fn of_io<M: NvmeHost>(entry: &Entry, machine: &mut M, name: &mut Name<'_, M>) {
    let blocks = match entry[0] & 0xff {
        // Write, Read, Compare.
        0x01 | 0x02 | 0x05 => (entry[6] & 0xffff) + 1,
        _ => 0,
    };
    named(entry, blocks * BLOCK_BYTES, machine, name);
}

/// The pages of `PRP1` and `PRP2`, and those of a list at `PRP2` where `bytes` bytes need one. A
/// list's last entry leads to the next list where more follow.
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
