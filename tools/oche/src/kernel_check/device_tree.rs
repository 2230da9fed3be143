//! What a Mac's device tree says about its devices.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use oche_boot::blob;
use oche_boot::normalize::{MAX_NORMALIZED_BYTES, normalize};
use oche_boot::tree::{Tree, TreeNode};

use super::rules::Macs;

/// The root of an M1's tree is compatible with it.
const M1: &str = "apple,t8103";
/// The names of the M1's PCIe ports below the root complex. Source: Linux `t8103.dtsi`, `port01`.
const SECOND_PORT: &str = "pci@1,0";

/// A Mac, by its device tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MacTree {
    /// Its name for people, such as `Apple MacBook Air (M1, 2020)`.
    pub model: String,
    /// Its name for programs, such as `apple,j313`.
    pub compatible: String,
    /// The compatible strings of all nodes that are on.
    nodes: BTreeSet<String>,
    is_laptop: bool,
    has_ethernet: bool,
    has_second_port: bool,
}

impl MacTree {
    /// Reads a device tree's file.
    ///
    /// # Errors
    ///
    /// It cannot be read, is no device tree, or none of an M1.
    pub fn read(file: &Path) -> Result<Self> {
        let name = file.display();
        let bytes = fs::read(file).with_context(|| format!("cannot read {name}"))?;
        Self::parse(&bytes).with_context(|| format!("the device tree {name}"))
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let total = blob::total_size(bytes).filter(|total| *total <= bytes.len());
        let own = total
            .and_then(|total| bytes.get(..total))
            .context("it is no whole device tree: name a compiled one, such as t8103-j313.dtb")?;
        let mut buffer = vec![0; MAX_NORMALIZED_BYTES];
        let normal = normalize(own, &mut buffer).map_err(|refusal| anyhow!(refusal.reason()))?;
        let tree = Tree::new(normal);
        let root = tree.root();
        let names: Vec<String> = texts(root, "compatible").collect();
        if !names.iter().any(|name| name == M1) {
            let whose = names.first().map_or("no Mac", String::as_str);
            bail!("it is for {whose}: Oche runs on the M1 ({M1}) alone; name a t8103-*.dtb");
        }
        let model = texts(root, "model").next().unwrap_or_default();
        let chassis = texts(root, "chassis-type").next().unwrap_or_default();
        let mut mac = Self {
            // Trees before Linux 7.0 have no chassis-type.
            is_laptop: chassis == "laptop" || model.contains("MacBook"),
            model,
            compatible: names.into_iter().next().unwrap_or_default(),
            nodes: BTreeSet::new(),
            has_ethernet: false,
            has_second_port: false,
        };
        mac.visit(root);
        Ok(mac)
    }

    /// Adds a node and what is below it, unless it is off. The nesting is limited by
    /// [`blob::MAX_LEVELS`].
    fn visit(&mut self, node: TreeNode<'_, '_>) {
        let status = texts(node, "status").next();
        if status.is_some_and(|status| status != "okay" && status != "ok") {
            return;
        }
        self.nodes.extend(texts(node, "compatible"));
        self.has_ethernet |= node.base_name() == "ethernet";
        self.has_second_port |= node.name() == SECOND_PORT;
        for child in node.children() {
            self.visit(child);
        }
    }

    /// Whether a device that `macs` have is in this Mac.
    #[must_use]
    pub fn is_one_of(&self, macs: Macs) -> bool {
        match macs {
            Macs::All => true,
            Macs::Laptops => self.is_laptop,
            Macs::Ethernet => self.has_ethernet,
            Macs::SecondPciePort => self.has_second_port,
            Macs::TouchBar => self.compatible == "apple,j293",
        }
    }

    /// Whether a node that is on is compatible with one of `names`.
    #[must_use]
    pub fn has_node(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.nodes.contains(*name))
    }
}

/// The strings of a property that are not empty.
fn texts<'a>(node: TreeNode<'_, 'a>, property: &str) -> impl Iterator<Item = String> + use<'a> {
    let strings = node.strings(property).filter(|text| !text.is_empty());
    strings.map(|text| String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
    use proptest::prelude::*;

    use super::MacTree;
    use crate::kernel_check::rules::Macs;

    fn node(name: &str, properties: &[(&str, &str)]) -> DeviceTreeNode {
        let mut node = DeviceTreeNode::new(name).expect("a node");
        for (name, value) in properties {
            let value = format!("{}\0", value.replace('|', "\0")).into_bytes();
            node.add_property(DeviceTreeProperty::new(*name, value).expect("a property"));
        }
        node
    }

    /// The nodes that matter of Linux 7.2's tree of a Mac; `ports` says which PCIe ports are on.
    pub(in crate::kernel_check) fn mac(compatible: &str, model: &str, ports: [bool; 2]) -> Vec<u8> {
        let mut tree = DeviceTree::new();
        for (name, value) in [("compatible", compatible), ("model", model)] {
            let value = format!("{}\0", value.replace('|', "\0")).into_bytes();
            tree.root.add_property(DeviceTreeProperty::new(name, value).expect("a property"));
        }
        let mut soc = node("soc", &[("compatible", "simple-bus")]);
        for (name, compatible) in [
            ("interrupt-controller@1", "apple,t8103-aic|apple,aic"),
            ("iommu@2", "apple,t8103-dart"),
            ("nvme@3", "apple,t8103-nvme-ans2|apple,nvme-ans2"),
            ("usb@4", "apple,t8103-dwc3"),
        ] {
            soc.add_child(node(name, &[("compatible", compatible)]));
        }
        let off = [("compatible", "apple,s5l-fpwm"), ("status", "disabled")];
        soc.add_child(node("pwm@5", &off));
        let mut pcie = node("pcie@6", &[("compatible", "apple,t8103-pcie|apple,pcie")]);
        for (name, is_on) in ["pci@1,0", "pci@2,0"].into_iter().zip(ports) {
            let status = if is_on { "okay" } else { "disabled" };
            let mut port = node(name, &[("status", status)]);
            if name == "pci@2,0" {
                port.add_child(node("ethernet@0,0", &[]));
            }
            pcie.add_child(port);
        }
        soc.add_child(pcie);
        tree.root.add_child(soc);
        tree.to_dtb()
    }

    /// Arguments of [`mac`].
    type Mac = (&'static str, &'static str, [bool; 2]);
    pub(in crate::kernel_check) const AIR: Mac =
        ("apple,j313|apple,t8103", "Apple MacBook Air (M1, 2020)", [false; 2]);
    pub(in crate::kernel_check) const MINI: Mac =
        ("apple,j274|apple,t8103", "Apple Mac mini (M1, 2020)", [true; 2]);

    #[test]
    fn devices_are_those_whose_nodes_are_on() {
        let air = MacTree::parse(&mac(AIR.0, AIR.1, AIR.2)).expect("a tree");
        assert_eq!((air.compatible.as_str(), air.model.as_str()), ("apple,j313", AIR.1));
        assert!(air.has_node(&["none", "apple,nvme-ans2"]));
        assert!(!air.has_node(&["apple,s5l-fpwm"]), "it is disabled");
        assert!(air.is_one_of(Macs::All) && air.is_one_of(Macs::Laptops));
        for macs in [Macs::Ethernet, Macs::SecondPciePort, Macs::TouchBar] {
            assert!(!air.is_one_of(macs), "{macs:?}");
        }
        let mini = MacTree::parse(&mac(MINI.0, MINI.1, MINI.2)).expect("a tree");
        assert!(mini.is_one_of(Macs::Ethernet) && mini.is_one_of(Macs::SecondPciePort));
        assert!(!mini.is_one_of(Macs::Laptops));
    }

    #[test]
    fn other_trees_and_other_files_are_refused() {
        let refusal = |bytes: &[u8]| format!("{:#}", MacTree::parse(bytes).expect_err("refused"));
        let max = mac("apple,j316c|apple,t6001", "Apple MacBook Pro", [false; 2]);
        assert!(refusal(&max).contains("for apple,j316c: Oche runs on the M1"));
        let whole = mac(AIR.0, AIR.1, AIR.2);
        assert!(refusal(&whole[..whole.len() - 9]).contains("no whole device tree"));
        assert!(refusal(b"/dts-v1/;").contains("no whole device tree"));
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle..middle + 64].fill(0xff);
        assert!(MacTree::parse(&damaged).is_err());
    }

    proptest! {
        #[test]
        fn damage_is_refused_or_read_and_never_a_panic(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut blob = mac(AIR.0, AIR.1, AIR.2);
            for (index, byte) in flips {
                let at = index.index(blob.len());
                blob[at] = byte;
            }
            if let Err(error) = MacTree::parse(&blob) {
                let words = format!("{error:#}");
                prop_assert!(!words.contains('\n'));
            }
        }
    }
}
