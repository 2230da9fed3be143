//! What an installation will do, after every check that can be made before the first change.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{Access, access};

use super::esp::Esp;
use super::files;
use super::mac::Mac;
use super::record::{FileMark, Installation, PackedUBoot, Phase, Record, SettingsMark, Store};
use super::root::SystemRoot;
use super::script::{UpdateScript, Values};
use super::settings;
use super::verify::{self, Starts};
use crate::inspect::boot_file::{self, BootFile};
use crate::inspect::image::Contents;
use crate::pack::GuestFiles;
use crate::pack::command::{PackBoard, image_for};
use crate::pack::kernel_image::KernelImage;
use crate::probe;

/// Where distributions have U-Boot for Macs. Source: Debian's u-boot-asahi 2025.01-3 and, as the
/// script's second choice, `u-boot-asahi`; the Asahi project's `update-m1n1`, `SOURCE`; Fedora's
/// `asahi-scripts.spec`, the trigger of update-m1n1.
const U_BOOTS: [&str; 4] = [
    "/usr/lib/u-boot/apple_m1/u-boot-nodtb.bin",
    "/usr/lib/u-boot-asahi/u-boot-nodtb.bin",
    "/usr/lib/asahi-boot/u-boot-nodtb.bin",
    "/usr/share/uboot/apple_m1/u-boot-nodtb.bin",
];
/// Where device trees are looked for if the script has none for this Mac.
const TREES: [&str; 3] =
    ["/boot/dtbs/t8103-*.dtb", "/boot/dtbs/apple/t8103-*.dtb", "/boot/dtb/apple/t8103-*.dtb"];
/// From this version on m1n1 lets WFI keep the registers. Source: m1n1 1.6.0, `src/chickens.c`.
const WFI_VERSION: (u64, u64) = (1, 6);

/// What the command line asks for. All paths but that of Oche's ELF file are the system's.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    pub(super) esp: Option<PathBuf>,
    pub(super) u_boot: Option<PathBuf>,
    /// `None`: those of the installation before.
    pub(super) options: Option<Vec<(String, String)>>,
    pub(super) trees: Option<String>,
    /// The ELF file of Oche, or of the probe.
    pub(super) oche: Option<PathBuf>,
    /// Whether the probe is installed in Oche's place.
    pub(super) is_probe: bool,
}

/// A system, as it is found.
#[derive(Debug)]
pub(super) struct System {
    pub(super) root: SystemRoot,
    pub(super) mac: Mac,
    pub(super) esp: Esp,
    pub(super) store: Store,
    pub(super) record: Option<Record>,
}

impl System {
    /// Looks at the system below `folder`.
    ///
    /// # Errors
    ///
    /// It is not on an M1, or m1n1's partition is not found.
    pub(super) fn open(folder: &Path, esp: Option<&Path>) -> Result<Self> {
        let root = SystemRoot::open(folder)?;
        let mac = Mac::read(&root)?;
        let store = Store::of(&root);
        let record = store.load()?;
        let esp = esp.or(record.as_ref().and_then(|record| record.esp.as_deref()));
        let esp = Esp::find(&root, &mac, esp)?;
        Ok(Self { root, mac, esp, store, record })
    }

    /// Keeps any other `oche` out for as long as the file is open, here or in a script.
    ///
    /// # Errors
    ///
    /// Another one is at work.
    pub(super) fn lock(&self) -> Result<File> {
        let folder = &self.esp.folder;
        let file = File::open(folder).map_err(|error| files::explain(&error, "open", folder))?;
        if file.try_lock().is_err() {
            bail!("another `oche` is at work on {}: wait for its end", folder.display());
        }
        Ok(file)
    }

    /// Removes what a script or an interrupted run left of the scratch file.
    ///
    /// # Errors
    ///
    /// A file cannot be removed.
    pub(super) fn clean_scratch(&self) -> Result<()> {
        self.esp.leftovers().iter().try_for_each(|path| files::remove(path))
    }

    /// The boot file's name in the system.
    pub(super) fn boot_file_name(&self) -> String {
        self.root.inside(&self.esp.boot_file()).display().to_string()
    }
}

/// An installation that can begin.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) script: UpdateScript,
    /// The record to begin with.
    pub(super) record: Record,
    /// What is installed, but for the boot file's hash.
    pub(super) next: Installation,
    pub(super) image: Vec<u8>,
    /// The settings now; `None` if there are none.
    pub(super) settings_now: Option<Vec<u8>>,
    pub(super) settings_next: Vec<u8>,
    pub(super) boot_file: Vec<u8>,
    pub(super) needs_backup: bool,
    pub(super) values: Values,
    pub(super) warnings: Vec<String>,
}

impl Plan {
    /// Makes every check that needs no change.
    ///
    /// # Errors
    ///
    /// Something is amiss; nothing has been changed.
    pub(super) fn make(system: &System, request: &Request) -> Result<Self> {
        let root = &system.root;
        let previous = system.record.as_ref().and_then(|record| record.installed.clone());
        let script = UpdateScript::find(root)?;
        let settings_now = files::read(&root.path(&script.settings))?;
        let (own, block) = settings::split(settings_now.as_deref().unwrap_or_default());
        if block.is_some() && system.record.is_none() {
            bail!(
                "{} has lines of an Oche whose record is missing: remove them, from BEGIN oche to \
                 END oche",
                script.settings.display()
            );
        }
        let values = script.values(root, &own)?;
        let m1n1 = m1n1_version(root, &values.m1n1)?;
        let boot_file = system.present_boot_file()?;
        let (u_boot, kernel) = u_boot(root, request, previous.as_ref(), &values)?;
        let options = match (&request.options, &previous) {
            (Some(options), _) => options.clone(),
            (None, Some(previous)) => previous.options.clone(),
            (None, None) => Vec::new(),
        };
        let trees = request.trees.clone().or(previous.and_then(|previous| previous.trees));
        let trees = choose_trees(system, &script, &own, &values, trees)?;
        let (image, contents) = image(request, kernel, &options)?;
        let image_name = Store::image_name(&contents.sha256);
        let block = settings::block(&image_name, trees.as_deref());
        let settings_next = settings::with_block(&own, &block);
        let values = script.values(root, &settings_next)?;
        if Path::new(&values.u_boot) != image_name {
            bail!("{} does not take the line U_BOOT=: see what it has", script.settings.display());
        }
        let mut warnings = Vec::new();
        warnings.extend(warning_of_m1n1(m1n1.as_deref()));
        let record = system.first_record(request, &script, settings_now.as_deref(), &boot_file);
        let needs_backup = !system.has_backup(&record)?;
        let plan = Self {
            next: Installation {
                oche: contents.version,
                is_probe: request.is_probe,
                boot_file: None,
                image: image_name,
                image_sha256: contents.sha256,
                u_boot,
                options,
                trees,
                m1n1,
                block,
            },
            script,
            record,
            image,
            settings_now,
            settings_next,
            boot_file,
            needs_backup,
            values,
            warnings,
        };
        plan.check_room(system)?;
        Ok(plan)
    }

    /// The files of the device trees and their bytes.
    pub(super) fn tree_files(&self, root: &SystemRoot) -> Result<Vec<(String, Vec<u8>)>> {
        let read = |name: &String| {
            fs::read(root.path(name)).with_context(|| format!("cannot read {name}"))
        };
        self.values.tree_files.iter().map(|name| Ok((name.clone(), read(name)?))).collect()
    }

    fn check_room(&self, system: &System) -> Result<()> {
        let trees: usize =
            self.tree_files(&system.root)?.iter().map(|(_, bytes)| bytes.len()).sum();
        let m1n1 = fs::metadata(system.root.path(&self.values.m1n1)).map_or(0, |file| file.len());
        // The image is compressed, so this is more than enough.
        let next = (trees + self.image.len()) as u64 + m1n1;
        let backup = if self.needs_backup { self.boot_file.len() as u64 } else { 0 };
        // A later run of the script keeps the file from before beside the new one.
        system.esp.check_writable(backup + 2 * next)?;
        let settings = system.root.path(&self.script.settings);
        let folders = [settings.parent().unwrap_or(Path::new("/")), system.store.existing_folder()];
        for folder in folders {
            let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(folder);
            if access(there, Access::WRITE_OK).is_err() {
                let name = system.root.inside(there);
                bail!("{} may not be written by this user: run it as root", name.display());
            }
        }
        Ok(())
    }
}

impl System {
    /// The boot file, which has to be one that Oche may replace.
    fn present_boot_file(&self) -> Result<Vec<u8>> {
        let name = self.boot_file_name();
        let Some(file) = files::read(&self.esp.boot_file())? else {
            bail!("{name} is missing: run `oche status`, or restore it from boot.bin.old");
        };
        match (verify::starts(&file), &self.record) {
            (Starts::UBoot(_), _) | (Starts::Oche(_), Some(_)) => Ok(file),
            (Starts::Oche(_), None) => bail!(
                "{name} has an Oche that `oche install` did not put there: put back the file from \
                 before it first"
            ),
            (Starts::Other(what), _) => {
                bail!("{name} is not what update-m1n1 writes: {what}")
            }
        }
    }

    /// The record to begin with.
    fn first_record(
        &self,
        request: &Request,
        script: &UpdateScript,
        settings: Option<&[u8]>,
        boot_file: &[u8],
    ) -> Record {
        let mut record = self.record.clone().unwrap_or_else(|| {
            let path = script.settings.clone();
            let folder_made = !self.root.path(&path).parent().is_some_and(Path::is_dir);
            let settings = SettingsMark { path, before: settings.map(FileMark::of), folder_made };
            Record::new(FileMark::of(boot_file), settings, request.esp.clone())
        });
        record.phase = Phase::Installing;
        record
    }

    /// Whether the boot file from before is kept.
    fn has_backup(&self, record: &Record) -> Result<bool> {
        let backup = self.esp.backup();
        let name = self.root.inside(&backup);
        let Some(bytes) = files::read(&backup)? else { return Ok(false) };
        if FileMark::of(&bytes) == record.before {
            return Ok(true);
        }
        if self.record.is_some() {
            bail!(
                "{} is damaged: what was there before the installation cannot be restored from \
                 it; move it away and see `oche uninstall --help`",
                name.display()
            );
        }
        bail!("{} is there, of an earlier installation: move it away first", name.display())
    }
}

/// m1n1's version in its own file.
fn m1n1_version(root: &SystemRoot, path: &str) -> Result<Option<String>> {
    let Some(bytes) = files::read(&root.path(path))? else {
        bail!("m1n1 is missing at {path}: install the package m1n1");
    };
    let read = BootFile::read(&bytes).with_context(|| format!("{path} is damaged"))?;
    Ok(read.with_context(|| format!("{path} is no m1n1"))?.version)
}

fn warning_of_m1n1(version: Option<&str>) -> Option<String> {
    let named = version.unwrap_or("of an unknown version");
    let mut numbers = named
        .trim_start_matches('v')
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|number| number.parse::<u64>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (found < WFI_VERSION).then(|| {
        format!(
            "m1n1 is {named}: before 1.6, WFI may lose registers and a guest crashes when it \
             idles; install m1n1 1.6 or newer first"
        )
    })
}

/// The image that takes U-Boot's place, and its contents.
fn image(
    request: &Request,
    u_boot: PathBuf,
    options: &[(String, String)],
) -> Result<(Vec<u8>, Contents)> {
    let elf = request.oche.as_deref();
    if request.is_probe {
        return probe::image_before(&u_boot, elf);
    }
    let guest = GuestFiles { kernel: u_boot, initrd: None, options: options.to_vec() };
    image_for(PackBoard::M1, elf, &guest)
}

/// The U-Boot to pack, and where it is for this process.
fn u_boot(
    root: &SystemRoot,
    request: &Request,
    previous: Option<&Installation>,
    values: &Values,
) -> Result<(PackedUBoot, PathBuf)> {
    let before = previous.map(|previous| &previous.u_boot).filter(|u_boot| u_boot.is_given);
    let given = request.u_boot.clone().or(before.map(|u_boot| u_boot.path.clone()));
    let path = match &given {
        Some(path) => path.clone(),
        None => default_u_boot(root, values).with_context(|| {
            format!("no U-Boot at {}: install u-boot-asahi, or name --u-boot", U_BOOTS[0])
        })?,
    };
    let real = root.path(&path);
    let image = KernelImage::read_u_boot(&real)?;
    let file = fs::read(&real).with_context(|| format!("cannot read {}", real.display()))?;
    let u_boot = PackedUBoot {
        path,
        is_given: given.is_some(),
        sha256: files::sha256(&file),
        banner: image.banner().unwrap_or_default().to_owned(),
    };
    Ok((u_boot, real))
}

/// The U-Boot that the script takes without Oche.
pub(super) fn default_u_boot(root: &SystemRoot, values: &Values) -> Option<PathBuf> {
    if !values.u_boot.is_empty() && root.path(&values.u_boot).is_file() {
        return Some(values.u_boot.clone().into());
    }
    U_BOOTS.iter().find(|path| root.path(path).is_file()).map(PathBuf::from)
}

/// `DTBS=` for Oche's lines: `None` if the script has a tree for this Mac as it is.
fn choose_trees(
    system: &System,
    script: &UpdateScript,
    own: &[u8],
    values: &Values,
    given: Option<String>,
) -> Result<Option<String>> {
    let root = &system.root;
    let mac = &system.mac.name;
    if given.is_none() && has_tree(root, &values.tree_files, mac) {
        return Ok(None);
    }
    let candidates = match &given {
        Some(trees) => vec![trees.as_str()],
        None => TREES.to_vec(),
    };
    for trees in candidates {
        if trees.split_whitespace().any(|path| !path.starts_with('/')) {
            bail!("--dtbs {trees}: name absolute paths, for a later run of {}", script.path);
        }
        let text = settings::with_block(own, &settings::block(Path::new("/"), Some(trees)));
        let found = script.values(root, &text)?.tree_files;
        if has_tree(root, &found, mac) {
            return Ok(Some(trees.to_owned()));
        }
    }
    match given {
        Some(trees) => bail!("--dtbs {trees}: no device tree for {mac} is there"),
        None => bail!(
            "no device tree for {mac} is found: name the kernel's, as in --dtbs '{}'",
            TREES[0]
        ),
    }
}

fn has_tree(root: &SystemRoot, files: &[String], mac: &str) -> bool {
    files.iter().any(|file| {
        let tree = fs::read(root.path(file)).ok().and_then(|it| boot_file::tree(&it).ok());
        tree.is_some_and(|tree| tree.compatible.iter().any(|name| name == mac))
    })
}

#[cfg(test)]
mod tests {
    use super::warning_of_m1n1;

    #[test]
    fn an_m1n1_that_loses_registers_in_wfi_is_warned_of() {
        assert_eq!(warning_of_m1n1(Some("v1.6.1")), None);
        assert_eq!(warning_of_m1n1(Some("2.0")), None);
        assert!(warning_of_m1n1(Some("v1.4.21")).is_some_and(|it| it.contains("v1.4.21")));
        assert!(warning_of_m1n1(None).is_some_and(|it| it.contains("unknown version")));
    }
}
