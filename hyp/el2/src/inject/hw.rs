//! Injecting exceptions into the guest, in this CPU's registers.

use aarch64_cpu::registers::{ID_AA64MMFR1_EL1, ID_AA64PFR1_EL1, Readable};

use crate::frame::TrapFrame;
use crate::inject::{self, Reason};
use crate::percpu;
use crate::registers::{ElrEl12, EsrEl12, FarEl12, SctlrEl12, SpsrEl12, VbarEl12, id_field};
use crate::syndrome::Exception;

/// Injects a stage-1 fault on a store to `address`, with `status` as `DFSC`.
pub(crate) fn inject_store_fault(status: u64, address: u64, frame: &mut TrapFrame) {
    let exception = Exception { syndrome: 0, far: address, hpfar: 0 };
    inject(Reason::StoreFault { status }, &exception, frame);
}

/// Injects an exception into the guest.
pub(crate) fn inject(reason: Reason, exception: &Exception, frame: &mut TrapFrame) {
    percpu::this().exits.count_injected();
    let interrupted = inject::Interrupted {
        pstate: frame.spsr,
        pc: frame.elr,
        vector_base: VbarEl12.read(),
        sctlr: SctlrEl12.read(),
        features: features(),
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

/// The features of this CPU that matter to an injected exception.
fn features() -> inject::Features {
    inject::Features {
        pan: ID_AA64MMFR1_EL1.read(ID_AA64MMFR1_EL1::PAN) != 0,
        ssbs: id_field(ID_AA64PFR1_EL1.get(), 4) != 0,
        mte: ID_AA64PFR1_EL1.read(ID_AA64PFR1_EL1::MTE) >= 2,
    }
}
