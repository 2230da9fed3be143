//! One pair of queues: where they are, which commands are under way, and what is pinned for them.

use alloc::vec::Vec;

use oche_types::addr::Gfn;

use super::interface::{
    Entry, MAX_COMMANDS, MAX_PAGES, MAX_QUEUE_PAGES, Name, NvmeHost, PAGE, Refusal, StoreVerdict,
};

/// Bytes of a submission and of a completion entry.
const SUBMISSION_BYTES: u64 = 64;
const COMPLETION_BYTES: u64 = 16;

/// Where the guest places one half of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) at: u64,
    pub(super) entries: u64,
}

/// A submission queue and the completion queue that goes with it.
#[derive(Debug)]
pub(super) struct Queue {
    submissions: Half,
    completions: Half,
    /// The completion entry that is written next, and its phase.
    head: u64,
    phase: bool,
    /// By the submission entry's number.
    commands: Vec<Command>,
}

/// One half of a queue.
#[derive(Debug)]
struct Half {
    at: u64,
    /// 0: there is no such queue.
    entries: u64,
    /// Its pages.
    pages: PinnedPages,
}

#[derive(Debug)]
struct Command {
    state: State,
    /// As it was when its doorbell was rung first.
    entry: Entry,
    /// The pages that it names. Some may stay pinned for a while after it is done.
    pages: PinnedPages,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The controller has finished with it.
    Done,
    /// Its doorbell was rung and has not reached the controller: not all of its pages are pinned
    /// yet.
    Beginning,
    /// The controller has it.
    UnderWay,
}

/// Pages, of which the first are pinned.
#[derive(Debug)]
struct PinnedPages {
    pages: Vec<Gfn>,
    count: usize,
}

impl PinnedPages {
    fn new(capacity: usize) -> Self {
        Self { pages: Vec::with_capacity(capacity), count: 0 }
    }

    /// Pins more of them, as many as one trap may. Returns whether all are pinned.
    fn pin(&mut self, machine: &mut impl NvmeHost) -> bool {
        if let Some(left @ [_, ..]) = self.pages.get(self.count..) {
            self.count += machine.pin(left).min(left.len());
        }
        self.count == self.pages.len()
    }

    /// Unpins as many as one trap may, at most `limit`. Returns how many.
    fn give_back(&mut self, limit: usize, machine: &mut impl NvmeHost) -> usize {
        self.pages.truncate(self.count);
        let count = match self.pages.get(..self.count.min(limit)) {
            Some(pages @ [_, ..]) => machine.unpin(pages).min(pages.len()),
            _ => 0,
        };
        self.pages.drain(..count);
        self.count = self.pages.len();
        count
    }

    /// As [`Self::give_back`], at most `left` of what one trap may unpin. `left` becomes 0 where
    /// the machine stops.
    fn give_back_within(&mut self, left: &mut usize, machine: &mut impl NvmeHost) {
        let wanted = self.count.min(*left);
        let count = self.give_back(wanted, machine);
        *left = if count < wanted { 0 } else { *left - count };
    }
}

impl Queue {
    pub(super) fn new() -> Self {
        let half = || Half { at: 0, entries: 0, pages: PinnedPages::new(MAX_QUEUE_PAGES) };
        let command =
            || Command { state: State::Done, entry: [0; 8], pages: PinnedPages::new(MAX_PAGES) };
        Self {
            submissions: half(),
            completions: half(),
            head: 0,
            phase: true,
            commands: (0..MAX_COMMANDS).map(|_| command()).collect(),
        }
    }

    /// Whether both halves are known.
    pub(super) fn exists(&self) -> bool {
        self.submissions.entries != 0 && self.completions.entries != 0
    }

    /// Whether nothing is pinned.
    pub(super) fn is_idle(&self) -> bool {
        let commands = self.commands.iter().map(|command| &command.pages);
        commands
            .chain([&self.submissions.pages, &self.completions.pages])
            .all(|pinned| pinned.count == 0)
    }

    pub(super) fn create_submissions(
        &mut self,
        place: Place,
        machine: &mut impl NvmeHost,
    ) -> Result<(), Refusal> {
        self.submissions.create(place, SUBMISSION_BYTES, machine)
    }

    pub(super) fn create_completions(
        &mut self,
        place: Place,
        machine: &mut impl NvmeHost,
    ) -> Result<(), Refusal> {
        (self.head, self.phase) = (0, true);
        self.completions.create(place, COMPLETION_BYTES, machine)
    }

    /// Submission entry `number`, as it is now.
    pub(super) fn entry(&self, number: u32, machine: &mut impl NvmeHost) -> Result<Entry, Refusal> {
        if !self.exists() {
            return Err(Refusal::NoQueue);
        }
        if u64::from(number) >= self.submissions.entries || number as usize >= MAX_COMMANDS {
            return Err(Refusal::NoEntry(number));
        }
        // In a page that `create` has checked.
        let at = self.submissions.at + u64::from(number) * SUBMISSION_BYTES;
        let mut entry: Entry = [0; 8];
        for (index, word) in entry.iter_mut().enumerate() {
            *word = machine.word(at + 8 * index as u64).ok_or(Refusal::NotMemory(at))?;
        }
        Ok(entry)
    }

    /// The `entry` with this `number` is about to be given to the controller: pins the pages that
    /// `pages` finds in it.
    pub(super) fn submit<M: NvmeHost>(
        &mut self,
        number: u32,
        entry: &Entry,
        machine: &mut M,
        pages: fn(&Entry, &mut M, &mut Name<'_, M>),
    ) -> Result<StoreVerdict, Refusal> {
        let command = self.commands.get_mut(number as usize).ok_or(Refusal::NoEntry(number))?;
        if command.state != State::Beginning || command.entry != *entry {
            command.state = State::Done;
            command.pages.give_back(MAX_PAGES, machine);
            if command.pages.count != 0 {
                return Ok(StoreVerdict::Again);
            }
            (command.state, command.entry) = (State::Beginning, *entry);
            command.name(machine, pages);
        }
        if !command.pages.pin(machine) {
            return Ok(StoreVerdict::Again);
        }
        command.state = State::UnderWay;
        Ok(StoreVerdict::Pass)
    }

    /// Takes note of the commands that are done. Returns whether there were any: then the loads
    /// that follow are not yet ordered behind those of the completions.
    pub(super) fn collect(&mut self, machine: &mut impl NvmeHost) -> bool {
        let mut found = false;
        for _ in 0..self.completions.entries.min(2 * MAX_COMMANDS as u64) {
            // Its upper half: identifier in bits 47:32, phase in bit 48.
            let at = self.completions.at + self.head * COMPLETION_BYTES + 8;
            let word = machine.word(at);
            let word =
                word.expect("invariant: a queue that was created lies in the guest's memory");
            if (word >> 48 & 1 != 0) != self.phase {
                break;
            }
            found = true;
            let id = (word >> 32) as u16;
            let is_it = |one: &&mut Command| one.state == State::UnderWay && one.id() == id;
            if let Some(command) = self.commands.iter_mut().find(is_it) {
                command.state = State::Done;
            }
            self.head += 1;
            if self.head >= self.completions.entries {
                (self.head, self.phase) = (0, !self.phase);
            }
        }
        found
    }

    /// Releases pages of commands that are done and of queues that are gone, at most `left` of what
    /// one trap may.
    pub(super) fn unpin(&mut self, left: &mut usize, machine: &mut impl NvmeHost) {
        for half in [&mut self.submissions, &mut self.completions] {
            if half.entries == 0 {
                half.pages.give_back_within(left, machine);
            }
        }
        for command in self.commands.iter_mut().filter(|command| command.state == State::Done) {
            command.pages.give_back_within(left, machine);
        }
    }

    /// The controller did not get the command with this `number`.
    pub(super) fn give_up(&mut self, number: u32) {
        if let Some(command) = self.commands.get_mut(number as usize) {
            command.state = State::Done;
        }
    }

    /// The controller knows neither queues nor commands any more.
    pub(super) fn forget(&mut self) {
        self.commands.iter_mut().for_each(|command| command.state = State::Done);
        (self.submissions.entries, self.completions.entries) = (0, 0);
    }
}

impl Half {
    /// Places the queue at `place`, and pins its pages at home.
    fn create(
        &mut self,
        place: Place,
        entry_bytes: u64,
        machine: &mut impl NvmeHost,
    ) -> Result<(), Refusal> {
        self.entries = 0;
        // A queue has at most eight pages.
        while self.pages.give_back(MAX_QUEUE_PAGES, machine) != 0 {}
        let bytes = place.entries * entry_bytes;
        if bytes > MAX_QUEUE_PAGES as u64 * PAGE {
            return Err(Refusal::TooLong(place.entries));
        }
        let not_memory = Refusal::NotMemory(place.at);
        let end = place
            .at
            .checked_add(bytes)
            .filter(|_| place.at.is_multiple_of(PAGE))
            .ok_or(not_memory)?;
        for at in (place.at..end).step_by(PAGE as usize) {
            let page = Gfn::containing(at).filter(|_| machine.word(at).is_some());
            let Some(page) = page else {
                self.pages.pages.clear();
                return Err(not_memory);
            };
            self.pages.pages.push(page);
        }
        while !self.pages.pin(machine) {}
        (self.at, self.entries) = (place.at, place.entries);
        Ok(())
    }
}

impl Command {
    fn id(&self) -> u16 {
        (self.entry[0] >> 16) as u16
    }

    /// Lists what `pages` finds in the entry, each page once.
    fn name<M: NvmeHost>(&mut self, machine: &mut M, pages: fn(&Entry, &mut M, &mut Name<'_, M>)) {
        let named = &mut self.pages.pages;
        // Addresses without a page count too: the guest chooses the length of a list.
        let mut left = MAX_PAGES;
        pages(&self.entry, machine, &mut |_, address| {
            if left != 0 {
                left -= 1;
                named.extend(Gfn::containing(address));
            }
            left != 0
        });
        named.sort_unstable();
        named.dedup();
    }
}
