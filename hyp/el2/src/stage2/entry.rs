//! Decoding and encoding of a stage-2 descriptor.
//!
//! Source: Arm ARM DDI 0487, "VMSAv8-64 descriptor formats" and "Stage 2 memory type and
//! Cacheability attributes", with and without FEAT_S2FWB.

use oche_engine::host::CpuAccess;
use oche_types::MAX_CPUS;
use oche_types::addr::Hfn;

const VALID: u64 = 1;
/// With [`VALID`], set in a table (levels 1, 2) or a page (level 3), and clear in a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
const MEMORY_ATTRIBUTES_SHIFT: u32 = 2;
const READ: u64 = 1 << 6;
const WRITE: u64 = 1 << 7;
/// Inner Shareable: all CPUs of the guest.
const INNER_SHAREABLE: u64 = 3 << 8;
/// The access flag, which is always set.
const ACCESSED: u64 = 1 << 10;
/// Bit 54 of `XN[1:0]`: with bit 53 clear no execution at EL1 or EL0, with FEAT_XNX and without.
const NO_EXECUTE: u64 = 1 << 54;
/// In an invalid descriptor, set if the page is broken. Hardware ignores all other bits of an
/// invalid descriptor.
const BROKEN: u64 = 1 << 55;
/// In an invalid descriptor, set for a page that no CPU may access; the other fields are those of a
/// valid descriptor. A valid descriptor without permissions would fault as well, but then the CPU
/// does not report the guest-physical address.
const GUARDED: u64 = 1 << 56;
/// In a valid page, the mark: one more than the number of the CPU that synchronizes its
/// instructions, or 0: see `Root::allow_execute`. Hardware ignores bits 58:55, which are reserved
/// for software, and bit 59 as long as `VTCR_EL2.HWU59` is 0, so the mark can change without
/// break-before-make and without an invalidation.
const MARK_SHIFT: u32 = 55;
const MARK_BITS: u32 = 5;
const _: () =
    assert!(MAX_CPUS < 1 << MARK_BITS, "each CPU has a mark of its own, and one means none");
/// Output address, bits 47:12.
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// How stage 2 restricts stage 1's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// `MemAttr[3:0]`.
    pub memory: u8,
    /// `S2AP`: what CPUs may do.
    pub access: CpuAccess,
    /// `XN`.
    pub no_execute: bool,
}

impl Attributes {
    /// Guest RAM. Without FWB, 0b1111 is Normal Write-Back inner and outer, combined with stage 1's
    /// attributes. With FWB, 0b0110 is Normal Write-Back whatever stage 1's attributes are.
    pub fn ram(forces_write_back: bool, access: CpuAccess) -> Self {
        Self { memory: if forces_write_back { 0b0110 } else { 0b1111 }, access, no_execute: false }
    }

    /// Devices, with stage 1's memory type. Without FWB that is Normal Write-Back (the weakest
    /// restriction), with FWB 0b0111.
    pub fn devices(forces_write_back: bool) -> Self {
        let memory = if forces_write_back { 0b0111 } else { 0b1111 };
        Self { memory, access: CpuAccess::ReadWrite, no_execute: false }
    }
}

/// A descriptor, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing is mapped.
    Invalid,
    /// Broken: a CPU that accesses it retries.
    Broken,
    /// The next level's table.
    Table(Hfn),
    /// A block or a page.
    Leaf {
        /// The first host page.
        at: Hfn,
        /// The attributes.
        attributes: Attributes,
    },
}

impl Entry {
    /// Decodes a descriptor of `level`.
    pub fn decode(bits: u64, level: u8) -> Self {
        // Addresses of tables and leaves are page numbers below 2^32, so no bit of the 48 is lost.
        let page = Hfn(((bits & ADDRESS) >> 12) as u32);
        match (bits & VALID != 0, bits & TABLE_OR_PAGE != 0, level) {
            (false, ..) if bits & BROKEN != 0 => Self::Broken,
            (false, _, 3) if bits & GUARDED != 0 => {
                let memory = (bits >> MEMORY_ATTRIBUTES_SHIFT & 0xf) as u8;
                let no_execute = bits & NO_EXECUTE != 0;
                Self::Leaf {
                    at: page,
                    attributes: Attributes { memory, access: CpuAccess::None, no_execute },
                }
            }
            (false, ..) | (true, false, 3) => Self::Invalid,
            (true, true, 0..=2) => Self::Table(page),
            (true, ..) => {
                let access =
                    if bits & WRITE != 0 { CpuAccess::ReadWrite } else { CpuAccess::ReadOnly };
                let memory = (bits >> MEMORY_ATTRIBUTES_SHIFT & 0xf) as u8;
                let attributes = Attributes { memory, access, no_execute: bits & NO_EXECUTE != 0 };
                Self::Leaf { at: page, attributes }
            }
        }
    }

    /// Whether a CPU may use it, and its TLB may hold it.
    pub fn allows_access(self) -> bool {
        matches!(self, Self::Leaf { attributes, .. } if attributes.access != CpuAccess::None)
    }

    /// The descriptor of a valid page with the mark of CPU number `cpu`. [`Self::decode`] ignores
    /// the mark.
    pub fn encode_marked(self, cpu: usize) -> u64 {
        assert!(cpu < MAX_CPUS, "invariant: each CPU has a mark: {cpu}");
        let bits = self.encode(3);
        assert!(bits & VALID != 0, "invariant: only a valid entry is marked: {self:?}");
        bits | (cpu as u64 + 1) << MARK_SHIFT
    }

    /// The descriptor for `level`.
    pub fn encode(self, level: u8) -> u64 {
        match self {
            Self::Invalid => 0,
            Self::Broken => BROKEN,
            Self::Table(next) => next.address() | TABLE_OR_PAGE | VALID,
            Self::Leaf { at, attributes } => {
                let kind = match (attributes.access, level) {
                    (CpuAccess::None, _) => GUARDED,
                    (_, 3) => TABLE_OR_PAGE | VALID,
                    _ => VALID,
                };
                let write = if attributes.access == CpuAccess::ReadWrite { WRITE } else { 0 };
                let no_execute = if attributes.no_execute { NO_EXECUTE } else { 0 };
                let memory = u64::from(attributes.memory & 0xf) << MEMORY_ATTRIBUTES_SHIFT;
                at.address()
                    | kind
                    | memory
                    | READ
                    | write
                    | INNER_SHAREABLE
                    | ACCESSED
                    | no_execute
            }
        }
    }
}
