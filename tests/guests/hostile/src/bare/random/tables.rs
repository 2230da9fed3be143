//! Each CPU's arena, twice, at one address in TTBR1's half. EL0 and EL1 can access it, and nothing
//! else there.

use oche_guest_common::{Pages, Random};

use crate::bare::stage1::{UPPER, set_upper};

/// CPUs.
pub(super) const CPUS: usize = 4;
/// Pages of an arena that have copies.
pub(super) const COPIED: [usize; 4] = [5, 6, 8, 9];
/// For each CPU, a page of code of its own, and one in which the others replace words.
pub(super) static CODE: Pages<{ 2 * CPUS }> = Pages::new();

/// Pages of an arena: as far as any offset of an instruction leads from [`FIRST`] to [`LAST`] and
/// 64 KiB beyond.
pub(super) const PAGES: usize = 29;
/// Pages that registers point into: the first, and behind the last.
pub(super) const FIRST: u64 = 4;
pub(super) const LAST: u64 = 12;
/// Virtual address of the arena. An index that is its lower half, sign-extended or not, leads out
/// of the arena.
pub(super) const ARENA: u64 = UPPER + 0x8000_0000;
/// Virtual address at which EL0 executes [`CODE`].
pub(super) const USER_CODE: u64 = ARENA + 64 * 4096;

/// Valid, a page, AF, inner shareable, not global.
const PAGE: u64 = 3 | 1 << 10 | 3 << 8 | 1 << 11;
/// `AP`: EL0 too; and read-only.
const USER: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
/// `PXN`, `UXN`.
const NEVER_AT_EL1: u64 = 1 << 53;
const NEVER_AT_EL0: u64 = 1 << 54;

static PLAIN: Pages<{ CPUS * PAGES }> = Pages::new();
static ARENA_WITH_COPIES: Pages<{ CPUS * PAGES }> = Pages::new();
/// Three levels, for each CPU and arena.
static TABLES: Pages<{ CPUS * 2 * 3 }> = Pages::new();

/// Guest-physical address of a page of the arena with copies.
pub(super) fn copied(cpu: usize, page: usize) -> u64 {
    ARENA_WITH_COPIES.address() + ((cpu * PAGES + page) * 4096) as u64
}

pub(super) struct Arena {
    /// The first word of both.
    first: usize,
    /// What TTBR1 is for the plain one, and for that with copies.
    roots: [u64; 2],
}

impl Arena {
    /// Makes the tables.
    pub(super) fn new(cpu: usize) -> Self {
        let roots = [&PLAIN, &ARENA_WITH_COPIES].map(Pages::address);
        let roots = core::array::from_fn(|index| {
            let table = (cpu * 2 + index) * 3;
            let address = |level: usize| TABLES.address() + ((table + level) * 4096) as u64;
            TABLES.set_word(table * 512 + (ARENA >> 30 & 511) as usize, address(1) | 3);
            TABLES.set_word((table + 1) * 512 + (ARENA >> 21 & 511) as usize, address(2) | 3);
            let leaves = (table + 2) * 512;
            for page in 0..PAGES {
                let at = roots[index] + ((cpu * PAGES + page) * 4096) as u64;
                TABLES.set_word(leaves + page, at | PAGE | USER | NEVER_AT_EL0 | NEVER_AT_EL1);
            }
            for page in 0..2 * CPUS {
                let at = CODE.address() + page as u64 * 4096;
                TABLES.set_word(leaves + 64 + page, at | PAGE | USER | READ_ONLY | NEVER_AT_EL1);
            }
            address(0)
        });
        Self { first: cpu * PAGES * 512, roots }
    }

    /// Maps one of the two on this CPU.
    pub(super) fn enter(&self, has_copies: bool) {
        set_upper(self.roots[usize::from(has_copies)]);
    }

    /// Random bytes in both.
    pub(super) fn fill(&self, random: &mut Random) {
        for word in self.words() {
            let value = random.next();
            PLAIN.set_word(word, value);
            ARENA_WITH_COPIES.set_word(word, value);
        }
    }

    /// The offset of the first word in which they differ.
    pub(super) fn difference(&self) -> Option<usize> {
        let different =
            self.words().find(|word| PLAIN.word(*word) != ARENA_WITH_COPIES.word(*word))?;
        Some((different - self.first) * 8)
    }

    /// Copies the arena with copies to the plain one.
    pub(super) fn make_equal(&self) {
        for word in self.words() {
            let value = ARENA_WITH_COPIES.word(word);
            if PLAIN.word(word) != value {
                PLAIN.set_word(word, value);
            }
        }
    }

    fn words(&self) -> core::ops::Range<usize> {
        self.first..self.first + PAGES * 512
    }
}

const _: () = assert!(COPIED[0] as u64 > FIRST && (COPIED[3] as u64) < LAST);
