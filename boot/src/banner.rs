//! The version banner that Linux and U-Boot keep as text in their images.

/// The beginnings of the banners. A digit follows each, which sets them apart from the format
/// strings.
const BEGINNINGS: [&[u8]; 2] = [b"Linux version ", U_BOOT];
const U_BOOT: &[u8] = b"U-Boot 20";
/// Most bytes of a banner.
const MAX_BYTES: usize = 120;

/// The banner in `image`: from its first word to a line's end, at most 120 bytes. Of an image with
/// both, Linux's.
pub fn find(image: &[u8]) -> Option<&str> {
    let start = BEGINNINGS.iter().find_map(|begin| {
        image
            .windows(begin.len() + 1)
            .position(|at| at.starts_with(begin) && at.last().is_some_and(u8::is_ascii_digit))
    })?;
    let rest = image.get(start..)?;
    let rest = rest.get(..rest.len().min(MAX_BYTES))?;
    let length = rest.iter().take_while(|byte| matches!(byte, b' '..=b'~')).count();
    rest.get(..length).and_then(|text| str::from_utf8(text).ok())
}

/// Whether `image` is U-Boot, by its banner.
pub fn is_u_boot(image: &[u8]) -> bool {
    find(image).is_some_and(|banner| banner.as_bytes().starts_with(U_BOOT))
}

#[cfg(test)]
mod tests {
    use super::{find, is_u_boot};

    #[test]
    fn a_banner_ends_with_its_line_and_is_no_format_string() {
        let image = b"Linux version %s\0..U-Boot 2025.01-1 (Jan 01 2025)\n\0U-Boot 2099.01";
        assert_eq!(find(image), Some("U-Boot 2025.01-1 (Jan 01 2025)"));
        assert!(is_u_boot(image));
        assert_eq!(
            find(&[b"U-Boot 20".as_slice(), &[b'5'; 200]].concat()).map(str::len),
            Some(120)
        );
    }

    #[test]
    fn a_kernel_that_names_u_boot_is_no_u_boot() {
        let image = b"boots under U-Boot 2025.01\0Linux version 6.1.0-1-arm64 (x@y) #1\n";
        assert_eq!(find(image), Some("Linux version 6.1.0-1-arm64 (x@y) #1"));
        assert!(!is_u_boot(image));
        assert!(!is_u_boot(b"U-Boot 20"), "cut short");
        assert!(!is_u_boot(b""));
    }
}
