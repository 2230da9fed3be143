//! The figures that were recorded: where they lie, and the check against them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use oche::progress::Step;
use oche::workspace;

use super::changes::{Changes, MAX_BETTER_PERCENT, MAX_PERCENT};
use super::comparison::Comparison;
use super::costs;
use crate::measure::page;

/// The recorded figures, below the checkout's top folder.
const FIGURES: &str = "tools/xtask/src/measure/compare/recorded.json";
/// What makes them anew.
const COMMAND: &str = "cargo xtask measure compare --record";

fn path(name: &str) -> PathBuf {
    workspace::root().join(name)
}

/// Reads the recorded figures.
///
/// # Errors
///
/// There are none, or they cannot be read.
pub(super) fn read() -> Result<Comparison> {
    let json = fs::read_to_string(path(FIGURES))
        .with_context(|| format!("cannot read {FIGURES}: record figures with `{COMMAND}`"))?;
    Comparison::parse(&json)
}

/// Records `comparison`, and puts its tables into the page about it.
///
/// # Errors
///
/// A file cannot be written, or the page has no place for a table.
pub(super) fn write(comparison: &Comparison) -> Result<()> {
    page::put_tables(&tables(comparison))?;
    workspace::write_whole(&path(FIGURES), comparison.json()?.as_bytes())
}

/// What encloses each table in the page, and the table.
fn tables(comparison: &Comparison) -> [(&'static str, String); 4] {
    [
        ("comparison", comparison.table()),
        ("trace", comparison.trace_table()),
        ("accesses", costs::table("access", &comparison.accesses)),
        ("flushes", costs::table("operation, and other tables in use", &comparison.flushes)),
    ]
}

/// Prints what has changed since the figures were recorded, and fails if one is worse, or so much
/// better that Oche may no longer do the work.
///
/// # Errors
///
/// Callers cost too much, or a figure is more than [`MAX_PERCENT`] worse or
/// [`MAX_BETTER_PERCENT`] better, or was not recorded.
pub(super) fn check(measured: &Comparison, recorded: &Comparison, step: &Step) -> Result<String> {
    let callers = measured.check_callers()?;
    let Changes { compared, worse, better, far_better } = measured.compare(recorded)?;
    let circumstances = measured.circumstances(recorded);
    circumstances.iter().for_each(|line| step.line(line));
    better.iter().for_each(|line| step.line(&format!("better: {line}")));
    worse.iter().for_each(|line| step.line(&format!("worse: {line}")));
    if !worse.is_empty() {
        let cause = if circumstances.is_empty() { "" } else { ", with another compiler or guest" };
        bail!(
            "{} of {compared} figures are more than {MAX_PERCENT} % worse than recorded{cause}; \
             if that is meant, record them with `{COMMAND}`",
            worse.len()
        );
    }
    if far_better != 0 {
        bail!(
            "{far_better} of {compared} figures are more than {MAX_BETTER_PERCENT} % better than \
             recorded: if Oche still maps all that it is asked for, record them with `{COMMAND}`"
        );
    }
    Ok(format!(
        "{compared} figures, none more than {MAX_PERCENT} % worse than recorded; the callers of a \
         flush cost at most {callers:.0}"
    ))
}

#[cfg(test)]
mod tests {
    use oche::progress::Step;

    use super::{check, page, read, tables};
    use crate::measure::compare::cases::MapCase;
    use crate::measure::compare::comparison::Comparison;
    use crate::measure::compare::run::Setup;

    #[test]
    fn every_case_is_recorded_on_every_setup() {
        let recorded = read().unwrap();
        let names: Vec<String> = recorded.cases.iter().map(|case| case.case.clone()).collect();
        assert_eq!(names, MapCase::all().iter().map(MapCase::to_string).collect::<Vec<_>>());
        for case in &recorded.cases {
            assert!(Setup::ALL.iter().all(|setup| case.of(*setup).is_some()), "{}", case.case);
        }
    }

    #[test]
    fn the_page_shows_the_recorded_figures() {
        let page = page::read().unwrap();
        let shown = page::with_tables(&page, &tables(&read().unwrap())).unwrap();
        assert_eq!(shown, page, "run {}", super::COMMAND);
    }

    #[test]
    fn the_check_fails_at_two_percent_more_and_says_how_to_record() {
        let recorded = read().unwrap();
        let grown = |factor: f64| {
            let mut grown = recorded.clone();
            let oche = grown.cases.first_mut().and_then(|case| case.oche.as_mut()).unwrap();
            oche.unmap *= factor;
            check(&grown, &recorded, &Step::silent())
        };
        assert!(grown(1.019).is_ok());
        let error = grown(1.021).unwrap_err().to_string();
        assert!(error.starts_with("1 of ") && error.contains("compare --record"), "{error}");
        assert!(grown(0.91).is_ok());
        let error = grown(0.89).unwrap_err().to_string();
        assert!(error.starts_with("1 of ") && error.contains("better than"), "{error}");
        let other = Comparison { compiler: "another".into(), ..recorded.clone() };
        assert!(check(&other, &recorded, &Step::silent()).is_ok());
    }

    #[test]
    fn the_check_fails_if_the_callers_of_a_flush_cost_more_than_300_instructions() {
        let recorded = read().unwrap();
        let with = |cost: f64| {
            let mut measured = recorded.clone();
            let case = measured.cases.last_mut().unwrap();
            let el2 = case.oche.unwrap().el2.unwrap();
            case.without_callers.as_mut().unwrap().el2 = Some(el2 - 2.0 * cost);
            check(&measured, &measured, &Step::silent()).map_err(|error| error.to_string())
        };
        assert!(with(300.0).unwrap().ends_with("cost at most 300"));
        assert!(
            with(300.6).unwrap_err().contains("cost 300.6 instructions at EL2, and may cost 300")
        );
        assert!(with(0.0).is_err(), "callers that cost nothing were not recorded");
    }
}
