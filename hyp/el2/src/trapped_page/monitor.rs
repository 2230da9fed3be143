//! The exclusive monitors of trapped pages, one for each CPU.
//!
//! Every return to the guest clears the CPU's own monitor, so these replace it for trapped pages.
//! An emulated load-exclusive sets one, another CPU's store in the same reservation granule clears
//! it, and the emulated store-exclusive checks it.
//!
//! A monitor is set only from its load-exclusive to the end of the stepped sequence, however that
//! ends. Afterwards only the CPU's own monitor counts: a later store-exclusive that traps must not
//! succeed because of the earlier load, since other CPUs' stores in between may not have trapped.

use oche_types::MAX_CPUS;
use oche_types::addr::Gfn;

/// Size of an exclusives reservation granule in bytes: a store clears other CPUs' monitors in its
/// granule. The architecture allows 16 to 2048.
const GRANULE: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Monitor {
    place: MonitoredBytes,
    values: [u64; 2],
}

/// The place of a load-exclusive or store-exclusive. A store-exclusive of another size or place
/// than its load-exclusive fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitoredBytes {
    /// The page.
    pub page: Gfn,
    /// The first byte's offset.
    pub offset: usize,
    /// Number of bytes of each register.
    pub bytes: usize,
    /// Whether there are two registers.
    pub is_pair: bool,
}

/// All CPUs' monitors.
#[derive(Debug)]
pub struct Monitors {
    monitors: [Option<Monitor>; MAX_CPUS],
    /// Whether any may be set: mostly none is, and a store looks at no monitor.
    are_set: bool,
}

impl Monitors {
    /// Creates monitors that are all clear.
    pub const fn new() -> Self {
        Self { monitors: [None; MAX_CPUS], are_set: false }
    }

    /// Sets the monitor of CPU `cpu`, which has loaded `values` exclusively from `place`.
    pub fn begin(&mut self, cpu: usize, place: MonitoredBytes, values: [u64; 2]) {
        *self.of(cpu) = Some(Monitor { place, values });
        self.are_set = true;
    }

    /// Takes the values that the CPU loaded exclusively from there, unless another CPU has stored
    /// since. Clears the monitor.
    pub fn take(&mut self, cpu: usize, place: MonitoredBytes) -> Option<[u64; 2]> {
        self.of(cpu).take().filter(|monitor| monitor.place == place).map(|monitor| monitor.values)
    }

    /// The values that the CPU's monitor covers, unless another CPU has stored since.
    pub fn values(&self, cpu: usize) -> Option<[u64; 2]> {
        self.monitors.get(cpu).and_then(Option::as_ref).map(|monitor| monitor.values)
    }

    /// Clears the monitor of the CPU, whose sequence has ended, as by `CLREX`.
    pub fn end(&mut self, cpu: usize) {
        *self.of(cpu) = None;
        self.are_set = self.monitors.iter().any(Option::is_some);
    }

    fn of(&mut self, cpu: usize) -> &mut Option<Monitor> {
        self.monitors.get_mut(cpu).expect("a CPU's number is below the maximum")
    }

    /// Clears other CPUs' monitors for a store of CPU `cpu` at `offset` of `page`.
    #[inline]
    pub fn note_store(&mut self, cpu: usize, page: Gfn, offset: usize) {
        self.clear(cpu, |monitor| {
            monitor.place.page == page && monitor.place.offset / GRANULE == offset / GRANULE
        });
    }

    /// Clears other CPUs' monitors for stores of CPU `cpu` anywhere in `page`.
    pub fn note_stores(&mut self, cpu: usize, page: Gfn) {
        self.clear(cpu, |monitor| monitor.place.page == page);
    }

    #[inline]
    fn clear(&mut self, cpu: usize, is_hit: impl Fn(&Monitor) -> bool) {
        if self.are_set {
            self.clear_set(cpu, is_hit);
        }
    }

    #[cold]
    #[inline(never)]
    fn clear_set(&mut self, cpu: usize, is_hit: impl Fn(&Monitor) -> bool) {
        for (number, monitor) in self.monitors.iter_mut().enumerate() {
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
