//! The relay against a CPU that is nothing but levels: a line is asserted, or it is not.

use super::*;

/// A source of random numbers that is wholly determined by its seed (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn chance(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

const VIRTUAL: usize = 0;
const PHYSICAL: usize = 1;
/// Counters that a guest keeps on: writes of `PMCR0` must not lose them.
const COUNTERS: u64 = 0xff;

/// One CPU with its guest, by the microsecond.
struct Cpu {
    now: u64,
    /// When each timer of the guest's asserts.
    deadlines: [Option<u64>; 2],
    call: bool,
    pmcr0: u64,
    poll_at: Option<u64>,
    open: Timers,
    is_pending: bool,
    /// `PSTATE.F` of the guest.
    masks: bool,
    virtual_fiq: VirtualFiq,
    /// One mask for both timers, as with a GIC's priorities.
    is_coarse: bool,
    /// A call, an overflow, that the guest has not acknowledged: by the test's own book.
    owes_call: bool,
    owes_overflow: bool,
    exits: u64,
    /// What can have caused an exit.
    causes: u64,
    logged: bool,
}

impl Cpu {
    fn new(is_coarse: bool) -> Self {
        Self {
            now: 0,
            deadlines: [None; 2],
            call: false,
            pmcr0: COUNTERS | PMCR0_MODE_FIQ,
            poll_at: None,
            open: Timers::BOTH,
            is_pending: false,
            masks: true,
            virtual_fiq: VirtualFiq::new(),
            is_coarse,
            owes_call: false,
            owes_overflow: false,
            exits: 0,
            causes: 0,
            logged: false,
        }
    }

    fn is_due(&self, timer: usize) -> bool {
        self.deadlines[timer].is_some_and(|deadline| deadline <= self.now)
    }

    fn lines(&self) -> Timers {
        Timers { virtual_timer: self.is_due(VIRTUAL), physical_timer: self.is_due(PHYSICAL) }
    }

    fn overflows(&self) -> bool {
        self.pmcr0 & (PMCR0_MODE | PMCR0_ACTIVE) == PMCR0_MODE_FIQ | PMCR0_ACTIVE
    }

    fn polls(&self) -> bool {
        self.poll_at.is_some_and(|at| at <= self.now)
    }

    /// The CPU's FIQ input. With `HCR_EL2.FMO` set nothing of the guest's masks it.
    fn line(&self) -> bool {
        self.lines().and(self.open).is_any() || self.call || self.overflows() || self.polls()
    }

    /// Another CPU calls.
    fn raise_call(&mut self) {
        (self.call, self.owes_call) = (true, true);
        self.causes += 1;
    }

    /// A counter overflows.
    fn raise_overflow(&mut self) {
        self.pmcr0 |= PMCR0_ACTIVE;
        self.owes_overflow = true;
        self.causes += 1;
    }

    /// What the guest must find asserted when it looks.
    fn is_any_for_guest(&self) -> bool {
        self.lines().is_any() || self.owes_call || self.owes_overflow
    }

    /// An exit, for a FIQ or anything else.
    fn exit(&mut self, is_fiq: bool) {
        self.exits += u64::from(is_fiq);
        let has_fired = self.polls();
        if has_fired {
            self.poll_at = None;
        }
        let mut took = has_fired;
        if std::mem::take(&mut self.call) {
            self.virtual_fiq.pending.ipi(0);
            took = true;
        }
        if let Some(value) = self.virtual_fiq.pending.take_overflow(self.pmcr0) {
            self.pmcr0 = value;
            took = true;
        }
        let lines = self.lines();
        self.logged |= is_fiq && self.virtual_fiq.came(lines, took);
        let outputs = self.virtual_fiq.update(lines, has_fired);
        self.is_pending = outputs.is_pending;
        let is_open = |own: bool| if self.is_coarse { outputs.open == Timers::BOTH } else { own };
        self.open = Timers {
            virtual_timer: is_open(outputs.open.virtual_timer),
            physical_timer: is_open(outputs.open.physical_timer),
        };
        match outputs.poll {
            Poll::Start => self.poll_at = Some(self.now + POLL_MICROSECONDS),
            Poll::Stop => self.poll_at = None,
            Poll::Keep => {}
        }
    }

    /// The guest's handler: looks at each source, deals with some of what it finds. A busy guest
    /// wants more ticks.
    fn handle(&mut self, random: &mut Random, is_busy: bool) {
        for timer in [VIRTUAL, PHYSICAL] {
            if self.is_due(timer) && !random.chance(4) {
                self.deadlines[timer] =
                    (is_busy && random.chance(2)).then(|| self.now + random.below(300));
                self.causes += u64::from(self.deadlines[timer].is_some());
            }
        }
        // These trap.
        let has_ipi = self.virtual_fiq.pending.first_ipi().is_some();
        assert_eq!(has_ipi, self.owes_call, "a call is lost, or there twice");
        if has_ipi && !random.chance(4) {
            self.virtual_fiq.pending.drop_ipi(0);
            self.owes_call = false;
            self.exit(false);
        }
        let has_overflow = self.virtual_fiq.pending.pmcr0(self.pmcr0) & PMCR0_ACTIVE != 0;
        assert_eq!(has_overflow, self.owes_overflow, "an overflow is lost, or there twice");
        if has_overflow && !random.chance(4) {
            assert_eq!(
                self.pmcr0 & COUNTERS,
                COUNTERS,
                "PMCR0 keeps what it has beside the overflow"
            );
            self.pmcr0 = self.virtual_fiq.pending.write_pmcr0(COUNTERS | PMCR0_MODE_FIQ);
            self.owes_overflow = false;
            self.exit(false);
        }
    }

    /// A microsecond. Panics where a FIQ storms or is lost.
    fn step(&mut self) {
        self.now += 1;
        if self.line() {
            self.exit(true);
            assert!(!self.line(), "the FIQ comes again at once");
        }
        assert!(
            self.is_pending || !self.is_any_for_guest(),
            "a source is asserted and the guest sees no FIQ"
        );
    }
}

/// A guest that does all that guests do, in any order, for a while; then it is left alone.
fn run(seed: u64, is_coarse: bool) {
    let mut random = Random(seed);
    let mut cpu = Cpu::new(is_coarse);
    let mut idle_since = None;
    for time in 0..20_000 {
        let is_busy = time < 19_000;
        if is_busy && random.chance(200) {
            cpu.raise_call();
        }
        if is_busy && random.chance(500) && !cpu.owes_overflow {
            cpu.raise_overflow();
        }
        if is_busy && random.chance(100) {
            cpu.deadlines[random.below(2) as usize] = Some(cpu.now + random.below(400));
            cpu.causes += 1;
        }
        if random.chance(300) {
            cpu.exit(false);
        }
        cpu.masks = is_busy && if random.chance(50) { !cpu.masks } else { cpu.masks };
        cpu.step();
        let was_any = cpu.is_any_for_guest();
        if cpu.is_pending && !cpu.masks {
            cpu.handle(&mut random, is_busy);
        }
        // The guest has dealt with everything and its FIQ is still pending: not for longer than a
        // poll.
        let is_idle = cpu.is_pending && !was_any && !cpu.is_any_for_guest();
        idle_since = if is_idle { idle_since.or(Some(time)) } else { None };
        let idle = idle_since.map_or(0, |since| time - since);
        assert!(idle <= POLL_MICROSECONDS, "a FIQ is pending without a source");
    }
    assert!(
        !cpu.is_pending && cpu.poll_at.is_none() && cpu.open == Timers::BOTH,
        "it does not come to rest"
    );
    assert!(!cpu.owes_call && !cpu.owes_overflow, "it is never acknowledged");
    assert!(cpu.deadlines.iter().flatten().all(|deadline| *deadline > cpu.now), "a timer is lost");
    let most = cpu.causes + cpu.now / POLL_MICROSECONDS + 1;
    assert!(cpu.exits <= most, "{} FIQs at EL2 for {most} causes", cpu.exits);
    assert!(cpu.causes > 100 && !cpu.logged);
}

#[test]
fn every_fiq_reaches_the_guest_and_none_storms() {
    for seed in 1..=200 {
        run(seed * 0x9e37_79b9, false);
        run(seed * 0x9e37_79b9, true);
    }
}

#[test]
fn nothing_polls_while_nothing_is_pending() {
    let mut cpu = Cpu::new(false);
    cpu.masks = false;
    (0..1_000_000).for_each(|_| cpu.step());
    assert_eq!(cpu.exits, 0);
    // A call needs no poll either, however long the guest takes.
    cpu.raise_call();
    (0..1_000_000).for_each(|_| cpu.step());
    assert!(cpu.is_pending && cpu.exits == 1);
}

#[test]
fn a_timer_that_a_guest_ignores_costs_an_exit_a_poll() {
    let mut cpu = Cpu::new(false);
    cpu.deadlines[PHYSICAL] = Some(10);
    (0..1000).for_each(|_| cpu.step());
    assert!(cpu.is_pending && !cpu.open.physical_timer && cpu.open.virtual_timer);
    assert_eq!(cpu.exits, 1 + 990 / POLL_MICROSECONDS);
    // The other one comes through meanwhile.
    cpu.deadlines[VIRTUAL] = Some(cpu.now + 1);
    cpu.step();
    assert!(!cpu.open.virtual_timer);
}

#[test]
fn a_timer_asserts_if_it_is_on_and_due_and_not_masked() {
    let asserting: Vec<u64> = (0..8).filter(|control| is_asserted(*control)).collect();
    assert_eq!(asserting, [0b101]);
}

#[test]
fn an_overflow_is_shown_until_pmcr0_is_written_otherwise() {
    let raised = COUNTERS | PMCR0_MODE_FIQ | PMCR0_ACTIVE;
    let mut pending = PendingFiqs::new();
    // By another way than a FIQ: not ours.
    assert_eq!(pending.take_overflow(COUNTERS | 2 << 8 | PMCR0_ACTIVE), None);
    assert_eq!(pending.take_overflow(raised), Some(COUNTERS));
    assert_eq!(pending.pmcr0(COUNTERS), raised);
    // Written as it is: it stays, and the hardware stays quiet.
    assert_eq!(pending.write_pmcr0(raised), COUNTERS);
    assert!(pending.has_overflow());
    // Masked but raised: what the guest wrote is what it finds.
    assert_eq!(pending.write_pmcr0(COUNTERS | PMCR0_ACTIVE), COUNTERS | PMCR0_ACTIVE);
    assert!(!pending.is_any());
    assert_eq!(pending.pmcr0(COUNTERS | PMCR0_ACTIVE), COUNTERS | PMCR0_ACTIVE);
}

#[test]
fn calls_of_several_kinds_wait_for_themselves() {
    let mut pending = PendingFiqs::new();
    [9, 3, 9].into_iter().for_each(|kind| pending.ipi(kind));
    assert_eq!(pending.first_ipi(), Some(3));
    pending.drop_ipi(3);
    assert_eq!(pending.first_ipi(), Some(9));
    pending.drop_ipi(9);
    assert!(!pending.is_any());
}

#[test]
fn a_fiq_of_unknown_source_is_reported_once() {
    let mut virtual_fiq = VirtualFiq::new();
    let logged = (0..5000).filter(|_| virtual_fiq.came(Timers::default(), false)).count();
    assert_eq!(logged, 1);
    // A masked timer does not explain it, though it asserts.
    let _ = virtual_fiq.update(Timers::BOTH, false);
    assert!(!virtual_fiq.came(Timers::BOTH, true));
    assert_eq!((0..5000).filter(|_| virtual_fiq.came(Timers::BOTH, false)).count(), 1);
}
