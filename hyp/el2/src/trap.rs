//! Synchronous exceptions of the guest: decoding, dispatch, and return.
#![expect(unsafe_code, reason = "the frame that the vectors stored")]

use aarch64_cpu::registers::{ESR_EL2, FAR_EL2, HPFAR_EL2, Readable};
use oche_engine::host::CpuAccess;
use oche_trace::statistics::Exit;
use oche_types::addr::Gfn;

use crate::fault::{MmioAccess, Platform, Resume, Stage2Fault, TrapContext};
use crate::frame::TrapFrame;
use crate::inject::Reason;
use crate::inject::hw::inject;
use crate::lock::Once;
use crate::percpu::Cpu;
use crate::psci::{self, PsciRequest, status};
use crate::registers::Afsr1El2;
use crate::stage2::{Lookup, Root};
use crate::syndrome::{Abort, Class, Exception, FaultStatus, RefusedAccess, RegisterAccess};
use crate::tlb::Cpus;
use crate::{console, device, fiq, firmware, guest, percpu, smp, translation};

/// Defines `PLATFORM`, which holds a reference to the board's implementation of [`Platform`] once
/// `main` has set it, and `oche_sync_from_guest`, which the vectors call for a synchronous
/// exception of the guest. So the most frequent exits are compiled for the board.
#[macro_export]
macro_rules! handle_traps {
    ($platform:ty) => {
        static PLATFORM: $crate::lock::Once<&'static $platform> = $crate::lock::Once::new();

        /// Handles a synchronous exception from the guest.
        ///
        /// # Safety
        ///
        /// Only the vectors may call this, with the frame that they just stored.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn oche_sync_from_guest(frame: *mut $crate::frame::TrapFrame) {
            // SAFETY: the caller's promise is the same.
            unsafe { $crate::trap::on_exception(&PLATFORM, frame) }
        }
    };
}

static ON_HYPERVISOR_CALL: Once<fn(&TrapFrame)> = Once::new();

/// Sets a hook that is called at each HVC of the guest, before it is handled, and that need not
/// return. Call once, before the guest runs.
pub fn set_hypervisor_call_hook(hook: fn(&TrapFrame)) {
    ON_HYPERVISOR_CALL.set(hook);
}

/// Handles a synchronous exception from the guest: see [`handle_traps`]. Each kind of exit has its
/// own function, which ends with what every return to the guest needs, so that this one keeps
/// nothing on the stack.
///
/// # Safety
///
/// Only the vectors may call this, with the frame that they just stored.
#[inline(always)]
pub unsafe fn on_exception<P: Platform>(
    platform: &'static Once<&'static P>,
    frame: *mut TrapFrame,
) {
    // SAFETY: the vectors stored `frame` on this CPU's own stack and use it again only after we
    // return, so for now no one else can reach it.
    let frame = unsafe { &mut *frame };
    let syndrome = ESR_EL2.get();
    let cpu = percpu::this();
    match (platform.get(), RefusedAccess::of(syndrome)) {
        (Some(platform), Some(access)) if !cpu.is_stepping() => {
            // A permission fault leaves HPFAR_EL2 UNKNOWN, and is of a page of RAM.
            if access.is_translation_fault && !P::may_be_memory(page()) {
                on_dart_register(*platform, cpu, frame)
            } else {
                on_known_page(*platform, cpu, access.is_write, frame)
            }
        }
        (platform, _) => on_other(platform.map(|platform| *platform as &dyn Platform), frame),
    }
}

/// The page-aligned address in `HPFAR_EL2`.
#[inline]
fn page() -> u64 {
    Exception { syndrome: 0, far: 0, hpfar: HPFAR_EL2.get() }.hpfar_page()
}

/// The exception that was taken.
#[inline]
fn taken() -> Exception {
    Exception { syndrome: ESR_EL2.get(), far: FAR_EL2.get(), hpfar: HPFAR_EL2.get() }
}

/// Handles the most frequent exit, an access to a DART's registers that the syndrome describes. No
/// lookup in stage 2 is needed: it does not map these registers.
#[inline(never)]
fn on_dart_register<P: Platform>(platform: &'static P, cpu: &'static Cpu, frame: &mut TrapFrame) {
    let exception = taken();
    let access = MmioAccess::of(&exception, frame);
    let found = access.and_then(|access| Some((access, platform.dart_at(access.address)?)));
    let Some((access, dart)) = found else { return on_other(Some(platform), frame) };
    cpu.exits.count(Exit::DartRegister);
    let bytes = 1 << access.width_log2;
    let answer = platform.access_dart(TrapContext::of(frame), dart, bytes, access.write);
    let is_write = access.write.is_some();
    let resume = device::hw::complete(&access, frame, answer);
    go_on(resume, &exception, frame, if is_write { Reason::Store } else { Reason::Load });
    fiq::hw::before_return();
}

/// Handles a common access to a trapped page.
#[inline(never)]
fn on_known_page<P: Platform>(
    platform: &'static P,
    cpu: &'static Cpu,
    is_write: bool,
    frame: &mut TrapFrame,
) {
    if !platform.emulate_known(FAR_EL2.get(), is_write, frame) {
        return on_other(Some(platform), frame);
    }
    cpu.exits.count(Exit::TrappedPage);
    fiq::hw::before_return();
}

/// Handles any other synchronous exception.
#[inline(never)]
fn on_other(platform: Option<&'static dyn Platform>, frame: &mut TrapFrame) {
    let exception = &taken();
    let exits = &percpu::this().exits;
    // Only the platform begins a step.
    let ended_step = platform
        .filter(|_| percpu::this().is_stepping())
        .and_then(|platform| end_step(platform, exception, frame));
    match ended_step {
        Some(exit) => exits.count(exit),
        None => {
            let trap = Trap::of(exception);
            // Counted before it is handled, because a call may stop the CPU or the machine.
            exits.count(trap.exit(platform));
            on_trap(platform, trap, exception, frame);
        }
    }
    fiq::hw::before_return();
}

/// How a synchronous exception is to be handled.
enum Trap {
    /// The guest repeats the access.
    Retry,
    /// A fetch from a page that must be made executable.
    Execute(&'static Root, Gfn),
    /// An access to a device or to a trapped page: the platform decides.
    Fault(Stage2Fault),
    /// An access for which the guest takes an abort.
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
        // The guest has changed its own tables meanwhile: let it repeat the access.
        let Some(address) = fault_address(exception, abort) else { return Self::Retry };
        let Some(page) = Gfn::containing(address) else {
            return Self::Refused(reason(abort, is_fetch));
        };
        let root = guest::root();
        let lookup = root.lookup(&Cpus, page);
        let fault = Self::Fault(Stage2Fault {
            address,
            far: exception.far,
            abort: *abort,
            is_fetch,
            lookup,
        });
        match (lookup, abort.status) {
            (Lookup::Broken, _) => Self::Retry,
            (
                Lookup::Mapped { access: CpuAccess::None, .. },
                FaultStatus::Translation | FaultStatus::Permission,
            ) => fault,
            // The page was made accessible after the fault.
            (Lookup::Mapped { .. }, FaultStatus::Translation) => Self::Retry,
            (Lookup::Mapped { no_execute: true, .. }, FaultStatus::Permission) if is_fetch => {
                Self::Execute(root, page)
            }
            (Lookup::Mapped { access: CpuAccess::ReadWrite, .. }, FaultStatus::Permission) => {
                Self::Retry
            }
            // Another CPU has made the page executable after the fault.
            (Lookup::Mapped { access: CpuAccess::ReadOnly, .. }, FaultStatus::Permission)
                if is_fetch && !abort.on_table_walk =>
            {
                Self::Retry
            }
            (_, FaultStatus::Other(_)) => Self::Refused(reason(abort, is_fetch)),
            (Lookup::Mapped { .. }, FaultStatus::Permission) | (Lookup::Unmapped, _) => fault,
        }
    }

    /// The kind of exit as which the exception is counted.
    fn exit(&self, platform: Option<&'static dyn Platform>) -> Exit {
        match self {
            Self::Retry => Exit::Retry,
            Self::Execute(..) => Exit::Execute,
            Self::Fault(Stage2Fault { lookup: Lookup::Mapped { .. }, .. }) => Exit::TrappedPage,
            Self::Fault(fault) => {
                let dart = platform.and_then(|platform| platform.dart_at(fault.address));
                if dart.is_some() { Exit::DartRegister } else { Exit::Device }
            }
            Self::Refused(_) => Exit::Device,
            Self::HypervisorCall => Exit::HypervisorCall,
            Self::MonitorCall => Exit::SecureCall,
            Self::Register(_) => Exit::SystemRegister,
            Self::Undefined => Exit::Other,
        }
    }
}

/// Handles an exception during the step of one instruction. Returns the kind of exit as which it is
/// counted, or `None` if it must still be handled.
fn end_step(
    platform: &'static dyn Platform,
    exception: &Exception,
    frame: &mut TrapFrame,
) -> Option<Exit> {
    let class = exception.class();
    let mut fault = || {
        let (abort, is_fetch) = match class {
            Class::DataAbort(abort) => (abort, false),
            Class::InstructionAbort(abort) => (abort, true),
            _ => return None,
        };
        let address = fault_address(exception, &abort)?;
        let lookup = guest::root().lookup(&Cpus, Gfn::containing(address)?);
        let is_closed = match lookup {
            Lookup::Mapped { access: CpuAccess::None, .. } => true,
            Lookup::Mapped { access: CpuAccess::ReadOnly, .. } => !is_fetch,
            _ => false,
        };
        is_closed.then_some(Stage2Fault { address, far: exception.far, abort, is_fetch, lookup })
    };
    let is_done = class == Class::SoftwareStep;
    match platform.step_ended(is_done, frame, &mut fault) {
        Some(Resume::Next) => frame.advance(),
        Some(Resume::Same) => {}
        Some(Resume::Abort) => inject(Reason::Load, exception, frame),
        // A trap that is enabled only during a step, of an instruction that another CPU stored
        // meanwhile: the guest executes it again without the step.
        None => {
            let is_trap =
                matches!(class, Class::Other(_) | Class::SystemRegister(_) | Class::AppleRegister);
            return is_trap.then_some(Exit::Retry);
        }
    }
    Some(if is_done { Exit::Step } else { Exit::TrappedPage })
}

fn on_trap(
    platform: Option<&'static dyn Platform>,
    trap: Trap,
    exception: &Exception,
    frame: &mut TrapFrame,
) {
    match trap {
        Trap::Retry => {}
        Trap::Execute(root, page) => root.allow_execute(&Cpus, page, percpu::index()),
        Trap::Fault(fault) => on_stage2_fault(platform, &fault, exception, frame),
        Trap::Refused(reason) => inject(reason, exception, frame),
        Trap::HypervisorCall => {
            if let Some(hook) = ON_HYPERVISOR_CALL.get() {
                hook(frame);
            }
            #[cfg(feature = "panic-on-request")]
            crate::panic_request::obey(frame.register(0));
            // ELR is already the address after the HVC.
            frame.set_register(0, status::NOT_SUPPORTED as u64);
        }
        Trap::MonitorCall => {
            // A trapped SMC has not been executed: advance past it first, because the call may not
            // return.
            frame.elr = frame.elr.wrapping_add(4);
            on_monitor_call(frame);
        }
        Trap::Register(access) if fiq::hw::on_register(access, frame) => frame.advance(),
        Trap::Register(_) | Trap::Undefined => inject(Reason::Undefined, exception, frame),
    }
}

fn on_stage2_fault(
    platform: Option<&'static dyn Platform>,
    fault: &Stage2Fault,
    exception: &Exception,
    frame: &mut TrapFrame,
) {
    let resume = match (platform, fault.lookup) {
        (None, _) => Resume::Abort,
        (Some(platform), Lookup::Mapped { .. }) => platform.access_trapped_page(fault, frame),
        (Some(platform), Lookup::Unmapped | Lookup::Broken) => {
            let context = TrapContext::of(frame);
            device::hw::on_fault(fault, frame, |address, bytes, write| {
                match platform.dart_at(address) {
                    Some(dart) => platform.access_dart(context, dart, bytes, write),
                    None => platform.access_device(context, address, bytes, write),
                }
            })
        }
    };
    go_on(resume, exception, frame, reason(&fault.abort, fault.is_fetch));
}

/// Lets the guest continue; `reason` is that of an abort.
#[inline]
fn go_on(resume: Resume, exception: &Exception, frame: &mut TrapFrame, reason: Reason) {
    match resume {
        Resume::Next => frame.advance(),
        Resume::Same => {}
        Resume::Abort => inject(reason, exception, frame),
    }
}

fn on_monitor_call(frame: &mut TrapFrame) {
    let arguments = [0, 1, 2, 3].map(|number| frame.register(number));
    let result = match psci::decode(arguments) {
        PsciRequest::CpuOn { affinity, entry, context } => {
            smp::start(affinity, entry, context) as u64
        }
        PsciRequest::CpuOff => smp::stop() as u64,
        // Some firmware (QEMU's) reports a CPU as off until it runs, so Oche's own state is used.
        PsciRequest::AffinityInfo { affinity, .. } if smp::is_starting(affinity) => {
            status::AFFINITY_ON_PENDING as u64
        }
        PsciRequest::AffinityInfo { call, .. } | PsciRequest::Forward(call) => firmware::call(call),
        PsciRequest::Stop(call) => {
            report_exits();
            firmware::call(call)
        }
        PsciRequest::NotSupported => status::NOT_SUPPORTED as u64,
    };
    frame.set_register(0, result);
}

/// Prints the counters of each CPU.
pub fn report_exits() {
    for (index, cpu) in percpu::all().iter().enumerate().filter(|(_, cpu)| cpu.has_run()) {
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

/// The guest-physical address of an abort, or `None` if the guest's own tables no longer translate
/// the address.
fn fault_address(exception: &Exception, abort: &Abort) -> Option<u64> {
    if Exception::hpfar_is_valid(abort) {
        let offset =
            if abort.on_table_walk || abort.far_invalid { 0 } else { exception.far & 0xfff };
        return Some(exception.hpfar_page() | offset);
    }
    if abort.far_invalid {
        return None;
    }
    // A permission fault leaves HPFAR_EL2 UNKNOWN, so the guest's stage 1 is walked. The walk is
    // for a load by EL1; whether the access itself is still allowed is checked before it is
    // emulated, or by the CPU if it is stepped.
    translation::translate(exception.far, false)
}
