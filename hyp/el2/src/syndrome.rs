//! Decoding of `ESR_EL2`. Every value is accepted.
//!
//! Source: Arm ARM DDI 0487, `ESR_EL2` (EC table and the ISS encodings of data and instruction
//! aborts).

/// The syndrome registers of a synchronous exception to EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// `ESR_EL2`.
    pub syndrome: u64,
    /// `FAR_EL2`: the virtual address of an abort.
    pub far: u64,
    /// `HPFAR_EL2`: bits 43:4 hold bits 51:12 of the intermediate physical address of a stage-2
    /// abort.
    pub hpfar: u64,
}

/// The class of a trap, for dispatch and for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `HVC` from AArch64 (EC 0x16).
    HypervisorCall,
    /// `SMC` from AArch64, trapped by `HCR_EL2.TSC` (EC 0x17).
    MonitorCall,
    /// Stage-2 instruction abort (EC 0x20).
    InstructionAbort(Abort),
    /// Stage-2 data abort (EC 0x24).
    DataAbort(Abort),
    /// Software step exception (EC 0x32).
    SoftwareStep,
    /// A trapped system register or instruction (EC 0x18).
    SystemRegister(RegisterAccess),
    /// A trapped implementation-defined register of Apple (EC 0x3f, ISS 0x20): its number is in
    /// `AFSR1_EL2`, in the form of a system register's ISS. Source: m1n1 `src/hv_exc.c`.
    AppleRegister,
    /// WFI/WFE (EC 0x01), or anything else.
    Other(u8),
}

/// An `MRS` or `MSR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterAccess {
    /// The system register: see [`register_number`].
    pub number: u16,
    /// The general-purpose register, 31 for XZR.
    pub register: u8,
    /// `MRS`.
    pub is_read: bool,
}

impl RegisterAccess {
    /// The ISS of a trapped `MRS` or `MSR`.
    pub fn from_iss(iss: u64) -> Self {
        let field = |shift: u32, bits: u32| (iss >> shift & ((1 << bits) - 1)) as u8;
        Self {
            number: register_number(
                field(20, 2),
                field(14, 3),
                field(10, 4),
                field(1, 4),
                field(17, 3),
            ),
            register: field(5, 5),
            is_read: field(0, 1) == 1,
        }
    }
}

/// A number for the system register `S<op0>_<op1>_C<crn>_C<crm>_<op2>`.
pub const fn register_number(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> u16 {
    (op0 as u16) << 14 | (op1 as u16) << 11 | (crn as u16) << 7 | (crm as u16) << 3 | op2 as u16
}

/// Why stage 2 refused an access (`DFSC` / `IFSC`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultStatus {
    /// No valid entry (0b0001xx).
    Translation,
    /// The entry does not permit the access (0b0011xx).
    Permission,
    /// Anything else: address size, access flag, external abort, alignment, tag check.
    Other(u8),
}

/// A stage-2 abort's ISS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// The kind of fault.
    pub status: FaultStatus,
    /// `WnR`: the access was a write. For a fault on a walk, whether the walk was to write.
    pub is_write: bool,
    /// `S1PTW`: the access was the CPU's own walk of the guest's stage-1 tables.
    pub on_table_walk: bool,
    /// `CM`: the access was cache maintenance by address, which transfers no data.
    pub is_cache_maintenance: bool,
    /// `FnV`: `FAR_EL2` is not valid.
    pub far_invalid: bool,
    /// The register access, if the ISS describes one (`ISV`).
    pub transfer: Option<Transfer>,
}

/// A data access that stage 2 does not map or does not permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedAccess {
    /// `WnR`.
    pub is_write: bool,
    /// Whether nothing is mapped there; otherwise the entry does not permit the access.
    pub is_translation_fault: bool,
}

impl RefusedAccess {
    /// The load or store that stage 2 refused, if an exception with `syndrome` is of one: no fetch,
    /// no table walk and no cache maintenance.
    #[inline]
    pub fn of(syndrome: u64) -> Option<Self> {
        // EC, FnV, CM, S1PTW, and of DFSC what is the same in both kinds of fault at every level.
        const MASK: u64 = 0x3f << 26 | 1 << 10 | 1 << 8 | 1 << 7 | 0b11_0100;
        let is_one = syndrome & MASK == 0x24 << 26 | 0b00_0100;
        is_one.then_some(Self {
            is_write: syndrome >> 6 & 1 != 0,
            is_translation_fault: syndrome & 0b00_1000 == 0,
        })
    }
}

/// A load or store of one general-purpose register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// log2 of the number of bytes: 0 to 3 (`SAS`).
    pub width_log2: u8,
    /// The register's number, 31 for XZR (`SRT`).
    pub register: u8,
    /// Whether a load sign-extends (`SSE`).
    pub sign_extends: bool,
    /// Whether the register is 64 bits wide (`SF`).
    pub is_sixty_four: bool,
}

impl Transfer {
    /// The transfer that an ISS with `ISV` describes.
    #[inline]
    fn of(iss: u64) -> Self {
        Self {
            width_log2: (iss >> 22 & 3) as u8,
            register: (iss >> 16 & 31) as u8,
            sign_extends: iss >> 21 & 1 != 0,
            is_sixty_four: iss >> 15 & 1 != 0,
        }
    }

    /// What a load puts into the register when the device answers `value`. Source: the same manual,
    /// Extends a loaded value according to `SSE` and `SF`: to 64 bits, or to 32 bits with the upper
    /// half zero.
    pub fn loaded(&self, value: u64) -> u64 {
        let bits = 8u32 << (self.width_log2 & 3);
        let unused = 64 - bits;
        let zero_extended = value << unused >> unused;
        if !self.sign_extends {
            return zero_extended;
        }
        let extended = ((value << unused) as i64 >> unused) as u64;
        if self.is_sixty_four { extended } else { extended & 0xffff_ffff }
    }

    /// The bytes that a store writes if the register holds `value`.
    pub fn stored(&self, value: u64) -> u64 {
        let unused = 64 - (8u32 << (self.width_log2 & 3));
        value << unused >> unused
    }
}

impl Exception {
    /// Decodes the class of the trap and, for aborts, its details.
    pub fn class(&self) -> Class {
        match (self.syndrome >> 26 & 0x3f) as u8 {
            0x16 => Class::HypervisorCall,
            0x17 => Class::MonitorCall,
            0x18 => Class::SystemRegister(RegisterAccess::from_iss(self.syndrome)),
            0x3f if self.syndrome & 0x1ff_ffff == 0x20 => Class::AppleRegister,
            0x20 => Class::InstructionAbort(self.abort(false)),
            0x24 => Class::DataAbort(self.abort(true)),
            0x32 => Class::SoftwareStep,
            other => Class::Other(other),
        }
    }

    /// The page-aligned intermediate physical address in `HPFAR_EL2`. Not valid for every abort:
    /// see [`Exception::hpfar_is_valid`].
    pub fn hpfar_page(&self) -> u64 {
        (self.hpfar & 0x0fff_ffff_fff0) << 8
    }

    /// `HPFAR_EL2` is written for translation faults and for any fault on a stage-1 walk, but is
    /// UNKNOWN for a permission fault on the access itself.
    pub fn hpfar_is_valid(abort: &Abort) -> bool {
        abort.on_table_walk || abort.status == FaultStatus::Translation
    }

    /// The register access of a stage-2 translation fault that the ISS describes completely: it is
    /// neither a walk of stage 1 nor cache maintenance, and `FAR_EL2` is valid. [`Self::class`]
    /// gives the same; this is one comparison.
    #[inline]
    pub fn described_translation_fault(&self) -> Option<Transfer> {
        // EC, ISV, FnV, CM, S1PTW, and DFSC without the level.
        const MASK: u64 = 0x3f << 26 | 1 << 24 | 1 << 10 | 1 << 8 | 1 << 7 | 0b1111 << 2;
        const EXPECTED: u64 = 0x24 << 26 | 1 << 24 | 0b0001 << 2;
        (self.syndrome & MASK == EXPECTED).then(|| Transfer::of(self.syndrome))
    }

    /// Whether the access of a data abort was a write (`WnR`).
    pub fn is_write(&self) -> bool {
        self.syndrome >> 6 & 1 != 0
    }

    fn abort(&self, is_data: bool) -> Abort {
        let iss = self.syndrome;
        let status = (iss & 0x3f) as u8;
        let cause = match status >> 2 {
            0b0001 => FaultStatus::Translation,
            0b0011 => FaultStatus::Permission,
            _ => FaultStatus::Other(status),
        };
        let has_transfer = is_data && iss >> 24 & 1 != 0;
        Abort {
            status: cause,
            is_write: is_data && self.is_write(),
            on_table_walk: iss >> 7 & 1 != 0,
            is_cache_maintenance: is_data && iss >> 8 & 1 != 0,
            far_invalid: iss >> 10 & 1 != 0,
            transfer: has_transfer.then(|| Transfer::of(iss)),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_refused_access_is_a_data_abort_of_the_access_itself() {
        let every_abort = (0..1 << 11).flat_map(|iss| [0x20_u64, 0x24].map(|ec| ec << 26 | iss));
        for syndrome in every_abort {
            let exception = Exception { syndrome, far: 0, hpfar: 0 };
            let expected = match exception.class() {
                Class::DataAbort(abort)
                    if !abort.on_table_walk
                        && !abort.is_cache_maintenance
                        && !abort.far_invalid =>
                {
                    let is_write = abort.is_write;
                    match abort.status {
                        FaultStatus::Translation => Some((is_write, true)),
                        FaultStatus::Permission => Some((is_write, false)),
                        FaultStatus::Other(_) => None,
                    }
                }
                _ => None,
            };
            let found = RefusedAccess::of(syndrome);
            let found = found.map(|access| (access.is_write, access.is_translation_fault));
            assert_eq!(found, expected, "{syndrome:#x}");
        }
    }

    use super::*;

    fn of(syndrome: u64) -> Class {
        Exception { syndrome, far: 0, hpfar: 0 }.class()
    }

    #[test]
    fn a_word_load_from_a_device_is_fully_described() {
        // LDR W3, [X1]: EC 0x24, IL, ISV, SAS = word, SRT = 3, translation fault level 3.
        let Class::DataAbort(abort) = of(0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 3 << 16 | 7)
        else {
            panic!("a data abort")
        };
        assert_eq!(abort.status, FaultStatus::Translation);
        assert!(!abort.is_write && !abort.on_table_walk);
        let transfer = abort.transfer.expect("ISV");
        assert_eq!((transfer.width_log2, transfer.register), (2, 3));
    }

    #[test]
    fn an_access_without_a_valid_iss_is_never_guessed() {
        let Class::DataAbort(abort) = of(0x24 << 26 | 2 << 22 | 3 << 16 | 1 << 6 | 0xf) else {
            panic!("abort")
        };
        assert_eq!(abort.transfer, None);
        assert_eq!(abort.status, FaultStatus::Permission);
        assert!(abort.is_write);
    }

    #[test]
    fn a_comparison_finds_the_transfers_that_the_class_gives() {
        let mut described = 0;
        for class in 0..64_u64 {
            // ISV, SAS, SSE, SRT and SF as they come; FnV, CM, S1PTW and WnR in all combinations.
            for bits in 0..1 << 11 {
                let iss = (bits & 0x3f)
                    | (bits >> 6 & 3) << 6
                    | (bits >> 8 & 1) << 8
                    | (bits >> 9 & 1) << 10
                    | (bits >> 10 & 1) << 24
                    | 0x2e_8000;
                let exception =
                    Exception { syndrome: class << 26 | 1 << 25 | iss, far: 0, hpfar: 0 };
                let expected = match exception.class() {
                    Class::DataAbort(abort)
                        if abort.status == FaultStatus::Translation
                            && !abort.on_table_walk
                            && !abort.far_invalid
                            && !abort.is_cache_maintenance =>
                    {
                        abort.transfer
                    }
                    _ => None,
                };
                assert_eq!(exception.described_translation_fault(), expected, "{iss:#x}");
                described += usize::from(expected.is_some());
            }
        }
        // Four levels, loads and stores.
        assert_eq!(described, 8);
    }

    #[test]
    fn loads_extend_as_the_instruction_says() {
        let load = |width_log2, sign_extends, is_sixty_four| Transfer {
            width_log2,
            register: 0,
            sign_extends,
            is_sixty_four,
        };
        assert_eq!(load(0, true, true).loaded(0x1ff), u64::MAX);
        assert_eq!(load(1, true, false).loaded(0x8000), 0xffff_8000);
        assert_eq!(load(2, false, true).loaded(0xffff_ffff_8000_0000), 0x8000_0000);
        assert_eq!(load(3, true, true).loaded(u64::MAX - 1), u64::MAX - 1);
        assert_eq!(load(0, false, false).stored(0x1234), 0x34);
    }

    #[test]
    fn every_syndrome_has_a_class() {
        for class in 0..64u64 {
            for iss in [0, u64::from(u32::MAX >> 7), 0x155_5555, 0xaa_aaaa] {
                let _ = of(class << 26 | iss);
            }
        }
    }

    #[test]
    fn a_trapped_register_has_a_number_and_a_direction() {
        // MRS X7, S3_5_C15_C1_1, and MSR S3_0_C12_C8_1, XZR.
        let read = 3 << 20 | 1 << 17 | 5 << 14 | 15 << 10 | 7 << 5 | 1 << 1 | 1;
        let access =
            RegisterAccess { number: register_number(3, 5, 15, 1, 1), register: 7, is_read: true };
        assert_eq!(of(0x18 << 26 | 1 << 25 | read), Class::SystemRegister(access));
        let write = RegisterAccess::from_iss(3 << 20 | 1 << 17 | 12 << 10 | 31 << 5 | 8 << 1);
        assert_eq!((write.number, write.register), (register_number(3, 0, 12, 8, 1), 31));
        assert!(!write.is_read);
        assert_eq!(of(0x3f << 26 | 1 << 25 | 0x20), Class::AppleRegister);
        assert_eq!(of(0x3f << 26 | 1 << 25 | 0x21), Class::Other(0x3f));
    }

    #[test]
    fn hpfar_gives_the_page() {
        let exception = Exception { syndrome: 0, far: 0x123, hpfar: 0x9100 << 4 };
        assert_eq!(exception.hpfar_page(), 0x910_0000);
    }
}
