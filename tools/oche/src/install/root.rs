//! The root folder of the system that is changed: `/`, or another one below a folder.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::command;

/// The most symbolic links that one path leads through; as Linux has it (`MAXSYMLINKS`).
const LINK_LIMIT: usize = 40;
/// The search path of programs in that system.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A system's root folder.
#[derive(Clone, Debug)]
pub(super) struct SystemRoot {
    folder: PathBuf,
}

impl SystemRoot {
    /// The system whose root folder is `folder`.
    ///
    /// # Errors
    ///
    /// It is no folder that can be read.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let name = folder.display();
        let folder = fs::canonicalize(folder).with_context(|| format!("cannot read {name}"))?;
        if !folder.is_dir() {
            bail!("{name} is no folder: name the root folder of a system");
        }
        Ok(Self { folder })
    }

    /// Whether it is the system that runs.
    pub(super) fn is_own(&self) -> bool {
        self.folder == Path::new("/")
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where `path` of that system is for this process. Symbolic links lead to where that system's
    /// own processes get, never out of its root folder; what does not exist is taken as it is.
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let mut real = self.folder.clone();
        let mut rest: Vec<PathBuf> = pieces(path.as_ref());
        let mut links = 0;
        while let Some(piece) = rest.pop() {
            if piece == Path::new("..") {
                if real != self.folder {
                    real.pop();
                }
                continue;
            }
            let candidate = real.join(&piece);
            match fs::read_link(&candidate) {
                Ok(target) if links < LINK_LIMIT => {
                    links += 1;
                    if target.is_absolute() {
                        real.clone_from(&self.folder);
                    }
                    rest.extend(pieces(&target));
                }
                _ => real = candidate,
            }
        }
        real
    }

    /// `real`, which is for this process, as that system's processes name it.
    pub(super) fn inside(&self, real: &Path) -> PathBuf {
        match real.strip_prefix(&self.folder) {
            Ok(inside) => Path::new("/").join(inside),
            Err(_) => real.to_owned(),
        }
    }

    /// A command that runs `program` of that system in it, with no variables of this process.
    ///
    /// # Errors
    ///
    /// The program that changes the root folder is missing.
    pub(super) fn command(&self, program: &str) -> Result<Command> {
        let mut run = if self.is_own() {
            Command::new(program)
        } else {
            let mut run = self.enter()?;
            run.arg(program);
            run
        };
        run.env_clear().env("PATH", SEARCH_PATH).env("LC_ALL", "C").stdin(Stdio::null());
        Ok(run)
    }

    /// As root by `chroot`; otherwise as root of a user namespace.
    fn enter(&self) -> Result<Command> {
        let is_root = rustix::process::geteuid().is_root();
        let found = if is_root { command::find("chroot") } else { command::find("unshare") };
        let Some(program) = found else {
            bail!("{}", command::missing(if is_root { "chroot" } else { "unshare" }));
        };
        let mut run = Command::new(program);
        if is_root {
            run.arg(&self.folder);
        } else {
            run.args(["--user", "--map-root-user", "--root"]).arg(&self.folder);
        }
        Ok(run)
    }
}

/// The components of a path, the last first, without the root and `.`.
fn pieces(path: &Path) -> Vec<PathBuf> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(PathBuf::from(name)),
            Component::ParentDir => Some(PathBuf::from("..")),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::SystemRoot;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_below_the_root_folder() {
        let folder = tempfile::tempdir().unwrap();
        let top = fs::canonicalize(folder.path()).unwrap();
        let root = SystemRoot::open(&top).unwrap();
        fs::create_dir_all(top.join("usr/bin")).unwrap();
        symlink("usr/bin", top.join("bin")).unwrap();
        symlink("/etc/real", top.join("link")).unwrap();
        symlink("../../../../../../etc/out", top.join("usr/up")).unwrap();
        symlink("loop", top.join("loop")).unwrap();
        assert_eq!(root.path("/bin/sh"), top.join("usr/bin/sh"));
        assert_eq!(root.path("/link"), top.join("etc/real"));
        assert_eq!(root.path("/usr/up"), top.join("etc/out"));
        assert_eq!(root.path("/a/../../b"), top.join("b"));
        assert_eq!(root.path("/loop"), top.join("loop"));
        assert_eq!(root.inside(&top.join("etc/real")), std::path::Path::new("/etc/real"));
    }

    #[test]
    fn a_root_that_is_no_folder_is_refused() {
        let refusal = |path: &str| format!("{:#}", SystemRoot::open(path.as_ref()).unwrap_err());
        assert!(refusal("/no/such/folder").contains("cannot read /no/such/folder"));
        assert!(refusal("/dev/null").contains("is no folder"));
    }
}
