//! What stage 2 asks of a machine: table words, and one method for each kind of instruction that
//! matters to them.
//!
//! Nothing here decides an order: that is [`super::maintenance`], so a test that implements this
//! trait sees every barrier and every invalidation that the machine's own CPUs execute, in the
//! order in which they do.

use oche_types::addr::Gfn;

/// What a `DSB` waits for. Source: Arm ARM DDI 0487, "Data Synchronization Barrier".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// `ISHST`: stores, as all CPUs of the guest see them, and their table walks.
    Stores,
    /// `ISH`: the same with loads, and TLB and instruction cache maintenance, on all CPUs.
    Everything,
    /// `ST`: stores, for every observer, also an IOMMU and the devices behind it.
    StoresForAll,
    /// `NSH`: this CPU's own loads, stores and TLB maintenance.
    Here,
}

/// What a `TLBI` drops, of the guest whose VMID is in use. Source: Arm ARM DDI 0487, "TLB
/// maintenance instructions".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translations {
    /// `IPAS2E1IS`: on all CPUs, what is stage 2 alone, of one page at any level.
    Page(Gfn),
    /// `VMALLE1IS`: on all CPUs, what is stage 1 or combines both stages.
    FirstStage,
    /// `VMALLS12E1IS`: on all CPUs, everything.
    All,
    /// `VMALLS12E1`: everything, on this CPU alone.
    AllHere,
}

/// What a machine needs so that CPUs fetch instructions that were written as data. Source: Arm ARM
/// DDI 0487, `CTR_EL0`; B2.4.4, "Concurrent modification and execution of instructions".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionFetch {
    /// `CTR_EL0.IDC` is 0: data is cleaned to the point of unification.
    pub needs_clean: bool,
    /// `CTR_EL0.DIC` is 0: instruction caches are invalidated.
    pub needs_invalidation: bool,
}

/// Memory of the tables, barriers, TLBs and instruction caches, as one CPU at EL2 uses them.
///
/// `load`, `store` and `exchange` are single-copy atomic; other CPUs and table walkers read at any
/// time.
pub trait Hardware {
    /// Entry `index` of the table (of 512 entries, or 1024 for the root) at host-physical `table`.
    fn load(&self, table: u64, index: usize) -> u64;
    /// Stores the entry.
    fn store(&self, table: u64, index: usize, value: u64);
    /// Stores `new` if the entry still is `old`; returns whether it was.
    fn exchange(&self, table: u64, index: usize, old: u64, new: u64) -> bool;
    /// `DSB`.
    fn barrier(&self, barrier: Barrier);
    /// `TLBI`. Starts; a barrier waits for it.
    fn invalidate(&self, translations: Translations);
    /// `MSR VTTBR_EL2`: the tables and the VMID that this CPU's guest uses.
    fn select_tables(&self, vttbr: u64);
    /// What is to be done before written instructions are fetched.
    fn instruction_fetch(&self) -> InstructionFetch;
    /// Bytes of the smallest data cache line, a power of two.
    fn data_line_bytes(&self) -> u64;
    /// `DC CVAU`: starts to clean the data cache line at host-physical `address` to the point of
    /// unification.
    fn clean_line(&self, address: u64);
    /// `IC IALLUIS`: starts to drop the instruction caches of all CPUs.
    fn drop_instructions(&self);
}
