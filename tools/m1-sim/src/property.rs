//! Properties of a device tree that is being made.

use dtoolkit::Node;
use dtoolkit::ToPropertyValue;
use dtoolkit::model::{DeviceTreeNode, DeviceTreeProperty};

/// Gives `node` the property `name`, in place of the one that it had.
pub(super) fn set<T: ToPropertyValue>(node: &mut DeviceTreeNode, name: &str, value: T) {
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
}

/// Numbers of two cells each.
pub(super) fn cells(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

/// The child of `node` that is called `prefix`, with a unit address or without.
pub(super) fn child_with_prefix<'a>(
    node: &'a mut DeviceTreeNode,
    prefix: &str,
) -> Option<&'a mut DeviceTreeNode> {
    let name = node.children().map(|child| child.name().to_owned()).find(|name| {
        name == prefix || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('@'))
    })?;
    node.child_mut(&name)
}
