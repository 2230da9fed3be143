//! The modules in an initrd.
//!
//! An initrd is one or more cpio archives, each plain or compressed, with zeros between them.
//! Source: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cpio::newc;

/// The most bytes that are expanded of an initrd, in all.
const EXPANDED_LIMIT: u64 = 2 << 30;
/// The most memory that a decoder may ask for, in KiB.
const DECODER_KIB_LIMIT: u32 = 1 << 20;
/// A compressed archive has plain ones inside; anything deeper is not one that Linux unpacks.
const NESTING_LIMIT: u32 = 1;
/// What a damaged initrd needs.
const DAMAGED: &str = "it is damaged or cut short: build it again";

/// The modules in an initrd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitrdModules {
    /// Their names, with `_` for `-`.
    names: BTreeSet<String>,
    /// The kernels that they are for, such as `6.12.118+deb13-arm64`.
    versions: BTreeSet<String>,
    expanded: u64,
}

impl InitrdModules {
    /// Reads an initrd's file.
    ///
    /// # Errors
    ///
    /// It cannot be read, is none, is damaged, or compressed in a way that is not known.
    pub fn read(file: &Path) -> Result<Self> {
        let name = file.display();
        let bytes = fs::read(file).with_context(|| format!("cannot read the initrd {name}"))?;
        Self::parse(&bytes).with_context(|| format!("the initrd {name}"))
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut modules = Self::default();
        modules.take(bytes, 0)?;
        if modules.expanded == 0 {
            bail!("no archive is in it: name an initrd");
        }
        Ok(modules)
    }

    /// Whether the module is there, for the kernel of this version.
    #[must_use]
    pub fn has(&self, module: &str) -> bool {
        self.names.contains(&plain(module))
    }

    /// The kernels that the modules are for, if this version's is not one of them.
    #[must_use]
    pub fn is_for_others_than(&self, version: &str) -> Option<String> {
        if self.versions.is_empty() || self.versions.contains(version) {
            return None;
        }
        Some(self.versions.iter().cloned().collect::<Vec<_>>().join(", "))
    }

    /// Reads every archive in `rest`.
    fn take(&mut self, mut rest: &[u8], nesting: u32) -> Result<()> {
        loop {
            let zeros = rest.iter().take_while(|byte| **byte == 0).count();
            rest = rest.get(zeros..).unwrap_or_default();
            if rest.is_empty() {
                return Ok(());
            }
            if rest.starts_with(b"07070") {
                rest = self.archive(rest).context(DAMAGED)?;
                continue;
            }
            if nesting == NESTING_LIMIT {
                bail!("there is no cpio archive inside its compression: name an initrd");
            }
            let (expanded, left) = self.expanded(rest)?;
            self.take(&expanded, nesting + 1)?;
            rest = left;
        }
    }

    /// Reads one archive; returns what follows it.
    fn archive<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        self.expanded = self.expanded.max(1);
        let mut rest = bytes;
        loop {
            let entry = newc::Reader::new(rest)?;
            let is_trailer = entry.entry().is_trailer();
            self.name(entry.entry().name());
            rest = entry.finish()?;
            if is_trailer {
                return Ok(rest);
            }
        }
    }

    /// Notes a file's name, if it is a module's.
    fn name(&mut self, path: &str) {
        let Some((_, below)) = path.split_once("lib/modules/") else { return };
        let Some((version, below)) = below.split_once('/') else { return };
        let file = below.rsplit('/').next().unwrap_or_default();
        let Some((module, ending)) = file.split_once(".ko") else { return };
        if matches!(ending, "" | ".xz" | ".zst" | ".gz") {
            self.names.insert(plain(module));
            self.versions.insert(version.to_owned());
        }
    }

    /// Expands what `packed` begins with; returns it and what follows.
    fn expanded<'a>(&mut self, packed: &'a [u8]) -> Result<(Vec<u8>, &'a [u8])> {
        const GZIP: &[u8] = &[0x1f, 0x8b];
        const XZ: &[u8] = b"\xfd7zXZ\0";
        const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
        if packed.starts_with(GZIP) {
            let mut decoder = flate2::bufread::GzDecoder::new(packed);
            return Ok((self.whole(&mut decoder)?, decoder.into_inner()));
        }
        if packed.starts_with(XZ) {
            let mut decoder = lzma_rust2::XzReader::new_mem_limit(packed, false, DECODER_KIB_LIMIT);
            return Ok((self.whole(&mut decoder)?, decoder.into_inner()));
        }
        if packed.starts_with(ZSTD) {
            let mut decoder = ruzstd::decoding::StreamingDecoder::new(packed).context(DAMAGED)?;
            return Ok((self.whole(&mut decoder)?, decoder.into_inner()));
        }
        let programs: [(&[u8], &str); 5] = [
            (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
            (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
            (b"BZh", "bzip2"),
            (b"\x89LZO", "lzop"),
            (&[0x5d, 0, 0], "lzma"),
        ];
        match programs.iter().find(|(magic, _)| packed.starts_with(magic)) {
            Some((_, program)) => bail!(
                "a part of it is compressed with {program}: expand it (`{program} -dc`) and name the result"
            ),
            None => bail!("it is no initrd: there is no cpio archive"),
        }
    }

    fn whole(&mut self, decoder: &mut impl Read) -> Result<Vec<u8>> {
        let limit = EXPANDED_LIMIT - self.expanded;
        let mut expanded = Vec::new();
        decoder.take(limit + 1).read_to_end(&mut expanded).context(DAMAGED)?;
        if expanded.len() as u64 > limit {
            bail!("it expands to more than {} GiB: no initrd does", EXPANDED_LIMIT >> 30);
        }
        self.expanded += expanded.len() as u64;
        Ok(expanded)
    }
}

/// A module's name as the kernel writes it: files have `-` where it has `_`.
fn plain(module: &str) -> String {
    module.replace('-', "_")
}

#[cfg(test)]
#[path = "initrd/tests.rs"]
pub(super) mod tests;
