//! The stock kernel on Oche in QEMU with a script of a test's own: built, booted, recorded, and
//! watched to its end.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use oche::el2::{self, Toolchain};
use oche::pack::{self, GuestFiles};
use oche::progress::Step;
use oche::trace::FileRecorder;
use oche::workspace;

use crate::guest::initramfs::Initramfs;
use crate::guest::kernel::{self, KernelChoice};
use crate::guest::module;
use crate::guest::userland::Userland;
use crate::qemu::{QemuMachine, Running, Serial, Wish, escape_commas};

/// How long a boot with its script may take.
const LIMIT: Duration = Duration::from_secs(150);

/// The modules that the disks of [`TwoDisks`] and the trace's port need.
pub(super) const DISK_AND_PORT: &[&str] =
    &["virtio_mmio", "virtio_pci", "virtio_blk", "?virtio_console"];

/// A driver of the test's own: its files, and its module's name.
pub(super) type Driver = (&'static [(&'static str, &'static str)], &'static str);

/// A guest that runs one script.
#[derive(Debug)]
pub(super) struct StockGuest<'a> {
    /// The folder of the test's files.
    pub(super) folder: &'a Path,
    /// The script that runs in it, after the start of every init script.
    pub(super) script: &'a str,
    /// Modules of the kernel's package, `?` before those that it may lack.
    pub(super) modules: &'a [&'a str],
    /// A module that is built for the test.
    pub(super) driver: Option<Driver>,
    /// Options of Oche.
    pub(super) options: &'a [(&'a str, &'a str)],
    /// CPUs.
    pub(super) cpus: u32,
    /// QEMU's arguments for the devices.
    pub(super) devices: Vec<OsString>,
}

/// A guest that has ended.
#[derive(Debug)]
pub(super) struct Boot {
    /// The lines of the console.
    lines: Vec<String>,
    /// Keeps the RAM file open.
    running: Running,
}

/// The folder of the test `name`.
///
/// # Errors
///
/// It cannot be made.
pub(super) fn folder(name: &str) -> Result<PathBuf> {
    let folder = workspace::target().join("test").join(name);
    workspace::create_folder(&folder)?;
    Ok(folder)
}

impl StockGuest<'_> {
    /// Boots the guest, records its trace to `trace`, and waits until it has turned itself off.
    ///
    /// # Errors
    ///
    /// Something cannot be had or built, or the guest ends in another way.
    pub(super) fn boot(
        &self,
        toolchain: Toolchain,
        trace: Option<&Path>,
        step: &Step,
    ) -> Result<Boot> {
        let machine = QemuMachine {
            cpu: "cortex-a76".into(),
            cpus: self.cpus,
            memory_mib: 1024,
            kernel: self.pack(toolchain, step)?,
            initrd: None,
            append: "console=ttyAMA0".into(),
            serial: Serial::Watched,
            arguments: self.devices.clone(),
        };
        let console = self.folder.join("console.log");
        let mut running = Running::start(&machine, &console)?;
        let ram = running.memory().open_path();
        let recorder = trace.map(|trace| FileRecorder::start(&ram, trace)).transpose()?;
        let mut lines = Vec::new();
        let ending = running.watch(LIMIT, |_, line| {
            lines.push(line.text.clone());
            Ok(Wish::GoOn)
        })?;
        recorder.map(FileRecorder::finish).transpose()?;
        if !ending.is_good() {
            bail!("{ending}; the console is kept in {}", console.display());
        }
        Ok(Boot { lines, running })
    }

    /// Builds Oche and the guest, and packs them.
    fn pack(&self, toolchain: Toolchain, step: &Step) -> Result<PathBuf> {
        let kernel = kernel::fetch(&KernelChoice::stock(), step)?;
        let mut initramfs = Initramfs::new(&Userland::fetch(step)?)?;
        initramfs.add_module_file(&module::build(&kernel, step)?.path)?;
        initramfs.add_modules(&kernel, self.modules)?;
        if let Some((files, name)) = self.driver {
            initramfs.add_module_file(&module::build_own(&kernel, files, name, step)?)?;
        }
        initramfs.set_init(self.script);
        let initrd = self.folder.join("initrd.cpio");
        initramfs.write(&initrd)?;
        let options =
            self.options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let guest =
            GuestFiles { kernel: kernel.image, initrd: Some(initrd), options: options.collect() };
        let image = self.folder.join("oche.img");
        pack::pack(&el2::build(toolchain, &[], step)?, &guest, &image)?;
        Ok(image)
    }
}

impl Boot {
    /// The lines that the guest's script printed: the rest of each line that begins with `prefix`.
    ///
    /// # Errors
    ///
    /// One of them begins with `error`.
    pub(super) fn lines_of(&self, prefix: &str) -> Result<Vec<&str>> {
        lines_of(&self.lines, prefix)
    }

    /// All lines of the console.
    pub(super) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The guest's RAM as it was left; the path is good as long as this value is there.
    pub(super) fn ram(&self) -> PathBuf {
        self.running.memory().open_path()
    }
}

fn lines_of<'a>(lines: &'a [String], prefix: &str) -> Result<Vec<&'a str>> {
    let lines: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix(prefix)).collect();
    match lines.iter().find_map(|line| line.strip_prefix("error ")) {
        Some(error) => bail!("in the guest: {error}"),
        None => Ok(lines),
    }
}

/// The rest of the first line that begins with `name`.
pub(super) fn value<'a>(lines: &[&'a str], name: &str) -> Option<&'a str> {
    lines.iter().find_map(|line| line.strip_prefix(name))
}

/// Two disks of a guest: one behind a DART, and one that no DART translates, which takes what the
/// guest leaves.
#[derive(Debug)]
pub(super) struct TwoDisks {
    /// The file of the disk behind a DART.
    pub(super) translated: PathBuf,
    /// The file of the other one.
    pub(super) plain: PathBuf,
}

impl TwoDisks {
    /// Makes disks of so many bytes in `folder`, full of zeros.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub(super) fn create(folder: &Path, translated_bytes: u64, plain_bytes: u64) -> Result<Self> {
        let disks =
            Self { translated: folder.join("translated.img"), plain: folder.join("plain.img") };
        for (path, bytes) in [(&disks.translated, translated_bytes), (&disks.plain, plain_bytes)] {
            let file = fs::File::create(path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            file.set_len(bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(disks)
    }

    /// QEMU's arguments for both.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        [
            OsString::from("-drive"),
            drive("translated", &self.translated),
            "-device".into(),
            "virtio-blk-pci,drive=translated,addr=1,iommu_platform=on,disable-legacy=on".into(),
            "-drive".into(),
            drive("plain", &self.plain),
            "-global".into(),
            "virtio-mmio.force-legacy=false".into(),
            "-device".into(),
            "virtio-blk-device,drive=plain".into(),
        ]
        .into()
    }

    /// The bytes that the guest left on the disk that no DART translates.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub(super) fn left(&self) -> Result<Vec<u8>> {
        fs::read(&self.plain).with_context(|| format!("reading {}", self.plain.display()))
    }
}

/// QEMU's argument behind `-drive` for the raw file at `path`.
pub(super) fn drive(id: &str, path: &Path) -> OsString {
    let mut drive = OsString::from(format!("if=none,format=raw,id={id},file="));
    drive.push(escape_commas(path));
    drive
}

#[cfg(test)]
mod tests {
    use super::{lines_of, value};

    #[test]
    fn a_scripts_lines_are_picked_and_its_error_ends_the_test() {
        let lines = ["oche: port", "port: name a", "port: bytes 3"].map(str::to_owned);
        let lines = lines_of(&lines, "port: ").unwrap();
        assert_eq!(lines, ["name a", "bytes 3"]);
        assert_eq!((value(&lines, "bytes "), value(&lines, "again ")), (Some("3"), None));
        let lines = ["port: error no port".to_owned()];
        let failed = lines_of(&lines, "port: ");
        assert_eq!(failed.unwrap_err().to_string(), "in the guest: no port");
    }
}
