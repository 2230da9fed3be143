//! `cargo xtask measure profile`: which functions of Oche's the instructions at EL2 go to.
//!
//! A plugin of QEMU counts each instruction of Oche's image (`tests/profiler`), and the debug
//! information of the image says which function and line it is. `docs/measurements.md` says how to
//! read the tables.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use oche::progress::{Progress, Step};

pub(crate) mod counts;
mod sums;
mod symbols;
mod table;

use super::compare;
use super::transfers::TransferGuest;
use crate::demo::disks::Sizes;
use crate::demo::transfers::TRANSFERS;
use sums::Profile;
use symbols::Symbols;

/// What an operation of a case is.
const MAP: &str = "a map and its unmap";
/// The same of a transfer.
const TRANSFER: &str = "4 KiB that are transferred";
/// Operations in a MiB of a transfer.
const OPERATIONS_IN_MIB: u64 = 256;
/// The cases that are profiled where none is named.
const DEFAULT: [&str; 3] =
    ["reused 4 KiB bidirectional", "reused 16 KiB bidirectional", "reused 64 KiB bidirectional"];

/// Options of `cargo xtask measure profile`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Cases are those of `cargo xtask measure compare`, with the transfers of its --devices, such as
`e1000e-receive`; without --only, three of the maps. A plugin of QEMU counts each instruction, so
the counts are exact, and their sum is what the guest counts itself.")]
pub struct ProfileOptions {
    /// Profile the cases whose names contain WORD, such as `fresh 4 KiB`; may be repeated.
    #[arg(long, value_name = "WORD")]
    pub only: Vec<String>,
    /// Print at most N rows of a table.
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = positive)]
    pub top: usize,
    /// Print one JSON document with all rows on standard output instead of tables.
    #[arg(long)]
    pub json: bool,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("it has to be a number above 0".to_owned()),
    }
}

/// Profiles, and prints the tables of each case.
///
/// # Errors
///
/// Something needed cannot be had, a run failed, or the guest counted other instructions.
pub fn main(options: &ProfileOptions) -> Result<()> {
    let cases = choose(&options.only)?;
    let (transfers, maps): (Vec<_>, Vec<_>) =
        cases.into_iter().partition(|case| TRANSFERS.contains(&case.as_str()));
    let progress =
        Progress::new(usize::from(!maps.is_empty()) + usize::from(!transfers.is_empty()));
    let mut profiles = Vec::new();
    for (cases, profile) in [(maps, profile_maps as Profiler), (transfers, profile_transfers)] {
        if !cases.is_empty() {
            let step = progress.step(&format!("{} cases on Oche, counted", cases.len()));
            profiles.extend(profile(&cases, &step)?);
            step.done("");
        }
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&profiles).context("the profiles")?);
    } else {
        profiles.iter().for_each(|profile| print!("{}", table::tables(profile, options.top)));
    }
    Ok(())
}

/// The names of the cases that contain one of `words`.
fn choose(words: &[String]) -> Result<Vec<String>> {
    let transfers = TRANSFERS.map(str::to_owned);
    let names = [compare::case_names(), transfers.to_vec()].concat();
    let is_wanted = |name: &String| match words {
        [] => DEFAULT.contains(&name.as_str()),
        words => words.iter().any(|word| name.contains(word)),
    };
    if let Some(word) = words.iter().find(|word| names.iter().all(|name| !name.contains(*word))) {
        bail!("no case's name contains `{word}`; the cases are: {}", names.join("; "));
    }
    Ok(names.into_iter().filter(is_wanted).collect())
}

/// Profiles cases of one kind.
type Profiler = fn(&[String], &Step) -> Result<Vec<Profile>>;

fn profile_maps(cases: &[String], step: &Step) -> Result<Vec<Profile>> {
    let (counted, oche) = compare::count_instructions(cases, step)?;
    let elf = read(&oche)?;
    let symbols = Symbols::read(&elf).with_context(|| oche.display().to_string())?;
    let profiles = counted
        .iter()
        .map(|case| Profile::new((&case.case, MAP), case.operations, &case.counts, &symbols));
    profiles.collect()
}

fn profile_transfers(cases: &[String], step: &Step) -> Result<Vec<Profile>> {
    let names: Vec<&str> = cases.iter().map(String::as_str).collect();
    let (_, guest) = TransferGuest::prepare("profile", step)?;
    let counted = guest.profile(Sizes::SHORT, &names, step)?;
    let elf = read(&guest.oche)?;
    let symbols = Symbols::read(&elf).with_context(|| guest.oche.display().to_string())?;
    let profiles = counted.iter().map(|(name, _, counts)| {
        Profile::new((name, TRANSFER), operations(name, Sizes::SHORT), counts, &symbols)
    });
    profiles.collect()
}

/// How many [`OPERATIONS_IN_MIB`] the transfer moves: a disk does so more than once.
fn operations(transfer: &str, sizes: Sizes) -> f64 {
    let is_network = transfer.ends_with("-receive") || transfer.ends_with("-send");
    let turns = if is_network { 1 } else { sizes.turns };
    (sizes.prefilled * turns * OPERATIONS_IN_MIB) as f64
}

fn read(elf: &Path) -> Result<Vec<u8>> {
    fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))
}

#[cfg(test)]
mod tests {
    use super::{DEFAULT, Sizes, choose, operations};

    #[test]
    fn cases_are_chosen_by_any_part_of_their_names_and_three_without_one() {
        assert_eq!(choose(&[]).unwrap(), DEFAULT);
        assert_eq!(choose(&["fresh 8 KiB to".to_owned()]).unwrap(), ["fresh 8 KiB to-device"]);
        let error = choose(&["32 KiB".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("`32 KiB`") && error.contains("reused 4 KiB to-device"), "{error}");
        assert_eq!(choose(&["e1000e".to_owned()]).unwrap(), ["e1000e-receive", "e1000e-send"]);
    }

    #[test]
    fn a_transfers_operations_are_its_pages_of_4_kib() {
        let of = |name| operations(name, Sizes { prefilled: 3, turns: 2, ..Sizes::SHORT }) as u64;
        assert_eq!((of("e1000e-send"), of("usb-read")), (768, 1536));
    }
}
