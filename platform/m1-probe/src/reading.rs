//! Reading a report back: from the log of a serial port, or from the contents of codes.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use oche_boot::selftest_line::SelftestLine;

use crate::codes::{self, CannotJoin};
use crate::report::{self, FIRST_LINE, LAST_NAME};

/// What Oche prints between the lines, which is not the report's.
const LOG_PREFIX: &str = "oche: ";

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The report, or its lines that are left.
    pub text: String,
    /// Whether it is the report as it was written.
    pub is_whole: bool,
    /// The numbers of codes that are missing or damaged.
    pub missing_codes: Vec<usize>,
    /// How many codes the report has; 0 if it was not read from codes.
    pub codes: usize,
}

/// Why nothing was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotRead {
    /// It has neither codes nor the first line of a report.
    NoReport,
    /// It has codes, which give nothing.
    Codes(CannotJoin),
}

impl CannotRead {
    /// The reason in words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoReport => "it has neither a report of the probe nor the content of its codes",
            Self::Codes(error) => error.reason(),
        }
    }
}

/// Reads the report in `input`: the last one of a log, or the one that codes give.
///
/// # Errors
///
/// A [`CannotRead`].
pub fn read(input: &[u8]) -> Result<Reading, CannotRead> {
    let input = String::from_utf8_lossy(input).replace('\r', "");
    if codes::has_codes(&input) {
        // Readers of codes may take the last line break of each.
        let joined = codes::join(&format!("{input}\n")).map_err(CannotRead::Codes)?;
        let is_whole = joined.missing.is_empty() && report::is_whole(&joined.text);
        return Ok(Reading {
            text: joined.text,
            is_whole,
            missing_codes: joined.missing,
            codes: joined.parts,
        });
    }
    let text = from_log(&input).ok_or(CannotRead::NoReport)?;
    let is_whole = report::is_whole(&text);
    Ok(Reading { text, is_whole, missing_codes: Vec::new(), codes: 0 })
}

/// The last report in a log.
fn from_log(log: &str) -> Option<String> {
    let lines: Vec<&str> = log.lines().map(str::trim_end).collect();
    let start = lines.iter().rposition(|line| *line == FIRST_LINE)?;
    let mut text = String::new();
    let is_own =
        |line: &&&str| !line.starts_with(LOG_PREFIX) && SelftestLine::parse(line).is_some();
    for line in lines.iter().skip(start).filter(is_own) {
        text.push_str(line);
        text.push('\n');
        if line.starts_with(LAST_NAME) {
            break;
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn last_report_of_a_log_is_read_whatever_stands_around_it() {
        let (old, report) = (sample(10), sample(20));
        let log = format!("m1n1\r\n{old}oche: again\n```\n{report}```\noche: U-Boot\n");
        let log =
            log.replace('\n', "\r\n").replace("cpu3.", "oche: warning: it is ok\r\n```\r\ncpu3.");
        let reading = read(log.as_bytes()).expect("read");
        assert_eq!(reading.text, report);
        assert!(reading.is_whole);
        assert_eq!((reading.codes, reading.missing_codes.len()), (0, 0));
    }

    #[test]
    fn damaged_log_gives_what_is_left_and_is_not_whole() {
        let report = sample(20);
        let cut = read(&report.as_bytes()[..report.len() / 2]).expect("read");
        assert!(!cut.is_whole && cut.text.starts_with(FIRST_LINE));
        let damaged = read(report.replace("cpu7.figure", "cpu7.fi\u{fffd}re").as_bytes());
        assert!(!damaged.expect("read").is_whole);
        assert_eq!(read(b"oche: Oche 0.1.0 on m1\n"), Err(CannotRead::NoReport));
        assert_eq!(read(&[0xff; 100]), Err(CannotRead::NoReport));
    }

    #[test]
    fn codes_give_the_same_report_also_without_their_last_line_breaks() {
        let report = sample(100);
        let codes = codes::split(&report);
        let trimmed: Vec<&str> = codes.iter().map(|code| code.trim_end()).collect();
        for input in
            [codes.concat(), codes.join("\n"), trimmed.join("\n"), trimmed.join("\r\n\r\n")]
        {
            let reading = read(input.as_bytes()).expect("read");
            assert_eq!((reading.text.as_str(), reading.is_whole), (report.as_str(), true));
        }
        let reading = read(codes[1..].concat().as_bytes()).expect("read");
        assert!(!reading.is_whole);
        assert_eq!((reading.missing_codes, reading.codes), (alloc::vec![1], codes.len()));
        let error = read(b"OCHE-PROBE 1/2 damaged\n").expect_err("nothing");
        assert_eq!(error, CannotRead::Codes(CannotJoin::NoCode));
    }
}
