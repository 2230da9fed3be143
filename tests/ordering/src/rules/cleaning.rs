//! How far memory is cleaned for observers with their caches off.

/// Memory that is to be cleaned for observers with their caches off.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Cleaning {
    /// Nothing was stored.
    #[default]
    Done,
    /// Stored at this PC, and not cleaned.
    Dirty(u64),
    /// Cleaned, and not completed.
    Started(u64),
}

impl Cleaning {
    pub(super) fn store(&mut self, pc: u64) {
        *self = Self::Dirty(pc);
    }

    pub(super) fn clean(&mut self) {
        if let Self::Dirty(pc) = *self {
            *self = Self::Started(pc);
        }
    }

    pub(super) fn complete(&mut self) {
        if let Self::Started(_) = *self {
            *self = Self::Done;
        }
    }

    pub(super) fn pending(self) -> Option<u64> {
        match self {
            Self::Done => None,
            Self::Dirty(pc) | Self::Started(pc) => Some(pc),
        }
    }
}
