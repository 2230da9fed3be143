//! What a report says about the named assumptions, for people and for programs.

use std::io::{self, Write};

use oche_m1_probe::assumptions::{ASSUMPTIONS, Answer};
use oche_m1_probe::reading::Reading;
use oche_m1_probe::report;
use schemars::JsonSchema;
use serde::Serialize;

/// What a report says.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Answers {
    /// Whether it is the report as the probe wrote it.
    is_whole: bool,
    /// The codes that are missing or damaged, from 1 on.
    missing_codes: Vec<usize>,
    assumptions: Vec<AssumptionAnswer>,
    lines: Vec<ReportLine>,
}

/// What it says about one assumption.
#[derive(Debug, Serialize, JsonSchema)]
struct AssumptionAnswer {
    name: &'static str,
    claim: &'static str,
    /// `holds`, `fails` or `not answered`.
    answer: &'static str,
    /// The lines that show that it fails, or the reason why it is not answered.
    because: Vec<String>,
    if_wrong: &'static str,
}

/// A line of the report.
#[derive(Debug, Serialize, JsonSchema)]
struct ReportLine {
    name: String,
    value: String,
    unit: String,
    verdict: String,
}

/// The exit code: see the command's help.
pub(super) fn exit_code(reading: &Reading) -> u8 {
    let fails = ASSUMPTIONS.iter().any(|assumption| {
        matches!(assumption.answer(&reading.text, reading.is_whole), Answer::Fails(_))
    });
    match (fails, reading.is_whole) {
        (true, _) => 1,
        (false, false) => 3,
        (false, true) => 0,
    }
}

/// Writes the answers as JSON.
pub(super) fn write_json(reading: &Reading, out: &mut impl Write) -> io::Result<()> {
    let answers = Answers {
        is_whole: reading.is_whole,
        missing_codes: reading.missing_codes.clone(),
        assumptions: answers(reading),
        lines: report::lines(&reading.text)
            .map(|line| ReportLine {
                name: line.name.to_owned(),
                value: line.value.to_owned(),
                unit: line.unit.to_owned(),
                verdict: line.verdict.to_string(),
            })
            .collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &answers)?;
    writeln!(out)
}

fn answers(reading: &Reading) -> Vec<AssumptionAnswer> {
    let answers = ASSUMPTIONS.iter().map(|assumption| {
        let answer = assumption.answer(&reading.text, reading.is_whole);
        AssumptionAnswer {
            name: assumption.name,
            claim: assumption.claim,
            answer: word(&answer),
            because: match answer {
                Answer::Holds => Vec::new(),
                Answer::Fails(lines) => lines.iter().map(ToString::to_string).collect(),
                Answer::NotAnswered(reason) => vec![reason.to_owned()],
            },
            if_wrong: assumption.if_wrong,
        }
    });
    answers.collect()
}

fn word(answer: &Answer<'_>) -> &'static str {
    match answer {
        Answer::Holds => "holds",
        Answer::Fails(_) => "fails",
        Answer::NotAnswered(_) => "not answered",
    }
}

/// Writes the answers for people, the failing ones first, and then the report itself.
pub(super) fn write_text(reading: &Reading, out: &mut impl Write) -> io::Result<()> {
    write_completeness(reading, out)?;
    let mut answers = answers(reading);
    answers.sort_by_key(|answer| match answer.answer {
        "fails" => 0,
        "holds" => 1,
        _ => 2,
    });
    for answer in &answers {
        writeln!(out, "{:<12} {}: {}", answer.answer, answer.name, answer.claim)?;
        for reason in &answer.because {
            writeln!(out, "{:<12}     {reason}", "")?;
        }
        if answer.answer == "fails" {
            writeln!(out, "{:<12}     then: {}", "", answer.if_wrong)?;
        }
    }
    let count = |word| answers.iter().filter(|answer| answer.answer == word).count();
    writeln!(
        out,
        "\n{} assumptions: {} fail, {} hold, {} are not answered\n\nThe report:",
        answers.len(),
        count("fails"),
        count("holds"),
        count("not answered")
    )?;
    write!(out, "{}", reading.text)
}

fn write_completeness(reading: &Reading, out: &mut impl Write) -> io::Result<()> {
    if !reading.missing_codes.is_empty() {
        let numbers: Vec<String> = reading.missing_codes.iter().map(ToString::to_string).collect();
        return writeln!(
            out,
            "missing or damaged: code {} of {}; what follows is without their lines\n",
            numbers.join(", "),
            reading.codes
        );
    }
    if !reading.is_whole {
        writeln!(out, "the report is damaged or cut short: lines are missing or may be wrong\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{exit_code, write_json, write_text};
    use oche_m1_probe::codes;
    use oche_m1_probe::reading::{self, Reading};
    use oche_m1_probe::report::ReportWriter;
    use serde_json::Value;

    fn report(lines: &[&str]) -> String {
        let mut writer = ReportWriter::default();
        lines.iter().for_each(|line| writer.add(line));
        writer.finish()
    }

    fn read(input: &str) -> Reading {
        reading::read(input.as_bytes()).expect("a report")
    }

    fn text(reading: &Reading) -> String {
        let mut out = Vec::new();
        write_text(reading, &mut out).expect("written");
        String::from_utf8(out).expect("text")
    }

    const GOOD: &str = "aic.lines 896 INFO ok";
    const BAD: &str = "fiq.virtual-timer nothing,9 kind,ticks WRONG";

    #[test]
    fn failing_assumption_comes_first_with_its_line_and_what_to_do() {
        let reading = read(&report(&[GOOD, BAD]));
        let text = text(&reading);
        assert!(text.starts_with("fails        fiq-direct: "), "{text}");
        assert!(text.contains(BAD) && text.contains("then: boot Oche with oche.fiq=virtual"));
        assert!(text.contains("holds        port-line-exists: "), "{text}");
        assert!(text.ends_with(&reading.text));
        assert_eq!(exit_code(&reading), 1);
    }

    #[test]
    fn exit_code_says_whether_something_fails_or_is_missing() {
        assert_eq!(exit_code(&read(&report(&[GOOD]))), 0);
        let cut = report(&[GOOD, "a.b 1 c -"]);
        assert_eq!(exit_code(&read(&cut[..cut.len() - 3])), 3);
        let cut = report(&[BAD, "a.b 1 c -"]);
        assert_eq!(exit_code(&read(&cut[..cut.len() - 3])), 1);
    }

    #[test]
    fn missing_codes_are_named_and_the_others_used() {
        let lines: Vec<String> = (0..200).map(|index| format!("x{index}.y 1 value -")).collect();
        let mut all: Vec<&str> = vec![GOOD];
        all.extend(lines.iter().map(String::as_str));
        let codes = codes::split(&report(&all));
        let reading = read(&[&codes[0][..], &codes[2]].concat());
        let text = text(&reading);
        assert!(text.starts_with("missing or damaged: code 2, "), "{text}");
        assert!(text.contains("holds        port-line-exists: "), "{text}");
        assert_eq!(exit_code(&reading), 3);
    }

    #[test]
    fn json_has_every_assumption_and_line() {
        let reading = read(&report(&[GOOD, BAD]));
        let mut out = Vec::new();
        write_json(&reading, &mut out).expect("written");
        let value: Value = serde_json::from_slice(&out).expect("JSON");
        crate::schema::tests::check("probe", &value);
        assert_eq!(value["is_whole"], true);
        let named = |name: &str| {
            let all = value["assumptions"].as_array().expect("a list");
            all.iter().find(|one| one["name"] == name).expect("the assumption").clone()
        };
        assert_eq!(named("fiq-direct")["answer"], "fails");
        assert_eq!(named("fiq-direct")["because"][0], BAD);
        assert_eq!(named("port-line-exists")["answer"], "holds");
        assert_eq!(named("dart-drain")["answer"], "not answered");
        assert_eq!(value["lines"].as_array().map(Vec::len), Some(4));
    }
}
