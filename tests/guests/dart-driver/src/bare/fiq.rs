//! FIQs, as a Mac has them: levels, which end when their source is quiet, from the timers and from
//! IPIs.
//!
//! The stub has wired them so. A handler looks at each source, as Linux does on a Mac. A call is
//! acknowledged at a GIC's register: a Mac has one of Apple's instead.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Tally;
use super::dart::{Dart, load as load_word, page, store};
use super::drivers::{Check, IOVA, READ_WRITE, attach, check, set, tables};

/// Most CPUs.
const MOST: usize = 16;
/// Rounds of each case.
const ROUNDS: u64 = 40;
/// Accesses that are stepped.
const STEPS: u64 = 3000;
/// From arming a timer to its tick, and from tick to tick in the background.
const TICK_MICROSECONDS: u64 = 200;
const BACKGROUND_MICROSECONDS: u64 = 1000;
/// How long anything may take before it counts as lost.
const PATIENCE_MICROSECONDS: u64 = 10_000_000;
/// A FIQ that does not come for so long has ended. A look of Oche's comes each 50 us, and QEMU may
/// be late.
const STILL_MICROSECONDS: u64 = 10_000;
/// The call that the stub has wired.
const CALL: u64 = 1;
/// `CNTx_CTL`: ENABLE and ISTATUS, without IMASK.
const ASSERTS: u64 = 0b101;
/// From here on a GIC's numbers say that there is no interrupt.
const SPECIAL: u64 = 1020;

/// What FIQs a CPU has seen.
struct Seen {
    virtual_ticks: AtomicU64,
    physical_ticks: AtomicU64,
    calls: AtomicU64,
    /// Without a source.
    idle: AtomicU64,
}

static SEEN: [Seen; MOST] = [const {
    Seen {
        virtual_ticks: AtomicU64::new(0),
        physical_ticks: AtomicU64::new(0),
        calls: AtomicU64::new(0),
        idle: AtomicU64::new(0),
    }
}; MOST];
/// Ticks until the virtual timer's next tick on the first CPU, or 0.
static PERIOD: AtomicU64 = AtomicU64::new(0);
/// The handler looks for calls too. That traps where EL2 injects FIQs.
static TAKES_CALLS: AtomicBool = AtomicBool::new(true);

macro_rules! reads {
    ($($read:ident $name:literal)*) => {$(
        fn $read() -> u64 {
            let value;
            // SAFETY: a timer's, or of the interrupt controller's interface to this CPU; no memory.
            unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack)) };
            value
        }
    )*};
}
reads! {
    virtual_control "cntv_ctl_el0"
    physical_control "cntp_ctl_el0"
    acknowledge "S3_0_C12_C8_0"
    affinity "mpidr_el1"
}

macro_rules! writes {
    ($($write:ident $name:literal)*) => {$(
        fn $write(value: u64) {
            // SAFETY: as for reading.
            unsafe { asm!(concat!("msr ", $name, ", {}"), "isb", in(reg) value, options(nostack)) };
        }
    )*};
}
writes! {
    set_virtual_control "cntv_ctl_el0"
    set_virtual_timer "cntv_tval_el0"
    set_physical_control "cntp_ctl_el0"
    set_physical_timer "cntp_tval_el0"
    end "S3_0_C12_C8_1"
    call "S3_0_C12_C11_7"
}

fn now() -> u64 {
    let value;
    // SAFETY: reads the counter.
    unsafe { asm!("isb", "mrs {}, cntpct_el0", out(reg) value, options(nostack)) };
    value
}

fn ticks_of(microseconds: u64) -> u64 {
    let frequency: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
    microseconds * frequency / 1_000_000
}

/// Lets FIQs come, or not.
fn mask(is_masked: bool) {
    if is_masked {
        // SAFETY: keeps everything but PSTATE.F.
        unsafe { asm!("msr daifset, #1", options(nostack)) };
    } else {
        // SAFETY: FIQs have a handler, which keeps all that they interrupt.
        unsafe { asm!("msr daifclr, #1", "isb", options(nostack)) };
    }
}

/// QEMU's number of this CPU.
fn number() -> usize {
    affinity() as usize & 0xff
}

fn of(cpu: usize) -> &'static Seen {
    SEEN.get(cpu).unwrap_or(&SEEN[0])
}

/// The vectors call this, with FIQs masked.
#[unsafe(no_mangle)]
extern "C" fn guest_fiq() {
    let own = of(number());
    let mut is_idle = true;
    // The first thing that Linux looks at.
    if TAKES_CALLS.load(Ordering::SeqCst) {
        let interrupt = acknowledge();
        if interrupt < SPECIAL {
            end(interrupt);
        }
        if interrupt == CALL {
            own.calls.fetch_add(1, Ordering::SeqCst);
            is_idle = false;
            if number() != 0 {
                arm_virtual(TICK_MICROSECONDS);
            }
        }
    }
    if virtual_control() & 7 == ASSERTS {
        let period = PERIOD.load(Ordering::SeqCst);
        if number() == 0 && period != 0 {
            set_virtual_timer(period);
        } else {
            set_virtual_control(0);
        }
        own.virtual_ticks.fetch_add(1, Ordering::SeqCst);
        is_idle = false;
    }
    if physical_control() & 7 == ASSERTS {
        set_physical_control(0);
        own.physical_ticks.fetch_add(1, Ordering::SeqCst);
        is_idle = false;
    }
    if is_idle {
        own.idle.fetch_add(1, Ordering::SeqCst);
    }
}

fn arm_virtual(microseconds: u64) {
    set_virtual_timer(ticks_of(microseconds));
    set_virtual_control(1);
}

fn arm_physical(microseconds: u64) {
    set_physical_timer(ticks_of(microseconds));
    set_physical_control(1);
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::SeqCst)
}

/// Waits until `is_so`.
fn wait(is_so: impl Fn() -> bool) -> bool {
    let begin = now();
    let limit = ticks_of(PATIENCE_MICROSECONDS);
    while !is_so() {
        if now() - begin > limit {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

fn pass(microseconds: u64) {
    let begin = now();
    while now() - begin < ticks_of(microseconds) {
        core::hint::spin_loop();
    }
}

pub(super) fn run(tally: &mut Tally, cpus: &[usize]) {
    let own = of(0);
    tally.case(
        format_args!("each tick of the virtual timer is a FIQ"),
        ticks(&own.virtual_ticks, || arm_virtual(TICK_MICROSECONDS)),
    );
    tally.case(
        format_args!("each tick of the physical timer is a FIQ"),
        ticks(&own.physical_ticks, || arm_physical(TICK_MICROSECONDS)),
    );
    tally.case(format_args!("both timers at once"), both());
    tally.case(format_args!("a masked FIQ wakes and waits"), masked());
    TAKES_CALLS.store(false, Ordering::SeqCst);
    tally.case(format_args!("a FIQ ends with its source"), ends());
    TAKES_CALLS.store(true, Ordering::SeqCst);
    tally.case(
        format_args!("each call to itself is a FIQ"),
        ticks(&own.calls, || call(CALL << 24 | 1)),
    );
    for cpu in cpus {
        tally.case(format_args!("calls to cpu {cpu:#x}, and its ticks"), other(*cpu));
    }
}

/// One comes for each that is asked for, and no more.
fn ticks(counter: &AtomicU64, ask: impl Fn()) -> Check {
    mask(false);
    let result = (0..ROUNDS).try_for_each(|_| {
        let before = load(counter);
        ask();
        check(wait(|| load(counter) != before), "it does not come")?;
        pass(20);
        check(load(counter) == before + 1, "it comes more than once")
    });
    mask(true);
    result
}

fn both() -> Check {
    let own = of(0);
    mask(false);
    let result = (0..ROUNDS).try_for_each(|round| {
        let before = (load(&own.virtual_ticks), load(&own.physical_ticks));
        arm_virtual(30 + round * 5);
        arm_physical(230 - round * 5);
        let came =
            wait(|| load(&own.virtual_ticks) != before.0 && load(&own.physical_ticks) != before.1);
        check(came, "one of them does not come")?;
        let are_once =
            load(&own.virtual_ticks) == before.0 + 1 && load(&own.physical_ticks) == before.1 + 1;
        check(are_once, "one of them comes twice")
    });
    mask(true);
    result
}

/// Masked by `PSTATE.F`: nothing is taken, but WFI ends; and once it is not masked any more, it is
/// taken.
fn masked() -> Check {
    let own = of(0);
    mask(true);
    for _ in 0..ROUNDS {
        let before = load(&own.virtual_ticks);
        arm_virtual(TICK_MICROSECONDS);
        while virtual_control() & 7 != ASSERTS {
            // SAFETY: waits; the timer wakes.
            unsafe { asm!("wfi", options(nostack)) };
        }
        pass(30);
        check(load(&own.virtual_ticks) == before, "it is taken though it is masked")?;
        mask(false);
        let came = wait(|| load(&own.virtual_ticks) == before + 1);
        mask(true);
        check(came, "it does not come")?;
    }
    Ok(())
}

/// The timer is quiet, and nothing that the handler does is seen by Oche.
fn ends() -> Check {
    let own = of(0);
    mask(false);
    let before = load(&own.virtual_ticks);
    arm_virtual(TICK_MICROSECONDS);
    let came = wait(|| load(&own.virtual_ticks) == before + 1);
    let ends = wait(|| {
        let idle = load(&own.idle);
        pass(STILL_MICROSECONDS);
        load(&own.idle) == idle
    });
    mask(true);
    check(came, "it does not come")?;
    check(ends, "it stays pending")
}

/// Another CPU, which arms its own timer for each call.
fn other(cpu: usize) -> Check {
    let seen = of(cpu);
    for _ in 0..ROUNDS / 4 {
        let before = (load(&seen.calls), load(&seen.virtual_ticks));
        call(CALL << 24 | 1 << cpu);
        check(wait(|| load(&seen.calls) == before.0 + 1), "the call does not come")?;
        check(wait(|| load(&seen.virtual_ticks) == before.1 + 1), "its tick does not come")?;
    }
    Ok(())
}

/// Each atomic access to a page with two copies is one step of the CPU under EL2's control: the
/// timer ticks through them.
pub(super) fn stepped(dart: Dart) -> Check {
    dart.reset()?;
    let (root, leaves) = tables(0);
    let own = page(33);
    store(own, 0);
    set(leaves, IOVA + 0x1000, own | READ_WRITE);
    set(leaves, IOVA + 0x4000, own | READ_WRITE);
    attach(dart, 1, root);
    dart.flush(2)?;
    let ticks = load(&of(0).virtual_ticks);
    for _ in 0..STEPS {
        // SAFETY: a word of the arena, which is in use here alone.
        unsafe {
            asm!(".arch_extension lse", "stadd {one}, [{at}]", ".arch_extension nolse", one = in(reg) 1_u64,
                at = in(reg) own, options(nostack))
        };
    }
    let has_ticked = load(&of(0).virtual_ticks) > ticks;
    check(load_word(own) == STEPS, "an atomic access is lost, or done twice")?;
    check(has_ticked, "no tick comes between steps")?;
    dart.reset()?;
    check(load_word(own) == STEPS, "the page at home")
}

/// Has the first CPU's timer tick from now on, through everything that comes.
pub(super) fn begin_background() {
    PERIOD.store(ticks_of(BACKGROUND_MICROSECONDS), Ordering::SeqCst);
    arm_virtual(BACKGROUND_MICROSECONDS);
    mask(false);
}

/// Stores, in `act`, what the board watches. QEMU 7.2 carries a store that stops the machine out a
/// second time if an interrupt is pending just then, on whichever level it is taken: the timer
/// stops meanwhile, and Oche's looks at it with it.
pub(super) fn quietly(act: impl FnOnce()) {
    if number() != 0 || PERIOD.load(Ordering::SeqCst) == 0 {
        return act();
    }
    mask(true);
    set_virtual_control(0);
    // Nothing calls; where this traps, Oche sees that the timer is quiet.
    _ = acknowledge();
    act();
    set_virtual_control(1);
    mask(false);
}

/// Whether it has ticked, and still does.
pub(super) fn end_background(tally: &mut Tally) {
    let own = of(0);
    let before = load(&own.virtual_ticks);
    let ticks_on = before > 3 * ROUNDS && wait(|| load(&own.virtual_ticks) > before + 3);
    PERIOD.store(0, Ordering::SeqCst);
    pass(2 * BACKGROUND_MICROSECONDS);
    mask(true);
    tally.case(format_args!("the timer ticked through all of it"), check(ticks_on, "it stopped"));
    super::print(format_args!(
        "guest: {} ticks, {} FIQs without a source\n",
        load(&own.virtual_ticks),
        load(&own.idle)
    ));
}

/// What a CPU without work does: FIQs wake it.
pub(super) fn idle() -> ! {
    loop {
        // SAFETY: waits.
        unsafe { asm!("wfi", options(nostack)) };
        mask(false);
        mask(true);
    }
}
