//! What `oche pack` warns of, in the words of `oche check-kernel`.

use std::path::Path;

use anyhow::Result;

use super::config;
use super::initrd::InitrdModules;
use super::judgement::{Judgement, Known, Verdict, judge};
use super::kernel::{KernelFile, KernelKind};
use super::rules::Need;
use crate::pack::kernel_image::KernelImage;

/// What to warn of before a kernel is packed for a Mac, a line each. `file` is where the kernel
/// came from, and `initrd` the one that is packed with it.
///
/// There is no line for U-Boot, which has drivers of its own, and none for a kernel that is neither
/// Linux nor U-Boot, of which nothing is known.
#[must_use]
pub fn of_packed(image: &KernelImage, file: &Path, initrd: Option<&Path>) -> Vec<String> {
    let Ok(kernel) = KernelFile::of_image(image) else { return Vec::new() };
    if kernel.kind == KernelKind::UBoot {
        return Vec::new();
    }
    of_kernel(&kernel, file, initrd)
        .unwrap_or_else(|error| vec![format!("the kernel's drivers cannot be told: {error:#}")])
}

fn of_kernel(kernel: &KernelFile, file: &Path, initrd: Option<&Path>) -> Result<Vec<String>> {
    let found = config::find(None, &kernel.image, file, Some(kernel.version()))?;
    let initrd = initrd.map(InitrdModules::read).transpose();
    let judgement = judge(&Known {
        release: kernel.release(),
        version: kernel.version(),
        page_bytes: kernel.page_bytes,
        is_big_endian: kernel.is_big_endian,
        config: found.as_ref().map(|(config, _)| config),
        tree: None,
        initrd: initrd.as_ref().ok().and_then(Option::as_ref),
    });
    let mut lines = lines(&judgement, file);
    if let Err(error) = initrd {
        lines.push(format!("the modules in the initrd cannot be told: {error:#}"));
    }
    Ok(lines)
}

fn lines(judgement: &Judgement, file: &Path) -> Vec<String> {
    let command = format!("oche check-kernel {}", file.display());
    let Some(is_usable) = judgement.is_usable else {
        let reasons =
            judgement.reasons.join("; ").replace("--config", &format!("`{command} --config`"));
        return vec![reasons];
    };
    let mut lines: Vec<String> = match is_usable {
        true => Vec::new(),
        false => judgement.reasons.iter().map(|it| format!("not usable: {it}")).collect(),
    };
    lines.extend(judgement.notes.iter().filter(|note| !note.contains("--initrd")).cloned());
    let missing = judgement
        .devices
        .iter()
        .filter(|device| device.need == Need::Use && device.verdict == Verdict::Missing);
    let missing: Vec<&str> = missing.map(|device| device.name).collect();
    if !missing.is_empty() {
        lines.push(format!("missing: {}; `{command}` has the reasons", missing.join(", ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::of_packed;
    use crate::kernel_check::initrd::tests::archive;
    use crate::kernel_check::judgement::tests::{DEBIAN, FEDORA};
    use crate::kernel_check::kernel::tests::image;
    use crate::pack::kernel_image::KernelImage;

    const VERSION: &str = "6.17.7-300.fc43.aarch64";

    fn warnings(banner: &str, flags: u8, config: &str, initrd: Option<&[u8]>) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        if !config.is_empty() {
            fs::write(folder.path().join(format!("config-{VERSION}")), config).expect("written");
        }
        let packed = folder.path().join("initrd.img");
        if let Some(bytes) = initrd {
            fs::write(&packed, bytes).expect("written");
        }
        let image = KernelImage::from_bytes(image(flags, banner)).expect("a kernel");
        let initrd = initrd.map(|_| packed.as_path());
        of_packed(&image, &folder.path().join("vmlinuz"), initrd)
    }

    fn linux() -> String {
        format!("Linux version {VERSION} (x@y) #1\n")
    }

    #[test]
    fn a_usable_kernel_is_warned_of_in_two_lines() {
        let lines = warnings(&linux(), 0b1010, FEDORA, None);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("a MacBook has no keyboard"), "{lines:?}");
        assert!(lines[1].starts_with("missing: keyboard and trackpad, USB-C ports"), "{lines:?}");
        assert!(lines[1].contains("`oche check-kernel "), "{lines:?}");
    }

    #[test]
    fn an_unusable_kernel_is_warned_of_with_its_reasons() {
        let lines = warnings(&linux(), 0b1010, DEBIAN, None);
        assert!(
            lines[0].starts_with("not usable: interrupts and power domains: CONFIG_ARCH_APPLE")
        );
        assert!(lines.iter().any(|line| line.contains("internal SSD")), "{lines:?}");
        let lines = warnings(&linux(), 0b1010, FEDORA, Some(&archive(&["init"])));
        assert!(lines[0].contains("the initrd lacks nvme-apple"), "{lines:?}");
    }

    #[test]
    fn what_cannot_be_told_is_said_and_packing_goes_on() {
        let lines = warnings(&linux(), 0b1010, "", None);
        assert!(lines[0].contains("cannot be told") && lines[0].contains("vmlinuz --config"));
        let lines = warnings(&linux(), 0b1010, "nothing", None);
        assert!(lines[0].contains("cannot be told") && lines[0].contains("no kernel config"));
        let lines = warnings(&linux(), 0b1010, FEDORA, Some(b"#!/bin/sh"));
        assert!(lines.last().is_some_and(|line| line.contains("in the initrd cannot be told")));
    }

    #[test]
    fn other_kernels_bring_no_warning() {
        assert!(warnings("U-Boot 2025.01 (x)\n", 0b1010, "", None).is_empty());
        assert!(warnings("", 0b1010, "", None).is_empty());
        let pages_16k = warnings(&linux(), 0b1100, FEDORA, None);
        assert!(pages_16k[0].contains("without Oche"), "{pages_16k:?}");
    }
}
