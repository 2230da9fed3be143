//! Reads a normalized device tree with the crate `fdt`.
//!
//! EL2 reads device trees only with this module. It uses those functions of `fdt` that cannot fail
//! on a [`Normalized`] tree: the nodes in order, the children and the properties of a node, and the
//! reservations. Its helpers for paths, aliases and standard nodes panic, or recurse without a
//! bound, on trees that are well-formed (`docs/adr/0022-device-trees-are-normalized.md`);
//! `clippy.toml` keeps them out.

use fdt::Fdt;
use fdt::node::FdtNode;

use crate::normalize::Normalized;

/// A device tree.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'a> {
    fdt: Fdt<'a>,
    blob: Normalized<'a>,
}

impl<'a> Tree<'a> {
    /// The tree in `blob`.
    pub fn new(blob: Normalized<'a>) -> Self {
        let fdt = Fdt::new(blob.bytes()).expect("invariant: a normalized FDT has a sound header");
        Self { fdt, blob }
    }

    /// The blob, exactly `totalsize` long.
    pub fn blob(&self) -> &'a [u8] {
        self.blob.bytes()
    }

    /// Every node, depth first: the root comes first.
    pub fn nodes(&self) -> impl Iterator<Item = TreeNode<'_, 'a>> {
        self.fdt.all_nodes().map(TreeNode)
    }

    /// The root node.
    pub fn root(&self) -> TreeNode<'_, 'a> {
        self.nodes().next().expect("invariant: a normalized FDT has a root")
    }

    /// The memory reservation block: pairs of address and size in bytes.
    pub fn reservations(&self) -> impl Iterator<Item = (u64, u64)> {
        let reservations = self.fdt.memory_reservations();
        reservations.map(|entry| (entry.address().addr() as u64, entry.size() as u64))
    }
}

/// A node of a [`Tree`].
#[derive(Clone, Copy, Debug)]
pub struct TreeNode<'t, 'a>(FdtNode<'t, 'a>);

impl<'t, 'a> TreeNode<'t, 'a> {
    /// The name with its unit address; the root's is `/`.
    pub fn name(&self) -> &'a str {
        self.0.name
    }

    /// The name without its unit address.
    pub fn base_name(&self) -> &'a str {
        self.name().split_once('@').map_or(self.name(), |(name, _)| name)
    }

    /// Name and value of each property, in order.
    pub fn properties(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + 't {
        self.0.properties().map(|property| (property.name, property.value))
    }

    /// The value of the property `name`.
    pub fn bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.properties().find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// The strings in the property `name`; none where there is no such property. What follows the
    /// last zero is an empty string.
    pub fn strings(&self, name: &str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes(name).unwrap_or(&[]).split(|byte| *byte == 0)
    }

    /// The first string in the property `name`.
    pub fn first_string(&self, name: &str) -> Option<&'a [u8]> {
        self.bytes(name)?.split(|byte| *byte == 0).next()
    }

    /// The children, in order.
    pub fn children(&self) -> impl Iterator<Item = TreeNode<'t, 'a>> {
        self.0.children().map(TreeNode)
    }
}

/// The big-endian number in `bytes`, or in the last eight bytes if there are more.
pub fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}
