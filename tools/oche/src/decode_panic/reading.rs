//! Reading a panic's message, which a person may have typed from a photograph.
//!
//! Case, spaces, the prefix of a line and `0x` may be wrong or missing; a line may be wrapped, as
//! the screen does between words; and letters that look like digits stand for these where only a
//! hexadecimal number can be.

use oche_types::identity::BuildId;

/// How each line begins, without its first letter, which may be read as a zero.
const PREFIX: &str = "che: panic:";
/// The word that each address inside the image has before it.
const IMAGE: &str = "image+";

/// An address in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Bytes from the image's start.
    pub(super) offset: u64,
    /// Whether it is the instruction that failed; the others are where calls return to.
    pub(super) is_instruction: bool,
}

/// What a panic's message says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PanicText {
    /// The first line, without its prefix: what happened, and where.
    pub(super) message: String,
    /// The line with Oche's version, commit and build, as it is in the text.
    pub(super) release: Option<String>,
    /// The build id, as far as it is one.
    pub(super) build: Option<BuildId>,
    /// The addresses, innermost first.
    pub(super) addresses: Vec<Address>,
    /// Panics before this one in the text.
    pub(super) earlier: usize,
}

/// Reads the last panic in `text`; `None` if there is no line of one.
pub(super) fn read(text: &str) -> Option<PanicText> {
    let mut found: Option<PanicText> = None;
    for line in joined(text) {
        let lower = line.to_lowercase();
        if lower.starts_with("cpu ") && !lower.contains("while another panic") {
            let earlier = found.map_or(0, |panic| panic.earlier + 1);
            found = Some(PanicText { message: line.clone(), earlier, ..PanicText::default() });
        }
        let panic = found.get_or_insert_default();
        if let Some(build) = build_of(&lower) {
            panic.release = Some(line.clone());
            panic.build = Some(build);
        }
        let is_instruction = lower.starts_with("cpu ");
        let offsets = lower.split(IMAGE).skip(1).filter_map(number);
        panic.addresses.extend(offsets.map(|offset| Address { offset, is_instruction }));
    }
    found
}

/// The lines of panics without their prefix, each joined with what was wrapped behind it. A line
/// without any prefix that begins with an address is one as well.
fn joined(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in text.lines() {
        // What a terminal would act on is left out.
        let line: String = line.chars().filter(|letter| !letter.is_control()).collect();
        let compact = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lower = compact.to_lowercase();
        if let Some(at) = lower.find(PREFIX) {
            // Lower case keeps the length of what a console prints.
            let rest = compact.get(at + PREFIX.len()..).unwrap_or_default();
            lines.push(spaceless_plus(rest.trim()));
            is_open = true;
        } else if lower.starts_with("image") || lower.starts_with('+') {
            let rest = lower.trim_start_matches("image").trim_start_matches([' ', '+']);
            lines.push(format!("{IMAGE}{rest}"));
            is_open = true;
        } else if compact.is_empty() || lower.contains("che: ") {
            is_open = false;
        } else if let (true, Some(last)) = (is_open, lines.last_mut()) {
            // A number that was cut continues; words are separated by a space.
            if !(continues_number(last, &lower)) {
                last.push(' ');
            }
            last.push_str(&spaceless_plus(&compact));
        }
    }
    lines
}

/// `image + 0x12` as `image+0x12`.
fn spaceless_plus(text: &str) -> String {
    text.replace(" + ", "+").replace(" +", "+").replace("+ ", "+")
}

/// Whether `next` is the rest of a number that `line` ends in.
fn continues_number(line: &str, next: &str) -> bool {
    let last = line.rsplit([' ', '(']).next().unwrap_or_default().to_lowercase();
    let is_number = last.starts_with("0x") || last.starts_with(IMAGE) || line.contains("build ");
    let first = next.split([' ', ')']).next().unwrap_or_default();
    let is_rest = !first.is_empty() && first.chars().all(|letter| letter.is_ascii_hexdigit());
    is_number && last.chars().next_back().is_some_and(|end| end.is_ascii_hexdigit()) && is_rest
}

/// The digit that a letter of a hexadecimal number stands for. No such letter is a digit itself.
fn digit(letter: char) -> Option<char> {
    match letter {
        'o' => Some('0'),
        'l' | 'i' | '|' => Some('1'),
        's' => Some('5'),
        'z' => Some('2'),
        _ => letter.is_ascii_hexdigit().then_some(letter),
    }
}

/// The hexadecimal number that `text`, in small letters, begins with.
fn number(text: &str) -> Option<u64> {
    let text = text.trim_start();
    let bare = text.strip_prefix("0x").or_else(|| text.strip_prefix("ox")).unwrap_or(text);
    let digits: String = bare.chars().map_while(digit).collect();
    u64::from_str_radix(&digits, 16).ok()
}

/// The build id behind the word `build` in `text`, in small letters.
fn build_of(text: &str) -> Option<BuildId> {
    let (_, behind) = text.split_once("build")?;
    let digits: String = behind.trim_start().chars().map_while(digit).collect();
    BuildId::parse(&digits)
}

#[cfg(test)]
mod tests {
    use super::{Address, read};
    use oche_types::identity::BuildId;

    /// As the serial port of a board shows it.
    const SERIAL: &str = "\
oche: the guest starts: kernel 0x42e00000..0x44e10000\r
oche: panic: cpu 1: data abort (vector 0x200, P03): ESR 0x96000010 FAR 0x7ffffff000 HPFAR 0x0 \
ELR 0x4023eb9c (image+0x3eb9c) SPSR 0x3c9\r
oche: panic: x0  0x0000000000000001 0x0000000000000002 0x0000000000000003 0x0000000000000004\r
oche: panic: Oche 0.1.0 (ceabe3a4f01d, build 3f2a9c1be0d4) on m1\r
oche: panic: guest ELR_EL1 0xffff800080012340, image at 0x40200000..0x403f0000\r
oche: panic: image+0x12abc\r
oche: panic: image+0x1f00\r
oche: panic: last events of cpu 0\r
oche: panic: stopped\r
";

    fn expected() -> Vec<Address> {
        let address = |offset, is_instruction| Address { offset, is_instruction };
        vec![address(0x3_eb9c, true), address(0x1_2abc, false), address(0x1f00, false)]
    }

    #[test]
    fn a_log_gives_build_and_addresses_in_their_order() {
        let panic = read(SERIAL).expect("a panic");
        assert_eq!(panic.build, BuildId::parse("3f2a9c1be0d4"));
        assert_eq!(panic.addresses, expected());
        assert!(panic.message.starts_with("cpu 1: data abort"), "{}", panic.message);
        assert_eq!(
            panic.release.as_deref(),
            Some("Oche 0.1.0 (ceabe3a4f01d, build 3f2a9c1be0d4) on m1")
        );
        assert_eq!(panic.earlier, 0);
    }

    #[test]
    fn what_a_person_types_from_a_photograph_gives_the_same() {
        let typed = "\
0che: Panic:  CPU 1: Data abort (vector 0x200, P03): ESR 0x96000010 FAR 0x7ffffff000
        HPFAR 0x0 ELR 0x4023eb9c (image + Ox3EB9C)
        SPSR 0x3c9
OCHE: PANIC: Oche 0.1.0 (ceabe3a4f01d, build 3f2a9clbeOd4) on m1
oche: panic: guest ELR_EL1 0xffff800080012340, image at
        0x40200000..0x403f0000
image+12ABC

oche: panic: image+0xlfOO
";
        let panic = read(typed).expect("a panic");
        assert_eq!(panic.build, BuildId::parse("3f2a9c1be0d4"));
        assert_eq!(panic.addresses, expected());
    }

    #[test]
    fn a_number_that_a_terminal_has_cut_is_joined() {
        let cut = "oche: panic: Oche 0.1.0 (ceabe3a4f01d, build 3f2a9c\n1be0d4) on m1\n\
                   oche: panic: image+0x12\nabc\noche: boot took 5 ns\nimage of another kind\n";
        let panic = read(cut).expect("a panic");
        assert_eq!(panic.build, BuildId::parse("3f2a9c1be0d4"));
        assert_eq!(panic.addresses.first().map(|one| one.offset), Some(0x1_2abc));
    }

    #[test]
    fn of_several_panics_the_last_is_read() {
        let twice = format!("{SERIAL}{SERIAL}");
        let panic = read(&twice).expect("a panic");
        assert_eq!((panic.earlier, panic.addresses), (1, expected()));
        let nested = SERIAL
            .replace("oche: panic: stopped", "oche: panic: cpu 0: while another panic is printed");
        assert_eq!(read(&nested).map(|panic| panic.earlier), Some(0));
    }

    #[test]
    fn a_text_without_a_panic_gives_nothing() {
        for text in ["", "oche: Oche 0.1.0 (x, build 3f2a9c1be0d4) on m1\n", "Kernel panic\n\n"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn no_text_makes_the_reader_fail() {
        for text in ["oche: panic:", "image+", "+", "oche: panic: image+0x", "İche: panic: image+1"]
        {
            let _ = read(text);
        }
        let long = format!("oche: panic: image+0x{}", "f".repeat(100));
        assert_eq!(read(&long).map(|panic| panic.addresses), Some(vec![]));
    }
}
