//! What the counts of instructions add up to, by crate, file, function and line.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::Serialize;

use super::counts::Counts;
use super::symbols::{Place, Symbols};

/// Where the instructions of a case go, an operation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Profile {
    /// Such as `reused 4 KiB to-device`.
    pub(super) case: String,
    /// What an operation is.
    pub(super) operation: &'static str,
    /// How many were counted.
    pub(super) operations: f64,
    /// Instructions at EL2 of an operation.
    pub(super) instructions: f64,
    /// By crate; what is inlined from a library counts to the function of Oche's that it is in.
    pub(super) crates: Vec<Row>,
    /// By source file, the same.
    pub(super) files: Vec<Row>,
    /// By the innermost function of Oche's, inlined or not.
    pub(super) functions: Vec<Row>,
    /// By the innermost function, those of libraries as well.
    pub(super) innermost: Vec<Row>,
    /// By compiled function, with what is inlined into it.
    pub(super) compiled: Vec<CompiledRow>,
    /// By line.
    pub(super) lines: Vec<Row>,
}

/// A part of the instructions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    /// Instructions an operation.
    pub(super) instructions: f64,
}

/// A compiled function.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct CompiledRow {
    pub(super) name: String,
    /// Instructions an operation, those of functions that it calls apart.
    pub(super) instructions: f64,
    /// Calls an operation.
    pub(super) calls: f64,
    /// Instructions an operation with those of the functions that it calls: each call counts as the
    /// mean of all calls of the same function. Calls by pointer and recursive ones are not in it.
    pub(super) with_callees: f64,
}

impl Profile {
    /// Adds up `counts`, which were counted in `operations`.
    ///
    /// # Errors
    ///
    /// The debug information is broken.
    pub(super) fn new(
        (case, operation): (&str, &'static str),
        operations: f64,
        counts: &Counts,
        symbols: &Symbols,
    ) -> Result<Self> {
        let mut sums = Sums::default();
        for (address, count) in counts.executed() {
            sums.add(&symbols.places(address)?, count);
        }
        let each = |count: u64| count as f64 / operations;
        Ok(Self {
            case: case.to_owned(),
            operation,
            operations,
            instructions: each(counts.total()),
            crates: rows(sums.crates, each),
            files: rows(sums.files, each),
            functions: rows(sums.functions, each),
            innermost: rows(sums.innermost, each),
            compiled: compiled(counts, symbols, each),
            lines: rows(sums.lines, each),
        })
    }
}

/// Counts by name.
#[derive(Debug, Default)]
struct Sums {
    crates: BTreeMap<String, u64>,
    files: BTreeMap<String, u64>,
    functions: BTreeMap<String, u64>,
    innermost: BTreeMap<String, u64>,
    lines: BTreeMap<String, u64>,
}

impl Sums {
    /// Adds an instruction, the place of which is the first of `places`, inlined into the others.
    fn add(&mut self, places: &[Place], count: u64) {
        let Some(innermost) = places.first() else { return };
        let own = places.iter().find(|place| place.is_own).unwrap_or(innermost);
        let function = |place: &Place| format!("{} ({})", place.function, place.file);
        for (sums, name) in [
            (&mut self.crates, own.krate().to_owned()),
            (&mut self.files, own.file.clone()),
            (&mut self.functions, function(own)),
            (&mut self.innermost, function(innermost)),
            (&mut self.lines, format!("{}:{} {}", own.file, own.line, own.function)),
        ] {
            *sums.entry(name).or_default() += count;
        }
    }
}

/// The most expensive first.
fn rows(sums: BTreeMap<String, u64>, each: impl Fn(u64) -> f64) -> Vec<Row> {
    let rows = sums.into_iter().map(|(name, count)| Row { name, instructions: each(count) });
    let mut rows: Vec<Row> = rows.collect();
    rows.sort_by(|one, other| other.instructions.total_cmp(&one.instructions));
    rows
}

fn compiled(counts: &Counts, symbols: &Symbols, each: impl Fn(u64) -> f64) -> Vec<CompiledRow> {
    let calls = CallGraph::new(counts, symbols);
    let mut known = BTreeMap::new();
    let rows = calls.own.iter().map(|(start, own)| CompiledRow {
        name: symbols.function_at(*start).1.to_owned(),
        instructions: each(*own),
        calls: each(counts.at(*start)),
        with_callees: each(calls.with_callees(*start, &mut BTreeSet::new(), &mut known) as u64),
    });
    let mut rows: Vec<CompiledRow> = rows.collect();
    rows.sort_by(|one, other| other.instructions.total_cmp(&one.instructions));
    rows
}

/// Compiled functions by their start, and how often which called which.
#[derive(Debug)]
struct CallGraph<'counts> {
    counts: &'counts Counts,
    own: BTreeMap<u64, u64>,
    callees: BTreeMap<u64, BTreeMap<u64, u64>>,
}

impl<'counts> CallGraph<'counts> {
    fn new(counts: &'counts Counts, symbols: &Symbols) -> Self {
        let (mut own, mut callees) = (BTreeMap::new(), BTreeMap::new());
        for (address, count) in counts.executed() {
            let (start, _) = symbols.function_at(address);
            *own.entry(start).or_default() += count;
            if let Some(callee) = symbols.callee(address) {
                let of_caller: &mut BTreeMap<_, _> = callees.entry(start).or_default();
                *of_caller.entry(callee).or_default() += count;
            }
        }
        Self { counts, own, callees }
    }

    /// Instructions of the function at `start` and of what it calls; `open` are its callers.
    fn with_callees(
        &self,
        start: u64,
        open: &mut BTreeSet<u64>,
        known: &mut BTreeMap<u64, f64>,
    ) -> f64 {
        if let Some(known) = known.get(&start) {
            return *known;
        }
        if !open.insert(start) {
            return 0.0;
        }
        let mut sum = self.own.get(&start).copied().unwrap_or(0) as f64;
        for (callee, calls) in self.callees.get(&start).into_iter().flatten() {
            let all_calls = self.counts.at(*callee).max(1) as f64;
            sum += *calls as f64 / all_calls * self.with_callees(*callee, open, known);
        }
        open.remove(&start);
        known.insert(start, sum);
        sum
    }
}

#[cfg(test)]
mod tests;
