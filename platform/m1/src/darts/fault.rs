//! The fault that a DART has latched.

use oche_engine::host::DeviceFault;
use oche_types::dart::stream::{DartId, StreamId};

use super::hardware::{BusError, Hardware};
use super::registers::{ERROR, ERROR_ADDRESS_HIGH, ERROR_ADDRESS_LOW, fault_address};

/// Takes the latched fault of `dart`, if there is one, and clears it.
pub(super) fn take_fault(
    hardware: &mut impl Hardware,
    dart: DartId,
) -> Result<Option<DeviceFault>, BusError> {
    let error = ERROR.read(hardware, dart)?;
    if !error.is_set(ERROR::FLAG) {
        return Ok(None);
    }
    let low = ERROR_ADDRESS_LOW.read(hardware, dart)?.get();
    let high = ERROR_ADDRESS_HIGH.read(hardware, dart)?.get();
    ERROR.write_back(hardware, dart, error)?;
    let stream = StreamId::new(error.read(ERROR::STREAM) as usize);
    Ok(stream.map(|stream| DeviceFault {
        stream,
        iova: fault_address(high, low),
        // Source: m1n1 `hw/dart8020.py`.
        is_write: error.is_set(ERROR::WRITE_PROTECTED) || error.is_set(ERROR::WRITE),
    }))
}
