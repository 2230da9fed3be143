//! The text of a report: lines of the self-test between a first and a last line, which has their
//! number and checksum.

use alloc::format;
use alloc::string::String;

use oche_boot::selftest_line::SelftestLine;

use crate::checksum::crc32;

/// The first line; its value is the version of the format.
pub const FIRST_LINE: &str = "probe.report 1 format -";
/// The name of the last line.
pub const LAST_NAME: &str = "probe.end";
/// The most letters of a line: no more than 1000 bytes.
const LINE_LETTERS: usize = 250;
/// The unit of the last line.
const LAST_UNIT: &str = "lines,crc32";

/// A report that is being written.
#[derive(Clone, Debug)]
pub struct ReportWriter {
    text: String,
    lines: usize,
}

impl Default for ReportWriter {
    fn default() -> Self {
        Self { text: format!("{FIRST_LINE}\n"), lines: 1 }
    }
}

impl ReportWriter {
    /// Adds a line, without its line breaks, and at most 250 letters of it: each line fits a code.
    pub fn add(&mut self, line: &str) {
        let letters = line.chars().filter(|letter| *letter != '\n').take(LINE_LETTERS);
        self.text.extend(letters);
        self.text.push('\n');
        self.lines += 1;
    }

    /// What has been written so far: a report that is not whole.
    pub fn part(self) -> String {
        self.text
    }

    /// The whole report.
    pub fn finish(self) -> String {
        let Self { mut text, lines } = self;
        let sum = crc32(text.as_bytes());
        text.push_str(&format!("{LAST_NAME} {lines},{sum:#010x} {LAST_UNIT} -\n"));
        text
    }
}

/// The lines of a report, or of what is left of it.
pub fn lines(text: &str) -> impl Iterator<Item = SelftestLine<'_>> {
    text.lines().filter_map(SelftestLine::parse)
}

/// Whether `text` is a report, as it was written.
pub fn is_whole(text: &str) -> bool {
    let Some(start) = text.rfind(LAST_NAME) else { return false };
    let (before, last) = text.split_at(start);
    let wanted = format!(
        "{LAST_NAME} {},{:#010x} {LAST_UNIT} -\n",
        before.lines().count(),
        crc32(before.as_bytes())
    );
    before.starts_with(FIRST_LINE) && last == wanted
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report of `count` lines.
    pub(crate) fn sample(count: usize) -> String {
        let mut writer = ReportWriter::default();
        for index in 0..count {
            writer.add(&format!("cpu{index}.figure {:#x} value -", index * 0x1234_5678));
        }
        writer.finish()
    }

    #[test]
    fn report_is_whole_as_it_was_written_and_not_otherwise() {
        let text = sample(20);
        assert!(is_whole(&text));
        assert_eq!(lines(&text).count(), 22);
        assert!(!is_whole(&text.replace("cpu7.", "cpu8.")), "a letter differs");
        let without: String = text
            .lines()
            .filter(|line| !line.contains("cpu7."))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(!is_whole(&without), "a line is missing");
        for length in 0..text.len() {
            assert!(!is_whole(&text[..length]), "{length}");
        }
    }

    #[test]
    fn a_part_is_not_whole() {
        let mut writer = ReportWriter::default();
        writer.add("a 1 b ok");
        assert!(!is_whole(&writer.part()));
    }

    #[test]
    fn a_long_line_is_cut_to_what_a_code_holds() {
        let mut writer = ReportWriter::default();
        writer.add(&"\u{1f3af}".repeat(2000));
        let text = writer.finish();
        assert!(is_whole(&text));
        assert!(text.lines().all(|line| line.len() <= 1000));
    }

    #[test]
    fn line_breaks_in_a_line_do_not_make_two() {
        let mut writer = ReportWriter::default();
        writer.add("a \"b\nc\" d -");
        assert!(is_whole(&writer.finish()));
    }
}
