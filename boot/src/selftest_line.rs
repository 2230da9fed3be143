//! A line of the self-test, `name value unit verdict`: what writes it at EL2 and what reads it in a
//! report.
//!
//! Names and units are words. A value is a word, or text in double quotes.

use core::fmt;

/// The verdict of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// The value is as Oche needs it.
    Ok,
    /// The value is not as Oche needs it.
    Wrong,
    /// A figure.
    Figure,
    /// Not measured, for this reason.
    Skipped(&'a str),
}

/// What a verdict begins with if nothing was measured.
const SKIPPED: &str = "skipped: ";

impl From<bool> for Verdict<'_> {
    fn from(is_right: bool) -> Self {
        if is_right { Self::Ok } else { Self::Wrong }
    }
}

impl fmt::Display for Verdict<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => out.write_str("ok"),
            Self::Wrong => out.write_str("WRONG"),
            Self::Figure => out.write_str("-"),
            Self::Skipped(reason) => write!(out, "{SKIPPED}{reason}"),
        }
    }
}

/// A line, as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelftestLine<'a> {
    /// Words with dots between them.
    pub name: &'a str,
    /// The value, with its quotes.
    pub value: &'a str,
    /// The unit, or what kind of value it is.
    pub unit: &'a str,
    /// The verdict.
    pub verdict: Verdict<'a>,
}

impl<'a> SelftestLine<'a> {
    /// Reads a line without its end; `None` if it is none.
    pub fn parse(line: &'a str) -> Option<Self> {
        let (name, rest) = line.split_once(' ')?;
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let end = 1 + quoted.find('"')? + 1;
                (rest.get(..end)?, rest.get(end..)?.strip_prefix(' ')?)
            }
            None => rest.split_once(' ')?,
        };
        let (unit, verdict) = rest.split_once(' ')?;
        let verdict = match verdict {
            "ok" => Verdict::Ok,
            "WRONG" => Verdict::Wrong,
            "-" => Verdict::Figure,
            _ => Verdict::Skipped(verdict.strip_prefix(SKIPPED)?),
        };
        let is_whole = !name.is_empty() && !value.is_empty() && !unit.is_empty();
        is_whole.then_some(Self { name, value, unit, verdict })
    }
}

impl fmt::Display for SelftestLine<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {} {}", self.name, self.value, self.unit, self.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_read_as_it_was_written() {
        for text in [
            "cpu.cntfrq 24000000 Hz ok",
            "machine.model \"Apple MacBook Air (M1, 2020)\" - -",
            "dart.sio.tcr-holds 0x0 TCR WRONG",
            "dart.sio.invalidate - - skipped: it has no power",
        ] {
            let line = SelftestLine::parse(text).expect("a line");
            assert_eq!(line.to_string(), text);
        }
        let line = SelftestLine::parse("a \"b c\" d skipped: e f").expect("a line");
        assert_eq!((line.name, line.value, line.unit), ("a", "\"b c\"", "d"));
        assert_eq!(line.verdict, Verdict::Skipped("e f"));
    }

    #[test]
    fn other_text_is_no_line() {
        for text in [
            "",
            "```",
            "oche: the guest starts",
            "a b c",
            "a b c d",
            "a \"b c d ok",
            "a \"b\"c d ok",
            " a b ok",
            "a  b ok",
            "a b c okay",
            "a \"",
        ] {
            assert_eq!(SelftestLine::parse(text), None, "{text}");
        }
    }
}
