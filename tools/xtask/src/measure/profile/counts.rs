//! How often each instruction of Oche is executed: a plugin of QEMU counts (`tests/profiler`).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection, SectionKind};
use oche::progress::Step;

use crate::qemu::{RAM_BASE, escape_commas, plugin};

/// The plugin's package.
const PACKAGE: &str = "oche-profiler";
/// QEMU's virt machine loads an arm64 Image this far into its RAM. If it did not, nothing would be
/// counted, which [`Counts::check`] notices.
const IMAGE_OFFSET: u64 = 0x20_0000;
/// Bytes of an instruction.
pub(crate) const INSTRUCTION_BYTES: u64 = 4;

/// Counts the instructions of one image of Oche.
#[derive(Debug)]
pub(crate) struct InstructionCounter {
    library: PathBuf,
    /// What the plugin writes, and when it is read.
    file: PathBuf,
    /// Bytes of code, from the start of the image.
    code_bytes: u64,
}

/// How often each instruction was executed, in the order of their addresses in the ELF file, the
/// first one at address 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counts(Vec<u64>);

impl InstructionCounter {
    /// Builds the plugin for `oche`, an ELF file; the counts lie in `folder`.
    ///
    /// # Errors
    ///
    /// The file has no code, or the plugin does not compile.
    pub(crate) fn new(oche: &Path, folder: &Path, step: &Step) -> Result<Self> {
        let elf = fs::read(oche).with_context(|| format!("cannot read {}", oche.display()))?;
        let code_bytes = code_bytes(&elf).with_context(|| oche.display().to_string())?;
        let library = plugin::build(PACKAGE, step)?;
        Ok(Self { library, file: folder.join("instructions.counts"), code_bytes })
    }

    /// QEMU's arguments for a run that is counted.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let start = RAM_BASE + IMAGE_OFFSET;
        let mut value = escape_commas(&self.library);
        value.push(format!(",image={start:x}-{:x},counts=", start + self.code_bytes));
        value.push(escape_commas(&self.file));
        vec!["-plugin".into(), value]
    }

    /// What was counted since the start of the run. The machine stands still meanwhile.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not the plugin's.
    pub(crate) fn read(&self) -> Result<Counts> {
        let bytes = fs::read(&self.file);
        let bytes = bytes.with_context(|| format!("cannot read {}", self.file.display()))?;
        let (words, rest) = bytes.as_chunks::<8>();
        let expected = self.code_bytes.div_ceil(INSTRUCTION_BYTES);
        ensure!(
            rest.is_empty() && words.len() as u64 == expected,
            "{} has {} bytes instead of {expected} counters",
            self.file.display(),
            bytes.len()
        );
        Ok(Counts(words.iter().map(|word| u64::from_ne_bytes(*word)).collect()))
    }
}

impl Counts {
    /// What was counted after `earlier`.
    ///
    /// # Errors
    ///
    /// They are of another image or of another run.
    pub(crate) fn since(&self, earlier: &Self) -> Result<Self> {
        ensure!(self.0.len() == earlier.0.len(), "counts of two images");
        let pairs = self.0.iter().zip(&earlier.0);
        let differences = pairs.map(|(now, then)| now.checked_sub(*then)).collect::<Option<_>>();
        Ok(Self(differences.context("counts of two runs")?))
    }

    /// All instructions.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// How often the instruction at `address` of the ELF file was executed.
    pub(crate) fn at(&self, address: u64) -> u64 {
        let place = usize::try_from(address / INSTRUCTION_BYTES).ok();
        place.and_then(|place| self.0.get(place)).copied().unwrap_or(0)
    }

    /// The addresses of the instructions that were executed, and how often.
    pub(crate) fn executed(&self) -> impl Iterator<Item = (u64, u64)> {
        let addressed = (0..).step_by(INSTRUCTION_BYTES as usize).zip(&self.0);
        addressed.filter(|(_, count)| **count > 0).map(|(address, count)| (address, *count))
    }

    /// Fails unless all of `expected` instructions were counted, as the guest's own performance
    /// counter has them.
    ///
    /// # Errors
    ///
    /// They differ by more than a thousandth.
    pub(crate) fn check(&self, expected: u64) -> Result<()> {
        let total = self.total();
        if total.abs_diff(expected) > expected / 1000 {
            bail!("the plugin counted {total} instructions at EL2, and the guest {expected}");
        }
        Ok(())
    }
}

#[cfg(test)]
impl From<Vec<u64>> for Counts {
    fn from(counts: Vec<u64>) -> Self {
        Self(counts)
    }
}

/// The end of the code, which begins at address 0.
fn code_bytes(elf: &[u8]) -> Result<u64> {
    let file = object::read::elf::ElfFile64::<object::Endianness>::parse(elf)?;
    let code = file.sections().filter(|section| section.kind() == SectionKind::Text);
    let end = code.map(|section| section.address() + section.size()).max();
    let end = end.context("it has no code")?;
    Ok(end.next_multiple_of(INSTRUCTION_BYTES))
}

#[cfg(test)]
mod tests {
    use super::{Counts, InstructionCounter};

    #[test]
    fn what_was_counted_between_two_readings_is_their_difference() {
        let (earlier, later) = (Counts(vec![1, 0, 5]), Counts(vec![1, 7, 9]));
        let between = later.since(&earlier).unwrap();
        assert_eq!((between.total(), between.at(4), between.at(8), between.at(12)), (11, 7, 4, 0));
        assert_eq!(between.executed().collect::<Vec<_>>(), [(4, 7), (8, 4)]);
        assert!(earlier.since(&later).is_err() && later.since(&Counts(vec![1])).is_err());
    }

    #[test]
    fn a_total_that_is_not_the_guests_is_an_error() {
        let counts = Counts(vec![100_000, 0]);
        assert!(counts.check(100_099).is_ok());
        let error = counts.check(100_200).unwrap_err().to_string();
        assert_eq!(error, "the plugin counted 100000 instructions at EL2, and the guest 100200");
    }

    #[test]
    fn counters_are_read_as_the_plugin_writes_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("counts");
        let counter =
            InstructionCounter { library: "/a,b.so".into(), file: file.clone(), code_bytes: 8 };
        let arguments = counter.arguments();
        let arguments: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
        let value = format!("/a,,b.so,image=40200000-40200008,counts={}", file.display());
        assert_eq!(arguments, ["-plugin", &value]);
        std::fs::write(&file, [3u64, 1 << 40].map(u64::to_ne_bytes).concat()).unwrap();
        assert_eq!(counter.read().unwrap(), Counts(vec![3, 1 << 40]));
        std::fs::write(&file, [0; 15]).unwrap();
        assert!(counter.read().is_err());
    }
}
