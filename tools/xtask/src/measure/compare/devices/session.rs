//! The boots of a measurement, each kept as soon as it has ended, so that a command that was
//! stopped is continued by the next.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use oche::workspace;
use serde::{Deserialize, Serialize};

use crate::demo::transfers::TransferCosts;

/// What is measured. Boots of another are not continued.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The guest's kernel: release, package, version.
    pub(super) kernel: String,
    /// The compiler of Oche.
    pub(super) compiler: String,
    /// QEMU's version.
    pub(super) qemu: String,
    /// SHA-256 of Oche and of the guest's initrd.
    pub(super) images: [String; 2],
    /// What a transfer moves where instructions are counted, by a network and by a disk, in MiB.
    pub(super) counted: [u64; 2],
    /// The same where time is taken.
    pub(super) timed: [u64; 2],
    /// The transfers of each boot.
    pub(super) transfers: Vec<String>,
}

/// A boot of the plan: two that count instructions, then pairs whose time is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boot {
    /// Instructions are counted.
    Count { is_native: bool },
    /// Time is taken, for the run of this number.
    Time { is_native: bool, run: usize },
}

impl Boot {
    /// The boot at a place of the plan.
    fn at(place: usize) -> Self {
        let is_native = place.is_multiple_of(2);
        match place / 2 {
            0 => Self::Count { is_native },
            run => Self::Time { is_native, run },
        }
    }

    pub(super) fn is_native(self) -> bool {
        match self {
            Self::Count { is_native } | Self::Time { is_native, .. } => is_native,
        }
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let under = if self.is_native() { "natively" } else { "on Oche" };
        match self {
            Self::Count { .. } => write!(out, "instructions {under}"),
            Self::Time { run, .. } => write!(out, "time {under}, run {run}"),
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    identity: Identity,
    /// What the boots took, in the plan's order.
    boots: Vec<TransferCosts>,
}

/// What was measured so far, and the file that keeps it.
#[derive(Debug)]
pub(super) struct Session {
    path: PathBuf,
    kept: Kept,
}

impl Session {
    /// Continues the session that `path` keeps, if it measures the same; else begins one.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub(super) fn open(path: &Path, identity: Identity) -> Result<Self> {
        let kept = match fs::read(path) {
            // What an older version wrote is no session.
            Ok(json) => serde_json::from_slice::<Kept>(&json).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let is_same = kept.identity == identity;
        let kept = if is_same { kept } else { Kept { identity, boots: Vec::new() } };
        Ok(Self { path: path.to_owned(), kept })
    }

    /// Removes the session that `path` keeps.
    ///
    /// # Errors
    ///
    /// The file cannot be removed.
    pub(super) fn forget(path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// What is measured.
    pub(super) fn identity(&self) -> &Identity {
        &self.kept.identity
    }

    /// How many boots were made.
    pub(super) fn done(&self) -> usize {
        self.kept.boots.len()
    }

    /// How many boots `runs` runs need.
    pub(super) fn planned(&self, runs: u32) -> usize {
        2 + 2 * runs as usize
    }

    /// The next boot, unless `runs` runs are complete.
    pub(super) fn next(&self, runs: u32) -> Option<Boot> {
        (self.done() < self.planned(runs)).then(|| Boot::at(self.done()))
    }

    /// Adds what the next boot took, and keeps it.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(super) fn add(&mut self, costs: TransferCosts) -> Result<()> {
        self.kept.boots.push(costs);
        let json = serde_json::to_vec_pretty(&self.kept).context("the session")?;
        workspace::write_whole(&self.path, &json)
    }

    /// The boots that were made, with what they took.
    pub(super) fn boots(&self) -> impl Iterator<Item = (Boot, &TransferCosts)> {
        self.kept.boots.iter().enumerate().map(|(place, costs)| (Boot::at(place), costs))
    }
}

#[cfg(test)]
mod tests {
    use super::{Boot, Identity, Session};
    use crate::demo::transfers::{TransferCost, TransferCosts};

    fn identity(oche: &str) -> Identity {
        Identity { images: [oche.into(), "initrd".into()], ..Identity::default() }
    }

    fn costs(nanoseconds: u64) -> TransferCosts {
        vec![("usb-read".into(), TransferCost { nanoseconds, ..TransferCost::default() })]
    }

    #[test]
    fn boots_alternate_and_the_first_two_count_instructions() {
        let plan: Vec<String> = (0..6).map(|place| Boot::at(place).to_string()).collect();
        assert_eq!(
            plan,
            [
                "instructions natively",
                "instructions on Oche",
                "time natively, run 1",
                "time on Oche, run 1",
                "time natively, run 2",
                "time on Oche, run 2",
            ]
        );
    }

    #[test]
    fn a_session_that_was_stopped_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("session.json");
        let mut session = Session::open(&path, identity("a")).unwrap();
        assert_eq!((session.done(), session.planned(1)), (0, 4));
        for nanoseconds in 1..=3 {
            session.add(costs(nanoseconds)).unwrap();
        }
        let mut session = Session::open(&path, identity("a")).unwrap();
        assert_eq!(session.next(1), Some(Boot::Time { is_native: false, run: 1 }));
        session.add(costs(4)).unwrap();
        let session = Session::open(&path, identity("a")).unwrap();
        assert_eq!((session.next(1), session.done()), (None, 4));
        assert_eq!(session.next(2), Some(Boot::Time { is_native: true, run: 2 }), "one more run");
        let taken: Vec<_> = session.boots().map(|(_, costs)| costs.clone()).collect();
        assert_eq!(taken, [costs(1), costs(2), costs(3), costs(4)]);
    }

    #[test]
    fn boots_of_another_oche_and_a_damaged_file_are_not_continued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("session.json");
        Session::open(&path, identity("a")).unwrap().add(costs(1)).unwrap();
        assert_eq!(Session::open(&path, identity("b")).unwrap().done(), 0);
        assert_eq!(Session::open(&path, identity("a")).unwrap().done(), 1, "nothing was removed");
        Session::forget(&path).unwrap();
        assert_eq!(Session::open(&path, identity("a")).unwrap().done(), 0);
        Session::forget(&path).unwrap();
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Session::open(&path, identity("a")).unwrap().done(), 0);
    }
}
