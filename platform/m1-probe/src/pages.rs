//! The pages that the screen shows in turn: answers, codes, and the report as text.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::assumptions::{ASSUMPTIONS, Answer};

/// Modules of light margin on each side of a code. Source: ISO/IEC 18004.
pub const QUIET: usize = 4;
/// Pixels of a module at least, at scale 1: fewer are too small for a camera.
const LEAST_PIXELS: usize = 3;

/// How codes stand on a screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Codes beside each other.
    pub columns: usize,
    /// Codes below each other.
    pub rows: usize,
    /// Pixels of a module.
    pub pixels: usize,
}

impl Grid {
    /// The grid with the most codes of `modules` a side, margin not counted, in `width` times
    /// `height` pixels, for at most `codes` of them; and the largest modules that give as many.
    /// `None` if not even one fits.
    pub fn of(
        (width, height): (usize, usize),
        modules: usize,
        codes: usize,
        scale: usize,
    ) -> Option<Self> {
        let fits = |pixels: usize| {
            let side = (modules + 2 * QUIET) * pixels;
            Self { columns: width / side, rows: height / side, pixels }
        };
        let most =
            (1..=LEAST_PIXELS * scale.max(1)).rev().map(fits).find(|grid| grid.count() > 0)?;
        let wanted = most.count().min(codes.max(1));
        let sizes = (most.pixels..=width.max(height)).map(fits);
        sizes.take_while(|grid| grid.count() >= wanted).last()
    }

    /// Codes that are shown at once.
    pub fn count(self) -> usize {
        self.columns * self.rows
    }
}

/// The answers to all assumptions in lines of `columns` characters, the failing ones first.
pub fn answers(report: &str, columns: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut held, mut open) = (Vec::new(), Vec::new());
    for assumption in ASSUMPTIONS {
        match assumption.answer(report, true) {
            Answer::Fails(wrong) => {
                lines.push(format!("FAILS {}: {}", assumption.name, assumption.claim));
                lines.extend(wrong.iter().map(|line| format!("    {line}")));
                lines.push(format!("    then: {}", assumption.if_wrong));
            }
            Answer::Holds => held.push(assumption.name),
            Answer::NotAnswered(_) => open.push(assumption.name),
        }
    }
    let failing = ASSUMPTIONS.len() - held.len() - open.len();
    lines.insert(
        0,
        format!("{failing} assumptions fail, {} hold, {} are not answered", held.len(), open.len()),
    );
    for (title, names) in [("hold", held), ("not answered", open)] {
        lines.push(format!("{title}: {}", names.join(", ")));
    }
    lines.iter().flat_map(|line| wrapped(line, columns)).collect()
}

/// `line` in pieces of at most `columns` characters, broken between words where there are any.
pub fn wrapped(line: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(8);
    let mut pieces = Vec::new();
    let mut piece = String::new();
    for word in line.split(' ') {
        let letters: Vec<char> = word.chars().collect();
        let mut parts: Vec<String> =
            letters.chunks(columns - 4).map(|part| part.iter().collect()).collect();
        if parts.is_empty() {
            parts.push(String::new());
        }
        for (index, part) in parts.into_iter().enumerate() {
            let is_first = piece.is_empty() && pieces.is_empty();
            if !is_first && piece.chars().count() + 1 + part.chars().count() > columns || index > 0
            {
                pieces.push(core::mem::replace(&mut piece, String::from("   ")));
            }
            if !is_first {
                piece.push(' ');
            }
            piece.push_str(&part);
        }
    }
    pieces.push(piece);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_codes_as_fit_are_shown_with_the_largest_modules() {
        // 121 modules with the margin, as a code of 1100 bytes has.
        let grid = |size, codes, scale| Grid::of(size, 113, codes, scale);
        let six = Grid { columns: 3, rows: 2, pixels: 3 };
        assert_eq!(grid((1280, 730), 9, 1), Some(six));
        assert_eq!(grid((2560, 1460), 9, 2), Some(Grid { pixels: 6, ..six }));
        assert_eq!(grid((1280, 730), 1, 1), Some(Grid { columns: 1, rows: 1, pixels: 6 }));
        assert_eq!(grid((1280, 730), 2, 1), Some(Grid { columns: 2, rows: 1, pixels: 5 }));
        assert_eq!(grid((250, 250), 9, 1), Some(Grid { columns: 1, rows: 1, pixels: 2 }));
        assert_eq!(grid((120, 120), 9, 1), None);
        assert_eq!(grid((0, 0), 1, 1), None);
    }

    #[test]
    fn failing_assumptions_come_first_with_what_to_do() {
        let report = "fiq.virtual-timer nothing,9 kind,ticks WRONG\naic.lines 896 INFO ok\n";
        let lines = answers(report, 200);
        assert!(lines[0].starts_with("1 assumptions fail, 1 hold, "), "{}", lines[0]);
        assert!(lines[1].starts_with("FAILS fiq-direct: "), "{}", lines[1]);
        assert!(lines[2].contains("fiq.virtual-timer nothing,9"), "{}", lines[2]);
        assert!(lines[3].contains("oche.fiq=virtual"), "{}", lines[3]);
        assert!(lines.iter().any(|line| line == "hold: port-line-exists"));
    }

    #[test]
    fn long_lines_are_broken_between_words_and_no_letter_is_lost() {
        assert_eq!(wrapped("one two", 80), ["one two"]);
        assert_eq!(wrapped("alpha beta gamma", 12), ["alpha beta", "    gamma"]);
        let long = "x".repeat(50);
        for text in ["", " ", "a  b", &long, "a b c d e f g h i j k l m n o p"] {
            for columns in 0..30 {
                let pieces = wrapped(text, columns);
                assert!(
                    pieces.iter().all(|piece| piece.chars().count() <= columns.max(8)),
                    "{pieces:?}"
                );
                let letters = |text: &str| text.replace(' ', "");
                assert_eq!(letters(&pieces.concat()), letters(text));
            }
        }
    }
}
