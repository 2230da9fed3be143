//! The one barrier that the driver needs.

/// Completes every earlier memory access before any later one, including those to registers: `DSB
/// SY`. In tests with a modelled SMMU it is recorded among the stores.
///
/// # Order
///
/// Before a write of an index or base register: the SMMU then sees every earlier store to tables
/// and queues. After a read of an index: Oche then sees what the SMMU and the devices wrote before.
pub(super) fn complete() {
    #[cfg(target_arch = "aarch64")]
    aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::SY);
    #[cfg(test)]
    log::note(log::Step::Barrier);
}

/// The driver's stores and barriers on the memory that it shares with the SMMU, in order, for each
/// thread.
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
