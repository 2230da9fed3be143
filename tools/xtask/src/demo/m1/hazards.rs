//! Hazards of a first boot, put into the board on purpose.

use std::time::Instant;

use anyhow::Result;
use oche::progress::Progress;
use oche_m1_sim::Mac;
use oche_m1_sim::dart::DartSetting;

use super::summary::{M1Summary, Run};
use crate::m1::bench::{self, Bench};

/// A hazard of a first boot, put into the board on purpose.
struct Hazard {
    /// The fault of the board.
    name: &'static str,
    /// Injects the fault.
    inject: fn(&mut Mac),
    /// Texts that the log must have.
    expected: &'static [&'static str],
    /// Whether every case of the guest must pass all the same.
    passes: bool,
    /// The result, in a few words.
    reported: &'static str,
}

const HAZARDS: [Hazard; 5] = [
    Hazard {
        name: "a DART that is switched off",
        inject: |mac| mac.settings[4] = DartSetting::Off,
        expected: &["2=dma-controller@236004000: no power"],
        passes: true,
        reported: "its registers were never touched",
    },
    Hazard {
        name: "a DART that translates for firmware",
        inject: |mac| mac.settings[4] = DartSetting::Live,
        expected: &["sio_dart 0x235004000 2=dma-controller@236004000: live 0x1; left alone"],
        passes: true,
        reported: "it was left as it was",
    },
    Hazard {
        name: "a DART that ends no command",
        inject: |mac| mac.settings[2] = DartSetting::Stuck,
        expected: &[
            "guest: linux: two DARTs, one table FAILED",
            "guest: a locked DART is as it was ok",
        ],
        passes: false,
        reported: "it was given up after a second, and every other DART went on",
    },
    Hazard {
        name: "a CPU that never comes",
        inject: |mac| (mac.cpus, mac.missing) = (3, 1 << 1),
        expected: &["cpu 0x1 stays off", "guest: cpu 0x2 comes ok", "guest: 2 CPUs"],
        passes: true,
        reported: "it was left out, and the guest is not offered it",
    },
    Hazard {
        name: "FIQs that EL2 injects",
        inject: |mac| mac.chosen.push(("oche.fiq".to_owned(), "virtual".to_owned())),
        expected: &["guest: the timer ticked through all of it ok"],
        passes: true,
        reported: "the timer ticked through all of it",
    },
];

/// Boots with each hazard.
///
/// # Errors
///
/// The board does not run; a hazard that is not handled is a problem in the summary.
pub(super) fn run(
    bench: &Bench,
    mac: &Mac,
    progress: &Progress,
    summary: &mut M1Summary,
) -> Result<()> {
    let step = progress.step("Hazards of a first boot, put in on purpose");
    let mut failures = 0;
    for hazard in &HAZARDS {
        let mut mac = mac.clone();
        (hazard.inject)(&mut mac);
        let began = Instant::now();
        let outcome = bench.run(hazard.name, &mac, &step)?;
        let mut verdict = if hazard.passes { bench::judge(&outcome) } else { Ok(()) };
        if let (Ok(()), Some(violation)) = (&verdict, outcome.violations.first()) {
            verdict = Err(anyhow::anyhow!("a DART would not have forgiven this: {violation}"));
        }
        let missing = hazard.expected.iter().find(|text| !outcome.has_line(text));
        if let (Ok(()), Some(text)) = (&verdict, missing) {
            verdict = Err(anyhow::anyhow!("no line has `{text}`"));
        }
        let reported = match &verdict {
            Ok(()) => hazard.reported.to_owned(),
            Err(error) => {
                failures += 1;
                summary.problems.push(format!("{}: {error:#}", hazard.name));
                format!("WRONG: {error:#}")
            }
        };
        step.line(&format!("{}: {reported}", hazard.name));
        summary
            .runs
            .push(Run { must_fail: !hazard.passes, ..Run::of(hazard.name, &outcome, began) });
    }
    match failures {
        0 => step.done(&format!("all {} handled", HAZARDS.len())),
        _ => drop(step),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::HAZARDS;
    use oche_m1_sim::Mac;

    #[test]
    fn every_hazard_changes_the_board_and_expects_to_hear_of_it() {
        let plain = format!("{:?}", Mac::default());
        for hazard in &HAZARDS {
            let mut mac = Mac::default();
            (hazard.inject)(&mut mac);
            assert_ne!(format!("{mac:?}"), plain, "{}", hazard.name);
            assert!(!hazard.expected.is_empty(), "{}", hazard.name);
        }
    }
}
