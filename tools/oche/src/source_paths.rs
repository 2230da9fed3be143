//! Names for source files that are the same on every machine.
//!
//! A compiler writes the paths of sources into panics and line tables. With these flags they begin
//! at the checkout's top, at `/cargo` for crates, and at `/rustc/COMMIT` for the library, so that
//! equal sources give equal files wherever they are built.

use std::path::{Path, PathBuf};
use std::process::Command;

/// How the path of a source of the checkout begins.
pub const OWN: &str = "./";
/// How the path of a source of a crate begins; the name of the registry and the crate follow.
/// Absolute, as readers of line tables put a relative path behind the folder of the crate that it
/// was inlined into.
pub const CRATES: &str = "/cargo/";

/// The flags of the compiler `rustc` for sources in the checkout at `root`.
#[must_use]
pub fn flags(root: &Path, rustc: &str) -> Vec<String> {
    let library = library_of(root, rustc).map(|(path, name)| flag(&path, &name));
    let cargo = cargo_home().map(|home| flag(&home.join("registry/src"), CRATES));
    // Where two match, the compiler takes the one behind.
    library.into_iter().chain(cargo).chain([flag(root, OWN)]).collect()
}

fn flag(path: &Path, name: &str) -> String {
    format!("--remap-path-prefix={}={}", path.display(), name.trim_end_matches('/'))
}

/// Cargo's own folder, with the crates' sources; it need not exist.
#[must_use]
pub fn cargo_home() -> Option<PathBuf> {
    let named = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty());
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"));
    named.map(PathBuf::from).or_else(home)
}

/// Where the library's sources would be if they are installed, and the name that the library's
/// own build gave them.
fn library_of(root: &Path, rustc: &str) -> Option<(PathBuf, String)> {
    let ask = |arguments: &[&str]| {
        let answer = Command::new(rustc).args(arguments).current_dir(root).output().ok()?;
        String::from_utf8(answer.stdout).ok()
    };
    let sysroot = ask(&["--print", "sysroot"])?;
    let version = ask(&["--version", "--verbose"])?;
    let commit = version.lines().find_map(|line| line.strip_prefix("commit-hash: "))?;
    let path = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    Some((path, format!("/rustc/{}", commit.trim())))
}
