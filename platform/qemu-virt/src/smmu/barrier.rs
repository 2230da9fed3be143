//! The one barrier that the driver needs.

/// Completes every memory access before it, loads and stores, before any access after it, registers
/// included: `DSB SY`. On a developer's machine, where a test plays the SMMU, a full fence.
///
/// # Order
///
/// Before an index or base register is written: the SMMU then sees every table and queue store made
/// before. After an index was read: what the SMMU and the devices wrote before it is seen.
pub(super) fn complete() {
    #[cfg(target_arch = "aarch64")]
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::SY);
    #[cfg(not(target_arch = "aarch64"))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}
