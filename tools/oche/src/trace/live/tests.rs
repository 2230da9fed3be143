//! The screen over a guest that the hypervisor's own code simulates, and over a trace file.

use super::*;
use crate::trace::filter::{StreamChoice, Whom};
use crate::trace::memory::tests::{Hypervisor, dart};
use crate::trace::names::{DeviceName, Names};
use crate::trace::recorder::FileRecorder;
use oche_trace::control::ControlReader;
use oche_types::addr::{Gfn, IovaPage};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{StreamId, StreamSet};
use oche_types::event::{Event as Happened, Place, Placement};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

const SECOND: u64 = 1_000_000_000;

fn at(stream: usize, page: u32) -> Place {
    Place { dart: dart(), stream: StreamId::new(stream).unwrap(), iova: IovaPage(page) }
}

/// Two devices: one maps 100 pages in its third second, the other one, and faults.
fn play() -> Hypervisor {
    let mut hypervisor = Hypervisor::new(2, 1024);
    hypervisor.boot(0);
    for page in 0..100 {
        let permission = Permission::READ_WRITE;
        let event = Happened::Map {
            at: at(1, 0x1000 + page),
            page: Gfn(page),
            permission,
            placement: Placement::Migrated,
        };
        hypervisor.record(0, 3 * SECOND + u64::from(page), &event);
    }
    for page in 0..25 {
        let time = 3 * SECOND + 1000 + u64::from(page);
        hypervisor.record(1, time, &Happened::Unmap { at: at(1, 0x1000 + page), page: Gfn(page) });
    }
    hypervisor.record(
        0,
        3 * SECOND + 5000,
        &Happened::Flush { dart: dart(), streams: StreamSet(2) },
    );
    let fault = Happened::Fault {
        dart: dart(),
        stream: StreamId::new(2).unwrap(),
        iova: 0xdead_b123,
        code: 1,
        is_write: true,
        is_hidden: false,
    };
    hypervisor.record(1, 3 * SECOND + 6000, &fault);
    hypervisor
}

fn picture(live: &Live, symbols: &Symbols) -> String {
    let mut terminal = Terminal::new(TestBackend::new(110, 32)).unwrap();
    terminal.draw(|frame| screen::draw(frame, &live.state, &live.view, symbols)).unwrap();
    terminal.backend().to_string()
}

fn assert_shows(picture: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(picture.contains(wanted), "no `{wanted}` in\n{picture}");
    }
}

#[test]
fn the_screen_shows_devices_rates_code_space_and_faults_of_a_running_guest() {
    let hypervisor = play();
    let mut live = Live::new(&hypervisor.ram).unwrap();
    live.update().unwrap();
    // All records carry addresses around their times.
    let code = 0xffff_8000_0000_0000 | (3 * SECOND) << 2;
    let symbols = Symbols::new(vec![(code, "dart_flush".into())], 0);
    let shown = picture(&live, &symbols);
    assert_shows(
        &shown,
        &[
            "qemu-virt",
            "mapped 0 KiB",
            "0:1   0000:00:01.0",
            "300 KiB",
            "0:2   dart0/stream2",
            "IOVA space of 0000:00:01.0: 75 pages mapped, a cell is 4 KiB",
            "0x0001000000 \u{b7}\u{b7}\u{b7}",
            "dart_flush",
            "faults 1",
            "IOMMU:oche dart0/stream2 iova=0x00000000deadb123 flags=0x0001",
            "maps/s, at most 100",
        ],
    );
    assert_eq!(live.press(KeyCode::Down), Next::GoOn);
    let shown = picture(&live, &Symbols::default());
    assert_shows(&shown, &["IOVA space of dart0/stream2", "0x00deadb000 x", "0xffff8002cb417"]);
    assert_eq!(live.press(KeyCode::Char('q')), Next::Quit);
}

#[test]
fn the_screen_names_code_and_drivers_as_a_trace_that_is_read_does() {
    let hypervisor = play();
    let mut live = Live::new(&hypervisor.ram).unwrap();
    live.update().unwrap();
    let address = 0xffff_8000_0000_0000 | (3 * SECOND) << 2;
    let names = |function: &str, driver: &str| Names {
        devices: vec![DeviceName { name: "0000:00:01.0".into(), driver: Some(driver.into()) }],
        functions: vec![Function { address, name: function.into(), module: Some("nvme".into()) }],
        ..Names::default()
    };
    live.state.learn(names("nvme_unmap", "nvme"));
    live.update().unwrap();
    let shown = picture(&live, &live.symbols);
    let wanted = ["0:1   0000:00:01.0  ", "space of 0000:00:01.0 (nvme):", "nvme_unmap [nvme]"];
    assert_shows(&shown, &wanted);
    let mut wide = Terminal::new(TestBackend::new(150, 32)).unwrap();
    wide.draw(|frame| screen::draw(frame, &live.state, &live.view, &live.symbols)).unwrap();
    assert_shows(&wide.backend().to_string(), &["0:1   0000:00:01.0 (nvme) "]);
    // Names that were asked for are not replaced.
    live.know(Symbols::new(vec![(address, "asked_for".into())], 0));
    live.state.learn(names("learned", "nvme"));
    live.update().unwrap();
    assert_shows(&picture(&live, &live.symbols), &["asked_for"]);
}

#[test]
fn what_is_typed_and_pressed_reaches_the_hypervisor() {
    let hypervisor = play();
    let mut live = Live::new(&hypervisor.ram).unwrap();
    live.update().unwrap();
    let mut asked = ControlReader::default();
    for key in "fkinds map".chars() {
        let _ = live.press(KeyCode::Char(key));
    }
    assert_shows(&picture(&live, &Symbols::default()), &["filter> kinds map"]);
    let _ = live.press(KeyCode::Enter);
    assert_eq!(asked.changed(&hypervisor).map(|(_, control)| control.events.kinds()), Some(1 << 4));
    let _ = live.press(KeyCode::Char('o'));
    let (_, control) = asked.changed(&hypervisor).expect("it was ordered");
    assert_eq!(control.events.selection().streams[0], StreamSet(2));
    live.update().unwrap();
    assert_shows(
        &picture(&live, &Symbols::default()),
        &["filter: kinds map", "ordered: streams 0:1"],
    );
    let _ = live.press(KeyCode::Char('e'));
    assert!(asked.changed(&hypervisor).expect("it was ordered").1.events.is_everything());
    let _ = live.press(KeyCode::Char('f'));
    let _ = live.press(KeyCode::Char('x'));
    let _ = live.press(KeyCode::Enter);
    assert_eq!(asked.changed(&hypervisor), None);
    assert_shows(&picture(&live, &Symbols::default()), &["expected start, stop, kinds LIST"]);
}

#[test]
fn a_pause_keeps_the_picture_and_loses_nothing() {
    let mut hypervisor = play();
    let mut live = Live::new(&hypervisor.ram).unwrap();
    live.update().unwrap();
    let _ = live.press(KeyCode::Char(' '));
    hypervisor.record(0, 4 * SECOND, &Happened::Unmap { at: at(1, 0x1050), page: Gfn(1) });
    live.update().unwrap();
    assert_eq!(live.frozen.as_ref().map(|state| state.events), Some(127));
    assert!(live.view.is_paused);
    let _ = live.press(KeyCode::Char(' '));
    assert!(live.frozen.is_none() && live.state.events == 128);
}

#[test]
fn a_trace_file_gives_the_same_picture_and_takes_no_orders() {
    let hypervisor = play();
    let output = hypervisor.ram.with_extension("oche");
    FileRecorder::start(&hypervisor.ram, &output).unwrap().finish().unwrap();
    let mut live = Live::new(&output).unwrap();
    for _ in 0..1000 {
        live.update().unwrap();
        if live.state.events == 127 {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_shows(&picture(&live, &Symbols::default()), &["300 KiB", "faults 1", "75 pages mapped"]);
    let _ = live.press(KeyCode::Char('e'));
    assert!(live.view.message.contains("takes no orders"), "{}", live.view.message);
}

#[test]
fn a_guest_that_boots_again_begins_a_new_picture_and_none_at_all_is_waited_for() {
    let mut hypervisor = Hypervisor::new(1, 64);
    let mut live = Live::new(&hypervisor.ram).unwrap();
    live.update().unwrap();
    assert_shows(&picture(&live, &Symbols::default()), &["waiting for Oche"]);
    let see = |live: &mut Live, sessions| {
        for _ in 0..1000 {
            live.update().unwrap();
            if live.state.sessions == sessions {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("no boot {sessions}");
    };
    hypervisor.boot(1);
    see(&mut live, 1);
    hypervisor.boot(2);
    hypervisor.record(0, 3, &Happened::Unmap { at: at(1, 1), page: Gfn(1) });
    see(&mut live, 2);
    assert_eq!(live.state.events, 1);
}

#[test]
fn any_size_of_terminal_is_drawn() {
    let hypervisor = play();
    let mut live = Live::new(&hypervisor.ram).unwrap();
    live.update().unwrap();
    live.view.has_help = true;
    for (width, height) in [(1, 1), (10, 3), (40, 10), (80, 24), (250, 80)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal
            .draw(|frame| screen::draw(frame, &live.state, &live.view, &Symbols::default()))
            .unwrap();
    }
}

#[test]
fn one_device_and_its_addresses_can_be_chosen() {
    let hypervisor = play();
    let shown = |filter: EventFilter| {
        let mut live = Live::new(&hypervisor.ram).unwrap();
        live.choose(filter);
        live.update().unwrap();
        (live.state.events, live.state.mapped_pages(), live.state.faults(), live.view.source)
    };
    let whom =
        Whom { streams: vec![StreamChoice { dart: Some(0), stream: Some(1) }], ..Whom::default() };
    let (events, pages, faults, source) =
        shown(EventFilter { whom: whom.clone(), ..EventFilter::default() });
    assert_eq!((events, pages, faults), (126, 75, 0));
    assert!(source.ends_with(" (only stream 0:1)"), "{source}");
    let iova = Some(0x101_0000..=0x101_ffff);
    let (events, pages, ..) = shown(EventFilter { whom, iova, ..EventFilter::default() });
    assert_eq!((events, pages), (25, 7));
    assert_eq!(shown(EventFilter::default()).2, 1);
}
