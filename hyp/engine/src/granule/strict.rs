//! Strict isolation: a device does to no page of a granule what only a neighbour's permission
//! allows.
//!
//! One hardware entry has one permission for a granule's four slots. A slot that may only be read,
//! in a granule that may be written, is therefore *private*: a bounce page of its page, which CPUs
//! and other mappings never follow there. What a device writes into it reaches no guest page, and
//! is gone with the slot. Reads cannot be undone like that, so a slot that may only be written
//! never shares a granule with one that may be read: the later of the two is refused. Hardware that
//! cannot forbid reads at all has no such slots.

use oche_types::addr::{Gfn, SLOTS};
use oche_types::dart::entry::{Leaf, Permission};
use oche_types::event::Refusal;

use crate::granule::state::{Form, GranuleState, Slot};
use crate::granule::{GranuleMapper, Isolation};
use crate::host::Iommu;

impl GranuleMapper {
    pub(super) fn is_strict(&self) -> bool {
        self.isolation == Isolation::Strict
    }

    /// Whether a granule with `state` that gets what `wanted` names as well will be written by
    /// devices, while slots that may only be read must not.
    pub(super) fn needs_private(
        &self,
        state: &GranuleState,
        wanted: &[Option<Leaf>; SLOTS],
    ) -> bool {
        let writes = |permission: Permission| permission.write;
        let will_write =
            state.permission().write || wanted.iter().flatten().any(|leaf| writes(leaf.permission));
        self.is_strict() && will_write
    }

    /// The slot of `state` that holds a page which may only be read and is no bounce page, if it
    /// has one: before a device may write the granule, that page has to leave.
    pub(super) fn exposed(state: &GranuleState) -> Option<(usize, Slot)> {
        let Form::Relocated(_) = state.form else { return None };
        let slots = state.slots.iter().enumerate();
        slots
            .filter_map(|(index, slot)| slot.map(|slot| (index, slot)))
            .find(|(_, slot)| !slot.is_bounce && !slot.permission.write)
    }

    /// Whether a leaf with `permission` can join `state` at all.
    pub(super) fn can_join<I: Iommu>(
        &self,
        _: &I,
        state: &GranuleState,
        permission: Permission,
    ) -> Result<(), Refusal> {
        let forbids_reads = |permission: Permission| permission.write && !permission.read;
        let differs = |slot: &Slot| forbids_reads(slot.permission) != forbids_reads(permission);
        if self.is_strict() && I::CAN_FORBID_READS && state.slots.iter().flatten().any(differs) {
            return Err(Refusal::MixedPermission);
        }
        Ok(())
    }

    /// Whether the pages of an aligned frame, wanted with these permissions, may be mapped by one
    /// entry.
    pub(super) fn is_uniform(&self, wanted: &[Option<Leaf>; SLOTS]) -> bool {
        let mut permissions = wanted.iter().flatten().map(|leaf| leaf.permission);
        let first = permissions.next();
        !self.is_strict() || permissions.all(|permission| Some(permission) == first)
    }

    /// Whether `slot`, of a granule with `state`, is a private copy, which its page must never
    /// become.
    pub(super) fn is_private(&self, state: &GranuleState, slot: &Slot) -> bool {
        self.is_strict() && !slot.permission.write && state.permission().write
    }

    /// Whether every mapping of `page` that is left is a bounce page.
    pub(super) fn has_only_bounce_pages(&self, page: Gfn) -> bool {
        self.mappings(page).all(|mapping| self.slot_of(mapping).0.is_bounce)
    }
}
