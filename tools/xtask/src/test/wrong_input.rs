//! Wrong input is answered by one clear line and a non-zero exit, by the very program that a person
//! types.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use oche::progress::Step;
use oche::workspace;

use crate::guest::kernel::{self, KernelChoice};

/// No refusal may take longer: most are reported before anything is built.
const LIMIT: Duration = Duration::from_secs(120);

/// One wrong input.
struct Case {
    name: &'static str,
    arguments: Vec<String>,
    /// What the line must say, any of these, in small letters.
    says: &'static [&'static str],
}

/// Tries every wrong input.
///
/// # Errors
///
/// One of them is accepted, hangs, or is refused unclearly.
pub(super) fn run(step: &Step) -> Result<String> {
    let folder = workspace::target().join("test").join("wrong");
    workspace::create_folder(&folder)?;
    let kernel = kernel::fetch(&KernelChoice::stock(), step)?;
    let program = std::env::current_exe().context("this program's own path")?;
    let cases = cases(&folder, &kernel.image)?;
    for case in &cases {
        step.detail(case.name);
        let said = try_case(&program, case)?;
        if let Err(error) = judge(&said, case) {
            bail!("{}: {error}", case.name);
        }
    }
    Ok(format!("{} inputs refused, each in one clear line", cases.len()))
}

fn cases(folder: &Path, kernel: &Path) -> Result<Vec<Case>> {
    let write = |name: &str, bytes: &[u8]| -> Result<String> {
        let path = folder.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path.display().to_string())
    };
    let mut large_pages = fs::read(kernel).context("the guest's kernel")?;
    // Flags bits 2:1 of the Image header say the page size, 3 is 64 KiB. Source: Linux
    // `Documentation/arm64/booting.rst`.
    let flags = large_pages.get_mut(24).context("the guest's kernel is too short")?;
    *flags |= 6;
    let stock = kernel.display().to_string();
    let run = |words: &[&str]| -> Vec<String> {
        ["run", "--limit", "60"].iter().chain(words).map(|word| (*word).to_owned()).collect()
    };
    Ok(vec![
        Case {
            name: "a kernel that is not there",
            arguments: run(&["--kernel", "/nowhere/Image"]),
            says: &["/nowhere/image"],
        },
        Case {
            name: "a kernel compressed with zstd",
            arguments: run(&[
                "--kernel",
                &write("kernel.zst", &[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0])?,
            ]),
            says: &["zst", "compress"],
        },
        Case {
            name: "something that is no kernel",
            arguments: run(&[
                "--kernel",
                &write("kernel.txt", b"no kernel at all, but long enough for a header ....")?,
            ]),
            says: &["image", "kernel"],
        },
        Case {
            name: "a kernel with 64 KiB pages",
            arguments: run(&["--kernel", &write("kernel.64k", &large_pages)?]),
            says: &["64 kib", "64k"],
        },
        Case {
            name: "an initrd that is not there",
            arguments: run(&["--kernel", &stock, "--initrd", "/nowhere/initrd"]),
            says: &["/nowhere/initrd"],
        },
        Case {
            name: "an option that is none",
            arguments: run(&["--kernel", &stock, "--option", "pool"]),
            says: &["name=value"],
        },
        Case {
            name: "too little memory",
            arguments: run(&["--kernel", &stock, "--memory", "64"]),
            says: &["memory"],
        },
        Case {
            name: "a CPU that QEMU does not know",
            arguments: run(&["--kernel", &stock, "--cpu", "no-such-cpu"]),
            says: &["no-such-cpu"],
        },
    ])
}

/// Runs the program and gives its exit and what it said on standard error.
fn try_case(program: &Path, case: &Case) -> Result<(bool, String)> {
    let mut command = Command::new(program);
    command.args(&case.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start this program again")?;
    let errors = child.stderr.take().context("the program's output")?;
    let reader = std::thread::spawn(move || std::io::read_to_string(errors).unwrap_or_default());
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait().context("waiting for the program")? {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            None => {
                // Its own QEMU ends with it.
                let _ = child.kill();
                let _ = child.wait();
                bail!("{}: no answer within {} s", case.name, LIMIT.as_secs());
            }
        }
    };
    Ok((status.success(), reader.join().unwrap_or_default()))
}

fn judge((is_success, said): &(bool, String), case: &Case) -> Result<()> {
    if *is_success {
        bail!("it was accepted");
    }
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error")).collect();
    let [line] = errors.as_slice() else {
        bail!("not one line begins with `error`, but {}: {said}", errors.len());
    };
    if said.contains("panicked at") {
        bail!("the program panicked: {said}");
    }
    let small = line.to_lowercase();
    if !case.says.iter().any(|words| small.contains(words)) {
        bail!("the line does not say what is wrong: {line}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Case, judge};

    fn case() -> Case {
        Case { name: "x", arguments: Vec::new(), says: &["memory"] }
    }

    #[test]
    fn a_refusal_is_one_clear_line() {
        let good = "[1/3] Tools\nerror: too little memory: give the machine 768 MiB\n";
        assert!(judge(&(false, good.into()), &case()).is_ok());
        assert!(judge(&(true, good.into()), &case()).is_err(), "accepted");
        assert!(judge(&(false, "error: no\n".into()), &case()).is_err(), "unclear");
        assert!(
            judge(&(false, "error: memory\nerror: memory\n".into()), &case()).is_err(),
            "two lines"
        );
        assert!(judge(&(false, String::new()), &case()).is_err(), "silent");
        let panicked = "thread 'main' panicked at x\nerror: memory\n";
        assert!(judge(&(false, panicked.into()), &case()).is_err(), "panicked");
    }
}
