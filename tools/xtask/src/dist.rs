//! `cargo xtask dist`: the archives of a release.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use oche::el2::Toolchain;
use oche::progress::Progress;
use oche::{command, stamp, workspace};
use sha2::{Digest, Sha256};

use crate::environment;

mod archive;
pub(crate) mod images;
mod licences;
mod pages;
mod program;

use archive::{Entries, Entry, add, tar_gz};
use program::{Architecture, Target};

/// The variable that gives the time of all files, in seconds since 1970 UTC.
/// Source: reproducible-builds.org, "SOURCE_DATE_EPOCH specification", 1.1.
const EPOCH_VARIABLE: &str = "SOURCE_DATE_EPOCH";
/// The version of everything in the workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The file with the hashes of the archives.
const SUMS: &str = "SHA256SUMS";

/// Options of `cargo xtask dist`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Made are, in target/dist:
  oche-VERSION-x86_64-linux.tar.gz   oche with the images for EL2 inside, manual pages, completions,
  oche-VERSION-aarch64-linux.tar.gz  documents and licences; static, it needs nothing else
  oche-VERSION-symbols.tar.gz        the images' ELF files, for `oche decode-panic --oche` and gdb
  SHA256SUMS                         their hashes

The same commit and compiler give the same bytes in any folder. All files have the commit's date, or that
of SOURCE_DATE_EPOCH. `cargo xtask nightly --only dist` makes them twice and compares.")]
pub struct DistOptions {
    /// Make the archive for this architecture only; may be repeated
    #[arg(long, value_enum, value_name = "ARCHITECTURE")]
    pub only: Vec<Architecture>,
    /// Write the archives to this folder
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
}

/// What is made, and how.
struct Plan {
    toolchain: Toolchain,
    targets: Vec<(Architecture, Target)>,
    commit: String,
    /// The time of all files, in seconds since 1970 UTC.
    epoch: u64,
}

/// Makes the archives.
///
/// # Errors
///
/// Something does not compile or cannot be had, a crate has no text of its licence, or the disk is
/// full. Each error gives the remedy.
pub fn main(options: &DistOptions) -> Result<()> {
    let output = options.output.clone().unwrap_or_else(|| workspace::target().join("dist"));
    let chosen = match options.only.is_empty() {
        true => Architecture::value_variants(),
        false => &options.only,
    };
    let progress = Progress::new(4 + chosen.len());
    let plan = plan(chosen, &progress)?;

    let step = progress.step("Images for EL2");
    let embedded = workspace::target().join("dist-build").join("embed");
    let elf_files = images::embed(plan.toolchain, &embedded, &step)?;
    step.done(&images::PACKAGES.join(", "));

    let mut archives = programs(&plan, &embedded, &progress)?;

    let step = progress.step("Manual, completions, documents, licences");
    let mut common = Entries::new();
    pages::add_manual(&mut common)?;
    pages::add_completions(&mut common);
    pages::add_documents(&mut common)?;
    let targets: Vec<_> = plan.targets.iter().map(|(_, target)| target.name.clone()).collect();
    let count = licences::add_licences(&mut common, &targets)?;
    step.done(&format!("{} files, the licences of {count} crates", common.len()));

    let step = progress.step("Archives");
    archives.values_mut().for_each(|entries| entries.extend(common.clone()));
    archives.insert(format!("oche-{VERSION}-symbols"), symbols(&elf_files)?);
    let files = archives
        .iter()
        .map(|(name, entries)| Ok((format!("{name}.tar.gz"), tar_gz(name, entries, plan.epoch)?)));
    let files: BTreeMap<_, _> = files.collect::<Result<_>>()?;
    write(&output, &files)?;
    step.done(&format!("{} in {}", files.len(), output.display()));
    Ok(())
}

/// Finds the compilers, and what names the release.
fn plan(chosen: &[Architecture], progress: &Progress) -> Result<Plan> {
    let step = progress.step("Compilers");
    let toolchain = environment::prepare(&step)?;
    let targets = chosen.iter().map(|one| Ok((*one, one.target(&step)?)));
    let targets: Vec<_> = targets.collect::<Result<_>>()?;
    let commit = stamp::commit(&workspace::root());
    if commit.ends_with("-dirty") {
        step.line("the tree has changes that are not committed: the release is marked as dirty");
    }
    let epoch = epoch()?;
    step.done(&format!("commit {commit}"));
    Ok(Plan { toolchain, targets, commit, epoch })
}

/// Builds the programs. Returns what each archive begins with, by the archive's name.
fn programs(
    plan: &Plan,
    embedded: &Path,
    progress: &Progress,
) -> Result<BTreeMap<String, Entries>> {
    let mut archives = BTreeMap::new();
    for (architecture, target) in &plan.targets {
        let step = progress.step(&format!("oche for {}", architecture.name()));
        let path = program::build(target, embedded, &plan.commit, &step)?;
        let bytes = fs::read(&path).with_context(|| format!("no {}", path.display()))?;
        step.done(&format!("{} KiB, static with {}", bytes.len() >> 10, target.library));
        let name = format!("oche-{VERSION}-{}-linux", architecture.name());
        let entry = Entry { bytes, is_program: true };
        archives.insert(name, Entries::from([("oche".to_owned(), entry)]));
    }
    Ok(archives)
}

/// The ELF files, with symbols.
fn symbols(elf_files: &[PathBuf]) -> Result<Entries> {
    let mut entries = Entries::new();
    for path in elf_files {
        let bytes = fs::read(path).with_context(|| format!("no {}", path.display()))?;
        let name = path.file_name().context("a file without a name")?;
        add(&mut entries, &name.to_string_lossy(), bytes);
    }
    Ok(entries)
}

/// Writes the archives and their hashes. What an earlier run left of the same name is replaced.
fn write(folder: &Path, archives: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let mut sums = String::new();
    for (name, bytes) in archives {
        workspace::write_whole(&folder.join(name), bytes)?;
        for byte in Sha256::digest(bytes) {
            // Writing into a String cannot fail.
            let _ = write!(sums, "{byte:02x}");
        }
        let _ = writeln!(sums, "  {name}");
    }
    workspace::write_whole(&folder.join(SUMS), sums.as_bytes())
}

/// The time that all files get: `SOURCE_DATE_EPOCH`, or the commit's.
fn epoch() -> Result<u64> {
    let text = match std::env::var(EPOCH_VARIABLE) {
        Ok(text) if !text.is_empty() => text,
        _ => {
            let mut git = Command::new("git");
            git.args(["log", "-1", "--format=%ct"]).current_dir(workspace::root());
            command::text(&mut git, "asking git for the commit's date")
                .with_context(|| format!("without git, set {EPOCH_VARIABLE} and OCHE_COMMIT"))?
        }
    };
    match text.trim().parse() {
        Ok(seconds) => Ok(seconds),
        Err(_) => bail!("{EPOCH_VARIABLE}={text}: it is a number of seconds since 1970"),
    }
}
