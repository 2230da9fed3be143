//! The plugin's arguments, and the counters in a file that is mapped.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::{MmapOptions, MmapRaw};

/// Bytes of an instruction.
const WORD_BYTES: u64 = 4;
/// Bytes of a counter.
const COUNTER_BYTES: u64 = 8;

/// What the plugin is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `image=`: the first address of Oche's image in memory, and the one past its last.
    image: (u64, u64),
    /// `counts=`: the file to make.
    counts: PathBuf,
}

/// A counter for each word of the image.
#[derive(Debug)]
pub(crate) struct Counters {
    image: (u64, u64),
    memory: MmapRaw,
}

impl Settings {
    /// Reads arguments such as `image=40000000-40200000`.
    ///
    /// # Errors
    ///
    /// An argument is unknown or malformed, or one is missing.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut image, mut counts) = (None, None);
        for argument in arguments {
            let malformed = || format!("cannot read the argument {argument}");
            match argument.split_once('=').ok_or_else(malformed)? {
                ("image", range) => image = Some(parse_range(range).ok_or_else(malformed)?),
                ("counts", path) => counts = Some(path.into()),
                _ => return Err(malformed()),
            }
        }
        match (image, counts) {
            (Some(image), Some(counts)) => Ok(Self { image, counts }),
            _ => Err("image= and counts= are needed".to_owned()),
        }
    }
}

fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (start, end) = text.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    let is_of_words = start.is_multiple_of(WORD_BYTES) && end.is_multiple_of(WORD_BYTES);
    (start < end && is_of_words).then_some((start, end))
}

impl Counters {
    /// Makes the file, with all counters zero.
    ///
    /// # Errors
    ///
    /// The file cannot be made or mapped.
    pub(crate) fn create(settings: &Settings) -> Result<Self, String> {
        let path = &settings.counts;
        let memory = map(path, settings.image)
            .map_err(|error| format!("cannot map {}: {error}", path.display()))?;
        Ok(Self { image: settings.image, memory })
    }

    /// The counter of the instruction at `pc`; none outside of the image.
    pub(crate) fn at(&self, pc: u64) -> Option<*mut u64> {
        let (start, end) = self.image;
        let index = pc.checked_sub(start).filter(|_| pc < end)? / WORD_BYTES;
        let place = usize::try_from(index * COUNTER_BYTES).ok()?;
        Some(self.memory.as_mut_ptr().wrapping_add(place).cast())
    }
}

fn map(path: &Path, (start, end): (u64, u64)) -> std::io::Result<MmapRaw> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    file.set_len((end - start) / WORD_BYTES * COUNTER_BYTES)?;
    MmapOptions::new().map_raw(&file)
}

#[cfg(test)]
mod tests {
    use super::{Counters, Settings};

    fn parse(arguments: &[&str]) -> Result<Settings, String> {
        Settings::parse(arguments.iter().map(|argument| (*argument).to_owned()))
    }

    #[test]
    fn arguments_are_read_and_wrong_ones_are_named() {
        let settings = parse(&["image=1000-2000", "counts=/c"]).unwrap();
        assert_eq!(settings, Settings { image: (0x1000, 0x2000), counts: "/c".into() });
        for wrong in ["image=1", "image=8-4", "image=1-9", "colour=4-8", "image"] {
            let error = parse(&[wrong, "counts=/c"]).unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
        assert!(parse(&["image=4-8"]).is_err() && parse(&["counts=/c"]).is_err());
    }

    #[test]
    fn each_word_of_the_image_has_a_counter_of_its_own_in_the_file() {
        let path = std::env::temp_dir().join(format!("oche-profiler.{}", std::process::id()));
        let counters =
            Counters::create(&Settings { image: (0x1000, 0x1010), counts: path.clone() }).unwrap();
        let file_bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file_bytes, [0; 4 * 8]);
        let at = |pc| counters.at(pc).map(|place| place as usize);
        let first = at(0x1000).unwrap();
        assert_eq!(
            (at(0x1002), at(0x1004), at(0x100c)),
            (at(0x1000), Some(first + 8), Some(first + 24))
        );
        assert_eq!((at(0xffc), at(0x1010)), (None, None));
    }
}
