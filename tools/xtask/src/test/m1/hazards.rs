//! Faults of a Mac's DARTs, on the simulated board.

use anyhow::Result;
use oche::progress::Step;
use oche_m1_sim::Mac;
use oche_m1_sim::dart::DartSetting;

use super::expect::expect;
use crate::m1::bench::Bench;

/// A DART that is off, one that translates for firmware, one that never ends a command: each is
/// reported, and left alone or given up, and the others go on.
pub(super) fn run(bench: &Bench, step: &Step) -> Result<()> {
    let guest = |word: &str| vec![("bootargs".to_owned(), format!("guest={word}"))];
    let mut mac = Mac { chosen: guest("left"), ..Mac::default() };
    for (setting, name, state, words) in [
        (DartSetting::Live, "a DART that translates", "live 0x1", "0x0,tcr0=0x80,ttbr0.0=0x8"),
        (DartSetting::Frozen, "a DART that is locked and does not translate", "locked", "0x8000"),
    ] {
        mac.settings[4] = setting;
        let outcome = bench.passes(name, &mac, step)?;
        expect(
            &outcome,
            &format!("sio_dart 0x235004000 2=dma-controller@236004000: {state}; left alone"),
        )?;
        expect(&outcome, "guest: a DART that is left alone answers itself ok")?;
        expect(&outcome, &format!("oche: dart sio_dart power=0xff,config={words}"))?;
    }
    mac.chosen.clear();
    mac.settings[4] = DartSetting::Idle;
    windows_off(bench, &mac, step)?;
    let stuck = Mac { chosen: guest("stuck"), ..mac.clone() };
    let outcome = bench.passes("a DART that gets stuck", &stuck, step)?;
    expect(&outcome, "guest: a DART that ends no command any more ok")?;
    expect(&outcome, "DART 4 did not end its command within 1000 ms")?;
    mac.settings[4] = DartSetting::Off;
    mac.chosen = guest("power");
    let outcome = bench.passes("a DART that is off", &mac, step)?;
    expect(&outcome, "2=dma-controller@236004000: no power")?;
    expect(&outcome, "guest: a DART that has no power, and gets it ok")?;
    expect(&outcome, "guest: nvme: a disk writes into a DART's table that is quiet ok")?;
    mac.settings[4] = DartSetting::Idle;
    dead(bench, &Mac { chosen: guest("dead"), has_dead_devices: true, ..mac.clone() }, step)?;
    mac.chosen.clear();
    mac.settings[2] = DartSetting::Stuck;
    let outcome = bench.run("a DART that stays busy", &mac, step)?;
    for wanted in [
        "guest: linux: two DARTs, one table FAILED",
        "guest: u-boot: 16K, then linux: 4K ok",
        "guest: a locked DART is as it was ok",
    ] {
        expect(&outcome, wanted)?;
    }
    Ok(())
}

/// Devices whose power domains are on and that do not answer: EL2 survives its own accesses, says
/// what did not answer, and the guest gets a bus error at its own instruction.
fn dead(bench: &Bench, mac: &Mac, step: &Step) -> Result<()> {
    let outcome = bench.passes("devices that do not answer", mac, step)?;
    for wanted in [
        "DART 4: nothing answers at 0xb000060: a synchronous external abort",
        "nvme: nothing answers at 0xb10001c: a synchronous external abort",
        "guest: a DART where nothing answers ok",
        "guest: an NVMe where nothing answers: registers, loads ok",
        "guest: an NVMe where nothing answers: registers, stores ok",
        "guest: an NVMe where nothing answers: doorbells, loads ok",
        "guest: an NVMe where nothing answers: doorbells, stores ok",
    ] {
        expect(&outcome, wanted)?;
    }
    Ok(())
}

/// Without windows what is beside a page in its granule is a red zone: reached by devices, and
/// no one's.
fn windows_off(bench: &Bench, mac: &Mac, step: &Step) -> Result<()> {
    let chosen = vec![("oche.windows".to_owned(), "0".to_owned())];
    let outcome = bench.run("no windows", &Mac { chosen, ..mac.clone() }, step)?;
    for wanted in [
        "sub-page windows are not used",
        "guest: linux: map, DMA both ways, unmap ok",
        "guest: linux: a page alone in its granule FAILED: a device writes beside the page",
        "guest: openbsd: 16K, part of a page ok",
    ] {
        expect(&outcome, wanted)?;
    }
    Ok(())
}
