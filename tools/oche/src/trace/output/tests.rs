//! The text's lines against the grammar that parsers of ftrace's text have, written down in
//! `docs/trace.md`.
//!
//! Source of the three events' fields: the print formats in Linux `include/trace/events/iommu.h`;
//! of the columns before them: Linux `Documentation/trace/ftrace.rst`, "Output format".

use super::*;
use crate::trace::made::with_every_error;

/// The rest of a line.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn word(&mut self, expected: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// As many characters as `is_part` of it, at least one.
    fn some(&mut self, is_part: impl Fn(char) -> bool) -> Option<&'a str> {
        let end = self.0.find(|char| !is_part(char)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        if taken.is_empty() { None } else { Some(taken) }
    }

    fn digits(&mut self) -> Option<u64> {
        self.some(|char| char.is_ascii_digit())?.parse().ok()
    }

    /// `0x` and exactly `digits` in hexadecimal, small letters.
    fn hex(&mut self, digits: usize) -> Option<u64> {
        self.word("0x")?;
        let text = self.some(|char| char.is_ascii_digit() || ('a'..='f').contains(&char))?;
        if text.len() == digits { u64::from_str_radix(text, 16).ok() } else { None }
    }
}

/// `TASK-PID [CPU] FLAGS SECONDS.FRACTION: EVENT: FIELDS`: the event and its fields.
fn columns(line: &str) -> Option<(&str, &str)> {
    let mut rest = Rest(line);
    rest.some(|char| char == ' ')?;
    rest.some(|char| char.is_ascii_alphanumeric())?;
    rest.word("-")?;
    rest.digits()?;
    rest.some(|char| char == ' ')?;
    rest.word("[")?;
    let cpu = rest.some(|char| char.is_ascii_digit())?;
    rest.word("] ")?;
    let flags = rest.some(|char| char != ' ')?;
    rest.some(|char| char == ' ')?;
    rest.digits()?;
    rest.word(".")?;
    let fraction = rest.some(|char| char.is_ascii_digit())?;
    rest.word(": ")?;
    let event = rest.some(|char| char.is_ascii_alphanumeric() || char == '_')?;
    rest.word(": ")?;
    ((cpu.len(), flags.len(), fraction.len()) == (3, 5, 9)).then_some((event, rest.0))
}

/// `iova=0x0000000000001000 - 0x0000000000002000`: the bytes between.
fn range(rest: &mut Rest<'_>) -> Option<u64> {
    rest.word("iova=")?;
    let start = rest.hex(16)?;
    rest.word(" - ")?;
    rest.hex(16)?.checked_sub(start)
}

/// The fields that Linux prints for `event`, and what stands behind them.
fn fields<'a>(event: &str, text: &'a str) -> Option<Rest<'a>> {
    let mut rest = Rest(text);
    match event {
        "map" => {
            rest.word("IOMMU: ")?;
            let bytes = range(&mut rest)?;
            rest.word(" paddr=")?;
            rest.hex(16)?;
            rest.word(" size=")?;
            (rest.digits()? == bytes).then_some(())?;
        }
        "unmap" => {
            rest.word("IOMMU: ")?;
            let bytes = range(&mut rest)?;
            rest.word(" size=")?;
            (rest.digits()? == bytes).then_some(())?;
            rest.word(" unmapped_size=")?;
            (rest.digits()? == bytes).then_some(())?;
        }
        "io_page_fault" => {
            rest.word("IOMMU:")?;
            rest.some(|char| char != ' ')?;
            rest.word(" ")?;
            rest.some(|char| char != ' ')?;
            rest.word(" iova=")?;
            rest.hex(16)?;
            rest.word(" flags=")?;
            rest.hex(4)?;
        }
        _ => {}
    }
    Some(rest)
}

/// ` name=value`, over and over, to the end; a range's end stands alone.
fn is_pairs(rest: &Rest<'_>) -> bool {
    let mut words = rest.0.split(' ').filter(|word| !word.is_empty());
    words.all(|word| {
        word == "-"
            || word.starts_with("0x")
            || word.split_once('=').is_some_and(|(name, _)| {
                !name.is_empty()
                    && name.chars().all(|char| char.is_ascii_lowercase() || char == '_')
            })
    })
}

#[test]
fn every_line_is_one_that_parsers_of_ftrace_take() {
    let mut text = Vec::new();
    let symbols = Symbols::new(vec![(crate::trace::made::FLUSHER, "dart_flush".into())], 0);
    write_text(&with_every_error().open(), &EventFilter::default(), &symbols, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (event, rest) = columns(line).unwrap_or_else(|| panic!("columns: {line}"));
        let rest = fields(event, rest).unwrap_or_else(|| panic!("fields: {line}"));
        assert!(is_pairs(&rest), "what follows: {line}");
        *seen.entry(event).or_default() += 1;
    }
    for event in ["map", "unmap", "io_page_fault"] {
        assert!(seen.get(event).is_some_and(|count| *count >= 3), "{event}: {seen:?}");
    }
    assert!(
        columns("oche-0 [002] map: x").is_none() && fields("map", "IOMMU: iova=0x1000").is_none()
    );
}
