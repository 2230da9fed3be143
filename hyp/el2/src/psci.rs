//! PSCI and SMCCC: which of the guest's firmware calls are relayed, and which are handled here.
//!
//! Source: Arm DEN 0022 (PSCI) and DEN 0028 (SMC Calling Convention).

/// Function ids of the calls that are supported.
pub mod function {
    /// PSCI_VERSION.
    pub const VERSION: u32 = 0x8400_0000;
    /// CPU_OFF.
    pub const CPU_OFF: u32 = 0x8400_0002;
    /// CPU_ON, 32-bit.
    pub const CPU_ON_32: u32 = 0x8400_0003;
    /// CPU_ON, 64-bit.
    pub const CPU_ON_64: u32 = 0xc400_0003;
    /// AFFINITY_INFO, 32-bit.
    pub const AFFINITY_INFO_32: u32 = 0x8400_0004;
    /// AFFINITY_INFO, 64-bit.
    pub const AFFINITY_INFO_64: u32 = 0xc400_0004;
    /// MIGRATE_INFO_TYPE.
    pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
    /// SYSTEM_OFF.
    pub const SYSTEM_OFF: u32 = 0x8400_0008;
    /// SYSTEM_RESET.
    pub const SYSTEM_RESET: u32 = 0x8400_0009;
    /// PSCI_FEATURES.
    pub const FEATURES: u32 = 0x8400_000a;
    /// SMCCC_VERSION.
    pub const SMCCC_VERSION: u32 = 0x8000_0000;
}

/// Return values of PSCI.
pub mod status {
    /// Success.
    pub const SUCCESS: i64 = 0;
    /// No such function. Also SMCCC's result for an unknown function.
    pub const NOT_SUPPORTED: i64 = -1;
    /// No such CPU, or an invalid argument.
    pub const INVALID_PARAMETERS: i64 = -2;
    /// Firmware forbids it.
    pub const DENIED: i64 = -3;
    /// The CPU is already on.
    pub const ALREADY_ON: i64 = -4;
    /// The CPU is on its way.
    pub const ON_PENDING: i64 = -5;
    /// AFFINITY_INFO: the CPU is being started.
    pub const AFFINITY_ON_PENDING: i64 = 2;
    /// Internal failure.
    pub const INTERNAL_FAILURE: i64 = -6;
    /// The entry point is not in the guest's memory.
    pub const INVALID_ADDRESS: i64 = -9;
}

/// What to do for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PsciRequest {
    /// Start the CPU whose MPIDR affinity is `affinity` at `entry` with `context` in x0.
    CpuOn {
        /// MPIDR affinity fields.
        affinity: u64,
        /// Guest-physical address of its first instruction.
        entry: u64,
        /// The value of its x0.
        context: u64,
    },
    /// Stop the calling CPU.
    CpuOff,
    /// Return whether Oche is starting the CPU; otherwise relay the call.
    AffinityInfo {
        /// MPIDR affinity fields.
        affinity: u64,
        /// The call.
        call: [u64; 4],
    },
    /// Relay the call with these four registers to firmware and return its x0.
    Forward([u64; 4]),
    /// Turn the machine off or reset it: relay the call, which does not return.
    Stop([u64; 4]),
    /// It is not forwarded to firmware.
    NotSupported,
}

/// Decodes a call from x0 to x3. A 32-bit function (bit 30 of the id clear) has 32-bit arguments.
pub fn decode(registers: [u64; 4]) -> PsciRequest {
    // DEN 0028: only W0 holds the id.
    let id = registers[0] as u32;
    let is_64 = id & 1 << 30 != 0;
    let argument = |index: usize| {
        let value = registers.get(index).copied().unwrap_or(0);
        if is_64 { value } else { value & 0xffff_ffff }
    };
    let call = [u64::from(id), argument(1), argument(2), argument(3)];
    match id {
        function::CPU_ON_32 | function::CPU_ON_64 => {
            PsciRequest::CpuOn { affinity: argument(1), entry: argument(2), context: argument(3) }
        }
        function::CPU_OFF => PsciRequest::CpuOff,
        function::AFFINITY_INFO_32 | function::AFFINITY_INFO_64 => {
            PsciRequest::AffinityInfo { affinity: argument(1), call }
        }
        function::VERSION | function::MIGRATE_INFO_TYPE | function::SMCCC_VERSION => {
            PsciRequest::Forward(call)
        }
        // Firmware may support calls that are not relayed, so it is asked only about those that
        // are.
        function::FEATURES if is_offered(argument(1) as u32) => PsciRequest::Forward(call),
        function::SYSTEM_OFF | function::SYSTEM_RESET => PsciRequest::Stop(call),
        _ => PsciRequest::NotSupported,
    }
}

fn is_offered(id: u32) -> bool {
    matches!(
        id,
        function::VERSION
            | function::CPU_OFF
            | function::CPU_ON_32
            | function::CPU_ON_64
            | function::AFFINITY_INFO_32
            | function::AFFINITY_INFO_64
            | function::MIGRATE_INFO_TYPE
            | function::SYSTEM_OFF
            | function::SYSTEM_RESET
            | function::FEATURES
            | function::SMCCC_VERSION
    )
}

/// The affinity fields of an `MPIDR_EL1`: bits 39:32 and 23:0.
pub fn affinity(mpidr: u64) -> u64 {
    mpidr & 0xff_00ff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_32_bit_call_has_32_bit_arguments() {
        let wild = 0xdead_beef_0000_0001;
        let call = decode([u64::from(function::CPU_ON_32) | 7 << 40, wild, wild, wild]);
        assert_eq!(call, PsciRequest::CpuOn { affinity: 1, entry: 1, context: 1 });
        let call = decode([u64::from(function::CPU_ON_64), wild, wild, wild]);
        assert_eq!(call, PsciRequest::CpuOn { affinity: wild, entry: wild, context: wild });
    }

    #[test]
    fn what_is_not_listed_never_reaches_firmware() {
        // CPU_SUSPEND, MIGRATE, SYSTEM_RESET2, TRNG, a vendor's call, FEATURES of CPU_SUSPEND.
        for id in
            [0xc400_0001u64, 0xc400_0005, 0xc400_0012, 0x8400_0050, 0xc200_0000, 0, 0xffff_ffff]
        {
            assert_eq!(decode([id, 0, 0, 0]), PsciRequest::NotSupported, "{id:#x}");
        }
        assert_eq!(
            decode([u64::from(function::FEATURES), 0xc400_0001, 0, 0]),
            PsciRequest::NotSupported
        );
    }
}
