//! The floor as tables in Markdown.

use std::fmt::Write;

use anyhow::{Result, ensure};

use super::work::Floor;
use crate::measure::parts::cost;

/// What an exit costs: a name for people, and the measured one.
const EXITS: [(&str, &str); 9] = [
    ("`HVC` that Oche refuses: the cheapest exit", "hvc"),
    ("`SMC`, `PSCI_VERSION`", "smc"),
    ("load of a DART's register", "register-load"),
    ("store to a DART's register", "register-store"),
    ("load of a DART's register that says whether it is busy", "busy-load"),
    ("flush in which nothing has changed", "empty-flush"),
    ("store to a page with two copies that devices read", "copies-read-store"),
    ("load from a page with two copies that devices may write", "copies-written-load"),
    ("store to a page with two copies that devices may write", "copies-written-store"),
];

/// What is measured beside another DART, and whether it is while other CPUs use that.
const BESIDE: [(&str, &str, bool); 3] = [
    ("load of a DART's register", "load", true),
    ("load of a DART's register that says whether it is busy", "busy", true),
    ("a 4 KiB page mapped and unmapped", "map", false),
];

/// In how many polls the other DART must still be busy after the measurement.
const MIN_POLLS: f64 = 2.0;
/// How many times as much an access may cost beside another DART.
const MAX_BESIDE: f64 = 1.01;

/// The tables, each with the name of its place in the page.
///
/// # Errors
///
/// A cost was not measured, or [`beside`] fails.
pub(super) fn marked(floor: &Floor) -> Result<Vec<(&'static str, String)>> {
    Ok(vec![
        ("exits", exits(floor)?),
        ("beside", beside(floor)?),
        ("parts", parts(floor)),
        ("floor", cases(floor)),
    ])
}

fn exits(floor: &Floor) -> Result<String> {
    let mut table = String::from("| exit | instructions at EL2 |\n|---|---|\n");
    for (title, name) in EXITS {
        // Writing to a string does not fail.
        let _ = writeln!(table, "| {title} | {:.0} |", cost(&floor.costs, name)?);
    }
    let cost = |name| cost(&floor.costs, name);
    let access = cost("register-load")? - cost("hvc")? - cost("event-register")?;
    let _ = writeln!(
        table,
        "| of the load: to decode the access, to find the register and to read it | {access:.0} |"
    );
    Ok(table)
}

/// What accesses to a DART cost beside another DART.
///
/// # Errors
///
/// A cost was not measured, the other DART had too little work left, or an access did some of it.
fn beside(floor: &Floor) -> Result<String> {
    let cost = |when: &str, name: &str| cost(&floor.costs, &format!("{when}-{name}"));
    let mut table = String::from(
        "| access | no other DART is used | another has work left | other CPUs use another |\n\
         |---|---|---|---|\n",
    );
    for (title, name, is_used) in BESIDE {
        let alone = cost("alone", name)?;
        // Writing to a string does not fail.
        let _ = write!(table, "| {title} | {alone:.0} |");
        for (when, is_measured) in [("left", true), ("used", is_used)] {
            if !is_measured {
                table += " - |";
                continue;
            }
            let other = cost(when, name)?;
            ensure!(
                other <= MAX_BESIDE * alone,
                "{title}: {alone} instructions, and {other} beside another DART ({when})"
            );
            let _ = write!(table, " {other:.0} |");
        }
        table.push('\n');
    }
    let polls = cost("left", "polls")?;
    ensure!(polls >= MIN_POLLS, "the other DART was busy in {polls} polls after the measurement");
    Ok(table)
}

/// A row for each part: what one costs, and what it adds to each case.
fn parts(floor: &Floor) -> String {
    let mut table = String::from("| part | one |");
    for case in &floor.cases {
        let _ = write!(table, " {} |", case.case);
    }
    table += "\n|---|---|";
    table += &"---|".repeat(floor.cases.len());
    table.push('\n');
    for (place, part) in floor.parts.iter().enumerate() {
        let _ = write!(table, "| {} | {:.0} |", part.name, part.instructions);
        for case in &floor.cases {
            match case.parts.get(place) {
                Some(instructions) if *instructions > 0.0 => {
                    let _ = write!(table, " {instructions:.0} |");
                }
                _ => table += " - |",
            }
        }
        table.push('\n');
    }
    table
}

fn cases(floor: &Floor) -> String {
    let mut table =
        String::from("| case | floor | measured | measured / floor |\n|---|---|---|---|\n");
    for case in &floor.cases {
        let times = case.measured / case.floor;
        let _ = writeln!(
            table,
            "| {} | {:.0} | {:.0} | {times:.1} |",
            case.case, case.floor, case.measured
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{BESIDE, EXITS, Floor, marked};
    use crate::measure::compare::MapCost;
    use crate::measure::floor::work::tests::costs;

    #[test]
    fn tables_have_a_row_for_each_exit_part_and_case() {
        let mut costs = costs();
        let measured = [MapCost { case: "reused 16 KiB".into(), kib: 16, el2: 84e9 }];
        let floor = |costs| Floor::new(costs, &measured).unwrap();
        assert!(marked(&floor(costs.clone())).is_err(), "exits were not measured");
        costs.extend(EXITS.map(|(_, name)| (name.to_owned(), 120.0)));
        costs.insert("hvc".to_owned(), 2.0);
        for when in ["alone", "left", "used"] {
            costs.extend(BESIDE.map(|(_, name, _)| (format!("{when}-{name}"), 200.0)));
        }
        costs.insert("left-polls".to_owned(), 2.0);
        let with = |name: &str, cost| {
            let mut costs = costs.clone();
            costs.insert(name.to_owned(), cost);
            floor(costs)
        };
        assert!(marked(&with("left-polls", 1.0)).is_err(), "too little was left");
        for name in ["left-map", "left-load", "used-busy"] {
            assert!(marked(&with(name, 203.0)).is_err(), "{name}");
        }
        let tables = marked(&floor(costs)).unwrap();
        let page = std::fs::read_to_string(oche::workspace::root().join("docs/measurements.md"));
        let page = page.unwrap();
        for (name, _) in &tables {
            let has = |mark: String| page.contains(&mark);
            assert!(has(format!("<!-- {name} -->")) && has(format!("<!-- end of {name} -->")));
        }
        let [(_, exits), (_, beside), (_, parts), (_, cases)] = tables.try_into().unwrap();
        assert!(exits.contains("| store to a DART's register | 120 |\n"), "{exits}");
        assert!(exits.ends_with("and to read it | 108 |\n"), "{exits}");
        assert!(beside.contains("| load of a DART's register | 200 | 200 | 200 |\n"), "{beside}");
        assert!(parts.contains("| part | one | reused 16 KiB |\n|---|---|---|\n"), "{parts}");
        assert!(parts.contains("| exit from the guest | 2 | 12 |\n"), "{parts}");
        assert!(parts.contains("| copy of a page | 1000000 | - |\n"), "{parts}");
        assert!(cases.contains("| reused 16 KiB | 42000001272 | 84000000000 | 2.0 |\n"), "{cases}");
    }
}
