//! Exceptions at EL1: remember what came and go on behind it.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

/// What an exception said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exception {
    /// `ESR_EL1`.
    pub(super) syndrome: u64,
}

/// Most CPUs.
const CPUS: usize = 4;
static SYNDROMES: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];

impl Exception {
    /// Instruction or data abort from EL1 with the status of an external abort: what a bus without
    /// a device there gives.
    pub(super) fn is_external_abort(self) -> bool {
        matches!(self.syndrome >> 26, 0x21 | 0x25) && self.syndrome & 0x3f == 0x10
    }

    /// A permission fault of stage 1's last level, at EL1, for a store or for a load.
    pub(super) fn is_permission_fault(self, is_write: bool) -> bool {
        self.syndrome >> 26 == 0x25
            && self.syndrome & 0x3f == 0xf
            && (self.syndrome >> 6 & 1 == 1) == is_write
    }

    /// An instruction that does not exist.
    pub(super) fn is_undefined(self) -> bool {
        self.syndrome >> 26 == 0
    }
}

/// Runs `work` and gives the exception that it met, if any: the last one.
pub(super) fn attempt(work: impl FnOnce()) -> Option<Exception> {
    let slot = slot();
    // Bit 25, `IL`, is set for every abort and every unknown instruction: 0 stands for none.
    slot.store(0, Ordering::SeqCst);
    work();
    match slot.load(Ordering::SeqCst) {
        0 => None,
        syndrome => Some(Exception { syndrome }),
    }
}

fn slot() -> &'static AtomicU64 {
    let affinity: u64;
    // SAFETY: reads a register.
    unsafe {
        asm!("mrs {}, mpidr_el1", out(reg) affinity, options(nomem, nostack, preserves_flags))
    };
    SYNDROMES.get((affinity & 0xff) as usize).unwrap_or(&SYNDROMES[0])
}

/// Called by the vectors. Returns where to go on: behind the instruction, or for a fetch at the
/// caller.
#[unsafe(no_mangle)]
extern "C" fn guest_exception(syndrome: u64, at: u64, link: u64) -> u64 {
    slot().store(syndrome, Ordering::SeqCst);
    if syndrome >> 26 == 0x21 { link } else { at.wrapping_add(4) }
}

global_asm!(
    r#"
    .macro dead
    .balign 128
    b       .
    .endm

    .section .text.vectors, "ax"
    .balign 2048
    .global guest_vectors
guest_vectors:
    dead
    dead
    dead
    dead
    .balign 128
    b       guest_sync
    dead
    dead
    dead
    .balign 128
    b       guest_from_user
    dead
    dead
    dead
    .balign 128
    b       guest_from_user
    dead
    dead
    dead

guest_sync:
    sub     sp, sp, #176
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x30, [sp, #144]
    mrs     x0, esr_el1
    mrs     x1, elr_el1
    mov     x2, x30
    bl      guest_exception
    msr     elr_el1, x0
    ldp     x0, x1, [sp]
    ldp     x2, x3, [sp, #16]
    ldp     x4, x5, [sp, #32]
    ldp     x6, x7, [sp, #48]
    ldp     x8, x9, [sp, #64]
    ldp     x10, x11, [sp, #80]
    ldp     x12, x13, [sp, #96]
    ldp     x14, x15, [sp, #112]
    ldp     x16, x17, [sp, #128]
    ldp     x18, x30, [sp, #144]
    add     sp, sp, #176
    eret
"#
);
