//! Ownership policy: who programs each DART, and where the guest's accesses to its registers go.
//!
//! [`Ownership`] stands in front of the engine. It asks the driver for a DART's [`Condition`] and
//! decides; the driver only drives hardware.
//!
//! | the DART | its owner | an access of the guest goes to |
//! |---|---|---|
//! | has no power, or does not answer | [`Owner::Unknown`] | nothing: an external abort |
//! | is neither locked nor translating | [`Owner::Passthrough`] | the hardware, until the guest reads the page size |
//! | is locked or translates, or completes no command | [`Owner::Firmware`] | the hardware, for good |
//! | is not in `oche.darts` | [`Owner::NotChosen`] | the hardware, for good |
//! | has been taken over | [`Owner::Emulated`] | the engine |

use alloc::vec::Vec;
use core::fmt;

use oche_types::dart::stream::{DartId, StreamSet};
use tock_registers::LocalRegisterCopy;

use crate::dart_choice::DartChoice;
use crate::darts::registers::{PARAMS1, PARAMS2};

/// A page size as a power of two that every guest refuses: larger than 4 KiB and 16 KiB, and none
/// that a DART's tables have.
const REFUSED_PAGE_SHIFT: u32 = 15;

/// Who programs a DART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Not known yet: it had no power or did not answer. It is examined again at the next access.
    Unknown,
    /// The guest, with its own 16K tables, until it reads the page size.
    Passthrough,
    /// The guest or firmware, for good: it is locked, or translates for firmware.
    Firmware,
    /// The guest, for good: `oche.darts` leaves it out.
    NotChosen,
    /// Oche; the guest sees an emulated DART with 4K pages.
    Emulated,
}

/// Where an access of the guest to a DART's registers goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Route {
    /// Nowhere: the guest takes an external abort, as from a DART without power.
    Refused,
    /// To the hardware. What is read goes through [`Ownership::read_through`].
    Passthrough,
    /// To the engine's emulated DART.
    Emulated,
}

/// An access of the guest to a DART's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DartAccess {
    /// The DART.
    pub dart: DartId,
    /// Bytes from the start of its registers.
    pub offset: u64,
    /// How many bytes are read or written.
    pub bytes: usize,
    /// What is written; `None` for a read.
    pub write: Option<u64>,
}

impl DartAccess {
    fn reads_page_size(&self) -> bool {
        self.write.is_none() && self.offset == PARAMS1.offset() && self.is_word()
    }

    /// All drivers make aligned 32-bit accesses only. Source: as for
    /// [`oche_types::dart::registers`].
    fn is_word(&self) -> bool {
        self.bytes == 4 && self.offset.is_multiple_of(4)
    }
}

/// The condition in which a DART was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// TCRs and TTBRs are frozen.
    pub is_locked: bool,
    /// Streams that translate.
    pub live: StreamSet,
    /// Streams that bypass translation.
    pub bypass: StreamSet,
}

impl Condition {
    /// Whether Oche must leave it as it is.
    pub fn is_taken(&self) -> bool {
        self.is_locked || !self.live.is_empty()
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = [("live", self.live), ("bypass", self.bypass)]
            .into_iter()
            .filter(|(_, streams)| !streams.is_empty())
            .peekable();
        match (self.is_locked, words.peek()) {
            (true, None) => return out.write_str("locked"),
            (true, Some(_)) => out.write_str("locked, ")?,
            (false, None) => return out.write_str("idle"),
            (false, Some(_)) => {}
        }
        while let Some((word, streams)) = words.next() {
            let comma = if words.peek().is_some() { ", " } else { "" };
            write!(out, "{word} {:#x}{comma}", streams.0)?;
        }
        Ok(())
    }
}

/// Why a driver has not taken a DART over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeoverFailed {
    /// The DART lost its power meanwhile.
    PowerLost,
    /// The DART did not complete a command in time.
    TimedOut,
}

/// What the policy asks of a DART driver.
///
/// # Safety
///
/// A DART is locked and its streams translate just as [`Self::condition`] reports. Once
/// [`Self::take_over`] has returned `Ok`, no device behind the DART reaches memory except through
/// tables that the driver attaches later.
#[expect(unsafe_code, reason = "what devices reach rests on the answers")]
pub unsafe trait Takeover {
    /// The condition of `dart`, or `None` while it has no power or does not answer. Changes
    /// nothing.
    fn condition(&self, dart: DartId) -> Option<Condition>;

    /// Blocks every stream of `dart`, which the driver programs from then on.
    ///
    /// # Errors
    ///
    /// [`TakeoverFailed`]; then the driver does not program it.
    fn take_over(&mut self, dart: DartId) -> Result<(), TakeoverFailed>;
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    owner: Owner,
    /// The guest has read the hardware's page size.
    has_page_size: bool,
}

/// The owner of every DART that Oche may emulate.
#[derive(Debug)]
pub struct Ownership {
    darts: Vec<Entry>,
}

impl Ownership {
    /// Examines the DARTs that are chosen. Changes nothing.
    pub fn new(driver: &impl Takeover, choice: &DartChoice) -> Self {
        let darts = (0..choice.count()).filter_map(DartId::new);
        let entry = |dart| Entry {
            owner: if choice.has(dart) { Owner::Unknown } else { Owner::NotChosen },
            has_page_size: false,
        };
        let mut ownership = Self { darts: darts.clone().map(entry).collect() };
        for dart in darts {
            ownership.owner(driver, dart);
        }
        ownership
    }

    /// The owner of `dart`, which is examined again while that is not known.
    pub fn owner(&mut self, driver: &impl Takeover, dart: DartId) -> Owner {
        let entry = self.entry(dart);
        if entry.owner == Owner::Unknown {
            entry.owner = match driver.condition(dart) {
                None => Owner::Unknown,
                Some(condition) if condition.is_taken() => Owner::Firmware,
                Some(_) => Owner::Passthrough,
            };
        }
        entry.owner
    }

    /// Where `access` goes. A read of the page size takes the DART over, if the guest programs it.
    pub fn route(&mut self, driver: &mut impl Takeover, access: &DartAccess) -> Route {
        let owner = self.owner(driver, access.dart);
        let asks = owner == Owner::Passthrough && access.reads_page_size();
        if owner == Owner::Emulated || asks && self.take_over(driver, access.dart) {
            return Route::Emulated;
        }
        if access.is_word() && self.owner(driver, access.dart) != Owner::Unknown {
            Route::Passthrough
        } else {
            Route::Refused
        }
    }

    /// What the guest reads at `offset` of a DART to which it is passed through, where the hardware
    /// answers `value`.
    ///
    /// Linux puts devices behind a DART with larger pages than the kernel's into bypass where the
    /// DART can do that: they would use the homes of pages that are away. So a guest that was given
    /// the hardware's page size is refused bypass. Source: Linux `apple-dart.c`,
    /// `def_domain_type`, `attach_dev`.
    ///
    /// A guest with 16K pages could use a DART that is not chosen beside emulated ones, whose pages
    /// may be away. The page size of such a DART is larger than that of any guest, and both refuse
    /// it. U-Boot does not ask, and no page moves while it runs.
    pub fn read_through(&mut self, dart: DartId, offset: u64, value: u32) -> u32 {
        let entry = self.entry(dart);
        if offset == PARAMS1.offset() {
            entry.has_page_size = true;
            if entry.owner == Owner::NotChosen {
                let mut answer = LocalRegisterCopy::<u32, PARAMS1::Register>::new(value);
                answer.modify(PARAMS1::PAGE_SHIFT.val(REFUSED_PAGE_SHIFT));
                return answer.get();
            }
        }
        let mut answer = LocalRegisterCopy::<u32, PARAMS2::Register>::new(value);
        if offset == PARAMS2.offset() && entry.has_page_size {
            answer.modify(PARAMS2::BYPASS::CLEAR);
        }
        answer.get()
    }

    /// Has the driver take `dart` over. `false`: streams translate by now, it has lost its power,
    /// or it completes no command.
    fn take_over(&mut self, driver: &mut impl Takeover, dart: DartId) -> bool {
        if driver.condition(dart).is_none_or(|condition| condition.is_taken()) {
            return false;
        }
        let owner = match driver.take_over(dart) {
            Ok(()) => Owner::Emulated,
            Err(TakeoverFailed::PowerLost) => Owner::Unknown,
            Err(TakeoverFailed::TimedOut) => Owner::Firmware,
        };
        self.entry(dart).owner = owner;
        owner == Owner::Emulated
    }

    fn entry(&mut self, dart: DartId) -> &mut Entry {
        self.darts.get_mut(dart.index()).expect("invariant: only DARTs that were counted are named")
    }
}

#[cfg(test)]
mod tests;
