//! Faults that were read from the event queue before the faults of their DART were requested.

use alloc::vec::Vec;

use oche_engine::host::DeviceFault;
use oche_types::dart::stream::DartId;

use crate::iommu_map::MAX_DARTS;

/// Most faults that are kept for one DART. A DART itself latches one.
const MAX_KEPT: usize = 64;

/// Kept faults, in the order of their events.
pub(super) struct KeptFaults(Vec<(DartId, DeviceFault)>);

impl Default for KeptFaults {
    fn default() -> Self {
        Self(Vec::with_capacity(MAX_KEPT * usize::from(MAX_DARTS)))
    }
}

impl KeptFaults {
    /// Keeps `fault`. Returns false, and drops it, if there are too many for `dart` already.
    #[must_use]
    pub(super) fn keep(&mut self, dart: DartId, fault: DeviceFault) -> bool {
        let count = self.0.iter().filter(|(of, _)| *of == dart).count();
        let has_room = count < MAX_KEPT;
        if has_room {
            self.0.push((dart, fault));
        }
        has_room
    }

    /// Removes the oldest fault of `dart` and returns it.
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
