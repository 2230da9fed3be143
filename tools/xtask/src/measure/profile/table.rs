//! A profile as text.

use std::fmt::Write;

use super::sums::{Profile, Row};

/// The tables of `profile`, each with at most `top` rows.
pub(super) fn tables(profile: &Profile, top: usize) -> String {
    let mut text = format!(
        "\n{}: {:.1} instructions at EL2 in {}, over {}\n",
        profile.case, profile.instructions, profile.operation, profile.operations
    );
    for (title, rows) in [
        ("by crate (code of a library that is inlined counts to its caller)", &profile.crates),
        ("by file", &profile.files),
        ("by function of Oche's, inlined or not", &profile.functions),
        ("by innermost function, of libraries as well", &profile.innermost),
        ("by line", &profile.lines),
    ] {
        section(&mut text, title, rows, profile.instructions, top);
    }
    compiled(&mut text, profile, top);
    text
}

fn section(text: &mut String, title: &str, rows: &[Row], all: f64, top: usize) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "\n  {title}\n{:>14} {:>7}", "instructions", "share");
    for row in rows.iter().take(top) {
        let share = 100.0 * row.instructions / all;
        let _ = writeln!(text, "{:14.1} {share:6.1}%  {}", row.instructions, row.name);
    }
    let rest: f64 = rows.iter().skip(top).map(|row| row.instructions).sum();
    if rest > 0.0 {
        let (share, left) = (100.0 * rest / all, rows.len() - top);
        let _ = writeln!(text, "{rest:14.1} {share:6.1}%  {left} more");
    }
}

fn compiled(text: &mut String, profile: &Profile, top: usize) {
    let _ = writeln!(
        text,
        "\n  by compiled function\n{:>14} {:>7} {:>9} {:>9} {:>14}",
        "instructions", "share", "calls", "a call", "with callees"
    );
    for row in profile.compiled.iter().take(top) {
        let share = 100.0 * row.instructions / profile.instructions;
        let a_call = match row.calls > 0.0 {
            true => format!("{:.1}", row.instructions / row.calls),
            false => "-".to_owned(),
        };
        let _ = writeln!(
            text,
            "{:14.1} {share:6.1}% {:9.2} {a_call:>9} {:14.1}  {}",
            row.instructions, row.calls, row.with_callees, row.name
        );
    }
}

#[cfg(test)]
mod tests {
    use super::tables;
    use crate::measure::profile::sums::{CompiledRow, Profile, Row};

    #[test]
    fn rows_beyond_the_wanted_ones_are_summed_up() {
        let rows = || {
            [("a", 60.0), ("b", 30.0), ("c", 10.0)]
                .map(|(name, instructions)| Row { name: name.to_owned(), instructions })
                .to_vec()
        };
        let compiled = CompiledRow {
            name: "oche::f".to_owned(),
            instructions: 50.0,
            calls: 2.0,
            with_callees: 75.0,
        };
        let profile = Profile {
            case: "reused".to_owned(),
            operation: "a map",
            operations: 4.0,
            instructions: 100.0,
            crates: rows(),
            files: rows(),
            functions: rows(),
            innermost: rows(),
            compiled: vec![compiled],
            lines: rows(),
        };
        let text = tables(&profile, 1);
        assert!(text.contains("reused: 100.0 instructions at EL2 in a map, over 4\n"), "{text}");
        assert!(text.contains("          60.0   60.0%  a\n"), "{text}");
        assert!(text.contains("          40.0   40.0%  2 more\n"), "{text}");
        assert!(
            text.contains("50.0   50.0%      2.00      25.0           75.0  oche::f\n"),
            "{text}"
        );
        assert!(!tables(&profile, 3).contains("more"), "nothing is left out");
    }
}
