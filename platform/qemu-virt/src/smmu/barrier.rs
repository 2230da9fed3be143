//! The one barrier that the driver needs.

/// Completes every memory access before it, loads and stores, before any access after it, registers
/// included: `DSB SY`. Where a test plays the SMMU it is noted among the stores.
///
/// # Order
///
/// Before an index or base register is written: the SMMU then sees every table and queue store made
/// before. After an index was read: what the SMMU and the devices wrote before it is seen.
pub(super) fn complete() {
    #[cfg(target_arch = "aarch64")]
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::SY);
    #[cfg(test)]
    log::note(log::Step::Barrier);
}

/// What this thread's driver did to the memory that it shares with the SMMU, in order.
#[cfg(test)]
pub(super) mod log {
    use core::cell::RefCell;
    use std::vec::Vec;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(in crate::smmu) enum Step {
        Store { address: u64, value: u64 },
        Barrier,
    }

    std::thread_local! {
        static STEPS: RefCell<Vec<Step>> = const { RefCell::new(Vec::new()) };
    }

    pub(in crate::smmu) fn note(step: Step) {
        STEPS.with_borrow_mut(|steps| steps.push(step));
    }

    /// The steps since the last call.
    pub(in crate::smmu) fn take() -> Vec<Step> {
        STEPS.take()
    }
}
