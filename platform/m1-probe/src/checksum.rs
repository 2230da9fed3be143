//! The checksum of reports and codes: CRC-32 as in ISO-HDLC (gzip, PNG).

/// The polynomial, bits reversed.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// The checksum of `bytes`.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut remainder = u32::MAX;
    for byte in bytes {
        remainder ^= u32::from(*byte);
        for _ in 0..8 {
            let is_odd = remainder & 1 == 1;
            remainder >>= 1;
            if is_odd {
                remainder ^= POLYNOMIAL;
            }
        }
    }
    !remainder
}

#[cfg(test)]
mod tests {
    use super::crc32;

    /// The check value of the algorithm's definition.
    #[test]
    fn checksum_is_the_one_that_others_compute() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }
}
