//! The exclusive monitors of guarded pages, one for each CPU.
//!
//! Every return to the guest clears the CPU's own monitor, so for guarded pages these stand in: set by an
//! emulated load-exclusive, cleared by any other CPU's store nearby, asked by the store-exclusive.

use oche_hyp::addr::Gfn;

use crate::machine::MOST_CPUS;

/// Bytes around a store in which it clears other CPUs' monitors: an exclusives reservation granule. The
/// architecture allows 16 to 2048.
const GRANULE: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Monitor {
    page: Gfn,
    offset: usize,
    values: [u64; 2],
}

/// All CPUs' monitors.
#[derive(Debug)]
pub struct Monitors([Option<Monitor>; MOST_CPUS]);

impl Monitors {
    /// None is set.
    pub const fn new() -> Self {
        Self([None; MOST_CPUS])
    }

    /// CPU `cpu` loaded `values` exclusively from `offset` of `page`.
    pub fn begin(&mut self, cpu: usize, page: Gfn, offset: usize, values: [u64; 2]) {
        if let Some(monitor) = self.0.get_mut(cpu) {
            *monitor = Some(Monitor { page, offset, values });
        }
    }

    /// What the CPU loaded exclusively from there, unless another stored since. Clears the monitor.
    pub fn take(&mut self, cpu: usize, page: Gfn, offset: usize) -> Option<[u64; 2]> {
        let monitor = self.0.get_mut(cpu)?.take()?;
        (monitor.page == page && monitor.offset == offset).then_some(monitor.values)
    }

    /// CPU `cpu` stores at `offset` of `page`.
    pub fn note_store(&mut self, cpu: usize, page: Gfn, offset: usize) {
        self.clear(cpu, |monitor| monitor.page == page && monitor.offset / GRANULE == offset / GRANULE);
    }

    /// CPU `cpu` may store anywhere in `page`.
    pub fn note_stores(&mut self, cpu: usize, page: Gfn) {
        self.clear(cpu, |monitor| monitor.page == page);
    }

    fn clear(&mut self, cpu: usize, is_hit: impl Fn(&Monitor) -> bool) {
        for (number, monitor) in self.0.iter_mut().enumerate() {
            if number != cpu && monitor.as_ref().is_some_and(&is_hit) {
                *monitor = None;
            }
        }
    }
}

impl Default for Monitors {
    fn default() -> Self {
        Self::new()
    }
}
