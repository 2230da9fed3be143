//! The guest's report in lines that begin with `demo: `, and the verdict on it.

use std::collections::BTreeMap;

/// A line that the guest's script prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportLine<'line> {
    /// A step began.
    Begin(&'line str),
    /// A step ended.
    Step {
        /// Its name.
        name: &'line str,
        /// Whether it went well.
        is_ok: bool,
        /// How long it took, in the guest's seconds.
        seconds: u64,
        /// The end of its output.
        text: &'line str,
    },
    /// A digest that the guest computed.
    Digest(&'line str, &'line str),
    /// Something about the guest.
    Fact(&'line str, &'line str),
    /// A moment for the runner to act at.
    Marker(&'line str),
    /// A line of the kernel's log, of level warning or worse.
    Warning(&'line str),
    /// The script is through.
    End,
}

/// Understands a line of the console, if it is one of the script's.
#[must_use]
pub fn parse(line: &str) -> Option<ReportLine<'_>> {
    let line = line.strip_prefix("demo: ")?;
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let (first, more) = rest.split_once(' ').unwrap_or((rest, ""));
    Some(match verb {
        "begin" => ReportLine::Begin(rest),
        "step" => {
            let (verdict, more) = more.split_once(' ').unwrap_or((more, ""));
            let (seconds, text) = more.split_once(' ').unwrap_or((more, ""));
            ReportLine::Step {
                name: first,
                is_ok: verdict == "ok",
                seconds: seconds.parse().ok()?,
                text: text.trim(),
            }
        }
        // If anything else is on the line, another writer's has run into it: it is printed once
        // more at the end.
        "digest" if more.len() == 64 && more.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            ReportLine::Digest(first, more)
        }
        "fact" => ReportLine::Fact(first, more.trim()),
        "marker" => ReportLine::Marker(rest.trim()),
        "warning" => ReportLine::Warning(rest),
        "end" if rest.is_empty() => ReportLine::End,
        _ => return None,
    })
}

/// All that the guest reported in one run.
#[derive(Clone, Debug, Default)]
pub struct GuestReport {
    /// Facts by name; a name reported twice has both values.
    pub facts: BTreeMap<String, Vec<String>>,
    /// Digests by name.
    pub digests: BTreeMap<String, String>,
    /// Steps that ended well, with their seconds.
    pub passed: Vec<(String, u64)>,
    /// Steps that failed, each with the end of its output.
    pub failed: Vec<(String, String)>,
    /// Warnings of the kernel's log.
    pub warnings: Vec<String>,
    /// Whether the script went through.
    pub is_complete: bool,
}

/// The steps that must have ended well.
pub const STEPS: [&str; 13] = [
    "modules",
    "devices",
    "mkfs",
    "nvme",
    "e1000e",
    "virtio-net",
    "usb",
    "virtio-blk",
    "shared-blk",
    "shared-rng",
    "mmio",
    "transfers",
    "quiet",
];

impl GuestReport {
    /// Adds a line to the report.
    pub fn take(&mut self, line: &ReportLine<'_>) {
        match *line {
            // All of it follows once more, printed while nothing else writes to the console.
            ReportLine::Marker("again") => {
                *self = Self { warnings: core::mem::take(&mut self.warnings), ..Self::default() }
            }
            ReportLine::Begin(_) | ReportLine::Marker(_) => {}
            ReportLine::Step { name, is_ok: true, seconds, .. } => {
                self.passed.push((name.to_owned(), seconds))
            }
            ReportLine::Step { name, text, .. } => {
                self.failed.push((name.to_owned(), text.to_owned()))
            }
            ReportLine::Digest(name, digest) => {
                self.digests.insert(name.to_owned(), digest.to_owned());
            }
            ReportLine::Fact(name, value) => {
                self.facts.entry(name.to_owned()).or_default().push(value.to_owned())
            }
            ReportLine::Warning(line) => self.warnings.push(line.to_owned()),
            ReportLine::End => self.is_complete = true,
        }
    }

    /// A fact's first value.
    #[must_use]
    pub fn fact(&self, name: &str) -> &str {
        self.facts.get(name).and_then(|values| values.first()).map_or("", String::as_str)
    }

    /// Steps that did not end well, or did not end; one line each.
    #[must_use]
    pub fn missing_steps(&self) -> Vec<String> {
        STEPS
            .iter()
            .filter(|step| !self.passed.iter().any(|(name, _)| name == *step))
            .map(|step| match self.failed.iter().find(|(name, _)| name == step) {
                Some((_, text)) if !text.is_empty() => format!("step {step} failed: {text}"),
                Some(_) => format!("step {step} failed"),
                None => format!("step {step} did not come to an end"),
            })
            .collect()
    }

    /// Compares the guest's digests with the host's, before the run (`expected`) and after it
    /// (`left`); one line for each that differs or is missing.
    #[must_use]
    pub fn wrong_digests(
        &self,
        expected: &BTreeMap<String, String>,
        left: &BTreeMap<String, String>,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut compare =
            |what: &str, should: Option<&String>, is: Option<&String>| match (should, is) {
                (Some(should), Some(is)) if should == is => {}
                (Some(_), Some(_)) => wrong.push(format!("digest of {what} differs")),
                _ => wrong.push(format!("digest of {what} is missing")),
            };
        for (name, should) in expected {
            compare(&format!("{name} as the guest read it"), Some(should), self.digests.get(name));
            if name.starts_with("mmio-") {
                compare(
                    &format!("{name} on the NVMe"),
                    Some(should),
                    left.get(&format!("nvme {name}")),
                );
                compare(
                    &format!("{name} brought back"),
                    Some(should),
                    left.get(&format!("back {name}")),
                );
            }
        }
        if let Some(should) = expected.get("transferred") {
            for disk in ["nvme", "usb", "virtio-blk"] {
                let is = left.get(&format!("{disk} transferred"));
                compare(&format!("what was transferred to {disk}"), Some(should), is);
            }
        }
        let written = self.digests.get("nvme-written");
        compare(
            "the NVMe's file as the guest read it back",
            written,
            self.digests.get("nvme-read"),
        );
        compare("the NVMe's file as the host finds it in the image", written, left.get("nvme"));
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::{GuestReport, ReportLine, STEPS, parse};
    use std::collections::BTreeMap;

    #[test]
    fn every_kind_of_line_is_understood() {
        assert_eq!(parse("demo: begin nvme"), Some(ReportLine::Begin("nvme")));
        assert_eq!(
            parse("demo: step nvme failed 12 short file "),
            Some(ReportLine::Step { name: "nvme", is_ok: false, seconds: 12, text: "short file" })
        );
        assert_eq!(
            parse("demo: step nvme ok 3"),
            Some(ReportLine::Step { name: "nvme", is_ok: true, seconds: 3, text: "" })
        );
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(
            parse(&format!("demo: digest usb {digest}")),
            Some(ReportLine::Digest("usb", &digest))
        );
        assert_eq!(
            parse("demo: fact device 0000:00:01.0 nvme"),
            Some(ReportLine::Fact("device", "0000:00:01.0 nvme"))
        );
        assert_eq!(parse("demo: marker idle-begin"), Some(ReportLine::Marker("idle-begin")));
        assert_eq!(parse("demo: warning <4>[ 1.0] x"), Some(ReportLine::Warning("<4>[ 1.0] x")));
        assert_eq!(parse("demo: end"), Some(ReportLine::End));
    }

    #[test]
    fn other_lines_and_damaged_ones_are_nothing() {
        let mixed = format!("demo: digest usb {}[   13.570747] drop_caches: 1", "ab".repeat(32));
        assert_eq!(parse(&mixed), None);
        for line in [
            "",
            "demo: digest usb ab",
            "[    1.0] demo: end",
            "demo: ",
            "demo: nonsense",
            "demo: step nvme ok",
            "demo:end",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    /// A report in which everything went well, and what the host knows of it.
    fn good() -> (GuestReport, BTreeMap<String, String>, BTreeMap<String, String>) {
        let mut report = GuestReport::default();
        for step in STEPS {
            report.passed.push((step.to_owned(), 1));
        }
        let map = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        report.digests =
            map(&[("usb", "u"), ("mmio-1", "m"), ("nvme-written", "n"), ("nvme-read", "n")]);
        report.digests.insert("transferred".into(), "t".into());
        (
            report,
            map(&[("usb", "u"), ("mmio-1", "m"), ("transferred", "t")]),
            map(&[
                ("nvme", "n"),
                ("nvme mmio-1", "m"),
                ("back mmio-1", "m"),
                ("nvme transferred", "t"),
                ("usb transferred", "t"),
                ("virtio-blk transferred", "t"),
            ]),
        )
    }

    #[test]
    fn a_good_report_has_nothing_wrong() {
        let (report, expected, left) = good();
        assert!(report.missing_steps().is_empty());
        assert!(report.wrong_digests(&expected, &left).is_empty());
    }

    #[test]
    fn each_digest_that_differs_or_is_missing_is_reported() {
        for name in ["usb", "mmio-1", "nvme-written", "nvme-read", "transferred"] {
            let (mut report, expected, left) = good();
            report.digests.insert(name.into(), "x".into());
            assert!(!report.wrong_digests(&expected, &left).is_empty(), "{name} differs");
            report.digests.remove(name);
            assert!(!report.wrong_digests(&expected, &left).is_empty(), "{name} is missing");
        }
        let (_, _, all) = good();
        for name in all.keys() {
            let (report, expected, mut left) = good();
            left.insert(name.clone(), "x".into());
            assert_eq!(report.wrong_digests(&expected, &left).len(), 1, "{name} differs");
            left.remove(name);
            assert_eq!(report.wrong_digests(&expected, &left).len(), 1, "{name} is missing");
        }
    }

    #[test]
    fn a_repeated_report_replaces_the_one_before() {
        let (mut report, expected, left) = good();
        report.digests.insert("usb".into(), "mixed with another line".into());
        report.take(&ReportLine::Fact("page-size", "40[ 1.0] 96"));
        report.take(&ReportLine::Warning("<4>[ 1.0] x"));
        report.take(&ReportLine::Marker("again"));
        assert!(report.passed.is_empty() && report.digests.is_empty());
        let (again, ..) = good();
        report.digests = again.digests;
        report.take(&ReportLine::Fact("page-size", "4096"));
        assert!(report.wrong_digests(&expected, &left).is_empty());
        assert_eq!((report.fact("page-size"), report.warnings.len()), ("4096", 1));
    }

    #[test]
    fn a_step_that_never_ended_is_missed() {
        let (mut report, ..) = good();
        report.passed.retain(|(name, _)| name != "mmio" && name != "usb");
        report.take(&ReportLine::Step {
            name: "usb",
            is_ok: false,
            seconds: 1,
            text: "read error",
        });
        assert_eq!(
            report.missing_steps(),
            ["step usb failed: read error", "step mmio did not come to an end"]
        );
    }
}
