//! What a simulated machine is made of, and what is wrong with it.

use oche_types::addr::{Gfn, HostGranule};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Where the simulated machine's memory lies.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Runs of guest RAM: first page and number of pages.
    pub ram: Vec<(Gfn, u32)>,
    /// The engine's own frames.
    pub pool: Range<HostGranule>,
}

/// In whose format the 16K tables' entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Board {
    /// The t8103 DART. Source: Linux `io-pgtable-dart.c`, `APPLE_DART1_*`.
    Dart,
    /// An SMMUv3 at stage 1. Source: Arm ARM DDI 0487, VMSAv8-64 descriptor formats, 16 KiB
    /// granule.
    Smmu,
}

/// How the machine behaves where the traits leave it a choice.
#[derive(Clone, Debug)]
pub struct Options {
    /// The entries' format.
    pub board: Board,
    /// Whether the IOMMU has windows; an SMMU never has.
    pub has_windows: bool,
    /// One `prepare` in this many finds no table memory; 0 for never.
    pub scarce_tables: u64,
    /// One invalidation in this many does not finish in time; 0 for never.
    pub timeouts: u64,
    /// Whether the home of a page that is away loses its bytes.
    pub poisons_homes: bool,
    /// What is wrong with the machine, to see the tests fail.
    pub injection: Option<FaultInjection>,
}

/// A way to be wrong. Each stands for a mistake in the engine, made where the engine meets the
/// machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultInjection {
    /// Invalidations do nothing.
    SkipInvalidate,
    /// Invalidations drop translations and do not wait for writes under way.
    SkipDrain,
    /// A page that moves into a frame is made one slot further on.
    OffByOneSlot,
    /// Leaf entries name the next frame.
    OffByOneHostGranule,
    /// Leaf entries allow everything.
    AllowAll,
    /// Leaf entries allow what they should forbid when one direction is asked for.
    SwapPermission,
    /// Leaf entries let devices reach all of a frame, whatever the window.
    WideWindow,
    /// Leaf entries let devices reach the first slot of the window alone.
    NarrowWindow,
    /// Copies are never merged.
    SkipMerge,
    /// A page's bytes are not copied when it goes home.
    SkipCopyHome,
    /// CPUs keep translations of broken pages.
    SkipCpuFlush,
    /// Empty slots are not filled with a pattern.
    SkipFill,
    /// A blocked stream goes on.
    SkipBlock,
    /// Stores that a watched page should trap go through unseen.
    SkipWriteProtect,
    /// Loads of pages to which all accesses should trap go through.
    WeakTrap,
    /// What a CPU stored into a page that was opened for it stays in one copy.
    SkipSettle,
    /// Pages are copied while their break is not complete.
    CopyBeforeBreak,
    /// Stores are not ordered for devices.
    SkipPublish,
    /// A driver does not complete table stores before it commands the hardware.
    SkipStoreBarrier,
    /// A driver does not order loads behind what it reads of the hardware.
    SkipLoadBarrier,
}
