//! `cargo xtask measure compare --devices`: transfers by the demo's devices on Oche, against the
//! same guest on an SMMUv3 with 4 KiB pages.
//!
//! Instructions come from one boot on each, in which QEMU counts instructions as time. Times come
//! from pairs of boots, natively and on Oche in turn, so that what else the host does meets both.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use oche::progress::{Progress, Step};
use oche::workspace;

mod figures;
mod session;

use super::versions;
use crate::demo::disks::{Sizes, hex_digest};
use crate::demo::transfers::{self, TransferCosts};
use crate::measure::page;
use crate::measure::transfers::{Clock, TransferGuest, Under};
use figures::DeviceComparison;
use session::{Boot, Identity, Session};

/// The recorded figures, below the checkout's top folder.
const FIGURES: &str = "tools/xtask/src/measure/compare/devices.json";
/// What encloses their table in the page.
const TABLE: &str = "devices";
/// What is moved where instructions are counted: QEMU is slow then.
const COUNTED: Sizes = Sizes { prefilled: 1, turns: 2, ..Sizes::SHORT };
/// What is moved where time is taken: natively about a second, or a third of one by a network.
const TIMED: Sizes = Sizes { prefilled: 4, turns: 8, ..Sizes::SHORT };

/// What to do.
#[derive(Debug)]
pub(super) struct DeviceOptions<'options> {
    pub(super) only: &'options [String],
    pub(super) runs: u32,
    pub(super) anew: bool,
    pub(super) json: bool,
    pub(super) record: bool,
}

/// Measures what an earlier command has not, and prints the comparison.
///
/// # Errors
///
/// Something needed cannot be had, or a boot failed; what was measured before is kept.
pub(super) fn main(options: &DeviceOptions<'_>) -> Result<()> {
    let wanted = transfers::choose(options.only)?;
    // The boots that are left are counted once the session is known.
    let progress = Progress::new(0);
    let step = progress.step("Oche and the guest");
    let (toolchain, guest) = TransferGuest::prepare("devices", &step)?;
    let identity = Identity {
        kernel: versions::kernel(&guest.kernel),
        compiler: versions::compiler(toolchain)?,
        qemu: versions::qemu()?,
        images: [digest(&guest.oche)?, digest(&guest.initrd)?],
        counted: amounts(COUNTED),
        timed: amounts(TIMED),
        transfers: wanted.iter().map(|name| (*name).to_owned()).collect(),
    };
    let kept = guest.folder.join("session.json");
    if options.anew {
        Session::forget(&kept)?;
    }
    let mut session = Session::open(&kept, identity)?;
    let (there, all) = (session.done(), session.planned(options.runs));
    step.done(&format!("{there} of {all} boots are there from before"));
    while let Some(boot) = session.next(options.runs) {
        let step = progress.step(&format!("Boot {} of {all}: {boot}", session.done() + 1));
        let costs = carry_out(&guest, boot, &wanted, &step)?;
        step.done(&format!("kept in {}", kept.display()));
        session.add(costs)?;
    }
    let comparison = DeviceComparison::of(&session, options.runs)?;
    if options.record {
        write(&comparison)?;
    }
    if options.json {
        print!("{}", comparison.json()?);
    } else {
        println!("\n{}", comparison.table());
    }
    Ok(())
}

fn carry_out(
    guest: &TransferGuest,
    boot: Boot,
    wanted: &[&str],
    step: &Step,
) -> Result<TransferCosts> {
    let under = if boot.is_native() { Under::Native } else { Under::Oche(&[]) };
    let (clock, sizes) = match boot {
        Boot::Count { .. } => (Clock::Instructions, COUNTED),
        Boot::Time { .. } => (Clock::Host, TIMED),
    };
    let log = if boot.is_native() { "native.log" } else { "oche.log" };
    guest.boot(under, clock, sizes, wanted, log, step)
}

/// What a transfer by a network, and by a disk, moves with `sizes`, in MiB.
fn amounts(sizes: Sizes) -> [u64; 2] {
    [sizes.prefilled, sizes.prefilled * sizes.turns]
}

fn digest(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hex_digest(&bytes))
}

fn figures_path() -> PathBuf {
    workspace::root().join(FIGURES)
}

/// Records `comparison`, and puts its table into the page about it.
fn write(comparison: &DeviceComparison) -> Result<()> {
    page::put_tables(&[(TABLE, comparison.table())])?;
    workspace::write_whole(&figures_path(), comparison.json()?.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{DeviceComparison, TABLE, figures_path, page};
    use crate::demo::transfers::TRANSFERS;

    #[test]
    fn the_page_shows_the_recorded_figures_of_every_transfer() {
        let json = fs::read_to_string(figures_path()).unwrap();
        let comparison = DeviceComparison::parse(&json).unwrap();
        let names: Vec<_> = comparison.transfers.iter().map(|figures| &*figures.transfer).collect();
        assert_eq!(names, TRANSFERS);
        let page = page::read().unwrap();
        let shown = page::with_tables(&page, &[(TABLE, comparison.table())]).unwrap();
        assert_eq!(shown, page, "run `cargo xtask measure compare --devices --record`");
    }
}
