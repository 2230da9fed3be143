//! Polling of the SMMU, with a bound.

/// Reads of a register before the SMMU counts as not answering: about a second of an emulated
/// SMMU's time, and a tenth of one of a real one's.
pub(super) const BOUND: u32 = 1_000_000;

/// Waits between two polls. The bound counts polls, not time: where a test plays the SMMU, its
/// thread gets the CPU.
pub(super) fn pause() {
    #[cfg(not(test))]
    core::hint::spin_loop();
    #[cfg(test)]
    std::thread::yield_now();
}
