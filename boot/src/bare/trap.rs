//! Every synchronous exception of the guest: decode, decide, go on.

use core::arch::asm;

use oche_hyp::addr::Gfn;
use oche_hyp::world::CpuAccess;

use crate::bare::counters::Exit;
use crate::bare::frame::TrapFrame;
use crate::bare::registers::{
    Afsr1El2, ElrEl12, EsrEl2, EsrEl12, FarEl2, FarEl12, HpfarEl2, ParEl1, SctlrEl12, SpsrEl12, VbarEl12,
};
use crate::bare::tlb::Cpus;
use crate::bare::{console, cpu, el2, fiq, firmware, guard, selftest, step};
use crate::inject::{self, Reason};
use crate::lock::Once;
use crate::psci::{self, Request, status};
use crate::stage2::Lookup;
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
    if !step::is_stepping() || !end_step(&exception, frame) {
        on_sync(&exception, frame);
    }
    fiq::before_return();
}

/// An exception in a step of one instruction. Whether that was all; otherwise it is still to be handled.
fn end_step(exception: &Exception, frame: &mut TrapFrame) -> bool {
    let Some(platform) = PLATFORM.get() else { return false };
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
            return matches!(class, Class::Other(_) | Class::SystemRegister(_) | Class::AppleRegister);
        }
    }
    true
}

fn on_sync(exception: &Exception, frame: &mut TrapFrame) {
    let exits = &cpu::this().exits;
    match exception.class() {
        Class::DataAbort(abort) => on_abort(exception, &abort, false, frame),
        Class::InstructionAbort(abort) => on_abort(exception, &abort, true, frame),
        Class::HypervisorCall => {
            exits.count(Exit::HypervisorCall);
            selftest::end_if_probing(frame);
            #[cfg(feature = "panic-on-request")]
            crate::bare::panic_request::obey(frame.register(0));
            // ELR is behind the HVC already.
            frame.set_register(0, status::NOT_SUPPORTED as u64);
        }
        Class::MonitorCall => {
            exits.count(Exit::MonitorCall);
            // A trapped SMC has not been executed: step over it first, for the call may not return.
            frame.elr = frame.elr.wrapping_add(4);
            on_monitor_call(frame);
        }
        Class::SystemRegister(access) => on_register(access, exception, frame),
        Class::AppleRegister => on_register(RegisterAccess::from_iss(Afsr1El2.read()), exception, frame),
        Class::Other(_) | Class::SoftwareStep => {
            exits.count(Exit::Other);
            inject(Reason::Undefined, exception, frame);
        }
    }
}

fn on_register(access: RegisterAccess, exception: &Exception, frame: &mut TrapFrame) {
    if fiq::on_register(access, frame) {
        cpu::this().exits.count(Exit::Register);
        return guard::advance(frame);
    }
    cpu::this().exits.count(Exit::Other);
    inject(Reason::Undefined, exception, frame);
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

fn on_abort(exception: &Exception, abort: &Abort, is_fetch: bool, frame: &mut TrapFrame) {
    let exits = &cpu::this().exits;
    let Some(address) = fault_address(exception, abort) else {
        // The guest changed its own tables under the access: let it fault again, or not.
        exits.count(Exit::Retry);
        return;
    };
    let (Some(page), Some(root)) = (Gfn::containing(address), el2::root()) else {
        exits.count(Exit::Platform);
        return inject(reason(abort, is_fetch), exception, frame);
    };
    let lookup = root.lookup(&Cpus, page);
    let is_resolved = match (lookup, abort.cause) {
        (Lookup::InMotion, _) => true,
        (Lookup::Mapped { access: CpuAccess::None, .. }, Cause::Translation | Cause::Permission) => false,
        // It was made while the fault was on its way here.
        (Lookup::Mapped { .. }, Cause::Translation) => true,
        (Lookup::Mapped { no_execute: true, .. }, Cause::Permission) if is_fetch => {
            exits.count(Exit::Execute);
            return root.allow_execute(&Cpus, page, cpu::index());
        }
        (Lookup::Mapped { access: CpuAccess::ReadWrite, .. }, Cause::Permission) => true,
        // What may be read may be fetched, as another CPU has made sure while this fault was on its way.
        (Lookup::Mapped { access: CpuAccess::ReadOnly, .. }, Cause::Permission) => {
            is_fetch && !abort.on_table_walk
        }
        (Lookup::Mapped { .. }, Cause::Other(_)) | (Lookup::Unmapped, _) => false,
    };
    if is_resolved {
        exits.count(Exit::Retry);
        return;
    }
    exits.count(Exit::Platform);
    let fault = Fault { address, far: exception.far, abort: *abort, is_fetch, lookup };
    let resume = match PLATFORM.get() {
        Some(platform) if !matches!(abort.cause, Cause::Other(_)) => platform.stage2_fault(&fault, frame),
        _ => Resume::Abort,
    };
    match resume {
        Resume::Next => guard::advance(frame),
        Resume::Same => {}
        Resume::Abort => inject(reason(abort, is_fetch), exception, frame),
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
    // A permission fault leaves HPFAR_EL2 UNKNOWN: ask the guest's stage 1. PAR_EL1 is the guest's too.
    let saved = ParEl1.read();
    // SAFETY: AT walks the guest's tables and writes PAR_EL1 only, which is put back below. From EL2 a
    // stage-2 fault of the walk is reported there as well, not taken.
    unsafe { asm!("at s1e1r, {}", "isb", in(reg) exception.far, options(nostack, preserves_flags)) };
    let result = ParEl1.read();
    ParEl1.write(saved);
    // F (bit 0): the walk failed. PA is in bits 51:12.
    (result & 1 == 0).then_some(result & 0x000f_ffff_ffff_f000 | exception.far & 0xfff)
}

/// Makes the guest take an exception instead of going on.
fn inject(reason: Reason, exception: &Exception, frame: &mut TrapFrame) {
    cpu::this().exits.count(Exit::Injected);
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
