//! The guest's few programs: Debian's own arm64 binaries, unpacked and never installed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::read::elf::{Dyn, FileHeader};
use object::{Endianness, elf};
use oche::progress::Step;
use oche::workspace;

use super::archive::{self, Archive};

/// The suite they come from, whichever kernel runs.
const SUITE: &str = "bookworm";
/// The packages: a shell with the usual tools, a maker of file systems with its libraries, and
/// `getconf`.
const PACKAGES: [&str; 8] = [
    "busybox-static",
    "e2fsprogs",
    "libext2fs2",
    "libcom-err2",
    "libblkid1",
    "libuuid1",
    "libc6",
    "libc-bin",
];
/// The folder of arm64's shared libraries on Debian.
const LIBRARY_FOLDERS: [&str; 4] =
    ["lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu", "lib", "usr/lib"];

/// The unpacked packages.
#[derive(Clone, Debug)]
pub struct Userland {
    root: PathBuf,
}

impl Userland {
    /// Gives the guest's programs: from the cache if they are there, else from the archive.
    ///
    /// # Errors
    ///
    /// The archive cannot be reached, or the disk is full.
    pub fn fetch(step: &Step) -> Result<Self> {
        let folder = workspace::cache().join("userland").join(SUITE);
        let _lock = workspace::FolderLock::wait(&folder)?;
        let root = folder.join("root");
        let list = folder.join("packages.txt");
        let wanted = PACKAGES.join("\n");
        if fs::read_to_string(&list).is_ok_and(|kept| kept == wanted) {
            return Ok(Self { root });
        }
        let archive = Archive::open(SUITE)?;
        let packages: Vec<_> = PACKAGES
            .iter()
            .map(|name| archive.package(name, "arm64", step))
            .collect::<Result<_>>()?;
        let debs = archive.download(&packages, step)?;
        workspace::remove_folder(&root)?;
        step.detail("unpacking the guest's programs");
        archive::unpack(&debs, &root)?;
        workspace::write_whole(&list, wanted.as_bytes())?;
        Ok(Self { root })
    }

    /// The path on this machine of a file of the packages, by its path in the guest.
    ///
    /// # Errors
    ///
    /// The packages have no such file.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        let found = self.root.join(path.trim_start_matches('/'));
        if !found.is_file() {
            bail!("the guest's packages have no {path}");
        }
        Ok(found)
    }

    /// A program and every shared library it needs: paths in the guest, and where the bytes are on
    /// this machine.
    ///
    /// # Errors
    ///
    /// The packages lack the program or a library, or a file is not an arm64 program.
    pub fn program(&self, path: &str) -> Result<BTreeMap<String, PathBuf>> {
        let mut found = BTreeMap::new();
        let mut open = vec![(path.trim_start_matches('/').to_owned(), self.file(path)?)];
        while let Some((guest_path, file)) = open.pop() {
            for name in needed_by(&file)? {
                let library =
                    self.library(&name).with_context(|| format!("{path} needs {name}"))?;
                if !found.contains_key(&library.0) {
                    open.push(library);
                }
            }
            found.insert(guest_path, file);
        }
        Ok(found)
    }

    fn library(&self, name: &str) -> Result<(String, PathBuf)> {
        // The guest gets every library where the loader looks first, wherever its package put it.
        let guest_folder =
            if name.starts_with("ld-linux") { "lib" } else { "lib/aarch64-linux-gnu" };
        LIBRARY_FOLDERS
            .iter()
            .map(|folder| self.root.join(folder).join(name))
            .find(|file| file.is_file())
            .map(|file| (format!("{guest_folder}/{name}"), file))
            .context("the guest's packages have no such library")
    }
}

/// The files that a program needs: its shared libraries and its loader.
fn needed_by(file: &Path) -> Result<Vec<String>> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    read_needed(&bytes).with_context(|| format!("{} is not an arm64 program", file.display()))
}

fn read_needed(bytes: &[u8]) -> Result<Vec<String>> {
    let header = elf::FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    if header.e_machine(endian) != elf::EM_AARCH64 {
        bail!("it is of another architecture");
    }
    let sections = header.sections(endian, bytes)?;
    let mut needed = Vec::new();
    if let Some((entries, link)) = sections.dynamic(endian, bytes)? {
        let strings = sections.strings(endian, bytes, link)?;
        for entry in entries {
            if entry.tag(endian) == elf::DT_NEEDED {
                let name = entry.string(endian, strings)?;
                needed.push(String::from_utf8_lossy(name).into_owned());
            }
        }
    }
    if !needed.is_empty() {
        needed.push("ld-linux-aarch64.so.1".to_owned());
    }
    Ok(needed)
}
