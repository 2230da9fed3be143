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

use crate::granule::env::Env;
use crate::granule::state::{GranuleState, Slot};
use crate::granule::{GranuleMapper, Isolation};

/// Whether read-only slots of a granule with `state` must be private copies after `new` is mapped
/// too.
pub(super) fn needs_private(
    state: &GranuleState,
    new: &[Option<Leaf>; SLOTS],
    isolation: Isolation,
) -> bool {
    isolation == Isolation::Strict
        && (state.permission().write || new.iter().flatten().any(|leaf| leaf.permission.write))
}

/// Whether `slot` of a relocated granule is read-only and holds a page itself and not a bounce
/// page: that page must move before a device may write the granule.
pub(super) fn is_exposed(slot: &Option<Slot>) -> bool {
    slot.is_some_and(|slot| !slot.is_bounce && !slot.permission.write)
}

/// Checks that a leaf with `permission` can be mapped beside `others`.
pub(super) fn can_join(
    mut others: impl Iterator<Item = Permission>,
    permission: Permission,
    env: &Env,
) -> Result<(), Refusal> {
    let forbids_reads = |permission: Permission| permission.write && !permission.read;
    let is_exact = env.isolation == Isolation::Strict && env.can_forbid_reads;
    if is_exact && others.any(|other| forbids_reads(other) != forbids_reads(permission)) {
        return Err(Refusal::MixedPermission);
    }
    Ok(())
}

/// Whether one entry may map all of `wanted`: their permissions are equal, or isolation is not
/// strict.
pub(super) fn is_uniform(wanted: &[Option<Leaf>; SLOTS], isolation: Isolation) -> bool {
    let mut permissions = wanted.iter().flatten().map(|leaf| leaf.permission);
    let first = permissions.next();
    isolation != Isolation::Strict || permissions.all(|permission| Some(permission) == first)
}

impl GranuleMapper {
    /// Whether `slot`, of a granule with `state`, is a private copy, which is never promoted.
    pub(super) fn is_private(&self, state: &GranuleState, slot: &Slot) -> bool {
        self.isolation == Isolation::Strict && !slot.permission.write && state.permission().write
    }

    /// Whether only bounce pages map `page`.
    pub(super) fn has_only_bounce_pages(&self, page: Gfn) -> bool {
        self.mappings(page).all(|mapping| self.slot_of(mapping).0.is_bounce)
    }
}
