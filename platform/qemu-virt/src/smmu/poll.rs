//! Polling of the SMMU, with a bound.

/// Number of reads of a register after which the SMMU counts as not responding: about a second with
/// an emulated SMMU, and a tenth of a second with a real one.
pub(super) const BOUND: u32 = 1_000_000;

/// Waits between two polls. The limit counts polls, not time, so in tests the thread that models
/// the SMMU must get the CPU.
pub(super) fn pause() {
    #[cfg(not(test))]
    core::hint::spin_loop();
    #[cfg(test)]
    std::thread::yield_now();
}
