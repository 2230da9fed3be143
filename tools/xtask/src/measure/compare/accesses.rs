//! What a CPU's load or store costs at EL2 on a page that is mapped more than once.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::changes::Changes;
use super::run::Setup;

/// The cost of an access, in instructions at EL2.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct AccessFigures {
    /// Such as `ldp from-device 2 copies`.
    pub(super) access: String,
    /// On Oche as by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) oche: Option<f64>,
    /// On Oche without its trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) untraced: Option<f64>,
}

/// Adds what `setup` measured to `all`. Natively nothing is trapped, and callers are recorded at
/// flushes only.
///
/// # Errors
///
/// An access was not trapped, or was measured on one setup only.
pub(super) fn add(
    all: &mut Vec<AccessFigures>,
    setup: Setup,
    measured: Vec<(String, f64)>,
) -> Result<()> {
    if matches!(setup, Setup::Native | Setup::Callers) {
        return Ok(());
    }
    ensure!(!measured.is_empty(), "no access to a trapped page was measured");
    for (access, cost) in measured {
        ensure!(cost > 0.0, "{access}: the access did not trap");
        let index = all.iter().position(|known| known.access == access).unwrap_or(all.len());
        if index == all.len() {
            all.push(AccessFigures { access, ..AccessFigures::default() });
        }
        let figures = all.get_mut(index).context("the access was added")?;
        match setup {
            Setup::Untraced => figures.untraced = Some(cost),
            _ => figures.oche = Some(cost),
        }
    }
    Ok(())
}

/// Compares `measured` with `recorded`.
///
/// # Errors
///
/// An access was measured and is not recorded, or the reverse.
pub(super) fn compare(
    measured: &[AccessFigures],
    recorded: &[AccessFigures],
    changes: &mut Changes,
) -> Result<()> {
    let is_same = measured.iter().map(|one| &one.access).eq(recorded.iter().map(|one| &one.access));
    ensure!(is_same, "other accesses to trapped pages are recorded than were measured");
    for (now, then) in measured.iter().zip(recorded) {
        let access = &now.access;
        for (setup, now, then) in
            [(Setup::Oche, now.oche, then.oche), (Setup::Untraced, now.untraced, then.untraced)]
        {
            let name = format!("{access}, {}", setup.name());
            let Some(now) = now else { continue };
            let then = then.with_context(|| format!("{name} is not recorded"))?;
            changes.take(then, now, || format!("{name}: {then} -> {now}"));
        }
    }
    Ok(())
}

/// The costs as a table in Markdown.
pub(super) fn table(accesses: &[AccessFigures]) -> String {
    let mut table = String::from("| access | EL2 | trace off |\n|---|---|---|\n");
    for AccessFigures { access, oche, untraced } in accesses {
        let (Some(oche), Some(untraced)) = (oche, untraced) else { continue };
        // Writing to a string does not fail.
        let _ = writeln!(table, "| {access} | {oche:.0} | {untraced:.0} |");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{AccessFigures, add, compare, table};
    use crate::measure::compare::changes::Changes;
    use crate::measure::compare::run::Setup;

    fn measured(cost: f64) -> Vec<(String, f64)> {
        vec![("ldp from-device 2 copies".into(), cost)]
    }

    fn figures(cost: f64) -> Vec<AccessFigures> {
        let mut all = Vec::new();
        add(&mut all, Setup::Oche, measured(cost)).unwrap();
        add(&mut all, Setup::Native, measured(0.0)).unwrap();
        add(&mut all, Setup::Untraced, measured(cost - 40.0)).unwrap();
        all
    }

    #[test]
    fn an_access_may_cost_two_percent_more_and_no_more() {
        let recorded = figures(600.0);
        let worse = |cost| {
            let mut changes = Changes::default();
            compare(&figures(cost), &recorded, &mut changes).unwrap();
            (changes.compared, changes.worse)
        };
        assert_eq!(worse(611.0), (2, vec![]));
        let line = "ldp from-device 2 copies, oche: 600 -> 613 (+2.2 %)".to_owned();
        assert_eq!(worse(613.0).1.first(), Some(&line));
    }

    #[test]
    fn an_access_that_did_not_trap_or_is_not_recorded_is_an_error() {
        assert!(add(&mut Vec::new(), Setup::Oche, measured(0.0)).is_err());
        assert!(add(&mut Vec::new(), Setup::Oche, Vec::new()).is_err());
        let (one, mut changes) = (figures(600.0), Changes::default());
        assert!(compare(&one, &[], &mut changes).is_err());
        assert!(compare(&[], &one, &mut changes).is_err());
        let untraced = AccessFigures { oche: None, ..one[0].clone() };
        assert!(compare(&one, &[untraced], &mut changes).is_err());
    }

    #[test]
    fn the_table_has_a_row_an_access() {
        assert!(table(&figures(600.0)).ends_with("| ldp from-device 2 copies | 600 | 560 |\n"));
    }
}
