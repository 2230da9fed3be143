//! Programs on which engine and reference differed once, shortened: a mistake of the engine, or a
//! false alarm of the comparison.

use oche_differential::program::Choice::*;
use oche_differential::program::During::*;
use oche_differential::program::Operation::{self, *};
use oche_differential::program::Rights::{self, *};
use oche_differential::program::Site::*;
use oche_differential::program::Source::*;
use oche_differential::program::Target::*;
use oche_differential::program::{Program, Setting, Step};
use oche_differential::run_program;
use oche_engine::Isolation::*;
use oche_sim::machine::Board::*;

fn check(setting: Setting, steps: &[(Operation, u32)]) {
    let steps = steps.iter().cloned().map(|(operation, seed)| Step { operation, seed }).collect();
    if let Err(difference) = run_program(&Program { setting, steps }) {
        panic!("after {} operations: {}", difference.step + 1, difference.what);
    }
}

#[test]
fn a_table_that_takes_anothers_place_in_one_batch_unmaps_and_maps_a_granule_once() {
    let steps = [
        (NewDomain, 256120828),
        (NewDomain, 3498565902),
        (Attach { domain: 1, dart: 1, stream: 6, flush: true }, 754160418),
        (
            Map {
                domain: 1,
                pages: 1,
                source: Scattered,
                rights: Both,
                site: Allocator,
                fill: false,
                flush: true,
            },
            1765482808,
        ),
        (Unmap { mapping: 30725, flush: true }, 4222325719),
        (Free { domain: 2 }, 1500542500),
        (
            BreakTable { domain: 0, is_first: false, word: 46135, garbage: 7, flush: true },
            1740836850,
        ),
        (
            BreakTable { domain: 1, is_first: true, word: 53428, garbage: 7, flush: true },
            2612158026,
        ),
        (
            BreakTable { domain: 1, is_first: true, word: 21504, garbage: 8, flush: false },
            3117957724,
        ),
    ];
    check(
        Setting {
            board: Smmu,
            has_windows: false,
            caches_invalid: false,
            cpus: 4,
            darts: 3,
            pages: 512,
            frames: 1024,
            scarce_tables: 0,
            timeouts: 0,
            isolation: Page,
            is_watched: false,
            injection: None,
        },
        &steps,
    );
}

/// The comparison takes a refused slot for unmapped until its own entry changes; the engine tries
/// it again when a neighbour's does, and then the device reaches the page, as the guest's tables
/// say.
#[test]
fn an_alias_that_outlives_its_page_is_refused_when_stage_2_has_no_memory() {
    let steps = [
        (NewDomain, 3755635695),
        (Attach { domain: 0, dart: 0, stream: 9, flush: true }, 364078015),
        (
            Map {
                domain: 0,
                pages: 2,
                source: Frames,
                rights: Both,
                site: Allocator,
                fill: false,
                flush: true,
            },
            1020335262,
        ),
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
            558240263,
        ),
        (Unmap { mapping: 37764, flush: true }, 3915040257),
        (
            Map {
                domain: 0,
                pages: 1,
                source: Repeated,
                rights: Both,
                site: Allocator,
                fill: false,
                flush: false,
            },
            1455247875,
        ),
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
            3404400,
        ),
        (
            Overlap(vec![
                CpuStore(Any(14564)),
                CpuLoad(Mapped(54376)),
                DeviceWrite(187, Mapping(8188)),
            ]),
            686932339,
        ),
        (Replace { mapping: 62730, source: Alias, rights: FromDevice, flush: true }, 2193384729),
    ];
    check(
        Setting {
            board: Smmu,
            has_windows: false,
            caches_invalid: false,
            cpus: 3,
            darts: 2,
            pages: 1000,
            frames: 1024,
            scarce_tables: 21,
            timeouts: 0,
            isolation: Page,
            is_watched: false,
            injection: None,
        },
        &steps,
    );
}

/// Two pages of different rights side by side, strictly isolated, and a device that writes the
/// second.
fn beside_a_page_that_is_read(rights: Rights) {
    let steps = [
        (NewDomain, 1351225556),
        (Attach { domain: 0, dart: 1, stream: 11, flush: true }, 3868361626),
        (NewDomain, 1008101854),
        (
            Map {
                domain: 0,
                pages: 2,
                source: Scattered,
                rights: Both,
                site: Allocator,
                fill: false,
                flush: true,
            },
            857908139,
        ),
        (Unmap { mapping: 21908, flush: true }, 765808191),
        (
            Overlap(vec![
                DeviceWrite(156, Mapping(46775)),
                CpuLoad(Any(26265)),
                CpuStore(Mapped(64618)),
            ]),
            2587512532,
        ),
        (
            Map {
                domain: 1,
                pages: 1,
                source: Scattered,
                rights: Both,
                site: Allocator,
                fill: false,
                flush: true,
            },
            2634878540,
        ),
        (Suspend { dart: 0 }, 2869022491),
        (
            Map {
                domain: 0,
                pages: 1,
                source: Scattered,
                rights: ToDevice,
                site: Allocator,
                fill: false,
                flush: true,
            },
            1014002312,
        ),
        (
            Map {
                domain: 0,
                pages: 1,
                source: Row,
                rights,
                site: Allocator,
                fill: true,
                flush: true,
            },
            601442920,
        ),
        (
            Overlap(vec![
                CpuLoad(Any(33153)),
                DeviceWrite(234, Beside(14337)),
                CpuLoad(Mapped(3552)),
                DeviceWrite(114, Mapping(52851)),
            ]),
            1487730952,
        ),
        (Unmap { mapping: 40846, flush: true }, 1099996996),
    ];
    let setting = Setting {
        board: Dart,
        has_windows: false,
        caches_invalid: true,
        cpus: 3,
        darts: 3,
        pages: 256,
        frames: 1024,
        isolation: Strict,
        is_watched: false,
        ..Setting::PLAIN
    };
    check(setting, &steps);
}

#[test]
fn a_page_that_devices_write_stands_beside_one_that_they_read() {
    beside_a_page_that_is_read(Both);
}

#[test]
fn a_page_that_devices_only_write_is_refused_beside_one_that_they_read() {
    beside_a_page_that_is_read(FromDevice);
}

/// The domain ends with no stream attached, so nothing of it can be cached, and the hardware does
/// not answer.
#[test]
fn a_domain_that_no_stream_uses_may_end_without_the_hardwares_answer() {
    let steps = [
        (NewDomain, 2818950234),
        (Attach { domain: 1, dart: 1, stream: 5, flush: true }, 3039100462),
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
            661640689,
        ),
        (Suspend { dart: 1 }, 1570843783),
    ];
    let setting = Setting {
        cpus: 4,
        darts: 1,
        pages: 1000,
        scarce_tables: 7,
        timeouts: 40,
        isolation: Strict,
        is_watched: true,
        ..Setting::PLAIN
    };
    check(setting, &steps);
}

/// A false alarm: a stream that a register's write began on resume, and a flush that has nothing to
/// do.
#[test]
#[rustfmt::skip] // An operation a line, as it was printed.
fn what_a_device_wrote_into_its_copy_since_a_register_began_it_stays_at_the_flush() {
    let steps = [
        (NewDomain, 2535470772),
        (NewDomain, 3533676801),
        (NewDomain, 4207323263),
        (Attach { domain: 2, dart: 0, stream: 11, flush: true }, 698497047),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 235163405),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1669310604),
        (Free { domain: 4 }, 2894261450),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2024502984),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 724580016),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 274941582),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1076654605),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 269667461),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 426109263),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1426318406),
        (Map { domain: 1, pages: 1, source: Frames, rights: ToDevice, site: Allocator, fill: false, flush: true }, 3793438754),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 215789780),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1204854397),
        (Unmap { mapping: 63955, flush: true }, 257220220),
        (Unmap { mapping: 932, flush: true }, 548370554),
        (Free { domain: 4 }, 3931339401),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1610216014),
        (Suspend { dart: 2 }, 3327868254),
        (Write { stream: 9, target: Mapping(58468), length: 2 }, 88833106),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3145118100),
        (Read { stream: 3, target: Mapping(48639), length: 32 }, 940747434),
    ];
    check(Setting { board: Dart, has_windows: false, caches_invalid: false, cpus: 2, darts: 2, pages: 512, frames: 1024, scarce_tables: 0, timeouts: 0, isolation: Strict, is_watched: false, injection: None }, &steps);
}

/// A false alarm: a device writes by way of the old tables in the sync that gives its stream new
/// ones.
#[test]
#[rustfmt::skip] // An operation a line, as it was printed.
fn a_stream_on_its_way_to_tables_where_a_page_was_refused_may_still_reach_it() {
    let steps = [
        (NewDomain, 91102402),
        (Attach { domain: 0, dart: 0, stream: 0, flush: true }, 1637573009),
        (Attach { domain: 0, dart: 1, stream: 1, flush: true }, 3228063730),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2428136999),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1397290620),
        (Map { domain: 0, pages: 1, source: Alias, rights: FromDevice, site: Edge(172), fill: false, flush: true }, 4256605121),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1253363377),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 355614894),
        (Pack { domain: 0, buffers: 13, rights: FromDevice }, 1207795973),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 858828211),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2122361041),
        (Attach { domain: 1, dart: 2, stream: 7, flush: true }, 1960465179),
        (Unmap { mapping: 19571, flush: false }, 784766069),
        (Unmap { mapping: 46070, flush: false }, 2581950726),
        (Unmap { mapping: 26845, flush: true }, 780055110),
        (Unmap { mapping: 34399, flush: true }, 2860686332),
        (Attach { domain: 1, dart: 1, stream: 15, flush: true }, 2680825156),
        (Attach { domain: 1, dart: 2, stream: 5, flush: true }, 1400035351),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 626958450),
        (Pack { domain: 1, buffers: 13, rights: Both }, 3272949945),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 570414476),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2862577582),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 314950054),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3650292627),
        (Unmap { mapping: 37508, flush: true }, 3824312304),
        (Unmap { mapping: 20568, flush: false }, 2362483503),
        (Attach { domain: 1, dart: 2, stream: 15, flush: true }, 725699257),
        (Unmap { mapping: 9690, flush: true }, 2813202203),
        (Attach { domain: 1, dart: 0, stream: 8, flush: false }, 726129987),
        (Unmap { mapping: 7784, flush: false }, 3078392595),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1886646240),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2725465415),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 4240989209),
        (Attach { domain: 1, dart: 0, stream: 9, flush: false }, 618243746),
        (Attach { domain: 3, dart: 2, stream: 3, flush: true }, 3035802248),
        (Unmap { mapping: 12892, flush: false }, 314839372),
        (Attach { domain: 0, dart: 0, stream: 11, flush: false }, 3532261025),
        (Unmap { mapping: 6671, flush: true }, 2881852269),
        (Pack { domain: 1, buffers: 11, rights: FromDevice }, 1420057344),
        (Pack { domain: 0, buffers: 17, rights: FromDevice }, 3602004644),
        (Unmap { mapping: 35328, flush: true }, 3346856735),
        (Unmap { mapping: 63889, flush: true }, 1325206820),
        (Attach { domain: 1, dart: 1, stream: 12, flush: true }, 2501250693),
        (Unmap { mapping: 10146, flush: false }, 2814391481),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1750357019),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1122563704),
        (Attach { domain: 0, dart: 2, stream: 2, flush: true }, 972976963),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2825830125),
        (Attach { domain: 1, dart: 0, stream: 1, flush: true }, 456942378),
        (BreakRegister { dart: 2, stream: 9, register: 1, garbage: 0 }, 3519836562),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1514857813),
        (Attach { domain: 1, dart: 1, stream: 9, flush: true }, 2374667568),
        (Unmap { mapping: 21794, flush: true }, 141271460),
        (Unmap { mapping: 40156, flush: true }, 2342196348),
        (Unmap { mapping: 54730, flush: true }, 22981785),
        (Pack { domain: 0, buffers: 9, rights: FromDevice }, 3148076248),
        (Unmap { mapping: 52110, flush: true }, 3725584638),
        (Unmap { mapping: 54322, flush: true }, 1149845821),
        (Unmap { mapping: 62464, flush: true }, 177904916),
        (Unmap { mapping: 57486, flush: false }, 81639482),
        (Map { domain: 1, pages: 1, source: Alias, rights: FromDevice, site: Allocator, fill: false, flush: false }, 14976874),
        (Overlap(vec![DeviceRead(120, Mapping(51371)), DeviceWrite(96, Mapping(12736)), DeviceWrite(248, Mapping(3527))]), 1983131000),
        (BreakRegister { dart: 2, stream: 1, register: 1, garbage: 0 }, 3028347464),
    ];
    check(Setting { board: Dart, has_windows: false, caches_invalid: false, cpus: 4, darts: 2, pages: 256, frames: 1024, scarce_tables: 0, timeouts: 0, isolation: Strict, is_watched: false, injection: None }, &steps);
}

/// A false alarm: tables that were refused for want of memory, and taken later.
#[test]
#[rustfmt::skip] // An operation a line, as it was printed.
fn a_write_where_tables_were_refused_once_may_lie_in_a_pages_copy() {
    let steps = [
        (NewDomain, 1978599096),
        (NewDomain, 3068707556),
        (Attach { domain: 1, dart: 0, stream: 1, flush: true }, 1907240615),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 4191656170),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1444318717),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2332690718),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3511021162),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 944189632),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3931449904),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3177036910),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3060342661),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2304837394),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1404182726),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2257538566),
        (Free { domain: 4 }, 311367852),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2493599758),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2403316487),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1293256350),
        (Pack { domain: 1, buffers: 11, rights: FromDevice }, 984809377),
        (Unmap { mapping: 49544, flush: true }, 998427971),
        (Pack { domain: 0, buffers: 16, rights: FromDevice }, 2646948128),
        (Unmap { mapping: 2179, flush: true }, 2683220200),
        (Unmap { mapping: 40180, flush: true }, 4251910290),
        (Unmap { mapping: 27618, flush: true }, 1436908033),
        (Unmap { mapping: 3903, flush: true }, 1968815465),
        (Pack { domain: 1, buffers: 4, rights: Both }, 145925241),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1266294769),
        (Map { domain: 1, pages: 4, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1692787781),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1425088680),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1601243919),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3936767445),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3110217350),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1309341006),
        (Unmap { mapping: 33761, flush: true }, 34408845),
        (Unmap { mapping: 32702, flush: true }, 1302260347),
        (NewDomain, 3892111891),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1887303869),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3398748533),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2181113734),
        (Unmap { mapping: 38768, flush: true }, 134980042),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3991776416),
        (Unmap { mapping: 28698, flush: true }, 1014404855),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2818758821),
        (Attach { domain: 1, dart: 2, stream: 10, flush: true }, 342138673),
        (Map { domain: 1, pages: 4, source: Alias, rights: ToDevice, site: Edge(240), fill: false, flush: true }, 2321175932),
        (Pack { domain: 0, buffers: 9, rights: FromDevice }, 351160761),
        (Unmap { mapping: 49874, flush: true }, 1291269857),
        (Unmap { mapping: 53603, flush: true }, 3160918729),
        (Unmap { mapping: 11311, flush: true }, 4115955345),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1758065563),
        (Unmap { mapping: 61066, flush: true }, 877014311),
        (Unmap { mapping: 34764, flush: true }, 2412511828),
        (Unmap { mapping: 9895, flush: true }, 937449356),
        (Unmap { mapping: 19799, flush: true }, 1905823543),
        (Unmap { mapping: 18377, flush: true }, 3042679923),
        (Map { domain: 1, pages: 8, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 817359561),
        (Unmap { mapping: 51442, flush: true }, 2092533471),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3896454521),
        (Unmap { mapping: 11988, flush: true }, 3694564829),
        (Unmap { mapping: 25935, flush: true }, 4165099856),
        (Unmap { mapping: 47114, flush: true }, 204613419),
        (Unmap { mapping: 45493, flush: true }, 1795946407),
        (Map { domain: 1, pages: 1, source: Scattered, rights: ToDevice, site: Allocator, fill: false, flush: true }, 1479347607),
        (Unmap { mapping: 38743, flush: true }, 1993596550),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 623713460),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 644329040),
        (Map { domain: 1, pages: 2, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 930288370),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 622848640),
        (Unmap { mapping: 1338, flush: true }, 4178074398),
        (Unmap { mapping: 40460, flush: true }, 2856557906),
        (Unmap { mapping: 18886, flush: true }, 108956207),
        (Unmap { mapping: 34990, flush: true }, 906781817),
        (Unmap { mapping: 2043, flush: true }, 1264701777),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 4008454903),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1169152629),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2317517569),
        (Unmap { mapping: 3568, flush: true }, 3285900870),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2548813998),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 157108831),
        (Unmap { mapping: 20368, flush: true }, 1855919262),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1585107839),
        (Unmap { mapping: 27553, flush: true }, 721173310),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2697749257),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3483607115),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2919616624),
        (Free { domain: 4 }, 1705202433),
        (Unmap { mapping: 17986, flush: true }, 4175087701),
        (Unmap { mapping: 46333, flush: true }, 3466496543),
        (Unmap { mapping: 22095, flush: true }, 3089803837),
        (Unmap { mapping: 17699, flush: true }, 85431537),
        (Pack { domain: 0, buffers: 7, rights: FromDevice }, 1370199513),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 603595357),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 88738510),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3802726596),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1879642225),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1898792286),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 730405165),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2871850567),
        (Map { domain: 1, pages: 4, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3428743536),
        (Unmap { mapping: 33538, flush: true }, 1954800575),
        (Unmap { mapping: 12208, flush: true }, 1073267429),
        (Map { domain: 0, pages: 1, source: Scattered, rights: FromDevice, site: Allocator, fill: true, flush: true }, 1544677213),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3175783849),
        (Write { stream: 10, target: Mapping(2474), length: 16 }, 681564594),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2165669911),
        (Unmap { mapping: 11725, flush: true }, 708406230),
        (Unmap { mapping: 50678, flush: true }, 2960714379),
        (Unmap { mapping: 6211, flush: true }, 3770143162),
        (Unmap { mapping: 31927, flush: true }, 2562839447),
        (Unmap { mapping: 55711, flush: true }, 2036232033),
        (Unmap { mapping: 22534, flush: true }, 4089573520),
        (Map { domain: 0, pages: 3, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1264309298),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3717145515),
        (Unmap { mapping: 60475, flush: true }, 2741712549),
        (Unmap { mapping: 1114, flush: true }, 952281921),
        (Map { domain: 0, pages: 33, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3766559776),
        (Map { domain: 0, pages: 4, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 904064171),
        (Suspend { dart: 2 }, 3786000174),
        (Unmap { mapping: 59051, flush: true }, 909743666),
        (Map { domain: 0, pages: 1, source: Scattered, rights: FromDevice, site: Allocator, fill: true, flush: true }, 3303630744),
    ];
    check(Setting { board: Dart, has_windows: false, caches_invalid: false, cpus: 3, darts: 1, pages: 256, frames: 24, scarce_tables: 0, timeouts: 0, isolation: Strict, is_watched: false, injection: None }, &steps);
}

/// A false alarm: a stream begins with more work than one trap does, and goes to other tables
/// before it is done.
#[test]
#[rustfmt::skip] // An operation a line, as it was printed.
fn work_left_over_from_one_register_is_told_at_another() {
    let steps = [
        (NewDomain, 1361315313),
        (NewDomain, 1317828437),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2989202431),
        (Attach { domain: 1, dart: 0, stream: 1, flush: false }, 3473096858),
        (Free { domain: 4 }, 3091608980),
        (Map { domain: 1, pages: 7, source: Frames, rights: Both, site: Edge(58), fill: false, flush: false }, 3161384208),
        (BreakTable { domain: 1, is_first: false, word: 10879, garbage: 7, flush: true }, 2257238972),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Edge(152), fill: false, flush: true }, 242018526),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1703516700),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2484642137),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 163262058),
        (Map { domain: 1, pages: 1, source: Frames, rights: FromDevice, site: Allocator, fill: true, flush: true }, 427939672),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 451205967),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Edge(11), fill: false, flush: false }, 2594546747),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2160763082),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3104514302),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 730306758),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2617577097),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2369178608),
        (Attach { domain: 0, dart: 2, stream: 8, flush: true }, 1121040409),
        (Unmap { mapping: 18599, flush: true }, 665860322),
        (BreakTable { domain: 0, is_first: false, word: 16389, garbage: 3, flush: true }, 2634969620),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2349328456),
        (BreakRegister { dart: 0, stream: 1, register: 0, garbage: 5 }, 4245206514),
        (Enable { dart: 0, streams: 57285 }, 624190506),
        (Enable { dart: 0, streams: 65407 }, 718568683),
        (Attach { domain: 0, dart: 0, stream: 1, flush: false }, 3034433648),
    ];
    check(Setting { board: Dart, has_windows: true, caches_invalid: true, cpus: 2, darts: 3, pages: 512, frames: 1024, scarce_tables: 0, timeouts: 0, isolation: Strict, is_watched: false, injection: None }, &steps);
}

/// A page that two granules map where it lies has a copy in a third, and one of the two goes: what
/// a device wrote into the copy is to be seen then, with `api` as well.
#[test]
#[rustfmt::skip] // An operation a line, as it was printed.
fn a_mapping_that_goes_makes_the_copies_equal_that_stay() {
    let steps = [
        (NewDomain, 1542011927),
        (Attach { domain: 0, dart: 1, stream: 14, flush: true }, 1012808770),
        (NewDomain, 2966610005),
        (Attach { domain: 1, dart: 1, stream: 6, flush: true }, 342149200),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 387011191),
        (Unmap { mapping: 9511, flush: true }, 419526264),
        (Map { domain: 0, pages: 22, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 4195223803),
        (Map { domain: 0, pages: 2, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1939613063),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3327859360),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 4218512481),
        (Unmap { mapping: 14204, flush: true }, 2028889492),
        (Unmap { mapping: 51982, flush: true }, 1032539237),
        (Map { domain: 0, pages: 1, source: Row, rights: ToDevice, site: Allocator, fill: false, flush: true }, 3203763792),
        (Map { domain: 1, pages: 2, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1727365383),
        (Map { domain: 1, pages: 1, source: Alias, rights: Both, site: Allocator, fill: false, flush: true }, 183998741),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3550541207),
        (Unmap { mapping: 47195, flush: true }, 335557395),
        (Map { domain: 1, pages: 1, source: Alias, rights: ToDevice, site: Allocator, fill: true, flush: true }, 3212981325),
        (Map { domain: 0, pages: 2, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 221444261),
        (Write { stream: 6, target: Mapping(21396), length: 16 }, 4130095508),
        (Unmap { mapping: 53042, flush: true }, 499712736),
        (Unmap { mapping: 12470, flush: true }, 1531710895),
    ];
    check(Setting { board: Dart, has_windows: true, caches_invalid: true, cpus: 3, darts: 2, pages: 256, frames: 1024, scarce_tables: 0, timeouts: 0, isolation: Page, is_watched: false, injection: None }, &steps);
}

/// A false alarm: a device writes into a slot just after it was filled with a page that it may only
/// read.
#[test]
#[rustfmt::skip] // An operation a line, as it was printed.
fn a_write_just_after_a_copy_was_filled_may_lie_in_it() {
    let steps = [
        (NewDomain, 1317284628),
        (Attach { domain: 0, dart: 2, stream: 14, flush: true }, 2607867503),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1204389004),
        (Exchange { stream: 10, target: Mapping(51141), length: 8, to_device: true }, 3912713953),
        (Overlap(vec![DeviceWrite(216, Mapping(11817)), DeviceWrite(160, Beside(21397))]), 49993794),
        (Map { domain: 0, pages: 1, source: Scattered, rights: ToDevice, site: Allocator, fill: true, flush: true }, 4204203770),
        (Unmap { mapping: 10894, flush: true }, 1047868468),
        (Read { stream: 3, target: Mapping(56992), length: 32 }, 1736002632),
    ];
    check(Setting { board: Smmu, has_windows: true, caches_invalid: false, cpus: 2, darts: 3, pages: 256, frames: 1024, scarce_tables: 0, timeouts: 0, isolation: Strict, is_watched: false, injection: None }, &steps);
}

/// A false alarm: a device writes where a page that it may write was mapped once and one that it
/// may only read is now.
#[test]
#[rustfmt::skip] // An operation a line, as it was printed.
fn a_write_that_may_reach_a_page_of_old_may_lie_in_a_copy() {
    let steps = [
        (NewDomain, 2434016339),
        (Map { domain: 0, pages: 2, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 352174504),
        (Unmap { mapping: 42669, flush: true }, 1284008350),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2671370495),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 69664257),
        (Map { domain: 0, pages: 2, source: Frames, rights: ToDevice, site: Allocator, fill: true, flush: true }, 1345052110),
        (Overlap(vec![DeviceWrite(34, Mapping(22229)), CpuStore(Any(46498)), CpuLoad(Mapped(17778))]), 3640762305),
        (Attach { domain: 4, dart: 0, stream: 5, flush: true }, 2256518807),
        (Read { stream: 12, target: Mapping(4886), length: 8 }, 3635647784),
    ];
    check(Setting { board: Dart, has_windows: true, caches_invalid: false, cpus: 2, darts: 2, pages: 512, frames: 1024, scarce_tables: 0, timeouts: 0, isolation: Strict, is_watched: false, injection: None }, &steps);
}

/// A false alarm: a stream still uses the tables through which a device's write went into a copy,
/// though its registers name others by now.
#[test]
#[rustfmt::skip] // An operation a line, as it was printed.
fn a_stream_on_its_way_to_other_tables_may_still_see_what_lies_in_a_copy() {
    let steps = [
        (NewDomain, 2516432611),
        (Attach { domain: 0, dart: 0, stream: 1, flush: true }, 4175996426),
        (NewDomain, 4118966470),
        (NewDomain, 265629988),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3046790572),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2401195608),
        (Unmap { mapping: 20677, flush: true }, 2734015370),
        (Map { domain: 0, pages: 1, source: Row, rights: ToDevice, site: Allocator, fill: false, flush: true }, 2154195574),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3630805112),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2376882048),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3393827831),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2189142763),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1097377894),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2512135736),
        (Unmap { mapping: 51399, flush: true }, 1320536720),
        (Unmap { mapping: 21511, flush: false }, 3752244203),
        (Unmap { mapping: 48407, flush: true }, 1280845426),
        (Unmap { mapping: 59823, flush: true }, 56165623),
        (Pack { domain: 1, buffers: 6, rights: FromDevice }, 965704594),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3630845109),
        (Attach { domain: 0, dart: 0, stream: 3, flush: false }, 646181678),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2009751893),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3214921549),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 4282686589),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3600177494),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2767962082),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3983822909),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3320926778),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3576442766),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 78234125),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1554399186),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1605412476),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2648833588),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2690273503),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1074320094),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2998061943),
        (Unmap { mapping: 10119, flush: true }, 3776083422),
        (Unmap { mapping: 50483, flush: true }, 697239657),
        (Unmap { mapping: 20519, flush: true }, 2807857966),
        (Unmap { mapping: 53973, flush: false }, 1823600682),
        (Unmap { mapping: 20204, flush: true }, 2488068733),
        (Unmap { mapping: 27288, flush: true }, 3090728140),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2690994125),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2506468182),
        (Map { domain: 1, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1382166842),
        (Unmap { mapping: 43150, flush: true }, 1113728054),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2947993157),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2242973918),
        (Attach { domain: 0, dart: 2, stream: 13, flush: true }, 645809044),
        (Unmap { mapping: 24571, flush: true }, 3351913718),
        (Unmap { mapping: 31153, flush: true }, 2619217851),
        (Unmap { mapping: 13222, flush: true }, 1712994151),
        (Attach { domain: 0, dart: 2, stream: 12, flush: true }, 474843319),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 530595809),
        (Unmap { mapping: 50495, flush: true }, 3705233321),
        (Attach { domain: 0, dart: 1, stream: 1, flush: false }, 914070063),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 324314517),
        (Free { domain: 4 }, 3645657698),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3344451192),
        (Map { domain: 2, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1687323766),
        (Write { stream: 12, target: Mapping(58430), length: 16 }, 2092667077),
        (BreakRegister { dart: 0, stream: 1, register: 3, garbage: 3 }, 1557590829),
        (Read { stream: 10, target: Mapping(60453), length: 32 }, 1598994924),
    ];
    check(Setting { board: Smmu, has_windows: false, caches_invalid: true, cpus: 3, darts: 3, pages: 256, frames: 1024, scarce_tables: 0, timeouts: 0, isolation: Strict, is_watched: false, injection: None }, &steps);
}

/// A false alarm: a device writes, by its right to a neighbour, into the copy of a page that it may
/// only read, and still sees that when a CPU has stored what stood there before.
#[test]
#[rustfmt::skip] // An operation a line, as it was printed.
fn a_copy_that_a_device_may_only_read_may_hold_what_it_wrote_by_a_neighbours_right() {
    let steps = [
        (NewDomain, 2905046774),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 618673052),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 904264381),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1318810567),
        (Unmap { mapping: 55219, flush: true }, 4172550224),
        (Unmap { mapping: 7522, flush: true }, 3978991846),
        (Pack { domain: 0, buffers: 8, rights: FromDevice }, 2499298642),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 4213212845),
        (Unmap { mapping: 20758, flush: true }, 1031019077),
        (Pack { domain: 0, buffers: 12, rights: FromDevice }, 4033588406),
        (Unmap { mapping: 33864, flush: true }, 1482172757),
        (Unmap { mapping: 41565, flush: true }, 1254666474),
        (Unmap { mapping: 30196, flush: true }, 3162989628),
        (Unmap { mapping: 3695, flush: true }, 42735320),
        (Pack { domain: 0, buffers: 11, rights: Both }, 766155213),
        (Unmap { mapping: 13555, flush: true }, 2237550371),
        (Unmap { mapping: 63785, flush: true }, 3622398617),
        (Unmap { mapping: 2413, flush: true }, 1341866525),
        (Unmap { mapping: 77, flush: true }, 1911169088),
        (Attach { domain: 1, dart: 1, stream: 12, flush: true }, 3508589484),
        (Unmap { mapping: 7208, flush: true }, 1301911813),
        (Unmap { mapping: 41996, flush: true }, 671538710),
        (Unmap { mapping: 18592, flush: true }, 3035528012),
        (Unmap { mapping: 60899, flush: true }, 4185914513),
        (Unmap { mapping: 34202, flush: true }, 847014795),
        (Unmap { mapping: 65131, flush: true }, 1721584420),
        (Unmap { mapping: 35153, flush: true }, 2609175966),
        (Unmap { mapping: 27836, flush: true }, 900837084),
        (Unmap { mapping: 2049, flush: true }, 3942414422),
        (Unmap { mapping: 45593, flush: true }, 3947830527),
        (Unmap { mapping: 48519, flush: true }, 3581908405),
        (Unmap { mapping: 34902, flush: true }, 351633244),
        (Unmap { mapping: 62146, flush: true }, 3570576626),
        (Unmap { mapping: 55819, flush: true }, 1930434413),
        (Unmap { mapping: 19394, flush: true }, 1850733536),
        (Unmap { mapping: 42094, flush: true }, 234813272),
        (Unmap { mapping: 17261, flush: true }, 2778109726),
        (Pack { domain: 0, buffers: 11, rights: FromDevice }, 3778504698),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1948452234),
        (Store { page: Mapped(59502), length: 8 }, 3606422921),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1952741263),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1044245264),
        (Pack { domain: 0, buffers: 17, rights: FromDevice }, 2483206509),
        (Unmap { mapping: 48875, flush: true }, 3619242916),
        (Unmap { mapping: 55454, flush: true }, 3184038828),
        (Unmap { mapping: 21502, flush: true }, 787681840),
        (Unmap { mapping: 25931, flush: true }, 1008981843),
        (Unmap { mapping: 17083, flush: true }, 2533141555),
        (Unmap { mapping: 11573, flush: true }, 200601332),
        (Unmap { mapping: 48912, flush: true }, 2803831075),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2688335225),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3143185907),
        (Pack { domain: 0, buffers: 5, rights: FromDevice }, 454396368),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 287438205),
        (Pack { domain: 0, buffers: 14, rights: FromDevice }, 3460892267),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1403804527),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3055283800),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 3407084481),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1936292898),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 568729800),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 358804274),
        (Map { domain: 0, pages: 1, source: Alias, rights: ToDevice, site: Allocator, fill: true, flush: true }, 84218526),
        (Unmap { mapping: 13721, flush: true }, 2861827978),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 4112296002),
        (Pack { domain: 0, buffers: 14, rights: ToDevice }, 726510737),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2319619327),
        (Unmap { mapping: 17978, flush: true }, 2615537283),
        (Unmap { mapping: 42387, flush: true }, 1368664429),
        (Unmap { mapping: 39304, flush: true }, 28305295),
        (Unmap { mapping: 4552, flush: true }, 3775134322),
        (Unmap { mapping: 48575, flush: true }, 3882293626),
        (Pack { domain: 0, buffers: 11, rights: FromDevice }, 219812363),
        (Unmap { mapping: 7393, flush: true }, 3292284959),
        (Unmap { mapping: 28778, flush: true }, 1535900025),
        (Unmap { mapping: 1852, flush: true }, 3245893331),
        (Unmap { mapping: 63351, flush: true }, 2206977239),
        (Pack { domain: 0, buffers: 13, rights: Both }, 2324363613),
        (Unmap { mapping: 43512, flush: true }, 525184094),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2171106928),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 4001020886),
        (Unmap { mapping: 31506, flush: true }, 681064913),
        (Exchange { stream: 14, target: Mapping(59171), length: 32, to_device: false }, 2026909614),
        (Unmap { mapping: 3426, flush: true }, 1088454900),
        (Unmap { mapping: 22774, flush: true }, 125170261),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1528386477),
        (Pack { domain: 0, buffers: 17, rights: FromDevice }, 1432947593),
        (Unmap { mapping: 1060, flush: true }, 3508334337),
        (Unmap { mapping: 30726, flush: true }, 3442435965),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 138325913),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 781037362),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1436984108),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1201367977),
        (Pack { domain: 0, buffers: 14, rights: FromDevice }, 3297909560),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 977644),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 1597600779),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 2691780438),
        (Unmap { mapping: 10167, flush: true }, 1889304175),
        (Unmap { mapping: 34947, flush: true }, 3319560959),
        (Map { domain: 0, pages: 1, source: Scattered, rights: Both, site: Allocator, fill: false, flush: true }, 4195935844),
        (Pack { domain: 0, buffers: 16, rights: Both }, 2712803701),
        (Unmap { mapping: 6216, flush: true }, 3055625516),
        (Unmap { mapping: 21521, flush: true }, 3268544647),
        (Exchange { stream: 5, target: Mapping(46409), length: 32, to_device: true }, 2670424294),
    ];
    check(Setting { board: Dart, has_windows: true, caches_invalid: false, cpus: 2, darts: 2, pages: 256, frames: 1024, scarce_tables: 0, timeouts: 0, isolation: Page, is_watched: false, injection: None }, &steps);
}

/// A false alarm: two streams write the same bytes through different copies, one of them while its
/// registers already name the other's tables. One of the two wins.
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
        check(Setting { board: Smmu, pages: 256, darts: 1, ..Setting::PLAIN }, &steps);
    }
}

/// A page of data that serves as tables: each comparison stops at the next word that differs, and
/// costs that much.
#[test]
fn a_table_of_data_is_no_more_than_one_traps_work() {
    let steps = [
        (NewDomain, 2926892402),
        (Attach { domain: 0, dart: 0, stream: 15, flush: true }, 2835520580),
        (
            Map {
                domain: 1,
                pages: 22,
                source: Scattered,
                rights: Both,
                site: Allocator,
                fill: false,
                flush: true,
            },
            1721108699,
        ),
        (Pack { domain: 1, buffers: 16, rights: FromDevice }, 3937790163),
        (BreakRegister { dart: 2, stream: 15, register: 0, garbage: 5 }, 580849507),
        (Suspend { dart: 2 }, 2102319439),
    ];
    let setting = Setting { cpus: 3, darts: 1, isolation: Strict, ..Setting::PLAIN };
    check(setting, &steps);
}

#[test]
fn an_attach_that_the_hardware_did_not_confirm_is_reported() {
    let steps = [
        (NewDomain, 652066858),
        (NewDomain, 553607824),
        (Attach { domain: 1, dart: 0, stream: 9, flush: true }, 1602559767),
        (Attach { domain: 1, dart: 1, stream: 8, flush: true }, 3249480445),
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
            3395034249,
        ),
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
            3027785987,
        ),
        (Overlap(vec![DeviceWrite(137, Mapping(6870)), CpuStore(Mapped(58042))]), 2538267064),
        (Free { domain: 3 }, 162456577),
        (Attach { domain: 0, dart: 1, stream: 4, flush: false }, 994948181),
        (Unmap { mapping: 10649, flush: true }, 3563807647),
        (Read { stream: 6, target: Mapping(57137), length: 8 }, 2569771308),
    ];
    check(
        Setting {
            board: Dart,
            has_windows: false,
            caches_invalid: false,
            cpus: 4,
            darts: 1,
            pages: 1000,
            frames: 1024,
            scarce_tables: 6,
            timeouts: 40,
            isolation: Strict,
            is_watched: true,
            injection: None,
        },
        &steps,
    );
}

#[test]
fn entries_of_a_space_without_a_stream_are_visible_when_the_engine_returns() {
    let steps = [
        (NewDomain, 4149804438),
        (
            Map {
                domain: 2,
                pages: 1,
                source: Scattered,
                rights: Both,
                site: Allocator,
                fill: false,
                flush: true,
            },
            2173253011,
        ),
        (Pack { domain: 1, buffers: 15, rights: FromDevice }, 2516100274),
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
            2005142053,
        ),
        (
            Map {
                domain: 2,
                pages: 1,
                source: Scattered,
                rights: Both,
                site: Allocator,
                fill: false,
                flush: true,
            },
            1111555929,
        ),
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
            2844742313,
        ),
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
            2460687897,
        ),
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
            2062086619,
        ),
        (Unmap { mapping: 33023, flush: true }, 516481605),
        (Unmap { mapping: 31615, flush: true }, 150369035),
        (Unmap { mapping: 38470, flush: true }, 80652094),
        (Unmap { mapping: 3731, flush: true }, 2056606959),
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
            1051850231,
        ),
        (Enable { dart: 2, streams: 57342 }, 113439657),
        (Attach { domain: 2, dart: 0, stream: 0, flush: false }, 77787493),
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
            881059805,
        ),
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
            3433370318,
        ),
        (Attach { domain: 2, dart: 0, stream: 6, flush: true }, 3666094921),
        (
            Map {
                domain: 2,
                pages: 1,
                source: Alias,
                rights: Both,
                site: Allocator,
                fill: true,
                flush: false,
            },
            1764697393,
        ),
        (Enable { dart: 2, streams: 2913 }, 4070306047),
        (Unmap { mapping: 57893, flush: false }, 4171815661),
        (Enable { dart: 0, streams: 32687 }, 2312549668),
    ];
    check(
        Setting {
            board: Dart,
            has_windows: true,
            caches_invalid: true,
            cpus: 3,
            darts: 2,
            pages: 256,
            frames: 1024,
            scarce_tables: 0,
            timeouts: 0,
            isolation: Strict,
            is_watched: false,
            injection: None,
        },
        &steps,
    );
}

#[test]
fn streams_that_let_go_when_their_dart_is_asked_once_more_hold_no_table() {
    let steps = [
        (NewDomain, 4110526168),
        (Attach { domain: 0, dart: 0, stream: 15, flush: true }, 489283131),
        (NewDomain, 1751870066),
        (Attach { domain: 1, dart: 0, stream: 6, flush: true }, 2038463396),
        (
            Map {
                domain: 1,
                pages: 29,
                source: Scattered,
                rights: Both,
                site: Allocator,
                fill: false,
                flush: true,
            },
            139989191,
        ),
        (
            Map {
                domain: 1,
                pages: 1,
                source: Scattered,
                rights: Both,
                site: Allocator,
                fill: false,
                flush: true,
            },
            4125866704,
        ),
        (Suspend { dart: 1 }, 1500835381),
    ];
    check(
        Setting {
            board: Dart,
            has_windows: true,
            caches_invalid: true,
            cpus: 2,
            darts: 1,
            pages: 256,
            frames: 1024,
            scarce_tables: 6,
            timeouts: 40,
            isolation: Strict,
            is_watched: true,
            injection: None,
        },
        &steps,
    );
}

#[test]
fn a_walk_by_a_stale_first_level_entry_leaves_nothing_behind_its_invalidation() {
    let steps = [
        (NewDomain, 1847702438),
        (Attach { domain: 1, dart: 1, stream: 6, flush: true }, 280792607),
        (
            Map {
                domain: 1,
                pages: 4,
                source: Alias,
                rights: ToDevice,
                site: Allocator,
                fill: false,
                flush: true,
            },
            3352860920,
        ),
        (
            Map {
                domain: 1,
                pages: 1,
                source: Scattered,
                rights: Both,
                site: Allocator,
                fill: false,
                flush: true,
            },
            1055540102,
        ),
        (Disk { page: Mapped(25760), length: 8, is_write: false, stays: true }, 1604516616),
        (
            Overlap(vec![DeviceWrite(250, Beside(62752)), DeviceWrite(148, Mapping(8582))]),
            602894790,
        ),
        (Unmap { mapping: 55665, flush: true }, 2121267716),
        (Unmap { mapping: 2134, flush: true }, 2546507133),
        (Suspend { dart: 1 }, 2794886152),
        (
            Overlap(vec![
                CpuLoad(Mapped(6104)),
                DeviceRead(142, Mapping(35294)),
                CpuLoad(Mapped(62883)),
                DeviceWrite(236, Mapping(16321)),
            ]),
            245824572,
        ),
        (
            Map {
                domain: 1,
                pages: 4,
                source: Row,
                rights: Both,
                site: Allocator,
                fill: true,
                flush: true,
            },
            3713199151,
        ),
        (Write { stream: 2, target: Beside(8554), length: 8 }, 1544264035),
    ];
    check(
        Setting {
            board: Smmu,
            has_windows: true,
            caches_invalid: true,
            cpus: 2,
            darts: 2,
            pages: 512,
            frames: 1024,
            scarce_tables: 0,
            timeouts: 0,
            isolation: Page,
            is_watched: false,
            injection: None,
        },
        &steps,
    );
}
