//! Boots that measure the demo's transfers on one CPU, on Oche or natively, by the clock or in
//! instructions.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use oche::el2::{self, Toolchain};
use oche::pack;
use oche::progress::Step;
use oche::workspace;

use crate::demo::disks::Sizes;
use crate::demo::guest::{self, GuestMachine, Supplies};
use crate::demo::measured::{self, CountedTransfer};
use crate::demo::transfers::TransferCosts;
use crate::environment;
use crate::guest::kernel::{self, GuestKernel, KernelChoice};
use crate::guest::module;
use crate::measure::profile::counts::InstructionCounter;

/// What the guest runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Under<'options> {
    /// QEMU's SMMUv3, with 4 KiB pages.
    Native,
    /// Oche with these options.
    Oche(&'options [(String, String)]),
}

/// What passes the guest's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// The host's clock: instructions are not counted.
    Host,
    /// An instruction takes a nanosecond, and idling takes as long as it does on the host: the
    /// guest's performance counters count instructions, and times mean nothing.
    Instructions,
}

/// What the boots have in common.
#[derive(Debug)]
pub(super) struct TransferGuest {
    /// The folder of all files of the measurement.
    pub(super) folder: PathBuf,
    /// Oche, built for EL2.
    pub(super) oche: PathBuf,
    /// The distribution's kernel.
    pub(super) kernel: GuestKernel,
    /// The initrd of every boot.
    pub(super) initrd: PathBuf,
}

impl TransferGuest {
    /// Fetches and builds it in a folder of `target/measure`, and gives the toolchain that Oche was
    /// built with.
    ///
    /// # Errors
    ///
    /// Something cannot be had or built; the error names it.
    pub(super) fn prepare(folder: &str, step: &Step) -> Result<(Toolchain, Self)> {
        let toolchain = environment::prepare(step)?;
        let folder = workspace::target().join("measure").join(folder);
        workspace::create_folder(&folder)?;
        let oche = el2::build(toolchain, &[], step)?;
        let kernel = kernel::fetch(&KernelChoice::measured(), step)?;
        let module = module::build(&kernel, step)?;
        let initrd = folder.join("initrd.cpio");
        guest::initramfs(&kernel, &module, &folder, step)?.write(&initrd)?;
        Ok((toolchain, Self { folder, oche, kernel, initrd }))
    }

    /// Boots the guest, and gives what the transfers `wanted` took. The console is kept as `log`.
    ///
    /// # Errors
    ///
    /// The boot failed, a transfer was not made, or nothing was counted that should be.
    pub(super) fn boot(
        &self,
        under: Under<'_>,
        clock: Clock,
        sizes: Sizes,
        wanted: &[&str],
        log: &str,
        step: &Step,
    ) -> Result<TransferCosts> {
        let supplies = Supplies::make(&self.folder, sizes)?;
        let machine = self.machine(under, clock)?;
        let log = self.folder.join(log);
        let costs = measured::measure(machine, &supplies, wanted, &log, step)?;
        for (name, cost) in &costs {
            let is_counted = cost.user != 0 && cost.kernel != 0;
            ensure!(is_counted == (clock == Clock::Instructions), "{name}: {cost:?} was counted");
        }
        Ok(costs)
    }

    /// Boots the guest on Oche, and counts what Oche executes in each of the transfers `wanted`.
    ///
    /// # Errors
    ///
    /// As [`Self::boot`], or the guest counted other numbers of instructions.
    pub(super) fn profile(
        &self,
        sizes: Sizes,
        wanted: &[&str],
        step: &Step,
    ) -> Result<Vec<CountedTransfer>> {
        let counter = InstructionCounter::new(&self.oche, &self.folder, step)?;
        let supplies = Supplies::make(&self.folder, sizes)?;
        let machine = self.machine(Under::Oche(&[]), Clock::Instructions)?;
        let log = self.folder.join("profile.log");
        measured::profile(machine, &counter, &supplies, wanted, &log, step)
    }

    fn machine(&self, under: Under<'_>, clock: Clock) -> Result<GuestMachine> {
        let (boot, initrd) = match under {
            Under::Native => (self.kernel.image.clone(), Some(self.initrd.clone())),
            Under::Oche(options) => {
                let image = self.folder.join("oche.img");
                let files = guest::files(&self.kernel.image, &self.initrd, options);
                pack::pack(&self.oche, &files, &image)?;
                (image, None)
            }
        };
        let icount: &[&str] = match clock {
            Clock::Host => &[],
            Clock::Instructions => &["-icount", "shift=0,sleep=on"],
        };
        Ok(GuestMachine {
            cpu: "cortex-a76".into(),
            cpus: 1,
            memory: 2048,
            boot,
            initrd,
            append: String::new(),
            qemu: icount.iter().map(Into::into).collect(),
        })
    }
}
