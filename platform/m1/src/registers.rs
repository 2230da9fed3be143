//! The register block of a t8020-type DART (t8103: `apple,t8103-dart`), for the driver of the real one.
//!
//! Source of every offset: `oche_hyp::dart::registers`, which cites them; the assertions below tie the two.
//! All accesses are 32 bits wide, and a DART whose power domain is off must not be touched at all.

use core::mem::offset_of;

use oche_hyp::dart::registers as offsets;
use oche_hyp::dart::stream::STREAMS;
use tock_registers::register_structs;
use tock_registers::registers::{ReadOnly, ReadWrite};

register_structs! {
    /// One DART's registers.
    pub DartRegisters {
        /// Page size: `registers::Params1`.
        (0x000 => pub params1: ReadOnly<u32>),
        /// Abilities: `registers::Params2`.
        (0x004 => pub params2: ReadOnly<u32>),
        (0x008 => _reserved_008),
        /// Starts an operation on the selected streams: `registers::StreamCommand`.
        (0x020 => pub stream_command: ReadWrite<u32>),
        (0x024 => _reserved_024),
        /// Bitmap of the streams that the command acts on.
        (0x034 => pub stream_select: ReadWrite<u32>),
        (0x038 => _reserved_038),
        /// The latched fault, write-one-to-clear: `registers::Error`.
        (0x040 => pub error: ReadWrite<u32>),
        (0x044 => _reserved_044),
        /// Bits 31:0 of the faulting IOVA.
        (0x050 => pub error_address_low: ReadOnly<u32>),
        /// Bits 63:32 of the faulting IOVA.
        (0x054 => pub error_address_high: ReadOnly<u32>),
        (0x058 => _reserved_058),
        /// Bit 15 locks TCRs and TTBRs until reset.
        (0x060 => pub config: ReadWrite<u32>),
        (0x064 => _reserved_064),
        /// Bitmap of the streams that may do DMA at all.
        (0x0fc => pub streams_enable: ReadWrite<u32>),
        /// Translation control, a register a stream: `registers::Tcr`.
        (0x100 => pub tcr: [ReadWrite<u32>; STREAMS]),
        (0x140 => _reserved_140),
        /// Translation table bases, four registers a stream: `registers::Ttbr`.
        (0x200 => pub ttbr: [[ReadWrite<u32>; offsets::TTBRS]; STREAMS]),
        (0x300 => _reserved_300),
        (0x4000 => @END),
    }
}

const _: () = {
    const fn same(block: usize, offset: u64) {
        assert!(block as u64 == offset);
    }
    same(offset_of!(DartRegisters, params1), offsets::PARAMS1);
    same(offset_of!(DartRegisters, params2), offsets::PARAMS2);
    same(offset_of!(DartRegisters, stream_command), offsets::STREAM_COMMAND);
    same(offset_of!(DartRegisters, stream_select), offsets::STREAM_SELECT);
    same(offset_of!(DartRegisters, error), offsets::ERROR);
    same(offset_of!(DartRegisters, error_address_low), offsets::ERROR_ADDRESS_LOW);
    same(offset_of!(DartRegisters, error_address_high), offsets::ERROR_ADDRESS_HIGH);
    same(offset_of!(DartRegisters, config), offsets::CONFIG);
    same(offset_of!(DartRegisters, streams_enable), offsets::STREAMS_ENABLE);
    same(offset_of!(DartRegisters, tcr), offsets::TCR);
    same(offset_of!(DartRegisters, ttbr), offsets::TTBR);
    same(size_of::<DartRegisters>(), offsets::REGION_BYTES);
};

/// The value of one of a stream's `TTBR`s for the 16K table in `root`: its address divided by 4 KiB, and valid.
///
/// Source: `m1.md` 4.1 (Linux `apple-dart.c`, `DART_T8020_TTBR_*`; m1n1 `dart.c`, shift 12 also with 16K).
pub fn ttbr(root: oche_hyp::addr::Frame) -> offsets::Ttbr {
    // 31 bits of page number are 43 of address; an M1 has 36 (`m1.md` 2.1).
    offsets::Ttbr::new().with_page(root.page(0).0 & 0x7fff_ffff).with_valid(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oche_hyp::addr::Frame;

    #[test]
    fn a_root_is_named_by_its_address_in_4_kib() {
        // 0x8_0123_4000.
        assert_eq!(ttbr(Frame((0x8_0123_4000_u64 >> 14) as u32)).into_bits(), 0x8080_1234);
    }
}
