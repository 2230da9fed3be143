//! The registers of a t8020-type DART: offsets in bytes, and values as bit fields.
//!
//! Source of every offset and bit: Linux 6.1 `drivers/iommu/apple-dart.c` (`DART_*`), m1n1
//! `hw/dart8020.py` and QEMU's Apple fork. All drivers make 32-bit accesses only.

use bitfield_struct::bitfield;

/// Bytes of the register region. Source: Linux `apple-dart.c` asks for at least 0x4000.
pub const REGION_BYTES: u64 = 0x4000;

/// Page size, read-only: [`Params1`].
pub const PARAMS1: u64 = 0x00;
/// Features, read-only. Bit 0: a stream can be switched to bypass.
pub const PARAMS2: u64 = 0x04;
/// Starts an operation on the selected streams: [`StreamCommand`].
pub const STREAM_COMMAND: u64 = 0x20;
/// Bitmap of the streams that [`STREAM_COMMAND`] acts on.
pub const STREAM_SELECT: u64 = 0x34;
/// The latched fault, write-one-to-clear: [`Error`].
pub const ERROR: u64 = 0x40;
/// Bits 31:0 of the faulting IOVA.
pub const ERROR_ADDRESS_LOW: u64 = 0x50;
/// Bits 63:32 of the faulting IOVA.
pub const ERROR_ADDRESS_HIGH: u64 = 0x54;
/// Configuration; bit 15 locks TCRs and TTBRs until reset.
pub const CONFIG: u64 = 0x60;
/// Bitmap of the streams that may do DMA at all.
pub const STREAMS_ENABLE: u64 = 0xfc;
/// First of the sixteen translation control registers, four bytes apart: [`Tcr`].
pub const TCR: u64 = 0x100;
/// First of the sixteen sets of four translation table base registers, 16 bytes a stream: [`Ttbr`].
pub const TTBR: u64 = 0x200;
/// Translation table base registers of one stream.
pub const TTBRS: usize = 4;

/// `PARAMS1`.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Params1 {
    #[bits(24)]
    __: u32,
    /// Logarithm to base two of the page size in bytes: 12 for 4 KiB, 14 for 16 KiB.
    #[bits(4)]
    pub page_shift: u8,
    #[bits(4)]
    __: u8,
}

/// `STREAM_COMMAND`.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct StreamCommand {
    #[bits(2)]
    __: u8,
    /// Set by the DART while the operation runs.
    pub busy: bool,
    #[bits(17)]
    __: u32,
    /// Drop every cached translation of the selected streams.
    pub invalidate: bool,
    #[bits(11)]
    __: u16,
}

/// `ERROR`.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Error {
    /// The kind of fault: one of [`FaultCode`]'s bits.
    #[bits(12)]
    pub code: u16,
    #[bits(12)]
    __: u16,
    /// The stream whose access failed.
    #[bits(4)]
    pub stream: u8,
    #[bits(3)]
    __: u8,
    /// Whether a fault is latched.
    pub flag: bool,
}

/// Why a DART refused an access, as bits of [`Error::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum FaultCode {
    /// The TTBR that the IOVA selects is not valid, or the stream does not translate.
    NoTtbr = 1 << 0,
    /// The first-level entry is not valid.
    NoL1 = 1 << 1,
    /// The leaf entry is not valid.
    NoLeaf = 1 << 2,
    /// A write to a page that the leaf entry write-protects.
    Write = 1 << 3,
    /// A read of a page that the leaf entry read-protects.
    Read = 1 << 4,
}

/// `TCR`, a stream's translation control.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Tcr {
    #[bits(7)]
    __: u8,
    /// Whether the stream's accesses go through its tables.
    pub translate: bool,
    /// Whether the stream's accesses bypass translation.
    pub bypass: bool,
    #[bits(3)]
    __: u8,
    /// Whether the stream's accesses bypass the address filter (DAPF).
    pub bypass_filter: bool,
    #[bits(19)]
    __: u32,
}

/// `TTBR`, the base of one of a stream's four first-level tables.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Ttbr {
    /// The table's physical address divided by 4 KiB.
    #[bits(31)]
    pub page: u32,
    /// Whether the register holds a table.
    pub valid: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that Linux 6.1's `drivers/iommu/apple-dart.c` writes on these machines.
    #[test]
    fn the_values_that_linux_writes_read_as_what_they_mean() {
        assert!(Tcr::from_bits(0x80).translate());
        assert!(StreamCommand::from_bits(1 << 20).invalidate());
        assert_eq!(Params1::from_bits(0x0c00_0000).page_shift(), 12);
        assert_eq!(Ttbr::from_bits(0x8004_2345).page(), 0x4_2345);
        assert_eq!(
            Error::new().with_flag(true).with_stream(3).with_code(4).into_bits(),
            0x8300_0004
        );
    }
}
