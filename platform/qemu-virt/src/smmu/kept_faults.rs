//! Faults that were taken out of the event queue before the guest asked for those of their DART.

use alloc::vec::Vec;

use oche_engine::host::DeviceFault;
use oche_types::dart::stream::DartId;

use crate::iommu_map::MAX_DARTS;

/// Faults of one DART that are kept: a DART itself latches one.
const MAX_KEPT: usize = 64;

/// Faults in the order of their events.
pub(super) struct KeptFaults(Vec<(DartId, DeviceFault)>);

impl Default for KeptFaults {
    fn default() -> Self {
        Self(Vec::with_capacity(MAX_KEPT * usize::from(MAX_DARTS)))
    }
}

impl KeptFaults {
    /// Keeps `fault`. `false`: as many are kept for `dart` already, and it is dropped.
    #[must_use]
    pub(super) fn keep(&mut self, dart: DartId, fault: DeviceFault) -> bool {
        let count = self.0.iter().filter(|(of, _)| *of == dart).count();
        let has_room = count < MAX_KEPT;
        if has_room {
            self.0.push((dart, fault));
        }
        has_room
    }

    /// The oldest fault of `dart`, which is not kept any longer.
    pub(super) fn take(&mut self, dart: DartId) -> Option<DeviceFault> {
        let first = self.0.iter().position(|(of, _)| *of == dart)?;
        Some(self.0.remove(first).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oche_types::dart::stream::StreamId;

    #[test]
    fn faults_are_kept_in_order_and_one_dart_leaves_room_for_the_others() {
        let [one, other] = [0, 1].map(|index| DartId::new(index).expect("a DART"));
        let stream = StreamId::new(0).expect("a stream");
        let fault = |iova| DeviceFault { stream, iova, is_write: false };
        let mut kept = KeptFaults::default();
        for iova in 0..MAX_KEPT as u64 {
            assert!(kept.keep(one, fault(iova)));
        }
        assert!(!kept.keep(one, fault(1000)), "one more than are kept");
        assert!(kept.keep(other, fault(77)));
        assert_eq!(kept.take(other), Some(fault(77)));
        assert_eq!(kept.take(other), None);
        for iova in 0..MAX_KEPT as u64 {
            assert_eq!(kept.take(one), Some(fault(iova)));
        }
        assert_eq!(kept.take(one), None);
    }
}
