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

    pub(super) fn iova_page(&self) -> u32 {
        (self.iova >> 12) as u32
    }
}

impl Display for Transfer {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { dart, stream, iova, .. } = self;
        let what = if self.data.is_some() { "a write" } else { "a read" };
        write!(f, "DART {dart} stream {stream}: {what} at IOVA {iova:#x}")
    }
}

/// A device's read under way, and what it must see where that is known.
pub(super) struct ExpectedRead {
    pub(super) transfer: Transfer,
    /// The page that it reaches and its state at that moment, unless it reaches none.
    pub(super) page: Option<(Gfn, PageUse)>,
    pub(super) bytes: Vec<Option<u8>>,
    pub(super) is_red_zone: bool,
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

impl Display for ExpectedRead {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match &self.page {
            Some((page, state)) => write!(f, "{} ({page:?}, {state})", self.transfer),
            None => write!(f, "{}", self.transfer),
        }
    }
}
