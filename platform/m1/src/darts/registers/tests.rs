//! The hardware's registers against the definitions of the emulated DART's.

use super::*;
use oche_types::dart::registers::{Error, FaultCode, Params1, StreamCommand, Tcr, Ttbr};

fn stream(index: usize) -> StreamId {
    StreamId::new(index).expect("a test names streams that exist")
}

#[test]
fn a_root_is_named_by_its_address_in_4_kib() {
    // 0x8_0123_4000.
    let root = HostGranule((0x8_0123_4000_u64 >> 14) as u32);
    assert_eq!(ttbr_value(Some(root)).value, 0x8080_1234);
    assert_eq!(
        ttbr_value(Some(root)).value,
        Ttbr::new().with_page(0x80_1234).with_valid(true).into_bits()
    );
    assert_eq!(ttbr_value(None).value, 0);
}

#[test]
fn fields_are_those_of_the_emulated_dart() {
    assert_eq!(TCR::TRANSLATE::SET.value, Tcr::new().with_translate(true).into_bits());
    assert_eq!(TCR::BYPASS::SET.value, Tcr::new().with_bypass(true).into_bits());
    assert_eq!(STREAM_COMMAND::BUSY::SET.value, StreamCommand::new().with_busy(true).into_bits());
    assert_eq!(
        STREAM_COMMAND::INVALIDATE::SET.value,
        StreamCommand::new().with_invalidate(true).into_bits()
    );
    assert_eq!(PARAMS1::PAGE_SHIFT.val(14).value, Params1::new().with_page_shift(14).into_bits());
    assert_eq!(ERROR::FLAG::SET.value, Error::new().with_flag(true).into_bits());
    assert_eq!(ERROR::STREAM.val(5).value, Error::new().with_stream(5).into_bits());
    let write_protected = Error::new().with_code(FaultCode::Write as u16);
    assert_eq!(ERROR::WRITE_PROTECTED::SET.value, write_protected.into_bits());
}

#[test]
fn each_stream_has_registers_of_its_own() {
    assert_eq!(tcr(stream(0)).offset(), 0x100);
    assert_eq!(tcr(stream(15)).offset(), 0x13c);
    assert_eq!(ttbr(stream(0), 3).offset(), 0x20c);
    assert_eq!(ttbr(stream(15), 0).offset(), 0x2f0);
}

#[test]
fn halves_of_a_fault_address_are_joined() {
    assert_eq!(fault_address(0x1, 0x8000_0010), 0x1_8000_0010);
}
