//! Faults that a DART has latched.

use oche_engine::host::{DeviceFault, Iommu};
use oche_types::dart::registers::{ERROR, ERROR_ADDRESS_HIGH, ERROR_ADDRESS_LOW};
use std::vec;

use super::{dart, stream, taken};

#[test]
fn a_fault_is_reported_once_and_cleared() {
    let (bench, mut darts) = taken(2);
    let latch =
        vec![(ERROR, 0x8500_0404), (ERROR_ADDRESS_LOW, 0x1234_5678), (ERROR_ADDRESS_HIGH, 0)];
    bench.with(1, |model| model.file.extend(latch));
    assert_eq!(darts.next_fault(dart(0)), None, "it is another's");
    let fault = DeviceFault { stream: stream(5), iova: 0x1234_5678, is_write: true };
    assert_eq!(darts.next_fault(dart(1)), Some(fault));
    assert_eq!(darts.next_fault(dart(1)), None);
    assert_eq!(bench.file(1, ERROR), 0);
}
