//! The operations that stage 2 needs from hardware: accesses to table words, and one method for
//! each kind of barrier and maintenance instruction.
//!
//! [`super::maintenance`] decides the order. A test that implements this trait therefore observes
//! every barrier and every invalidation, in the order in which a CPU executes them.

use oche_types::addr::Gfn;

/// What a `DSB` waits for. Source: Arm ARM DDI 0487, "Data Synchronization Barrier".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// `ISHST`: stores, for all CPUs of the guest and their table walks.
    Stores,
    /// `ISH`: loads and stores, and TLB and instruction cache maintenance, for all CPUs.
    Everything,
    /// `ST`: stores, for every observer, including IOMMUs and devices.
    StoresForAll,
    /// `NSH`: this CPU's own loads, stores and TLB maintenance.
    Here,
}

/// What a `TLBI` drops, of the guest whose VMID is in use. Source: Arm ARM DDI 0487, "TLB
/// maintenance instructions".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translations {
    /// `IPAS2E1IS`: stage-2 entries of one page, at any level, on all CPUs.
    Page(Gfn),
    /// `VMALLE1IS`: stage-1 entries and combined entries, on all CPUs.
    FirstStage,
    /// `VMALLS12E1IS`: all entries of both stages, on all CPUs.
    All,
    /// `VMALLS12E1`: all entries of both stages, on this CPU only.
    AllHere,
}

/// The memory of the tables, barriers, TLBs and instruction caches, as used by one CPU at EL2.
///
/// `load`, `store` and `exchange` are single-copy atomic; other CPUs and table walkers read at any
/// time.
///
/// # Safety
///
/// Each method is what its text says, on the CPU that calls it. Stage 2 decides by them that no CPU
/// reaches a page any more: an invalidation or a barrier that does less leaves a CPU memory that is
/// not the guest's.
#[expect(unsafe_code, reason = "what CPUs reach rests on these operations")]
pub unsafe trait Hardware {
    /// Loads entry `index` of the table (of 512 entries, or 1024 for the root) at host-physical
    /// `table`.
    fn load(&self, table: u64, index: usize) -> u64;
    /// Stores the entry.
    fn store(&self, table: u64, index: usize, value: u64);
    /// Stores `new` if the entry still is `old`; returns whether it was.
    fn exchange(&self, table: u64, index: usize, old: u64, new: u64) -> bool;
    /// `DSB`.
    fn barrier(&self, barrier: Barrier);
    /// `TLBI`, which a barrier must complete.
    fn invalidate(&self, translations: Translations);
    /// `MSR VTTBR_EL2`: sets the tables and the VMID that this CPU uses for the guest.
    fn select_tables(&self, vttbr: u64);
    /// Bytes of the smallest data cache line, a power of two.
    fn data_line_bytes(&self) -> u64;
    /// `DC CVAU`: cleans the data cache line at host-physical `address` to the point of
    /// unification. A barrier must complete it.
    fn clean_line(&self, address: u64);
    /// `IC IALLUIS`: invalidates the instruction caches of all CPUs. A barrier must complete it.
    fn drop_instructions(&self);
}
