//! What a single access or flush costs at EL2: a CPU's load or store of a page that is mapped more
//! than once, and a flush beside few and beside many tables that stay as they are.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::changes::Changes;
use super::run::Setup;

/// What the names of flushes beside few and beside many tables end with.
const FEW_TABLES: &str = ", 8 tables";
const MANY_TABLES: &str = ", 512 tables";
/// By how much a flush may cost more beside many tables than beside few, in percent.
const MAX_GROWTH_PERCENT: f64 = 5.0;

/// A cost, in instructions at EL2.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Cost {
    /// Such as `ldp from-device 2 copies`.
    pub(super) name: String,
    /// On Oche as by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) oche: Option<f64>,
    /// On Oche without its trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) untraced: Option<f64>,
}

/// Adds what `setup` measured to `all`. Natively nothing is trapped, and without callers
/// nothing is added.
///
/// # Errors
///
/// Something did not trap, or nothing was measured.
pub(super) fn add(all: &mut Vec<Cost>, setup: Setup, measured: Vec<(String, f64)>) -> Result<()> {
    if matches!(setup, Setup::Native | Setup::WithoutCallers) {
        return Ok(());
    }
    ensure!(!measured.is_empty(), "no single access or flush was measured");
    for (name, cost) in measured {
        ensure!(cost > 0.0, "{name}: it did not trap");
        let index = all.iter().position(|known| known.name == name).unwrap_or(all.len());
        if index == all.len() {
            all.push(Cost { name, ..Cost::default() });
        }
        let costs = all.get_mut(index).context("the cost was added")?;
        match setup {
            Setup::Untraced => costs.untraced = Some(cost),
            _ => costs.oche = Some(cost),
        }
    }
    Ok(())
}

/// Checks that a flush costs little more beside many tables than beside few.
///
/// # Errors
///
/// One costs more than [`MAX_GROWTH_PERCENT`] more, or was not measured beside both.
pub(super) fn check_growth(flushes: &[(String, f64)]) -> Result<()> {
    let mut pairs = 0;
    for (name, many) in flushes {
        let Some(what) = name.strip_suffix(MANY_TABLES) else { continue };
        let is_same = |other: &&(String, f64)| other.0.strip_suffix(FEW_TABLES) == Some(what);
        let few = flushes.iter().find(is_same).map(|(_, few)| *few);
        let few = few.with_context(|| format!("{what} was not measured beside few tables"))?;
        ensure!(
            *many <= few * (1.0 + MAX_GROWTH_PERCENT / 100.0),
            "{what}: {few} instructions{FEW_TABLES}, {many}{MANY_TABLES}, more than \
             {MAX_GROWTH_PERCENT} % more"
        );
        pairs += 1;
    }
    ensure!(pairs != 0, "no flush was measured beside many tables");
    Ok(())
}

/// Compares `measured` with `recorded`.
///
/// # Errors
///
/// Something was measured and is not recorded, or the reverse.
pub(super) fn compare(measured: &[Cost], recorded: &[Cost], changes: &mut Changes) -> Result<()> {
    let is_same = measured.iter().map(|one| &one.name).eq(recorded.iter().map(|one| &one.name));
    ensure!(is_same, "other accesses or flushes are recorded than were measured");
    for (now, then) in measured.iter().zip(recorded) {
        for (setup, cost, then) in
            [(Setup::Oche, now.oche, then.oche), (Setup::Untraced, now.untraced, then.untraced)]
        {
            let name = format!("{}, {}", now.name, setup.name());
            let Some(cost) = cost else { continue };
            let then = then.with_context(|| format!("{name} is not recorded"))?;
            changes.take(then, cost, || format!("{name}: {then} -> {cost}"));
        }
    }
    Ok(())
}

/// The costs of each `what`, as a table in Markdown.
pub(super) fn table(what: &str, costs: &[Cost]) -> String {
    let mut table = format!("| {what} | EL2 | trace off |\n|---|---|---|\n");
    for Cost { name, oche, untraced } in costs {
        let (Some(oche), Some(untraced)) = (oche, untraced) else { continue };
        // Writing to a string does not fail.
        let _ = writeln!(table, "| {name} | {oche:.0} | {untraced:.0} |");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{Cost, add, check_growth, compare, table};
    use crate::measure::compare::changes::Changes;
    use crate::measure::compare::run::Setup;

    fn measured(cost: f64) -> Vec<(String, f64)> {
        vec![("ldp from-device 2 copies".into(), cost)]
    }

    fn costs(cost: f64) -> Vec<Cost> {
        let mut all = Vec::new();
        add(&mut all, Setup::Oche, measured(cost)).unwrap();
        add(&mut all, Setup::Native, measured(0.0)).unwrap();
        add(&mut all, Setup::Untraced, measured(cost - 40.0)).unwrap();
        all
    }

    #[test]
    fn an_access_may_cost_two_percent_more_and_no_more() {
        let recorded = costs(600.0);
        let worse = |cost| {
            let mut changes = Changes::default();
            compare(&costs(cost), &recorded, &mut changes).unwrap();
            (changes.compared, changes.worse)
        };
        assert_eq!(worse(611.0), (2, vec![]));
        let line = "ldp from-device 2 copies, oche: 600 -> 613 (+2.2 %)".to_owned();
        assert_eq!(worse(613.0).1.first(), Some(&line));
    }

    #[test]
    fn what_did_not_trap_or_is_not_recorded_is_an_error() {
        assert!(add(&mut Vec::new(), Setup::Oche, measured(0.0)).is_err());
        assert!(add(&mut Vec::new(), Setup::Oche, Vec::new()).is_err());
        let (one, mut changes) = (costs(600.0), Changes::default());
        assert!(compare(&one, &[], &mut changes).is_err());
        assert!(compare(&[], &one, &mut changes).is_err());
        let untraced = Cost { oche: None, ..one[0].clone() };
        assert!(compare(&one, &[untraced], &mut changes).is_err());
    }

    #[test]
    fn a_flush_may_cost_five_percent_more_beside_many_tables() {
        let check = |flushes: &[(&str, f64)]| {
            check_growth(
                &flushes.iter().map(|(name, cost)| ((*name).into(), *cost)).collect::<Vec<_>>(),
            )
        };
        assert!(check(&[("map, 8 tables", 2000.0), ("map, 512 tables", 2100.0)]).is_ok());
        let error = check(&[("map, 8 tables", 2000.0), ("map, 512 tables", 2101.0)]).unwrap_err();
        assert!(error.to_string().starts_with("map: 2000 instructions, 8 tables, 2101"), "{error}");
        assert!(check(&[("map, 512 tables", 2000.0)]).is_err());
        assert!(check(&[("map, 8 tables", 2000.0)]).is_err());
    }

    #[test]
    fn the_table_has_a_row_a_cost() {
        let table = table("access", &costs(600.0));
        assert!(table.starts_with("| access | EL2 |"), "{table}");
        assert!(table.ends_with("| ldp from-device 2 copies | 600 | 560 |\n"), "{table}");
    }
}
