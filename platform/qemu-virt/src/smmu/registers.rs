//! The SMMUv3's non-secure registers that the driver uses.
//!
//! Source of every offset and field: ARM IHI 0070, chapter 6 (6.1 memory map, 6.3 register
//! formats). The macro refuses to build when an offset and the fields before it disagree.

use tock_registers::fields::Field;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{register_bitfields, register_structs};

/// Bytes from page 0 to page 1 of the register map. Source: IHI 0070, 6.1.
const PAGE_ONE_OFFSET: usize = 0x1_0000;

/// The SMMU's registers.
pub struct Registers {
    pub(super) zero: &'static PageZero,
    pub(super) one: &'static PageOne,
}

// SAFETY: the caller of `at` promised that nothing else uses the registers, and any CPU reaches
// them alike.
unsafe impl Send for Registers {}

impl Registers {
    /// The registers of the SMMU at `base`, which EL2 maps as Device memory.
    ///
    /// # Safety
    ///
    /// An SMMUv3's 128 KiB of registers must be mapped at `base`, 8-byte aligned, and stay so, and
    /// nothing else may use them.
    pub unsafe fn at(base: usize) -> Self {
        let zero = core::ptr::with_exposed_provenance::<PageZero>(base);
        let one = core::ptr::with_exposed_provenance::<PageOne>(base + PAGE_ONE_OFFSET);
        // SAFETY: the caller's promise.
        let zero = unsafe { &*zero };
        // SAFETY: the caller's promise; page 1 is inside the 128 KiB.
        let one = unsafe { &*one };
        Self { zero, one }
    }

    /// Whether `error` is active: GERROR and GERRORN differ in it (IHI 0070, 7.5).
    pub(super) fn has_error(&self, error: Field<u32, GERROR::Register>) -> bool {
        self.zero.gerror.read(error) != self.zero.gerrorn.read(error)
    }

    /// Acknowledges only `error`, by making its bit in GERRORN equal to that in GERROR.
    pub(super) fn acknowledge(&self, error: Field<u32, GERROR::Register>) {
        let mask = error.mask << error.shift;
        let value = self.zero.gerrorn.get() & !mask | self.zero.gerror.get() & mask;
        self.zero.gerrorn.set(value);
    }
}

register_structs! {
    /// Page 0: everything but the event queue's indices.
    pub(super) PageZero {
        (0x00 => pub idr0: ReadOnly<u32, IDR0::Register>),
        (0x04 => pub idr1: ReadOnly<u32, IDR1::Register>),
        (0x08 => _reserved_08),
        (0x14 => pub idr5: ReadOnly<u32, IDR5::Register>),
        (0x18 => _reserved_18),
        (0x20 => pub cr0: ReadWrite<u32, CR0::Register>),
        (0x24 => pub cr0ack: ReadOnly<u32, CR0::Register>),
        (0x28 => pub cr1: ReadWrite<u32, CR1::Register>),
        (0x2c => pub cr2: ReadWrite<u32, CR2::Register>),
        (0x30 => _reserved_30),
        (0x44 => pub gbpa: ReadWrite<u32, GBPA::Register>),
        (0x48 => _reserved_48),
        (0x50 => pub irq_ctrl: ReadWrite<u32, IRQ_CTRL::Register>),
        (0x54 => pub irq_ctrlack: ReadOnly<u32, IRQ_CTRL::Register>),
        (0x58 => _reserved_58),
        (0x60 => pub gerror: ReadOnly<u32, GERROR::Register>),
        (0x64 => pub gerrorn: ReadWrite<u32, GERROR::Register>),
        (0x68 => _reserved_68),
        (0x80 => pub strtab_base: ReadWrite<u64, BASE::Register>),
        (0x88 => pub strtab_base_cfg: ReadWrite<u32, STRTAB_BASE_CFG::Register>),
        (0x8c => _reserved_8c),
        (0x90 => pub cmdq_base: ReadWrite<u64, BASE::Register>),
        (0x98 => pub cmdq_prod: ReadWrite<u32>),
        (0x9c => pub cmdq_cons: ReadWrite<u32, CMDQ_CONS::Register>),
        (0xa0 => pub eventq_base: ReadWrite<u64, BASE::Register>),
        (0xa8 => _reserved_a8),
        (0xb0 => pub eventq_irq_cfg0: ReadWrite<u64>),
        (0xb8 => _reserved_b8),
        (0xc0 => @END),
    }
}

register_structs! {
    /// Page 1: the event queue's indices.
    pub(super) PageOne {
        (0x00 => _reserved_00),
        (0xa8 => pub eventq_prod: ReadWrite<u32, EVENTQ_PROD::Register>),
        (0xac => pub eventq_cons: ReadWrite<u32>),
        (0xb0 => @END),
    }
}

register_bitfields![u32,
    pub(super) IDR0 [
        /// Two-level stream tables.
        ST_LEVEL OFFSET(27) NUMBITS(2) [ LinearOnly = 0, TwoLevel = 1 ],
        /// 1: a stage 1 fault cannot be turned into read-as-zero, so CD.A must be 1.
        TERM_MODEL OFFSET(26) NUMBITS(1) [],
        STALL_MODEL OFFSET(24) NUMBITS(2) [
            StallAndTerminate = 0,
            TerminateOnly = 1,
            StallOnly = 2
        ],
        ASID16 OFFSET(12) NUMBITS(1) [],
        /// Accesses to tables and queues are coherent.
        COHACC OFFSET(4) NUMBITS(1) [],
        /// Translation table formats: bit 1 is AArch64.
        TTF_AARCH64 OFFSET(3) NUMBITS(1) [],
        S1P OFFSET(1) NUMBITS(1) [],
    ],
    pub(super) IDR1 [
        /// Addresses of tables (30) or queues (29) are fixed.
        PRESET OFFSET(29) NUMBITS(2) [],
        CMDQS OFFSET(21) NUMBITS(5) [],
        EVENTQS OFFSET(16) NUMBITS(5) [],
        SIDSIZE OFFSET(0) NUMBITS(6) [],
    ],
    pub(super) IDR5 [
        GRAN16K OFFSET(5) NUMBITS(1) [],
        OAS OFFSET(0) NUMBITS(3) [],
    ],
    pub(super) CR0 [
        CMDQEN OFFSET(3) NUMBITS(1) [],
        EVENTQEN OFFSET(2) NUMBITS(1) [],
        SMMUEN OFFSET(0) NUMBITS(1) [],
    ],
    pub(super) CR1 [
        TABLE_SH OFFSET(10) NUMBITS(2) [ InnerShareable = 3 ],
        TABLE_OC OFFSET(8) NUMBITS(2) [ WriteBack = 1 ],
        TABLE_IC OFFSET(6) NUMBITS(2) [ WriteBack = 1 ],
        QUEUE_SH OFFSET(4) NUMBITS(2) [ InnerShareable = 3 ],
        QUEUE_OC OFFSET(2) NUMBITS(2) [ WriteBack = 1 ],
        QUEUE_IC OFFSET(0) NUMBITS(2) [ WriteBack = 1 ],
    ],
    pub(super) CR2 [
        /// The SMMU ignores the CPUs' broadcast TLB maintenance, because its ASIDs are Oche's.
        PTM OFFSET(2) NUMBITS(1) [],
        /// Record accesses of StreamIDs outside the table.
        RECINVSID OFFSET(1) NUMBITS(1) [],
    ],
    pub(super) GBPA [
        UPDATE OFFSET(31) NUMBITS(1) [],
        ABORT OFFSET(20) NUMBITS(1) [],
    ],
    pub(super) IRQ_CTRL [
        EVENTQ_IRQEN OFFSET(2) NUMBITS(1) [],
    ],
    pub(super) GERROR [
        /// The event queue could not be written: events are lost.
        EVENTQ_ABT_ERR OFFSET(2) NUMBITS(1) [],
        /// The command at CMDQ_CONS is in error and consumption has stopped.
        CMDQ_ERR OFFSET(0) NUMBITS(1) [],
    ],
    pub(super) STRTAB_BASE_CFG [
        FMT OFFSET(16) NUMBITS(2) [ Linear = 0, TwoLevel = 1 ],
        SPLIT OFFSET(6) NUMBITS(5) [],
        LOG2SIZE OFFSET(0) NUMBITS(6) [],
    ],
    pub(super) CMDQ_CONS [
        ERR OFFSET(24) NUMBITS(7) [],
        RD OFFSET(0) NUMBITS(20) [],
    ],
    pub(super) EVENTQ_PROD [
        /// Differs from bit 31 of CONS after an overflow.
        OVFLG OFFSET(31) NUMBITS(1) [],
        WR OFFSET(0) NUMBITS(20) [],
    ],
];

register_bitfields![u64,
    /// CMDQ_BASE, EVENTQ_BASE and STRTAB_BASE.
    pub(super) BASE [
        /// Allocation hint: read-allocate for what the SMMU reads, write-allocate for what it
        /// writes.
        ALLOCATE OFFSET(62) NUMBITS(1) [],
        /// Bits 51:5 of the address; the table's size says how many low bits must be zero.
        ADDRESS OFFSET(5) NUMBITS(47) [],
        /// Queues only: entries, as a logarithm to base two.
        LOG2SIZE OFFSET(0) NUMBITS(5) [],
    ],
];
