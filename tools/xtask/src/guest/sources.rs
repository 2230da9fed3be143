//! Reading the machine's own apt sources, and asking the same archive for another suite.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// One source of packages of the machine, in the words of apt's `sources.list(5)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AptSource {
    /// The archive's address.
    pub uri: String,
    /// The suites or codenames it names there.
    pub suites: Vec<String>,
    /// Options in the spelling of the deb822 format, such as `Signed-By`.
    pub options: Vec<(String, String)>,
}

/// The deb822 text that asks the machine's Debian archive for `suite`, and for the updates of it if
/// it is a release.
///
/// # Errors
///
/// The machine names no Debian archive.
pub fn for_suite(suite: &str) -> Result<String> {
    for_suite_from(&of_machine(Path::new("/etc/apt")), suite)
}

/// The address of the machine's Debian archive.
///
/// # Errors
///
/// The machine names no Debian archive.
pub fn main_archive() -> Result<String> {
    let machine = of_machine(Path::new("/etc/apt"));
    Ok(main_of(&machine)?.uri.clone())
}

/// The Debian archive of the machine's sources.
fn main_of(machine: &[AptSource]) -> Result<&AptSource> {
    machine.iter().find(|source| source.is_main_archive()).context(
        "this machine's apt sources name no Debian archive: Oche's guest is Debian's kernel, so \
         add one (see sources.list(5)) and run it again",
    )
}

fn for_suite_from(machine: &[AptSource], suite: &str) -> Result<String> {
    let main = main_of(machine)?;
    let is_release =
        !suite.contains('-') && !matches!(suite, "sid" | "unstable" | "testing" | "experimental");
    let mut text = main.stanza(&[suite.to_owned()]);
    if is_release {
        text.push_str(&main.stanza(&[format!("{suite}-updates")]));
        if let Some(security) = machine.iter().find(|source| source.is_security_archive()) {
            text.push_str(&security.stanza(&[format!("{suite}-security")]));
        }
    }
    Ok(text)
}

impl AptSource {
    /// The archive proper: Debian's, with whole releases.
    fn is_main_archive(&self) -> bool {
        !self.is_security_archive()
            && self.uri.trim_end_matches('/').ends_with("debian")
            && self.suites.iter().any(|suite| !suite.ends_with('/'))
    }

    fn is_security_archive(&self) -> bool {
        self.suites.iter().any(|suite| suite.ends_with("-security")) && self.uri.contains("debian")
    }

    fn stanza(&self, suites: &[String]) -> String {
        let mut text = format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\n",
            self.uri,
            suites.join(" ")
        );
        for (name, value) in &self.options {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text.push('\n');
        text
    }
}

/// Every binary source that the machine has enabled.
fn of_machine(apt: &Path) -> Vec<AptSource> {
    let mut files = vec![apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(apt.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => sources.extend(text.lines().filter_map(from_line)),
            Some("sources") => sources.extend(text.split("\n\n").flat_map(from_stanza)),
            _ => {}
        }
    }
    sources
}

/// Reads one line of the old format: `deb [options] uri suite component...`.
fn from_line(line: &str) -> Option<AptSource> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let rest = line.strip_prefix("deb")?.strip_prefix(char::is_whitespace)?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let uri = words.next()?.to_owned();
    let suites = vec![words.next()?.to_owned()];
    let options = options
        .split_whitespace()
        .filter_map(|option| option.split_once('='))
        .filter_map(|(name, value)| {
            deb822_name(name).map(|name| (name.to_owned(), value.to_owned()))
        })
        .collect();
    Some(AptSource { uri, suites, options })
}

/// Reads one stanza of the deb822 format; it may name several archives.
fn from_stanza(stanza: &str) -> Vec<AptSource> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in stanza.lines().filter(|line| !line.trim_start().starts_with('#')) {
        if line.starts_with(char::is_whitespace) {
            if let Some((_, value)) = fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    let field = |wanted: &str| {
        fields
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map_or("", |(_, value)| value.as_str())
    };
    let is_disabled = field("Enabled").eq_ignore_ascii_case("no");
    if is_disabled || !field("Types").split_whitespace().any(|kind| kind == "deb") {
        return Vec::new();
    }
    let options: Vec<_> =
        fields.iter().filter(|(name, _)| deb822_name(name).is_some()).cloned().collect();
    field("URIs")
        .split_whitespace()
        .map(|uri| AptSource {
            uri: uri.to_owned(),
            suites: field("Suites").split_whitespace().map(str::to_owned).collect(),
            options: options.clone(),
        })
        .collect()
}

/// The options worth keeping, in the deb822 spelling: who signs, and what the machine's owner
/// trusts.
fn deb822_name(name: &str) -> Option<&'static str> {
    const KEPT: [&str; 4] = ["Signed-By", "Trusted", "Check-Valid-Until", "By-Hash"];
    KEPT.into_iter().find(|kept| kept.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::{for_suite_from, from_line, from_stanza};

    const STANZA: &str = "Types: deb\n# a note\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                          Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg";

    #[test]
    fn both_formats_name_the_same_source() {
        let line = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg arch=amd64] \
                    http://mirror.example/debian bookworm main contrib # a note";
        let old = from_line(line).expect("a source");
        let new = from_stanza(STANZA);
        assert_eq!(new.len(), 1);
        assert_eq!((&old.uri, &old.options), (&new[0].uri, &new[0].options));
        assert_eq!(old.suites, ["bookworm"]);
    }

    #[test]
    fn source_packages_comments_and_disabled_stanzas_are_no_sources() {
        assert_eq!(from_line("# deb http://mirror.example/debian bookworm main"), None);
        assert_eq!(from_line("deb-src http://mirror.example/debian bookworm main"), None);
        assert!(from_stanza(&format!("Enabled: no\n{STANZA}")).is_empty());
        assert!(from_stanza(&STANZA.replace("Types: deb", "Types: deb-src")).is_empty());
    }

    #[test]
    fn a_release_comes_with_its_security_updates_and_backports_come_alone() {
        let mut machine = from_stanza(STANZA);
        machine
            .extend(from_line("deb http://mirror.example/debian-security bookworm-security main"));
        machine.extend(from_line("deb https://elsewhere.example/node nodistro main"));
        let release = for_suite_from(&machine, "bookworm").expect("sources");
        assert!(
            release.contains("Suites: bookworm\n")
                && release.contains("Suites: bookworm-security\n"),
            "{release}"
        );
        assert!(!release.contains("elsewhere"), "{release}");
        let backports = for_suite_from(&machine, "bookworm-backports").expect("sources");
        assert!(backports.contains("Suites: bookworm-backports\n"), "{backports}");
        assert!(
            !backports.contains("security") && backports.contains("Signed-By: /usr"),
            "{backports}"
        );
    }

    #[test]
    fn a_machine_without_debians_archive_gets_the_remedy() {
        let machine: Vec<_> =
            from_line("deb https://elsewhere.example/node nodistro main").into_iter().collect();
        let error = for_suite_from(&machine, "bookworm").unwrap_err().to_string();
        assert!(error.contains("no Debian archive"), "{error}");
    }
}
