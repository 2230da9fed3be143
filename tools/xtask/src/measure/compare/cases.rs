//! The cases that are compared, and what the guest calls them.

use std::fmt;

use anyhow::{Result, bail};

/// Which memory a turn maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Buffer {
    /// The buffer of the turn before: the kernel's own benchmark.
    Reused,
    /// Pages that were never mapped before.
    Fresh,
}

/// Who writes the buffer, with the kernel's numbers for it.
///
/// Source: Linux `include/linux/map_benchmark.h`, `DMA_MAP_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// CPU and device.
    Bidirectional = 0,
    /// The CPU only.
    ToDevice = 1,
    /// The device only.
    FromDevice = 2,
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapCase {
    pub(super) buffer: Buffer,
    /// Size of a mapping.
    pub(super) kib: u32,
    pub(super) direction: Direction,
}

impl fmt::Display for MapCase {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let buffer = match self.buffer {
            Buffer::Reused => "reused",
            Buffer::Fresh => "fresh",
        };
        let direction = match self.direction {
            Direction::Bidirectional => "bidirectional",
            Direction::ToDevice => "to-device",
            Direction::FromDevice => "from-device",
        };
        write!(out, "{buffer} {} KiB {direction}", self.kib)
    }
}

impl MapCase {
    /// All cases, in the order in which they run.
    pub(super) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for buffer in [Buffer::Reused, Buffer::Fresh] {
            for kib in [4, 8, 16, 64] {
                for direction in
                    [Direction::ToDevice, Direction::FromDevice, Direction::Bidirectional]
                {
                    all.push(Self { buffer, kib, direction });
                }
            }
        }
        all
    }

    /// The cases whose names contain one of `words`; all without a word.
    ///
    /// # Errors
    ///
    /// A word is in no case's name.
    pub(super) fn choose(words: &[String]) -> Result<Vec<Self>> {
        let all = Self::all();
        for word in words {
            if !all.iter().any(|case| case.to_string().contains(word.as_str())) {
                let names: Vec<String> = all.iter().map(Self::to_string).collect();
                bail!("no case's name contains `{word}`; the cases are: {}", names.join("; "));
            }
        }
        let is_chosen = |case: &Self| {
            let name = case.to_string();
            words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
        };
        Ok(all.into_iter().filter(is_chosen).collect())
    }

    /// Pages of 4 KiB of a buffer.
    pub(super) fn pages(&self) -> u64 {
        u64::from(self.kib / 4)
    }

    /// The case as the guest's script has it: buffer, pages, number of the direction.
    pub(super) fn for_guest(&self) -> String {
        let buffer = match self.buffer {
            Buffer::Reused => "reused",
            Buffer::Fresh => "fresh",
        };
        format!("{buffer} {} {}", self.pages(), self.direction as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::MapCase;

    #[test]
    fn cases_are_chosen_by_any_part_of_their_names() {
        let count = |words: &[&str]| {
            MapCase::choose(&words.iter().map(|word| (*word).into()).collect::<Vec<_>>())
        };
        assert_eq!(count(&[]).unwrap().len(), 24);
        assert_eq!(count(&["fresh"]).unwrap().len(), 12);
        assert_eq!(count(&["d 4 KiB to", "fresh 64 KiB bi"]).unwrap().len(), 2);
        let error = count(&["32 KiB"]).unwrap_err().to_string();
        assert!(error.contains("`32 KiB`") && error.contains("fresh 64 KiB to-device"), "{error}");
    }

    #[test]
    fn the_guest_gets_pages_and_the_kernels_numbers_of_directions() {
        let names: Vec<String> = MapCase::all().iter().map(MapCase::for_guest).collect();
        assert_eq!(names.first().map(String::as_str), Some("reused 1 1"));
        assert_eq!(names.last().map(String::as_str), Some("fresh 16 0"));
    }
}
