//! The stock kernel that the simulated board runs, with the guest that reports what it sees.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use oche::pack::GuestFiles;
use oche::progress::Step;
use oche::workspace;
use oche_m1_sim::BoardOutcome;

use crate::guest::initramfs::Initramfs;
use crate::guest::kernel::{self, GuestKernel, KernelChoice};
use crate::guest::module::{self, DartModule};
use crate::guest::userland::Userland;

/// The guest's script, behind what every init script begins with.
const SCRIPT: &str = include_str!("init.sh");

/// The kernel's command line: its messages on the serial port and the screen; and it does not wait
/// for a driver of Apple's interrupt controller, which it lacks, before it probes what is wired to
/// that.
pub const BOOT_ARGUMENTS: &str =
    "console=tty0 console=ttyAMA0 no_console_suspend suspend.pm_test_delay=1 fw_devlink=permissive";

/// The trace that the guest read from Oche's port and reported in hexadecimal.
///
/// # Errors
///
/// It reported none, or not a whole one.
pub fn printed_trace(outcome: &BoardOutcome) -> Result<Vec<u8>> {
    let digits: String =
        outcome.lines.iter().filter_map(|line| line.strip_prefix("trace: ")).collect();
    let pairs = digits.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).unwrap_or_default());
    let packed = pairs.map(|pair| u8::from_str_radix(pair, 16)).collect::<Result<Vec<u8>, _>>();
    let packed = packed.context("what the guest reported of the trace is no hexadecimal")?;
    let mut trace = Vec::new();
    GzDecoder::new(&*packed)
        .read_to_end(&mut trace)
        .context("the trace that the guest reported")?;
    Ok(trace)
}

/// The kernel with its initrd, as `oche pack` takes them.
///
/// # Errors
///
/// A file cannot be read or written.
fn guest(
    kernel: &GuestKernel,
    module: &DartModule,
    userland: &Userland,
    into: &Path,
) -> Result<GuestFiles> {
    let mut initramfs = Initramfs::new(userland)?;
    initramfs.add_module_file(&module.path)?;
    initramfs.add_module_file(&module.board_dma())?;
    initramfs.add_modules(kernel, &["virtio_mmio", "?virtio_console"])?;
    initramfs.set_init(SCRIPT);
    let initrd: PathBuf = into.join("initrd.cpio");
    initramfs.write(&initrd)?;
    let options = vec![
        ("oche.pool".to_owned(), "64M".to_owned()),
        ("oche.bootargs".to_owned(), BOOT_ARGUMENTS.to_owned()),
    ];
    Ok(GuestFiles { kernel: kernel.image.clone(), initrd: Some(initrd), options })
}

/// Fetches a kernel of Debian, its programs and the DART driver of its own source, and gives what
/// `oche pack` takes; and what the kernel is called.
///
/// # Errors
///
/// Something cannot be had.
pub fn prepare(
    choice: &KernelChoice,
    into: &Path,
    step: &Step,
) -> Result<(GuestFiles, GuestKernel)> {
    let kernel = kernel::fetch(choice, step)?;
    kernel.verify()?;
    let module = module::build(&kernel, step)?;
    let userland = Userland::fetch(step)?;
    workspace::create_folder(into)?;
    Ok((guest(&kernel, &module, &userland, into)?, kernel))
}

/// Checks that the kernel's guest finished without a failed case.
///
/// # Errors
///
/// It did not finish, or a case failed.
pub fn judge(outcome: &BoardOutcome) -> Result<()> {
    if !outcome
        .lines
        .iter()
        .any(|line| line.starts_with("guest: ") && line.ends_with(" cases, 0 failed"))
    {
        bail!("the kernel's user space did not come to its end");
    }
    Ok(())
}

/// How long it may take: a quarter of a minute on two cores that have nothing else to do.
pub const LIMIT: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use oche_m1_sim::linux::DEVICES;

    use super::SCRIPT;

    #[test]
    fn the_guest_expects_every_device_of_the_board() {
        for (name, _) in DEVICES {
            assert!(
                SCRIPT.lines().any(|line| line.starts_with("devices=") && line.contains(name)),
                "{name}"
            );
        }
    }
}
