//! The configuration of a simulated machine, and the faults that are injected.

use oche_types::addr::{Gfn, HostGranule};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// The memory of the simulated machine.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Runs of guest RAM: first page and number of pages.
    pub ram: Vec<(Gfn, u32)>,
    /// The engine's own frames.
    pub pool: Range<HostGranule>,
}

/// The format of the 16 KiB tables' entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Board {
    /// The t8103 DART. Source: Linux `io-pgtable-dart.c`, `APPLE_DART1_*`.
    Dart,
    /// An SMMUv3 at stage 1. Source: Arm ARM DDI 0487, VMSAv8-64 descriptor formats, 16 KiB
    /// granule.
    Smmu,
}

/// How the machine behaves where the traits leave a choice.
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
    /// The injected fault, with which the tests must fail.
    pub injection: Option<FaultInjection>,
}

/// An injected fault. Each stands for an error in the engine, and is made in the implementation of
/// the engine's traits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultInjection {
    /// Invalidations do nothing.
    SkipInvalidate,
    /// Invalidations drop translations and do not wait for writes under way.
    SkipDrain,
    /// A page that moves into a frame is remapped one slot too far.
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
    /// A blocked stream continues to translate.
    SkipBlock,
    /// Stores that should trap on a watched page do not trap.
    SkipWriteProtect,
    /// Loads of pages to which all accesses should trap do not trap.
    WeakTrap,
    /// What a CPU stored into a page that was opened for it stays in one copy.
    SkipSettle,
    /// Pages are copied while their break is not complete.
    CopyBeforeBreak,
    /// Stores are not ordered for devices.
    SkipPublish,
    /// A driver does not complete table stores before it commands the hardware.
    SkipStoreBarrier,
    /// A driver does not order loads after its reads of registers.
    SkipLoadBarrier,
}
