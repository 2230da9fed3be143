//! Random registers, queues, lists and doorbells: nothing that a guest stores panics, and work and
//! holds stay bounded.

use super::interface::PAGE;
use super::*;
use oche_sim::random::Random;
use std::vec::Vec;

/// Operations of a run; [`COUNT`] asks for another number.
const OPERATIONS: u64 = 1_000_000;
/// The variables that ask for other numbers: operations, and the seed.
const COUNT: &str = "OCHE_OPERATIONS";
const SEED: &str = "OCHE_SEED";
/// The guest's memory.
const START: u64 = 0x8_0000_0000;
const PAGES: usize = 64;
const WORDS: usize = PAGES * 512;
/// Words that one trap loads: of both completion queues, an entry, addresses, and a look at each
/// page of two queues.
const MAX_WORDS: usize = 2 * (2 * MAX_COMMANDS + 1) + 8 + MAX_PAGES + 2 * MAX_QUEUE_PAGES;
/// Traps after which nothing of what was pinned is left: all commands hold all that they can.
const MAX_TRAPS: usize = 2 * MAX_COMMANDS + 1;

struct Guest {
    random: Random,
    words: Vec<u64>,
    pinned: Vec<u32>,
    /// Loads, pins and releases in this trap.
    loads: usize,
    pins: usize,
    releases: usize,
}

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: no controller accesses its memory.
unsafe impl NvmeHost for Guest {
    fn word(&mut self, address: u64) -> Option<u64> {
        assert!(address.is_multiple_of(8), "{address:#x} is not aligned");
        self.loads += 1;
        self.words.get(usize::try_from(address.checked_sub(START)? / 8).ok()?).copied()
    }
    fn pin(&mut self, pages: &[Gfn]) -> usize {
        let count = self.at_once(pages);
        self.pins += count;
        for page in &pages[..count] {
            if let Some(pinned) = self.count(*page) {
                *pinned += 1;
                assert!(
                    *pinned <= 4 * MAX_COMMANDS as u32,
                    "{page:?} is pinned more often than it can be named"
                );
            }
        }
        count
    }
    fn unpin(&mut self, pages: &[Gfn]) -> usize {
        let count = self.at_once(pages);
        self.releases += count;
        for page in &pages[..count] {
            if let Some(pinned) = self.count(*page) {
                *pinned = pinned.checked_sub(1).expect("a page is unpinned that was not pinned");
            }
        }
        count
    }
    fn order_loads(&mut self) {}
}

impl Guest {
    fn count(&mut self, page: Gfn) -> Option<&mut u32> {
        self.pinned.get_mut(page.address().checked_sub(START)? as usize / PAGE as usize)
    }

    /// How many of `pages` this trap takes: now and then not all.
    fn at_once(&mut self, pages: &[Gfn]) -> usize {
        if self.random.chance(1, 8) { 1 + self.random.index(pages.len()) } else { pages.len() }
    }

    /// An address of any kind, mostly useful.
    fn address(&mut self) -> u64 {
        let page = START + self.random.below(PAGES as u64) * PAGE;
        match self.random.below(16) {
            0 => self.random.bits(),
            1 => u64::MAX - self.random.below(64),
            2 => START + self.random.below(WORDS as u64 * 8),
            3 => START + WORDS as u64 * 8 - self.random.below(256),
            4 => 0,
            5 => page + PAGE - 8,
            _ => page,
        }
    }

    fn store(&mut self, at: u64, word: u64) {
        let index = at.wrapping_sub(START) / 8;
        if let Some(slot) = usize::try_from(index).ok().and_then(|index| self.words.get_mut(index))
        {
            *slot = word;
        }
    }

    /// Writes a submission entry somewhere near the beginning of a page.
    fn submission(&mut self) {
        let at = START + self.random.below(PAGES as u64) * PAGE + self.random.below(64) * 64;
        let opcode = match self.random.below(8) {
            0 => self.random.below(256),
            kind => [1, 2, 5, 1, 2, 5, 0x11][kind as usize - 1],
        };
        let size = if self.random.chance(1, 4) {
            self.random.below(1 << 16)
        } else {
            self.random.below(64)
        };
        let contiguous = if self.random.chance(7, 8) { CONTIGUOUS } else { 0 };
        let queue = contiguous | size << 16 | self.random.below(8).min(1);
        let blocks = if self.random.chance(1, 64) {
            self.random.below(1 << 16)
        } else {
            self.random.below(6)
        };
        let id = self.random.below(64) << 16;
        let words = [id | opcode, 0, 0, self.address(), self.address(), queue, blocks];
        words
            .into_iter()
            .enumerate()
            .for_each(|(index, word)| self.store(at + 8 * index as u64, word));
    }

    /// Fills a run of words with addresses, to the end of a page as often as not.
    fn list(&mut self) {
        let page = START + self.random.below(PAGES as u64) * PAGE;
        let count = self.random.below(32);
        let first = if self.random.chance(1, 2) { 512 - count } else { 0 };
        for index in first..first + count {
            let address = self.address();
            self.store(page + index * 8, address);
        }
    }

    /// Sets the controller up as a driver does, with queues in the first pages.
    fn set_up(&mut self, ans: &mut Ans) {
        let [admin, io] = [0, 2].map(|page| START + page * PAGE);
        let registers =
            [(AQA, 0x3f_003f), (ASQ, admin as u32), (ASQ + 4, 8), (ACQ, (admin + PAGE) as u32)];
        for (offset, value) in [(CC, 0)].into_iter().chain(registers).chain([(ACQ + 4, 8), (CC, 1)])
        {
            assert_eq!(ans.before_store(offset, value, self), Ok(StoreVerdict::Pass));
        }
        for (opcode, place) in [(5, io + PAGE), (1, io)] {
            let words = [opcode, 0, 0, place, 0, CONTIGUOUS | 63 << 16 | 1];
            words
                .into_iter()
                .enumerate()
                .for_each(|(index, word)| self.store(admin + 8 * index as u64, word));
            while ans.before_store(ADMIN_DOORBELL, 0, self).unwrap() == StoreVerdict::Again {}
        }
    }

    /// Writes completions from the beginning of a page on.
    fn completions(&mut self) {
        let page = START + self.random.below(PAGES as u64) * PAGE;
        let phase = self.random.below(2);
        for index in 0..self.random.below(64) {
            let id = self.random.below(64);
            self.store(page + index * 16 + 8, phase << 48 | id << 32);
        }
    }

    /// A register: a doorbell mostly, for the others end all that is under way.
    fn offset(&mut self) -> u64 {
        match self.random.below(1024) {
            0 => self.random.below(PAGE) & !3,
            1 => DOORBELLS + (self.random.below(PAGE) & !3),
            2 => CC,
            3 => AQA,
            kind @ 4..8 => ASQ + 4 * (kind - 4),
            8..256 => ADMIN_DOORBELL,
            _ => IO_DOORBELL,
        }
    }

    fn value(&mut self, offset: u64) -> u32 {
        match offset {
            _ if self.random.chance(1, 32) => self.random.bits() as u32,
            CC => self.random.below(4).min(1) as u32,
            AQA => 0x3f_003f,
            ASQ | ACQ => self.address() as u32,
            _ if (ASQ..0x38).contains(&offset) => (START >> 32) as u32,
            _ => self.random.below(66) as u32,
        }
    }
}

const CONTIGUOUS: u64 = 1 << 32;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect(name))
}

/// Which refusals and successes a run has met: a run that meets few shows little.
#[derive(Debug, Default)]
struct Seen {
    admin: u64,
    io: u64,
    again: u64,
    refused: [u64; 5],
    pins: usize,
}

#[test]
fn random_registers_queues_and_doorbells_stay_within_bounds() {
    let (operations, seed) = (number(COUNT, OPERATIONS), number(SEED, 20_261_129));
    let mut guest = Guest {
        random: Random::new(seed),
        words: std::vec![0; WORDS],
        pinned: std::vec![0; PAGES],
        loads: 0,
        pins: 0,
        releases: 0,
    };
    let (mut ans, mut seen) = (Ans::new(), Seen::default());
    for operation in 0..operations {
        (guest.loads, guest.pins, guest.releases) = (0, 0, 0);
        match guest.random.below(8) {
            0 => guest.submission(),
            1 => guest.list(),
            2 => guest.completions(),
            3 => {
                ans.collect(&mut guest);
            }
            _ => {
                let offset = guest.offset();
                let value = guest.value(offset);
                let result = ans.before_store(offset, value, &mut guest);
                note(&mut seen, offset, result);
            }
        }
        seen.pins += guest.pins;
        assert!(guest.loads <= MAX_WORDS, "operation {operation}: {} loads", guest.loads);
        assert!(
            guest.pins <= MAX_PAGES + 2 * MAX_QUEUE_PAGES,
            "operation {operation}: {}",
            guest.pins
        );
        let releases = 2 * MAX_PAGES + 2 * MAX_QUEUE_PAGES;
        assert!(guest.releases <= releases, "operation {operation}: {}", guest.releases);
        if operation % 1024 == 1023 {
            reset(&mut ans, &mut guest);
            if guest.random.chance(3, 4) {
                guest.set_up(&mut ans);
            }
        }
    }
    reset(&mut ans, &mut guest);
    let thousandth = operations / 1000;
    assert!(seen.admin > thousandth && seen.io > thousandth, "{seen:?}");
    assert!(seen.again > thousandth, "{seen:?}");
    assert!(seen.refused.iter().all(|count| *count > thousandth / 10), "{seen:?}");
    assert!(seen.pins as u64 > operations / 10, "{seen:?}");
}

fn note(seen: &mut Seen, offset: u64, result: Result<StoreVerdict, Refusal>) {
    match (offset, result) {
        (_, Ok(StoreVerdict::Again)) => seen.again += 1,
        (ADMIN_DOORBELL, Ok(StoreVerdict::Pass)) => seen.admin += 1,
        (IO_DOORBELL, Ok(StoreVerdict::Pass)) => seen.io += 1,
        (_, Ok(StoreVerdict::Pass)) => {}
        (_, Err(refusal)) => {
            let kind = match refusal {
                Refusal::NoQueue => 0,
                Refusal::NoEntry(_) => 1,
                Refusal::NotMemory(_) => 2,
                Refusal::TooLong(_) => 3,
                Refusal::NotContiguous => 4,
            };
            seen.refused[kind] += 1;
        }
    }
}

/// Resets the controller: every hold is unpinned within a bounded number of traps.
fn reset(ans: &mut Ans, guest: &mut Guest) {
    assert_eq!(ans.before_store(CC, 0, guest), Ok(StoreVerdict::Pass));
    let mut traps = 1;
    while !ans.is_idle() {
        ans.collect(guest);
        traps += 1;
        assert!(traps <= MAX_TRAPS, "pages stay pinned after a reset");
    }
    assert!(guest.pinned.iter().all(|pinned| *pinned == 0), "pages stay pinned after a reset");
}
