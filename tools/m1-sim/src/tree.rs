//! The simulated board's device tree: a Mac's own, completed as m1n1 does.

use anyhow::{Context, Result};
use dtoolkit::fdt::Fdt;
use dtoolkit::memreserve::MemoryReservation;
use dtoolkit::model::{DeviceTree, DeviceTreeNode};
use dtoolkit::{Node, Property};

use super::dart::DartSetting;
use super::mac::{DARTS, Mac};
use super::property::{cells, child_with_prefix, set};
use super::{u_boot, usb};

/// Completes a compiled tree as m1n1 does: memory, what is reserved, CPUs, the framebuffer,
/// `/chosen`.
///
/// # Errors
///
/// The blob is no device tree of an M1.
pub fn completed(blob: &[u8], mac: &Mac) -> Result<Vec<u8>> {
    let fdt = Fdt::new(blob).map_err(|error| anyhow::anyhow!("the compiled tree: {error}"))?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    let root = &mut tree.root;
    let memory = child_with_prefix(root, "memory").context("the tree has no /memory")?;
    let banks = cells(&mac.banks().flat_map(|bank| [bank.start, bank.size()]).collect::<Vec<_>>());
    set(memory, "reg", banks.clone());
    complete_reserved(root, mac);
    complete_cpus(root, mac)?;
    complete_darts(root)?;
    if mac.has_usb {
        usb::complete(root)?;
    }
    if mac.has_dead_devices {
        move_to_nowhere(root)?;
    }
    if root.child_mut("chosen").is_none() {
        root.add_child(DeviceTreeNode::new_unchecked("chosen"));
    }
    let chosen = root.child_mut("chosen").context("the tree has no /chosen")?;
    let old: Vec<String> = chosen.children().map(|child| child.name().to_owned()).collect();
    for name in old.iter().filter(|name| name.starts_with("framebuffer")) {
        chosen.remove_child(name);
    }
    let mut framebuffer =
        DeviceTreeNode::new_unchecked(format!("framebuffer@{:x}", mac.screen.start));
    set(&mut framebuffer, "compatible", "apple,simple-framebuffer\0simple-framebuffer");
    set(&mut framebuffer, "reg", cells(&[mac.screen.start, mac.screen.size()]));
    set(&mut framebuffer, "width", super::screen::WIDTH);
    set(&mut framebuffer, "height", super::screen::HEIGHT);
    let stride = mac.screen.size() / u64::from(super::screen::HEIGHT);
    set(&mut framebuffer, "stride", stride as u32);
    set(&mut framebuffer, "format", "x2r10g10b10");
    chosen.add_child(framebuffer);
    set(chosen, "bootargs", "");
    // For the tests' guest, which sees what Oche has made of `/memory`.
    set(chosen, "board,memory", banks);
    for (name, value) in &mac.chosen {
        set(chosen, name, value.as_str());
    }
    u_boot::mark_console(root)?;
    if mac.has_linux {
        super::linux::complete(&mut tree)?;
    }
    tree.memory_reservations =
        mac.kept.iter().map(|range| MemoryReservation::new(range.start, range.size())).collect();
    let Some(fault) = mac.fault else { return Ok(tree.to_dtb()) };
    fault.change(&mut tree.root)?;
    let mut blob = tree.to_dtb();
    fault.damage(&mut blob)?;
    Ok(blob)
}

/// Nodes of `/reserved-memory`, every other one `no-map`.
fn complete_reserved(root: &mut DeviceTreeNode, mac: &Mac) {
    if mac.reserved.is_empty() {
        return;
    }
    let mut parent = DeviceTreeNode::new_unchecked("reserved-memory");
    set(&mut parent, "#address-cells", 2_u32);
    set(&mut parent, "#size-cells", 2_u32);
    set(&mut parent, "ranges", Vec::<u32>::new());
    for (index, range) in mac.reserved.iter().enumerate() {
        let mut node = DeviceTreeNode::new_unchecked(format!("firmware@{:x}", range.start));
        set(&mut node, "reg", cells(&[range.start, range.size()]));
        if index % 2 == 1 {
            set(&mut node, "no-map", Vec::<u32>::new());
        }
        parent.add_child(node);
    }
    root.add_child(parent);
}

/// The CPUs that the board has, by QEMU's own numbers: its MPIDRs cannot be chosen.
fn complete_cpus(root: &mut DeviceTreeNode, mac: &Mac) -> Result<()> {
    let cpus = root.child_mut("cpus").context("the tree has no /cpus")?;
    cpus.remove_child("cpu-map");
    let names: Vec<String> = cpus
        .children()
        .map(|child| child.name().to_owned())
        .filter(|name| name.starts_with("cpu@"))
        .collect();
    for (index, name) in names.iter().enumerate() {
        if index as u64 >= mac.cpus {
            cpus.remove_child(name);
            continue;
        }
        let node = cpus.child_mut(name).context("a CPU")?;
        set(node, "reg", cells(&[index as u64]));
        let release = if index == 0 { 0 } else { mac.release_address(index as u64) };
        set(node, "cpu-release-addr", cells(&[release]));
    }
    Ok(())
}

/// Switches on the DARTs that the board has, and adds those that the tree lacks.
fn complete_darts(root: &mut DeviceTreeNode) -> Result<()> {
    let mut phandle = 0x1000;
    for (base, domain, clients) in DARTS {
        let power = power_phandle(root, domain, &mut phandle);
        let soc = root.child_mut("soc").context("the tree has no /soc")?;
        let name = format!("iommu@{base:x}");
        if soc.child_mut(&name).is_none() {
            let mut node = DeviceTreeNode::new_unchecked(&*name);
            set(&mut node, "compatible", "apple,t8103-dart");
            set(&mut node, "reg", cells(&[base, 0x4000]));
            set(&mut node, "#iommu-cells", 1u32);
            phandle += 1;
            set(&mut node, "phandle", phandle);
            if let Some(power) = power {
                set(&mut node, "power-domains", power);
            }
            soc.add_child(node);
            for (stream, client) in clients {
                let mut node =
                    DeviceTreeNode::new_unchecked(format!("{client}@{:x}", base + 0x100_0000));
                set(&mut node, "iommus", [phandle, *stream]);
                soc.add_child(node);
            }
        }
        if let Some(node) = soc.child_mut(&name) {
            node.remove_property("status");
        }
    }
    Ok(())
}

/// Gives `sio`'s DART and the NVMe addresses of QEMU's machine where nothing is, between its virtio
/// slots and its platform bus: there an access ends in an external abort. Source: QEMU 7.2
/// `hw/arm/virt.c`, `base_memmap`.
fn move_to_nowhere(root: &mut DeviceTreeNode) -> Result<()> {
    let soc = root.child_mut("soc").context("the tree has no /soc")?;
    for (name, start) in [("iommu@235004000", 0x0b00_0000), ("nvme@27bcc0000", 0x0b10_0000)] {
        let node = soc.child_mut(name).with_context(|| format!("the tree has no {name}"))?;
        set(node, "reg", cells(&[start, 0x4_0000]));
    }
    Ok(())
}

/// The phandle of the power domain with this label; one without a phandle gets the next
/// `fresh` one.
fn power_phandle(node: &mut DeviceTreeNode, label: &str, fresh: &mut u32) -> Option<u32> {
    let is_it = node
        .property("label")
        .is_some_and(|value| value.value() == format!("{label}\0").as_bytes());
    if !is_it {
        return node.children_mut().find_map(|child| power_phandle(child, label, fresh));
    }
    let own = node.property("phandle").and_then(|value| value.value().try_into().ok());
    Some(own.map(u32::from_be_bytes).unwrap_or_else(|| {
        *fresh += 1;
        set(node, "phandle", *fresh);
        *fresh
    }))
}

/// A power domain of the tree.
#[derive(Clone, Debug)]
pub struct PowerDomain {
    /// Its register's address.
    pub register: u64,
    /// What it is called.
    pub label: String,
    /// It is on when the machine is entered.
    pub is_on: bool,
}

/// Every power domain in the tree.
///
/// # Errors
///
/// The blob is no device tree.
pub fn power_registers(blob: &[u8], mac: &Mac) -> Result<Vec<PowerDomain>> {
    let fdt = Fdt::new(blob).map_err(|error| anyhow::anyhow!("the completed tree: {error}"))?;
    let off: Vec<&str> = DARTS
        .iter()
        .zip(mac.settings)
        .filter(|(_, setting)| *setting == DartSetting::Off)
        .map(|((_, domain, _), _)| *domain)
        .collect();
    let mut found = Vec::new();
    collect_power(&DeviceTree::from_fdt(&fdt).root, &off, &mut found);
    Ok(found)
}

fn collect_power(node: &DeviceTreeNode, off: &[&str], found: &mut Vec<PowerDomain>) {
    let number = |node: &DeviceTreeNode, bytes: usize| {
        let value = node.property("reg")?.value().get(..bytes)?.to_vec();
        Some(value.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    for child in node.children() {
        let text = |name: &str| {
            let value =
                child.property(name).map(|property| property.value().to_vec()).unwrap_or_default();
            String::from_utf8_lossy(&value).into_owned()
        };
        if text("compatible").contains("apple,pmgr-pwrstate")
            && let (Some(base), Some(offset)) = (number(node, 8), number(child, 4))
        {
            let label = text("label").trim_end_matches('\0').to_owned();
            let is_on = !off.contains(&label.as_str());
            found.push(PowerDomain { register: base + offset, label, is_on });
        }
        collect_power(child, off, found);
    }
}
