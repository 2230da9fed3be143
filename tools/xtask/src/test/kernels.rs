//! Real kernels and device trees, as `oche check-kernel` judges them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use oche::progress::Step;
use oche::{command, workspace};
use serde_json::Value;

use super::drivers;
use crate::guest::kernel::{self, KernelChoice};
use crate::m1::device_tree::KernelSource;
use crate::m1::u_boot;

/// The options of the table that Fedora's 6.17.7 sets. Its lines have no title, so that any kernel
/// may have them.
const FEDORA: &str = "tools/oche/src/kernel_check/fixtures/fedora-6.17.config";
/// Devices that only some Macs have, by the Macs' trees.
const SOME_MACS: [(&str, &[&str]); 3] = [
    ("Ethernet", &["t8103-j274", "t8103-j456", "t8103-j457"]),
    ("keyboard and trackpad", &["t8103-j293", "t8103-j313"]),
    ("Touch Bar", &["t8103-j293"]),
];

/// Checks Debian's kernel and U-Boot, and a kernel with Fedora's options on every M1 Mac.
///
/// # Errors
///
/// A verdict is wrong, or something cannot be had.
pub(super) fn run(step: &Step) -> Result<String> {
    let stock = kernel::fetch(&KernelChoice::stock(), step)?;
    step.detail(&format!("{} {}", stock.package, stock.version));
    let (code, debian) = check(&stock.image, &[])?;
    ensure!(code == 1, "Debian's kernel ends with {code} instead of 1");
    let of = |value: &Value, path: &str| value.pointer(path).cloned().unwrap_or(Value::Null);
    ensure!(of(&debian, "/kernel/page_bytes") == 4096, "{}", of(&debian, "/kernel"));
    let reason = of(&debian, "/judgement/reasons/0").to_string();
    ensure!(reason.contains("CONFIG_ARCH_APPLE"), "Debian's kernel: {reason}");

    let u_boot = u_boot::fetch(step)?;
    let (code, answer) = check(&u_boot.binary, &[])?;
    ensure!(code == 0 && of(&answer, "/kernel/kind") == "u-boot", "U-Boot: {code}, {answer}");

    let source = KernelSource::of_the_board(step)?;
    let drivers = drivers::run(&source, step)?;
    let fedora = workspace::root().join(FEDORA);
    let mut macs = BTreeMap::new();
    for tree in source.device_trees(step)? {
        let name = tree.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        step.detail(&name);
        let arguments = ["--config".as_ref(), fedora.as_os_str(), "--device-tree".as_ref()];
        let (code, answer) = check(&stock.image, &[&arguments[..], &[tree.as_os_str()]].concat())?;
        ensure!(code == 0, "{name} ends with {code}: {}", of(&answer, "/judgement/reasons"));
        macs.insert(name, devices(&answer)?);
    }
    for (device, having) in SOME_MACS {
        let has = |(name, devices): (&String, &Vec<String>)| {
            devices.iter().any(|it| it == device).then(|| name.clone())
        };
        let found: Vec<String> = macs.iter().filter_map(has).collect();
        ensure!(found == having, "{device} is listed for {found:?} instead of {having:?}");
    }
    Ok(format!(
        "{} {}, U-Boot {}, {} Macs, {drivers}",
        stock.package,
        stock.version,
        u_boot.version,
        macs.len()
    ))
}

/// The exit code and the answer.
fn check(file: &Path, arguments: &[&OsStr]) -> Result<(i32, Value)> {
    let mut line = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    line.current_dir(workspace::root())
        .args(["run", "--quiet", "--package", "oche", "--", "check-kernel", "--json"])
        .arg(file)
        .args(arguments);
    let output = command::answer(&mut line)?;
    let code = output.status.code().context("oche check-kernel was killed")?;
    let answer = serde_json::from_slice(&output.stdout)
        .map_err(|_| command::failure(&line, &output, "oche check-kernel"))?;
    Ok((code, answer))
}

fn devices(answer: &Value) -> Result<Vec<String>> {
    let devices = answer.pointer("/judgement/devices").and_then(Value::as_array);
    let names = devices.context("no devices in the answer")?.iter();
    Ok(names.filter_map(|device| device["name"].as_str().map(str::to_owned)).collect())
}
