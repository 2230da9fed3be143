//! The report of cases, one line each.

use core::fmt;

use super::console::print;

/// What a case comes to: nothing, or the reason why it failed.
pub type Check = Result<(), &'static str>;

/// Fails for `reason` unless `is_true`.
///
/// # Errors
///
/// `reason`, if `is_true` is false.
pub fn check(is_true: bool, reason: &'static str) -> Check {
    if is_true { Ok(()) } else { Err(reason) }
}

/// How many cases there were and how many failed.
#[derive(Default)]
pub struct CaseReport {
    cases: u32,
    failed: u32,
}

impl CaseReport {
    /// Prints one case's result.
    pub fn case(&mut self, name: fmt::Arguments<'_>, result: Check) {
        self.cases += 1;
        match result {
            Ok(()) => print(format_args!("guest: {name} ok\n")),
            Err(reason) => {
                self.failed += 1;
                print(format_args!("guest: {name} FAILED: {reason}\n"));
            }
        }
    }

    /// Prints the counts.
    pub fn finish(&self) {
        print(format_args!("guest: {} cases, {} failed\n", self.cases, self.failed));
    }
}
