//! A run of random programs, and programs that are made for one purpose.

use oche_differential::program::Operation::*;
use oche_differential::program::Rights::*;
use oche_differential::program::Site::Allocator;
use oche_differential::program::Source::{self, Alias, Outside, Scattered};
use oche_differential::program::Target::*;
use oche_differential::program::generate::{Kind, generate};
use oche_differential::program::{Mode, Operation, Program, Setting, Step};
use oche_differential::{Counts, run, run_program};
use oche_engine::Isolation;
use oche_sim::random::mix;
use oche_sim::setup::Board::*;
use oche_sim::setup::FaultInjection;

#[global_allocator]
static ALLOCATOR: oche_sim::allocations::Counting = oche_sim::allocations::Counting;

/// Programs of 1500 operations that the quick run makes.
const QUICK_PROGRAMS: u64 = 40;

#[test]
fn c1_to_c6_the_engine_and_the_reference_agree_on_random_programs() {
    if let Err(failure) = run(1500 * QUICK_PROGRAMS, 1, |_| ()) {
        panic!("{failure}");
    }
}

/// CPUs' accesses to nearly all mapped pages trap, are carried out by the engine, and nothing else
/// changes.
#[test]
fn watching_what_cpus_do_changes_nothing_that_cpus_or_devices_see() {
    let mut guarded = [0; 2];
    for seed in 0..6 {
        for is_watched in [false, true] {
            let mut program = generate(
                mix(seed + 900),
                [Kind::Driver, Kind::Sloppy, Kind::Failing][seed as usize % 3],
                [Mode::Quiescent, Mode::Concurrent][seed as usize % 2],
                1000,
            );
            program.setting.is_watched = is_watched;
            match run_program(&program) {
                Ok(counts) => guarded[usize::from(is_watched)] += counts.trapped_accesses,
                Err(difference) => {
                    panic!("seed {seed}, step {}: {}", difference.step + 1, difference.what)
                }
            }
        }
    }
    assert!(guarded[1] > 2 * guarded[0], "hardly anything was watched: {guarded:?}");
}

/// An entry that is rewritten with other rights and the same target: no page is mapped or unmapped,
/// and it is reported.
#[test]
fn a_permission_that_changes_is_an_event() {
    let programs =
        (0..4).map(|seed| generate(mix(seed + 1700), Kind::Sloppy, Mode::Concurrent, 1500));
    let mut reported = 0;
    for program in programs {
        reported += run_program(&program)
            .unwrap_or_else(|difference| panic!("{}", difference.what))
            .permissions;
    }
    assert!(reported > 20, "{reported} permissions changed");
}

/// Buffers of 1984 bytes packed into pages, some straddling two: a device writes one and a CPU
/// reads it, with no flush between, while its neighbours are being written (Linux `tg3.c`, which
/// copies small packets out of a buffer that stays mapped).
#[test]
fn c2_packed_receive_buffers_are_read_while_their_neighbours_are_written() {
    let modes = [Mode::Quiescent, Mode::Concurrent];
    for (board, mode) in [Dart, Smmu].into_iter().flat_map(|board| modes.map(|mode| (board, mode)))
    {
        let setting = Setting { board, mode, ..Setting::PLAIN };
        let mut steps = vec![NewDomain, Attach { domain: 0, dart: 0, stream: 3, flush: true }];
        steps.extend((0..6).map(|_| Pack { domain: 0, buffers: 16, rights: FromDevice }));
        for round in 0..3000 {
            let number = mix(round) as u16;
            steps.push(Write { stream: 0, target: Mapping(number >> 3), length: 32 });
            steps.push(Exchange {
                stream: 0,
                target: Mapping(number),
                length: 16,
                to_device: false,
            });
            if round % 16 == 0 {
                steps.push(Unmap { mapping: number, flush: true });
                steps.push(Pack { domain: 0, buffers: 1, rights: FromDevice });
            }
        }
        let steps = steps
            .into_iter()
            .enumerate()
            .map(|(seed, operation)| Step { operation, seed: seed as u32 });
        match run_program(&Program { setting, steps: steps.collect() }) {
            Ok(counts) => assert!(counts.trapped_accesses > 900, "{counts:?}"),
            Err(difference) => {
                panic!("after {} operations: {}", difference.step + 1, difference.what)
            }
        }
    }
}

/// The comparison took the two copies for one: two streams write the same bytes through different
/// copies, one of them while its registers already name the other's tables. One of the two wins.
#[test]
fn a_stream_on_its_way_to_anothers_tables_does_not_write_through_the_same_copy() {
    for seed in 0..200 {
        let steps = [
            (NewDomain, 1),
            (Attach { domain: 0, dart: 0, stream: 3, flush: true }, 2),
            (Attach { domain: 0, dart: 0, stream: 5, flush: true }, 3),
            (BreakRegister { dart: 0, stream: 5, register: 3, garbage: 0 }, 4),
            (Flush { dart: 0, streams: 1 << 5 }, 5),
            (
                Map {
                    domain: 0,
                    pages: 1,
                    source: Scattered,
                    rights: Both,
                    site: Allocator,
                    fill: false,
                    flush: true,
                },
                6,
            ),
            (Attach { domain: 0, dart: 0, stream: 5, flush: false }, 7),
            (Write { stream: (seed % 2) as u8, target: Mapping(0), length: 32 }, 8 + seed),
            (
                Exchange {
                    stream: ((seed + 1) % 2) as u8,
                    target: Mapping(0),
                    length: 32,
                    to_device: false,
                },
                1000 + seed,
            ),
        ];
        let setting = Setting { board: Smmu, pages: 256, darts: 1, ..Setting::PLAIN };
        let steps = steps.map(|(operation, seed)| Step { operation, seed }).into();
        if let Err(difference) = run_program(&Program { setting, steps }) {
            panic!("after {} operations: {}", difference.step + 1, difference.what);
        }
    }
}

/// The steps of a program that is made by hand, each with its number as its seed.
fn steps<const N: usize>(operations: [Operation; N]) -> Vec<Step> {
    let numbered = operations.into_iter().enumerate();
    numbered.map(|(seed, operation)| Step { operation, seed: seed as u32 }).collect()
}

/// Maps one page of `source` and flushes.
fn one_page(source: Source) -> Operation {
    Map { domain: 0, pages: 1, source, rights: Both, site: Allocator, fill: false, flush: true }
}

/// A refusal is of one page: the page that takes its place is mapped, or refused by itself.
#[test]
fn c6_a_page_in_the_place_of_a_refused_one_is_mapped() {
    for mode in [Mode::Quiescent, Mode::Concurrent] {
        let setting = Setting { mode, darts: 1, ..Setting::PLAIN };
        let steps = steps([
            NewDomain,
            Attach { domain: 0, dart: 0, stream: 3, flush: true },
            one_page(Outside),
            Replace { mapping: 0, source: Scattered, rights: Both, flush: true },
            Write { stream: 0, target: Mapping(0), length: 32 },
            Read { stream: 0, target: Mapping(0), length: 32 },
        ]);
        match run_program(&Program { setting, steps }) {
            Ok(counts) => assert_eq!((counts.refusals, counts.exact_accesses), (1, 2), "{mode:?}"),
            Err(difference) => {
                panic!("after {} operations: {}", difference.step + 1, difference.what)
            }
        }
    }
}

/// Runs `steps` in `setting`.
fn run_steps<const N: usize>(setting: Setting, operations: [Operation; N]) -> Counts {
    let steps = steps(operations);
    run_program(&Program { setting, steps }).unwrap_or_else(|difference| {
        panic!("after {} operations: {}", difference.step + 1, difference.what)
    })
}

/// What a device wrote into a red zone is reported once.
#[test]
fn c5_what_was_written_into_a_red_zone_is_reported_once() {
    let setting = Setting { mode: Mode::Quiescent, has_windows: false, darts: 1, ..Setting::PLAIN };
    let counts = run_steps(
        setting,
        [
            NewDomain,
            Attach { domain: 0, dart: 0, stream: 3, flush: true },
            one_page(Scattered),
            Write { stream: 0, target: Beside(0), length: 32 },
            Unmap { mapping: 0, flush: true },
            one_page(Scattered),
            Unmap { mapping: 0, flush: true },
        ],
    );
    assert_eq!((counts.red_zones, counts.red_zone_reports), (1, 1));
}

/// What a device wrote is in the copies that stay, and in those that come, when its mapping is
/// gone.
#[test]
fn c2_readers_have_what_a_writer_wrote_that_is_gone() {
    for seed in 0..8 {
        let setting = Setting { mode: Mode::Quiescent, darts: 1, ..Setting::PLAIN };
        let map = |source, rights| Map {
            domain: 0,
            pages: 1,
            source,
            rights,
            site: Allocator,
            fill: false,
            flush: true,
        };
        let read = |number| Read { stream: 0, target: Mapping(number), length: 32 };
        let operations = [
            NewDomain,
            Attach { domain: 0, dart: 0, stream: 3, flush: true },
            map(Scattered, Both),
            map(Alias, ToDevice),
            map(Alias, ToDevice),
            Write { stream: 0, target: Mapping(0), length: 32 },
            Unmap { mapping: 0, flush: true },
            map(Alias, ToDevice),
            read(0),
            read(1),
            read(2),
        ];
        let mut steps = steps(operations);
        // Where the device writes, it reads.
        for step in &mut steps {
            let is_device = matches!(step.operation, Write { .. } | Read { .. });
            step.seed = if is_device { 1 } else { step.seed + 100 * seed };
        }
        if let Err(difference) = run_program(&Program { setting, steps }) {
            panic!("after {} operations: {}", difference.step + 1, difference.what);
        }
    }
}

/// With exact permissions, a page that a device may only write is not read by a neighbour's right.
#[test]
fn c3_a_page_that_devices_only_write_is_not_read_by_a_neighbours_right() {
    for mode in [Mode::Concurrent, Mode::Quiescent] {
        for seed in 0..8 {
            let setting =
                Setting { mode, darts: 1, isolation: Isolation::Strict, ..Setting::PLAIN };
            let map = |pages, source, rights| Map {
                domain: 0,
                pages,
                source,
                rights,
                site: Allocator,
                fill: false,
                flush: true,
            };
            let operations = [
                NewDomain,
                Attach { domain: 0, dart: 0, stream: 3, flush: true },
                map(4, Scattered, Both),
                map(1, Scattered, ToDevice),
                map(1, Alias, FromDevice),
                Read { stream: 0, target: Mapping(2), length: 32 },
            ];
            let mut steps = steps(operations);
            steps.iter_mut().for_each(|step| step.seed += 100 * seed);
            match run_program(&Program { setting, steps }) {
                Ok(counts) => assert_eq!(counts.refusals, 1, "{mode:?}"),
                Err(difference) => {
                    panic!("after {} operations: {}", difference.step + 1, difference.what)
                }
            }
        }
    }
}

/// Each stands for a mistake in the engine. A run that finds none of them would prove nothing.
#[test]
fn every_injected_fault_is_found_within_a_few_programs() {
    let injections = [
        FaultInjection::SkipInvalidate,
        FaultInjection::SkipDrain,
        FaultInjection::OffByOneSlot,
        FaultInjection::OffByOneHostGranule,
        FaultInjection::AllowAll,
        FaultInjection::SwapPermission,
        FaultInjection::WideWindow,
        FaultInjection::NarrowWindow,
        FaultInjection::SkipMerge,
        FaultInjection::SkipCopyHome,
        FaultInjection::SkipCpuFlush,
        FaultInjection::SkipFill,
        FaultInjection::SkipBlock,
        FaultInjection::SkipWriteProtect,
        FaultInjection::WeakTrap,
        FaultInjection::SkipSettle,
        FaultInjection::CopyBeforeBreak,
        FaultInjection::SkipPublish,
        FaultInjection::SkipStoreBarrier,
        FaultInjection::SkipLoadBarrier,
    ];
    for injection in injections {
        for mode in [Mode::Quiescent, Mode::Concurrent] {
            let is_found = |seed| {
                let mut program = generate(mix(seed), Kind::Driver, mode, 1500);
                program.setting.injection = Some(injection);
                run_program(&program).is_err()
            };
            let found = (0..60).position(is_found);
            println!("{injection:?}, {mode:?}: found by program {found:?}");
            assert_eq!(found.is_some(), can_show(injection, mode), "{injection:?} in {mode:?}");
        }
    }
}

/// Whether a fault can show in a program of `mode`.
fn can_show(injection: FaultInjection, mode: Mode) -> bool {
    match injection {
        // Devices' writes under way are what these are about, and a quiescent program has none.
        FaultInjection::SkipDrain | FaultInjection::SkipLoadBarrier => mode == Mode::Concurrent,
        _ => true,
    }
}
