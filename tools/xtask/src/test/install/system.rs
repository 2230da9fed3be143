//! A system in a folder, of real packages: the machine's own architecture for the shell and its
//! tools, arm64 for m1n1 and U-Boot.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use oche::progress::Step;
use oche::{command, workspace};
use serde_json::Value;

use crate::guest::archive::{self, Archive};

/// The boot file in a system.
pub(super) const BOOT_FILE: &str = "boot/efi/m1n1/boot.bin";
/// A release's `oche`, in a base system.
const RELEASE: &str = "/release/oche";
/// The Mac of the systems.
pub(super) const MAC: &str = "apple,j313";
/// What `update-m1n1` of Debian runs with: a shell, its tools and their libraries.
const TOOLS_SUITE: &str = "trixie";
const TOOLS: [&str; 6] = ["base-files", "bash", "coreutils", "grep", "gzip", "sed"];
/// What its hashes say for `/proc/device-tree`.
const COMPATIBLE: &[u8] = b"apple,j313\0apple,t8103\0apple,arm-platform\0";
/// m1n1's configuration, behind what its package has.
const CONFIGURATION: &str = "chosen.marker=1\ndisplay=auto\n";
const SETTINGS: &str = "# The user's own\nDTBS=\"/boot/dtbs/t8103-*.dtb\"\n";
/// What is no file on a disk: a run of the script leaves its configuration in `/run`.
const VOLATILE: [&str; 2] = ["dev", "run"];

/// The bytes of all files of a system, by path; of a link, where it leads.
pub(super) type Files = BTreeMap<String, (u32, Vec<u8>)>;

/// The packages of one suite.
#[derive(Clone, Debug)]
pub(super) struct Packages {
    /// m1n1's version, such as 1.4.21.
    pub(super) m1n1: String,
    /// The version of U-Boot's package.
    pub(super) u_boot: String,
    debs: Vec<PathBuf>,
}

impl Packages {
    /// Fetches the newest of `suite` that is known, or `is_fresh`: that the archive has.
    pub(super) fn fetch(suite: &str, is_fresh: bool, step: &Step) -> Result<Self> {
        let archive = Archive::open(suite)?;
        if is_fresh {
            archive.update(step)?;
        }
        let m1n1 = archive.package("m1n1", "arm64", step)?;
        let scripts = archive.package("asahi-scripts", "all", step)?;
        let u_boot = archive.package("u-boot-asahi", "arm64", step)?;
        let upstream =
            m1n1.version.split_once('-').map_or(&*m1n1.version, |(upstream, _)| upstream);
        let (version, u_boot_version) = (upstream.to_owned(), u_boot.version.clone());
        let debs = archive.download(&[m1n1, scripts, u_boot], step)?;
        Ok(Self { m1n1: version, u_boot: u_boot_version, debs })
    }

    /// Unpacks them over what is there, as an upgrade does; the configuration stays the user's.
    pub(super) fn unpack_into(&self, folder: &Path) -> Result<()> {
        let configuration = folder.join("etc/m1n1.conf");
        let own = fs::read(&configuration).ok();
        archive::unpack(&self.debs, folder)?;
        if let Some(own) = own {
            fs::write(&configuration, own).context("m1n1's configuration")?;
        }
        Ok(())
    }

    /// Gives the boot file something new to have: another order of the device trees' bytes would be
    /// the kernel's doing.
    pub(super) fn touch_trees(&self, system: &ScratchSystem) -> Result<()> {
        let path = system.folder.join("etc/m1n1.conf");
        let text = fs::read_to_string(&path).context("m1n1's configuration")?;
        fs::write(path, format!("{text}chosen.newer=1\n")).context("m1n1's configuration")
    }
}

/// The packages with the shell and its tools, and all that they depend on.
fn tools(step: &Step) -> Result<Vec<PathBuf>> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("the systems of this test have no packages for {other}"),
    };
    let archive = Archive::open(TOOLS_SUITE)?;
    let mut wanted: Vec<String> = TOOLS.map(str::to_owned).into();
    let mut found = BTreeMap::new();
    while let Some(name) = wanted.pop() {
        if found.contains_key(&name) {
            continue;
        }
        // Of what is missing, as a virtual package, nothing is needed to run a script.
        let package = match archive.package(&name, architecture, step) {
            Ok(package) => package,
            Err(_) if !TOOLS.contains(&name.as_str()) => continue,
            Err(error) => return Err(error),
        };
        let libraries = package.depends.iter().filter(|name| name.starts_with("lib"));
        wanted.extend(libraries.cloned());
        if name.starts_with("libssl") || name.starts_with("libz") {
            wanted.extend(["zlib1g".to_owned(), "libzstd1".to_owned()]);
        }
        found.insert(name, package);
    }
    archive.download(&found.into_values().collect::<Vec<_>>(), step)
}

/// Builds the program `oche` beside this one.
pub(super) fn oche_program(step: &Step) -> Result<PathBuf> {
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(workspace::root()).args(["build", "--quiet", "--package", "oche"]);
    command::run_showing_errors(&mut build, "building oche", step)?;
    let own = std::env::current_exe().context("this program's own path")?;
    Ok(own.with_file_name("oche"))
}

/// A system.
#[derive(Clone, Debug)]
pub(super) struct ScratchSystem {
    /// Its root folder.
    pub(super) folder: PathBuf,
    program: PathBuf,
    /// The base system around it in which a release's `oche` is used instead.
    base: Option<PathBuf>,
}

impl ScratchSystem {
    /// A Mac's system with m1n1, U-Boot and a boot file that the script wrote.
    pub(super) fn make(
        folder: &Path,
        packages: &Packages,
        trees: &[PathBuf],
        step: &Step,
    ) -> Result<Self> {
        workspace::remove_folder(folder)?;
        archive::unpack(&tools(step)?, folder)?;
        packages.unpack_into(folder)?;
        let own = std::env::current_exe().context("this program's own path")?;
        let program = own.with_file_name("oche");
        let system = Self { folder: folder.to_owned(), program, base: None };
        for inner in ["boot/efi/m1n1", "boot/dtbs", "dev", "run", "var/lib", "etc/default"] {
            workspace::create_folder(&folder.join(inner))?;
        }
        // A shell opens it; a device's node takes root to make.
        system.write("dev/null", b"")?;
        system.write("proc/device-tree/compatible", COMPATIBLE)?;
        system.write("proc/device-tree/model", b"Apple MacBook Air (M1, 2020)\0")?;
        let partition = "proc/device-tree/chosen/asahi,efi-system-partition";
        system.write(partition, b"0cf9d66c-1c5e-4ac5-a0a4-3c7ecb7e1b4f\0")?;
        for tree in trees {
            let name = tree.file_name().context("a tree without a name")?;
            fs::copy(tree, folder.join("boot/dtbs").join(name)).context("a device tree")?;
        }
        system.write("etc/default/update-m1n1", SETTINGS.as_bytes())?;
        let configuration = system.read("etc/m1n1.conf")?;
        system.write("etc/m1n1.conf", format!("{configuration}{CONFIGURATION}").as_bytes())?;
        system.run_script()?;
        Ok(system)
    }

    /// The same system, which lies in the base system at `base`, for the `oche` there.
    pub(super) fn reached_from(self, base: &Path) -> Self {
        Self { base: Some(base.to_owned()), ..self }
    }

    /// Runs the distribution's script in the system, as its hooks do but for the mount.
    pub(super) fn run_script(&self) -> Result<()> {
        let mut run = self.inside();
        command::run(run.args(["/usr/bin/update-m1n1", "/boot/efi/m1n1/boot.bin"]), "update-m1n1")
    }

    /// A command in the system, by its program and arguments.
    fn inside(&self) -> Command {
        let is_root = command::text(Command::new("id").arg("-u"), "asking who runs this");
        let mut run = match is_root.is_ok_and(|id| id.trim() == "0") {
            true => Command::new("chroot"),
            false => Command::new("unshare"),
        };
        if run.get_program() == "unshare" {
            run.args(["--user", "--map-root-user", "--root"]);
        }
        run.arg(&self.folder).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        run
    }

    /// `oche` with these arguments.
    pub(super) fn oche(&self, arguments: &[&str]) -> Command {
        let mut line = match &self.base {
            Some(base) => release_program(base),
            None => Command::new(&self.program),
        };
        line.args(arguments);
        line
    }

    /// `oche` with these arguments, on the system.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut line = self.oche(arguments);
        let inside = self.base.as_ref().and_then(|base| self.folder.strip_prefix(base).ok());
        let root = inside.map_or_else(|| self.folder.clone(), |path| Path::new("/").join(path));
        line.arg("--root").arg(root);
        line
    }

    fn answer(&self, arguments: &[&str]) -> Result<Output> {
        command::answer(&mut self.command(arguments))
    }

    /// Runs `oche`, which must succeed; returns what it prints.
    pub(super) fn succeeds(&self, arguments: &[&str]) -> Result<String> {
        let answer = self.answer(arguments)?;
        let errors = String::from_utf8_lossy(&answer.stderr).into_owned();
        ensure!(answer.status.success(), "oche {}: {errors}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }

    /// Runs `oche`, which must refuse in one line with `reason`, and change nothing.
    pub(super) fn refuses(&self, arguments: &[&str], reason: &str) -> Result<()> {
        let before = self.files()?;
        let answer = self.answer(arguments)?;
        let errors = String::from_utf8_lossy(&answer.stderr).into_owned();
        ensure!(answer.status.code() == Some(2), "ended with {}: {errors}", answer.status);
        let lines: Vec<&str> =
            errors.lines().filter(|line| !line.starts_with("oche: warning: ")).collect();
        ensure!(
            lines.len() == 1 && errors.contains(reason),
            "not one line with `{reason}`: {errors}"
        );
        self.expect_files(&before)
    }

    /// The state that `oche status` reports; it must end with `code`.
    pub(super) fn status(&self, code: i32) -> Result<Value> {
        let answer = self.answer(&["status", "--json"])?;
        let printed = String::from_utf8_lossy(&answer.stdout).into_owned();
        let errors = String::from_utf8_lossy(&answer.stderr).into_owned();
        ensure!(answer.status.code() == Some(code), "status: {}: {printed}{errors}", answer.status);
        serde_json::from_str(&printed).context("what `oche status --json` prints")
    }

    /// All files, but for what is in the system's memory.
    pub(super) fn files(&self) -> Result<Files> {
        let mut files = Files::new();
        collect(&self.folder, "", &mut files)?;
        Ok(files)
    }

    /// The files below these folders.
    pub(super) fn files_in(&self, folders: &[&str]) -> Result<Files> {
        let mut files = Files::new();
        for folder in folders {
            collect(&self.folder.join(folder), &format!("{folder}/"), &mut files)?;
        }
        Ok(files)
    }

    /// Fails at the first file that is not as in `wanted`.
    pub(super) fn expect_files(&self, wanted: &Files) -> Result<()> {
        let found = self.files()?;
        let mut names = wanted.keys().chain(found.keys());
        let Some(name) = names.find(|name| wanted.get(*name) != found.get(*name)) else {
            return Ok(());
        };
        let size = |files: &Files| files.get(name).map(|(_, bytes)| bytes.len());
        bail!("{name} is changed: {:?} bytes, now {:?}", size(wanted), size(&found))
    }

    /// Puts files back as they were.
    pub(super) fn restore(&self, files: &Files) -> Result<()> {
        self.restore_from(&self.files()?, files)?;
        self.expect_files(files)
    }

    /// Puts the files below these folders back as they were.
    pub(super) fn restore_in(&self, folders: &[&str], files: &Files) -> Result<()> {
        self.restore_from(&self.files_in(folders)?, files)
    }

    fn restore_from(&self, now: &Files, files: &Files) -> Result<()> {
        for name in now.keys().rev().filter(|name| !files.contains_key(*name)) {
            let path = self.folder.join(name);
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
        }
        for (name, entry) in files.iter().filter(|(name, entry)| now.get(*name) != Some(entry)) {
            match name.strip_suffix('/') {
                Some(folder) => workspace::create_folder(&self.folder.join(folder))?,
                None => self.write(name, &entry.1)?,
            }
            let mode = fs::Permissions::from_mode(entry.0);
            fs::set_permissions(self.folder.join(name), mode).context("a file's mode")?;
        }
        Ok(())
    }

    /// A file's text.
    pub(super) fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.folder.join(name)).with_context(|| format!("cannot read {name}"))
    }

    /// Writes a file.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        workspace::write_whole(&self.folder.join(name), bytes)
    }

    /// Removes a file.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.folder.join(name)).with_context(|| format!("cannot remove {name}"))
    }
}

/// The release's `oche` in the base system at `base`, with an empty environment.
pub(super) fn release_program(base: &Path) -> Command {
    let mut line = Command::new("chroot");
    line.arg(base).arg(RELEASE).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    line
}

fn collect(folder: &Path, prefix: &str, files: &mut Files) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", text_of(folder)))?;
    for entry in entries {
        let entry = entry.context("a folder's entry")?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if prefix.is_empty() && VOLATILE.contains(&name.as_str()) {
            continue;
        }
        let path = entry.path();
        let metadata = fs::symlink_metadata(&path).context("a file of the system")?;
        let mode = metadata.permissions().mode();
        if metadata.is_dir() {
            // A folder that is empty counts too.
            files.insert(format!("{name}/"), (mode, Vec::new()));
            collect(&path, &format!("{name}/"), files)?;
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).context("a link of the system")?;
            files.insert(name, (mode, text_of(&target).into_bytes()));
        } else {
            let bytes = fs::read(&path).with_context(|| format!("cannot read {name}"))?;
            files.insert(name, (mode, bytes));
        }
    }
    Ok(())
}

/// The path of a file in a folder, as text.
pub(super) fn text_of(path: &Path) -> String {
    path.display().to_string()
}
