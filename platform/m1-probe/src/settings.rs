//! What `oche probe` writes into the image: a record that the tool finds by its magic.
//!
//! 24 bytes: magic of 16, then two little-endian words: seconds, and 1 if a U-Boot is packed.

/// The first sixteen bytes. Not written out anywhere else in the image.
const MAGIC: [u8; 16] = *b"OCHE probe set\x01\x9e";
/// Bytes in the record.
pub const RECORD_BYTES: usize = MAGIC.len() + 8;

/// The settings of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long the report is shown before U-Boot starts, in seconds.
    pub seconds: u32,
    /// Whether the payload is a U-Boot to start. Otherwise the report stays.
    pub has_next: bool,
}

impl Settings {
    /// The record.
    pub const fn record(self) -> [u8; RECORD_BYTES] {
        let mut record = [0; RECORD_BYTES];
        let words = [self.seconds.to_le_bytes(), (self.has_next as u32).to_le_bytes()];
        let mut index = 0;
        while index < RECORD_BYTES {
            record[index] = match index.checked_sub(MAGIC.len()) {
                None => MAGIC[index],
                Some(at) => words[at / 4][at % 4],
            };
            index += 1;
        }
        record
    }

    /// Reads a record. It does not look at the magic, which would be in the image twice then.
    pub fn read(record: &[u8; RECORD_BYTES]) -> Self {
        let word = |at: usize| {
            let bytes = record.iter().skip(MAGIC.len() + at).take(4);
            bytes.rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
        };
        Self { seconds: word(0), has_next: word(4) != 0 }
    }

    /// Writes the settings into the record of `image`. Returns whether the image has exactly one.
    pub fn write_into(self, image: &mut [u8]) -> bool {
        let mut places =
            image.windows(MAGIC.len()).enumerate().filter(|(_, bytes)| *bytes == MAGIC);
        let (Some((start, _)), None) = (places.next(), places.next()) else { return false };
        let Some(place) = image.get_mut(start..start + RECORD_BYTES) else { return false };
        place.copy_from_slice(&self.record());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_written_into_the_one_record_and_read_back() {
        let before = Settings { seconds: 1, has_next: false };
        let after = Settings { seconds: 0x1234_5678, has_next: true };
        let mut image = vec![0xa5; 100];
        image.extend(before.record());
        image.extend([7; 10]);
        assert!(after.write_into(&mut image));
        let record = image[100..100 + RECORD_BYTES].try_into().expect("a record");
        assert_eq!(Settings::read(record), after);
        assert_eq!((image[99], image[100 + RECORD_BYTES]), (0xa5, 7), "and nothing else");
    }

    #[test]
    fn image_without_a_whole_record_or_with_two_is_refused() {
        let settings = Settings { seconds: 9, has_next: true };
        assert!(!settings.write_into(&mut [0; 64]));
        assert!(!settings.write_into(&mut settings.record()[..RECORD_BYTES - 1].to_vec()));
        assert!(!settings.write_into(&mut [settings.record(), settings.record()].concat()));
    }
}
