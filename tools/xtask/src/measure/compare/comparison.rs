//! The figures of a comparison: as JSON, as a table, and against those that were recorded.

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::changes::Changes;
use super::costs::{self, Cost};
use super::run::{Figures, Setup};

/// What the callers of a flush may cost, in instructions at EL2.
const MAX_CALLER_INSTRUCTIONS: f64 = 300.0;
/// Flushes of an operation: a map and an unmap.
const FLUSHES: f64 = 2.0;

/// A comparison, with what it depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Comparison {
    /// The guest's kernel: release, package, version.
    pub(super) kernel: String,
    /// The compiler of Oche.
    pub(super) compiler: String,
    /// QEMU's version.
    pub(super) qemu: String,
    /// The cases, in the order in which they ran.
    pub(super) cases: Vec<CaseFigures>,
    /// Accesses to trapped pages, in the order in which they ran.
    pub(super) accesses: Vec<Cost>,
    /// Flushes beside other tables, in the order in which they ran.
    pub(super) flushes: Vec<Cost>,
}

/// The figures of a case; what was not measured is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct CaseFigures {
    /// Such as `reused 4 KiB to-device`.
    pub(super) case: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) native: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) oche: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) without_callers: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) untraced: Option<Figures>,
}

impl CaseFigures {
    /// The figures on `setup`.
    pub(super) fn of(&self, setup: Setup) -> Option<&Figures> {
        match setup {
            Setup::Native => self.native.as_ref(),
            Setup::Oche => self.oche.as_ref(),
            Setup::WithoutCallers => self.without_callers.as_ref(),
            Setup::Untraced => self.untraced.as_ref(),
        }
    }

    /// What the callers of a flush cost, in instructions at EL2.
    fn of_callers(&self) -> Option<f64> {
        let el2 = |figures: Option<Figures>| figures.and_then(|figures| figures.el2);
        Some((el2(self.oche)? - el2(self.without_callers)?) / FLUSHES)
    }

    /// Sets the figures on `setup`.
    pub(super) fn set(&mut self, setup: Setup, figures: Figures) {
        let place = match setup {
            Setup::Native => &mut self.native,
            Setup::Oche => &mut self.oche,
            Setup::WithoutCallers => &mut self.without_callers,
            Setup::Untraced => &mut self.untraced,
        };
        *place = Some(figures);
    }
}

impl Figures {
    /// The figures that are there, by name.
    fn named(&self) -> impl Iterator<Item = (&'static str, f64)> {
        [
            ("map", Some(self.map)),
            ("unmap", Some(self.unmap)),
            ("el2", self.el2),
            ("traps", self.traps),
            ("trapped_accesses", self.trapped_accesses),
            ("tlb_broadcasts", self.tlb_broadcasts),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
    }
}

impl Comparison {
    /// Reads the JSON that [`Self::json`] gives.
    ///
    /// # Errors
    ///
    /// It is no such JSON.
    pub(super) fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).context("the recorded figures")
    }

    /// All of it as JSON, with a line's end.
    ///
    /// # Errors
    ///
    /// A figure is no number.
    pub(super) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).context("the figures")? + "\n")
    }

    /// Compares what was measured with what was `recorded`.
    ///
    /// # Errors
    ///
    /// A case or a figure that was measured is not recorded, or a figure that is recorded was not
    /// measured.
    pub(super) fn compare(&self, recorded: &Self) -> Result<Changes> {
        let mut changes = Changes::default();
        costs::compare(&self.accesses, &recorded.accesses, &mut changes)?;
        costs::compare(&self.flushes, &recorded.flushes, &mut changes)?;
        for measured in &self.cases {
            let name = &measured.case;
            let known = recorded.cases.iter().find(|known| known.case == *name);
            let known = known.with_context(|| format!("no figures are recorded of {name}"))?;
            for setup in [Setup::Oche, Setup::WithoutCallers, Setup::Untraced] {
                let Some(now) = measured.of(setup) else { continue };
                let Some(then) = known.of(setup) else {
                    bail!("no figures of {name} are recorded for {}", setup.name())
                };
                let is_lost =
                    |(name, _): &(&str, f64)| now.named().all(|(known, _)| known != *name);
                if let Some((figure, _)) = then.named().find(is_lost) {
                    bail!("{figure} of {name} is recorded and was not measured")
                }
                for (figure, now) in now.named() {
                    let then = then.named().find(|(known, _)| *known == figure);
                    let (_, then) =
                        then.with_context(|| format!("{figure} of {name} is not recorded"))?;
                    let line = || format!("{name}, {}, {figure}: {then} -> {now}", setup.name());
                    changes.take(then, now, line);
                }
            }
        }
        Ok(changes)
    }

    /// What was recorded under other circumstances, a line each: a cause of other figures.
    pub(super) fn circumstances(&self, recorded: &Self) -> Vec<String> {
        [
            ("kernel", &recorded.kernel, &self.kernel),
            ("compiler", &recorded.compiler, &self.compiler),
            ("QEMU", &recorded.qemu, &self.qemu),
        ]
        .into_iter()
        .filter(|(_, then, now)| then != now)
        .map(|(name, then, now)| format!("{name}: recorded with {then}, this is {now}"))
        .collect()
    }

    /// The comparison as a table in Markdown: native, Oche, and how often the one is the other.
    pub(super) fn table(&self) -> String {
        let mut table = String::from(
            "| case | native map / unmap | Oche map / unmap | ratio | EL2 | traps | trapped accesses | TLB broadcasts |\n\
             |---|---|---|---|---|---|---|---|\n",
        );
        for case in &self.cases {
            let (Some(native), Some(oche)) = (case.native, case.oche) else { continue };
            let count =
                |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2}"));
            // Writing to a string does not fail.
            let _ = writeln!(
                table,
                "| {} | {} / {} | {} / {} | {:.1} / {:.1} | {} | {} | {} | {} |",
                case.case,
                thousands(native.map),
                thousands(native.unmap),
                thousands(oche.map),
                thousands(oche.unmap),
                oche.map / native.map,
                oche.unmap / native.unmap,
                oche.el2.map_or("-".into(), thousands),
                count(oche.traps),
                count(oche.trapped_accesses),
                count(oche.tlb_broadcasts),
            );
        }
        table
    }

    /// What the callers of a flush cost at most, in instructions at EL2: a map is one flush, and so
    /// is an unmap.
    ///
    /// # Errors
    ///
    /// A case costs more than [`MAX_CALLER_INSTRUCTIONS`] for a flush, or they were not measured.
    pub(super) fn check_callers(&self) -> Result<f64> {
        let costs = self.cases.iter().map(|case| {
            let name = &case.case;
            let cost = case.of_callers().with_context(|| format!("{name}: no cost of callers"))?;
            ensure!(
                cost > 0.0 && cost <= MAX_CALLER_INSTRUCTIONS,
                "{name}: the callers of a flush cost {cost:.1} instructions at EL2, and may cost \
                 {MAX_CALLER_INSTRUCTIONS}"
            );
            Ok(cost)
        });
        costs.reduce(|one, other| Ok(one?.max(other?))).context("no case was measured")?
    }

    /// What the trace costs, as a table in Markdown: instructions at EL2 an operation.
    pub(super) fn trace_table(&self) -> String {
        let mut table = String::from(
            "| case | EL2, trace off | without callers | as by default | callers of a flush |\n\
             |---|---|---|---|---|\n",
        );
        for case in &self.cases {
            let el2 = |setup| case.of(setup).and_then(|figures| figures.el2);
            let (Some(off), Some(on)) = (el2(Setup::Untraced), el2(Setup::Oche)) else { continue };
            let (Some(without), Some(callers)) = (el2(Setup::WithoutCallers), case.of_callers())
            else {
                continue;
            };
            let added =
                |more: f64| format!("{} (+{:.1} %)", thousands(more), 100.0 * (more / off - 1.0));
            let _ = writeln!(
                table,
                "| {} | {} | {} | {} | {callers:.0} |",
                case.case,
                thousands(off),
                added(without),
                added(on),
            );
        }
        table
    }
}

/// Instructions for a person: `12 345`.
fn thousands(instructions: f64) -> String {
    let digits = format!("{instructions:.0}");
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests;
