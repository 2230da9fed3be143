//! A report as the contents of QR codes, which may be read in any order.
//!
//! A code's content is a line `OCHE-PROBE part/parts report bytes checksum`, then whole lines of
//! the report. `report` is the checksum of the whole report, so that codes of two reports are not
//! mixed; the last two fields are the length and the checksum of what follows.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::checksum::crc32;

/// Most bytes of a code's content. More would need a code so dense that cameras fail on it.
pub const MAX_BYTES: usize = 1100;
/// What the first line of a code begins with.
pub const MARK: &str = "OCHE-PROBE ";
/// Room for the first line: its longest form has 49 bytes.
const HEADER_BYTES: usize = 56;
/// Most parts that are accepted, so that a damaged header asks for no more.
const MAX_PARTS: usize = 999;

/// The contents of the codes of `report`.
pub fn split(report: &str) -> Vec<String> {
    let mut parts: Vec<&str> = Vec::new();
    let mut start = 0;
    let mut end = 0;
    for line in report.split_inclusive('\n') {
        if end > start && end + line.len() - start > MAX_BYTES - HEADER_BYTES {
            parts.extend(report.get(start..end));
            start = end;
        }
        end += line.len();
    }
    parts.extend(report.get(start..end).filter(|part| !part.is_empty()));
    let (count, all) = (parts.len(), crc32(report.as_bytes()));
    let numbered = parts.iter().enumerate();
    numbered
        .map(|(index, part)| {
            let sum = crc32(part.as_bytes());
            format!("{MARK}{}/{count} {all:08x} {} {sum:08x}\n{part}", index + 1, part.len())
        })
        .collect()
}

/// What codes give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The parts that are there, in order.
    pub text: String,
    /// The numbers of the parts that are missing or damaged, from 1 on.
    pub missing: Vec<usize>,
    /// How many parts there are in all.
    pub parts: usize,
}

/// Why codes give nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotJoin {
    /// No code is whole.
    NoCode,
    /// The codes are of more than one report.
    TwoReports,
    /// Two codes of a report have the same number and different contents.
    Contradiction,
}

impl CannotJoin {
    /// The reason in words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoCode => "every code in it is damaged",
            Self::TwoReports => "its codes are of more than one report: keep those of one",
            Self::Contradiction => "two of its codes have one number and different contents",
        }
    }
}

/// A code whose checksum is right.
#[derive(Clone, Copy, Debug)]
struct Code<'a> {
    part: usize,
    parts: usize,
    report: u32,
    text: &'a str,
}

/// Joins the codes in `text`, in any order and any number of times, with anything between them that
/// does not begin a line with the mark of a code. Lines end in `\n`.
///
/// # Errors
///
/// A [`CannotJoin`].
pub fn join(text: &str) -> Result<Joined, CannotJoin> {
    let mut codes = BTreeMap::new();
    let mut first: Option<Code<'_>> = None;
    for code in starts(text).filter_map(|start| Code::parse(text.get(start..)?)) {
        let known = first.get_or_insert(code);
        if (known.report, known.parts) != (code.report, code.parts) {
            return Err(CannotJoin::TwoReports);
        }
        if codes.insert(code.part, code.text).is_some_and(|before| before != code.text) {
            return Err(CannotJoin::Contradiction);
        }
    }
    let parts = first.ok_or(CannotJoin::NoCode)?.parts;
    let missing = (1..=parts).filter(|part| !codes.contains_key(part)).collect();
    Ok(Joined { text: codes.into_values().collect(), missing, parts })
}

/// Whether a line of `text` begins as a code does.
pub fn has_codes(text: &str) -> bool {
    starts(text).next().is_some()
}

/// Where lines begin with the mark.
fn starts(text: &str) -> impl Iterator<Item = usize> {
    text.match_indices(MARK).map(|(start, _)| start).filter(|start| {
        start.checked_sub(1).is_none_or(|before| text.as_bytes().get(before) == Some(&b'\n'))
    })
}

impl<'a> Code<'a> {
    /// Reads the code at the start of `text`; `None` if it is damaged. A reader may have taken its
    /// last line break.
    fn parse(text: &'a str) -> Option<Self> {
        let (header, rest) = text.strip_prefix(MARK)?.split_once('\n')?;
        let mut fields = header.trim_end().split(' ');
        let (part, parts) = fields.next()?.split_once('/')?;
        let report = u32::from_str_radix(fields.next()?, 16).ok()?;
        let bytes: usize = fields.next()?.parse().ok()?;
        let sum = u32::from_str_radix(fields.next()?, 16).ok()?;
        let (part, parts) = (part.parse().ok()?, parts.parse().ok()?);
        let text = rest.get(..bytes)?;
        let is_sound = fields.next().is_none()
            && (1..=parts).contains(&part)
            && parts <= MAX_PARTS
            && crc32(text.as_bytes()) == sum;
        is_sound.then_some(Self { part, parts, report, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn codes_are_small_enough_and_give_the_report_in_any_order_and_twice() {
        for lines in [1, 30, 300] {
            let report = sample(lines);
            let codes = split(&report);
            assert!(codes.iter().all(|code| code.len() <= MAX_BYTES), "{lines}");
            assert!(codes.len() == 1 || codes[0].len() > MAX_BYTES - 120, "and not much smaller");
            let mut shuffled: Vec<&str> = codes.iter().rev().map(String::as_str).collect();
            shuffled.extend([codes[0].as_str(), "read by a phone"]);
            let joined = join(&shuffled.join("\n")).expect("joined");
            assert_eq!(joined, Joined { text: report, missing: Vec::new(), parts: codes.len() });
        }
    }

    #[test]
    fn missing_and_damaged_codes_are_named() {
        let report = sample(100);
        let mut codes = split(&report);
        assert!(codes.len() >= 4);
        codes[2] = codes[2].replace("value", "valve");
        codes.remove(1);
        let joined = join(&codes.concat()).expect("joined");
        assert_eq!(joined.missing, [2, 3]);
        assert!(joined.text.starts_with(crate::report::FIRST_LINE));
        assert!(joined.text.lines().all(|line| report.contains(line)), "whole lines only");
    }

    #[test]
    fn codes_of_two_reports_and_contradictions_are_refused() {
        let (one, other) = (split(&sample(100)), split(&sample(101)));
        assert_eq!(join(&[&one[..], &other[..1]].concat().concat()), Err(CannotJoin::TwoReports));
        let text = "x y z -\n";
        let false_one = format!(
            "{MARK}1/{} {:08x} {} {:08x}\n{text}",
            one.len(),
            crc32(sample(100).as_bytes()),
            text.len(),
            crc32(text.as_bytes())
        );
        assert_eq!(join(&(one.concat() + &false_one)), Err(CannotJoin::Contradiction));
    }

    #[test]
    fn no_damage_is_a_panic_or_gives_another_report() {
        let report = sample(40);
        let whole = split(&report).concat();
        for at in 0..whole.len() {
            for byte in [b'0', b'\n', 0xc3, b' '] {
                let mut bytes = whole.clone().into_bytes();
                bytes[at] = byte;
                if let Ok(joined) = join(&String::from_utf8_lossy(&bytes)) {
                    let lines = joined.text.lines();
                    assert!(lines.into_iter().all(|line| report.contains(line)), "{at}");
                }
            }
        }
        for text in
            ["", MARK, "OCHE-PROBE 1/1 0 99999999999999999999 0\n", "OCHE-PROBE 0/0 0 0 0\n"]
        {
            assert_eq!(join(text), Err(CannotJoin::NoCode));
        }
        assert_eq!(join("OCHE-PROBE 1/4000000000 0 0 00000000\n"), Err(CannotJoin::NoCode));
    }
}
