//! Signals that ask a command to end: it ends its file and gives the terminal back first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// The signals that came.
#[derive(Debug)]
pub struct Signals {
    last: Arc<AtomicUsize>,
}

impl Signals {
    /// Catches SIGINT, SIGTERM and SIGHUP from now on. A second one ends the process.
    ///
    /// # Errors
    ///
    /// The system does not allow it.
    pub fn catch() -> Result<Self> {
        let (last, is_second) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let action = || format!("catching signal {signal}");
            let number = usize::try_from(signal).unwrap_or(1);
            // In this order: the first signal arms what the second one meets.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&is_second))
                .with_context(action)?;
            flag::register(signal, Arc::clone(&is_second)).with_context(action)?;
            flag::register_usize(signal, Arc::clone(&last), number).with_context(action)?;
        }
        Ok(Self { last })
    }

    /// Whether one came.
    pub fn is_caught(&self) -> bool {
        self.last.load(Ordering::SeqCst) != 0
    }

    /// Whether it was the terminal's interrupt, which the terminal's other processes get as well.
    pub fn is_interrupt(&self) -> bool {
        self.last.load(Ordering::SeqCst) == usize::try_from(SIGINT).unwrap_or(0)
    }
}
