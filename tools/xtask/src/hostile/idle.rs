//! The demo's check that idling costs no exit, held to guests that idle and to guests that do not;
//! and the counters themselves, compared with what the guest reports.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use oche::progress::Step;
use oche::trace;

use super::guest::{LIMIT, Way, start};
use crate::demo::summary::{CounterValues, DemoSummary};
use crate::qemu::{RAM_BASE, RunEnding, Running, Wish};

/// How long a phase without exits is watched.
const QUIET: Duration = Duration::from_millis(500);
/// Exits that are not noticed within this time go unnoticed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks at the counters.
const PAUSE: Duration = Duration::from_millis(50);
/// What the guest waits for in a phase: it is being watched; the check has seen enough; the exits
/// have been counted.
const BEGIN: u8 = 1;
const ENOUGH: u8 = 2;
const COUNTED: u8 = 3;
/// The guest's phases in their order: a kind of exits, and what counts them.
const PHASES: [(&str, &[&str]); 6] = [
    ("none", &[]),
    ("hvc", &["exits_hvc"]),
    ("smc", &["exits_smc"]),
    ("abort", &["exits_device", "injected_exceptions"]),
    ("dart", &["exits_dart_register"]),
    ("none", &[]),
];

/// Runs the guest through all phases. The phases without exits must pass the check, all others must
/// fail it.
pub(super) fn run(oche: &Path, guest: &Path, step: &Step) -> Result<String> {
    let options = [("oche.bootargs", "hostile=idle")];
    let mut running =
        start(oche, guest, &Way { name: "idle", options: &options, ..Way::default() }, step)?;
    let mut phases = PHASES.iter();
    let mut phase: Option<Phase> = None;
    let mut exits = 0;
    let ending = running.watch(LIMIT, |running, line| {
        if let Some((kind, order)) = parse_begin(&line.text) {
            match phases.next() {
                Some((expected, counters)) if *expected == kind => {
                    let began = Phase { before: counters_of(running)?, order, counters };
                    began.order(running, BEGIN)?;
                    began.judge(running, kind, step)?;
                    began.order(running, ENOUGH)?;
                    phase = Some(began);
                }
                _ => bail!("the idle guest begins another phase than expected: {kind}"),
            }
        } else if let (Some(made), Some(began)) = (parse_end(&line.text), phase.take()) {
            exits += began.compare(running, made)?;
            began.order(running, COUNTED)?;
        }
        Ok(Wish::GoOn)
    })?;
    if ending != RunEnding::PoweredOff || phases.next().is_some() || phase.is_some() {
        bail!("the idle guest: {ending}, before all phases were over");
    }
    Ok(format!("{exits} exits of 4 kinds counted exactly"))
}

/// A phase that is under way.
struct Phase {
    before: CounterValues,
    /// Guest-physical address of the guest's orders.
    order: u64,
    /// The counters of this phase's exits.
    counters: &'static [&'static str],
}

impl Phase {
    /// Holds the check to it.
    fn judge(&self, running: &Running, kind: &str, step: &Step) -> Result<()> {
        let began = Instant::now();
        let look = || -> Result<Vec<String>> {
            let mut summary = DemoSummary::default();
            summary.take_idle(&self.before, &counters_of(running)?, began.elapsed().as_secs_f64());
            Ok(summary.problems)
        };
        if self.counters.is_empty() {
            std::thread::sleep(QUIET);
            return match look()?.first() {
                Some(problem) => bail!("the guest idles, and yet: {problem}"),
                None => Ok(()),
            };
        }
        while began.elapsed() < PATIENCE {
            std::thread::sleep(PAUSE);
            if let Some(problem) = look()?.first() {
                step.line(&format!("{kind}: {problem}"));
                return Ok(());
            }
        }
        bail!("the guest idles with exits of kind {kind}, and the check does not notice")
    }

    /// Holds the counters to the number of exits that the guest made.
    fn compare(&self, running: &Running, made: u64) -> Result<u64> {
        let made = if self.counters.is_empty() { 0 } else { made };
        for (name, after) in counters_of(running)? {
            let is_one = name.starts_with("exits_") || name == "injected_exceptions";
            let grown = after.saturating_sub(self.before.get(&name).copied().unwrap_or(0));
            let expected = if self.counters.contains(&name.as_str()) { made } else { 0 };
            if is_one && !name.contains('[') && grown != expected {
                bail!(
                    "the guest made {made} exits, and {name} grew by {grown} instead of {expected}"
                );
            }
        }
        Ok(made)
    }

    fn order(&self, running: &Running, order: u8) -> Result<()> {
        let offset = self.order - RAM_BASE;
        running.memory().file().write_all_at(&[order], offset).context("giving the guest an order")
    }
}

fn counters_of(running: &Running) -> Result<CounterValues> {
    Ok(trace::read_statistics(&running.memory().open_path())?.into_iter().collect())
}

/// `guest: idles with exits of kind hvc until 0x40201000 changes`: the kind and the address.
fn parse_begin(line: &str) -> Option<(&str, u64)> {
    let (kind, rest) =
        line.strip_prefix("guest: idles with exits of kind ")?.split_once(" until 0x")?;
    let address = u64::from_str_radix(rest.strip_suffix(" changes")?, 16).ok()?;
    (address >= RAM_BASE).then_some((kind, address))
}

/// `guest: made 1234 exits of kind hvc`: how many.
fn parse_end(line: &str) -> Option<u64> {
    line.strip_prefix("guest: made ")?.split_once(" exits of kind ")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{parse_begin, parse_end};

    #[test]
    fn lines_of_a_phase_name_its_kind_its_orders_and_its_exits() {
        let line = "guest: idles with exits of kind hvc until 0x40201000 changes";
        assert_eq!(parse_begin(line), Some(("hvc", 0x4020_1000)));
        assert_eq!(parse_begin("guest: idles with exits of kind hvc until 0x0 changes"), None);
        assert_eq!(parse_end("guest: made 12 exits of kind hvc"), Some(12));
        assert_eq!(parse_end(line), None);
    }
}
