//! Debian's archive, asked through a private apt configuration that leaves the machine's own alone.
//!
//! The guest's packages are of another architecture and sometimes of another suite. A private set
//! of package lists under `target/cache/` gets them with apt's own signature checks, without root,
//! and without a foreign architecture or a foreign suite in the machine's configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use oche::progress::Step;
use oche::{command, workspace};

use super::sources;

/// One suite of the archive, with package lists of its own.
#[derive(Debug)]
pub struct Archive {
    suite: String,
    folder: PathBuf,
}

/// One version of a package, as the archive's list describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture, or `all`.
    pub architecture: String,
    /// The names of the packages it depends on, first alternatives only.
    pub depends: Vec<String>,
}

impl Package {
    /// The spelling by which apt finds exactly this package again.
    #[must_use]
    pub fn specification(&self) -> String {
        match self.architecture.as_str() {
            "all" => format!("{}={}", self.name, self.version),
            architecture => format!("{}:{architecture}={}", self.name, self.version),
        }
    }

    /// The name of its file, as apt gives it: an epoch's colon is spelled out.
    fn file_name(&self) -> String {
        format!("{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.architecture)
    }

    /// The first dependency whose name begins so.
    #[must_use]
    pub fn dependency(&self, prefix: &str) -> Option<&str> {
        self.depends.iter().map(String::as_str).find(|name| name.starts_with(prefix))
    }
}

impl Archive {
    /// Prepares to ask for packages of one suite, such as `bookworm` or `bookworm-backports`; asks
    /// nothing yet.
    ///
    /// # Errors
    ///
    /// The suite's name is none, the machine names no Debian archive, or the cache cannot be
    /// written.
    pub fn open(suite: &str) -> Result<Self> {
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
        if suite.is_empty() || !suite.chars().all(is_name) {
            bail!(
                "`{suite}` is not a suite's name: give one such as bookworm or bookworm-backports"
            );
        }
        let folder = workspace::cache().join("apt").join(suite);
        for inner in ["lists/partial", "archives/partial", "parts"] {
            workspace::create_folder(&folder.join(inner))?;
        }
        workspace::write_whole(
            &folder.join("suite.sources"),
            sources::for_suite(suite)?.as_bytes(),
        )?;
        workspace::write_whole(&folder.join("status"), b"")?;
        Ok(Self { suite: suite.to_owned(), folder })
    }

    /// Fetches the lists of what the archive has.
    ///
    /// # Errors
    ///
    /// The archive cannot be reached, or does not have the suite.
    pub fn update(&self, step: &Step) -> Result<()> {
        step.detail(&format!("reading Debian's package lists ({})", self.suite));
        let _lock = workspace::FolderLock::wait(&self.folder)?;
        command::run(
            self.apt("apt-get").args(["update", "--error-on=any"]),
            "reading Debian's package lists",
        )
    }

    /// Describes the newest version of a package, reading the archive's lists first if they have
    /// never been read.
    ///
    /// # Errors
    ///
    /// The archive cannot be reached, or has no such package.
    pub fn package(&self, name: &str, architecture: &str, step: &Step) -> Result<Package> {
        if let Some(found) = self.look_up(name, architecture)? {
            return Ok(found);
        }
        self.update(step)?;
        self.look_up(name, architecture)?.ok_or_else(|| {
            anyhow!(
                "Debian's {} has no package {name} for {architecture}: see its spelling and suite",
                self.suite
            )
        })
    }

    fn look_up(&self, name: &str, architecture: &str) -> Result<Option<Package>> {
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || "+-.".contains(letter);
        if name.is_empty() || name.starts_with('-') || !name.chars().all(is_name) {
            bail!("`{name}` is not a package's name");
        }
        let asked = format!("{name}:{architecture}");
        let mut ask = self.apt("apt-cache");
        ask.args(["show", "--no-all-versions", &asked]);
        // It fails when there is no such package, which is an answer.
        let answer = ask.output().context("cannot start apt-cache: is this Debian?")?;
        Ok(from_record(&String::from_utf8_lossy(&answer.stdout)))
    }

    /// Fetches packages and gives the paths of their files, in order; what was fetched before is
    /// not fetched again.
    ///
    /// # Errors
    ///
    /// The archive cannot be reached, no longer has that version, or the disk is full.
    pub fn download(&self, packages: &[Package], step: &Step) -> Result<Vec<PathBuf>> {
        let debs = workspace::cache().join("debs");
        let _lock = workspace::FolderLock::wait(&debs)?;
        let missing: Vec<_> =
            packages.iter().filter(|package| !debs.join(package.file_name()).is_file()).collect();
        if !missing.is_empty() {
            let partial = debs.join("partial");
            workspace::create_folder(&partial)?;
            let names: Vec<_> = missing.iter().map(|package| package.name.as_str()).collect();
            step.detail(&format!("fetching {}", names.join(", ")));
            if self.download_into(&partial, &missing).is_err() {
                // The lists may be older than the archive, which then has these versions elsewhere.
                self.update(step)?;
                self.download_into(&partial, &missing)?;
            }
            for package in missing {
                let name = package.file_name();
                // Only a whole file reaches this name: an interrupted fetch leaves its piece in
                // `partial`.
                fs::rename(partial.join(&name), debs.join(&name)).with_context(|| {
                    format!("apt-get fetched {} under another name than {name}", package.name)
                })?;
            }
        }
        Ok(packages.iter().map(|package| debs.join(package.file_name())).collect())
    }

    fn download_into(&self, folder: &Path, packages: &[&Package]) -> Result<()> {
        let mut ask = self.apt("apt-get");
        ask.args(["download", "--quiet"])
            .args(packages.iter().map(|package| package.specification()));
        command::run(ask.current_dir(folder), "fetching Debian packages")
    }

    /// An apt program under the private configuration.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let folder = self.folder.display();
        let options = [
            format!("Dir::Etc::sourcelist={folder}/suite.sources"),
            format!("Dir::Etc::sourceparts={folder}/parts"),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            format!("Dir::Etc::preferencesparts={folder}/parts"),
            format!("Dir::State={folder}"),
            format!("Dir::State::lists={folder}/lists"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::Cache={folder}"),
            format!("Dir::Cache::archives={folder}/archives"),
            // Containers' images turn these off; without them every question parses 60 MB of lists
            // anew.
            format!("Dir::Cache::pkgcache={folder}/pkgcache.bin"),
            format!("Dir::Cache::srcpkgcache={folder}/srcpkgcache.bin"),
            // Not `amd64,arm64` of the machine: the build tools' own architecture is asked for by
            // name.
            "APT::Architectures::=amd64".to_owned(),
            "APT::Architectures::=arm64".to_owned(),
            // The folders belong to the user who runs this, and apt's own user could not write
            // them.
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=3".to_owned(),
            "Acquire::http::Timeout=20".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled=false".to_owned(),
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false".to_owned(),
            "APT::Update::Post-Invoke-Success=".to_owned(),
        ];
        for option in options {
            command.arg("-o").arg(option);
        }
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }
}

/// Unpacks packages over each other into a folder.
///
/// # Errors
///
/// A package cannot be read, or the disk is full.
pub fn unpack(debs: &[PathBuf], folder: &Path) -> Result<()> {
    workspace::create_folder(folder)?;
    for deb in debs {
        let name = deb.file_name().unwrap_or_default().to_string_lossy().into_owned();
        command::run(
            Command::new("dpkg-deb").arg("-x").arg(deb).arg(folder),
            &format!("unpacking {name}"),
        )?;
    }
    Ok(())
}

/// Takes `members`, in which `*` stands for anything, out of the kernel's source: a tar archive in
/// the package `name` whose file is `deb`. They then lie in `into`, below the folder `name`; where
/// this fails, what was there before stays. The package's file is removed: its 140 MB are not
/// needed again.
///
/// # Errors
///
/// The package holds no such archive or not all members, or the disk is full.
pub fn extract_source(deb: &Path, name: &str, members: &[&str], into: &Path) -> Result<()> {
    let partial = into.join("partial");
    workspace::remove_folder(&partial)?;
    workspace::create_folder(&partial)?;
    let mut shell = Command::new("sh");
    shell.current_dir(&partial).arg("-c").arg(
        "deb=$1 name=$2; shift 2; dpkg-deb --fsys-tarfile \"$deb\" | tar -xOf - \"./usr/src/$name.tar.xz\" | \
         xz -dc | tar -xf - --wildcards \"$@\"",
    );
    shell
        .arg("sh")
        .arg(deb)
        .arg(name)
        .args(members.iter().map(|member| format!("{name}/{member}")));
    command::run(&mut shell, "unpacking the kernel's source")?;
    let whole = into.join(name);
    workspace::remove_folder(&whole)?;
    fs::rename(partial.join(name), &whole)
        .with_context(|| format!("cannot write {}", whole.display()))?;
    workspace::remove_folder(&partial)?;
    fs::remove_file(deb).with_context(|| format!("cannot remove {}", deb.display()))
}

/// Reads the first record of `apt-cache show`.
fn from_record(text: &str) -> Option<Package> {
    let record = text.split("\n\n").next()?;
    let field = |wanted: &str| {
        record.lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix(':')).map(str::trim)
    };
    let depends = ["Pre-Depends", "Depends"]
        .iter()
        .filter_map(|name| field(name))
        .flat_map(|list| list.split(','))
        .filter_map(|alternatives| alternatives.split('|').next())
        .filter_map(|first| first.split_whitespace().next())
        .map(|name| name.split(':').next().unwrap_or(name).to_owned())
        .collect();
    Some(Package {
        name: field("Package")?.to_owned(),
        version: field("Version")?.to_owned(),
        architecture: field("Architecture")?.to_owned(),
        depends,
    })
}

#[cfg(test)]
mod tests {
    use super::{Archive, from_record};

    #[test]
    fn a_record_gives_the_first_alternative_of_each_dependency() {
        let text = "Package: linux-headers-6.1.0-56-arm64\nVersion: 6.1.192-2\nArchitecture: arm64\n\
                    Pre-Depends: libc6 (>= 2.38)\nDepends: linux-headers-6.1.0-56-common (= 6.1.192-2), a | b, linux-kbuild-6.1:any (>= 6.1)\n\n\
                    Package: older\n";
        let package = from_record(text).expect("a package");
        assert_eq!(package.specification(), "linux-headers-6.1.0-56-arm64:arm64=6.1.192-2");
        assert_eq!(
            package.depends,
            ["libc6", "linux-headers-6.1.0-56-common", "a", "linux-kbuild-6.1"]
        );
        assert_eq!(package.dependency("linux-kbuild-"), Some("linux-kbuild-6.1"));
        assert_eq!(from_record(""), None);
    }

    #[test]
    fn a_suite_that_is_no_name_is_refused_before_anything_is_written() {
        let error = Archive::open("../bookworm").unwrap_err().to_string();
        assert!(error.contains("is not a suite's name"), "{error}");
    }
}
