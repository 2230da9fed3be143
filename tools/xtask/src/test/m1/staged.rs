//! Staged bring-up: `oche.darts` with none, one, and all of the DARTs.

use anyhow::{Context, Result, bail};
use oche::progress::Step;
use oche_m1_sim::Mac;

use super::expect::{count, expect};
use crate::m1::bench::Bench;

/// None: the guest reaches every DART itself and exits for no device. One: that one is emulated,
/// and the others are the hardware, with a page size that no kernel takes and without bypass. A
/// name that fits no DART is reported with those that do. All of them is what the other runs have.
pub(super) fn run(bench: &Bench, step: &Step) -> Result<()> {
    let mac = |darts: &str, guest: &str| {
        let chosen = [("oche.darts", darts), ("bootargs", guest)];
        let chosen = chosen.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Mac { chosen, ..Mac::default() }
    };
    let outcome = bench.passes("no DART is emulated", &mac("none", "guest=chosen"), step)?;
    expect(&outcome, "guest: u-boot on a DART that is not chosen ok")?;
    expect(&outcome, "oche: nothing is emulated and nothing is traced: oche.darts=none")?;
    let begin = "oche: exits of cpu 0:";
    let exits = outcome.lines.iter().find(|line| line.starts_with(begin));
    let exits = exits.with_context(|| format!("no line has `{begin}`"))?;
    for kind in ["dart_register", "device", "trapped_page"] {
        if count(exits, kind)? != 0 {
            bail!("nothing is emulated, and {exits}");
        }
    }
    let one = "guest=chosen guest=chosen-one";
    for darts in ["pcie0_dart_0", "0x681008000,dcp"] {
        let outcome = bench.passes("one DART is emulated", &mac(darts, one), step)?;
        for wanted in
            ["guest: linux on the DART that is chosen ok", "idle; left alone: not in oche.darts"]
        {
            expect(&outcome, wanted)?;
        }
        let is_warned = outcome.has_line("oche: warning: oche.darts: there is no DART \"dcp\"")
            && outcome.has_line("oche: warning: oche.darts: sio_dart or 0x235004000");
        if is_warned != darts.contains("dcp") {
            bail!("oche.darts={darts}: a name that fits no DART is reported: {is_warned}");
        }
    }
    Ok(())
}
