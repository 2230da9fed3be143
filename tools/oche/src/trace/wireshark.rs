//! Wireshark's support for Oche's packets: a dissector, a profile with columns, colours and filter
//! buttons, and a link by which it finds `oche` for live capture.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The dissector's source.
pub const DISSECTOR: &str = include_str!("wireshark/oche.lua");

/// The profile's files, by name.
const PROFILE: [(&str, &str); 3] = [
    ("preferences", include_str!("wireshark/preferences")),
    ("colorfilters", include_str!("wireshark/colorfilters")),
    ("dfilter_buttons", include_str!("wireshark/dfilter_buttons")),
];

/// The name of the program for live capture.
const EXTCAP: &str = "oche";

/// The profile's name.
const NAME: &str = "Oche";

/// The folders of a user's Wireshark configuration and plugins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folders {
    /// Configuration.
    pub configuration: PathBuf,
    /// Lua plugins.
    pub plugins: PathBuf,
    /// Programs for live capture: where Wireshark 4.0 looks for them, and where 4.4 does.
    pub extcap: [PathBuf; 2],
}

impl Folders {
    /// The places that Wireshark looks in on Linux: those of the user, or those below `home`.
    ///
    /// Wireshark 4.0 takes plugins from `WIRESHARK_CONFIG_DIR` too, and 4.4 does not, so a folder
    /// stands for a home.
    ///
    /// # Errors
    ///
    /// There is no home folder.
    pub fn find(home: Option<&Path>) -> Result<Self> {
        if let Some(home) = home {
            return Ok(Self::of_home(home, home.join(".config")));
        }
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
        let home =
            PathBuf::from(home.context("there is no HOME to install Wireshark's profile in")?);
        let configuration =
            std::env::var_os("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from);
        Ok(Self::of_home(&home, configuration))
    }

    fn of_home(home: &Path, configuration: PathBuf) -> Self {
        let libraries = home.join(".local/lib/wireshark");
        let configuration = configuration.join("wireshark");
        Self {
            extcap: [configuration.join("extcap"), libraries.join("extcap")],
            plugins: libraries.join("plugins"),
            configuration,
        }
    }

    /// Writes dissector and profile, and links to `program`, an `oche`, for live capture; gives the
    /// files.
    ///
    /// # Errors
    ///
    /// A file cannot be written, or something else than a link is where a link belongs.
    pub fn install(&self, program: &Path) -> Result<Vec<PathBuf>> {
        let profile = self.configuration.join("profiles").join(NAME);
        let files = PROFILE.iter().map(|(name, text)| (profile.join(name), *text));
        let files = files.chain([(self.plugins.join("oche.lua"), DISSECTOR)]);
        let mut written = Vec::new();
        for (path, text) in files {
            let action = || format!("writing {}", path.display());
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).with_context(action)?;
            }
            fs::write(&path, text).with_context(action)?;
            written.push(path);
        }
        for folder in &self.extcap {
            let path = folder.join(EXTCAP);
            let action = || format!("linking {}", path.display());
            fs::create_dir_all(folder).with_context(action)?;
            // One of before may lead to an `oche` that has moved.
            if path.is_symlink() {
                fs::remove_file(&path).with_context(action)?;
            }
            symlink(program, &path).with_context(action)?;
            written.push(path);
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dissector_and_profile_go_where_they_are_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let program = Path::new("/usr/bin/oche");
        // Twice: a link of before is replaced.
        Folders::find(Some(folder.path())).unwrap().install(Path::new("/old/oche")).unwrap();
        let written = Folders::find(Some(folder.path())).unwrap().install(program).unwrap();
        assert_eq!(written.len(), 6);
        let plugin = folder.path().join(".local/lib/wireshark/plugins/oche.lua");
        assert_eq!(fs::read_to_string(plugin).unwrap(), DISSECTOR);
        assert!(folder.path().join(".config/wireshark/profiles/Oche/colorfilters").exists());
        for link in [".config/wireshark/extcap/oche", ".local/lib/wireshark/extcap/oche"] {
            assert_eq!(fs::read_link(folder.path().join(link)).unwrap(), program);
        }
    }
}
