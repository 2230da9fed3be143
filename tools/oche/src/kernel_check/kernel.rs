//! What a kernel's file is: Linux or U-Boot, its version, page size and byte order.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use oche_boot::banner;
use oche_boot::header::{self, KernelError};
use oche_types::identity;

use super::config;
use super::rules::Release;
use crate::pack::kernel_image::{self, KernelImage, Packing};

/// What a kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KernelKind {
    /// Linux.
    Linux,
    /// U-Boot, `u-boot-nodtb.bin`.
    UBoot,
}

/// A kernel that was recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFile {
    /// What it is.
    pub kind: KernelKind,
    /// Its banner, such as `Linux version 6.12.118+deb13-arm64 (...)`.
    pub banner: String,
    /// How the file was compressed; none for a kernel that was taken as it is in memory.
    pub packing: Option<Packing>,
    /// The page size in bytes, or 0 if the header gives none.
    pub page_bytes: u64,
    /// Whether it is big-endian.
    pub is_big_endian: bool,
    /// The arm64 Image.
    pub image: Vec<u8>,
}

impl KernelFile {
    /// Reads a kernel's file. One with 64 KiB pages, or a big-endian one, is read too.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is neither a Linux kernel nor U-Boot for arm64.
    pub fn read(file: &Path) -> Result<Self> {
        let name = file.display();
        let bytes = fs::read(file).with_context(|| format!("cannot read the kernel {name}"))?;
        let what = || format!("{name} cannot be checked");
        let (image, packing) = kernel_image::expand(bytes).with_context(what)?;
        Self::recognised(image, Some(packing)).with_context(what)
    }

    /// Takes a kernel that is about to be packed.
    ///
    /// # Errors
    ///
    /// It is neither Linux nor U-Boot.
    pub fn of_image(image: &KernelImage) -> Result<Self> {
        Self::recognised(image.bytes().to_vec(), None)
    }

    fn recognised(image: Vec<u8>, packing: Option<Packing>) -> Result<Self> {
        let is_big_endian = match header::parse_kernel(&image, image.len() as u64) {
            Ok(_) | Err(KernelError::Pages64K) => false,
            Err(KernelError::BigEndian) => true,
            Err(error) => return Err(kernel_image::refusal(error, image.len())),
        };
        if identity::find(&image).is_some() {
            bail!("Oche is in it: name the kernel that was packed with it");
        }
        let Some(banner) = banner::find(&image).map(str::to_owned) else {
            bail!("it is an arm64 Image of neither Linux nor U-Boot: name a kernel of Linux");
        };
        let kind = if banner::is_u_boot(&image) { KernelKind::UBoot } else { KernelKind::Linux };
        let page_bytes = kernel_image::page_bytes(&image);
        Ok(Self { kind, banner, packing, page_bytes, is_big_endian, image })
    }

    /// The version, such as `6.12.118+deb13-arm64`, which names the folder of its modules; for
    /// U-Boot such as `2025.01-3`.
    #[must_use]
    pub fn version(&self) -> &str {
        let word = if self.kind == KernelKind::UBoot { 1 } else { 2 };
        self.banner.split(' ').nth(word).unwrap_or_default()
    }

    /// The release of Linux, if it is Linux and the version can be read.
    #[must_use]
    pub fn release(&self) -> Option<Release> {
        (self.kind == KernelKind::Linux).then(|| config::release(self.version())).flatten()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::path::Path;

    use oche_boot::header;
    use oche_types::identity;

    use super::{KernelFile, KernelKind};
    use crate::pack::kernel_image::Packing;

    /// An arm64 Image with `banner` in it. The flags are the header's: bits 2:1 give the page size.
    pub(in crate::kernel_check) fn image(flags: u8, banner: &str) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        bytes[header::IMAGE_SIZE..header::IMAGE_SIZE + 8]
            .copy_from_slice(&0x1_0000_u64.to_le_bytes());
        bytes[header::FLAGS] = flags;
        bytes[header::MAGIC_OFFSET..header::MAGIC_OFFSET + 4].copy_from_slice(&header::MAGIC);
        bytes[700..700 + banner.len()].copy_from_slice(banner.as_bytes());
        bytes
    }

    const LINUX: &str = "Linux version 6.12.118+deb13-arm64 (debian-kernel@example) #1 SMP\n";

    fn read(bytes: &[u8]) -> anyhow::Result<KernelFile> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("vmlinuz");
        fs::write(&file, bytes).expect("written");
        KernelFile::read(&file)
    }

    fn refusal(bytes: &[u8]) -> String {
        format!("{:#}", read(bytes).expect_err("refused"))
    }

    #[test]
    fn linux_and_u_boot_are_recognised() {
        let linux = read(&image(0b1010, LINUX)).expect("Linux");
        assert_eq!((linux.kind, linux.version()), (KernelKind::Linux, "6.12.118+deb13-arm64"));
        assert_eq!((linux.release(), linux.page_bytes), (Some((6, 12)), 4096));
        assert_eq!(linux.packing, Some(Packing::Raw));
        let u_boot = read(&image(0b1010, "U-Boot 2025.01-3 (Apr 08 2025)\n")).expect("U-Boot");
        assert_eq!((u_boot.kind, u_boot.version()), (KernelKind::UBoot, "2025.01-3"));
        assert_eq!(u_boot.release(), None);
    }

    #[test]
    fn kernels_that_oche_refuses_are_read_all_the_same() {
        assert_eq!(read(&image(0b1110, LINUX)).expect("Linux").page_bytes, 64 << 10);
        assert!(read(&image(0b1011, LINUX)).expect("Linux").is_big_endian);
    }

    #[test]
    fn other_files_are_refused_in_one_line() {
        assert!(refusal(&image(0b1010, "")).contains("neither Linux nor U-Boot"));
        let mut packed = image(0b1010, LINUX);
        packed[4096..4096 + identity::RECORD_BYTES]
            .copy_from_slice(&identity::record("m1", "9.8.7"));
        assert!(refusal(&packed).contains("Oche is in it"));
        assert!(refusal(b"#!/bin/sh\n").contains("only 10 bytes long"));
        assert!(refusal(&[0x7f; 4096]).contains("not an arm64 Image"));
        assert!(refusal(b"MZ\0\0zimg\x40\0\0\0\xff\xff\0\0").contains("zboot"));
        let mut zboot = b"MZ\0\0zimg".to_vec();
        zboot.extend([0x40, 0, 0, 0, 0xff, 0xff, 0, 0]);
        zboot.resize(64, 0);
        assert!(refusal(&zboot).contains("outside the file"), "{}", refusal(&zboot));
        let error = KernelFile::read(Path::new("/no/such")).expect_err("refused").to_string();
        assert!(error.contains("cannot read the kernel /no/such"), "{error}");
    }
}
