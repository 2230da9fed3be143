//! The initial mapping of stage 2: the guest's RAM and everything that is not RAM, at home.

use core::fmt;

use oche_el2::stage2::{Hardware, Stage2};
use oche_types::range::{ListFull, PAGE, PhysRange, RangeList};

#[cfg(test)]
mod tests;

/// The memory of the machine.
#[derive(Clone, Copy, Debug)]
pub struct GuestMap<'a> {
    /// All RAM, including Oche's.
    pub ram: &'a RangeList,
    /// The guest's RAM.
    pub guest: &'a RangeList,
    /// Memory of Oche in which the guest writes the entry points of its CPUs.
    pub release: PhysRange,
    /// Memory adjacent to RAM, with boundaries that only firmware knows. A block across one is an
    /// error.
    pub around_ram: PhysRange,
    /// Memory that must be mapped in pages: see [`crate::blocks`].
    pub by_page: PhysRange,
    /// Registers that trap, or that the guest must not access.
    pub holes: &'a [PhysRange],
    /// Number of bits of guest-physical addresses.
    pub ipa_bits: u32,
}

/// Why the memory cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// There are too many ranges of RAM and holes.
    TooManyRanges,
    /// No memory is left for tables.
    OutOfTables,
    /// RAM is beyond what stage 2 translates.
    BeyondReach {
        /// Its end.
        end: u64,
    },
}

/// The reason, for one line on the console.
impl fmt::Display for MapError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyRanges => out.write_str("memory and registers are in too many pieces"),
            Self::OutOfTables => out.write_str("no memory is left for tables"),
            Self::BeyondReach { end } => {
                write!(out, "RAM ends at {end:#x}, beyond what stage 2 reaches")
            }
        }
    }
}

impl From<ListFull> for MapError {
    fn from(_: ListFull) -> Self {
        Self::TooManyRanges
    }
}

impl GuestMap<'_> {
    /// Maps all of it in `stage2`, which is empty.
    ///
    /// # Errors
    ///
    /// A [`MapError`] with part of it mapped.
    pub fn map<H: Hardware>(&self, stage2: &mut Stage2<H>) -> Result<(), MapError> {
        let limit = 1u64 << self.ipa_bits;
        if let Some(range) = self.ram.as_slice().iter().find(|range| range.end > limit) {
            return Err(MapError::BeyondReach { end: range.end });
        }
        let out = |_| MapError::OutOfTables;
        stage2.require_pages(self.by_page);
        for range in self.guest.as_slice().iter().chain([&self.release]) {
            stage2.map_ram(*range).map_err(out)?;
        }
        let (mut devices, mut beside_ram) = (RangeList::new(), RangeList::new());
        devices.push(PhysRange { start: 0, end: limit })?;
        devices.subtract(self.around_ram)?;
        beside_ram.push(self.around_ram)?;
        for range in self.ram.as_slice().iter().chain(self.holes) {
            devices.subtract(range.grown_to(PAGE))?;
            beside_ram.subtract(range.grown_to(PAGE))?;
        }
        for range in devices.as_slice() {
            stage2.map_devices(*range).map_err(out)?;
        }
        for range in beside_ram.as_slice() {
            stage2.map_devices_by_page(*range).map_err(out)?;
        }
        Ok(())
    }
}
