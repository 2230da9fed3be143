//! The guest's own names, kept inside a trace: functions, modules, devices and their drivers.
//!
//! A chunk of names has the number of its text's bytes, and the text, compressed as zlib does. The
//! text has a line each, its first word says what of:
//!
//! ```text
//! kernel Linux version 6.12.118+deb13-arm64 ...
//! missing names of modules: the kernel has no CONFIG_DEBUG_INFO_BTF
//! device 0000:00:01.0 nvme
//! ffff800008012340 nvme_map_data nvme
//! ffff800008000000 _stext
//! ```
//!
//! A function's line has its address in hexadecimal, its name, and its module where it is one's.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write as _};

use anyhow::{Context, Result, bail};
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

use super::description::plain;
use super::format::word;

/// The longest text that is read, in bytes: a kernel with all its modules has some 10 MB.
const LONGEST: u64 = 128 << 20;
/// The longest text before the functions that is read for the devices alone, in bytes.
const LONGEST_DEVICES: u64 = 4 << 20;
/// Where the compressed text begins in the chunk's payload.
const TEXT_OFFSET: usize = 16;

/// What the guest calls its code and its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The kernel's banner; empty where it is not known.
    pub kernel: String,
    /// What is not known, why, and the remedy: a line each.
    pub missing: Vec<String>,
    /// The devices.
    pub devices: Vec<DeviceName>,
    /// The functions, in any order.
    pub functions: Vec<Function>,
}

/// A function of the kernel or of a module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Function {
    /// Its virtual address.
    pub address: u64,
    /// Its name, one word.
    pub name: String,
    /// The module that it is in; `None` for the kernel itself.
    pub module: Option<String>,
}

/// A device of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceName {
    /// Its name, as in `/sys/bus/*/devices`.
    pub name: String,
    /// The driver that is bound to it.
    pub driver: Option<String>,
}

impl Names {
    /// The devices that have a driver, and its name.
    pub fn bound(&self) -> impl Iterator<Item = (&str, &str)> {
        self.devices.iter().filter_map(|of| Some((&*of.name, of.driver.as_deref()?)))
    }

    /// The payload of the chunk.
    pub fn to_payload(&self) -> Vec<u8> {
        let text = self.text();
        let mut payload = (text.len() as u64).to_le_bytes().to_vec();
        let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        // Writing to a Vec does not fail.
        let _ = encoder.write_all(text.as_bytes());
        let compressed = encoder.finish().unwrap_or_default();
        payload.extend((compressed.len() as u64).to_le_bytes());
        payload.extend(compressed);
        payload
    }

    /// The names in a chunk's payload.
    ///
    /// # Errors
    ///
    /// It is damaged, or too long.
    pub fn from_payload(payload: &[u8]) -> Result<Self> {
        let wanted = word(payload, 0).context("it has no length")?;
        let bytes = word(payload, 8).and_then(|bytes| usize::try_from(bytes).ok());
        let compressed = bytes
            .and_then(|bytes| payload.get(TEXT_OFFSET..TEXT_OFFSET.checked_add(bytes)?))
            .context("it is shorter than it says")?;
        if wanted > LONGEST {
            bail!("it has {wanted} bytes of text, and at most {LONGEST} are read");
        }
        let mut text = Vec::new();
        ZlibDecoder::new(compressed).take(LONGEST).read_to_end(&mut text)?;
        if text.len() as u64 != wanted {
            bail!("it has {} bytes of text instead of {wanted}", text.len());
        }
        Ok(Self::parse(&String::from_utf8_lossy(&text)))
    }

    /// The devices in a chunk's payload, which come before the functions: they alone are unpacked.
    /// What is damaged is left out.
    pub fn devices_in(payload: &[u8]) -> Self {
        let compressed = payload.get(TEXT_OFFSET..).unwrap_or_default();
        let mut lines = BufReader::new(ZlibDecoder::new(compressed).take(LONGEST_DEVICES)).lines();
        let mut text = String::new();
        while let Some(Ok(line)) = lines.next() {
            let first = line.split(' ').next().unwrap_or_default();
            if u64::from_str_radix(first, 16).is_ok() {
                break;
            }
            text.push_str(&line);
            text.push('\n');
        }
        Self::parse(&text)
    }

    /// The names in a copy of `/proc/kallsyms` or in a `System.map`: its code.
    pub fn from_kallsyms(text: &str) -> Self {
        Self { functions: text.lines().filter_map(kallsyms_line).collect(), ..Self::default() }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if !self.kernel.is_empty() {
            let _ = writeln!(text, "kernel {}", one_line(&self.kernel));
        }
        for missing in &self.missing {
            let _ = writeln!(text, "missing {}", one_line(missing));
        }
        for DeviceName { name, driver } in &self.devices {
            let driver = driver.as_deref().map(plain).unwrap_or_default();
            let _ = writeln!(text, "device {} {driver}", plain(name));
        }
        for Function { address, name, module } in &self.functions {
            let module = module.as_deref().map(plain).unwrap_or_default();
            let _ = writeln!(text, "{address:x} {} {module}", plain(name));
        }
        text
    }

    /// Lines of no known form are those of a later version, and left out.
    fn parse(text: &str) -> Self {
        let mut names = Self::default();
        for line in text.lines() {
            let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
            match first {
                "kernel" => names.kernel = one_line(rest),
                "missing" => names.missing.push(one_line(rest)),
                "device" => {
                    let mut words = rest.split_ascii_whitespace();
                    let Some(name) = words.next() else { continue };
                    names
                        .devices
                        .push(DeviceName { name: plain(name), driver: words.next().map(plain) });
                }
                address => names.functions.extend(function(address, rest)),
            }
        }
        names
    }
}

fn function(address: &str, rest: &str) -> Option<Function> {
    let address = u64::from_str_radix(address, 16).ok()?;
    let mut words = rest.split_ascii_whitespace();
    Some(Function { address, name: plain(words.next()?), module: words.next().map(plain) })
}

/// Understands `ffff800008000000 T _text` and, from kallsyms, `ffff... t apple_dart_probe
/// [apple_dart]`. What is no code is left out.
fn kallsyms_line(line: &str) -> Option<Function> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let kind = words.next()?;
    let name = words.next()?;
    // `$x` and `$d` mark code and data for disassemblers.
    if !matches!(kind, "t" | "T" | "w" | "W") || name.starts_with('$') {
        return None;
    }
    let module = words.next().map(|word| plain(word.trim_matches(['[', ']'])));
    Some(Function { address, name: plain(name), module })
}

/// `text` as one line that is safe on a terminal.
fn one_line(text: &str) -> String {
    text.trim().chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

#[cfg(test)]
mod tests;
