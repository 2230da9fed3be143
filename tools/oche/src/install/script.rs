//! The distribution's `update-m1n1`, which writes m1n1's boot file.
//!
//! A script is recognized by the lines that this module relies on, not by its version: they are
//! the same in Debian's (asahi-scripts 20250130 and 20250713), in the Asahi project's own and in
//! Fedora's, which differ in where settings and files are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::root::SystemRoot;
use crate::command;

/// Where distributions have it.
const PLACES: [&str; 3] =
    ["/usr/bin/update-m1n1", "/usr/sbin/update-m1n1", "/usr/local/bin/update-m1n1"];
/// Lines that it has to have, without the spaces at their ends, and what each is for.
const NEEDED: [(&str, &str); 6] = [
    (r#": ${TARGET:="$1"}"#, "the file to write as its argument"),
    (r#"cat "$M1N1" $DTBS >"${TARGET}.new""#, "m1n1 and the device trees"),
    (r#"gzip -c "$U_BOOT" >>"${TARGET}.new""#, "U-Boot, compressed"),
    (r#"cat "$m1n1config" >>"${TARGET}.new""#, "m1n1's configuration"),
    (r#"mv -f "${TARGET}.new" "$TARGET""#, "the move to the boot file"),
    (r#"[ -n "$M1N1_UPDATE_DISABLED" ] && exit 0"#, "the setting that disables it"),
];
/// The end of the name of its settings.
const SETTINGS_END: &str = "/update-m1n1";
/// The start of the lines that give a setting its default.
const DEFAULT: &str = ": ${";
/// Newer versions take a folder of device trees.
const FOLDER_RULE: &str = r#"[ -d "$DTBS" ]"#;
/// What is printed before the values, behind whatever the settings print.
const MARK: &str = "oche-values";

/// The script of a system.
#[derive(Clone, Debug)]
pub(super) struct UpdateScript {
    /// Its path in that system.
    pub(super) path: String,
    /// Its settings, in that system.
    pub(super) settings: PathBuf,
    interpreter: String,
    defaults: String,
}

/// The values that the script works with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Values {
    /// m1n1's own file.
    pub(super) m1n1: String,
    /// The file in U-Boot's place; empty if it is the script's choice.
    pub(super) u_boot: String,
    /// m1n1's configuration.
    pub(super) configuration: String,
    /// The device trees as they are set; may be patterns.
    pub(super) trees: String,
    /// The files of the device trees that there are.
    pub(super) tree_files: Vec<String>,
}

impl UpdateScript {
    /// Finds the script and sees whether it is one of a known form.
    ///
    /// # Errors
    ///
    /// There is none, or it is another script.
    pub(super) fn find(root: &SystemRoot) -> Result<Self> {
        let place = PLACES.iter().find(|place| root.path(place).is_file());
        let path = place.with_context(|| {
            format!(
                "{} is missing: install asahi-scripts, or see docs/m1.md for boot.bin by hand",
                PLACES[0]
            )
        })?;
        let text =
            fs::read_to_string(root.path(path)).with_context(|| format!("cannot read {path}"))?;
        Self::recognize(path, &text)
    }

    fn recognize(path: &str, text: &str) -> Result<Self> {
        let unknown = |what: &str| {
            format!(
                "{path} is of an unknown form: it lacks the line for {what}; see docs/m1.md for \
                 boot.bin by hand"
            )
        };
        let lines = || text.lines().map(str::trim);
        for (line, what) in NEEDED {
            if !lines().any(|known| known == line) {
                bail!("{}", unknown(what));
            }
        }
        let settings = lines()
            .filter(|line| line.starts_with("[ -e /"))
            .find_map(|line| line.rsplit_once("&& . ").map(|(_, path)| path.trim()))
            .filter(|path| path.ends_with(SETTINGS_END))
            .with_context(|| unknown("its settings"))?;
        let interpreter = lines().next().and_then(|line| line.strip_prefix("#!"));
        let interpreter = interpreter.and_then(|line| line.split_whitespace().next());
        let interpreter = interpreter.filter(|path| path.starts_with('/'));
        let mut defaults: String = lines()
            .filter(|line| line.starts_with(DEFAULT))
            .map(|line| format!("{line}\n"))
            .collect();
        if text.contains(FOLDER_RULE) {
            defaults.push_str(
                "if [ -d \"$DTBS\" ]; then DTBS=\"$DTBS/apple/t6*.dtb $DTBS/apple/t81*.dtb\"; fi\n",
            );
        }
        Ok(Self {
            path: path.to_owned(),
            settings: settings.into(),
            interpreter: interpreter.with_context(|| unknown("its interpreter"))?.to_owned(),
            defaults,
        })
    }

    /// The values that the script has with `settings` as its settings' text.
    ///
    /// The settings are shell code. They are run as the script runs them, and then the script's own
    /// defaults; nothing else of the script.
    ///
    /// # Errors
    ///
    /// The settings cannot be run, disable the script, or name another file to write.
    pub(super) fn values(&self, root: &SystemRoot, settings: &[u8]) -> Result<Values> {
        let file = self.settings.display();
        let own = std::str::from_utf8(settings).with_context(|| format!("{file} is no text"))?;
        let program = format!(
            "{own}\nset --\n{}printf '\\n%s\\0' {MARK}\n\
             printf '%s\\0' \"$M1N1_UPDATE_DISABLED\" \"$TARGET\" \"$M1N1\" \"$U_BOOT\" \
             \"$CONFIG\" \"$DTBS\"\n\
             for tree in $DTBS; do [ -f \"$tree\" ] && printf '%s\\0' \"$tree\"; done\ntrue\n",
            self.defaults
        );
        let mut run = root.command(&self.interpreter)?;
        let answer = command::answer(run.arg("-c").arg(program))?;
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        let values = text.rsplit_once(&format!("\n{MARK}\0")).map(|(_, values)| values);
        let Some(values) = values.filter(|_| answer.status.success()) else {
            let printed = String::from_utf8_lossy(&answer.stderr).into_owned();
            let reason = printed.lines().next().unwrap_or("it ends the shell").to_owned();
            bail!("{} cannot read {file}: {reason}", self.interpreter);
        };
        let mut fields = values.split_terminator('\0').map(str::to_owned);
        let mut next = || fields.next().unwrap_or_default();
        let (disabled, target) = (next(), next());
        if !disabled.is_empty() {
            bail!("{file} disables {} (M1N1_UPDATE_DISABLED): remove this setting", self.path);
        }
        if !target.is_empty() {
            bail!(
                "{file} sets TARGET={target}, another boot file than m1n1's: remove this setting"
            );
        }
        let (m1n1, u_boot, configuration, trees) = (next(), next(), next(), next());
        Ok(Values { m1n1, u_boot, configuration, trees, tree_files: fields.collect() })
    }

    /// Runs the script to write `target`, a path of this process, and keeps `lock` open until the
    /// script has ended, even if this process ends before.
    ///
    /// # Errors
    ///
    /// The script fails.
    pub(super) fn run(&self, root: &SystemRoot, target: &Path, lock: &fs::File) -> Result<()> {
        let mut run = root.command(&self.path)?;
        let lock = lock.try_clone().context("cannot share the lock with the script")?;
        let target = root.inside(target);
        let answer = run
            .arg(&target)
            .stdin(lock)
            .output()
            .with_context(|| format!("cannot start {}", self.path))?;
        if answer.status.success() {
            return Ok(());
        }
        let printed = String::from_utf8_lossy(&answer.stderr).into_owned();
        let last = printed.lines().map(str::trim).rfind(|line| !line.is_empty());
        bail!("{} failed ({}): {}", self.path, answer.status, last.unwrap_or("it printed nothing"))
    }
}

#[cfg(test)]
mod tests {
    use super::{NEEDED, SystemRoot, UpdateScript, Values};
    use std::path::Path;

    /// A script of the known form: our own lines around those that it is recognized by.
    fn script() -> String {
        let needed: String = NEEDED.iter().map(|(line, _)| format!("{line}\n")).collect();
        format!(
            "#!/bin/sh\n[ -e /etc/default/update-m1n1 ] && . /etc/default/update-m1n1\n\
             : ${{M1N1:=/usr/lib/m1n1.bin}}\n: ${{DTBS:=/usr/lib/trees}}\n\
             : ${{CONFIG:=/etc/m1n1.conf}}\n{needed}if [ -d \"$DTBS\" ]; then true; fi\n"
        )
    }

    fn values(settings: &str) -> Result<Values, String> {
        let known = UpdateScript::recognize("/usr/bin/update-m1n1", &script()).unwrap();
        assert_eq!(known.settings, Path::new("/etc/default/update-m1n1"));
        let root = SystemRoot::open(Path::new("/")).unwrap();
        known.values(&root, settings.as_bytes()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn settings_count_before_the_scripts_own_defaults() {
        let found = values("echo chatter\nM1N1=/a\nDTBS='/dev/null /no/such'\n").unwrap();
        assert_eq!((found.m1n1.as_str(), found.u_boot.as_str()), ("/a", ""));
        assert_eq!(found.configuration, "/etc/m1n1.conf");
        assert_eq!(found.tree_files, Vec::<String>::new(), "neither is a file");
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("apple")).unwrap();
        for name in ["t8103-j313.dtb", "t6000-j314s.dtb", "other.dtb"] {
            std::fs::write(folder.path().join("apple").join(name), "").unwrap();
        }
        let found = values(&format!("DTBS={}", folder.path().display())).unwrap();
        assert_eq!(found.tree_files.len(), 2, "{:?}", found.tree_files);
    }

    #[test]
    fn settings_that_lead_elsewhere_are_refused() {
        assert!(values("M1N1_UPDATE_DISABLED=1").unwrap_err().contains("remove this setting"));
        assert!(values("TARGET=/x").unwrap_err().contains("another boot file"));
        assert!(values("if").unwrap_err().contains("cannot read /etc/default/update-m1n1"));
        assert!(values("exit 0").unwrap_err().contains("it ends the shell"));
    }

    #[test]
    fn an_unknown_script_is_refused_with_what_it_lacks() {
        for (line, what) in NEEDED {
            let text = script().replace(line, "true");
            let refusal = format!("{:#}", UpdateScript::recognize("/u", &text).unwrap_err());
            assert!(refusal.contains("unknown form") && refusal.contains(what), "{refusal}");
        }
        assert!(UpdateScript::recognize("/u", "").is_err());
    }
}
