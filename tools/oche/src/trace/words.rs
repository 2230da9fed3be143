//! Moments, spans, sizes and directions in words, the same in every view.

use oche_trace::text::Clock;
use oche_types::dart::entry::Permission;

/// `ticks` as seconds since Oche's start, `12.500000041`.
pub fn seconds(clock: Clock, ticks: u64) -> String {
    let (seconds, nanoseconds) = clock.seconds(ticks);
    format!("{seconds}.{nanoseconds:09}")
}

/// Nanoseconds between two moments in ticks.
pub fn nanoseconds_between(clock: Clock, first: u64, last: u64) -> u64 {
    Clock { start_ticks: first, ..clock }.nanoseconds(last)
}

/// The span between two moments in ticks, as [`span`].
pub fn interval(clock: Clock, first: u64, last: u64) -> String {
    span(nanoseconds_between(clock, first, last))
}

/// Nanoseconds with three digits and a unit: `152 us`, `1.53 ms`, `73.9 s`.
pub fn span(nanoseconds: u64) -> String {
    let value = nanoseconds as f64;
    let (value, unit) = match nanoseconds {
        0..1_000 => return format!("{nanoseconds} ns"),
        1_000..1_000_000 => (value / 1e3, "us"),
        1_000_000..1_000_000_000 => (value / 1e6, "ms"),
        _ => (value / 1e9, "s"),
    };
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {unit}")
}

/// Bytes as `4 KiB`, `1.5 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (unit, name) in UNITS {
        if bytes >= unit {
            let value = bytes as f64 / unit as f64;
            let digits = usize::from(!bytes.is_multiple_of(unit) && value < 1000.0);
            return format!("{value:.digits$} {name}");
        }
    }
    format!("{bytes} bytes")
}

/// A device's permission, as a verb.
pub fn permission(permission: Permission) -> &'static str {
    match (permission.read, permission.write) {
        (true, true) => "read and write",
        (true, false) => "read",
        (false, true) => "write",
        (false, false) => "do nothing with",
    }
}

/// A fault's code, in words. Source: `hyp/types/src/dart/registers.rs`, `FaultCode`.
pub fn code_in_words(code: u16) -> &'static str {
    match code {
        _ if code & 0x1 != 0 => "the stream has no table for this address",
        _ if code & 0x2 != 0 => "no first-level entry, so nothing is mapped within 2 MiB of it",
        _ if code & 0x4 != 0 => "no entry for the page",
        _ if code & 0x8 != 0 => "the page may not be written",
        _ if code & 0x10 != 0 => "the page may not be read",
        _ => "a code that this program does not know",
    }
}

/// The kind of an access.
pub fn direction(is_write: bool) -> &'static str {
    if is_write { "write" } else { "read" }
}

/// `count` of `what`, with its plural's s.
pub fn many(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Bytes as `512K`, `100M`, `2G`, or a plain number; at least 4096.
///
/// # Errors
///
/// It is something else; what it should be.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "a size of at least 4K, such as 512K, 100M or 2G".to_owned();
    let digits = text.trim_end_matches(['K', 'M', 'G', 'k']);
    let unit = match text.get(digits.len()..) {
        Some("") => 1,
        Some("K" | "k") => 1 << 10,
        Some("M") => 1 << 20,
        Some("G") => 1 << 30,
        _ => return Err(wrong()),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    bytes.filter(|bytes| *bytes >= 4096).ok_or_else(wrong)
}

/// Seconds with up to nine decimals, as nanoseconds: exactly what the text shows.
///
/// # Errors
///
/// It is something else; what it should be.
pub fn parse_seconds(text: &str) -> Result<u64, String> {
    let wrong = || "seconds since Oche's start, such as 12.500000041".to_owned();
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 9 || !decimals.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let nanoseconds: u64 = format!("{decimals:0<9}").parse().map_err(|_| wrong())?;
    whole
        .checked_mul(1_000_000_000)
        .and_then(|whole| whole.checked_add(nanoseconds))
        .ok_or_else(wrong)
}

/// An address in hexadecimal, with or without 0x. One that can only be meant as decimal is refused.
///
/// # Errors
///
/// It is something else; what it should be.
pub fn parse_address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let is_decimal = text.bytes().all(|digit| digit.is_ascii_digit());
    if is_decimal
        && let Ok(decimal) = text.parse::<u32>()
        && u32::from_str_radix(text, 16).is_err()
    {
        return Err(format!(
            "an address in hexadecimal, with or without 0x; for decimal {decimal} give {decimal:#x}"
        ));
    }
    u64::from_str_radix(digits, 16)
        .map_err(|_| "an address in hexadecimal, such as 0xfffc3040".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_hexadecimal() {
        assert_eq!(parse_address("0xfffc3040"), Ok(0xfffc_3040));
        assert_eq!(parse_address("fffc3040"), Ok(0xfffc_3040));
        assert!(parse_address("nvme").is_err());
        assert_eq!(parse_address("10000000"), Ok(0x1000_0000));
        assert_eq!(parse_address("0x4294959296"), Ok(0x42_9495_9296), "0x makes it hexadecimal");
        let decimal = parse_address("4294959296").expect_err("as hexadecimal it has 40 bits");
        assert_eq!(
            decimal,
            "an address in hexadecimal, with or without 0x; for decimal 4294959296 give 0xffffe0c0"
        );
        assert_eq!(parse_address("4294967296"), Ok(0x42_9496_7296), "too much either way");
    }

    #[test]
    fn a_moment_is_read_as_the_text_writes_it() {
        assert_eq!(parse_seconds("12.500000041"), Ok(12_500_000_041));
        assert_eq!(parse_seconds("12.5"), Ok(12_500_000_000));
        assert_eq!(parse_seconds("12"), Ok(12_000_000_000));
        for wrong in ["", "x", "1.0000000001", "-1", "1.-5", "99999999999999999999"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_size_has_a_unit_or_none() {
        assert_eq!(parse_size("100M"), Ok(100 << 20));
        assert_eq!((parse_size("4096"), parse_size("4K")), (Ok(4096), Ok(4096)));
        for wrong in ["", "M", "1", "10KM", "-1M", "1.5M", "99999999999G"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn spans_and_sizes_have_three_digits_and_a_unit() {
        let spans = [0, 999, 1_000, 9_996, 152_400, 1_530_000, 73_900_000_000, 7_390_000_000_000];
        let words: Vec<String> = spans.into_iter().map(span).collect();
        assert_eq!(
            words,
            ["0 ns", "999 ns", "1.00 us", "10.0 us", "152 us", "1.53 ms", "73.9 s", "7390 s"]
        );
        let sizes = [0, 4096, 6144, 1 << 20, 3 << 29, 5 << 30];
        let words: Vec<String> = sizes.into_iter().map(size).collect();
        assert_eq!(words, ["0 bytes", "4 KiB", "6 KiB", "1 MiB", "1.5 GiB", "5 GiB"]);
    }

    #[test]
    fn a_moment_is_shown_as_the_text_shows_it() {
        let clock = Clock { counter_hz: 24_000_000, start_ticks: 24_000_000 };
        assert_eq!(seconds(clock, 24_000_000 * 13 + 12_000_001), "12.500000041");
        assert_eq!(interval(clock, 24_000_000, 24_000_024), "1.00 us");
    }
}
