//! The names of the guest's code, looked for beside a recording. A look reads much of the guest's
//! memory, so a thread of its own makes it.

use std::fs::File;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustc_hash::FxHashSet;

use super::super::guest_kernel::{self, RamFile};
use super::super::names::{Function, Names};

/// Time until the first look, and between two.
const FIRST: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_secs(4);
/// As many times as long as a look took are waited until the next: at first, for devices and
/// modules come one after the other as a guest boots, and at most, which takes 5 % of a CPU. Each
/// look that finds nothing new doubles it.
const FIRST_REST: u32 = 1;
const MAX_REST: u32 = 20;

/// When so many functions are known, the looks end. A kernel with its modules has some 100 000.
const MAX_FUNCTIONS: usize = 1 << 20;

/// The boards, and where their RAM begins, which a RAM file begins with. Source: QEMU
/// `hw/arm/virt.c`, `base_memmap`; m1n1 `src/memory.c`, of a t8103.
const BOARDS: [(&str, u64); 2] = [("qemu-virt", 0x4000_0000), ("m1", 0x8_0000_0000)];

/// The looks at one boot's names.
#[derive(Debug)]
pub struct NameWatch {
    /// Hung up when the last look is to be made.
    end: Sender<()>,
    found: Receiver<Names>,
    thread: JoinHandle<()>,
}

impl NameWatch {
    /// Looks from now on into the RAM file, which is of `board`. `None`: no board that is known.
    pub fn start(ram: &File, board: &str) -> Option<Self> {
        let (_, base) = BOARDS.into_iter().find(|(name, _)| *name == board)?;
        let ram = ram.try_clone().ok()?;
        let (end, ends) = mpsc::channel();
        let (sender, found) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("names of the guest".into())
            .spawn(move || watch(&ram, base, &ends, &sender))
            .ok()?;
        Some(Self { end, found, thread })
    }

    /// What was found since the last call.
    pub fn found(&self) -> impl Iterator<Item = Names> {
        self.found.try_iter()
    }

    /// Makes a last look, and returns what was found since the last call.
    pub(super) fn finish(self) -> Vec<Names> {
        drop(self.end);
        // A look that panicked has found nothing.
        let _ = self.thread.join();
        self.found.try_iter().collect()
    }
}

fn watch(ram: &File, base: u64, ends: &Receiver<()>, found: &Sender<Names>) {
    let mut known = Known::default();
    let (mut wait, mut rest) = (FIRST, FIRST_REST);
    loop {
        let is_last = match ends.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => false,
            Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
        };
        let began = Instant::now();
        let news = match look(ram, base) {
            Ok(names) => known.news(names),
            // Before its end the guest may not have come so far.
            Err(error) if is_last && known.functions.is_empty() => {
                Some(Names { missing: vec![format!("{error:#}")], ..Names::default() })
            }
            Err(_) => None,
        };
        rest = next_rest(rest, news.is_some());
        if let Some(news) = news
            && found.send(news).is_err()
        {
            return;
        }
        if is_last || known.is_full() {
            return;
        }
        wait = EVERY.max(began.elapsed() * rest);
    }
}

fn next_rest(rest: u32, has_news: bool) -> u32 {
    if has_news { FIRST_REST } else { (rest * 2).min(MAX_REST) }
}

fn look(ram: &File, base: u64) -> Result<Names> {
    guest_kernel::read(&RamFile::new(ram, base)?)
}

/// What was found before.
#[derive(Debug, Default)]
struct Known {
    functions: FxHashSet<Function>,
    /// All else.
    rest: Names,
}

impl Known {
    /// Whether no more is to be learned: a guest that invents names must not fill the disk.
    fn is_full(&self) -> bool {
        self.functions.len() >= MAX_FUNCTIONS
    }

    /// What of `names` is new, if anything is.
    fn news(&mut self, mut names: Names) -> Option<Names> {
        let functions: Vec<Function> = std::mem::take(&mut names.functions)
            .into_iter()
            .filter(|function| self.functions.insert(function.clone()))
            .collect();
        if functions.is_empty() && names == self.rest {
            return None;
        }
        self.rest = names.clone();
        Some(Names { functions, ..names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::names::DeviceName;

    fn names(addresses: &[u64], driver: Option<&str>) -> Names {
        let function = |address: &u64| Function {
            address: *address,
            name: format!("f{address}"),
            module: None,
        };
        Names {
            functions: addresses.iter().map(function).collect(),
            devices: vec![DeviceName { name: "a".into(), driver: driver.map(Into::into) }],
            ..Names::default()
        }
    }

    #[test]
    fn only_what_is_new_is_kept_again() {
        let mut known = Known::default();
        assert_eq!(known.news(names(&[1, 2], None)), Some(names(&[1, 2], None)));
        assert_eq!(known.news(names(&[1, 2], None)), None);
        assert_eq!(known.news(names(&[1, 2, 3], None)), Some(names(&[3], None)));
        assert_eq!(known.news(names(&[2], None)), None, "what is gone stays known");
        assert_eq!(known.news(names(&[1], Some("nvme"))), Some(names(&[], Some("nvme"))));
    }

    #[test]
    fn a_guest_that_invents_names_is_not_asked_for_ever() {
        let mut known = Known::default();
        let addresses: Vec<u64> = (0..MAX_FUNCTIONS as u64 - 1).collect();
        known.news(names(&addresses, None));
        assert!(!known.is_full());
        known.news(names(&[u64::MAX], None));
        assert!(known.is_full());
    }

    #[test]
    fn looks_become_rare_where_nothing_changes() {
        let rests: Vec<u32> = (0..6)
            .scan(FIRST_REST, |rest, look| {
                *rest = next_rest(*rest, look == 0);
                Some(*rest)
            })
            .collect();
        assert_eq!(rests, [1, 2, 4, 8, 16, 20]);
        assert_eq!(next_rest(MAX_REST, true), FIRST_REST);
    }

    #[test]
    fn a_guest_without_a_kernel_has_a_reason_at_the_end() {
        let ram = tempfile::tempfile().unwrap();
        ram.set_len(1 << 20).unwrap();
        assert!(NameWatch::start(&ram, "another board").is_none());
        let found = NameWatch::start(&ram, "qemu-virt").unwrap().finish();
        let [Names { missing, functions, .. }] = &*found else { panic!("{found:?}") };
        assert!(functions.is_empty() && missing.len() == 1, "{missing:?}");
    }
}
