//! A device's access, and what a read must see.

use oche_sim::access::Data;
use oche_types::addr::{Gfn, PAGE_BYTES};
use std::fmt::{Display, Formatter};

/// A device's access, as it goes through the checks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) dart: usize,
    pub(super) stream: usize,
    pub(super) iova: u64,
    pub(super) length: usize,
    /// `None` for a read.
    pub(super) data: Option<Data>,
    /// It ran in the middle of the engine's work.
    pub(super) is_overlapped: bool,
}

impl Transfer {
    pub(super) fn offset(&self) -> usize {
        self.iova as usize % PAGE_BYTES
    }

    pub(super) fn is_write(&self) -> bool {
        self.data.is_some()
    }

    pub(super) fn iova_page(&self) -> u32 {
        (self.iova >> 12) as u32
    }
}

impl Display for Transfer {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { dart, stream, iova, .. } = self;
        let what = if self.is_write() { "a write" } else { "a read" };
        write!(f, "DART {dart} stream {stream}: {what} at IOVA {iova:#x}")
    }
}

/// A device's read under way, and what it must see.
pub(super) struct ExpectedRead {
    pub(super) transfer: Transfer,
    /// The page that it reaches and its state at that moment.
    pub(super) page: (Gfn, PageUse),
    /// What each byte may be; none where anything may be.
    pub(super) allowed: Vec<Vec<u8>>,
}

impl ExpectedRead {
    /// Compares `seen` with what is allowed.
    pub(super) fn check(&self, seen: &Data) -> Result<(), String> {
        let is_wrong =
            |(found, allowed): (&u8, &Vec<u8>)| !allowed.is_empty() && !allowed.contains(found);
        match seen.bytes().iter().zip(&self.allowed).position(is_wrong) {
            None => Ok(()),
            Some(index) => Err(format!(
                "{} ({:?}, {}) sees {:02x?}, its byte {index} should be {:02x?}",
                self.transfer,
                self.page.0,
                self.page.1,
                seen.bytes(),
                self.allowed[index]
            )),
        }
    }
}

/// How a page is used at some moment, to be put into words when something differs.
pub(super) struct PageUse {
    pub(super) mappings: u32,
    pub(super) is_unsettled: bool,
    pub(super) is_table: bool,
}

impl Display for PageUse {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "mapped {} times", self.mappings)?;
        f.write_str(if self.is_unsettled { ", changing" } else { "" })?;
        f.write_str(if self.is_table { ", a table" } else { "" })
    }
}
