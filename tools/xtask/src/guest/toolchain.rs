//! The compiler that a kernel was built with, for modules of that kernel.
//!
//! A module takes the options of the kernel's own compiler and the programs of its own build
//! system, and both need a C library as new as theirs. A machine of the kernel's release has all
//! three. On any other, the compiler's packages of that release are unpacked under `target/cache/`,
//! and each of their programs is started with the loader and the libraries that lie beside it: this
//! needs no root, no chroot and no namespace.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use oche::progress::Step;
use oche::workspace;

use super::archive::{self, Archive, Package};

/// The start of the names of the compiler's programs.
const CROSS: &str = "aarch64-linux-gnu-";
/// The ending of a program that was replaced by a script.
const PROGRAM_ENDING: &str = "program";

/// A compiler for arm64 and what starts programs of its release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Toolchain {
    /// The compiler.
    pub(super) compiler: PathBuf,
    /// What precedes the names of the assembler, the linker and others.
    pub(super) prefix: String,
    /// What starts programs of the release, if this machine is of another one.
    loader: Option<Loader>,
}

/// A dynamic loader and the libraries beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Loader {
    program: PathBuf,
    libraries: String,
}

impl Toolchain {
    /// Gives the compiler `gcc-VERSION` of the release that `suite` belongs to: the machine's own
    /// if it is of that release, else one from the archive.
    ///
    /// # Errors
    ///
    /// The archive cannot be reached or has no such compiler, or the disk is full.
    pub(super) fn of_suite(suite: &str, version: u32, step: &Step) -> Result<Self> {
        // A release and its backports share one C library.
        let release = suite.strip_suffix("-backports").unwrap_or(suite);
        if codename(&fs::read_to_string("/etc/os-release").unwrap_or_default()) == Some(release) {
            let compiler = PathBuf::from(format!("{CROSS}gcc"));
            return Ok(Self { compiler, prefix: CROSS.to_owned(), loader: None });
        }
        let folder = workspace::cache().join("toolchains").join(format!("{release}-gcc-{version}"));
        let _lock = workspace::FolderLock::wait(&folder)?;
        let root = folder.join("root");
        let mark = folder.join("unpacked");
        // The scripts have absolute paths, and a checkout can be moved.
        let wanted = root.display().to_string();
        if fs::read_to_string(&mark).is_ok_and(|kept| kept == wanted) {
            return Self::unpacked(&root, version);
        }
        let archive = Archive::open(release)?;
        let packages = packages(&archive, version, step)?;
        let debs = archive.download(&packages, step)?;
        workspace::remove_folder(&root)?;
        step.detail(&format!("unpacking the compiler of {release}"));
        archive::unpack(&debs, &root)?;
        let toolchain = Self::unpacked(&root, version)?;
        toolchain.adopt(&root.join("usr/bin"))?;
        toolchain.adopt(&root.join("usr/lib/gcc-cross"))?;
        toolchain.adopt(&root.join("usr/libexec"))?;
        for deb in debs {
            // Unpacked, it is not needed again.
            fs::remove_file(&deb).with_context(|| format!("cannot remove {}", deb.display()))?;
        }
        workspace::write_whole(&mark, wanted.as_bytes())?;
        Ok(toolchain)
    }

    fn unpacked(root: &Path, version: u32) -> Result<Self> {
        let machine = std::env::consts::ARCH;
        let folders =
            ["lib", "usr/lib"].map(|lib| root.join(lib).join(format!("{machine}-linux-gnu")));
        let name =
            if machine == "aarch64" { "ld-linux-aarch64.so.1" } else { "ld-linux-x86-64.so.2" };
        let program = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
        let program = program.with_context(|| format!("{} has no {name}", root.display()))?;
        let libraries = folders.map(|folder| folder.display().to_string()).join(":");
        Ok(Self {
            compiler: root.join("usr/bin").join(format!("{CROSS}gcc-{version}")),
            prefix: root.join("usr/bin").join(CROSS).display().to_string(),
            loader: Some(Loader { program, libraries }),
        })
    }

    /// Makes each program below `folder` start with the release's loader and libraries. Where the
    /// machine is of that release there is nothing to do.
    ///
    /// # Errors
    ///
    /// A file cannot be read or written.
    pub(super) fn adopt(&self, folder: &Path) -> Result<()> {
        let Some(loader) = &self.loader else { return Ok(()) };
        let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
        for path in entries.flatten().map(|entry| entry.path()) {
            let kind = fs::symlink_metadata(&path).with_context(|| cannot_read(&path))?;
            if kind.is_dir() {
                self.adopt(&path)?;
            } else if kind.is_file() && kind.permissions().mode() & 0o100 != 0 {
                loader.adopt_program(&path)?;
            }
        }
        Ok(())
    }
}

impl Loader {
    /// Puts a script in place of a program, unless it needs no loader.
    fn adopt_program(&self, path: &Path) -> Result<()> {
        let is_replaced = path.extension().is_some_and(|ending| ending == PROGRAM_ENDING);
        if is_replaced || !asks_for_loader(path)? {
            return Ok(());
        }
        let program = PathBuf::from(format!("{}.{PROGRAM_ENDING}", path.display()));
        fs::rename(path, &program).with_context(|| format!("cannot rename {}", path.display()))?;
        workspace::write_whole(path, self.script(&program)?.as_bytes())?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The script that starts `program` under its own name: gcc finds the compiler proper by it.
    fn script(&self, program: &Path) -> Result<String> {
        let text = format!(
            "#!/bin/sh\nexec '{}' --library-path '{}' --argv0 \"$0\" '{}' \"$@\"\n",
            self.program.display(),
            self.libraries,
            program.display()
        );
        ensure!(
            text.matches('\'').count() == 6,
            "the compiler takes no path with a quote: move the checkout ({})",
            program.display()
        );
        Ok(text)
    }
}

/// The packages of a compiler, without the libraries of the programs that it would link.
fn packages(archive: &Archive, version: u32, step: &Step) -> Result<Vec<Package>> {
    let architecture = host_architecture();
    let mut found: Vec<Package> = Vec::new();
    let mut open = vec![format!("gcc-{version}-aarch64-linux-gnu")];
    while let Some(name) = open.pop() {
        if found.iter().any(|package| package.name == name) || name.ends_with("-cross") {
            continue;
        }
        let package = archive.package(&name, architecture, step)?;
        open.extend(package.depends.iter().cloned());
        found.push(package);
    }
    Ok(found)
}

/// The version of the compiler that a package of kernel headers depends on.
///
/// # Errors
///
/// It depends on none.
pub(super) fn compiler_version(headers: &Package) -> Result<u32> {
    // gcc-12, gcc-16-for-host
    let version = |name: &String| name.strip_prefix("gcc-")?.split('-').next()?.parse().ok();
    match headers.depends.iter().find_map(version) {
        Some(version) => Ok(version),
        None => bail!("package {} names no compiler", headers.name),
    }
}

/// The architecture of Debian's packages for the machine this runs on.
pub(crate) fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

/// The codename in the text of `/etc/os-release`.
pub(crate) fn codename(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).map(str::trim)
}

/// Whether a file is a program that names a dynamic loader.
fn asks_for_loader(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    // The headers of a program lie at its start.
    fs::File::open(path)
        .and_then(|file| file.take(8192).read_to_end(&mut start))
        .with_context(|| cannot_read(path))?;
    let Ok(header) = elf::FileHeader64::<object::Endianness>::parse(start.as_slice()) else {
        return Ok(false);
    };
    let endian = header.endian()?;
    let segments =
        header.program_headers(endian, start.as_slice()).with_context(|| cannot_read(path))?;
    Ok(segments.iter().any(|segment| segment.p_type(endian) == elf::PT_INTERP))
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read {}", path.display())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::process::Command;

    use super::{Loader, Package, Toolchain, codename, compiler_version};

    fn headers(depends: &[&str]) -> Package {
        Package {
            name: "linux-headers".into(),
            version: "1".into(),
            architecture: "arm64".into(),
            depends: depends.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn the_headers_name_the_kernels_compiler() {
        assert_eq!(compiler_version(&headers(&["linux-kbuild-6.1", "gcc-12"])).unwrap(), 12);
        assert_eq!(compiler_version(&headers(&["gcc-16-for-host"])).unwrap(), 16);
        assert!(compiler_version(&headers(&["linux-base", "gcc-base"])).is_err());
    }

    #[test]
    fn the_machines_release_is_read_from_its_description() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=trixie\n"), Some("trixie"));
        assert_eq!(codename("ID=arch\n"), None);
    }

    #[test]
    fn a_program_starts_with_the_loader_that_it_was_given_and_a_script_stays() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let program = inner.join("echo");
        fs::copy("/bin/echo", &program).unwrap();
        let script = folder.path().join("script");
        fs::copy("/bin/sh", folder.path().join("no-script")).unwrap();
        fs::write(&script, "#!/bin/sh\n").unwrap();
        // In place of a loader, a program that prints what it was started with.
        let loader = Loader { program: "/bin/echo".into(), libraries: "/a:/b".into() };
        let toolchain =
            Toolchain { compiler: PathBuf::new(), prefix: String::new(), loader: Some(loader) };
        toolchain.adopt(folder.path()).unwrap();
        toolchain.adopt(folder.path()).unwrap();
        let started = Command::new(&program).args(["x", "y z"]).output().unwrap();
        let name = program.display();
        assert_eq!(
            String::from_utf8(started.stdout).unwrap(),
            format!("--library-path /a:/b --argv0 {name} {name}.program x y z\n")
        );
        assert_eq!(fs::read_to_string(&script).unwrap(), "#!/bin/sh\n");
    }
}
