//! How FIQs reach the guest, and `oche.fiq=virtual`: which ones EL2 masks, and when it injects
//! one.
//!
//! A FIQ is a level: it comes again until its source is quiet, and what is taken to EL2 no mask of
//! EL1's holds back. So whatever is asserted is kept from asserting, and `HCR_EL2.VF` shows the
//! guest a FIQ in its place:
//!
//! | Source | Kept quiet by | The guest's FIQ ends |
//! |---|---|---|
//! | its two timers | a mask of EL2's | at the first look that finds the timer quiet |
//! | an IPI from another CPU | acknowledging it | when the guest acknowledges it: that traps, and is answered from [`PendingFiqs`] |
//! | the PMU | clearing its mode and its flag | when the guest writes `PMCR0`: the same |
//!
//! Nothing traps when a guest has dealt with a timer: so, while one is masked, EL2 looks again
//! every [`POLL_MICROSECONDS`]. The same mask and the same looks at the timers are proven on an M1
//! by m1n1's hypervisor; here no timer of EL2's runs while nothing is pending. This module decides;
//! `fiq::hw` reads and writes registers.

#[cfg(target_os = "none")]
mod apple;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
pub mod hw;

#[cfg(test)]
mod tests;

/// Which way FIQs take to the guest: `oche.fiq`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// Straight to EL1, with `HCR_EL2.FMO` clear.
    #[default]
    Direct,
    /// To EL2 with `HCR_EL2.FMO` set, and on to EL1 by `HCR_EL2.VF`.
    Virtual,
}

/// From one look at a masked timer to the next. A FIQ that the guest has dealt with may stay
/// pending for so long, in which the guest does nothing but find out that there is nothing to do;
/// and each look is an exit.
pub const POLL_MICROSECONDS: u64 = 50;
/// FIQs in a row that no known source explains before that is logged. A source that has just
/// been masked may come once more; one that is not known comes for ever.
const MAX_STRAYS: u32 = 1000;

/// `CNTx_CTL`: ENABLE 0, IMASK 1, ISTATUS 2. Source: Arm ARM DDI 0487, `CNTV_CTL_EL0`.
const TIMER_BITS: u64 = 0b111;
const TIMER_ASSERTS: u64 = 0b101;
/// `PMCR0`: what an overflow raises, 4 for a FIQ; and that one is raised. Source: m1n1
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

    /// Whether there is one.
    pub fn is_any(self) -> bool {
        self.virtual_timer || self.physical_timer
    }

    /// Those that are in both sets.
    pub fn and(self, other: Self) -> Self {
        Self {
            virtual_timer: self.virtual_timer && other.virtual_timer,
            physical_timer: self.physical_timer && other.physical_timer,
        }
    }

    /// Those that are not in the set.
    pub fn others(self) -> Self {
        Self { virtual_timer: !self.virtual_timer, physical_timer: !self.physical_timer }
    }
}

/// What EL2 has taken from the hardware and the guest has not taken from EL2 yet.
#[derive(Debug)]
pub struct PendingFiqs {
    /// A bit for each kind of IPI. Apple's CPUs have one kind, number 0; a GIC has sixteen (SGIs).
    ipis: u16,
    /// The hardware's `PMCR0` lacks what the guest reads there: mode FIQ, and an overflow raised.
    has_overflow: bool,
}

impl PendingFiqs {
    const fn new() -> Self {
        Self { ipis: 0, has_overflow: false }
    }

    /// Whether there is anything.
    pub fn is_any(&self) -> bool {
        self.ipis != 0 || self.has_overflow
    }

    /// IPI `kind` was acknowledged. As in hardware, two of a kind that have not been
    /// acknowledged are one.
    pub fn ipi(&mut self, kind: u8) {
        self.ipis |= 1 << (kind & 15);
    }

    /// The lowest pending IPI.
    pub fn first_ipi(&self) -> Option<u8> {
        (self.ipis != 0).then_some(self.ipis.trailing_zeros() as u8)
    }

    /// The guest acknowledges IPI `kind`.
    pub fn drop_ipi(&mut self, kind: u8) {
        self.ipis &= !(1 << (kind & 15));
    }

    /// Whether an overflow waits: then accesses to the PMU must trap.
    pub fn has_overflow(&self) -> bool {
        self.has_overflow
    }

    /// A FIQ came, and the hardware's `PMCR0` is `value`. What to write there, if it was the PMU.
    pub fn take_overflow(&mut self, value: u64) -> Option<u64> {
        let raised = PMCR0_MODE_FIQ | PMCR0_ACTIVE;
        if value & (PMCR0_MODE | PMCR0_ACTIVE) != raised {
            return None;
        }
        self.has_overflow = true;
        Some(value & !(PMCR0_MODE | PMCR0_ACTIVE))
    }

    /// What the guest reads, where the hardware's `PMCR0` is `value`.
    pub fn pmcr0(&self, value: u64) -> u64 {
        if !self.has_overflow {
            return value;
        }
        value & !(PMCR0_MODE | PMCR0_ACTIVE) | PMCR0_MODE_FIQ | PMCR0_ACTIVE
    }

    /// The guest writes `value` to `PMCR0`; gives what the hardware gets. The overflow waits on
    /// while it is written as raised.
    pub fn write_pmcr0(&mut self, value: u64) -> u64 {
        self.has_overflow &= value & (PMCR0_MODE | PMCR0_ACTIVE) == PMCR0_MODE_FIQ | PMCR0_ACTIVE;
        if self.has_overflow { value & !(PMCR0_MODE | PMCR0_ACTIVE) } else { value }
    }
}

/// What becomes of EL2's own timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// It fires [`POLL_MICROSECONDS`] from now.
    Start,
    /// It stays as it is.
    Keep,
    /// It is off.
    Stop,
}

/// How this CPU goes back to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct FiqOutputs {
    /// The timers that may raise FIQs; the others are masked.
    pub open: Timers,
    /// `HCR_EL2.VF`.
    pub is_pending: bool,
    /// EL2's own timer.
    pub poll: Poll,
}

/// One CPU's.
#[derive(Debug)]
pub struct VirtualFiq {
    /// What waits for the guest.
    pub pending: PendingFiqs,
    open: Timers,
    is_polling: bool,
    strays: u32,
}

impl VirtualFiq {
    /// Nothing is pending, and both timers are let through.
    pub const fn new() -> Self {
        Self { pending: PendingFiqs::new(), open: Timers::BOTH, is_polling: false, strays: 0 }
    }

    /// A FIQ came; `took`: EL2 found another source than the guest's timers. Returns whether to
    /// log that FIQs come from an unknown source, which is so once.
    #[must_use]
    pub fn came(&mut self, lines: Timers, took: bool) -> bool {
        if took || lines.and(self.open).is_any() {
            self.strays = 0;
            return false;
        }
        self.strays = self.strays.saturating_add(1);
        self.strays == MAX_STRAYS
    }

    /// Before this CPU goes back to the guest: `lines` assert now; `has_fired`: EL2's own timer
    /// has, and is off.
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
