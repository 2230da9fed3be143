//! What drives a device of an M1 Mac: kernel options, and since which Linux they exist. The devices
//! are in [`super::devices`].
//!
//! Sources, by which every row was checked:
//! - *Kconfig*: the option stands in `Kconfig` files of Debian's linux-source 6.1.176, 7.2.13 and
//!   7.3.4; the file is named in each row, as 7.2 has it. Names of modules: the `Makefile` beside.
//!   `cargo xtask test --only kernels` compares each row with 6.1, and `cargo xtask nightly` with
//!   the newest that Debian's sid has.
//! - *Fedora*: first release whose `kernel-aarch64-fedora.config` names the option, of 80 releases
//!   from 5.17.3 to 7.2-rc6 (github.com/projg2/fedora-kernel-config-for-gentoo, its tags up to
//!   6.8.2; github.com/bazzite-org/kernel-bazzite, its tags from 6.11.3 to 6.17.7;
//!   github.com/ClangBuiltLinux/rpms_kernel, its branches f41 to f44, stabilization and rawhide).
//! - *Asahi*: the page on the M1 under `platform/feature-support`, at 32950db06e66 of 2026-04-17
//!   (github.com/AsahiLinux/docs).
//!
//! Compatible strings: `arch/arm64/boot/dts/apple/t8103*` and the drivers' match tables, 7.3.4.

/// A Linux release, such as 6.12.
pub type Release = (u32, u32);

/// The oldest and the newest Linux whose sources were read for this table.
pub const COVERED: (Release, Release) = ((6, 1), (7, 3));

/// Since which mainline Linux a driver exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Linux 6.1 or earlier.
    Early,
    /// The first release known to have it, and the last known not to have it. Where a release lies
    /// between them, it is not known which was the first.
    Mainline {
        /// It is there.
        present: Release,
        /// It is not there yet.
        absent: Release,
    },
    /// In no mainline Linux up to [`COVERED`]'s end; the Asahi project's kernels have it.
    Unmerged,
}

impl Since {
    /// When that is, in words.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Early => format!("{} or earlier", release_text(COVERED.0)),
            Self::Mainline { present, absent } if follows(present, absent) => {
                format!("since {}", release_text(present))
            }
            Self::Mainline { present, absent } => {
                format!("in {}, not in {}", release_text(present), release_text(absent))
            }
            Self::Unmerged => format!("not in mainline up to {}", release_text(COVERED.1)),
        }
    }
}

/// A release as people write it.
#[must_use]
pub fn release_text((major, minor): Release) -> String {
    format!("{major}.{minor}")
}

/// Whether no release lies between the two: 7.0 came after 6.19.
fn follows(later: Release, earlier: Release) -> bool {
    later == (earlier.0, earlier.1 + 1) || (earlier == (6, 19) && later == (7, 0))
}

/// An option of the kernel's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelOption {
    /// Its name without `CONFIG_`.
    pub name: &'static str,
    /// The module that it builds; none if it cannot be a module.
    pub module: Option<&'static str>,
    /// Since when it exists.
    pub since: Since,
    /// The file and the source of `since`.
    pub source: &'static str,
}

/// What a device is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Without it the kernel does not reach user space from the internal disk, on Oche.
    Start,
    /// As [`Self::Start`], and the initrd must have it if it is a module: the root file system.
    Root,
    /// The Mac runs without it.
    Use,
}

/// Which Macs have a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Macs {
    /// Every M1 Mac.
    All,
    /// The MacBooks.
    Laptops,
    /// Those whose tree has an Ethernet device: the mini and the iMacs.
    Ethernet,
    /// Those whose tree has the second PCIe port on.
    SecondPciePort,
    /// Those whose tree has a Touch Bar.
    TouchBar,
}

/// A device, or a group of devices that is used together.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Its name for people.
    pub name: &'static str,
    /// What it is needed for.
    pub need: Need,
    /// Which Macs have it.
    pub macs: Macs,
    /// A device tree describes it by an enabled node with one of these; empty if no node is needed.
    pub nodes: &'static [&'static str],
    /// Which device trees have such nodes, for the message that one has none.
    pub trees: &'static str,
    /// What it needs: of each inner list, one.
    pub options: &'static [&'static [KernelOption]],
    /// What else to know.
    pub note: Option<&'static str>,
}

pub(super) const fn early(
    name: &'static str,
    module: Option<&'static str>,
    source: &'static str,
) -> KernelOption {
    KernelOption { name, module, since: Since::Early, source }
}

pub(super) const fn since(
    name: &'static str,
    module: Option<&'static str>,
    present: Release,
    absent: Release,
    source: &'static str,
) -> KernelOption {
    KernelOption { name, module, since: Since::Mainline { present, absent }, source }
}

pub(super) const fn unmerged(name: &'static str, source: &'static str) -> KernelOption {
    KernelOption { name, module: None, since: Since::Unmerged, source }
}
