//! The simulated board's NVMe controller: it takes commands at its doorbells and moves bytes
//! between physical addresses, without a DART.
//!
//! As on an M1 a store to a doorbell is the number of a submission entry. Blocks have 4 KiB. A
//! read or write of block 2^32 and up is carried out only with the next flush, so that tests can
//! examine a command that is under way. Source: Linux `drivers/nvme/host/apple.c`
//! (`docs/hardware/m1-devices.md`); NVM Express Base Specification 1.4, 4.2 to 4.6.

use std::collections::HashMap;

use super::memory::BoardMemory;

/// Where the controller is. Source: Linux `t8103.dtsi`, `nvme`.
pub const BASE: u64 = 0x2_7bcc_0000;
const ADMIN_DOORBELL: u64 = BASE + 0x2_490c;
const IO_DOORBELL: u64 = BASE + 0x2_4910;
const ASQ: u64 = BASE + 0x28;
const ACQ: u64 = BASE + 0x30;
/// Admin queues have two entries each.
const ADMIN_ENTRIES: u64 = 2;
const BLOCK: u64 = 4096;
/// Blocks from here on wait for a flush.
const DELAYED: u64 = 1 << 32;

/// The controller and its disk.
#[derive(Debug, Default)]
pub struct Nvme {
    submissions: u64,
    completions: u64,
    entries: u64,
    /// Head and phase less one, of the admin completion queue and of the other.
    heads: [(u64, bool); 2],
    blocks: HashMap<u64, Vec<u8>>,
    waiting: Vec<u64>,
    /// Commands that were carried out.
    pub commands: u64,
}

impl Nvme {
    /// Addresses to watch, with their bytes.
    #[must_use]
    pub fn watches() -> [(u64, u64); 2] {
        [(ADMIN_DOORBELL, 4), (IO_DOORBELL, 4)]
    }

    /// Models a write of a doorbell.
    pub fn ring(&mut self, memory: &BoardMemory, address: u64) {
        let number = u64::from(memory.word(address));
        if address == ADMIN_DOORBELL {
            let entry = memory.double(ASQ) + number * 64;
            let (place, size) = (memory.double(entry + 24), memory.word(entry + 40));
            match memory.word(entry) & 0xff {
                1 => self.submissions = place,
                5 => (self.completions, self.entries) = (place, u64::from(size >> 16) + 1),
                _ => {}
            }
            return self.complete(memory, entry, 0, memory.double(ACQ), ADMIN_ENTRIES);
        }
        let entry = self.submissions + number * 64;
        let is_delayed = memory.double(entry + 40) >= DELAYED;
        let opcode = memory.word(entry) & 0xff;
        if is_delayed && opcode != 0 {
            return self.waiting.push(entry);
        }
        if opcode == 0 {
            for waiting in std::mem::take(&mut self.waiting) {
                self.carry_out(memory, waiting);
            }
        }
        self.carry_out(memory, entry);
    }

    fn carry_out(&mut self, memory: &BoardMemory, entry: u64) {
        let opcode = memory.word(entry) & 0xff;
        if matches!(opcode, 1 | 2) {
            let blocks = u64::from(memory.word(entry + 48) & 0xffff) + 1;
            let first = memory.double(entry + 40) % DELAYED;
            for (index, page) in pages(memory, entry, blocks).into_iter().enumerate() {
                let block = self
                    .blocks
                    .entry(first + index as u64)
                    .or_insert_with(|| vec![0; BLOCK as usize]);
                if opcode == 1 {
                    memory.read(page, block);
                } else {
                    memory.write(page, block);
                }
            }
        }
        self.complete(memory, entry, 1, self.completions, self.entries);
    }

    fn complete(&mut self, memory: &BoardMemory, entry: u64, queue: usize, at: u64, entries: u64) {
        self.commands += 1;
        let id = memory.word(entry) >> 16;
        let Some((head, phase)) = self.heads.get_mut(queue) else { return };
        memory.set_word(at + *head * 16 + 12, id | u32::from(!*phase) << 16);
        *head += 1;
        if *head >= entries {
            (*head, *phase) = (0, !*phase);
        }
    }
}

/// The pages of a command with whole, aligned pages.
fn pages(memory: &BoardMemory, entry: u64, blocks: u64) -> Vec<u64> {
    let (first, second) = (memory.double(entry + 24), memory.double(entry + 32));
    let list = |index: u64| memory.double(second + 8 * (index - 1));
    (0..blocks)
        .map(|index| match index {
            0 => first,
            1 if blocks == 2 => second,
            index => list(index),
        })
        .collect()
}
