//! Wrong input ends the program with one clear line of error and a non-zero exit status.

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
    /// The error must have one of these in it, in small letters.
    expected: Vec<&'static str>,
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
        let result = try_case(&program, case)?;
        if let Err(error) = judge(&result, case) {
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
    let compressed = write("kernel.zst", &[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0])?;
    let text = write("kernel.txt", b"no kernel at all, but long enough for a header ....")?;
    let large_pages = write("kernel.64k", &with_large_pages(kernel)?)?;
    let stock = kernel.display().to_string();
    // Name, arguments, and what the error may name.
    let cases: [(&str, &[&str], &[&str]); 8] = [
        ("a kernel that is not there", &["--kernel", "/nowhere/Image"], &["/nowhere/image"]),
        ("a kernel compressed with zstd", &["--kernel", &compressed], &["zst", "compress"]),
        ("a file that is no kernel", &["--kernel", &text], &["image", "kernel"]),
        ("a kernel with 64 KiB pages", &["--kernel", &large_pages], &["64 kib", "64k"]),
        (
            "an initrd that is not there",
            &["--kernel", &stock, "--initrd", "/nowhere/initrd"],
            &["/nowhere/initrd"],
        ),
        ("an option without a value", &["--kernel", &stock, "--option", "pool"], &["name=value"]),
        ("too little memory", &["--kernel", &stock, "--memory", "64"], &["memory"]),
        (
            "a CPU that QEMU does not know",
            &["--kernel", &stock, "--cpu", "no-such-cpu"],
            &["no-such-cpu"],
        ),
    ];
    let case = |(name, arguments, expected): (_, &[&str], &[&'static str])| Case {
        name,
        arguments: ["run", "--limit", "60"].iter().chain(arguments).map(|&a| a.into()).collect(),
        expected: expected.to_vec(),
    };
    Ok(cases.map(case).into())
}

/// The kernel with a header that claims pages of 64 KiB.
fn with_large_pages(kernel: &Path) -> Result<Vec<u8>> {
    let mut image = fs::read(kernel).context("the guest's kernel")?;
    // Bits 2:1 of the Image header's flags are the page size; 3 is 64 KiB. Source: Linux
    // `Documentation/arm64/booting.rst`.
    *image.get_mut(24).context("the guest's kernel is too short")? |= 6;
    Ok(image)
}

/// Runs the program and returns whether it succeeded, and its standard error.
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
                bail!("{}: the program still runs after {} s", case.name, LIMIT.as_secs());
            }
        }
    };
    Ok((status.success(), reader.join().unwrap_or_default()))
}

fn judge((is_success, stderr): &(bool, String), case: &Case) -> Result<()> {
    if *is_success {
        bail!("it was accepted");
    }
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error")).collect();
    let [line] = errors.as_slice() else {
        bail!("{} lines begin with `error` instead of one: {stderr}", errors.len());
    };
    if stderr.contains("panicked at") {
        bail!("the program panicked: {stderr}");
    }
    let small = line.to_lowercase();
    if !case.expected.iter().any(|words| small.contains(words)) {
        bail!("the line has none of {:?} in it: {line}", case.expected);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Case, judge};

    fn case() -> Case {
        Case { name: "x", arguments: Vec::new(), expected: vec!["memory"] }
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
