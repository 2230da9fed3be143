//! The floor as tables in Markdown.

use std::fmt::Write;

use anyhow::Result;

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

/// The tables, each with the name of its place in the page.
///
/// # Errors
///
/// A cost was not measured.
pub(super) fn marked(floor: &Floor) -> Result<Vec<(&'static str, String)>> {
    Ok(vec![("exits", exits(floor)?), ("parts", parts(floor)), ("floor", cases(floor))])
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
    use super::{EXITS, Floor, marked};
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
        let tables = marked(&floor(costs)).unwrap();
        let page = std::fs::read_to_string(oche::workspace::root().join("docs/measurements.md"));
        let page = page.unwrap();
        for (name, _) in &tables {
            let has = |mark: String| page.contains(&mark);
            assert!(has(format!("<!-- {name} -->")) && has(format!("<!-- end of {name} -->")));
        }
        let [(_, exits), (_, parts), (_, cases)] = tables.try_into().unwrap();
        assert!(exits.contains("| store to a DART's register | 120 |\n"), "{exits}");
        assert!(exits.ends_with("and to read it | 108 |\n"), "{exits}");
        assert!(parts.contains("| part | one | reused 16 KiB |\n|---|---|---|\n"), "{parts}");
        assert!(parts.contains("| exit from the guest | 2 | 12 |\n"), "{parts}");
        assert!(parts.contains("| copy of a page | 1000000 | - |\n"), "{parts}");
        assert!(cases.contains("| reused 16 KiB | 42000001272 | 84000000000 | 2.0 |\n"), "{cases}");
    }
}
