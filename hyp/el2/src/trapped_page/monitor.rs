//! The exclusive monitors of trapped pages, one for each CPU.
//!
//! Every return to the guest clears the CPU's own monitor, so for trapped pages these stand in: set
//! by an emulated load-exclusive, cleared by any other CPU's store nearby, asked by the
//! store-exclusive.
//!
//! A monitor is set only from its load-exclusive to the end of the sequence that is stepped behind
//! it, however that ends. What the CPU executes by itself afterwards is up to its own monitor: a
//! store-exclusive of its that traps must not succeed because of a value that was loaded before,
//! when other CPUs' stores may have gone by unseen.

use oche_types::MAX_CPUS;
use oche_types::addr::Gfn;

/// Bytes around a store in which it clears other CPUs' monitors: an exclusives reservation granule.
/// The architecture allows 16 to 2048.
const GRANULE: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Monitor {
    place: MonitoredBytes,
    values: [u64; 2],
}

/// What a load-exclusive loads, and a store-exclusive stores. A pair of another size, or elsewhere,
/// does not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitoredBytes {
    /// The page.
    pub page: Gfn,
    /// The first byte's offset.
    pub offset: usize,
    /// Bytes of each register.
    pub bytes: usize,
    /// Whether there are two.
    pub is_pair: bool,
}

/// All CPUs' monitors.
#[derive(Debug)]
pub struct Monitors([Option<Monitor>; MAX_CPUS]);

impl Monitors {
    /// None is set.
    pub const fn new() -> Self {
        Self([None; MAX_CPUS])
    }

    /// CPU `cpu` loaded `values` exclusively from `place`.
    pub fn begin(&mut self, cpu: usize, place: MonitoredBytes, values: [u64; 2]) {
        *self.of(cpu) = Some(Monitor { place, values });
    }

    /// What the CPU loaded exclusively from there, unless another stored since. Clears the monitor.
    pub fn take(&mut self, cpu: usize, place: MonitoredBytes) -> Option<[u64; 2]> {
        self.of(cpu).take().filter(|monitor| monitor.place == place).map(|monitor| monitor.values)
    }

    /// What the CPU's monitor covers was loaded as this, unless another stored since.
    pub fn values(&self, cpu: usize) -> Option<[u64; 2]> {
        self.0.get(cpu).and_then(Option::as_ref).map(|monitor| monitor.values)
    }

    /// The CPU goes on by itself: its sequence has ended, as by `CLREX`.
    pub fn end(&mut self, cpu: usize) {
        *self.of(cpu) = None;
    }

    fn of(&mut self, cpu: usize) -> &mut Option<Monitor> {
        self.0.get_mut(cpu).expect("a CPU's number is below the most CPUs")
    }

    /// CPU `cpu` stores at `offset` of `page`.
    pub fn note_store(&mut self, cpu: usize, page: Gfn, offset: usize) {
        self.clear(cpu, |monitor| {
            monitor.place.page == page && monitor.place.offset / GRANULE == offset / GRANULE
        });
    }

    /// CPU `cpu` may store anywhere in `page`.
    pub fn note_stores(&mut self, cpu: usize, page: Gfn) {
        self.clear(cpu, |monitor| monitor.place.page == page);
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
