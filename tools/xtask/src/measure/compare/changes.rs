//! What has changed since figures were recorded, and by how much a figure may.

/// A figure that grows by more than this has become worse, in percent.
pub(super) const MAX_PERCENT: f64 = 2.0;
/// A figure that shrinks by more than this is no longer the cost of the same work, or must be
/// recorded anew, in percent.
pub(super) const MAX_BETTER_PERCENT: f64 = 10.0;
/// Below this difference a figure is the same: figures are rounded to hundredths.
const ROUNDING: f64 = 0.015;

/// What a comparison with the recorded figures comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// How many figures were compared.
    pub(super) compared: usize,
    /// Those that are worse, a line each.
    pub(super) worse: Vec<String>,
    /// Those that are better by more than the bound, a line each.
    pub(super) better: Vec<String>,
    /// How many of these are better by more than [`MAX_BETTER_PERCENT`].
    pub(super) far_better: usize,
}

impl Changes {
    /// Adds a figure that was `then` and is `now`; `line` describes it.
    pub(super) fn take(&mut self, then: f64, now: f64, line: impl Fn() -> String) {
        let bound = (then * MAX_PERCENT / 100.0).max(ROUNDING);
        let change = |line: String| format!("{line} ({:+.1} %)", 100.0 * (now / then - 1.0));
        self.compared += 1;
        if now > then + bound {
            self.worse.push(change(line()));
        } else if now < then - bound {
            self.better.push(change(line()));
            self.far_better += usize::from(now < then * (1.0 - MAX_BETTER_PERCENT / 100.0));
        }
    }
}
