//! Strict isolation: a device cannot access a page in a way that only a neighbour's permission
//! allows.
//!
//! One hardware entry has one permission for a granule's four slots. A read-only slot in a granule
//! that devices may write is therefore a *private copy*: a bounce page that is never promoted and
//! never merged into its page. What a device writes there reaches no guest page and is lost when
//! the slot is unmapped. A read cannot be contained like that, so a write-only slot never shares a
//! granule with a readable one: the later of the two is refused. On hardware that cannot forbid
//! reads, every slot is readable.

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

    /// Whether read-only slots of a granule with `state` must be private copies after `wanted` is
    /// mapped too.
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

    /// A read-only slot of `state` that holds a page itself and not a bounce page, if there is one:
    /// that page must move before a device may write the granule.
    pub(super) fn exposed(state: &GranuleState) -> Option<(usize, Slot)> {
        let Form::Relocated(_) = state.form else { return None };
        let slots = state.slots.iter().enumerate();
        slots
            .filter_map(|(index, slot)| slot.map(|slot| (index, slot)))
            .find(|(_, slot)| !slot.is_bounce && !slot.permission.write)
    }

    /// Checks that a leaf with `permission` can be mapped in a granule with `state`.
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

    /// Whether one entry may map all of `wanted`: their permissions are equal, or isolation is not
    /// strict.
    pub(super) fn is_uniform(&self, wanted: &[Option<Leaf>; SLOTS]) -> bool {
        let mut permissions = wanted.iter().flatten().map(|leaf| leaf.permission);
        let first = permissions.next();
        !self.is_strict() || permissions.all(|permission| Some(permission) == first)
    }

    /// Whether `slot`, of a granule with `state`, is a private copy, which is never promoted.
    pub(super) fn is_private(&self, state: &GranuleState, slot: &Slot) -> bool {
        self.is_strict() && !slot.permission.write && state.permission().write
    }

    /// Whether only bounce pages map `page`.
    pub(super) fn has_only_bounce_pages(&self, page: Gfn) -> bool {
        self.mappings(page).all(|mapping| self.slot_of(mapping).0.is_bounce)
    }
}
