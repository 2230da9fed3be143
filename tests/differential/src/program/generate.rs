//! Makes programs: a well-behaved driver's first, then damaged.

use super::{
    Choice, During, Mode, Operation, Program, Rights, Setting, Site, Source, Step, Target,
};
use oche_engine::Isolation;
use oche_sim::random::Random;
use oche_sim::setup::Board;

/// What a program is to bring out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only what Linux's DMA API does, with plenty of memory: nothing may be refused.
    Driver,
    /// The same, with a small pool: refusals are in order, and nothing else may suffer.
    Scarce,
    /// Flushes left out, partial changes, valid over valid.
    Sloppy,
    /// Garbage in tables and registers.
    Hostile,
    /// Hardware that fails: no memory for stage 2, invalidations that do not finish.
    Failing,
}

impl Kind {
    /// The kind for a seed.
    pub fn of(seed: u64) -> Self {
        match seed >> 7 & 15 {
            0..=5 => Self::Driver,
            6..=8 => Self::Scarce,
            9..=11 => Self::Sloppy,
            12..=14 => Self::Hostile,
            _ => Self::Failing,
        }
    }
}

impl Mode {
    /// The mode for a seed.
    pub fn of(seed: u64) -> Self {
        if seed >> 11 & 1 == 0 { Self::Quiescent } else { Self::Concurrent }
    }
}

/// The program of `length` operations that `seed` makes.
pub fn generate(seed: u64, kind: Kind, mode: Mode, length: usize) -> Program {
    let mut random = Random::new(seed);
    // No draw of its own: what a seed means stays what it was.
    let is_watched = seed.is_multiple_of(4);
    let setting = Setting { mode, is_watched, ..setting(&mut random, kind) };
    let mut steps = Vec::with_capacity(length);
    let mut add =
        |random: &mut Random, operation| steps.push(Step { operation, seed: random.bits() as u32 });
    let domains = 1 + random.below(3) as u8;
    for domain in 0..domains {
        add(&mut random, Operation::NewDomain);
        let dart = random.below(setting.darts as u64) as u8;
        let stream = random.below(16) as u8;
        add(&mut random, Operation::Attach { domain, dart, stream, flush: true });
        if random.chance(1, 3) {
            // As a USB controller's: two DARTs, one set of tables.
            add(
                &mut random,
                Operation::Attach { domain, dart: dart + 1, stream: stream ^ 1, flush: true },
            );
        }
    }
    // How much aliasing a program has decides what can be compared exactly: some have none.
    let aliases = [0, 1, 6][random.index(3)];
    // Short buffers from a frame's start on, which windows leave at home: some programs have many.
    let has_short_rows = random.chance(1, 3);
    while steps.len() < length {
        let mut operation = operation(&mut random, kind, mode, aliases, domains);
        if let Operation::Map { pages, source, site: Site::Allocator, .. } = &mut operation
            && has_short_rows
            && random.chance(2, 3)
        {
            (*pages, *source) = (1 + random.below(3) as u8, Source::Frames);
        }
        steps.push(Step { operation, seed: random.bits() as u32 });
    }
    steps.truncate(length);
    Program { setting, steps }
}

fn setting(random: &mut Random, kind: Kind) -> Setting {
    let failing = kind == Kind::Failing;
    Setting {
        mode: Mode::Concurrent,
        board: if random.chance(1, 2) { Board::Dart } else { Board::Smmu },
        has_windows: random.chance(2, 3),
        caches_invalid: random.chance(1, 2),
        cpus: 2 + random.index(3),
        darts: 1 + random.index(3),
        pages: [256, 512, 1000][random.index(3)],
        frames: match kind {
            Kind::Scarce => 24 + random.below(100) as u32,
            _ => 1024,
        },
        scarce_tables: if failing { 3 + random.below(20) } else { 0 },
        timeouts: if failing && random.chance(1, 2) { 40 } else { 0 },
        isolation: if random.chance(1, 3) { Isolation::Strict } else { Isolation::Page },
        is_watched: false,
        injection: None,
    }
}

fn operation(random: &mut Random, kind: Kind, mode: Mode, aliases: u64, domains: u8) -> Operation {
    let bad = match kind {
        Kind::Driver | Kind::Scarce => 0,
        Kind::Failing => 2,
        Kind::Sloppy => 12,
        Kind::Hostile => 25,
    };
    let flush = kind == Kind::Driver || kind == Kind::Scarce || random.chance(5, 6);
    let domain = random.below(u64::from(domains)) as u8;
    let dart = random.below(3) as u8;
    let stream = random.below(16) as u8;
    let mapping = random.bits() as u16;
    if random.below(100) < bad {
        return damage(random, kind, domain, dart, stream);
    }
    match random.below(100) {
        0..=12 => Operation::Map {
            domain,
            pages: pages(random),
            source: source(random, kind, aliases),
            rights: rights(random, kind),
            site: site(random),
            fill: random.chance(1, 2),
            flush,
        },
        13..=25 => Operation::Unmap { mapping, flush },
        26 if bad != 0 => Operation::Replace {
            mapping,
            source: source(random, kind, aliases),
            rights: rights(random, kind),
            flush,
        },
        27 if bad != 0 => Operation::Permit { mapping, rights: rights(random, kind), flush },
        28..=33 if mode == Mode::Concurrent => {
            Operation::Overlap((0..1 + random.below(4)).map(|_| during(random)).collect())
        }
        26..=27 | 37 => amend(random, kind, aliases, mapping, flush),
        34 if mode == Mode::Concurrent => Operation::Deliver(random.below(8) as u8),
        34 => Operation::DiskMap { domain, page: choice(random), rights: rights(random, kind) },
        35..=36 => disk(random),
        63 => Operation::HandleFault { dart },
        38 => seldom(random, dart, stream, mapping),
        39 => Operation::Pack {
            domain,
            buffers: 4 + random.below(14) as u8,
            rights: if random.chance(3, 4) { Rights::FromDevice } else { rights(random, kind) },
        },
        40..=44 => Operation::Exchange {
            stream,
            target: Target::Mapping(mapping),
            length: length(random),
            to_device: random.chance(1, 2),
        },
        45 => fetch(random),
        46..=48 => Operation::Load { page: choice(random), length: length(random) },
        49..=62 => Operation::Store { page: choice(random), length: length(random) },
        64..=79 => Operation::Read { stream, target: target(random), length: length(random) },
        _ => Operation::Write { stream, target: target(random), length: length(random) },
    }
}

/// Where a mapping goes.
fn site(random: &mut Random) -> Site {
    if random.chance(1, 20) { Site::Edge(random.bits() as u8) } else { Site::Allocator }
}

fn disk(random: &mut Random) -> Operation {
    Operation::Disk {
        page: choice(random),
        length: length(random),
        is_write: random.chance(1, 2),
        stays: random.chance(1, 2),
    }
}

fn amend(random: &mut Random, kind: Kind, aliases: u64, mapping: u16, flush: bool) -> Operation {
    Operation::Amend {
        mapping,
        page: random.bits() as u8,
        source: random.chance(1, 2).then(|| source(random, kind, aliases)),
        rights: rights(random, kind),
        flush,
    }
}

/// What a driver does seldom.
fn seldom(random: &mut Random, dart: u8, stream: u8, mapping: u16) -> Operation {
    match random.below(8) {
        0 => Operation::Suspend { dart },
        1 => Operation::ReadBack { dart, stream },
        2 => Operation::NewDomain,
        3 => Operation::Attach { domain: random.below(5) as u8, dart, stream, flush: true },
        4 => Operation::Detach { dart, stream: mapping as u8 % 16, flush: true },
        5 => Operation::Free { domain: random.below(5) as u8 },
        6 => Operation::Flush { dart, streams: u16::MAX },
        _ => Operation::OddAccess {
            dart,
            offset: random.bits() as u16,
            bytes: 1 << random.below(4),
            is_write: random.chance(1, 2),
        },
    }
}

/// A CPU's access that the engine cannot carry out in its place, or a load.
fn fetch(random: &mut Random) -> Operation {
    match random.below(8) {
        0 => Operation::Fetch { page: choice(random) },
        1 => Operation::Walk { page: choice(random), is_write: random.chance(1, 2) },
        _ => Operation::Load { page: choice(random), length: length(random) },
    }
}

/// What no driver does.
fn damage(random: &mut Random, kind: Kind, domain: u8, dart: u8, stream: u8) -> Operation {
    let streams = random.bits() as u16 | random.bits() as u16;
    if kind != Kind::Hostile || random.chance(1, 3) {
        return match random.below(3) {
            0 => Operation::Flush { dart, streams: 1 << stream },
            1 => Operation::Flush { dart, streams },
            _ => Operation::Attach { domain, dart, stream, flush: random.chance(1, 2) },
        };
    }
    match random.below(40) {
        0 => Operation::Enable { dart, streams },
        1 => Operation::Enable { dart, streams: u16::MAX },
        2 if random.chance(1, 8) => Operation::Lock { dart },
        3..=6 => Operation::BreakRegister {
            dart,
            stream,
            register: random.below(6) as u8,
            garbage: random.below(8) as u8,
        },
        7 => Operation::Detach { dart, stream, flush: false },
        _ => Operation::BreakTable {
            domain,
            is_first: random.chance(1, 6),
            word: random.bits() as u16,
            garbage: random.below(10) as u8,
            flush: random.chance(3, 4),
        },
    }
}

fn pages(random: &mut Random) -> u8 {
    match random.below(16) {
        0..=7 => 1,
        8..=10 => 2,
        11..=12 => 4,
        13..=14 => 3 + random.below(6) as u8,
        _ => 16 + random.below(26) as u8,
    }
}

fn source(random: &mut Random, kind: Kind, aliases: u64) -> Source {
    if random.below(16) < aliases {
        return if random.chance(1, 12) { Source::Repeated } else { Source::Alias };
    }
    match random.below(20) {
        0..=9 => Source::Scattered,
        10..=13 => Source::Row,
        14..=17 => Source::Frames,
        18 if kind == Kind::Hostile => Source::Table,
        19 if kind == Kind::Hostile => Source::Outside,
        _ => Source::Scattered,
    }
}

fn rights(random: &mut Random, kind: Kind) -> Rights {
    match random.below(12) {
        0..=3 => Rights::Both,
        4..=7 => Rights::ToDevice,
        11 if kind == Kind::Hostile => Rights::Neither,
        _ => Rights::FromDevice,
    }
}

fn choice(random: &mut Random) -> Choice {
    let number = random.bits() as u16;
    if random.chance(3, 4) { Choice::Mapped(number) } else { Choice::Any(number) }
}

fn target(random: &mut Random) -> Target {
    let number = random.bits() as u16;
    match random.below(20) {
        0..=14 => Target::Mapping(number),
        15..=17 => Target::Beside(number),
        18 => Target::Former(number as u8),
        _ => Target::Anywhere(random.bits() as u32),
    }
}

fn during(random: &mut Random) -> During {
    match random.below(8) {
        0 => During::CpuLoad(choice(random)),
        1..=3 => During::CpuStore(choice(random)),
        4 => During::DeviceRead(random.bits() as u8, target(random)),
        _ => During::DeviceWrite(random.bits() as u8, target(random)),
    }
}

fn length(random: &mut Random) -> u8 {
    [1, 2, 4, 8, 8, 16, 32][random.index(7)]
}
