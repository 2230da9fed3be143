//! Routing of FIQs to the guest, and virtual FIQ injection (`oche.fiq=virtual`): which FIQ sources
//! EL2 masks, and when it injects a FIQ.
//!
//! FIQs are level-triggered: a CPU takes one again until its source is deasserted, and EL1's mask
//! does not apply to a FIQ that is routed to EL2. EL2 therefore masks or acknowledges an asserted
//! source, and sets `HCR_EL2.VF` so that the guest takes a virtual FIQ instead:
//!
//! | Source | Kept quiet by | The guest's FIQ ends |
//! |---|---|---|
//! | its two timers | a mask of EL2's | at the first look that finds the timer quiet |
//! | an IPI from another CPU | acknowledging it | when the guest acknowledges it: that traps, and is answered from [`PendingFiqs`] |
//! | the PMU | clearing its mode and its flag | when the guest writes `PMCR0`: the same |
//!
//! A guest that handles a timer does not trap, so EL2 polls a masked timer every
//! [`POLL_MICROSECONDS`]. m1n1's hypervisor masks and polls the timers of an M1 in the same way.
//! EL2's own timer runs only while a FIQ is pending. This module decides; `fiq::hw` accesses the
//! registers.

#[cfg(target_os = "none")]
mod apple;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
pub mod hw;

#[cfg(test)]
mod tests;

/// How FIQs are routed to the guest: `oche.fiq`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// Directly to EL1, with `HCR_EL2.FMO` clear.
    #[default]
    Direct,
    /// To EL2, with `HCR_EL2.FMO` set, which injects them into EL1 with `HCR_EL2.VF`.
    Virtual,
}

/// Interval between two polls of a masked timer. For so long, a virtual FIQ may stay pending after
/// the guest has handled it, and the guest takes it in vain. Each poll is an exit.
pub const POLL_MICROSECONDS: u64 = 50;
/// Number of successive FIQs without a known source after which that is logged. A source that has
/// just been masked may cause one more; an unknown source does not end.
const MAX_STRAYS: u32 = 1000;

/// `CNTx_CTL`: ENABLE 0, IMASK 1, ISTATUS 2. Source: Arm ARM DDI 0487, `CNTV_CTL_EL0`.
const TIMER_BITS: u64 = 0b111;
const TIMER_ASSERTS: u64 = 0b101;
/// `PMCR0`: what an overflow raises, where 4 is a FIQ, and whether one is raised. Source: m1n1
/// `src/cpu_regs.h`.
const PMCR0_MODE: u64 = 7 << 8;
const PMCR0_MODE_FIQ: u64 = 4 << 8;
const PMCR0_ACTIVE: u64 = 1 << 11;

/// Whether a timer with this `CNTx_CTL` asserts its interrupt.
pub fn is_asserted(control: u64) -> bool {
    control & TIMER_BITS == TIMER_ASSERTS
}

/// A set of the guest's timers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timers {
    /// `CNTV`.
    pub virtual_timer: bool,
    /// `CNTP`.
    pub physical_timer: bool,
}

impl Timers {
    /// Both.
    pub const BOTH: Self = Self { virtual_timer: true, physical_timer: true };

    /// Whether the set is not empty.
    pub fn is_any(self) -> bool {
        self.virtual_timer || self.physical_timer
    }

    /// The timers in both sets.
    pub fn and(self, other: Self) -> Self {
        Self {
            virtual_timer: self.virtual_timer && other.virtual_timer,
            physical_timer: self.physical_timer && other.physical_timer,
        }
    }

    /// The timers that are not in the set.
    pub fn others(self) -> Self {
        Self { virtual_timer: !self.virtual_timer, physical_timer: !self.physical_timer }
    }
}

/// FIQs that EL2 has acknowledged in the hardware and the guest has not acknowledged yet.
#[derive(Debug)]
pub struct PendingFiqs {
    /// A bit for each kind of IPI. Apple's CPUs have one kind, number 0; a GIC has sixteen (SGIs).
    ipis: u16,
    /// Whether an overflow is pending: the guest then reads mode FIQ and a raised overflow in
    /// `PMCR0`, which the hardware's register no longer has.
    has_overflow: bool,
}

impl PendingFiqs {
    const fn new() -> Self {
        Self { ipis: 0, has_overflow: false }
    }

    /// Whether any FIQ is pending.
    pub fn is_any(&self) -> bool {
        self.ipis != 0 || self.has_overflow
    }

    /// Records IPI `kind`, which EL2 has acknowledged. As in hardware, two unacknowledged IPIs of a
    /// kind are one.
    pub fn ipi(&mut self, kind: u8) {
        self.ipis |= 1 << (kind & 15);
    }

    /// The lowest pending IPI.
    pub fn first_ipi(&self) -> Option<u8> {
        (self.ipis != 0).then_some(self.ipis.trailing_zeros() as u8)
    }

    /// Removes IPI `kind`, which the guest acknowledges.
    pub fn drop_ipi(&mut self, kind: u8) {
        self.ipis &= !(1 << (kind & 15));
    }

    /// Whether an overflow is pending: accesses to the PMU must then trap.
    pub fn has_overflow(&self) -> bool {
        self.has_overflow
    }

    /// Handles a FIQ with `value` in the hardware's `PMCR0`. Returns what to write there if the PMU
    /// raised it.
    pub fn take_overflow(&mut self, value: u64) -> Option<u64> {
        let raised = PMCR0_MODE_FIQ | PMCR0_ACTIVE;
        if value & (PMCR0_MODE | PMCR0_ACTIVE) != raised {
            return None;
        }
        self.has_overflow = true;
        Some(value & !(PMCR0_MODE | PMCR0_ACTIVE))
    }

    /// The value that the guest reads in `PMCR0` if the hardware's is `value`.
    pub fn pmcr0(&self, value: u64) -> u64 {
        if !self.has_overflow {
            return value;
        }
        value & !(PMCR0_MODE | PMCR0_ACTIVE) | PMCR0_MODE_FIQ | PMCR0_ACTIVE
    }

    /// Handles the guest's write of `value` to `PMCR0`. Returns the value for the hardware. An
    /// overflow stays pending if the guest writes it as raised.
    pub fn write_pmcr0(&mut self, value: u64) -> u64 {
        self.has_overflow &= value & (PMCR0_MODE | PMCR0_ACTIVE) == PMCR0_MODE_FIQ | PMCR0_ACTIVE;
        if self.has_overflow { value & !(PMCR0_MODE | PMCR0_ACTIVE) } else { value }
    }
}

/// What to do with EL2's own timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// Fire in [`POLL_MICROSECONDS`].
    Start,
    /// Leave it as it is.
    Keep,
    /// Turn it off.
    Stop,
}

/// What to write to the hardware before this CPU returns to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct FiqOutputs {
    /// The timers that are not masked.
    pub open: Timers,
    /// `HCR_EL2.VF`.
    pub is_pending: bool,
    /// EL2's own timer.
    pub poll: Poll,
}

/// The state of virtual FIQ injection on one CPU.
#[derive(Debug)]
pub struct VirtualFiq {
    /// FIQs that the guest has not acknowledged.
    pub pending: PendingFiqs,
    open: Timers,
    is_polling: bool,
    strays: u32,
}

impl VirtualFiq {
    /// Creates a state with nothing pending and both timers unmasked.
    pub const fn new() -> Self {
        Self { pending: PendingFiqs::new(), open: Timers::BOTH, is_polling: false, strays: 0 }
    }

    /// Handles a FIQ that was taken to EL2. `took` says whether EL2 found a source other than the
    /// guest's timers. Returns true once, if FIQs from an unknown source must be logged.
    #[must_use]
    pub fn came(&mut self, lines: Timers, took: bool) -> bool {
        if took || lines.and(self.open).is_any() {
            self.strays = 0;
            return false;
        }
        self.strays = self.strays.saturating_add(1);
        self.strays == MAX_STRAYS
    }

    /// Decides what to write to the hardware before this CPU returns to the guest. `lines` are the
    /// timers that are asserted now; `has_fired` says whether EL2's own timer has fired, and is
    /// off.
    pub fn update(&mut self, lines: Timers, has_fired: bool) -> FiqOutputs {
        self.open = lines.others();
        let runs = self.is_polling && !has_fired;
        self.is_polling = lines.is_any();
        let poll = match (self.is_polling, runs) {
            (true, false) => Poll::Start,
            (false, true) => Poll::Stop,
            _ => Poll::Keep,
        };
        FiqOutputs { open: self.open, is_pending: lines.is_any() || self.pending.is_any(), poll }
    }
}

impl Default for VirtualFiq {
    fn default() -> Self {
        Self::new()
    }
}
