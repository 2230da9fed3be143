//! Every synchronous exception of the guest: decode, decide, go on.

use core::arch::asm;

use oche_engine::host::CpuAccess;
use oche_trace::statistics::Exit;
use oche_types::addr::Gfn;

use crate::bare::frame::TrapFrame;
use crate::bare::registers::{
    Afsr1El2, ElrEl12, EsrEl2, EsrEl12, FarEl2, FarEl12, HpfarEl2, SctlrEl12, SpsrEl12, VbarEl12,
};
use crate::bare::tlb::Cpus;
use crate::bare::{console, cpu, el2, fiq, firmware, guard, selftest, step, translation};
use crate::inject::{self, Reason};
use crate::lock::Once;
use crate::psci::{self, Request, status};
use crate::stage2::{Lookup, Root};
use crate::syndrome::{Abort, Cause, Class, Exception, RegisterAccess, Transfer};

/// How the guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Resume {
    /// Behind the instruction: it has been done.
    Next,
    /// At the same instruction: try again.
    Same,
    /// With a synchronous external abort.
    Abort,
}

/// A machine's answers to accesses that stage 2 stops. Called on any CPU, on several at once.
pub trait Platform: Sync {
    /// Answers a stage-2 fault at something that is not mapped, or at a page that CPUs may not reach so.
    fn stage2_fault(&self, fault: &Fault, frame: &mut TrapFrame) -> Resume;
    /// As what an access counts at guest-physical `address`, where stage 2 maps nothing: one to a DART, or another.
    fn exit_at(&self, address: u64) -> Exit;
    /// Ends or goes on with this CPU's step: see `bare::guard::on_step`.
    fn step_ended(
        &self,
        is_done: bool,
        frame: &mut TrapFrame,
        fault: &mut dyn FnMut() -> Option<Fault>,
    ) -> Option<Resume>;
}

/// A stage-2 fault that the platform must decide about.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Guest-physical address in bytes, below 2^44. For a fault on a table walk, of the page of the table.
    pub address: u64,
    /// The virtual address, in bytes.
    pub far: u64,
    /// What the CPU says of the access.
    pub abort: Abort,
    /// It was an instruction fetch.
    pub is_fetch: bool,
    /// What stage 2 said of the page when this was decided.
    pub lookup: Lookup,
}

/// A load or store that a device can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioAccess {
    /// Guest-physical address in bytes.
    pub address: u64,
    /// log2 of the access's bytes, 0 to 3.
    pub width_log2: u8,
    /// The value that is written, zero-extended; `None` for a load.
    pub write: Option<u64>,
    /// The register's side of it.
    pub transfer: Transfer,
}

impl Fault {
    /// The access, if the CPU describes it fully (`ISV`). A pair, a SIMD register, write-back or an atomic
    /// is not described and never guessed.
    pub fn mmio(&self, frame: &TrapFrame) -> Option<MmioAccess> {
        let transfer = self.abort.transfer.filter(|_| !self.abort.on_table_walk && !self.is_fetch)?;
        let write = self.abort.is_write.then(|| transfer.stored(frame.register(transfer.register)));
        Some(MmioAccess { address: self.address, width_log2: transfer.width_log2, write, transfer })
    }
}

impl MmioAccess {
    /// Ends a load: the device answers `value`.
    pub fn answer(&self, frame: &mut TrapFrame, value: u64) {
        frame.set_register(self.transfer.register, self.transfer.loaded(value));
    }
}

static PLATFORM: Once<&'static dyn Platform> = Once::new();

/// Names the platform. Call once, before the guest runs.
pub fn set_platform(platform: &'static dyn Platform) {
    PLATFORM.set(platform);
}

/// Enters the guest with `frame`; this CPU's stack starts afresh at `stack_top`.
pub(super) fn enter(frame: &TrapFrame, stack_top: u64) -> ! {
    // SAFETY: the assembly copies the frame to the stack's top, restores it and returns to EL1; nothing of
    // this stack is used again. `frame` lies lower in the same stack, at least a frame away from the top.
    unsafe { asm!("b oche_enter", in("x0") &raw const *frame, in("x1") stack_top, options(noreturn)) }
}

/// Called by the vectors for a synchronous exception from the guest.
///
/// # Safety
///
/// Only the vectors may call this, with the frame that they just stored.
#[unsafe(no_mangle)]
unsafe extern "C" fn oche_sync_from_guest(frame: *mut TrapFrame) {
    // SAFETY: the vectors stored `frame` on this CPU's own stack and use it again only after we return, so
    // for now no one else can reach it.
    let frame = unsafe { &mut *frame };
    let exception = Exception { syndrome: EsrEl2.read(), far: FarEl2.read(), hpfar: HpfarEl2.read() };
    let exits = &cpu::this().exits;
    let ended_step = if step::is_stepping() { end_step(&exception, frame) } else { None };
    match ended_step {
        Some(exit) => exits.count(exit),
        None => {
            let trap = Trap::of(&exception);
            // Before anything is done: a call may stop the CPU or the machine.
            exits.count(trap.exit());
            on_trap(trap, &exception, frame);
        }
    }
    fiq::before_return();
}

/// What a synchronous exception comes to, decided before anything is done about it.
enum Trap {
    /// The guest tries again.
    Retry,
    /// A fetch from a page that may be executed from now on.
    Execute(&'static Root, Gfn),
    /// The platform decides.
    Fault(Fault),
    /// An access that ends in an abort for the guest.
    Refused(Reason),
    HypervisorCall,
    MonitorCall,
    Register(RegisterAccess),
    Undefined,
}

impl Trap {
    fn of(exception: &Exception) -> Self {
        match exception.class() {
            Class::DataAbort(abort) => Self::of_abort(exception, &abort, false),
            Class::InstructionAbort(abort) => Self::of_abort(exception, &abort, true),
            Class::HypervisorCall => Self::HypervisorCall,
            Class::MonitorCall => Self::MonitorCall,
            Class::SystemRegister(access) => Self::Register(access),
            Class::AppleRegister => Self::Register(RegisterAccess::from_iss(Afsr1El2.read())),
            Class::Other(_) | Class::SoftwareStep => Self::Undefined,
        }
    }

    fn of_abort(exception: &Exception, abort: &Abort, is_fetch: bool) -> Self {
        // The guest changed its own tables under the access: let it fault again, or not.
        let Some(address) = fault_address(exception, abort) else { return Self::Retry };
        let (Some(page), Some(root)) = (Gfn::containing(address), el2::root()) else {
            return Self::Refused(reason(abort, is_fetch));
        };
        let lookup = root.lookup(&Cpus, page);
        let fault = Self::Fault(Fault { address, far: exception.far, abort: *abort, is_fetch, lookup });
        match (lookup, abort.cause) {
            (Lookup::InMotion, _) => Self::Retry,
            (Lookup::Mapped { access: CpuAccess::None, .. }, Cause::Translation | Cause::Permission) => fault,
            // It was made while the fault was on its way here.
            (Lookup::Mapped { .. }, Cause::Translation) => Self::Retry,
            (Lookup::Mapped { no_execute: true, .. }, Cause::Permission) if is_fetch => {
                Self::Execute(root, page)
            }
            (Lookup::Mapped { access: CpuAccess::ReadWrite, .. }, Cause::Permission) => Self::Retry,
            // What may be read may be fetched, as another CPU has made sure while this fault was on its way.
            (Lookup::Mapped { access: CpuAccess::ReadOnly, .. }, Cause::Permission)
                if is_fetch && !abort.on_table_walk =>
            {
                Self::Retry
            }
            (_, Cause::Other(_)) => Self::Refused(reason(abort, is_fetch)),
            (Lookup::Mapped { .. }, Cause::Permission) | (Lookup::Unmapped, _) => fault,
        }
    }

    /// As what the exception counts.
    fn exit(&self) -> Exit {
        match self {
            Self::Retry => Exit::Retry,
            Self::Execute(..) => Exit::Execute,
            Self::Fault(Fault { lookup: Lookup::Mapped { .. }, .. }) => Exit::WatchedPage,
            Self::Fault(fault) => PLATFORM.get().map_or(Exit::Device, |one| one.exit_at(fault.address)),
            Self::Refused(_) => Exit::Device,
            Self::HypervisorCall => Exit::HypervisorCall,
            Self::MonitorCall => Exit::SecureCall,
            Self::Register(_) => Exit::SystemRegister,
            Self::Undefined => Exit::Other,
        }
    }
}

/// An exception in a step of one instruction. As what it counts, if that was all; otherwise it is still to be handled.
fn end_step(exception: &Exception, frame: &mut TrapFrame) -> Option<Exit> {
    let platform = PLATFORM.get()?;
    let class = exception.class();
    let mut fault = || {
        let (abort, is_fetch) = match class {
            Class::DataAbort(abort) => (abort, false),
            Class::InstructionAbort(abort) => (abort, true),
            _ => return None,
        };
        let address = fault_address(exception, &abort)?;
        let lookup = el2::root()?.lookup(&Cpus, Gfn::containing(address)?);
        let is_closed = match lookup {
            Lookup::Mapped { access: CpuAccess::None, .. } => true,
            Lookup::Mapped { access: CpuAccess::ReadOnly, .. } => !is_fetch,
            _ => false,
        };
        is_closed.then_some(Fault { address, far: exception.far, abort, is_fetch, lookup })
    };
    let is_done = class == Class::SoftwareStep;
    match platform.step_ended(is_done, frame, &mut fault) {
        Some(Resume::Next) => guard::advance(frame),
        Some(Resume::Same) => {}
        Some(Resume::Abort) => inject(Reason::Load, exception, frame),
        // A trap that only the step has, of an instruction that another CPU put there: it is executed again, unstepped.
        None => {
            let is_trap = matches!(class, Class::Other(_) | Class::SystemRegister(_) | Class::AppleRegister);
            return is_trap.then_some(Exit::Retry);
        }
    }
    Some(if is_done { Exit::Step } else { Exit::WatchedPage })
}

fn on_trap(trap: Trap, exception: &Exception, frame: &mut TrapFrame) {
    match trap {
        Trap::Retry => {}
        Trap::Execute(root, page) => root.allow_execute(&Cpus, page, cpu::index()),
        Trap::Fault(fault) => on_fault(&fault, exception, frame),
        Trap::Refused(reason) => inject(reason, exception, frame),
        Trap::HypervisorCall => {
            selftest::end_if_probing(frame);
            #[cfg(feature = "panic-on-request")]
            crate::bare::panic_request::obey(frame.register(0));
            // ELR is behind the HVC already.
            frame.set_register(0, status::NOT_SUPPORTED as u64);
        }
        Trap::MonitorCall => {
            // A trapped SMC has not been executed: step over it first, for the call may not return.
            frame.elr = frame.elr.wrapping_add(4);
            on_monitor_call(frame);
        }
        Trap::Register(access) if fiq::on_register(access, frame) => guard::advance(frame),
        Trap::Register(_) | Trap::Undefined => inject(Reason::Undefined, exception, frame),
    }
}

fn on_fault(fault: &Fault, exception: &Exception, frame: &mut TrapFrame) {
    let resume = PLATFORM.get().map_or(Resume::Abort, |platform| platform.stage2_fault(fault, frame));
    match resume {
        Resume::Next => guard::advance(frame),
        Resume::Same => {}
        Resume::Abort => inject(reason(&fault.abort, fault.is_fetch), exception, frame),
    }
}

fn on_monitor_call(frame: &mut TrapFrame) {
    let arguments = [0, 1, 2, 3].map(|number| frame.register(number));
    let result = match psci::decode(arguments) {
        Request::CpuOn { affinity, entry, context } => cpu::start(affinity, entry, context) as u64,
        Request::CpuOff => cpu::stop() as u64,
        // Some firmware (QEMU's) calls a CPU off until it runs: Oche knows better.
        Request::AffinityInfo { affinity, .. } if cpu::is_starting(affinity) => {
            status::AFFINITY_ON_PENDING as u64
        }
        Request::AffinityInfo { call, .. } | Request::Relay(call) => firmware::call(call),
        Request::Stop(call) => {
            report_exits();
            firmware::call(call)
        }
        Request::NotSupported => status::NOT_SUPPORTED as u64,
    };
    frame.set_register(0, result);
}

/// Prints each CPU's counts.
pub fn report_exits() {
    for (index, cpu) in cpu::all().iter().enumerate().filter(|(_, cpu)| cpu.has_run()) {
        console::print(format_args!("oche: exits of cpu {index}:{}\n", cpu.exits));
    }
}

fn reason(abort: &Abort, is_fetch: bool) -> Reason {
    match (is_fetch, abort.is_write) {
        (true, _) => Reason::Fetch,
        (false, true) => Reason::Store,
        (false, false) => Reason::Load,
    }
}

/// The guest-physical address of an abort, or `None` when the guest's own tables no longer lead anywhere.
fn fault_address(exception: &Exception, abort: &Abort) -> Option<u64> {
    if Exception::hpfar_is_valid(abort) {
        let offset = if abort.on_table_walk || abort.far_invalid { 0 } else { exception.far & 0xfff };
        return Some(exception.hpfar_page() | offset);
    }
    if abort.far_invalid {
        return None;
    }
    // A permission fault leaves HPFAR_EL2 UNKNOWN: ask the guest's stage 1. Whoever may access may let EL1 load; whether
    // the access itself is still allowed is asked before it is emulated, and by the CPU if it is stepped.
    translation::translate(exception.far, false)
}

/// Makes the guest take a fault of its own stage 1 on a store to `address`, with `DFSC` of `status`.
pub(super) fn inject_store_fault(status: u64, address: u64, frame: &mut TrapFrame) {
    let exception = Exception { syndrome: 0, far: address, hpfar: 0 };
    inject(Reason::StoreFault { status }, &exception, frame);
}

/// Makes the guest take an exception instead of going on.
fn inject(reason: Reason, exception: &Exception, frame: &mut TrapFrame) {
    cpu::this().exits.count_injected();
    let interrupted = inject::Interrupted {
        pstate: frame.spsr,
        pc: frame.elr,
        vector_base: VbarEl12.read(),
        sctlr: SctlrEl12.read(),
        features: el2::features(),
    };
    let injection = inject::exception(&interrupted, reason);
    EsrEl12.write(injection.esr);
    if reason != Reason::Undefined {
        FarEl12.write(exception.far);
    }
    ElrEl12.write(frame.elr);
    SpsrEl12.write(injection.spsr);
    frame.elr = injection.pc;
    frame.spsr = injection.pstate;
}
