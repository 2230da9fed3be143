//! What m1n1 leaves in the device tree for U-Boot.
//!
//! U-Boot drives its console before it has moved itself to the end of memory. Until then it binds
//! only the nodes that are marked for this, and a console whose power domains it cannot switch on
//! does not count: it stops without a word. m1n1 marks the serial port, its power domains and the
//! power manager. Source: m1n1 `src/kboot.c`, `dt_set_uboot`; U-Boot `drivers/core/device.c`,
//! `drivers/core/ofnode.c`.

use anyhow::{Context, Result};
use dtoolkit::model::DeviceTreeNode;
use dtoolkit::{Node, Property};

use super::property::set;

/// The marks, the old one and the new one.
const MARKS: [&str; 2] = ["u-boot,dm-pre-reloc", "bootph-all"];

/// Marks what U-Boot needs for its console.
///
/// # Errors
///
/// The tree names no serial port.
pub(super) fn mark_console(root: &mut DeviceTreeNode) -> Result<()> {
    let aliases = root.child("aliases").context("the tree has no /aliases")?;
    let path = aliases.property("serial0").context("the tree names no serial port")?;
    let path = String::from_utf8_lossy(path.value()).trim_end_matches('\0').to_owned();
    let mut port = &mut *root;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        port = port.child_mut(name).with_context(|| format!("the tree has no {path}"))?;
    }
    mark(port);
    let mut waiting = power_domains(port);
    while let Some(phandle) = waiting.pop() {
        waiting.extend(mark_domain(root, phandle).unwrap_or_default());
    }
    Ok(())
}

/// Marks the power domain with this phandle, and the power manager around it; returns the domains
/// that it needs itself.
fn mark_domain(node: &mut DeviceTreeNode, phandle: u32) -> Option<Vec<u32>> {
    let is_domain = |child: &&mut DeviceTreeNode| cells_of(child, "phandle") == [phandle];
    let needed = node.children_mut().find(is_domain).map(|domain| {
        mark(domain);
        power_domains(domain)
    });
    if needed.is_some() {
        mark(node);
        return needed;
    }
    node.children_mut().find_map(|child| mark_domain(child, phandle))
}

fn mark(node: &mut DeviceTreeNode) {
    MARKS.iter().for_each(|name| set(node, name, Vec::<u8>::new()));
}

fn power_domains(node: &DeviceTreeNode) -> Vec<u32> {
    cells_of(node, "power-domains")
}

fn cells_of(node: &DeviceTreeNode, name: &str) -> Vec<u32> {
    let value = node.property(name).map(|property| property.value().to_vec()).unwrap_or_default();
    value.chunks_exact(4).filter_map(|cell| cell.try_into().ok()).map(u32::from_be_bytes).collect()
}

#[cfg(test)]
mod tests {
    use dtoolkit::Node;
    use dtoolkit::model::DeviceTreeNode;

    use super::{MARKS, mark_console};
    use crate::property::set;

    fn node(name: &str, properties: &[(&str, u32)]) -> DeviceTreeNode {
        let mut node = DeviceTreeNode::new_unchecked(name);
        properties.iter().for_each(|(name, value)| set(&mut node, name, *value));
        node
    }

    #[test]
    fn console_is_marked_with_all_that_powers_it_and_nothing_else() {
        let mut root = node("", &[]);
        let mut aliases = node("aliases", &[]);
        set(&mut aliases, "serial0", "/soc/serial@1");
        let mut soc = node("soc", &[]);
        let mut manager = node("power@2", &[]);
        for (name, own, needed) in [("a@0", 7, 8), ("b@8", 8, 9), ("c@10", 9, 99), ("d@18", 10, 9)]
        {
            manager.add_child(node(name, &[("phandle", own), ("power-domains", needed)]));
        }
        soc.add_child(node("serial@1", &[("power-domains", 7)]));
        soc.add_child(node("serial@3", &[("power-domains", 10)]));
        soc.add_child(manager);
        root.add_child(aliases);
        root.add_child(soc);
        mark_console(&mut root).expect("a port");
        let soc = root.child("soc").expect("a node");
        let manager = soc.child("power@2").expect("a node");
        for mark in MARKS {
            let is_marked = |node: &DeviceTreeNode| node.property(mark).is_some();
            let marked =
                |parent: &DeviceTreeNode| parent.children().map(is_marked).collect::<Vec<_>>();
            assert_eq!(marked(soc), [true, false, true]);
            assert_eq!(marked(manager), [true, true, true, false]);
            assert!(!is_marked(soc) && !is_marked(&root));
        }
    }
}
