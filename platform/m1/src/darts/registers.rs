//! The registers of a hardware DART of the t8020 type (t8103: `apple,t8103-dart`).
//!
//! The offsets are those of [`DartRegisters`], whose layout the macro checks. The struct is never
//! instantiated: accesses go through [`Hardware`], which host tests simulate. A [`Register`] is
//! the offset of one of its fields together with the field's type, so `tock-registers` decides what
//! can be read or written, and which fields belong to which register.
//!
//! Source of every offset and field: `docs/hardware/dart.md`.

use core::fmt;
use core::marker::PhantomData;
use core::mem::offset_of;

use oche_types::addr::HostGranule;
use oche_types::dart::registers as emulated;
use oche_types::dart::registers::TTBRS;
use oche_types::dart::stream::{DartId, STREAMS, StreamId, StreamSet};
use tock_registers::fields::FieldValue;
use tock_registers::interfaces::{Readable, Writeable};
use tock_registers::registers::{ReadOnly, ReadWrite};
use tock_registers::{LocalRegisterCopy, register_bitfields, register_structs};

use super::hardware::{BusError, Hardware};

register_structs! {
    /// One DART's registers.
    pub(crate) DartRegisters {
        (0x0000 => params1: ReadOnly<u32, PARAMS1::Register>),
        (0x0004 => params2: ReadOnly<u32, PARAMS2::Register>),
        (0x0008 => _reserved_008),
        (0x0020 => stream_command: ReadWrite<u32, STREAM_COMMAND::Register>),
        (0x0024 => _reserved_024),
        (0x0034 => stream_select: ReadWrite<u32, STREAM_SELECT::Register>),
        (0x0038 => _reserved_038),
        (0x0040 => error: ReadWrite<u32, ERROR::Register>),
        (0x0044 => _reserved_044),
        (0x0050 => error_address_low: ReadOnly<u32>),
        (0x0054 => error_address_high: ReadOnly<u32>),
        (0x0058 => _reserved_058),
        (0x0060 => config: ReadOnly<u32, CONFIG::Register>),
        (0x0064 => _reserved_064),
        (0x00fc => streams_enable: ReadWrite<u32, STREAMS_ENABLE::Register>),
        (0x0100 => tcr: [ReadWrite<u32, TCR::Register>; STREAMS]),
        (0x0140 => _reserved_140),
        (0x0200 => ttbr: [[ReadWrite<u32, TTBR::Register>; TTBRS]; STREAMS]),
        (0x0300 => _reserved_300),
        (0x4000 => @END),
    }
}

register_bitfields![u32,
    pub(crate) PARAMS1 [
        /// Logarithm to base two of the page size in bytes.
        PAGE_SHIFT OFFSET(24) NUMBITS(4) [],
    ],
    pub(crate) PARAMS2 [
        /// Streams can bypass translation.
        BYPASS OFFSET(0) NUMBITS(1) [],
    ],
    pub(crate) STREAM_COMMAND [
        /// Drop every cached translation of the selected streams.
        INVALIDATE OFFSET(20) NUMBITS(1) [],
        /// Set by the DART while the command runs.
        BUSY OFFSET(2) NUMBITS(1) [],
    ],
    pub(crate) STREAM_SELECT [
        /// The streams that `STREAM_COMMAND` acts on, a bit for each.
        STREAMS OFFSET(0) NUMBITS(16) [],
    ],
    pub(crate) ERROR [
        /// A fault is latched. Writing the register's value back clears it.
        FLAG OFFSET(31) NUMBITS(1) [],
        STREAM OFFSET(24) NUMBITS(4) [],
        /// The access was a write.
        WRITE OFFSET(10) NUMBITS(1) [],
        /// A write to a page that may not be written.
        WRITE_PROTECTED OFFSET(3) NUMBITS(1) [],
    ],
    pub(crate) CONFIG [
        /// TCRs and TTBRs are frozen until reset.
        LOCK OFFSET(15) NUMBITS(1) [],
    ],
    pub(crate) STREAMS_ENABLE [
        /// The streams that may do DMA at all, a bit for each.
        STREAMS OFFSET(0) NUMBITS(16) [],
    ],
    pub(crate) TCR [
        BYPASS OFFSET(8) NUMBITS(1) [],
        TRANSLATE OFFSET(7) NUMBITS(1) [],
    ],
    pub(crate) TTBR [
        VALID OFFSET(31) NUMBITS(1) [],
        /// The table's physical address divided by 4 KiB, also with pages of 16 KiB.
        PAGE OFFSET(0) NUMBITS(31) [],
    ],
];

register_bitfields![u64,
    /// `ERROR_ADDRESS_HIGH` and `ERROR_ADDRESS_LOW`.
    pub(crate) ERROR_ADDRESS [
        HIGH OFFSET(32) NUMBITS(32) [],
        LOW OFFSET(0) NUMBITS(32) [],
    ],
];

/// The offset of a register. `R` is the type of its field in [`DartRegisters`].
pub(crate) struct Register<R> {
    offset: usize,
    field: PhantomData<fn() -> R>,
}

impl<R> Clone for Register<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Register<R> {}

impl<R> fmt::Debug for Register<R> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Register({:#x})", self.offset)
    }
}

/// The field of [`DartRegisters`] with that name, as a [`Register`].
macro_rules! register {
    ($field:ident) => {
        Register::new(offset_of!(DartRegisters, $field), |registers| &registers.$field)
    };
}

/// The page size.
pub(crate) const PARAMS1: Register<ReadOnly<u32, PARAMS1::Register>> = register!(params1);
/// Optional features.
pub(crate) const PARAMS2: Register<ReadOnly<u32, PARAMS2::Register>> = register!(params2);
/// Starts an operation on the selected streams.
pub(crate) const STREAM_COMMAND: Register<ReadWrite<u32, STREAM_COMMAND::Register>> =
    register!(stream_command);
/// Selects streams for [`const@STREAM_COMMAND`].
pub(crate) const STREAM_SELECT: Register<ReadWrite<u32, STREAM_SELECT::Register>> =
    register!(stream_select);
/// The latched fault.
pub(crate) const ERROR: Register<ReadWrite<u32, ERROR::Register>> = register!(error);
/// Bits 31:0 of the faulting IOVA.
pub(crate) const ERROR_ADDRESS_LOW: Register<ReadOnly<u32>> = register!(error_address_low);
/// Bits 63:32 of the faulting IOVA.
pub(crate) const ERROR_ADDRESS_HIGH: Register<ReadOnly<u32>> = register!(error_address_high);
/// The lock of TCRs and TTBRs.
pub(crate) const CONFIG: Register<ReadOnly<u32, CONFIG::Register>> = register!(config);
/// Enables streams.
pub(crate) const STREAMS_ENABLE: Register<ReadWrite<u32, STREAMS_ENABLE::Register>> =
    register!(streams_enable);
const TCRS: Register<[ReadWrite<u32, TCR::Register>; STREAMS]> = register!(tcr);
const TTBR_SETS: Register<[[ReadWrite<u32, TTBR::Register>; TTBRS]; STREAMS]> = register!(ttbr);

/// The translation control register of `stream`.
pub(crate) fn tcr(stream: StreamId) -> Register<ReadWrite<u32, TCR::Register>> {
    TCRS.element(stream.index())
}

/// The translation table base register `index` of `stream`.
pub(crate) fn ttbr(stream: StreamId, index: usize) -> Register<ReadWrite<u32, TTBR::Register>> {
    TTBR_SETS.element(stream.index()).element(index)
}

impl<R> Register<R> {
    /// `_field` is never called: it makes the compiler infer the field's type.
    const fn new(offset: usize, _field: fn(&DartRegisters) -> &R) -> Self {
        Self { offset, field: PhantomData }
    }

    /// Bytes from the start of the DART's registers.
    pub(crate) const fn offset(self) -> u64 {
        self.offset as u64
    }
}

impl<R, const N: usize> Register<[R; N]> {
    fn element(self, index: usize) -> Register<R> {
        assert!(index < N, "invariant: a DART has {N} registers of a kind, not {index}");
        Register { offset: self.offset + index * size_of::<R>(), field: PhantomData }
    }
}

impl<R: Readable<T = u32>> Register<R> {
    /// Reads the register of `dart`, once.
    ///
    /// # Errors
    ///
    /// As for [`Hardware::read`].
    pub(crate) fn read(
        self,
        hardware: &impl Hardware,
        dart: DartId,
    ) -> Result<LocalRegisterCopy<u32, R::R>, BusError> {
        hardware.read(dart, self.offset()).map(LocalRegisterCopy::new)
    }
}

impl<R: Writeable<T = u32>> Register<R> {
    /// Writes the register of `dart`, once. Bits that `value` does not name become 0.
    ///
    /// # Errors
    ///
    /// As for [`Hardware::write`].
    pub(crate) fn write(
        self,
        hardware: &mut impl Hardware,
        dart: DartId,
        value: FieldValue<u32, R::R>,
    ) -> Result<(), BusError> {
        hardware.write(dart, self.offset(), value.value)
    }

    /// Writes back what was read, every bit of it.
    ///
    /// # Errors
    ///
    /// As for [`Hardware::write`].
    pub(crate) fn write_back(
        self,
        hardware: &mut impl Hardware,
        dart: DartId,
        value: LocalRegisterCopy<u32, R::R>,
    ) -> Result<(), BusError> {
        hardware.write(dart, self.offset(), value.get())
    }
}

/// The value of the first `TTBR` of a stream: the 16K table at `root`, or no table.
///
/// Source: Linux `drivers/iommu/apple-dart.c`, `DART_T8020_TTBR_*`; m1n1 `src/dart.c`, shift 12
/// also with 16K.
pub(crate) fn ttbr_value(root: Option<HostGranule>) -> FieldValue<u32, TTBR::Register> {
    match root {
        Some(root) => TTBR::VALID::SET + TTBR::PAGE.val(root.page(0).0),
        None => TTBR::VALID::CLEAR + TTBR::PAGE.val(0),
    }
}

/// The value of `STREAM_SELECT` for `streams`.
pub(crate) fn select_value(streams: StreamSet) -> FieldValue<u32, STREAM_SELECT::Register> {
    STREAM_SELECT::STREAMS.val(u32::from(streams.0))
}

/// The IOVA of a fault, from the values of the two registers.
pub(crate) fn fault_address(high: u32, low: u32) -> u64 {
    (ERROR_ADDRESS::HIGH.val(u64::from(high)) + ERROR_ADDRESS::LOW.val(u64::from(low))).value
}

/// The hardware DART and the emulated one have their registers in the same places.
const _: () = {
    assert!(PARAMS1.offset() == emulated::PARAMS1);
    assert!(PARAMS2.offset() == emulated::PARAMS2);
    assert!(STREAM_COMMAND.offset() == emulated::STREAM_COMMAND);
    assert!(STREAM_SELECT.offset() == emulated::STREAM_SELECT);
    assert!(ERROR.offset() == emulated::ERROR);
    assert!(ERROR_ADDRESS_LOW.offset() == emulated::ERROR_ADDRESS_LOW);
    assert!(ERROR_ADDRESS_HIGH.offset() == emulated::ERROR_ADDRESS_HIGH);
    assert!(CONFIG.offset() == emulated::CONFIG);
    assert!(STREAMS_ENABLE.offset() == emulated::STREAMS_ENABLE);
    assert!(TCRS.offset() == emulated::TCR);
    assert!(TTBR_SETS.offset() == emulated::TTBR);
    assert!(size_of::<DartRegisters>() as u64 == emulated::REGION_BYTES);
};

#[cfg(test)]
mod tests;
