//! Traces through pipes, and recordings that a command, a signal, a fault or a size ends.

use std::fs::{self, File};
use std::io::{Read, Write, pipe};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use oche::trace::TraceFile;
use oche::trace::made::with_every_error;
use oche::trace::reader::TraceItem;
use oche_trace::directory::{ALIGNMENT, DirectoryWriter, Layout, Machine};
use oche_trace::ring::RingWriter;
use oche_trace::words::{Text, Words};
use oche_types::addr::Gfn;
use oche_types::dart::stream::{DartId, StreamId};
use oche_types::event::Event;

fn oche(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oche"));
    command.arg("trace").args(arguments).stdin(Stdio::null());
    command
}

/// Runs it with `input` on standard input.
fn with_input(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = oche(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("oche starts");
    let mut standard = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // It may end before it has read all.
    let writer = std::thread::spawn(move || drop(standard.write_all(&input)));
    let output = child.wait_with_output().expect("oche ends");
    writer.join().expect("written");
    output
}

#[test]
fn a_pipe_is_read_as_the_file_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trace.oche");
    let bytes = with_every_error().bytes();
    fs::write(&path, &bytes).expect("written");
    let name = path.to_str().expect("UTF-8");
    for view in [&["text"][..], &["stats", "--json"], &["check"], &["maps"], &["leaks", "--json"]] {
        let file = oche(&[view, &[name]].concat()).output().expect("oche runs");
        let piped = with_input(&[view, &["-"]].concat(), &bytes);
        assert!(!file.stdout.is_empty(), "{view:?}");
        assert_eq!((file.status, file.stdout), (piped.status, piped.stdout), "{view:?}");
    }
    let to_file = folder.path().join("trace.pcapng");
    let wrote = oche(&["pcapng", name, "-o", to_file.to_str().expect("UTF-8")]).output();
    assert!(wrote.expect("oche runs").status.success());
    let piped = with_input(&["pcapng", "-", "-o", "-"], &bytes);
    assert_eq!(piped.stdout, fs::read(&to_file).expect("the packets"));
}

#[test]
fn what_is_no_trace_is_refused_in_one_line_and_a_reader_that_has_gone_is_no_error() {
    let refused =
        with_input(&["text", "-"], b"something else altogether, long enough for a header");
    let error = String::from_utf8(refused.stderr).expect("UTF-8");
    assert_eq!((refused.status.code(), error.lines().count()), (Some(2), 1), "{error}");
    assert!(error.contains("standard input") && error.contains("OCHEFILE"), "{error}");
    let unnamed = with_input(&["report", "-"], &with_every_error().bytes());
    assert_eq!(unnamed.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unnamed.stderr).contains("--output"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trace.oche");
    fs::write(&path, with_every_error().bytes()).expect("written");
    for view in [&["text"][..], &["pcapng", "-o", "-"], &["report", "-o", "-"]] {
        let (reader, writer) = pipe().expect("a pipe");
        drop(reader);
        let ran = oche(view).arg(&path).stdout(writer).stderr(Stdio::piped()).output();
        let ran = ran.expect("oche runs");
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.success() && !said.contains("anic"), "{view:?}: {said}");
        assert!(!said.contains("oche: writing"), "{view:?}: {said}");
    }
}

/// A RAM file that Oche's own code writes to.
struct Guest {
    folder: tempfile::TempDir,
    file: File,
    writer: Option<RingWriter>,
    time: u64,
}

impl Guest {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ram");
        let file = File::options().create_new(true).read(true).write(true).open(path);
        let file = file.expect("a RAM file");
        file.set_len(16 << 20).expect("a sparse file");
        let mut guest = Self { folder, file, writer: None, time: 0 };
        let layout = Layout::new(1, 1 << 20);
        let machine = Machine {
            board: Text::new("made up"),
            release: Text::new("0.0.0"),
            counter_hz: 1_000_000,
            start_ticks: 0,
            wall_clock_nanoseconds: None,
        };
        let mut directory = DirectoryWriter::begin(&guest, layout, &machine);
        directory.device(8, DartId::FIRST, StreamId::FIRST, "nvme");
        directory.finish();
        guest.writer = RingWriter::new(layout, 0);
        guest
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn record(&mut self, event: &Event) {
        let mut writer = self.writer.take().expect("a writer");
        self.time += 10;
        writer.record(self, self.time, 0x1000, event);
        self.writer = Some(writer);
    }

    fn tables(&mut self, count: u32) {
        for page in 0..count {
            self.record(&Event::Table { page: Gfn(page), is_unsync: false });
        }
    }

    fn fault(&mut self) {
        let (dart, stream) = (DartId::FIRST, StreamId::FIRST);
        let (iova, code, is_write, is_hidden) = (0x1000, 4, false, false);
        self.record(&Event::Fault { dart, stream, iova, code, is_write, is_hidden });
    }

    fn recorder(&self, arguments: &[&str]) -> Command {
        let mut command = oche(&["record", "--ram"]);
        command.arg(self.path("ram")).arg("-o").arg(self.path("boot.oche")).args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

impl Words for Guest {
    fn load(&self, index: usize) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, ALIGNMENT + index as u64 * 8).expect("read");
        u64::from_le_bytes(bytes)
    }

    fn store(&self, index: usize, value: u64) {
        self.file
            .write_all_at(&value.to_le_bytes(), ALIGNMENT + index as u64 * 8)
            .expect("written");
    }
}

/// Events and lost records of a whole recording.
fn held(path: &Path) -> (u64, u64) {
    let trace = TraceFile::open(path).expect("a trace");
    assert_eq!(trace.warnings, Vec::<String>::new(), "it ended well");
    let (mut events, mut lost) = (0, 0);
    for item in trace.events() {
        match item {
            TraceItem::Record(_) => events += 1,
            TraceItem::Lost { records, .. } => lost += records,
            TraceItem::Unreadable { .. } => panic!("unreadable"),
            TraceItem::Session(_) => {}
        }
    }
    (events, lost)
}

/// Waits until the file at `path` has a trace's first bytes: signals are caught by then.
fn until_it_records(path: &Path) {
    while fs::metadata(path).map_or(0, |metadata| metadata.len()) < 32 {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", child.id())).status();
    assert!(sent.expect("kill runs").success());
}

#[test]
fn a_command_is_recorded_and_gives_its_exit_code() {
    let mut guest = Guest::new();
    guest.tables(100);
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)] {
        let ran = guest.recorder(&["--", "sh", "-c", script]).output().expect("oche runs");
        assert_eq!(ran.status.code(), Some(code), "{ran:?}");
        assert_eq!(held(&guest.path("boot.oche")), (100, 0));
    }
    let missing = guest.recorder(&["--", "/no/such/program"]).output().expect("oche runs");
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("cannot start /no/such/program"));
}

#[test]
fn a_signal_ends_the_file_properly_and_no_standard_input_does_not() {
    let mut guest = Guest::new();
    guest.tables(100);
    for name in ["INT", "TERM", "HUP"] {
        let _ = fs::remove_file(guest.path("boot.oche"));
        let mut child = guest.recorder(&[]).spawn().expect("oche starts");
        until_it_records(&guest.path("boot.oche"));
        // The end of standard input would have ended it at once.
        assert!(child.try_wait().expect("its state").is_none());
        signal(&child, name);
        let ran = child.wait_with_output().expect("oche ends");
        assert!(ran.status.success(), "{name}: {ran:?}");
        assert_eq!(held(&guest.path("boot.oche")), (100, 0));
    }
}

#[test]
fn a_recording_goes_through_a_pipe_as_well() {
    let mut guest = Guest::new();
    guest.tables(50);
    let mut command = oche(&["record", "-o", "-", "--ram"]);
    command.arg(guest.path("ram")).args(["--", "true"]).stdout(Stdio::piped());
    let recorded = command.output().expect("oche runs");
    fs::write(guest.path("piped.oche"), &recorded.stdout).expect("written");
    assert_eq!(held(&guest.path("piped.oche")), (50, 0));
}

#[test]
fn events_are_printed_as_they_come() {
    let mut guest = Guest::new();
    guest.tables(3);
    let lines = |text: &[u8]| {
        let text = String::from_utf8_lossy(text).into_owned();
        text.lines().filter(|line| line.contains(" table: ")).count()
    };
    let ram = guest.path("ram");
    let mut command = oche(&["text", "--follow"]);
    let mut child = command.arg(&ram).stdout(Stdio::piped()).spawn().expect("oche starts");
    let mut out = child.stdout.take().expect("a pipe");
    let (mut printed, mut buffer) = (Vec::new(), [0; 4096]);
    let mut wait_for = |count: usize| {
        while lines(&printed) < count {
            let read = out.read(&mut buffer).expect("read");
            assert!(read > 0, "it ended: {}", String::from_utf8_lossy(&printed));
            printed.extend_from_slice(&buffer[..read]);
        }
    };
    wait_for(3);
    guest.tables(2);
    wait_for(5);
    signal(&child, "TERM");
    assert!(child.wait().expect("oche ends").success());

    let mut command = oche(&["record", "-o", "-", "--ram"]);
    command.arg(&ram).args(["--", "true"]).stdout(Stdio::piped());
    let recorded = command.output().expect("oche runs").stdout;
    let piped = with_input(&["text", "--follow", "-"], &recorded);
    assert_eq!((piped.status.success(), lines(&piped.stdout)), (true, 5));
}

#[test]
fn a_fault_ends_a_recording_that_has_only_what_came_before() {
    let mut guest = Guest::new();
    guest.tables(1000);
    let options = ["--until-fault", "--before", "60", "--after", "0.1"];
    let child = guest.recorder(&options).spawn().expect("oche starts");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!guest.path("boot.oche").exists(), "nothing is written before a fault");
    guest.fault();
    let ran = child.wait_with_output().expect("oche ends");
    assert!(ran.status.success(), "{ran:?}");
    assert!(String::from_utf8_lossy(&ran.stderr).contains("around a fault"), "{ran:?}");
    assert_eq!(held(&guest.path("boot.oche")), (1001, 0));
}

#[test]
fn what_is_too_old_for_a_fault_is_left_out_and_counted() {
    let mut guest = Guest::new();
    guest.tables(1000);
    let options = ["--until-fault", "--before", "0", "--after", "0"];
    let mut child = guest.recorder(&options).spawn().expect("oche starts");
    std::thread::sleep(Duration::from_millis(700));
    guest.tables(10);
    guest.fault();
    let mut said = String::new();
    let mut stderr = child.stderr.take().expect("a pipe");
    stderr.read_to_string(&mut said).expect("UTF-8");
    assert!(child.wait().expect("oche ends").success(), "{said}");
    let (events, lost) = held(&guest.path("boot.oche"));
    assert_eq!(events + lost, 1011, "{said}");
    assert!(events >= 1 && lost >= 1000, "{events} {lost}");
}

#[test]
fn files_are_rotated_by_size_and_the_oldest_go() {
    let mut guest = Guest::new();
    let options = ["--rotate", "64K", "--keep", "2"];
    let child = guest.recorder(&options).spawn().expect("oche starts");
    until_it_records(&guest.path("boot.1.oche"));
    let mut number = 1;
    while number < 4 {
        guest.tables(500);
        std::thread::sleep(Duration::from_millis(20));
        let next = guest.path(&format!("boot.{}.oche", number + 1));
        number += u32::from(next.exists());
    }
    signal(&child, "TERM");
    let ran = child.wait_with_output().expect("oche ends");
    assert!(ran.status.success(), "{ran:?}");
    let kept = |number: u32| guest.path(&format!("boot.{number}.oche")).exists();
    let newest = (1..).take_while(|number| *number < 4 || kept(*number)).last().unwrap_or(0);
    assert!(!kept(1) && !kept(newest - 2) && kept(newest - 1) && kept(newest), "{newest}");
    let (events, lost) = held(&guest.path(&format!("boot.{}.oche", newest - 1)));
    assert!(events > 1000 && lost > 1000, "{events} {lost}");
    for number in [newest - 1, newest] {
        let (events, lost) = held(&guest.path(&format!("boot.{number}.oche")));
        // What the files before had is missing from this one, and is not unreadable.
        assert!(events + lost <= guest.time / 10, "{number}: {events} {lost}");
    }
}
