//! Translation table entries: VMSAv8-64 stage 1, 16 KiB granule, two levels of 2048 entries.
//!
//! With 36 bits of input (`T0SZ` 28) the walk starts at level 2: bits 35:25 select there and bits
//! 24:14 at level 3, as in a DART's 16K tables. Source: Arm ARM DDI 0487, D8.3 (descriptor formats
//! and attributes).

use oche_types::addr::HostGranule;
use oche_types::dart::entry::Permission;

/// Bits 1:0 of a valid level 2 table descriptor and of a valid level 3 page descriptor.
const TABLE_OR_PAGE: u64 = 0b11;
/// Bits 47:14.
const ADDRESS: u64 = 0xffff_ffff_c000;
/// `AP[1]`: unprivileged accesses are allowed; a PCI device's accesses are unprivileged.
const UNPRIVILEGED: u64 = 1 << 6;
/// `AP[2]`: no writes.
const READ_ONLY: u64 = 1 << 7;
const INNER_SHAREABLE: u64 = 0b11 << 8;
/// `AF`: without it the first access would be an F_ACCESS fault.
const ACCESSED: u64 = 1 << 10;
/// `nG`: the entry belongs to the context's ASID, so that CMD_TLBI_NH_ASID invalidates it.
const NOT_GLOBAL: u64 = 1 << 11;
/// `PXN` and `UXN`: a device fetches no instructions.
const NEVER_EXECUTE: u64 = 0b11 << 53;

/// The level 3 entry for all of `frame`.
///
/// Stage 1 has no write-only permission: [`Permission::WRITE_ONLY`] becomes read and write. Without
/// any permission the entry is zero.
pub fn leaf(frame: HostGranule, permission: Permission) -> u64 {
    if permission.is_none() {
        return 0;
    }
    let access = if permission.write { UNPRIVILEGED } else { UNPRIVILEGED | READ_ONLY };
    // AttrIndx, bits 4:2, stays 0: the context's only memory type.
    let attributes = NEVER_EXECUTE | NOT_GLOBAL | ACCESSED | INNER_SHAREABLE;
    frame.address() & ADDRESS | attributes | access | TABLE_OR_PAGE
}

/// The level 2 entry for the leaf table in `table`. It sets no restriction.
pub fn table(table: HostGranule) -> u64 {
    table.address() & ADDRESS | TABLE_OR_PAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_the_device_only_reads_is_read_only_and_any_other_can_be_written() {
        let bits = |permission| leaf(HostGranule(0x1_0003), permission);
        assert_eq!(bits(Permission::READ_WRITE), 0x0060_0000_4000_cf43);
        assert_eq!(bits(Permission::READ_ONLY), 0x0060_0000_4000_cfc3);
        assert_eq!(bits(Permission::WRITE_ONLY), bits(Permission::READ_WRITE));
        assert_eq!(bits(Permission::default()), 0);
    }

    #[test]
    fn a_table_entry_is_an_address_and_a_type() {
        assert_eq!(table(HostGranule(0x1_0003)), 0x4000_c003);
    }
}
