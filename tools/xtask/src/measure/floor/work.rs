//! The parts that a map and its unmap cannot do without, and how many of each a case has.

use anyhow::Result;
use serde::Serialize;

use crate::measure::compare::MapCost;
use crate::measure::parts::{Costs, cost};

/// Slots of a granule.
const SLOTS: u32 = 4;
/// Accesses to registers in a flush: select, invalidate, wait.
const ACCESSES: u32 = 3;

/// What was measured, and what it makes of the cases.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Floor {
    /// Instructions at EL2 by name.
    pub(super) costs: Costs,
    /// The parts of a map and unmap.
    pub(super) parts: Vec<Part>,
    pub(super) cases: Vec<CaseFloor>,
}

impl Floor {
    /// # Errors
    ///
    /// A cost was not measured.
    pub(super) fn new(costs: Costs, measured: &[MapCost]) -> Result<Self> {
        let parts = parts(&costs)?;
        let cases = measured.iter().map(|cost| CaseFloor::new(cost, &parts));
        Ok(Self { cases: cases.collect(), costs, parts })
    }
}

/// A part of a map and unmap.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Part {
    pub(super) name: &'static str,
    /// Instructions of one.
    pub(super) instructions: f64,
    /// How many of it a map of so many pages has, with its unmap.
    #[serde(skip)]
    pub(super) count: fn(Pages) -> u32,
}

/// What a case maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    /// Pages that fill no granule, all in one, and so migrate.
    pub(super) migrated: u32,
    /// Pages that fill granules.
    pub(super) direct: u32,
}

/// What a case costs, and what it must cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct CaseFloor {
    pub(super) case: String,
    /// Instructions of its parts, in their order.
    pub(super) parts: Vec<f64>,
    /// The sum of these.
    pub(super) floor: f64,
    /// What was measured.
    pub(super) measured: f64,
}

impl Pages {
    fn of(kib: u32) -> Self {
        match kib / 4 {
            pages if pages.is_multiple_of(SLOTS) => Self { migrated: 0, direct: pages },
            pages => Self { migrated: pages, direct: 0 },
        }
    }

    fn is_migrated(self) -> u32 {
        u32::from(self.migrated > 0)
    }
}

impl CaseFloor {
    pub(super) fn new(cost: &MapCost, parts: &[Part]) -> Self {
        let pages = Pages::of(cost.kib);
        let instructions =
            parts.iter().map(|part| part.instructions * f64::from((part.count)(pages)));
        let parts: Vec<f64> = instructions.collect();
        Self { case: cost.case.clone(), floor: parts.iter().sum(), parts, measured: cost.el2 }
    }
}

/// The parts with their measured costs: for the flush of the map and that of the unmap.
///
/// # Errors
///
/// A cost was not measured.
fn parts(costs: &Costs) -> Result<Vec<Part>> {
    let cost = |name| cost(costs, name);
    let (break_one, break_two) = (cost("break-1")?, cost("break-2")?);
    let part = |name, instructions, count| Part { name, instructions, count };
    Ok(vec![
        part("exit from the guest", cost("hvc")?, |_| 2 * ACCESSES),
        part("event `register`", cost("event-register")?, |_| 2 * ACCESSES),
        part("comparison of a table", cost("compare")?, |_| 2),
        part("invalidation of the IOMMU", cost("invalidation")?, |_| 1),
        part("break-before-make, first page", break_one, |pages| 2 * pages.is_migrated()),
        part("break-before-make, further page", break_two - break_one, |pages| {
            2 * pages.migrated.saturating_sub(1)
        }),
        part("copy of a page", cost("copy")?, |pages| 2 * pages.migrated),
        part("scan of a red zone", cost("scan")?, |pages| {
            (SLOTS - pages.migrated) * pages.is_migrated()
        }),
        part("red zone written", cost("fill")?, |pages| pages.migrated),
        part(
            "events `flush` and `flush_done`",
            cost("event-flush")? + cost("event-flush_done")?,
            |_| 2,
        ),
        part("events `map` and `unmap`", cost("event-map")? + cost("event-unmap")?, |pages| {
            pages.migrated + pages.direct
        }),
        part("event `moved`", cost("event-moved")?, |pages| 2 * pages.migrated),
    ])
}

#[cfg(test)]
pub(super) mod tests {
    use super::{CaseFloor, MapCost, Pages, parts};
    use crate::measure::parts::Costs;

    /// Each cost a power of ten, so that a sum's digits are its counts.
    pub(crate) fn costs() -> Costs {
        let costs = [
            ("hvc", 1.0),
            ("event-register", 10.0),
            ("compare", 100.0),
            ("invalidation", 1e3),
            ("break-1", 1e4),
            ("break-2", 1.1e5),
            ("copy", 1e6),
            ("scan", 1e7),
            ("fill", 1e8),
            ("event-flush", 1e9),
            ("event-flush_done", 0.0),
            ("event-map", 1e10),
            ("event-unmap", 0.0),
            ("event-moved", 1e12),
        ];
        costs.map(|(name, cost)| (name.to_owned(), cost)).into()
    }

    #[test]
    fn the_floor_of_a_case_is_the_sum_of_its_parts() {
        let parts = parts(&costs()).unwrap();
        for (kib, floor) in [
            (4, 2_012_132_021_266.0),
            (8, 4_022_224_221_266.0),
            (16, 42_000_001_266.0),
            (64, 162_000_001_266.0),
        ] {
            let cost = MapCost { case: "case".into(), kib, el2: 7.0 };
            let case = CaseFloor::new(&cost, &parts);
            assert!((case.floor - floor).abs() < 1.0, "{kib} KiB: {}", case.floor);
            assert!((case.parts.iter().sum::<f64>() - case.floor).abs() < 1.0);
            assert!((case.measured - 7.0).abs() < 1e-9);
        }
    }

    #[test]
    fn pages_migrate_unless_they_fill_a_granule() {
        assert_eq!(Pages::of(8), Pages { migrated: 2, direct: 0 });
        assert_eq!(Pages::of(64), Pages { migrated: 0, direct: 16 });
    }

    #[test]
    fn a_part_without_a_cost_is_an_error() {
        let mut costs = costs();
        costs.remove("scan");
        assert!(parts(&costs).unwrap_err().to_string().contains("`scan`"));
    }
}
