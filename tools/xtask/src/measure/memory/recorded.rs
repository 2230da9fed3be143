//! The figures of memory and boot: their tables, where they are recorded, and the check.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use oche::workspace;
use serde::{Deserialize, Serialize};

use super::plan::MemoryUse;
use crate::measure::page;

/// The recorded figures, below the checkout's top folder.
const FIGURES: &str = "tools/xtask/src/measure/memory/recorded.json";
/// What makes them anew.
const COMMAND: &str = "cargo xtask measure memory --record";
/// What Oche may take of 8 GiB.
const BOUND_GIB: u64 = 8;
const BOUND_BYTES: u64 = 300 << 20;
/// By how much a figure may be worse than recorded.
const MAX_PERCENT: u64 = 2;

/// A boot of qemu-virt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Boot {
    pub(super) gib: u64,
    /// The size of the guest's kernel, which is copied and cleaned.
    pub(super) kernel_mib: u64,
    pub(super) instructions: u64,
}

/// All figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) memory: Vec<MemoryUse>,
    pub(super) boots: Vec<Boot>,
}

impl Measured {
    /// # Errors
    ///
    /// None that can occur.
    pub(super) fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Compares with the figures that were recorded, and with the bound.
    ///
    /// # Errors
    ///
    /// A figure is too large.
    pub(super) fn check(&self, recorded: &Self) -> Result<String> {
        let mut worse = Vec::new();
        for memory in &self.memory {
            let total = memory.total();
            let machine = format!("{} with {} GiB", memory.board, memory.ram_gib);
            if memory.ram_gib == BOUND_GIB && total > BOUND_BYTES {
                bail!("{machine}: Oche takes {} MiB, more than {}", mib(total), mib(BOUND_BYTES));
            }
            let same = |other: &&MemoryUse| {
                (&other.board, other.ram_gib) == (&memory.board, memory.ram_gib)
            };
            let before = recorded.memory.iter().find(same).map(MemoryUse::total);
            worse.extend(compare(&machine, before, total));
        }
        for boot in &self.boots {
            let same = |other: &&Boot| (other.gib, other.kernel_mib) == (boot.gib, boot.kernel_mib);
            let before = recorded.boots.iter().find(same).map(|boot| boot.instructions);
            worse.extend(compare(&format!("boot, {} GiB", boot.gib), before, boot.instructions));
        }
        if !worse.is_empty() {
            bail!("{}; if that is meant, run `{COMMAND}`", worse.join("; "));
        }
        let most = self.memory.iter().filter(|memory| memory.ram_gib == BOUND_GIB);
        let most = most.map(MemoryUse::total).max().unwrap_or(0);
        Ok(format!("at most {} of {} MiB for {BOUND_GIB} GiB", mib(most), mib(BOUND_BYTES)))
    }

    /// Memory by part, a column for each machine, in MiB.
    pub(super) fn memory_table(&self) -> String {
        let mut table = String::from("| MiB |");
        for memory in &self.memory {
            let _ = write!(table, " {}, {} GiB |", memory.board, memory.ram_gib);
        }
        table.push_str("\n|---|");
        table.push_str(&"---:|".repeat(self.memory.len()));
        table.push('\n');
        let parts = self.memory.first().map(|memory| memory.parts.as_slice()).unwrap_or_default();
        for part in parts {
            let figures = self.memory.iter().map(|memory| memory.part(&part.name));
            row(&mut table, &part.name, figures);
        }
        row(&mut table, "**all**", self.memory.iter().map(|memory| Some(memory.total())));
        table
    }

    /// Instructions of boot.
    pub(super) fn boot_table(&self) -> String {
        let mut table = String::from(
            "| RAM of qemu-virt | guest's kernel | instructions until it is entered |\n\
             |---|---|---:|\n",
        );
        for boot in &self.boots {
            let Boot { gib, kernel_mib, instructions } = boot;
            let millions = *instructions as f64 / 1e6;
            let _ = writeln!(table, "| {gib} GiB | {kernel_mib} MiB | {millions:.1} million |");
        }
        table
    }
}

fn row(table: &mut String, name: &str, figures: impl Iterator<Item = Option<u64>>) {
    let _ = write!(table, "| {name} |");
    for bytes in figures {
        let _ = write!(table, " {} |", bytes.map_or("-".to_owned(), mib));
    }
    table.push('\n');
}

/// Bytes in MiB, with one digit.
fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / (1 << 20) as f64)
}

/// A line if `now` is worse than `before`.
fn compare(what: &str, before: Option<u64>, now: u64) -> Option<String> {
    match before {
        None => Some(format!("{what}: not recorded")),
        Some(before) if now > before + before * MAX_PERCENT / 100 => {
            Some(format!("{what}: {now} instead of {before}"))
        }
        Some(_) => None,
    }
}

fn path(name: &str) -> PathBuf {
    workspace::root().join(name)
}

/// Reads the recorded figures.
///
/// # Errors
///
/// There are none, or they cannot be read.
pub(super) fn read() -> Result<Measured> {
    let json = fs::read_to_string(path(FIGURES))
        .with_context(|| format!("cannot read {FIGURES}: record figures with `{COMMAND}`"))?;
    serde_json::from_str(&json).with_context(|| format!("{FIGURES} is damaged"))
}

/// Records the figures, and puts the tables into the page about them.
///
/// # Errors
///
/// A file cannot be written, or the page has no place for a table.
pub(super) fn write(measured: &Measured) -> Result<()> {
    page::put_tables(&tables(measured))?;
    workspace::write_whole(&path(FIGURES), measured.json()?.as_bytes())
}

/// The tables in the page about them, with their names.
fn tables(measured: &Measured) -> [(&'static str, String); 2] {
    [("memory", measured.memory_table()), ("boot", measured.boot_table())]
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Board, compute};
    use super::{BOUND_BYTES, page, read, tables};

    #[test]
    fn the_page_shows_the_recorded_figures() {
        let page = page::read().unwrap();
        let shown = page::with_tables(&page, &tables(&read().unwrap())).unwrap();
        assert_eq!(shown, page, "run {}", super::COMMAND);
    }

    #[test]
    fn of_8_gib_at_most_300_mib_are_taken() {
        for board in [Board::M1, Board::QemuVirt] {
            let memory = compute(board, 8, 4 << 20).unwrap();
            assert!(memory.total() <= BOUND_BYTES, "{memory:#?}");
        }
    }

    #[test]
    fn the_check_fails_above_the_bound_and_at_more_than_two_percent_more() {
        let recorded = read().unwrap();
        assert!(recorded.check(&recorded).is_ok());
        let mut slow = recorded.clone();
        slow.boots[0].instructions += slow.boots[0].instructions / 40;
        assert!(slow.check(&recorded).unwrap_err().to_string().contains("--record"));
        let mut large = recorded.clone();
        large.memory[0].parts[0].bytes += BOUND_BYTES;
        assert!(large.check(&large).unwrap_err().to_string().contains("more than 300.0"));
    }
}
