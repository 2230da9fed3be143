//! Random accesses to every register of the engine's DARTs: any offset, width and value, in any
//! order, with tables of random entries. Reads are compared with the reference; nothing may panic,
//! no contract may break, no command may be busy for ever, and in the end every page is at home.

use crate::reference::{encode_leaf, encode_table};
use oche_engine::{AccessKind, Configuration, Engine, FaultDisposition, Isolation};
use oche_reference::registers::{
    BUSY, CONFIG, Dart, ERROR, ERROR_FLAG, INVALIDATE, LOCK, PARAMS1, PARAMS2, STREAM_COMMAND,
    STREAM_SELECT, STREAMS, STREAMS_ENABLE, TCR, TTBR, is_register_access,
};
use oche_sim::access::CpuResult;
use oche_sim::access::Data;
use oche_sim::machine::SimulatedMachine;
use oche_sim::memory::FormerWords;
use oche_sim::random::{Random, mix};
use oche_sim::setup::{Board, Layout, Options};
use oche_types::addr::{Gfn, HostGranule};
use oche_types::dart::stream::DartId;

/// Accesses from one reset to the next.
pub const PROGRAM_ACCESSES: u64 = 1000;
/// Reads of a busy command before it counts as hung.
const MAX_POLLS: u32 = 20_000;
const DARTS: usize = 3;
const RAM: Gfn = Gfn(0x4_0000);
const PAGES: u32 = 96;
/// Pages of RAM that hold tables: some are named as such, all have entries.
const TABLES: u32 = 24;

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accesses to registers.
    pub accesses: u64,
    /// Those that no register answers.
    pub refused: u64,
    /// Reads that the reference answers as well.
    pub compared: u64,
    /// Commands to invalidate.
    pub commands: u64,
    /// Stores of CPUs into tables.
    pub stores: u64,
    /// Pages that were found away from home while streams were on.
    pub away: u64,
}

/// Runs `accesses` accesses that follow from `seed`; `progress` is called after each thousand.
///
/// # Errors
///
/// What is wrong, with the number of the program.
pub fn run(accesses: u64, seed: u64, mut progress: impl FnMut(&Counts)) -> Result<Counts, String> {
    let mut counts = Counts::default();
    for number in 0..accesses.div_ceil(PROGRAM_ACCESSES) {
        let length = PROGRAM_ACCESSES.min(accesses - number * PROGRAM_ACCESSES);
        let seed = mix(seed ^ mix(number));
        let done = if seed & 1 == 0 {
            Wild::<true>::new(seed).run(length, &mut counts)
        } else {
            Wild::<false>::new(seed).run(length, &mut counts)
        };
        done.map_err(|what| format!("program {number}: {what}"))?;
        progress(&counts);
    }
    Ok(counts)
}

struct Wild<const C: bool> {
    host: SimulatedMachine<C>,
    engine: Engine,
    reference: Vec<Dart>,
    random: Random,
}

impl<const C: bool> Wild<C> {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let frames = if random.chance(1, 4) { 24 } else { 512 };
        let layout = Layout {
            ram: vec![(RAM, PAGES)],
            pool: HostGranule(0x2_0000)..HostGranule(0x2_0000 + frames),
        };
        let options = Options {
            board: if random.chance(1, 2) { Board::Dart } else { Board::Smmu },
            has_windows: random.chance(1, 2),
            scarce_tables: 0,
            timeouts: 0,
            poisons_homes: true,
            injection: None,
        };
        let mut host = SimulatedMachine::new(
            &layout,
            options,
            3,
            DARTS,
            random.bits(),
            FormerWords::default(),
        );
        (0..PAGES).for_each(|page| host.initialize(Gfn(RAM.0 + page)));
        let ram = [RAM..Gfn(RAM.0 + PAGES)];
        let configuration = Configuration {
            darts: DARTS,
            ram: &ram,
            pool: layout.pool.clone(),
            isolation: if random.chance(1, 3) { Isolation::Strict } else { Isolation::Page },
        };
        let engine = Engine::new(&configuration, &mut host);
        Self { host, engine, reference: vec![Dart::default(); DARTS], random }
    }

    fn run(mut self, accesses: u64, counts: &mut Counts) -> Result<(), String> {
        for table in 0..TABLES {
            for _ in 0..24 {
                self.store_entry(Gfn(RAM.0 + table), counts)?;
            }
        }
        for _ in 0..accesses {
            counts.accesses += 1;
            let dart = self.random.index(DARTS);
            let (offset, bytes) = (self.offset(), self.width());
            if self.random.chance(1, 3) {
                self.read(dart, offset, bytes, counts)?;
            } else {
                let value = self.value();
                self.write(dart, offset, bytes, value, counts)?;
            }
            if self.random.chance(1, 6) {
                let table = Gfn(RAM.0 + self.random.below(TABLES.into()) as u32);
                self.store_entry(table, counts)?;
            }
            if self.random.chance(1, 64) {
                self.poll(dart)?;
            }
            self.check()?;
        }
        self.finish(counts)
    }

    fn offset(&mut self) -> u64 {
        let index = self.random.bits();
        match self.random.below(16) {
            0 | 1 => STREAM_COMMAND,
            2 | 3 => STREAM_SELECT,
            4 => STREAMS_ENABLE,
            5 | 6 => TCR + 4 * (index % STREAMS as u64),
            7..=9 => TTBR + 4 * (index % (4 * STREAMS as u64)),
            10 => [PARAMS1, PARAMS2, ERROR, ERROR + 0x10, ERROR + 0x14][index as usize % 5],
            11 if self.random.chance(1, 40) => CONFIG,
            12 => index % 0x300,
            13 => index % 0x5000,
            14 => index,
            _ => index % (0x300 / 4) * 4,
        }
    }

    fn width(&mut self) -> usize {
        if self.random.chance(7, 8) {
            4
        } else {
            [0, 1, 2, 3, 8, 16, usize::MAX][self.random.index(7)]
        }
    }

    fn value(&mut self) -> u32 {
        let bits = self.random.bits() as u32;
        let table = 1 << 31 | (RAM.0 + bits % TABLES);
        [0, u32::MAX, bits, table, table, INVALIDATE, INVALIDATE, 0x80, 0xffff, bits | 1 << 31]
            [self.random.index(10)]
    }

    fn read(
        &mut self,
        dart: usize,
        offset: u64,
        bytes: usize,
        counts: &mut Counts,
    ) -> Result<(), String> {
        let answer = self.engine.read(&mut self.host, name(dart), offset, bytes);
        if answer.is_ok() != is_register_access(offset, bytes) {
            return Err(format!("a read of {bytes} bytes at {offset:#x} ends with {answer:x?}"));
        }
        let Ok(found) = answer else {
            counts.refused += 1;
            return Ok(());
        };
        let mask = match offset {
            // Only the fields that drivers look at are documented.
            PARAMS1 => 0x0f00_0000,
            PARAMS2 => 1,
            STREAM_COMMAND => 0,
            STREAM_SELECT | STREAMS_ENABLE => 0xffff,
            CONFIG => LOCK,
            ERROR => ERROR_FLAG,
            _ => u32::MAX,
        };
        match self.reference[dart].read(offset) {
            Some(expected) if (found ^ expected) & mask != 0 => Err(format!(
                "register {offset:#x} of DART {dart} reads {found:#x}, not {expected:#x}"
            )),
            Some(_) => {
                counts.compared += 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn write(
        &mut self,
        dart: usize,
        offset: u64,
        bytes: usize,
        value: u32,
        counts: &mut Counts,
    ) -> Result<(), String> {
        let done = self.engine.write(&mut self.host, name(dart), offset, bytes, value);
        if done.is_ok() != is_register_access(offset, bytes) {
            return Err(format!("a write of {bytes} bytes at {offset:#x} ends with {done:?}"));
        }
        if done.is_err() {
            counts.refused += 1;
            return Ok(());
        }
        counts.commands += u64::from(offset == STREAM_COMMAND && value & INVALIDATE != 0);
        self.reference[dart].write(offset, value);
        Ok(())
    }

    /// A CPU stores an entry into a table: of a page, of a table, or of anything.
    fn store_entry(&mut self, table: Gfn, counts: &mut Counts) -> Result<(), String> {
        let target = Gfn(RAM.0 + self.random.below(PAGES.into()) as u32);
        let bits = self.random.bits();
        let entry = match self.random.below(8) {
            0 => 0,
            1 => bits,
            2 | 3 => encode_table(Gfn(RAM.0 + bits as u32 % TABLES)),
            4 => encode_leaf(target, true, true) ^ bits & 0xfff0_0000_0000_0180,
            _ => encode_leaf(target, bits & 1 == 0, bits & 2 == 0),
        };
        let offset = self.random.index(512) / if self.random.chance(1, 2) { 16 } else { 1 } * 8;
        counts.stores += 1;
        let cpu = self.random.index(self.host.cpu_count());
        for _ in 0..4 {
            match self.host.cpu_store(cpu, table, offset, &Data::new(&entry.to_le_bytes())) {
                CpuResult::Stored => return Ok(()),
                CpuResult::ReadOnly | CpuResult::NoAccess => {
                    match self.engine.access_trapped(
                        &mut self.host,
                        table.address(),
                        AccessKind::Store,
                    ) {
                        FaultDisposition::Emulate(page) => {
                            self.engine.store_trapped(&mut self.host, page, offset, 8, entry);
                            return Ok(());
                        }
                        FaultDisposition::Retry => {}
                        FaultDisposition::NotGuestMemory => {
                            return Err(format!("{table:?} is not the guest's"));
                        }
                    }
                }
                result => return Err(format!("a CPU's store to {table:?} ends with {result:?}")),
            }
        }
        Err(format!("a CPU's store to {table:?} traps again and again"))
    }

    /// A command comes to its end.
    fn poll(&mut self, dart: usize) -> Result<(), String> {
        for _ in 0..MAX_POLLS {
            let value = self.engine.read(&mut self.host, name(dart), STREAM_COMMAND, 4);
            if value.map_err(|error| format!("a command reads {error:?}"))? & BUSY == 0 {
                return self.check();
            }
        }
        Err(String::from("a command is busy without end"))
    }

    fn check(&mut self) -> Result<(), String> {
        self.host.check_settled();
        self.host.events.clear();
        self.host
            .take_violation()
            .map_or(Ok(()), |violation| Err(format!("broken contract: {violation}")))
    }

    /// Streams stop, commands end: nothing may be left away from home, or changed.
    fn finish(mut self, counts: &mut Counts) -> Result<(), String> {
        let pages = || (0..PAGES).map(|page| Gfn(RAM.0 + page));
        counts.away +=
            pages().filter(|page| self.engine.locate(*page) != page.home()).count() as u64;
        for dart in 0..DARTS {
            // A locked DART can still have its streams switched off.
            for (offset, value) in
                [(STREAMS_ENABLE, 0), (STREAM_SELECT, 0xffff), (STREAM_COMMAND, INVALIDATE)]
            {
                self.write(dart, offset, 4, value, counts)?;
            }
            self.poll(dart)?;
        }
        if let Some(page) = pages().find(|page| self.engine.locate(*page) != page.home()) {
            return Err(format!(
                "no stream is on, and {page:?} is at {:?}",
                self.engine.locate(page)
            ));
        }
        let changed = pages().skip(TABLES as usize).find(|page| !self.is_initial(*page));
        if let Some(page) = changed {
            return Err(format!("no one wrote to {page:?}, and its bytes have changed"));
        }
        Ok(())
    }

    fn is_initial(&self, page: Gfn) -> bool {
        self.host
            .view(page)
            .is_some_and(|words| words.iter().copied().eq(oche_sim::machine::initial_words(page)))
    }
}

fn name(dart: usize) -> DartId {
    DartId::new(dart).expect("a machine has fewer DARTs than that")
}

#[cfg(test)]
mod tests {
    use super::run;

    #[test]
    fn c6_every_register_access_of_any_width_and_value_is_answered_or_refused() {
        let counts = run(20_000, 1, |_| ()).unwrap();
        assert!(
            counts.refused > 1000 && counts.compared > 1000 && counts.commands > 100,
            "{counts:?}"
        );
        assert!(counts.away > 20, "streams must have been on: {counts:?}");
    }

    #[test]
    fn a_run_follows_from_its_seed_alone() {
        assert_eq!(run(3000, 7, |_| ()), run(3000, 7, |_| ()));
        assert_ne!(run(3000, 7, |_| ()), run(3000, 8, |_| ()));
    }
}
