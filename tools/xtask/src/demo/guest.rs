//! The demo's guest, for all commands that boot it: its initramfs, its machine, and what its
//! devices give it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use oche::pack::GuestFiles;
use oche::progress::Step;

use super::devices;
use super::disks::{Disks, Sizes};
use super::server::Server;
use crate::guest::initramfs::{DEVICE_MODULES, Initramfs};
use crate::guest::kernel::GuestKernel;
use crate::guest::module::DartModule;
use crate::guest::program;
use crate::guest::userland::Userland;
use crate::qemu::{QemuMachine, Serial};

/// The guest's script, behind what every init script begins with.
pub(crate) const SCRIPT: &str = concat!(include_str!("transfers.sh"), include_str!("init.sh"));

/// Natively as on Oche, each device is behind its IOMMU, and each unmap is invalidated at once.
const COMMAND_LINE: &str = "console=ttyAMA0 iommu.strict=1 iommu.passthrough=0";

/// Puts the guest's programs, modules and script together. Programs are compiled in `folder`.
///
/// # Errors
///
/// Something needed cannot be had.
pub(crate) fn initramfs(
    kernel: &GuestKernel,
    module: &DartModule,
    folder: &Path,
    step: &Step,
) -> Result<Initramfs> {
    let mut initramfs = Initramfs::new(&Userland::fetch(step)?)?;
    // Without a DART it finds nothing to drive.
    initramfs.add_module_file(&module.path)?;
    initramfs.add_modules(kernel, DEVICE_MODULES)?;
    initramfs.add_modules(kernel, &["virtio_rng"])?;
    initramfs.add_file_of("bin/count", &program::compile_count(folder)?)?;
    let linear_packets = program::compile_linear_packets(folder)?;
    initramfs.add_file_of("bin/linear-packets", &linear_packets)?;
    initramfs.set_init(SCRIPT);
    Ok(initramfs)
}

/// What Oche is packed with for this guest, with further options for Oche.
pub(crate) fn files(kernel: &Path, initrd: &Path, options: &[(String, String)]) -> GuestFiles {
    let map = ("oche.iommu-map".to_owned(), devices::iommu_map());
    GuestFiles {
        kernel: kernel.to_owned(),
        initrd: Some(initrd.to_owned()),
        options: [&[map], options].concat(),
    }
}

/// The disks of one machine, and the server for its guest.
#[derive(Debug)]
pub(crate) struct Supplies {
    pub(crate) disks: Disks,
    pub(crate) server: Server,
    sizes: Sizes,
}

impl Supplies {
    /// Makes the disks anew in `folder`, and starts the server.
    ///
    /// # Errors
    ///
    /// As [`Disks::make`] and [`Server::start`].
    pub(crate) fn make(folder: &Path, sizes: Sizes) -> Result<Self> {
        let disks = Disks::make(&folder.join("disks"), sizes)?;
        let server = Server::start(vec![
            ("random", disks.served.clone()),
            ("part", disks.part.clone()),
            ("data", disks.transferred.clone()),
        ])?;
        Ok(Self { disks, server, sizes })
    }
}

/// The machine around a guest.
#[derive(Clone, Debug)]
pub(crate) struct GuestMachine {
    /// CPU model, as QEMU names it.
    pub(crate) cpu: String,
    /// Number of CPUs.
    pub(crate) cpus: u32,
    /// Memory in MiB.
    pub(crate) memory: u64,
    /// What QEMU enters: the packed Oche, or the kernel.
    pub(crate) boot: PathBuf,
    /// The initrd, if it is not packed.
    pub(crate) initrd: Option<PathBuf>,
    /// More words for the guest's command line.
    pub(crate) append: String,
    /// More arguments for QEMU.
    pub(crate) qemu: Vec<OsString>,
}

impl GuestMachine {
    /// The machine with the devices of `supplies`.
    pub(crate) fn with(self, supplies: &Supplies) -> QemuMachine {
        QemuMachine {
            cpu: self.cpu,
            cpus: self.cpus,
            memory_mib: self.memory,
            kernel: self.boot,
            initrd: self.initrd,
            append: format!(
                "{COMMAND_LINE} demo.port={} demo.nvme_mib={} demo.turns={} {}",
                supplies.server.port(),
                supplies.sizes.nvme_file,
                supplies.sizes.turns,
                self.append
            ),
            serial: Serial::Watched,
            arguments: [devices::arguments(&supplies.disks), self.qemu].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SCRIPT;
    use crate::demo::guest_report::STEPS;

    #[test]
    fn every_step_that_is_expected_is_one_of_the_scripts() {
        for step in STEPS {
            let called = SCRIPT.lines().any(|line| {
                let mut words = line.split_whitespace();
                matches!(words.next(), Some("start" | "phase")) && words.next() == Some(step)
            });
            assert!(called, "{step}");
        }
    }
}
