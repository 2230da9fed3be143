//! The named assumptions of `docs/m1.md`, and what a report says about each.
//!
//! The lines decide by their verdicts; nothing is decided here but which lines belong to which
//! assumption.

use alloc::vec::Vec;

use oche_boot::selftest_line::{SelftestLine, Verdict};

use crate::report;

mod table;

pub use table::{ASSUMPTIONS, Assumption, Evidence};

/// What a report says about an assumption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It holds.
    Holds,
    /// These lines show that it does not.
    Fails(Vec<SelftestLine<'a>>),
    /// The report does not answer it, for this reason.
    NotAnswered(&'a str),
}

impl Answer<'_> {
    /// The answer in words.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails(_) => "FAILS",
            Self::NotAnswered(_) => "not answered",
        }
    }
}

impl Assumption {
    /// What `report` says about it. If the report is not whole, a line that is missing may be
    /// wrong: of names that several lines can have, what is there is not enough to hold.
    pub fn answer<'a>(&self, report: &'a str, is_whole: bool) -> Answer<'a> {
        let names = match self.evidence {
            Evidence::Lines(names) => names,
            Evidence::None(reason) => return Answer::NotAnswered(reason),
        };
        let belongs = |name: &str| names.iter().any(|pattern| matches(pattern, name));
        let lines: Vec<_> = report::lines(report).filter(|line| belongs(line.name)).collect();
        let wrong: Vec<_> =
            lines.iter().copied().filter(|line| line.verdict == Verdict::Wrong).collect();
        if !wrong.is_empty() {
            return Answer::Fails(wrong);
        }
        let is_right = |pattern: &&str| {
            let mut own = lines.iter().filter(|line| matches(pattern, line.name));
            own.any(|line| line.verdict == Verdict::Ok)
        };
        if names.iter().all(is_right) {
            let needs_all = names.iter().any(|pattern| pattern.contains('*'));
            return match is_whole || !needs_all {
                true => Answer::Holds,
                false => Answer::NotAnswered("a part of the report is missing"),
            };
        }
        let skipped = lines.iter().find_map(|line| match line.verdict {
            Verdict::Skipped(reason) => Some(reason),
            _ => None,
        });
        Answer::NotAnswered(skipped.unwrap_or("the report lacks its lines"))
    }
}

/// Whether `name` is one of those that `pattern`, with at most one `*`, stands for.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == name };
    let middle = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    middle.is_some_and(|middle| !middle.is_empty() && !middle.contains('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: Assumption = Assumption {
        name: "two",
        claim: "",
        evidence: Evidence::Lines(&["a.b", "dart.*.tcr"]),
        if_wrong: "",
    };

    #[test]
    fn star_stands_for_one_word() {
        assert!(matches("dart.*.tcr", "dart.sio_dart.tcr"));
        assert!(matches("cpu*.wfi", "cpu0x10103.wfi"));
        for (pattern, name) in [
            ("dart.*.tcr", "dart.a.b.tcr"),
            ("dart.*.tcr", "dart..tcr"),
            ("cpu*.wfi", "cpu.wfi"),
            ("a.b", "a.bc"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn assumption_holds_only_if_each_of_its_lines_is_there_and_right() {
        assert_eq!(TWO.answer("a.b 1 x ok\ndart.q.tcr 1 x ok\n", true), Answer::Holds);
        assert_eq!(
            TWO.answer("a.b 1 x ok\ndart.p.tcr - - skipped: off\ndart.q.tcr 1 x ok\n", true),
            Answer::Holds
        );
        let missing = Answer::NotAnswered("the report lacks its lines");
        assert_eq!(TWO.answer("a.b 1 x ok\n", true), missing);
        assert_eq!(
            TWO.answer("a.b 1 x -\ndart.q.tcr 1 x ok\n", true),
            missing,
            "a figure is no answer"
        );
        assert_eq!(
            TWO.answer("a.b - - skipped: no power\ndart.q.tcr 1 x ok\n", true),
            Answer::NotAnswered("no power")
        );
    }

    #[test]
    fn part_of_a_report_is_not_enough_where_a_missing_line_could_be_wrong() {
        let part = "a.b 1 x ok\ndart.p.tcr 1 x ok\n";
        let reason = "a part of the report is missing";
        assert_eq!(TWO.answer(part, false), Answer::NotAnswered(reason));
        let one = Assumption { evidence: Evidence::Lines(&["a.b"]), ..TWO };
        assert_eq!(one.answer(part, false), Answer::Holds, "its only line is there");
    }

    #[test]
    fn one_wrong_line_is_enough_to_fail_and_is_named() {
        let report = "a.b 1 x ok\ndart.p.tcr 1 x ok\ndart.q.tcr 0x100 TCR WRONG\n";
        let Answer::Fails(lines) = TWO.answer(report, false) else { panic!("it fails") };
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].to_string(), "dart.q.tcr 0x100 TCR WRONG");
    }

    #[test]
    fn names_differ_and_are_words() {
        for (index, one) in ASSUMPTIONS.iter().enumerate() {
            assert!(
                ASSUMPTIONS[..index].iter().all(|other| other.name != one.name),
                "{}",
                one.name
            );
            assert!(
                one.name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            );
            assert!(!one.claim.is_empty() && !one.if_wrong.is_empty(), "{}", one.name);
        }
    }
}
