//! One kernel, judged by the table of devices.

use schemars::JsonSchema;
use serde::Serialize;

use super::config::{KernelConfig, Setting};
use super::device_tree::MacTree;
use super::devices::{DEVICES, KEYBOARD, USB_A, USB_C};
use super::initrd::InitrdModules;
use super::rules::{COVERED, Device, KernelOption, Macs, Need, Release, Since, release_text};

/// What is known about a kernel and the Mac.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The kernel's release of Linux.
    pub release: Option<Release>,
    /// The kernel's version, which its modules' folder is named after.
    pub version: &'a str,
    /// Its page size in bytes, or 0 if its header gives none.
    pub page_bytes: u64,
    /// Whether it is big-endian.
    pub is_big_endian: bool,
    /// Its configuration.
    pub config: Option<&'a KernelConfig>,
    /// The Mac's device tree.
    pub tree: Option<&'a MacTree>,
    /// What is in the initrd.
    pub initrd: Option<&'a InitrdModules>,
}

/// How a device fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Its drivers are in the kernel.
    BuiltIn,
    /// At least one of its drivers is a module.
    Module,
    /// A driver or a node is missing.
    Missing,
    /// There is no configuration to tell.
    Unknown,
}

/// A device and how it fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DeviceVerdict {
    /// Its name.
    pub name: &'static str,
    /// What it is needed for.
    pub need: Need,
    /// How it fares.
    pub verdict: Verdict,
    /// Why it is missing.
    pub reasons: Vec<String>,
    /// The drivers that are modules.
    pub modules: Vec<&'static str>,
    /// The options that it needs, as the table has them, and where the table has them from.
    pub options: Vec<OptionSource>,
    /// What else to know about a device whose drivers are there.
    pub note: Option<&'static str>,
}

/// An option and the source of what is said about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OptionSource {
    /// Its name without `CONFIG_`.
    pub name: &'static str,
    /// Since which mainline Linux it exists, in words.
    pub since: String,
    /// Where that is from.
    pub source: &'static str,
}

/// How a kernel fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Judgement {
    /// Whether it reaches user space from the internal disk; none if that cannot be told.
    pub is_usable: Option<bool>,
    /// Why it is not usable, or cannot be judged.
    pub reasons: Vec<String>,
    /// What else to know.
    pub notes: Vec<String>,
    /// The Mac's devices.
    pub devices: Vec<DeviceVerdict>,
}

/// Judges a kernel of Linux.
#[must_use]
pub fn judge(known: &Known<'_>) -> Judgement {
    let is_here = |device: &&Device| known.tree.is_none_or(|tree| tree.is_one_of(device.macs));
    let devices: Vec<_> =
        DEVICES.iter().filter(is_here).map(|device| judge_device(device, known)).collect();
    let mut reasons = header_reasons(known);
    let is_needed = |device: &&DeviceVerdict| device.need != Need::Use;
    for device in devices.iter().filter(is_needed) {
        if device.verdict == Verdict::Missing {
            reasons.push(format!("{}: {}", device.name, device.reasons.join("; ")));
        }
    }
    let is_unknown = devices.iter().filter(is_needed).any(|it| it.verdict == Verdict::Unknown);
    let is_usable = match (reasons.is_empty(), is_unknown) {
        (false, _) => Some(false),
        (true, true) => None,
        (true, false) => Some(true),
    };
    if is_usable.is_none() {
        reasons.push(NO_CONFIG.to_owned());
    }
    Judgement { is_usable, reasons, notes: notes(known, &devices), devices }
}

/// What a kernel without a configuration needs.
const NO_CONFIG: &str = "its drivers cannot be told: no configuration is inside the kernel or \
                         beside it; name it by --config, such as /boot/config-VERSION";

/// Why the kernel's header alone rules it out.
fn header_reasons(known: &Known<'_>) -> Vec<String> {
    let mut reasons = Vec::new();
    if known.page_bytes == 64 << 10 {
        reasons.push("64 KiB pages, which a DART cannot map: take one with 4 or 16".to_owned());
    }
    if known.is_big_endian {
        reasons.push("it is big-endian: take a little-endian one".to_owned());
    }
    reasons
}

fn notes(known: &Known<'_>, devices: &[DeviceVerdict]) -> Vec<String> {
    let mut notes = Vec::new();
    if known.page_bytes == 16 << 10 {
        notes.push("with 16 KiB pages it runs on a Mac without Oche".to_owned());
    }
    let (oldest, newest) = COVERED;
    if known.release.is_some_and(|release| release < oldest || release > newest) {
        notes.push(format!(
            "this Linux is outside {} to {}, whose sources the verdicts rest on",
            release_text(oldest),
            release_text(newest)
        ));
    }
    notes.extend(keyboard_note(known, devices));
    notes.extend(patched_note(known));
    let root: Vec<&str> = devices
        .iter()
        .filter(|device| device.need == Need::Root && device.verdict == Verdict::Module)
        .flat_map(|device| device.modules.iter().copied())
        .collect();
    if !root.is_empty() && known.initrd.is_none() {
        let root = root.join(", ");
        notes.push(format!("the initrd must have {root}: check it by --initrd FILE"));
    }
    notes
}

/// That a Mac has no keyboard at all, if it is so.
fn keyboard_note(known: &Known<'_>, devices: &[DeviceVerdict]) -> Option<String> {
    let is_missing = |name| {
        devices.iter().any(|device| device.name == name && device.verdict == Verdict::Missing)
    };
    let is_there = |name| devices.iter().any(|device| device.name == name);
    if !is_missing(USB_C) {
        return None;
    }
    if known.tree.is_none_or(|tree| tree.is_one_of(Macs::Laptops)) && is_missing(KEYBOARD) {
        let why = "neither its own nor the USB-C ports have a driver";
        return Some(format!("a MacBook has no keyboard with this kernel: {why}"));
    }
    let is_out_of_usb = is_missing(USB_A) || !is_there(USB_A);
    is_out_of_usb.then(|| "no USB keyboard works with this kernel: no port has a driver".to_owned())
}

/// That the kernel has options that mainline's has not, if it is so.
fn patched_note(known: &Known<'_>) -> Option<String> {
    let (config, release) = (known.config?, known.release?);
    let options = DEVICES.iter().flat_map(|device| device.options).flat_map(|any| any.iter());
    let extra = options.filter(|option| {
        let is_on = matches!(config.get(option.name), Some(Setting::BuiltIn | Setting::Module));
        is_on && lack(&[**option], Some(release)).is_some()
    });
    let mut extra: Vec<_> = extra.map(|option| format!("CONFIG_{}", option.name)).collect();
    extra.sort();
    extra.dedup();
    if extra.is_empty() {
        return None;
    }
    Some(format!(
        "mainline Linux {} has no {}: this kernel is patched, and may have other drivers under \
         other names",
        release_text(release),
        extra.join(", ")
    ))
}

/// Judges one device.
fn judge_device(device: &Device, known: &Known<'_>) -> DeviceVerdict {
    let mut verdict = DeviceVerdict {
        name: device.name,
        need: device.need,
        verdict: Verdict::BuiltIn,
        reasons: Vec::new(),
        modules: Vec::new(),
        options: device.options.iter().flat_map(|any| any.iter()).map(option_source).collect(),
        note: None,
    };
    let mut lacks = Lacks::default();
    for any in device.options {
        lacks.judge(any, known, &mut verdict.modules);
    }
    verdict.reasons = lacks.reasons();
    if known.tree.is_some_and(|tree| !device.nodes.is_empty() && !tree.has_node(device.nodes)) {
        let trees = device.trees;
        verdict.reasons.push(format!("this device tree has no node for it (they are in {trees})"));
    }
    if device.need == Need::Root {
        verdict.reasons.extend(initrd_reasons(&verdict.modules, known));
    }
    verdict.verdict =
        match (verdict.reasons.is_empty(), lacks.is_unknown, verdict.modules.is_empty()) {
            (false, _, _) => Verdict::Missing,
            (true, true, _) => Verdict::Unknown,
            (true, false, true) => Verdict::BuiltIn,
            (true, false, false) => Verdict::Module,
        };
    verdict.note = device.note;
    verdict
}

/// Why the initrd cannot give the kernel its root file system.
fn initrd_reasons(modules: &[&str], known: &Known<'_>) -> Option<String> {
    let initrd = known.initrd.filter(|_| !modules.is_empty())?;
    if let Some(others) = initrd.is_for_others_than(known.version) {
        return Some(format!(
            "the initrd's modules are for {others}, not for {}: name this kernel's initrd",
            known.version
        ));
    }
    let absent: Vec<&str> = modules.iter().copied().filter(|it| !initrd.has(it)).collect();
    if absent.is_empty() {
        return None;
    }
    let absent = absent.join(", ");
    Some(format!("the initrd lacks {absent}: add them, as by /etc/initramfs-tools/modules"))
}

/// What a kernel lacks for a device.
#[derive(Default)]
struct Lacks {
    /// Options that are off.
    off: Vec<String>,
    /// Options that came later, and since when.
    too_old: Vec<String>,
    /// Options of no mainline kernel.
    unmerged: Vec<String>,
    /// There is no configuration to tell.
    is_unknown: bool,
}

impl Lacks {
    /// Takes options of which one is enough.
    fn judge(&mut self, any: &[KernelOption], known: &Known<'_>, modules: &mut Vec<&'static str>) {
        let setting = |option: &KernelOption| known.config?.get(option.name);
        if any.iter().any(|option| setting(option) == Some(Setting::BuiltIn)) {
            return;
        }
        if let Some(option) = any.iter().find(|option| setting(option) == Some(Setting::Module)) {
            modules.push(option.module.unwrap_or(option.name));
            return;
        }
        let Some(first) = any.first() else { return };
        let name = format!("CONFIG_{}", first.name);
        match (lack(any, known.release), known.config) {
            (Some(Since::Unmerged), _) => self.unmerged.push(name),
            (Some(since), _) => self.too_old.push(format!("{name} ({})", since.words())),
            (None, None) => self.is_unknown = true,
            (None, Some(_)) => {
                let names = any.iter().map(|option| format!("CONFIG_{}", option.name));
                self.off.push(names.collect::<Vec<_>>().join(" or "));
            }
        }
    }

    fn reasons(&self) -> Vec<String> {
        let is_or_are = |names: &[String]| if names.len() == 1 { "is" } else { "are" };
        let mut reasons = Vec::new();
        if !self.off.is_empty() {
            reasons.push(format!("{} {} off", self.off.join(", "), is_or_are(&self.off)));
        }
        if !self.too_old.is_empty() {
            reasons.push(format!("this Linux is too old for {}", self.too_old.join(", ")));
        }
        if !self.unmerged.is_empty() {
            reasons.push(format!(
                "no driver in mainline Linux up to {}: {} {} the Asahi project's",
                release_text(COVERED.1),
                self.unmerged.join(", "),
                is_or_are(&self.unmerged)
            ));
        }
        reasons
    }
}

/// Since when the options exist, if a kernel of this release has none of them for that reason.
fn lack(any: &[KernelOption], release: Option<Release>) -> Option<Since> {
    let release = release?;
    let is_later = |option: &KernelOption| match option.since {
        Since::Early => false,
        Since::Mainline { absent, .. } => release <= absent,
        Since::Unmerged => release <= COVERED.1,
    };
    any.first().filter(|_| any.iter().all(is_later)).map(|option| option.since)
}

fn option_source(option: &KernelOption) -> OptionSource {
    OptionSource { name: option.name, since: option.since.words(), source: option.source }
}

#[cfg(test)]
#[path = "judgement/tests.rs"]
pub(super) mod tests;
