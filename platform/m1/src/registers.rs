//! Values of the registers of a real DART of the t8020 type (t8103: `apple,t8103-dart`).

use oche_types::addr::HostGranule;
use oche_types::dart::registers::Ttbr;

/// The value of one of a stream's `TTBR`s for the 16K table in `root`: its address divided by 4
/// KiB, and valid.
///
/// Source: Linux `drivers/iommu/apple-dart.c`, `DART_T8020_TTBR_*`; m1n1 `src/dart.c`, shift 12
/// also with 16K.
pub fn ttbr(root: HostGranule) -> Ttbr {
    // 31 bits of page number are 43 of address; an M1 has 36.
    Ttbr::new().with_page(root.page(0).0 & 0x7fff_ffff).with_valid(true)
}

#[cfg(test)]
mod tests {
    use super::ttbr;
    use oche_types::addr::HostGranule;

    #[test]
    fn a_root_is_named_by_its_address_in_4_kib() {
        // 0x8_0123_4000.
        assert_eq!(ttbr(HostGranule((0x8_0123_4000_u64 >> 14) as u32)).into_bits(), 0x8080_1234);
    }
}
