//! The modules to load and their order, as `modprobe` computes it.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use oche::command;

/// The paths to load for the modules wanted, below the folder of the modules of `release` in
/// `root`, each after all that it needs and only once.
///
/// A name that begins with `?` is left out if the kernel has no such module; a module that is built
/// in needs no loading.
///
/// # Errors
///
/// The kernel has no module of a wanted name, its modules were not indexed, or `modprobe` is
/// missing or fails.
pub fn load_order(root: &Path, release: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let index = root.join("lib/modules").join(release).join("modules.dep");
    ensure!(index.is_file(), "the kernel's modules have no index: {} is missing", index.display());
    let modprobe = command::find("modprobe").unwrap_or_else(|| "modprobe".into());
    let mut order = Vec::new();
    for name in wanted {
        let (name, is_optional) = match name.strip_prefix('?') {
            Some(name) => (name, true),
            None => (*name, false),
        };
        let mut ask = Command::new(&modprobe);
        // The machine's own settings are for its own kernel.
        ask.args(["--config", "/dev/null", "--dirname"]).arg(root).args(["--set-version", release]);
        ask.args(["--show-depends", name]).env("LC_ALL", "C");
        let answer = command::answer(&mut ask)?;
        let is_unknown = String::from_utf8_lossy(&answer.stderr).contains("not found in directory");
        match (answer.status.success(), is_unknown) {
            (true, _) => add_paths(&String::from_utf8_lossy(&answer.stdout), release, &mut order),
            (false, true) if is_optional => {}
            (false, true) => {
                bail!(
                    "this kernel has no module {name}: name another kernel, or leave the module out"
                )
            }
            (false, false) => {
                return Err(command::failure(
                    &ask,
                    &answer,
                    &format!("asking what module {name} needs"),
                ));
            }
        }
    }
    Ok(order)
}

/// Adds the paths of lines such as `insmod ROOT/lib/modules/RELEASE/kernel/fs/ext4/ext4.ko
/// OPTIONS`; a line `builtin NAME` names none.
fn add_paths(output: &str, release: &str, order: &mut Vec<String>) {
    let folder = format!("/modules/{release}/");
    for line in output.lines().filter_map(|line| line.strip_prefix("insmod ")) {
        let path = line.rsplit_once(folder.as_str()).and_then(|(_, rest)| rest.split(' ').next());
        order.extend(
            path.filter(|path| !order.iter().any(|known| known == path)).map(str::to_owned),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{add_paths, load_order};

    #[test]
    fn modules_without_an_index_are_an_error_even_if_all_may_be_lacking() {
        let root = tempfile::tempdir().unwrap();
        let error = load_order(root.path(), "6.1", &["?virtio"]).unwrap_err().to_string();
        assert!(error.contains("no index"), "{error}");
    }

    #[test]
    fn modprobes_lines_become_paths_and_each_is_loaded_once() {
        let mut order = Vec::new();
        let output = "builtin virtio\n\
                    insmod /a folder/lib/modules/6.1/kernel/lib/crc64.ko \n\
                    insmod /a folder/lib/modules/6.1/kernel/nvme/nvme.ko.xz poll_queues=1\n";
        add_paths(output, "6.1", &mut order);
        add_paths("insmod /x/usr/lib/modules/6.1/kernel/lib/crc64.ko\n", "6.1", &mut order);
        assert_eq!(order, ["kernel/lib/crc64.ko", "kernel/nvme/nvme.ko.xz"]);
    }
}
