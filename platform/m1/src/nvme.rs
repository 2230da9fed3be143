//! The M1's NVMe controller (ANS), which no DART translates: which pages a command names, and when it has done with them.
//!
//! The driver fills a submission entry and writes its number to a doorbell; that store traps. The pages that the entry
//! names are brought home and held there until the completion queue says that the command is done, which is looked at in the
//! next trap of a doorbell or of a DART, whichever comes first. So a command costs one trap, and nothing else is
//! trapped in steady state: the completion's registers lie in another page. Source:
//! Linux 6.1 `drivers/nvme/host/apple.c`, U-Boot `drivers/nvme/nvme_apple.c`; NVM Express Base Specification 1.4, 3.1,
//! 4.1 to 4.4, 4.6, 5.3 and 5.4.

use alloc::vec::Vec;

use oche_hyp::addr::Gfn;

/// Registers that trap, in the page at offset 0: `CC`, `AQA`, `ASQ`, `ACQ`, used when the controller is set up.
pub const SETUP: u64 = 0;
/// The page with the doorbells.
pub const DOORBELLS: u64 = 0x2_4000;
/// Doorbells, from the controller's start: a store is the number of a submission entry.
const ADMIN_DOORBELL: u64 = 0x2_490c;
const IO_DOORBELL: u64 = 0x2_4910;
/// `CC`: bit 0 enables the controller.
const CC: u64 = 0x14;
/// `AQA`: entries less one, of the submission queue in bits 11:0, of the completion queue in 27:16.
const AQA: u64 = 0x24;
/// `ASQ` and `ACQ`: where the admin queues are, 64 bits each.
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
/// Bytes of a submission and of a completion entry.
const SUBMISSION_BYTES: u64 = 64;
const COMPLETION_BYTES: u64 = 16;
/// Commands of one queue. Source: Linux, `APPLE_ANS_MAX_QUEUE_DEPTH`.
const MOST_COMMANDS: usize = 64;
/// Pages that one command names: 4 MiB, an offset, and the lists. Source: Linux `nvme.h`, `NVME_MAX_KB_SZ` of that driver.
const MOST_PAGES: usize = 1024 + 8;
/// A block is taken to be this long, in bytes, as it is on Apple's disks. With shorter ones more entries of a list are looked at
/// than the command has, and what they happen to name stays home meanwhile.
const BLOCK_BYTES: u64 = 4096;
const PAGE: u64 = 4096;

/// Upper bound of the heap that [`Ans`] uses, in bytes.
pub const HEAP_BYTES: u64 = (2 * MOST_COMMANDS * MOST_PAGES * 4).next_power_of_two() as u64;

/// What the controller stands on.
pub trait Machine {
    /// A 32-bit register of the controller.
    fn register(&self, offset: u64) -> u32;
    /// The aligned 64-bit word at guest-physical `address`; `None`: not the guest's memory.
    fn word(&mut self, address: u64) -> Option<u64>;
    /// Has `page` be at home until it is released as often.
    fn hold(&mut self, page: Gfn);
    /// The controller has done with `page`.
    fn release(&mut self, page: Gfn);
}

/// Is told of an address that a command names, and says whether there is room for more.
type Name<'a, M> = dyn FnMut(&mut M, u64) -> bool + 'a;

/// What is under way.
#[derive(Debug)]
pub struct Ans {
    admin: Queue,
    io: Queue,
}

#[derive(Debug, Default)]
struct Queue {
    /// Where submission entries are, and completion entries with how many there are; 0: not known.
    submissions: u64,
    completions: u64,
    entries: u64,
    /// The completion entry that is written next, and its phase.
    head: u64,
    phase: bool,
    /// By the submission entry's number.
    commands: Vec<Command>,
    /// Pages of the queues themselves.
    own: Vec<Gfn>,
}

#[derive(Clone, Debug, Default)]
struct Command {
    is_under_way: bool,
    id: u16,
    pages: Vec<Gfn>,
}

impl Default for Ans {
    fn default() -> Self {
        Self::new()
    }
}

impl Ans {
    /// Nothing is under way. Allocates all that is ever needed.
    pub fn new() -> Self {
        let command = || Command { pages: Vec::with_capacity(MOST_PAGES), ..Command::default() };
        let queue = || Queue {
            phase: true,
            commands: (0..MOST_COMMANDS).map(|_| command()).collect(),
            own: Vec::with_capacity(16),
            ..Queue::default()
        };
        Self { admin: queue(), io: queue() }
    }

    /// The guest is about to store `value` at `offset` of the controller's registers.
    pub fn before_store(&mut self, offset: u64, value: u32, machine: &mut impl Machine) {
        self.collect(machine);
        match offset {
            CC if value & 1 == 0 => {
                self.admin.forget(machine);
                self.io.forget(machine);
            }
            ADMIN_DOORBELL => self.submit_admin(value, machine),
            IO_DOORBELL => self.io.submit(value, machine, data_pages),
            _ => {}
        }
    }

    /// Releases what commands named that are done by now.
    pub fn collect(&mut self, machine: &mut impl Machine) {
        self.admin.collect(machine);
        self.io.collect(machine);
    }

    fn submit_admin(&mut self, number: u32, machine: &mut impl Machine) {
        if self.admin.submissions == 0 {
            let wide = |at: u64, machine: &mut _| {
                u64::from(Machine::register(machine, at))
                    | u64::from(Machine::register(machine, at + 4)) << 32
            };
            let sizes = machine.register(AQA);
            let (submissions, completions) = (wide(ASQ, machine), wide(ACQ, machine));
            self.admin.place_submissions(submissions, u64::from(sizes & 0xfff) + 1, machine);
            self.admin.place_completions(completions, u64::from(sizes >> 16 & 0xfff) + 1, machine);
        }
        self.admin.submit(number, machine, two_pages);
        let Some(entry) = self.admin.entry(number) else { return };
        let mut word = |index: u64| machine.word(entry + 8 * index).unwrap_or(0);
        let (opcode, place, size) = (word(0) & 0xff, word(3), word(5));
        let (number, entries) = (size & 0xffff, (size >> 16 & 0xffff) + 1);
        match (opcode, number) {
            // Create I/O Submission Queue, Create I/O Completion Queue.
            (0x01, 1) => self.io.place_submissions(place, entries, machine),
            (0x05, 1) => self.io.place_completions(place, entries, machine),
            _ => {}
        }
    }
}

impl Queue {
    fn place_submissions(&mut self, at: u64, entries: u64, machine: &mut impl Machine) {
        self.submissions = at;
        self.keep(at, entries * SUBMISSION_BYTES, machine);
    }

    fn place_completions(&mut self, at: u64, entries: u64, machine: &mut impl Machine) {
        (self.completions, self.entries, self.head, self.phase) = (at, entries, 0, true);
        self.keep(at, entries * COMPLETION_BYTES, machine);
    }

    /// The queue's own pages stay home until the controller is set up anew.
    fn keep(&mut self, at: u64, bytes: u64, machine: &mut impl Machine) {
        for page in (at & !(PAGE - 1)..at.saturating_add(bytes)).step_by(PAGE as usize).take(8) {
            if let Some(page) = Gfn::containing(page).filter(|_| self.own.len() < self.own.capacity()) {
                machine.hold(page);
                self.own.push(page);
            }
        }
    }

    fn entry(&self, number: u32) -> Option<u64> {
        let is_known = self.submissions != 0 && (number as usize) < MOST_COMMANDS;
        is_known.then(|| self.submissions.wrapping_add(u64::from(number) * SUBMISSION_BYTES))
    }

    /// Submission entry `number` is about to be given to the controller.
    fn submit<M: Machine>(&mut self, number: u32, machine: &mut M, pages: fn(u64, &mut M, &mut Name<'_, M>)) {
        let Some(entry) = self.entry(number) else { return };
        let Some(command) = self.commands.get_mut(number as usize) else { return };
        command.end(machine);
        command.id = (machine.word(entry).unwrap_or(0) >> 16) as u16;
        command.is_under_way = true;
        let held = &mut command.pages;
        pages(entry, machine, &mut |machine, address| {
            let has_room = held.len() < MOST_PAGES;
            if let Some(page) = Gfn::containing(address).filter(|_| has_room) {
                machine.hold(page);
                held.push(page);
            }
            has_room
        });
    }

    fn collect(&mut self, machine: &mut impl Machine) {
        if self.completions == 0 {
            return;
        }
        for _ in 0..self.entries.min(MOST_COMMANDS as u64 * 2) {
            // Its upper half: identifier in bits 47:32, phase in bit 48.
            let at = self.completions.wrapping_add(self.head * COMPLETION_BYTES + 8);
            let Some(word) = machine.word(at) else { return };
            if (word >> 48 & 1 != 0) != self.phase {
                return;
            }
            let id = (word >> 32) as u16;
            if let Some(command) = self.commands.iter_mut().find(|one| one.is_under_way && one.id == id) {
                command.end(machine);
            }
            self.head += 1;
            if self.head >= self.entries {
                (self.head, self.phase) = (0, !self.phase);
            }
        }
    }

    /// The controller is being reset.
    fn forget(&mut self, machine: &mut impl Machine) {
        self.commands.iter_mut().for_each(|command| command.end(machine));
        self.own.drain(..).for_each(|page| machine.release(page));
        (self.submissions, self.completions, self.entries) = (0, 0, 0);
    }
}

impl Command {
    fn end(&mut self, machine: &mut impl Machine) {
        self.is_under_way = false;
        self.pages.drain(..).for_each(|page| machine.release(page));
    }
}

/// `PRP1` and `PRP2` as pages.
fn two_pages<M: Machine>(entry: u64, machine: &mut M, name: &mut Name<'_, M>) {
    for word in [3, 4] {
        let address = machine.word(entry + 8 * word).unwrap_or(0);
        if address != 0 {
            name(machine, address);
        }
    }
}

/// The same, and what a list at `PRP2` names. A list's last entry leads to the next list where more follow.
fn data_pages<M: Machine>(entry: u64, machine: &mut M, name: &mut Name<'_, M>) {
    two_pages(entry, machine, name);
    let mut word = |index: u64| machine.word(entry + 8 * index).unwrap_or(0);
    let (opcode, first, list, blocks) = (word(0) & 0xff, word(3), word(4), (word(6) & 0xffff) + 1);
    // Write, Read, Compare.
    if !matches!(opcode, 0x01 | 0x02 | 0x05) || first == 0 {
        return;
    }
    let mut left = (first % PAGE + blocks * BLOCK_BYTES).div_ceil(PAGE) - 1;
    if left < 2 {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const QUEUE: u64 = 0x8_1000_0000;
    const IO: u64 = 0x8_1000_4000;

    #[derive(Default)]
    struct Model {
        registers: BTreeMap<u64, u32>,
        words: BTreeMap<u64, u64>,
        held: BTreeMap<Gfn, i32>,
    }

    impl Machine for Model {
        fn register(&self, offset: u64) -> u32 {
            self.registers.get(&offset).copied().unwrap_or(0)
        }
        fn word(&mut self, address: u64) -> Option<u64> {
            (address >= 0x8_0000_0000).then(|| self.words.get(&address).copied().unwrap_or(0))
        }
        fn hold(&mut self, page: Gfn) {
            *self.held.entry(page).or_default() += 1;
        }
        fn release(&mut self, page: Gfn) {
            let count = self.held.entry(page).or_default();
            *count -= 1;
            assert!(*count >= 0, "{page:?} is released and was not held");
        }
    }

    impl Model {
        fn is_held(&self, address: u64) -> bool {
            self.held.get(&Gfn((address >> 12) as u32)).is_some_and(|count| *count > 0)
        }

        fn submission(&mut self, at: u64, words: [u64; 7]) {
            words.iter().enumerate().for_each(|(index, word)| {
                self.words.insert(at + 8 * index as u64, *word);
            });
        }
    }

    /// A controller with both queues set up, as Linux does it.
    fn ready() -> (Model, Ans) {
        let (mut model, mut ans) = (Model::default(), Ans::new());
        model.registers.extend([(AQA, 1 << 16 | 1), (ASQ, QUEUE as u32), (ASQ + 4, 8)]);
        model.registers.extend([(ACQ, QUEUE as u32 + 0x1000), (ACQ + 4, 8)]);
        model.submission(QUEUE, [0x05, 0, 0, IO + 0x1000, 0, 63 << 16 | 1, 0]);
        ans.before_store(ADMIN_DOORBELL, 0, &mut model);
        model.submission(QUEUE + 64, [0x1_0001, 0, 0, IO, 0, 63 << 16 | 1, 0]);
        ans.before_store(ADMIN_DOORBELL, 1, &mut model);
        (model, ans)
    }

    #[test]
    fn the_queues_themselves_stay_home_until_the_controller_is_reset() {
        let (mut model, mut ans) = ready();
        for page in [QUEUE, QUEUE + 0x1000, IO, IO + 0x1000] {
            assert!(model.is_held(page), "{page:#x}");
        }
        ans.before_store(CC, 0, &mut model);
        assert!(model.held.values().all(|count| *count == 0));
    }

    #[test]
    fn a_commands_pages_are_held_until_its_completion_is_there() {
        let (mut model, mut ans) = ready();
        let (first, second) = (0x8_2000_0200, 0x8_2100_0000);
        model.submission(IO + 3 * 64, [7 << 16 | 2, 0, 0, first, second, 0, 0]);
        ans.before_store(IO_DOORBELL, 3, &mut model);
        assert!(model.is_held(first) && model.is_held(second));
        model.words.insert(IO + 0x1008, 1 << 48 | 6 << 32);
        ans.collect(&mut model);
        assert!(model.is_held(first), "another command's completion");
        model.words.insert(IO + 0x1018, 1 << 48 | 7 << 32);
        ans.collect(&mut model);
        assert!(!model.is_held(first) && !model.is_held(second));
        ans.collect(&mut model);
    }

    #[test]
    fn lists_are_followed_from_page_to_page() {
        let (mut model, mut ans) = ready();
        let (list, next) = (0x8_3000_0fe8, 0x8_3100_0000);
        let page = |index: u64| 0x8_4000_0000 + index * 0x2000;
        // Six blocks: the first page, then two entries, the way on, and three more.
        model.submission(IO, [2, 0, 0, page(0), list, 0, 5]);
        for (index, address) in [page(1), page(2), next].into_iter().enumerate() {
            model.words.insert(list + 8 * index as u64, address);
        }
        for index in 0..4 {
            model.words.insert(next + 8 * index, page(3 + index));
        }
        ans.before_store(IO_DOORBELL, 0, &mut model);
        assert!((0..6).all(|index| model.is_held(page(index))));
        assert!(model.is_held(list) && model.is_held(next));
        assert!(!model.is_held(page(6)), "it is not the command's");
    }

    #[test]
    fn a_command_that_names_anything_at_all_ends_within_its_bound() {
        let (mut model, mut ans) = ready();
        // A list that leads to itself.
        model.submission(IO, [1, 0, 0, u64::MAX, 0x8_5000_0ff8, 0, 0xffff]);
        model.words.insert(0x8_5000_0ff8, 0x8_5000_0ff8);
        ans.before_store(IO_DOORBELL, 0, &mut model);
        ans.before_store(IO_DOORBELL, u32::MAX, &mut model);
        ans.before_store(IO_DOORBELL, 0, &mut model);
        assert!(model.held.values().sum::<i32>() <= (MOST_PAGES + 8) as i32);
        ans.before_store(CC, 0, &mut model);
        assert!(model.held.values().all(|count| *count == 0));
    }
}
