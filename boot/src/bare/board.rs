//! A board's policy for boot.

use oche_types::range::{PhysRange, RangeList};

/// A board's policy for boot. The board's `main` walks the steps: [`prepare`], [`stage2`], its own
/// devices, [`launch`].
///
/// [`prepare`]: crate::bare::prepare::prepare
/// [`stage2`]: crate::bare::prepare::Prepared::stage2
/// [`launch`]: crate::bare::prepare::Prepared::launch
///
/// # Safety
///
/// Boot maps all of the machine for the guest except Oche's part of the RAM and the holes that the
/// board's `main` passes. On a machine whose FDT contains [`Self::COMPATIBLE`], these holes contain
/// the registers of every IOMMU that Oche programs, and [`Self::around_ram`] contains all memory
/// beside RAM.
pub unsafe trait Board {
    /// The board's name in the log and in the self-test.
    const NAME: &'static str;
    /// A `compatible` string that the FDT must contain.
    const COMPATIBLE: &'static str;
    /// The message with which boot ends if the FDT does not contain it.
    const INCOMPATIBLE: &'static str;
    /// Whether the guest's `/memory` includes Oche's image, as a reservation: a guest that uses
    /// only the first range (U-Boot) would otherwise lose the memory after the image.
    const RESERVES_IMAGE: bool;
    /// Whether firmware enters Oche as it would enter a kernel. Then a packed U-Boot can start in
    /// Oche's place if Oche cannot go on: see [`fail_open`](super::fail_open).
    const FAILS_OPEN: bool;

    /// Bytes of heap that the engine and the board's drivers need, for `ram_bytes` of RAM and a
    /// pool of `pool_bytes`.
    fn engine_bytes(ram_bytes: u64, pool_bytes: u64) -> u64;

    /// Memory around RAM whose boundaries only firmware knows. Stage 2 maps it in pages.
    fn around_ram(_ram: &RangeList) -> PhysRange {
        PhysRange::default()
    }

    /// Called with the FDT as soon as its bytes can be read, before it is checked. A board opens
    /// its screen here, so that the screen shows why an FDT is refused.
    fn on_fdt(_blob: &[u8]) {}
}
