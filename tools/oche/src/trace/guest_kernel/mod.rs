//! A Linux kernel's own names, read out of the guest's memory: its functions and those of its
//! modules, with their addresses as they run, and its devices with their drivers.
//!
//! ```text
//! memory -> tables (kallsyms) -> image (checked against its page tables) -> modules, devices
//! ```
//!
//! Everything in a guest's memory is untrusted and may change as it is read: each value is checked,
//! each loop has an end. What does not fit is left out with a line that says why; nothing is
//! guessed.

use anyhow::{Result, bail};

use super::description::plain;
use super::names::{Function, Names};
use btf::Types;
use image::Image;
use lists::Virtual;
use memory::Memory;
use tables::is_function;

pub use memory::{GuestMemory, RamFile};

mod btf;
mod devices;
mod image;
mod lists;
mod memory;
mod modules;
mod tables;
mod walk;

/// The remedy where the kernel's own tables cannot be read.
const REMEDY: &str = "copy /proc/kallsyms as root in the guest, and add it with \
                      `oche trace symbols FILE --add kallsyms`";

/// Reads the names of the kernel that runs in `memory`.
///
/// # Errors
///
/// No running arm64 Linux kernel with `CONFIG_KALLSYMS` is there (yet), or its tables are damaged.
pub fn read(memory: &dyn GuestMemory) -> Result<Names> {
    let (found, mut refused) = tables::find(memory);
    let mut images = Vec::new();
    for tables in found {
        let at = tables.at;
        match Image::find(Memory(memory), tables) {
            Ok(image) => images.push(image),
            Err(why) => refused.push(format!("at {at:#x}: {why}")),
        }
    }
    let mut images = images.into_iter();
    match (images.next(), images.next()) {
        (Some(image), None) => Ok(names_of(memory, &image)),
        (Some(_), Some(_)) => {
            bail!("the guest's memory holds two kernels that may run: {REMEDY}")
        }
        (None, _) if refused.is_empty() => bail!(
            "the guest's memory holds no Linux kernel's table of names (CONFIG_KALLSYMS): {REMEDY}"
        ),
        (None, _) => bail!(
            "the guest's memory holds no running Linux kernel's names ({}): {REMEDY}",
            refused.join("; ")
        ),
    }
}

fn names_of(memory: &dyn GuestMemory, image: &Image) -> Names {
    let functions = image.symbols().filter(|(_, symbol)| is_function(symbol.kind));
    let functions = functions.map(|(address, symbol)| Function {
        address,
        name: plain(symbol.name),
        module: None,
    });
    let mut names = Names {
        kernel: image.release.clone(),
        functions: functions.collect(),
        devices: Vec::new(),
        missing: Vec::new(),
    };
    match structures(Memory(memory), image) {
        Ok((memory, types)) => {
            add_modules(&mut names, memory, &types, image);
            add_devices(&mut names, memory, &types, image);
        }
        Err(why) => {
            names.missing.push(format!("the functions of modules: {why}; {REMEDY}"));
            names.missing.push(format!("the devices' drivers: {why}"));
        }
    }
    names
}

/// Adds the functions of the modules, or why they are not known.
fn add_modules(names: &mut Names, memory: Virtual<'_>, types: &Types, image: &Image) {
    let read = match image.symbol("modules") {
        Some(head) => modules::read(memory, types, head),
        None => Err(format!("{NO_DATA} (CONFIG_MODULES)")),
    };
    match read {
        Ok(read) => {
            names.functions.extend(read.functions);
            let missing = read.missing.into_iter();
            names.missing.extend(missing.map(|why| format!("the functions of {why}; {REMEDY}")));
        }
        Err(why) => names.missing.push(format!("the functions of modules: {why}; {REMEDY}")),
    }
}

/// Adds the devices, or why they are not known.
fn add_devices(names: &mut Names, memory: Virtual<'_>, types: &Types, image: &Image) {
    let read = match image.symbol("devices_kset") {
        Some(set) => devices::read(memory, types, set),
        None => Err(NO_DATA.into()),
    };
    match read {
        Ok(devices) => names.devices = devices,
        Err(why) => names.missing.push(format!("the devices' drivers: {why}")),
    }
}

/// Why a structure of the kernel is not found.
const NO_DATA: &str = "the kernel's data has no names (CONFIG_KALLSYMS_ALL)";

/// The kernel's virtual memory, and the types of what is there.
fn structures<'a>(memory: Memory<'a>, image: &Image) -> Result<(Virtual<'a>, Types), String> {
    let memory = Virtual::new(memory, image).ok_or(NO_DATA)?;
    let ends = image.symbol("__start_BTF").zip(image.symbol("__stop_BTF"));
    let (start, end) =
        ends.ok_or("the kernel does not describe its structures (CONFIG_DEBUG_INFO_BTF)")?;
    let bytes = Types::length(start, end).and_then(|length| memory.bytes(start, length));
    let types = match bytes {
        Some(bytes) => Types::parse(&bytes),
        None => Err("they cannot be read".into()),
    };
    types.map(|types| (memory, types)).map_err(|why| format!("the kernel's types (BTF): {why}"))
}

#[cfg(test)]
mod tests;
