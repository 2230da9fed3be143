//! Runs the cheap commands of the documents, on files that the step makes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use oche::progress::Step;
use oche::trace::made::with_every_error;
use oche::{command, workspace};

use crate::document_commands::{self, DocumentCommand, Program};
use crate::guest::kernel::{self, KernelChoice};

/// Runs each command of the documents that takes seconds. A unit test parses the others.
///
/// # Errors
///
/// A command fails, or no test has the name that a `cargo test` command gives.
pub(super) fn run(step: &Step) -> Result<String> {
    let folder = workspace::target().join("test").join("documents");
    workspace::remove_folder(&folder)?;
    workspace::create_folder(&folder)?;
    let kernel = kernel::fetch(&KernelChoice::stock(), step)?;
    fs::copy(&kernel.image, folder.join("vmlinuz")).context("cannot copy the guest's kernel")?;
    workspace::write_whole(&folder.join("u-boot-nodtb.bin"), &made_up_u_boot())?;
    fs::write(folder.join("initrd.img"), b"made up").context("cannot write an initrd")?;

    let commands = document_commands::all()?;
    let mut count = 0;
    for named in commands.iter().filter(|command| command.is_complete) {
        let Some(runs) = prepare(named, &folder)? else { continue };
        step.detail(&named.to_string());
        try_command(named, runs).with_context(|| named.to_string())?;
        count += 1;
    }
    // `cargo test` commands name tests in prose as well.
    for named in commands.iter().filter(|command| command.program == Program::CargoTest) {
        step.detail(&named.to_string());
        list_tests(named).with_context(|| named.to_string())?;
        count += 1;
    }
    Ok(format!("{count} of {} commands ran", commands.len()))
}

/// An arm64 Image that has U-Boot's banner. Source of the header: Linux
/// `Documentation/arch/arm64/booting.rst`.
fn made_up_u_boot() -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    // Its size in memory; little-endian, in 4 KiB pages, at any address; the magic number.
    image.splice(16..24, 0x2000_u64.to_le_bytes());
    image.splice(24..32, 0b1010_u64.to_le_bytes());
    image.splice(56..60, *b"ARM\x64");
    image.extend(b"\0U-Boot 2025.01 (made up)\n\0");
    image
}

/// How to run `named`, or `None` if it takes long, needs a guest that runs, or needs a terminal.
fn prepare(named: &DocumentCommand, folder: &Path) -> Result<Option<Command>> {
    let words: Vec<&str> = named.arguments.iter().map(String::as_str).collect();
    let mut runs = match (named.program, words.as_slice()) {
        // These write patches.
        (Program::Xtask, ["mutants", "--add" | "--refresh", ..]) => return Ok(None),
        // Naming the steps or mutants is cheap, running them is not.
        (Program::Xtask, ["test" | "mutants", ..]) => {
            let mut runs = Command::new(std::env::current_exe().context("this program's path")?);
            let words = words.iter().filter(|word| **word != "--list");
            runs.args(words).arg("--list").current_dir(workspace::root());
            return Ok(Some(runs));
        }
        (Program::Oche, ["trace", "filter" | "live" | "record", ..]) => return Ok(None),
        // A guest's own ftrace fits its own trace alone: the step of the port has both.
        (Program::Oche, ["trace", rest @ ..]) if rest.contains(&"--ftrace") => return Ok(None),
        (Program::Oche, ["trace", ..]) => {
            make_files(&words, folder)?;
            cargo(&["run", "--quiet", "-p", "oche", "--"])
        }
        (Program::Oche, ["pack", ..]) => cargo(&["run", "--quiet", "-p", "oche", "--"]),
        (Program::Oche, ["inspect", rest @ ..]) => {
            if rest.contains(&"boot.bin") {
                make_boot_file(folder)?;
            }
            cargo(&["run", "--quiet", "-p", "oche", "--"])
        }
        _ => return Ok(None),
    };
    runs.args(for_the_made_trace(&words)).current_dir(folder);
    Ok(Some(runs))
}

/// `words` with a device, times and code that the made trace has.
fn for_the_made_trace<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let before = std::iter::once("").chain(words.iter().copied());
    let pairs = words.iter().zip(before);
    let of_the_made = |(word, before): (&&'a str, &str)| match before {
        "--device" => "nvme",
        "--at" | "--from" => "0.1",
        "--to" => "0.15",
        "--caller" => "flush",
        _ => word,
    };
    pairs.map(of_the_made).collect()
}

/// Makes the trace and the symbols that `words` name.
fn make_files(words: &[&str], folder: &Path) -> Result<()> {
    for word in words {
        let symbols = ["kallsyms", "symbols", "System.map"];
        if word.ends_with(".oche") {
            workspace::write_whole(&folder.join(word), &with_every_error().bytes())?;
        } else if symbols.iter().any(|name| word.ends_with(name)) && !word.starts_with('-') {
            let text = b"ffff800008000000 T _stext\nffff800008000c00 T flush\n";
            workspace::write_whole(&folder.join(word), text)?;
        }
    }
    Ok(())
}

/// Makes a boot file, as the documents do, of the image that they packed before; of m1n1 itself it
/// has the marks alone.
fn make_boot_file(folder: &Path) -> Result<()> {
    let read =
        |path: PathBuf| fs::read(&path).with_context(|| format!("cannot read {}", path.display()));
    let mut m1n1 = vec![0; 0x4000];
    m1n1.splice(..18, *b"##m1n1_ver##v0.0.0");
    m1n1.splice(0x3ff8.., *b"STACKBOT");
    let tree = read(workspace::root().join("boot/tests/data/qemu-virt.dtb"))?;
    let image = read(folder.join("oche.img.gz"))?;
    let file = [m1n1, tree, image, b"chosen.oche.panic=reset\n".to_vec()].concat();
    workspace::write_whole(&folder.join("boot.bin"), &file)
}

/// Runs a command, which must end well. Code 1 of `oche trace check` reports what the trace shows.
fn try_command(named: &DocumentCommand, mut runs: Command) -> Result<()> {
    let result = command::answer(&mut runs)?;
    let finds = named.arguments.get(1).is_some_and(|word| word == "check");
    if result.status.success() || (finds && result.status.code() == Some(1)) {
        return Ok(());
    }
    Err(command::failure(&runs, &result, "a command of the documents"))
}

/// Has cargo list the tests that a `cargo test` command would run: the package, the file and a test
/// of that name exist.
fn list_tests(named: &DocumentCommand) -> Result<()> {
    let mut runs = cargo(&["test"]);
    let is_release = |word: &&String| *word == "--release";
    let words = named.arguments.iter().filter(|word| !is_release(word));
    let (own, rest): (Vec<_>, Vec<_>) = {
        let mut is_behind = false;
        words.partition(|word| {
            is_behind |= *word == "--";
            !is_behind
        })
    };
    // The profile that has been built; the tests of the others have the same names.
    runs.args(&own).args(["--quiet", "--", "--list"]).args(rest.iter().skip(1));
    runs.current_dir(workspace::root());
    let listed = command::text(&mut runs, "listing tests")?;
    if !listed.lines().any(|line| line.ends_with(": test")) {
        bail!("no test has this name");
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let manifest: PathBuf = workspace::root().join("Cargo.toml");
    let (first, rest) = arguments.split_first().unwrap_or((&"version", &[]));
    cargo.arg(first).arg("--manifest-path").arg(manifest).args(rest);
    cargo
}
