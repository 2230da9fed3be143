//! What m1n1 takes of a boot file, and what a person should know about it.

use oche_boot::options::{BootOptions, retired};
use schemars::JsonSchema;
use serde::Serialize;

use super::file::BootFile;
use super::payload::{Content, End, KernelPayload, Payload, TreePayload};

/// The boards of the images that are for a Mac: Oche, and its probe.
const FOR_MACS: [&str; 2] = ["m1", "m1-probe"];
/// The most properties of `/chosen` that m1n1 takes from variables.
const CHOSEN_LIMIT: usize = 16;
/// As many variables are appended by m1n1's first stage: its version, and the partition that it
/// read the file from.
const FIRST_STAGE_VARIABLES: usize = 2;
const CHOSEN: &str = "chosen.";
/// The other variables that m1n1 knows.
const KNOWN: [&str; 4] = ["chainload", "display", "mitigations", "tso"];
/// The root of an M1's tree is compatible with it.
const M1: &str = "apple,t8103";

/// What m1n1 takes.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Taken {
    /// The offset of the kernel.
    pub kernel: Option<u64>,
    /// The Macs whose device tree is there, such as `apple,j313`, and the tree's offset.
    pub trees: Vec<(String, u64)>,
    /// The offset of the initramfs.
    pub initramfs: Option<u64>,
    /// Properties of `/chosen`.
    pub chosen: Vec<(String, String)>,
    /// Why the file does not boot.
    pub errors: Vec<String>,
    /// What may not be meant.
    pub warnings: Vec<String>,
}

impl BootFile {
    /// What m1n1 takes, on `mac` such as `j313`, or on whatever Mac it has a tree for.
    #[must_use]
    pub fn taken(&self, mac: Option<&str>) -> Taken {
        let wanted = mac.map(|mac| match mac.strip_prefix("apple,") {
            Some(_) => mac.to_lowercase(),
            None => format!("apple,{}", mac.to_lowercase()),
        });
        let mut taken = Taken {
            kernel: self.kernel().map(|(offset, _)| offset),
            trees: self.trees_of(wanted.as_deref()),
            initramfs: self.last(|content| matches!(content, Content::Initramfs { .. })),
            chosen: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        };
        self.take_variables(&mut taken);
        self.judge_end(&mut taken);
        self.judge_kernel(&mut taken);
        self.judge_trees(wanted.as_deref(), &mut taken);
        taken
    }

    /// The kernel that m1n1 starts, and its offset: the last one.
    #[must_use]
    pub fn kernel(&self) -> Option<(u64, &KernelPayload)> {
        self.payloads.iter().rev().find_map(|payload| match &payload.content {
            Content::Kernel(kernel) => Some((payload.offset, &**kernel)),
            _ => None,
        })
    }

    fn trees(&self) -> impl DoubleEndedIterator<Item = (&Payload, &TreePayload)> {
        self.payloads.iter().filter_map(|payload| match &payload.content {
            Content::DeviceTree(tree) => Some((payload, tree)),
            _ => None,
        })
    }

    /// Each Mac with the offset of the tree that m1n1 takes there: the last that matches.
    fn trees_of(&self, wanted: Option<&str>) -> Vec<(String, u64)> {
        let mut found: Vec<(String, u64)> = Vec::new();
        for (payload, tree) in self.trees() {
            let names = match wanted {
                Some(wanted) => tree.compatible.iter().find(|name| *name == wanted),
                None => tree.compatible.first(),
            };
            let Some(name) = names else { continue };
            found.retain(|(known, _)| known != name);
            found.push((name.clone(), payload.offset));
        }
        found
    }

    fn last(&self, is_it: impl Fn(&Content) -> bool) -> Option<u64> {
        self.payloads.iter().rev().find(|payload| is_it(&payload.content)).map(|it| it.offset)
    }

    fn take_variables(&self, taken: &mut Taken) {
        for payload in &self.payloads {
            let Content::Variable { name, value } = &payload.content else { continue };
            match name.strip_prefix(CHOSEN) {
                Some(_) if taken.chosen.len() == CHOSEN_LIMIT => taken.warnings.push(format!(
                    "m1n1 ignores {name}: it takes at most {CHOSEN_LIMIT} properties of /chosen"
                )),
                Some(property) => taken.chosen.push((property.to_owned(), value.clone())),
                None if !KNOWN.contains(&name.as_str()) => {
                    taken.warnings.push(format!("m1n1 knows no variable {name}"));
                }
                None => {}
            }
        }
        let count = taken.chosen.len();
        if (CHOSEN_LIMIT - FIRST_STAGE_VARIABLES + 1..=CHOSEN_LIMIT).contains(&count) {
            taken.warnings.push(format!(
                "m1n1's first stage appends {FIRST_STAGE_VARIABLES} properties of /chosen: with {count} \
                 here there are more than {CHOSEN_LIMIT}, and m1n1 ignores the last"
            ));
        }
        let Some((_, KernelPayload { oche: Some(_), .. })) = self.kernel() else { return };
        let mut options = BootOptions::default();
        for (name, value) in taken.chosen.iter().filter(|(name, _)| name.starts_with("oche.")) {
            options.take(name, value, &mut |name| {
                taken.warnings.push(match retired(name) {
                    Some(why) => format!("{name} is not an option any more: {why}"),
                    None => format!("Oche ignores {name}: docs/options.md has its values"),
                });
            });
        }
    }

    fn judge_end(&self, taken: &mut Taken) {
        match &self.end {
            End::EndOfFile | End::EndMark { .. } => {}
            End::UncompressedKernel { offset, .. } => taken.warnings.push(format!(
                "the kernel at {offset:#x} is not compressed: m1n1 reads nothing behind it, \
                 not even what its first stage appends; use the .gz that `oche pack` writes"
            )),
            End::Unknown { offset, bytes } => taken.warnings.push(format!(
                "m1n1 recognizes nothing at {offset:#x} ({}) and reads no further",
                bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
            )),
            End::Refused { offset, reason } => {
                taken.errors.push(format!("m1n1 stops at {offset:#x}: {reason}"));
            }
        }
    }

    fn judge_kernel(&self, taken: &mut Taken) {
        let Some((offset, kernel)) = self.kernel() else {
            return taken.errors.push("m1n1 finds no kernel".to_owned());
        };
        let bytes = kernel.bytes;
        // m1n1 knows the size of a compressed kernel alone.
        let is_known = !matches!(self.end, End::UncompressedKernel { .. });
        if is_known && bytes > kernel.memory_bytes {
            taken.errors.push(format!(
                "m1n1 stops at the kernel at {offset:#x}: it has {bytes} bytes, and its header \
                 states {}",
                kernel.memory_bytes
            ));
        }
        match (&kernel.oche, &kernel.damage) {
            (Some(contents), _) if !FOR_MACS.contains(&&*contents.board) => {
                taken.errors.push(format!("the kernel is Oche for {}, not for m1", contents.board))
            }
            (Some(_), _) => {}
            (None, Some(damage)) => {
                taken.errors.push(format!("Oche is in the kernel, and it is damaged: {damage}"));
            }
            (None, None) => taken.warnings.push("the kernel is not Oche".to_owned()),
        }
    }

    fn judge_trees(&self, wanted: Option<&str>, taken: &mut Taken) {
        for (payload, tree) in self.trees() {
            if let Some(refusal) = tree.refusal {
                let offset = payload.offset;
                taken
                    .warnings
                    .push(format!("Oche refuses the device tree at {offset:#x}: {refusal}"));
            }
        }
        match wanted {
            Some(mac) if taken.trees.is_empty() => {
                taken.errors.push(format!("m1n1 finds no device tree for {mac}"));
            }
            None if taken.trees.is_empty() => {
                taken.errors.push("m1n1 finds no device tree".to_owned());
            }
            _ => {}
        }
        let has_m1 = self.trees().any(|(_, tree)| tree.compatible.iter().any(|name| name == M1));
        if !has_m1 && !taken.trees.is_empty() {
            taken.warnings.push(format!("no device tree is one of an M1 ({M1})"));
        }
        let mut macs: Vec<&str> = self
            .trees()
            .filter_map(|(_, tree)| tree.compatible.first())
            .map(String::as_str)
            .collect();
        macs.sort_unstable();
        let mut twice: Vec<&str> =
            macs.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        twice.dedup();
        for mac in twice {
            taken.warnings.push(format!("{mac} has several device trees: m1n1 takes the last"));
        }
    }
}
