//! Numbered steps: live on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a running step's line is redrawn on a terminal.
const REDRAW: Duration = Duration::from_millis(100);

/// The numbered steps of one command.
///
/// All lines go to standard error, so that what a command answers on standard output stays clean.
#[derive(Debug)]
pub struct Progress {
    /// How many steps there will be, or 0 if that is unknown.
    total: usize,
    begun: AtomicUsize,
    look: Look,
}

impl Progress {
    /// Starts counting towards `total` steps; 0 means an unknown number.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self { total, begun: AtomicUsize::new(0), look: Look::of_standard_error() }
    }

    /// Begins the next step; it ends with [`Step::done`], or as failed when it is dropped.
    #[must_use]
    pub fn step(&self, title: &str) -> Step {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        let label = match self.total {
            0 => format!("[{number}] {title}"),
            total => {
                let width = total.to_string().len();
                format!("[{number:>width$}/{total}] {title}")
            }
        };
        Step::begin(label, self.look)
    }
}

/// `seconds` for a person: `4.2 s`, or `12 min 3 s` from a minute on.
#[must_use]
pub fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    format!("{} min {} s", whole / 60, whole % 60)
}

/// One running step.
#[derive(Debug)]
pub struct Step {
    label: String,
    bar: ProgressBar,
    begun: Instant,
    look: Look,
    finished: bool,
}

impl Step {
    /// A step that shows nothing, for callers that do not report.
    #[must_use]
    pub fn silent() -> Self {
        Self::begin(String::new(), Look::Silent)
    }

    fn begin(label: String, look: Look) -> Self {
        let bar = match look {
            Look::Terminal { .. } => ProgressBar::new_spinner(),
            Look::Plain | Look::Silent => ProgressBar::hidden(),
        };
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} {prefix} {msg:.dim} {elapsed:.dim}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(label.clone());
        match look {
            Look::Terminal { .. } => bar.enable_steady_tick(REDRAW),
            Look::Plain => crate::message!("{label}"),
            Look::Silent => {}
        }
        Self { label, bar, begun: Instant::now(), look, finished: false }
    }

    /// Shows what the step is doing now: replaced on a terminal, a line elsewhere.
    pub fn detail(&self, text: &str) {
        match self.look {
            Look::Terminal { .. } => self.bar.set_message(format!("· {text}")),
            Look::Plain => crate::message!("      {text}"),
            Look::Silent => {}
        }
    }

    /// Prints a line that stays.
    pub fn line(&self, text: &str) {
        match self.look {
            Look::Terminal { .. } => self.bar.suspend(|| crate::message!("  {text}")),
            Look::Plain => crate::message!("      {text}"),
            Look::Silent => {}
        }
    }

    /// Runs something that writes to the terminal itself, with the step's own line out of the way.
    pub fn suspended<Answer>(&self, work: impl FnOnce() -> Answer) -> Answer {
        self.bar.suspend(work)
    }

    /// Ends the step as successful, with a short summary.
    pub fn done(mut self, summary: &str) {
        self.finish(true, summary);
    }

    /// Ends the step as one that could not run.
    pub fn skipped(mut self) {
        self.finished = true;
        self.bar.finish_and_clear();
        match self.look {
            Look::Terminal { .. } => crate::message!("- {}: not run", self.label),
            Look::Plain => crate::message!("      not run"),
            Look::Silent => {}
        }
    }

    fn finish(&mut self, well: bool, summary: &str) {
        self.finished = true;
        self.bar.finish_and_clear();
        let time = duration(self.begun.elapsed().as_secs_f64());
        let separator = if summary.is_empty() { "" } else { ": " };
        match self.look {
            Look::Terminal { colour } => {
                let mark = match (well, colour) {
                    (true, true) => "\x1b[32m✓\x1b[0m",
                    (true, false) => "✓",
                    (false, true) => "\x1b[31m✗\x1b[0m",
                    (false, false) => "✗",
                };
                crate::message!("{mark} {}{separator}{summary} ({time})", self.label);
            }
            Look::Plain => {
                let mark = if well { "ok" } else { "FAILED" };
                crate::message!("      {mark}{separator}{summary} ({time})");
            }
            Look::Silent => {}
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.finished {
            self.finish(false, "");
        }
    }
}

/// The form of progress lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Terminal { colour: bool },
    Plain,
    Silent,
}

impl Look {
    fn of_standard_error() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Terminal { colour: colour_is_wanted() }
        } else {
            Self::Plain
        }
    }
}

/// Whether colour may be used: on a terminal, unless `NO_COLOR` is set.
#[must_use]
pub fn colour_is_wanted() -> bool {
    std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn times_from_a_minute_on_are_given_in_minutes() {
        assert_eq!(duration(4.24), "4.2 s");
        assert_eq!(duration(723.4), "12 min 3 s");
    }
}
