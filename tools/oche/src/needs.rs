//! What the project's commands start or read that is not part of it, and the Debian packages that
//! have it.

/// Something that must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// What needs it.
    pub purpose: Purpose,
    /// The sign that it is installed.
    pub sign: Sign,
    /// The Debian package that has it.
    pub package: &'static str,
}

/// What something is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Every command that boots a guest: its machine, its modules, its files.
    Guest,
    /// Looking at a trace's views.
    Views,
    /// Reading the codes on the probe's screen.
    Codes,
    /// The tests that begin with a fresh clone or a fresh system.
    Fresh,
    /// Building Oche where rustup has no bare-metal target to offer.
    Compiler,
    /// Linting Oche there.
    Linter,
}

/// The sign that a package is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// A program of this name on the search path.
    Program(&'static str),
    /// A file at this path.
    File(&'static str),
    /// Modules of Python, with commas between them.
    PythonModules(&'static str),
}

/// The linter of Debian's package `rust-web-clippy`, which goes with its compiler.
pub const DEBIAN_LINTER: &str = "/usr/bin/clippy-driver";

const fn need(purpose: Purpose, sign: Sign, package: &'static str) -> Need {
    Need { purpose, sign, package }
}

/// All of it. What a program name in an error leads to is looked up here as well.
pub const NEEDS: [Need; 26] = [
    need(Purpose::Guest, Sign::Program("qemu-system-aarch64"), "qemu-system-arm"),
    need(Purpose::Guest, Sign::Program("aarch64-linux-gnu-gcc"), "gcc-aarch64-linux-gnu"),
    need(Purpose::Guest, Sign::Program("make"), "make"),
    need(Purpose::Guest, Sign::Program("dtc"), "device-tree-compiler"),
    need(Purpose::Guest, Sign::Program("depmod"), "kmod"),
    need(Purpose::Guest, Sign::Program("modprobe"), "kmod"),
    need(Purpose::Guest, Sign::Program("mkfs.ext4"), "e2fsprogs"),
    need(Purpose::Guest, Sign::Program("debugfs"), "e2fsprogs"),
    need(Purpose::Guest, Sign::Program("strace"), "strace"),
    need(Purpose::Guest, Sign::Program("xz"), "xz-utils"),
    need(Purpose::Guest, Sign::Program("zstd"), "zstd"),
    need(
        Purpose::Guest,
        Sign::File("/usr/share/keyrings/debian-archive-keyring.gpg"),
        "debian-archive-keyring",
    ),
    need(Purpose::Views, Sign::Program("tshark"), "tshark"),
    need(Purpose::Views, Sign::Program("chromium"), "chromium"),
    need(Purpose::Views, Sign::Program("babeltrace2"), "babeltrace2"),
    need(Purpose::Codes, Sign::Program("zbarimg"), "zbar-tools"),
    need(Purpose::Views, Sign::Program("python3"), "python3"),
    // A second version of the language: the Python package is tested under two.
    need(Purpose::Views, Sign::Program("pypy3"), "pypy3"),
    // python3 alone, as Debian splits it, has no pip to put into a virtual environment.
    need(Purpose::Views, Sign::PythonModules("ensurepip, venv"), "python3-venv"),
    need(Purpose::Fresh, Sign::Program("git"), "git"),
    need(Purpose::Fresh, Sign::Program("debootstrap"), "debootstrap"),
    need(Purpose::Fresh, Sign::Program("qemu-aarch64"), "qemu-user"),
    need(Purpose::Compiler, Sign::File("/usr/bin/rustc"), "rustc-web"),
    need(
        Purpose::Compiler,
        Sign::File("/usr/lib/rustlib/src/rust/library/core/Cargo.toml"),
        "rust-web-src",
    ),
    need(Purpose::Compiler, Sign::Program("ld.lld"), "lld"),
    need(Purpose::Linter, Sign::File(DEBIAN_LINTER), "rust-web-clippy"),
];

/// The package that has a program, if `cargo xtask setup` installs it.
#[must_use]
pub fn package_of(program: &str) -> Option<&'static str> {
    let has = |need: &&Need| matches!(need.sign, Sign::Program(name) if name == program);
    NEEDS.iter().find(has).map(|need| need.package)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{NEEDS, package_of};
    use crate::workspace;

    /// What a Debian has with cargo and rustup; sudo is asked for before it is started.
    const ALWAYS: [&str; 17] = [
        "apt-cache",
        "apt-config",
        "apt-get",
        "cargo",
        "chroot",
        "df",
        "dpkg-deb",
        "env",
        "gzip",
        "id",
        "rustc",
        "rustup",
        "setpriv",
        "sh",
        "sudo",
        "timeout",
        "unshare",
    ];

    /// The programs that the code of a file starts or looks for by a name in quotes.
    fn started_by(text: &str) -> Vec<&str> {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        ["Command::new(\"", "program(\"", "::find(\"", "is_present(\""]
            .iter()
            .flat_map(|call| code.split(call).skip(1))
            .filter_map(|rest| rest.split('"').next())
            .collect()
    }

    fn check(folder: &Path, unknown: &mut Vec<String>, count: &mut usize) {
        for path in fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                check(&path, unknown, count);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                for name in started_by(&text) {
                    *count += 1;
                    if !ALWAYS.contains(&name) && package_of(name).is_none() {
                        unknown.push(format!("{}: {name}", path.display()));
                    }
                }
            }
        }
    }

    #[test]
    fn every_program_that_a_command_starts_is_installed_by_the_set_up() {
        let (mut unknown, mut count) = (Vec::new(), 0);
        check(&workspace::root().join("tools"), &mut unknown, &mut count);
        assert!(unknown.is_empty(), "{unknown:?}");
        assert!(count > 20, "only {count} names were found");
    }

    #[test]
    fn a_program_in_quotes_is_found_and_one_of_a_test_is_not() {
        let text = "Command::new(\"a\").arg(\"b\"); command::find(\"c\")\n#[cfg(test)]\nCommand::new(\"d\")";
        assert_eq!(started_by(text), ["a", "c"]);
    }

    #[test]
    fn a_program_is_listed_once() {
        for (index, need) in NEEDS.iter().enumerate() {
            assert!(NEEDS.iter().skip(index + 1).all(|other| other.sign != need.sign), "{need:?}");
        }
        assert_eq!(package_of("mkfs.ext4"), Some("e2fsprogs"));
        assert_eq!(package_of("sh"), None);
    }
}
