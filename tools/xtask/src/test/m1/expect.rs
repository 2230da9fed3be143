//! Checks of the log and the screen of a run of the board.

use anyhow::{Context, Result, bail};
use oche_m1_sim::{BoardOutcome, screen};

/// Whether `text` is in a row of the screen.
pub(super) fn expect_on_screen(outcome: &BoardOutcome, text: &str) -> Result<()> {
    let rows = screen::text(&outcome.screen);
    if rows.iter().any(|row| row.contains(text)) {
        return Ok(());
    }
    bail!("the screen does not show `{text}`: {}", rows.join("\n"))
}

/// Fails unless a line of the log contains `text`.
pub(crate) fn expect(outcome: &BoardOutcome, text: &str) -> Result<()> {
    if outcome.has_line(text) { Ok(()) } else { bail!("no line has `{text}`") }
}

/// The number behind the word `name`.
pub(crate) fn count(line: &str, name: &str) -> Result<u64> {
    let mut words = line.split(' ').skip_while(|word| *word != name).skip(1);
    let number = words.next().with_context(|| format!("no count of {name}: {line}"))?;
    number.parse().with_context(|| format!("a count of {name}: {line}"))
}
