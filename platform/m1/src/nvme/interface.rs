//! What the controller and its queues share: the machine below, the answers, and the bounds.

use core::fmt;

use oche_types::addr::Gfn;

/// Commands of one queue. Source: Linux, `APPLE_ANS_MAX_QUEUE_DEPTH`.
pub(super) const MAX_COMMANDS: usize = 64;
/// Pages that one command names: 4 MiB, an offset, and the lists. Source: Linux `nvme.h`,
/// `NVME_MAX_KB_SZ` of that driver.
pub(super) const MAX_PAGES: usize = 1024 + 8;
/// Pages of one half of a queue: 512 submission or 2048 completion entries.
pub(super) const MAX_QUEUE_PAGES: usize = 8;
pub(super) const PAGE: u64 = 4096;

/// The machine below the controller.
///
/// # Safety
///
/// No DART translates what the controller accesses. A page of the guest's RAM that [`Self::pin`]
/// counts stays at home until it is unpinned: the controller would otherwise read and write what
/// another page has there.
#[expect(unsafe_code, reason = "what the controller reaches rests on the pins")]
pub unsafe trait NvmeHost {
    /// The aligned 64-bit word at guest-physical `address`; `None`: not the guest's memory.
    fn word(&mut self, address: u64) -> Option<u64>;
    /// Brings each of `pages`, which differ, home and pins it there until it is unpinned as often.
    /// Returns how many of the first are pinned: at least one, and not all where that is more than
    /// one trap's work.
    fn pin(&mut self, pages: &[Gfn]) -> usize;
    /// Unpins `pages`, with which the controller has finished. What it wrote there is read. Returns
    /// how many of the first were unpinned, as [`Self::pin`].
    fn unpin(&mut self, pages: &[Gfn]) -> usize;
    /// No load that follows is satisfied before the loads that came before it: what the controller
    /// wrote before a completion whose phase was seen is seen too.
    fn order_loads(&mut self);
}

/// The verdict on a store that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum StoreVerdict {
    /// It goes to the controller.
    Pass,
    /// It is more than one trap's work: the guest repeats the store.
    Again,
}

/// Why a doorbell does not reach the controller. A driver finds that its command times out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such queue: it was not created, or it was refused.
    NoQueue,
    /// The entry's number lies beyond the queue's end.
    NoEntry(u32),
    /// A queue at this address is not whole pages of the guest's memory.
    NotMemory(u64),
    /// A queue of so many entries has more than eight pages.
    TooLong(u64),
    /// A queue whose pages do not follow each other.
    NotContiguous,
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoQueue => out.write_str("its queue does not exist"),
            Self::NoEntry(number) => write!(out, "its queue has no entry {number}"),
            Self::NotMemory(at) => {
                write!(out, "a queue at {at:#x} is not whole pages of the guest's memory")
            }
            Self::TooLong(entries) => write!(out, "a queue of {entries} entries is too long"),
            Self::NotContiguous => out.write_str("a queue's pages do not follow each other"),
        }
    }
}

/// The words of a submission entry, as they were when its doorbell was rung.
pub(super) type Entry = [u64; 8];

/// Takes an address that a command names, and returns whether there is room for more.
pub(super) type Name<'a, M> = dyn FnMut(&mut M, u64) -> bool + 'a;
