//! The exception vectors: a synchronous exception at EL1 is recorded, and the guest continues
//! behind the instruction.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::cpu::{self, MAX_CPUS};

unsafe extern "Rust" {
    safe fn guest_unexpected(exception: Exception);
}

/// A synchronous exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// `ESR_EL1`.
    pub syndrome: u64,
    /// `ELR_EL1`.
    pub pc: u64,
    /// `FAR_EL1`.
    pub address: u64,
}

impl Exception {
    /// Whether it is a synchronous external abort from EL1, not on a table walk: what a bus without
    /// a device there answers.
    #[must_use]
    pub fn is_external_abort(self) -> bool {
        matches!(self.class(), 0x21 | 0x25) && self.status() == 0x10
    }

    /// Whether it is the external abort of a load or store at `address`.
    #[must_use]
    pub fn is_external_abort_at(self, address: u64, is_write: bool) -> bool {
        self.is_external_abort()
            && self.class() == 0x25
            && self.is_write() == is_write
            && self.address == address
    }

    /// Whether it is a permission fault of stage 1's last level, at EL1, of a load or store.
    #[must_use]
    pub fn is_permission_fault(self, is_write: bool) -> bool {
        self.class() == 0x25 && self.status() == 0xf && self.is_write() == is_write
    }

    /// Whether it is an undefined instruction.
    #[must_use]
    pub fn is_undefined(self) -> bool {
        self.class() == 0
    }

    /// The exception class.
    fn class(self) -> u64 {
        self.syndrome >> 26
    }

    /// The fault status code of an abort.
    fn status(self) -> u64 {
        self.syndrome & 0x3f
    }

    /// `WnR` of a data abort.
    fn is_write(self) -> bool {
        self.syndrome >> 6 & 1 == 1
    }
}

/// The last exception of a CPU.
struct Record {
    is_expected: AtomicBool,
    has_come: AtomicBool,
    syndrome: AtomicU64,
    pc: AtomicU64,
    address: AtomicU64,
}

static RECORDS: [Record; MAX_CPUS] = [const {
    Record {
        is_expected: AtomicBool::new(false),
        has_come: AtomicBool::new(false),
        syndrome: AtomicU64::new(0),
        pc: AtomicU64::new(0),
        address: AtomicU64::new(0),
    }
}; MAX_CPUS];

fn record() -> &'static Record {
    &RECORDS[cpu::index() % MAX_CPUS]
}

/// Runs `work` and returns the last exception that it took, if any.
pub fn attempt(work: impl FnOnce()) -> Option<Exception> {
    let record = record();
    record.has_come.store(false, Ordering::SeqCst);
    record.is_expected.store(true, Ordering::SeqCst);
    work();
    record.is_expected.store(false, Ordering::SeqCst);
    record.has_come.load(Ordering::SeqCst).then(|| Exception {
        syndrome: record.syndrome.load(Ordering::SeqCst),
        pc: record.pc.load(Ordering::SeqCst),
        address: record.address.load(Ordering::SeqCst),
    })
}

/// Called by the vectors for a synchronous exception. Returns where the guest continues: behind the
/// instruction, or for a fetch at the caller.
#[unsafe(no_mangle)]
extern "C" fn guest_exception(syndrome: u64, pc: u64, address: u64, link: u64) -> u64 {
    let exception = Exception { syndrome, pc, address };
    let record = record();
    if !record.is_expected.load(Ordering::SeqCst) {
        guest_unexpected(exception);
    }
    record.syndrome.store(syndrome, Ordering::SeqCst);
    record.pc.store(pc, Ordering::SeqCst);
    record.address.store(address, Ordering::SeqCst);
    record.has_come.store(true, Ordering::SeqCst);
    if exception.class() == 0x21 { link } else { pc.wrapping_add(4) }
}

/// Called by the vectors for what no guest takes: interrupts, SErrors, and exceptions from EL0 or
/// on `SP_EL0`.
#[unsafe(no_mangle)]
extern "C" fn guest_stray(syndrome: u64, pc: u64, address: u64) -> ! {
    panic!("a stray exception: {:x?}", Exception { syndrome, pc, address })
}

global_asm!(
    r#"
    .macro guest_registers instruction
    \instruction x0, x1, [sp]
    \instruction x2, x3, [sp, #16]
    \instruction x4, x5, [sp, #32]
    \instruction x6, x7, [sp, #48]
    \instruction x8, x9, [sp, #64]
    \instruction x10, x11, [sp, #80]
    \instruction x12, x13, [sp, #96]
    \instruction x14, x15, [sp, #112]
    \instruction x16, x17, [sp, #128]
    \instruction x18, x30, [sp, #144]
    .endm

    .section .text.vectors, "ax"
    .balign 2048
    .global guest_vectors
guest_vectors:
    .rept   4
    .balign 128
    b       guest_stray_entry
    .endr
    .balign 128
    b       guest_sync_entry            // 0x200: synchronous, from EL1 itself
    .balign 128
    b       guest_stray_entry
    .balign 128
    b       guest_fiq_entry             // 0x300: FIQ, from EL1 itself
    .rept   9
    .balign 128
    b       guest_stray_entry
    .endr

guest_sync_entry:
    sub     sp, sp, #160
    guest_registers stp
    mrs     x0, esr_el1
    mrs     x1, elr_el1
    mrs     x2, far_el1
    mov     x3, x30
    bl      guest_exception
    msr     elr_el1, x0
    guest_registers ldp
    add     sp, sp, #160
    eret

guest_fiq_entry:
    sub     sp, sp, #160
    guest_registers stp
    bl      guest_fiq
    guest_registers ldp
    add     sp, sp, #160
    eret

guest_stray_entry:
    mrs     x0, esr_el1
    mrs     x1, elr_el1
    mrs     x2, far_el1
    b       guest_stray

    .purgem guest_registers
"#
);
