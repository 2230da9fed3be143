//! The condition in which a DART is found.

use oche_types::dart::registers::TTBRS;
use oche_types::dart::stream::{DartId, StreamSet};

use super::hardware::{BusError, Hardware};
use super::registers::{CONFIG, TCR, TTBR, tcr, ttbr};
use crate::ownership::Condition;

/// Reads the registers that matter for the ownership of `dart`. Changes nothing.
pub(super) fn read_condition(
    hardware: &impl Hardware,
    dart: DartId,
) -> Result<Condition, BusError> {
    let mut condition = Condition {
        is_locked: CONFIG.read(hardware, dart)?.is_set(CONFIG::LOCK),
        live: StreamSet::default(),
        bypass: StreamSet::default(),
    };
    for stream in StreamSet(u16::MAX).iter() {
        let control = tcr(stream).read(hardware, dart)?;
        if control.is_set(TCR::BYPASS) {
            condition.bypass.insert(stream);
        }
        let mut has_table = false;
        for index in 0..TTBRS {
            has_table |= ttbr(stream, index).read(hardware, dart)?.is_set(TTBR::VALID);
        }
        if control.is_set(TCR::TRANSLATE) && has_table {
            condition.live.insert(stream);
        }
    }
    Ok(condition)
}
