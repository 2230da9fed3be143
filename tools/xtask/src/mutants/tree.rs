//! The copy that mutants are made in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use oche::workspace;

use super::edit;
use super::mutant::Mutant;
use super::run::{Fate, Run};

/// A copy of the checkout, and where it is built.
pub(super) struct Tree {
    root: PathBuf,
    build: PathBuf,
}

impl Tree {
    pub(super) fn new() -> Result<Self> {
        let folder = workspace::target().join("mutants");
        let tree = Self { root: folder.join("tree"), build: folder.join("build") };
        // Files that are equal keep their time, so that little is built again. The checkout may
        // change from here on.
        mirror(&workspace::root(), &tree.root, true)?;
        share(&workspace::cache(), &tree.root.join("target").join("cache"))?;
        Ok(tree)
    }

    /// Applies `mutant` to the copy.
    pub(super) fn apply(&self, mutant: &Mutant) -> Result<()> {
        wait_for_the_clock();
        edit::apply(&self.root, &mutant.diff, &[])
    }

    /// Takes `mutant` out of the copy again.
    pub(super) fn revert(&self, mutant: &Mutant) -> Result<()> {
        wait_for_the_clock();
        edit::apply(&self.root, &mutant.diff, &["--reverse"])
    }

    pub(super) fn read(&self, file: &str) -> Result<String> {
        std::fs::read_to_string(self.root.join(file))
            .with_context(|| format!("cannot read {file} in the copy"))
    }

    pub(super) fn write(&self, file: &str, text: &str) -> Result<()> {
        wait_for_the_clock();
        std::fs::write(self.root.join(file), text)
            .with_context(|| format!("cannot write {file} in the copy"))
    }

    /// Carries out `runs` in the copy until one finds something wrong.
    pub(super) fn test(&self, runs: &[Run], mut watch: impl FnMut(&str)) -> Result<Fate> {
        for run in runs {
            watch(&run.title());
            let fate = run.carry_out(&self.root, &self.build)?;
            if fate != Fate::Survived {
                return Ok(fate);
            }
        }
        Ok(Fate::Survived)
    }
}

/// Waits until a change gives a file another time: the next build would not notice one within the
/// clock's resolution.
fn wait_for_the_clock() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Lets the copy use what the checkout has fetched from the distribution's archive: no mutant is in
/// that.
fn share(cache: &Path, link: &Path) -> Result<()> {
    std::fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    if link.exists() {
        return Ok(());
    }
    if let Some(folder) = link.parent() {
        workspace::create_folder(folder)?;
    }
    std::os::unix::fs::symlink(cache, link)
        .with_context(|| format!("cannot make {}", link.display()))
}

/// Makes the folder `to` equal to `from`, without what is built, hidden, or the same already.
pub(super) fn mirror(from: &Path, to: &Path, is_top: bool) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let names = |folder: &Path| -> Result<Vec<std::ffi::OsString>> {
        let entries = std::fs::read_dir(folder)
            .with_context(|| format!("cannot list {}", folder.display()))?;
        entries.map(|entry| Ok(entry?.file_name())).collect()
    };
    let is_left_out = |name: &std::ffi::OsStr| {
        name.to_string_lossy().starts_with('.') || is_top && name.to_string_lossy() == "target"
    };
    for name in names(from)?.into_iter().filter(|name| !is_left_out(name)) {
        let (source, copy) = (from.join(&name), to.join(&name));
        if source.is_dir() {
            mirror(&source, &copy, false)?;
            continue;
        }
        let bytes =
            std::fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
        if std::fs::read(&copy).ok().as_ref() != Some(&bytes) {
            std::fs::write(&copy, bytes)
                .with_context(|| format!("cannot write {}", copy.display()))?;
        }
    }
    for name in names(to)?.into_iter().filter(|name| !is_left_out(name)) {
        let (source, copy) = (from.join(&name), to.join(&name));
        if !source.exists() {
            let removed = if copy.is_dir() {
                std::fs::remove_dir_all(&copy)
            } else {
                std::fs::remove_file(&copy)
            };
            removed.with_context(|| format!("cannot remove {}", copy.display()))?;
        }
    }
    Ok(())
}
