//! A stock kernel on the simulated board: the devices that it uses of QEMU's.
//!
//! A stock distribution kernel has no driver for Apple's interrupt controller, timers and serial
//! port, so the tree names QEMU's beside them. All that concerns DARTs is the board's own.

use anyhow::{Context, Result};
use dtoolkit::model::{DeviceTree, DeviceTreeNode};
use dtoolkit::{Node, Property};

use super::dart::{self, DartSetting};
use super::mac::{DARTS, Mac};
use super::property::{cells, set};

/// Phandles that no tree of this age has.
const GIC: u32 = 0x8000;
/// Where QEMU's virt machine has its interrupt controller and serial port. Source: QEMU 7.2
/// `hw/arm/virt.c`.
const DISTRIBUTOR: [u64; 2] = [0x0800_0000, 0x1_0000];
const REDISTRIBUTORS: [u64; 2] = [0x080a_0000, 0xf6_0000];
const SERIAL: [u64; 2] = [0x0900_0000, 0x1000];
const SERIAL_INTERRUPT: u32 = 1;
/// The distributor's register that makes an interrupt pending. Source: Arm IHI 0069,
/// `GICD_ISPENDR<n>`.
const SET_PENDING: u64 = DISTRIBUTOR[0] + 0x200;
/// The shared interrupt of DART 0; the others follow. No device of QEMU's machine has these.
const DART_INTERRUPTS: u32 = 180;
/// The shared interrupt that the trace's port has.
const PORT_INTERRUPT: u32 = 190;
/// The register that makes an interrupt pending no longer. Source: the same, `GICD_ICPENDR<n>`.
const CLEAR_PENDING: u64 = DISTRIBUTOR[0] + 0x280;
/// Apple's interrupt controller, and the line that Oche is expected to take there: the last of 896,
/// since the tree names no line above 735.
const AIC: u64 = 0x2_3b10_0000;
const PORT_LINE: u32 = 895;
/// The words in which software asserts and deasserts that line. Source: Linux
/// `irq-apple-aic.c`.
pub const LINE_WORDS: [u64; 2] =
    [AIC + 0x4000 + PORT_LINE as u64 / 32 * 4, AIC + 0x4080 + PORT_LINE as u64 / 32 * 4];
/// The number of private interrupts, which come before the shared ones.
const SHARED: u32 = 32;

/// The devices that the kernel finds behind DARTs: name, and each DART with the device's stream
/// there. The last one is like a USB controller: two DARTs, one table.
pub const DEVICES: [(&str, &[(usize, u32)]); 4] =
    [("port0", &[(0, 1)]), ("port1", &[(1, 1)]), ("audio", &[(4, 2)]), ("usb", &[(2, 0), (3, 1)])];

/// The first of [`DARTS`] are those of PCIe.
const PCIE_DARTS: usize = 2;
/// QEMU's further arguments: a serial port on its standard output.
pub const QEMU: [&str; 4] = ["-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"];
/// The CPU: one without features that Oche does not offer a guest, such as SVE.
pub const CPU: &str = "cortex-a76";

/// The store (address, value) that makes the interrupt of DART `number` pending.
#[must_use]
pub fn pending(number: usize) -> (u64, u32) {
    let line = SHARED + DART_INTERRUPTS + number as u32;
    (SET_PENDING + u64::from(line / 32 * 4), 1 << (line % 32))
}

/// The store (address, value) that follows from a store of `value` at one of [`LINE_WORDS`];
/// `None`: that was another line.
#[must_use]
pub fn port_pending(address: u64, value: u32) -> Option<(u64, u32)> {
    let registers = if address == LINE_WORDS[0] { SET_PENDING } else { CLEAR_PENDING };
    let line = SHARED + PORT_INTERRUPT;
    let is_ours = LINE_WORDS.contains(&address) && value >> (PORT_LINE % 32) & 1 != 0;
    is_ours.then_some((registers + u64::from(line / 32 * 4), 1 << (line % 32)))
}

/// A Mac for a stock kernel: two CPUs, which the kernel starts by the spin table. As on an M1 Pro,
/// the DARTs of PCIe cannot bypass, and the others can. Source: the lines that Linux' driver prints
/// there, AsahiLinux/linux#70; an M1 has DARTs of both kinds as well, UbuntuAsahi/ubuntu-asahi#137.
#[must_use]
pub fn mac() -> Mac {
    let mut mac = Mac { cpus: 2, has_linux: true, ..Mac::default() };
    for setting in mac.settings.iter_mut().take(PCIE_DARTS) {
        *setting = DartSetting::NoBypass;
    }
    mac
}

/// Puts into the tree what the kernel needs of QEMU's, and devices behind the DARTs.
///
/// # Errors
///
/// The tree is not that of an M1.
pub(crate) fn complete(tree: &mut DeviceTree) -> Result<()> {
    let root = &mut tree.root;
    let clock = root.child("clock-ref").and_then(phandle).context("the tree has no /clock-ref")?;
    for name in ["pmu-e", "pmu-p"] {
        root.remove_child(name);
    }
    let mut gic = DeviceTreeNode::new_unchecked("interrupt-controller@8000000");
    set(&mut gic, "compatible", "arm,gic-v3");
    set(&mut gic, "reg", cells(&[DISTRIBUTOR, REDISTRIBUTORS].concat()));
    set(&mut gic, "#interrupt-cells", 3u32);
    set(&mut gic, "interrupt-controller", Vec::<u8>::new());
    set(&mut gic, "phandle", GIC);
    root.add_child(gic);
    let timer = root.child_mut("timer").context("the tree has no /timer")?;
    set(timer, "interrupt-parent", GIC);
    // Physical, virtual, and the hypervisor's two; private, high. Source: QEMU 7.2
    // `include/hw/arm/virt.h`.
    let timers = [14, 11, 10, 12].iter().flat_map(|line| interrupt(1, *line, 4));
    set(timer, "interrupts", timers.collect::<Vec<u8>>());
    let mut serial = DeviceTreeNode::new_unchecked("serial@9000000");
    set(&mut serial, "compatible", "arm,pl011\0arm,primecell");
    set(&mut serial, "reg", cells(&SERIAL));
    set(&mut serial, "interrupt-parent", GIC);
    set(&mut serial, "interrupts", interrupt(0, SERIAL_INTERRUPT, 4));
    set(&mut serial, "clocks", [clock, clock]);
    set(&mut serial, "clock-names", "uartclk\0apb_pclk");
    root.add_child(serial);
    let soc = root.child_mut("soc").context("the tree has no /soc")?;
    // Apple's controller has no driver here. As a nexus it hands the port's line on to QEMU's,
    // whose interrupt this process makes pending: an edge, since a line cannot be held up from
    // outside. Source: Devicetree Specification 0.4, 2.4.3.
    let aic =
        soc.child_mut(&format!("interrupt-controller@{AIC:x}")).context("the tree has no AIC")?;
    aic.remove_property("interrupt-controller");
    set(aic, "#address-cells", 0u32);
    // The mask leaves a bit out, so that the line is free all the same: no cell of the tree is its
    // number.
    set(aic, "interrupt-map-mask", [u32::MAX, 0xffff, u32::MAX].map(u32::to_be_bytes).concat());
    let map = [0, PORT_LINE | 1 << 16, 4, GIC, 0, PORT_INTERRUPT, 1];
    set(aic, "interrupt-map", map.map(u32::to_be_bytes).concat());
    let mut phandles = Vec::new();
    for (number, (base, ..)) in DARTS.iter().enumerate() {
        let dart = soc.child_mut(&format!("iommu@{base:x}")).context("the tree lacks a DART")?;
        // The power manager has no driver either, and a device whose power domain has no driver is
        // not probed.
        dart.remove_property("power-domains");
        set(dart, "interrupt-parent", GIC);
        set(dart, "interrupts", interrupt(0, DART_INTERRUPTS + number as u32, 1));
        phandles.push(phandle(dart).context("a DART without a reference")?);
    }
    add_devices(soc, &phandles);
    Ok(())
}

/// Adds the devices behind the DARTs, whose phandles are given.
fn add_devices(soc: &mut DeviceTreeNode, phandles: &[u32]) {
    for (name, behind) in DEVICES {
        let engines: Vec<u64> =
            behind.iter().map(|(dart, _)| dart::engine_of(*dart as u64)).collect();
        let first = engines.first().copied().unwrap_or_default();
        let mut node = DeviceTreeNode::new_unchecked(format!("{name}@{first:x}"));
        set(&mut node, "compatible", "oche,board-dma");
        let registers: Vec<u64> =
            engines.iter().flat_map(|engine| [*engine, dart::ENGINE_BYTES]).collect();
        set(&mut node, "reg", cells(&registers));
        let numbers = |pick: fn(u32, u32) -> Vec<u32>| -> Vec<u8> {
            let all = behind.iter().flat_map(|(dart, stream)| {
                pick(phandles.get(*dart).copied().unwrap_or_default(), *stream)
            });
            all.flat_map(u32::to_be_bytes).collect()
        };
        set(&mut node, "iommus", numbers(|dart, stream| vec![dart, stream]));
        set(&mut node, "oche,streams", numbers(|_, stream| vec![stream]));
        soc.add_child(node);
    }
}

/// One interrupt of an Arm GIC: shared (0) or private (1), its number there, edge (1) or level (4).
fn interrupt(kind: u32, number: u32, trigger: u32) -> Vec<u8> {
    [kind, number, trigger].into_iter().flat_map(u32::to_be_bytes).collect()
}

fn phandle(node: &DeviceTreeNode) -> Option<u32> {
    node.property("phandle")?.value().try_into().ok().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::{DEVICES, LINE_WORDS, pending, port_pending};
    use crate::DARTS;

    #[test]
    fn an_interrupt_is_made_pending_in_its_own_bit() {
        assert_eq!(pending(0), (0x0800_0218, 1 << 20));
        assert_eq!(pending(5), (0x0800_0218, 1 << 25));
    }

    #[test]
    fn the_line_that_software_asserts_is_an_interrupt_of_the_kernels() {
        let [set, clear] = LINE_WORDS;
        assert_eq!(port_pending(set, 1 << 31), Some((0x0800_0218, 1 << 30)));
        assert_eq!(port_pending(clear, 1 << 31), Some((0x0800_0298, 1 << 30)));
        assert_eq!([port_pending(set, 1 << 30), port_pending(set + 4, 1 << 31)], [None, None]);
    }

    #[test]
    fn every_device_is_behind_darts_that_the_board_has() {
        assert!(
            DEVICES.iter().flat_map(|(_, behind)| *behind).all(|(dart, _)| *dart < DARTS.len())
        );
    }
}
