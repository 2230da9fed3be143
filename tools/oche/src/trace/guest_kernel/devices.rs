//! The kernel's devices and the drivers that are bound to them, from the set of all devices that
//! drivers/base/core.c of Linux keeps for /sys/devices.

use super::super::names::DeviceName;
use super::btf::Types;
use super::lists::Virtual;

/// Most devices.
const MAX_DEVICES: usize = 1 << 16;
/// Most bytes of a device's or driver's name.
const MAX_NAME: usize = 256;

/// Reads the devices that are on a bus, of the set whose address is at `set`.
///
/// # Errors
///
/// They cannot be read.
pub(super) fn read(
    memory: Virtual<'_>,
    types: &Types,
    set: u64,
) -> Result<Vec<DeviceName>, String> {
    let [list] = types.offsets("kset", ["list"]).ok_or(NO_TYPES)?;
    let [entry, name] = types.offsets("kobject", ["entry", "name"]).ok_or(NO_TYPES)?;
    let [object, bus, driver] =
        types.offsets("device", ["kobj", "bus", "driver"]).ok_or(NO_TYPES)?;
    let [driver_name] = types.offsets("device_driver", ["name"]).ok_or(NO_TYPES)?;
    let head = memory.word(set).ok_or("their set cannot be read")?.wrapping_add(list);
    let mut devices = Vec::new();
    for at in memory.list(head, MAX_DEVICES)? {
        let kobject = at.wrapping_sub(entry);
        let device = kobject.wrapping_sub(object);
        let word = |at: u64| memory.word(at).ok_or("a device cannot be read");
        // What is on no bus has no driver: classes of devices, and their parts.
        if word(device.wrapping_add(bus))? == 0 {
            continue;
        }
        let text = |at: u64| memory.text(at, MAX_NAME);
        let Some(name) = text(word(kobject.wrapping_add(name))?) else { continue };
        let driver = match word(device.wrapping_add(driver))? {
            0 => None,
            driver => text(word(driver.wrapping_add(driver_name))?),
        };
        devices.push(DeviceName { name, driver });
    }
    Ok(devices)
}

const NO_TYPES: &str = "its types have no devices as they are known";
