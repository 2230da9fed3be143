//! A boot file as text.

use std::fmt;

use super::file::BootFile;
use super::payload::{Compression, Content, End, KernelPayload, Payload, TreePayload};
use super::taken::Taken;

impl fmt::Display for BootFile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.as_deref().unwrap_or("of a version that it does not name");
        writeln!(out, "m1n1     {version}, {} KiB", kib(self.m1n1_bytes))?;
        for payload in &self.payloads {
            write!(out, "{payload}")?;
        }
        writeln!(out, "end      {}", self.end)
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#010x} ", self.offset)?;
        let packed = match (self.compression, self.bytes) {
            (Some(Compression::Gzip), Some(bytes)) => format!(" (gzip, {} KiB)", kib(bytes)),
            (Some(Compression::Xz), Some(bytes)) => format!(" (xz, {} KiB)", kib(bytes)),
            _ => String::new(),
        };
        match &self.content {
            Content::Kernel(kernel) => {
                writeln!(out, "kernel, {} KiB{packed}", kib(kernel.bytes))?;
                fmt_kernel(kernel, out)
            }
            Content::DeviceTree(tree) => {
                writeln!(out, "device tree, {} KiB{packed}: {}", kib(tree.bytes), name(tree))
            }
            Content::Initramfs { bytes } => {
                writeln!(out, "initramfs, {} KiB{packed}", kib(*bytes))
            }
            Content::Variable { name, value } => {
                writeln!(out, "variable {}={}", plain(name), plain(value))
            }
            Content::Logo => writeln!(out, "logo"),
            Content::Signature => {
                writeln!(out, "signature, {} bytes", self.bytes.unwrap_or_default())
            }
        }
    }
}

fn fmt_kernel(kernel: &KernelPayload, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    if let Some(banner) = &kernel.banner {
        writeln!(out, "           {banner}")?;
    }
    let Some(contents) = &kernel.oche else {
        return writeln!(out, "           sha256 {}", kernel.sha256);
    };
    for line in contents.to_string().lines() {
        writeln!(out, "           {line}")?;
    }
    Ok(())
}

fn name(tree: &TreePayload) -> String {
    match tree.compatible.first() {
        Some(mac) if tree.model.is_empty() => plain(mac),
        Some(mac) => format!("{}, {}", plain(mac), plain(&tree.model)),
        None => "of no Mac".to_owned(),
    }
}

impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndOfFile => write!(out, "of the file"),
            Self::EndMark { offset } => write!(out, "mark at {offset:#x}"),
            Self::UncompressedKernel { bytes_behind, .. } => {
                write!(out, "at a kernel that is not compressed; {bytes_behind} bytes behind it")
            }
            Self::Unknown { offset, .. } => write!(out, "nothing that m1n1 knows, at {offset:#x}"),
            Self::Refused { offset, reason } => write!(out, "at {offset:#x}: {reason}"),
        }
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "\nm1n1 takes")?;
        let none = || "none".to_owned();
        let place = |offset: Option<u64>| offset.map_or_else(none, |it| format!("at {it:#x}"));
        writeln!(out, "kernel   {}", place(self.kernel))?;
        writeln!(out, "initrd   {}", place(self.initramfs))?;
        for (mac, offset) in &self.trees {
            writeln!(out, "tree     at {offset:#x} on {}", plain(mac))?;
        }
        for (name, value) in &self.chosen {
            writeln!(out, "chosen   {}={}", plain(name), plain(value))?;
        }
        for warning in &self.warnings {
            writeln!(out, "warning: {}", plain(warning))?;
        }
        for error in &self.errors {
            writeln!(out, "error: {}", plain(error))?;
        }
        Ok(())
    }
}

/// `text` without what a terminal carries out.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

fn kib(bytes: u64) -> u64 {
    bytes.div_ceil(1024)
}
