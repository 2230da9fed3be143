//! One watched run of the demo's guest: its report, its complaints, and the looks taken from
//! outside meanwhile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use oche::progress::Step;
use oche::trace;

use crate::demo::guest_report::{GuestReport, ReportLine, parse};
use crate::demo::kernel_log::{is_bad_warning, is_complaint};
use crate::demo::summary::CounterValues;
use crate::qemu::smmu::{Owners, Survey};
use crate::qemu::{ConsoleLine, QemuMachine, RunEnding, Running, Wish};

/// The first look at the SMMU comes so long after the guest began to be busy; each further one
/// after half as much time again as the one before it, since a look stops the guest.
const FIRST_LOOK: Duration = Duration::from_millis(1500);

/// At most so many different complaints are kept.
const MAX_COMPLAINTS: usize = 30;

/// The plan of a watched run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Whether Oche is underneath: there is a trace and an SMMU to look at.
    pub has_oche: bool,
    /// Whether QEMU is ended as soon as the guest's script is through, without waiting for it to
    /// power off.
    pub ends_with_script: bool,
    /// It was built with its trace, if it is there.
    pub has_trace: bool,
    /// The hard limit.
    pub limit: Duration,
    /// The file for the console's output.
    pub console: PathBuf,
    /// The file for the trace.
    pub trace: PathBuf,
}

/// The observations of a run.
#[derive(Debug)]
pub(super) struct Watched {
    /// The end of the run.
    pub ending: RunEnding,
    /// The console's last lines.
    pub last_lines: String,
    /// The guest's report.
    pub report: GuestReport,
    /// Complaints of its kernel.
    pub complaints: Vec<String>,
    /// The SMMU, seen from outside.
    pub survey: Survey,
    /// Counters before and after the idle phase, and the seconds between.
    pub idle: Option<(CounterValues, CounterValues, f64)>,
    /// Counters at the end.
    pub counters: CounterValues,
    /// The result of the recording.
    pub recording: trace::Recording,
    /// From QEMU's start to its end.
    pub took: Duration,
}

/// Runs the machine and watches it to its end.
///
/// # Errors
///
/// QEMU does not start, or the trace cannot be written. Whatever the guest does is no error here.
pub(super) fn watch(machine: &QemuMachine, plan: &Plan, step: &Step) -> Result<Watched> {
    let began = Instant::now();
    let mut running = Running::start(machine, &plan.console)?;
    let ram = running.memory().open_path();
    let recorder =
        if plan.has_oche { Some(trace::FileRecorder::start(&ram, &plan.trace)?) } else { None };
    let mut watcher = Watcher::new(plan, step, ram.clone());
    let ending = {
        let watcher = std::cell::RefCell::new(&mut watcher);
        running.watch_and_look(
            plan.limit,
            |running, line| watcher.borrow_mut().on_line(running, line, recorder.as_ref()),
            |running| watcher.borrow_mut().on_tick(running),
        )?
    };
    let took = began.elapsed();
    let recording = match recorder {
        Some(recorder) => recorder.finish()?,
        None => trace::Recording::default(),
    };
    let counters = if plan.has_oche { counters(&ram) } else { CounterValues::new() };
    Ok(Watched {
        ending,
        last_lines: running.last_lines(),
        report: watcher.report,
        complaints: watcher.complaints,
        survey: watcher.survey,
        idle: watcher.idle,
        counters,
        recording,
        took,
    })
}

/// Counters by name; none if there is no trace directory yet.
fn counters(ram: &Path) -> CounterValues {
    trace::read_statistics(ram)
        .map_or_else(|_| BTreeMap::new(), |pairs| pairs.into_iter().collect())
}

struct Watcher<'run> {
    plan: &'run Plan,
    step: &'run Step,
    ram: PathBuf,
    report: GuestReport,
    complaints: Vec<String>,
    owners: Owners,
    survey: Survey,
    is_busy: bool,
    /// The guest repeats all that it has reported.
    is_told_again: bool,
    next_look: Instant,
    look_pause: Duration,
    idle_began: Option<(CounterValues, Instant)>,
    idle: Option<(CounterValues, CounterValues, f64)>,
}

impl<'run> Watcher<'run> {
    fn new(plan: &'run Plan, step: &'run Step, ram: PathBuf) -> Self {
        Self {
            plan,
            step,
            ram,
            report: GuestReport::default(),
            complaints: Vec::new(),
            owners: Owners::default(),
            survey: Survey::default(),
            is_busy: false,
            is_told_again: false,
            next_look: Instant::now(),
            look_pause: FIRST_LOOK,
            idle_began: None,
            idle: None,
        }
    }

    fn on_line(
        &mut self,
        running: &mut Running,
        line: &ConsoleLine,
        recorder: Option<&trace::FileRecorder>,
    ) -> Result<Wish> {
        let text = line.text.as_str();
        if let Some(report_line) = parse(text) {
            self.report.take(&report_line);
            if !self.is_told_again {
                self.show(&report_line);
            }
            if let ReportLine::Marker(name) = report_line {
                if let Some(recorder) = recorder {
                    recorder.mark(name);
                }
                self.on_marker(name, line.at);
            }
            if report_line == ReportLine::End && self.plan.ends_with_script {
                return Ok(Wish::End);
            }
            if let ReportLine::Warning(warning) = report_line
                && is_bad_warning(warning)
            {
                self.complain(warning);
            }
        } else if text.starts_with("oche: ") {
            self.step.line(text);
            if let Some(pool) = parse_pool(text) {
                self.owners.pool = Some(pool);
            }
        } else {
            if is_complaint(text) {
                self.complain(text);
            }
            if text.contains("DART [pagesize") {
                self.step.line(text);
            }
            if let Some(range) = parse_node_range(text) {
                self.owners.guest.push(range);
            }
        }
        self.on_tick(running)?;
        Ok(Wish::GoOn)
    }

    fn on_tick(&mut self, running: &mut Running) -> Result<()> {
        if self.plan.has_oche && self.is_busy && Instant::now() >= self.next_look {
            let (monitor, memory) = running.monitor();
            // A machine that ends in the middle of a look is reported by its ending.
            if let Err(error) = self.survey.look(monitor, memory, &self.owners) {
                self.step.line(&format!("no look at the SMMU: {error:#}"));
            }
            self.next_look = Instant::now() + self.look_pause;
            self.look_pause += self.look_pause / 2;
        }
        Ok(())
    }

    fn on_marker(&mut self, name: &str, at: Instant) {
        match name {
            "busy-begin" => {
                self.is_busy = true;
                self.next_look = at + self.look_pause;
            }
            "busy-end" => self.is_busy = false,
            "again" => self.is_told_again = true,
            "idle-begin" if self.plan.has_oche => self.idle_began = Some((counters(&self.ram), at)),
            "idle-end" => {
                if let Some((before, began)) = self.idle_began.take() {
                    self.idle =
                        Some((before, counters(&self.ram), at.duration_since(began).as_secs_f64()));
                }
            }
            _ => {}
        }
    }

    /// Shows the guest's own report as it goes.
    fn show(&self, line: &ReportLine<'_>) {
        match *line {
            ReportLine::Begin(name) => self.step.detail(&format!("guest: {name}")),
            ReportLine::Step { name, is_ok: true, seconds, .. } => {
                self.step.line(&format!("guest: {name} ok, {seconds} s"))
            }
            ReportLine::Step { name, text, .. } => {
                self.step.line(&format!("guest: {name} FAILED: {text}"))
            }
            ReportLine::Marker("idle-begin") => self.step.detail("guest: idles"),
            _ => {}
        }
    }

    fn complain(&mut self, line: &str) {
        if self.complaints.len() < MAX_COMPLAINTS {
            self.step.line(&format!("guest kernel: {line}"));
            self.complaints.push(line.to_owned());
        }
    }
}

/// RAM as the guest's kernel lists it at boot: `node   0: [mem
/// 0x0000000040000000-0x00000000bfffffff]`.
fn parse_node_range(line: &str) -> Option<std::ops::Range<u64>> {
    let (_, rest) = line.split_once("]   node ")?;
    let (_, range) = rest.split_once(": [mem ")?;
    let (first, last) = range.strip_suffix(']')?.split_once('-')?;
    Some(parse_number(first)?..parse_number(last)?.checked_add(1)?)
}

/// Oche's frame pool, as Oche reports it at boot: `oche: ..., pool 0xa0000000..0xc0000000`, the end
/// not included.
fn parse_pool(line: &str) -> Option<std::ops::Range<u64>> {
    let (_, rest) = line.split_once("pool ")?;
    let (start, end) = rest.split([' ', ',', ';']).next()?.split_once("..")?;
    Some(parse_number(start)?..parse_number(end)?)
}

fn parse_number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::{parse_node_range, parse_pool};

    #[test]
    fn the_kernels_own_list_of_its_memory_is_understood() {
        let line = "[    0.000000]   node   0: [mem 0x0000000040000000-0x000000009fffffff]";
        assert_eq!(parse_node_range(line), Some(0x4000_0000..0xa000_0000));
        assert_eq!(parse_node_range("[    0.000000] Early memory node ranges"), None);
        let all = "[    0.000000] Initmem setup node 0 [mem 0x0000000040000000-0x00000000bfffffff]";
        assert_eq!(parse_node_range(all), None);
    }

    #[test]
    fn the_pool_is_found_in_oches_line() {
        assert_eq!(
            parse_pool("oche: image 0x1..0x2, trace 0x3..0x4, pool 0xa0000000..0xc0000000"),
            Some(0xa000_0000..0xc000_0000)
        );
        assert_eq!(parse_pool("oche: the pool is large"), None);
    }
}
