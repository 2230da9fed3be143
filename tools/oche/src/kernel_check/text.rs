//! The report of a check, for people and for programs.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::config::ConfigSource;
use super::device_tree::MacTree;
use super::judgement::{DeviceVerdict, Judgement, Verdict};
use super::kernel::{KernelFile, KernelKind};

/// What was found about a kernel.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) kernel: &'a KernelFile,
    pub(super) config: Option<&'a ConfigSource>,
    pub(super) tree: Option<&'a MacTree>,
    pub(super) initrd: Option<String>,
    /// None for U-Boot.
    pub(super) judgement: Option<&'a Judgement>,
}

/// What `oche check-kernel --json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KernelAnswer<'a> {
    kernel: KernelFacts<'a>,
    /// Where the kernel's configuration was found.
    config: Option<String>,
    /// The Mac whose device tree was given.
    mac: Option<MacFacts<'a>>,
    /// What was said of the initrd.
    initrd: Option<&'a str>,
    /// None for U-Boot.
    judgement: Option<&'a Judgement>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct KernelFacts<'a> {
    kind: KernelKind,
    version: &'a str,
    banner: &'a str,
    /// How the file was compressed.
    packing: Option<String>,
    /// 0: its header does not give a size.
    page_bytes: u64,
    is_big_endian: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct MacFacts<'a> {
    model: &'a str,
    compatible: &'a str,
}

impl Report<'_> {
    /// The same as [`fmt::Display`] writes, for programs.
    pub(super) fn json(&self) -> Value {
        let kernel = self.kernel;
        json!(KernelAnswer {
            kernel: KernelFacts {
                kind: kernel.kind,
                version: kernel.version(),
                banner: &kernel.banner,
                packing: kernel.packing.as_ref().map(ToString::to_string),
                page_bytes: kernel.page_bytes,
                is_big_endian: kernel.is_big_endian,
            },
            config: self.config.map(ToString::to_string),
            mac: self.tree.map(|mac| MacFacts { model: &mac.model, compatible: &mac.compatible }),
            initrd: self.initrd.as_deref(),
            judgement: self.judgement,
        })
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = self.kernel;
        let packing = kernel.packing.as_ref().map(|it| format!(", {it}")).unwrap_or_default();
        let version = kernel.version();
        let Some(judgement) = self.judgement else {
            writeln!(out, "kernel   U-Boot {version}{packing}")?;
            return writeln!(
                out,
                "\nU-Boot has drivers of its own. Check the kernel that it starts, such as /boot/vmlinuz."
            );
        };
        let pages = match kernel.page_bytes {
            0 => "pages of a size that its header does not give".to_owned(),
            bytes => format!("{} KiB pages", bytes >> 10),
        };
        let order = if kernel.is_big_endian { "big-endian" } else { "little-endian" };
        writeln!(out, "kernel   Linux {version}, {pages}, {order}{packing}")?;
        match self.config {
            Some(source) => writeln!(out, "config   {source}")?,
            None => writeln!(out, "config   none found: name it by --config")?,
        }
        match self.tree {
            Some(mac) => writeln!(out, "Mac      {} ({})", mac.model, mac.compatible)?,
            None => writeln!(out, "Mac      any M1: --device-tree FILE restricts it to one")?,
        }
        if let Some(initrd) = &self.initrd {
            writeln!(out, "initrd   {initrd}")?;
        }
        writeln!(out)?;
        let width = judgement.devices.iter().map(|device| device.name.len()).max().unwrap_or(0);
        for device in &judgement.devices {
            let (word, details) = (word(device.verdict), details(device));
            let line = format!("{word:<8} {:width$}  {details}", device.name);
            writeln!(out, "{}", line.trim_end())?;
        }
        writeln!(out)?;
        end(judgement, out)
    }
}

/// The verdict on the whole kernel.
fn end(judgement: &Judgement, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    for note in &judgement.notes {
        writeln!(out, "note: {note}")?;
    }
    match judgement.is_usable {
        Some(true) => {
            writeln!(out, "usable: it has what it needs to start from the internal SSD on Oche")
        }
        Some(false) => {
            for reason in &judgement.reasons {
                writeln!(out, "not usable: {reason}")?;
            }
            writeln!(out, "docs/kernels.md lists kernels of distributions that have the drivers")
        }
        None => judgement.reasons.iter().try_for_each(|reason| writeln!(out, "unknown: {reason}")),
    }
}

/// A verdict in one word.
pub(super) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::BuiltIn => "built in",
        Verdict::Module => "module",
        Verdict::Missing => "missing",
        Verdict::Unknown => "unknown",
    }
}

/// What a line says about a device besides the verdict.
fn details(device: &DeviceVerdict) -> String {
    let mut details = match device.verdict {
        Verdict::Missing => device.reasons.join("; "),
        _ => device.modules.join(", "),
    };
    if let Some(note) = device.note {
        details = match details.is_empty() {
            true => format!("({note})"),
            false => format!("{details} ({note})"),
        };
    }
    details
}
