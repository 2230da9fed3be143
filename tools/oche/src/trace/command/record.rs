//! `oche trace record`: until Enter, a signal, a limit, the end of a command, or a fault.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use super::super::recorder::{AroundFault, FileRecorder, Keeping, Recording, record_previous};
use super::super::signals::Signals;
use super::super::words::parse_size;
use crate::destination::{refuse_input, refuse_pipe};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  oche trace record --ram FILE -o boot.oche                     until Enter or Ctrl-C
  oche trace record --ram FILE -o boot.oche -- ssh guest fio x  while a command runs; ends with its exit code
  oche trace record --ram FILE -o - | oche trace text --follow -
  oche trace record --ram FILE -o boot.oche --rotate 100M --keep 4
  oche trace record --ram FILE -o fault.oche --until-fault --before 2

The guest's RAM must be a shared file:
  qemu-system-aarch64 ... -object memory-backend-file,id=ram,size=2G,mem-path=FILE,share=on -machine memory-backend=ram
The guest is never made to wait: what it overwrites before it is read is counted as lost. SIGINT, SIGTERM and SIGHUP
end the file properly; a second one ends at once.")]
pub(super) struct RecordArguments {
    /// Record from this RAM file of the guest; wait for it if it is not there yet
    #[arg(long, value_name = "FILE")]
    ram: PathBuf,
    /// Write this trace file, or standard output for -
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Stop after this many seconds [default: when Enter is pressed on the terminal, or at a
    /// signal]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Stop when the file has this many MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Begin another file when one has this size (512K, 100M, 2G): boot.1.oche, boot.2.oche, ...
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "until_fault")]
    rotate: Option<u64>,
    /// Keep this many files, the newest
    #[arg(
        long,
        value_name = "NUMBER",
        default_value = "4",
        requires = "rotate",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    keep: u32,
    /// Stop at the first refused access or hit of a red zone, and keep only what is around it
    #[arg(long)]
    until_fault: bool,
    /// Keep this many seconds before the fault
    #[arg(long, value_name = "SECONDS", default_value = "2", requires = "until_fault")]
    before: f64,
    /// Keep this many seconds after the fault
    #[arg(long, value_name = "SECONDS", default_value = "0.5", requires = "until_fault")]
    after: f64,
    /// Save what the boot before left: after a panic or a reset, with Oche booted again
    #[arg(long, conflicts_with_all = ["seconds", "limit", "rotate", "until_fault", "command"])]
    previous: bool,
    /// Record while this command runs, and end with its exit code
    #[arg(last = true)]
    command: Vec<OsString>,
}

impl RecordArguments {
    pub(super) fn run(&self) -> Result<ExitCode> {
        refuse_pipe(&self.ram)?;
        refuse_input(&self.output, [self.ram.as_path()])?;
        let is_standard = self.output == Path::new("-");
        if is_standard && io::stdout().is_terminal() {
            bail!("a trace is no text for a terminal: name a file with --output, or use a pipe");
        }
        if is_standard && self.rotate.is_some() {
            bail!("--rotate writes several files: name them with --output");
        }
        if self.previous {
            self.report(&record_previous(&self.ram, &self.output)?);
            return Ok(ExitCode::SUCCESS);
        }
        let seconds = self.seconds.map(|most| duration(most, "--seconds")).transpose()?;
        let signals = Signals::catch()?;
        let recorder = FileRecorder::start_keeping(&self.ram, &self.output, self.keeping()?)?;
        let mut child = self.start_command()?;
        let ended = self.wait(&recorder, seconds, &signals, child.as_mut())?;
        let recording = match recorder.finish() {
            Err(error) if is_standard && is_broken_pipe(&error) => return Ok(ExitCode::SUCCESS),
            finished => finished?,
        };
        let code = ended.map(exit_code);
        if recording.sessions == 0 && code.is_none_or(|code| code == 0) {
            bail!(
                "{}: no trace directory appeared in it (is Oche running there?)",
                self.ram.display()
            );
        }
        self.report(&recording);
        if let (Some(child), None) = (&child, ended) {
            crate::message!("oche: the command still runs, as process {}", child.id());
        }
        Ok(code.map_or(ExitCode::SUCCESS, ExitCode::from))
    }

    fn keeping(&self) -> Result<Keeping> {
        let around = || -> Result<AroundFault> {
            Ok(AroundFault {
                before: duration(self.before, "--before")?,
                after: duration(self.after, "--after")?,
            })
        };
        Ok(Keeping {
            limit_bytes: self.limit.map(|mebibytes| mebibytes.saturating_mul(1 << 20)),
            rotate: self.rotate.map(|bytes| (bytes, self.keep)),
            until_fault: self.until_fault.then(around).transpose()?,
        })
    }

    fn start_command(&self) -> Result<Option<Child>> {
        let Some((program, arguments)) = self.command.split_first() else { return Ok(None) };
        let started = Command::new(program).args(arguments).spawn();
        started
            .map(Some)
            .map_err(|error| anyhow!("cannot start {}: {error}", program.to_string_lossy()))
    }

    /// Waits for the recording's end; returns how the command ended, if it has.
    fn wait(
        &self,
        recorder: &FileRecorder,
        seconds: Option<Duration>,
        signals: &Signals,
        mut child: Option<&mut Child>,
    ) -> Result<Option<ExitStatus>> {
        let entered = self.wait_for_enter(seconds, child.is_some());
        let begun = Instant::now();
        let (is_watched, mut shown) = (io::stderr().is_terminal() && child.is_none(), begun);
        let mut ended = None;
        while !recorder.is_over()
            && entered.as_ref().is_none_or(|entered| entered.try_recv().is_err())
            && seconds.is_none_or(|most| begun.elapsed() < most)
            // A command that has the terminal gets Ctrl-C as well, and ends the recording.
            && !(signals.is_caught() && (child.is_none() || !signals.is_interrupt()))
        {
            if let Some(child) = &mut child {
                ended = child.try_wait().context("waiting for the command")?;
                if ended.is_some() {
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
            if is_watched && shown.elapsed() >= Duration::from_millis(500) {
                shown = Instant::now();
                show(recorder, begun.elapsed());
            }
        }
        if is_watched {
            crate::message!();
        }
        Ok(ended)
    }

    /// Enter on a terminal ends a recording that nothing else ends; standard input that is none
    /// does not.
    fn wait_for_enter(&self, seconds: Option<Duration>, has_command: bool) -> Option<Receiver<()>> {
        if seconds.is_some() || has_command {
            return None;
        }
        let ram = self.ram.display();
        if !io::stdin().is_terminal() {
            crate::message!("recording {ram}; SIGINT or SIGTERM stops it");
            return None;
        }
        crate::message!("recording {ram}; press Enter to stop");
        let (enter, entered) = mpsc::channel();
        // It may wait for Enter for ever; the process ends without it.
        std::thread::spawn(move || {
            if io::stdin().read_line(&mut String::new()).is_ok_and(|bytes| bytes > 0) {
                let _ = enter.send(());
            }
            // What has no more to give is no Enter.
            loop {
                std::thread::park();
            }
        });
        Some(entered)
    }

    fn report(&self, recording: &Recording) {
        let fault = match (self.until_fault, recording.has_fault) {
            (true, true) => ", around a fault",
            (true, false) => "; no fault happened: the last of it was kept",
            _ => "",
        };
        let names = match recording.functions {
            0 if self.output == Path::new("-") => "; without names of the guest's code".to_owned(),
            0 => format!(
                "; without names of the guest's code: `oche trace symbols {}` says why",
                self.output.display()
            ),
            functions => format!("; {functions} functions of the guest have names"),
        };
        crate::message!(
            "{} events, {} lost, {} KiB in {}{fault}{names}",
            recording.records,
            recording.lost,
            recording.bytes / 1024,
            if self.output == Path::new("-") {
                "standard output".into()
            } else {
                self.output.display().to_string()
            }
        );
    }
}

fn show(recorder: &FileRecorder, elapsed: Duration) {
    let so_far = recorder.so_far();
    let (events, lost, kibibytes) = (so_far.records, so_far.lost, so_far.bytes / 1024);
    eprint!("\r{:.0} s, {events} events, {lost} lost, {kibibytes} KiB ", elapsed.as_secs_f64());
}

fn duration(seconds: f64, option: &str) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).with_context(|| option.to_owned())
}

/// A command's exit code as a shell has it: 128 and the signal's number where one ended it.
fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(2)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
    kind == Some(io::ErrorKind::BrokenPipe)
}
