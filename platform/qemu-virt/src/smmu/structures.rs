//! Stream table entries and context descriptors, which determine how a requester translates.
//!
//! All of them are built here and nowhere else, so that one look shows that no translation granule
//! but 16K is ever named. Source: ARM IHI 0070, 5.1 (level 1 stream table descriptor), 5.2 (stream
//! table entry), 5.4 (context descriptor).

use oche_types::addr::HostGranule;

/// 64-bit words of a stream table entry and of a context descriptor.
pub const STRUCTURE_WORDS: usize = 8;
/// Bytes of a stream table entry and of a context descriptor.
pub const STRUCTURE_BYTES: u64 = 64;

/// Entries of a level 2 stream table, as a logarithm: one table holds one PCI bus.
pub const BUS_ENTRIES_LOG2: u32 = 8;

/// The level 1 descriptor of a bus that has a table at physical address `table`.
///
/// `Span`, bits 4:0, is one more than the logarithm of the table's entries; zero means no table,
/// and the SMMU then terminates the access as one with a bad StreamID.
pub fn bus_descriptor(table: u64) -> u64 {
    let span = u64::from(BUS_ENTRIES_LOG2) + 1;
    table & BUS_TABLE | span
}
/// Bits 51:6.
const BUS_TABLE: u64 = 0xf_ffff_ffff_ffc0;

/// Word 0 of an entry whose requester may do no DMA: valid, `Config` 0b000, aborted without an
/// event.
pub const ABORTING_ENTRY: u64 = ENTRY_VALID;

/// Word 0 of the entry of a requester that translates at stage 1 through the descriptor at
/// `context`.
///
/// This word alone selects the context, so one 64-bit store moves a requester to another one, and
/// the SMMU sees the old or the new one (IHI 0070, 3.21.3: single-copy atomic).
pub fn translating_entry(context: u64) -> u64 {
    context & CONTEXT_POINTER | STAGE_1_ONLY | ENTRY_VALID
}
const ENTRY_VALID: u64 = 1 << 0;
/// `Config` 0b101: stage 1 translates, stage 2 bypasses. `S1Fmt` and `S1CDMax` stay 0: one
/// descriptor.
const STAGE_1_ONLY: u64 = 0b101 << 1;
/// `S1ContextPtr`: bits 51:6.
const CONTEXT_POINTER: u64 = 0xf_ffff_ffff_ffc0;

/// Word 1 of every entry: how the SMMU reads the descriptor, and that it uses incoming attributes.
/// `EATS` 0: a device's own translations (ATS) are aborted; otherwise it could reach any memory.
/// `STRW` 0: EL1, the only regime with ASIDs that CMD_TLBI_NH_ASID invalidates. `S1STALLD` 0: the
/// driver refuses an SMMU that could stall.
pub const ENTRY_ATTRIBUTES: u64 = {
    let inner_write_back = 0b01 << 2; // S1CIR
    let outer_write_back = 0b01 << 4; // S1COR
    let inner_shareable = 0b11 << 6; // S1CSH
    let incoming_shareability = 0b01 << 44; // SHCFG
    inner_write_back | outer_write_back | inner_shareable | incoming_shareability
};

/// The ASID of a domain's translations in the SMMU's TLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asid(pub u16);

/// Output address size, as IDR5.OAS and CD.IPS encode it: 0 to 6 for 32, 36, 40, 42, 44, 48, 52
/// bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputSize(u64);

impl OutputSize {
    /// The value of IDR5.OAS, but at most 48 bits, the most that 16 KiB tables support.
    pub fn from_identification(oas: u32) -> Self {
        Self(u64::from(oas.min(5)))
    }
}

/// The context descriptor of the domain with `asid`, whose first-level table is in `root`.
///
/// `R` and `A` set, `S` clear: a refused access is recorded and aborted, never stalled (IHI 0070,
/// 3.12). `HA` and `HD` clear: entries are as Oche stored them. `ASET` set: CPUs' TLB maintenance
/// is not for it. TTBR1 is shut (`EPD1`) but still names 16K and 36 bits, so that no field names
/// anything else.
pub fn context_descriptor(
    asid: Asid,
    output: OutputSize,
    root: HostGranule,
) -> [u64; STRUCTURE_WORDS] {
    let half = |tg: u64| INPUT_BITS_36 | tg << 6 | 0b01 << 8 | 0b01 << 10 | 0b11 << 12;
    let first = half(TG0_16K)
        | half(TG1_16K) << 16
        | 1 << 30 // EPD1
        | 1 << 31 // V
        | output.0 << 32 // IPS
        | 1 << 41 // AA64
        | 1 << 45 // R
        | 1 << 46 // A
        | 1 << 47 // ASET
        | u64::from(asid.0) << 48;
    [first, context_root(root), 0, ALL_NORMAL_WRITE_BACK, 0, 0, 0, 0]
}
/// `T0SZ`, `T1SZ`: 64 minus the bits of an IOVA.
const INPUT_BITS_36: u64 = 64 - 36;
/// The encodings of 16K differ between the halves. Source: IHI 0070, 5.4, `TG0` and `TG1`.
const TG0_16K: u64 = 0b10;
const TG1_16K: u64 = 0b01;
/// `MAIR`: attribute 0 is Normal, write-back, read- and write-allocate, inside and out; no other is
/// used.
const ALL_NORMAL_WRITE_BACK: u64 = 0xff;

/// Word 1 of a context descriptor: `TTB0`, and nothing else in it is set.
pub fn context_root(root: HostGranule) -> u64 {
    root.address()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field positions from the manual's figures, independent of the code above.
    #[test]
    fn a_context_names_16k_and_36_bits_and_records_and_aborts() {
        let size = OutputSize::from_identification(4);
        let words = context_descriptor(Asid(0x1234), size, HostGranule(0x1_0003));
        let field = |low: u32, bits: u32| words[0] >> low & ((1 << bits) - 1);
        assert_eq!((field(0, 6), field(6, 2), field(14, 1)), (28, 0b10, 0), "T0SZ, TG0, EPD0");
        assert_eq!((field(16, 6), field(22, 2), field(30, 1)), (28, 0b01, 1), "T1SZ, TG1, EPD1");
        assert_eq!((field(31, 1), field(32, 3), field(41, 1)), (1, 4, 1), "V, IPS, AA64");
        assert_eq!((field(42, 2), field(44, 3)), (0, 0b110), "HD and HA; S, R, A");
        assert_eq!((field(8, 6), field(24, 6)), (0b11_01_01, 0b11_01_01), "SH, OR, IR");
        assert_eq!((field(47, 1), field(48, 16)), (1, 0x1234), "ASET, ASID");
        assert_eq!(words[1], 0x1_0003 << 14);
        assert_eq!(words[3], 0xff);
    }

    #[test]
    fn an_output_size_past_48_bits_is_48() {
        assert_eq!(OutputSize::from_identification(6), OutputSize::from_identification(5));
    }

    #[test]
    fn a_requester_translates_at_stage_1_or_aborts() {
        assert_eq!(translating_entry(0x4123_4540), 0x4123_454b);
        assert_eq!(ABORTING_ENTRY, 1);
        assert_eq!(ENTRY_ATTRIBUTES, 0x1000_0000_00d4);
        assert_eq!(bus_descriptor(0x4567_8000), 0x4567_8009);
    }
}
