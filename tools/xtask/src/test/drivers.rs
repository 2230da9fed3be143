//! The table of a Mac's drivers, compared with the kernel's source.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use oche::kernel_check::config;
use oche::kernel_check::devices::DEVICES;
use oche::kernel_check::rules::{COVERED, KernelOption, Release, Since, release_text};
use oche::progress::Step;

use crate::m1::device_tree::KernelSource;

/// What a source has of the kernel's options.
#[derive(Debug, Default, PartialEq, Eq)]
struct Source {
    /// The names of options.
    options: BTreeSet<String>,
    /// The objects that `Makefile`s name for an option.
    objects: BTreeMap<String, BTreeSet<String>>,
}

/// Compares every option of the table: whether this kernel has it, and its module's name.
///
/// # Errors
///
/// The table is wrong for this kernel, or the kernel is newer than the table.
pub(crate) fn run(source: &KernelSource, step: &Step) -> Result<String> {
    let top = source.options(step)?;
    let version = source.name();
    let version = version.rsplit(' ').next().unwrap_or_default();
    let release = config::release(version).context("the version of the kernel's source")?;
    ensure!(
        release <= COVERED.1,
        "Linux {} is newer than the table of a Mac's drivers: check each row against its source, and \
         move COVERED",
        release_text(release)
    );
    let mut found = Source::default();
    found.read(&top)?;
    let options: BTreeSet<_> = all().map(|option| option.name).collect();
    let wrong: Vec<String> = all().filter_map(|option| found.judge(option, release)).collect();
    if !wrong.is_empty() {
        bail!("the table of a Mac's drivers, by {}: {}", source.name(), wrong.join("; "));
    }
    Ok(format!("{} options in {}", options.len(), source.name()))
}

fn all() -> impl Iterator<Item = &'static KernelOption> {
    DEVICES.iter().flat_map(|device| device.options).flat_map(|any| any.iter())
}

impl Source {
    /// Reads the files below `folder`.
    fn read(&mut self, folder: &Path) -> Result<()> {
        let name = || format!("cannot read {}", folder.display());
        for entry in fs::read_dir(folder).with_context(name)? {
            let path = entry.with_context(name)?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                self.read(&path)?;
            } else if file == "Makefile" {
                self.makefile(&text(&path)?);
            } else if file.starts_with("Kconfig") {
                self.kconfig(&text(&path)?);
            }
        }
        Ok(())
    }

    fn kconfig(&mut self, text: &str) {
        let name = |line: &str| {
            let rest = line.strip_prefix("config ").or_else(|| line.strip_prefix("menuconfig "))?;
            Some(rest.trim().to_owned())
        };
        self.options.extend(text.lines().filter_map(|line| name(line.trim())));
    }

    /// Notes lines such as `obj-$(CONFIG_APPLE_DART) += apple-dart.o`, and folders that an option
    /// opens.
    fn makefile(&mut self, text: &str) {
        for line in text.replace("\\\n", " ").lines() {
            let Some((_, rest)) = line.split_once("$(CONFIG_") else { continue };
            let Some((option, rest)) = rest.split_once(')') else { continue };
            let Some((_, objects)) = rest.split_once('=') else { continue };
            let objects = objects.split_whitespace().filter_map(|word| word.strip_suffix(".o"));
            let known = self.objects.entry(option.to_owned()).or_default();
            known.extend(objects.map(str::to_owned));
        }
    }

    /// What the table has wrong about an option, for a kernel of this release.
    fn judge(&self, option: &KernelOption, release: Release) -> Option<String> {
        let name = option.name;
        let is_there = self.options.contains(name);
        let is_expected = match option.since {
            Since::Early => Some(true),
            Since::Unmerged => Some(false),
            Since::Mainline { present, .. } if release >= present => Some(true),
            Since::Mainline { absent, .. } if release <= absent => Some(false),
            Since::Mainline { .. } => None,
        };
        if is_expected.is_some_and(|is_expected| is_expected != is_there) {
            let there = if is_there { "there" } else { "not there" };
            return Some(format!("{name} is {there}, and the table has: {}", option.since.words()));
        }
        let module = option.module.filter(|_| is_there)?;
        let objects = self.objects.get(name);
        let is_named = objects.is_some_and(|objects| objects.contains(module));
        (!is_named).then(|| format!("{name} builds {objects:?}, and the table has {module}"))
    }
}

fn text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use oche::kernel_check::rules::{KernelOption, Since};

    use super::Source;

    fn source() -> Source {
        let mut source = Source::default();
        source.kconfig(
            "config APPLE_DART\n\ttristate \"DART\"\n\nmenuconfig USB_DWC3\n# config NO\n",
        );
        source.makefile("obj-$(CONFIG_APPLE_DART) += a.o \\\n\tapple-dart.o\nobj-y += b.o\n");
        source
    }

    fn option(name: &'static str, module: Option<&'static str>, since: Since) -> KernelOption {
        KernelOption { name, module, since, source: "" }
    }

    #[test]
    fn a_right_row_is_accepted_and_a_wrong_one_is_not() {
        let later = Since::Mainline { present: (7, 2), absent: (7, 0) };
        let judge =
            |name, module, since, release| source().judge(&option(name, module, since), release);
        let dart = Some("apple-dart");
        assert_eq!(judge("APPLE_DART", dart, Since::Early, (6, 1)), None);
        assert_eq!(judge("APPLE_DART", dart, later, (7, 2)), None);
        assert_eq!(judge("APPLE_DART", dart, later, (7, 1)), None, "not known");
        assert_eq!(judge("USB_DWC3", None, Since::Early, (6, 1)), None);
        assert_eq!(judge("NO", None, Since::Unmerged, (6, 1)), None);
        for (name, module, since) in [
            ("APPLE_DART", dart, later),
            ("APPLE_DART", dart, Since::Unmerged),
            ("APPLE_DART", Some("dart"), Since::Early),
            ("USB_DWC3", Some("dwc3"), Since::Early),
            ("NO", None, Since::Early),
        ] {
            assert!(judge(name, module, since, (7, 0)).is_some(), "{name}");
        }
    }
}
