//! The tables of names that `scripts/kallsyms.c` of Linux puts into every kernel with
//! `CONFIG_KALLSYMS`, found in memory.
//!
//! Their order changed over the years (scripts/kallsyms.c of 6.1, 6.2, 6.12, 7.2). Each table
//! begins on 8 bytes; in 7.x on 4.
//!
//! ```text
//! 6.1        offsets, relative_base, num_syms, names, markers, token_table, token_index
//! 6.2...     the same, with seqs_of_names behind markers
//! 6.12       num_syms, names, markers, token_table, token_index, offsets, relative_base, seqs
//! 7.x        num_syms, names, markers, token_table, token_index, offsets, seqs
//! ```
//!
//! An offset is what a symbol's address is above `relative_base`; in 7.x it is what the address is
//! above (or, negative, below) the place of the offset itself. A name is the numbers of tokens,
//! with their count before it; the first character is the type, as `nm` has it. Each 256th name's
//! place is in `markers`.

use memchr::memmem::Finder;

use super::memory::{GuestMemory, Memory, half, u32_at};

/// The tokens of the digits stand for themselves in every kernel: no symbol table lacks a digit.
const DIGITS: &[u8; 20] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0";
/// Bytes that are searched at once.
const WINDOW: usize = 4 << 20;
/// Fewest and most symbols of a kernel. Debian's 6.12 has 150 000.
const SYMBOLS: std::ops::RangeInclusive<usize> = 2048..=1 << 20;
/// Most bytes of what lies before the token table: a million names of 16 bytes.
const MAX_BEFORE: u64 = 16 << 20;
/// Most bytes of a symbol's name (KSYM_NAME_LEN of include/linux/kallsyms.h is 512).
const MAX_NAME: usize = 512;
/// Most names that are passed over, in all places where they could begin.
const MAX_STEPS: usize = 32 << 20;
/// What each table is aligned to, in bytes.
const ALIGNMENTS: [usize; 2] = [8, 4];
/// Most bytes of a token table: no token is longer than a name, and real ones have 8 bytes at most.
const MAX_TOKENS: usize = 256 * 32;
/// Tables that are looked at: the running kernel's, and copies of its image.
const MAX_TABLES: usize = 16;

/// How offsets become addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// They are above this virtual address.
    Relative(u64),
    /// They are above their own places, the first of which is at this physical address.
    Place(u64),
}

/// The tables of one kernel image.
#[derive(Debug)]
pub(super) struct Tables {
    /// The token table's guest-physical address.
    pub(super) at: u64,
    /// Where the addresses count from.
    pub(super) base: Base,
    /// What each symbol's address is above the base, ascending, in the order of the names.
    /// For [`Base::Place`], above the place of the first offset.
    offsets: Vec<i64>,
    /// Types and names.
    names: Vec<(u8, String)>,
}

/// A symbol, at the difference `offset` to the base of its [`Tables`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol<'a> {
    pub(super) offset: i64,
    pub(super) kind: u8,
    pub(super) name: &'a str,
}

impl Tables {
    /// The symbols, by address.
    pub(super) fn symbols(&self) -> impl Iterator<Item = Symbol<'_>> {
        let both = self.offsets.iter().zip(&self.names);
        both.map(|(&offset, (kind, name))| Symbol { offset, kind: *kind, name })
    }
}

/// All tables that are in `memory`, and one line for each that is damaged.
pub(super) fn find(memory: &dyn GuestMemory) -> (Vec<Tables>, Vec<String>) {
    let finder = Finder::new(DIGITS);
    let (mut found, mut damaged) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; WINDOW];
    for range in memory.ranges() {
        let mut at = range.start;
        while at < range.end && found.len() + damaged.len() < MAX_TABLES {
            let bytes = usize::try_from(range.end - at).map_or(WINDOW, |bytes| bytes.min(WINDOW));
            let Some(window) = buffer.get_mut(..bytes).filter(|_| bytes >= DIGITS.len()) else {
                break;
            };
            if memory.read(at, window) {
                for hit in finder.find_iter(window).take(MAX_TABLES) {
                    let digits = at + hit as u64;
                    let Some(tokens) = Tokens::around(Memory(memory), digits) else { continue };
                    match read(Memory(memory), &tokens) {
                        Ok(tables) => found.push(tables),
                        Err(why) => damaged.push(format!("at {:#x}: {why}", tokens.start)),
                    }
                }
            }
            // The next window begins with this one's end, so that nothing on the border is missed.
            at += if bytes < WINDOW { bytes } else { WINDOW - DIGITS.len() + 1 } as u64;
        }
    }
    (found, damaged)
}

/// The token table and its index.
struct Tokens {
    start: u64,
    tokens: Vec<Vec<u8>>,
    /// The address behind the index.
    end: u64,
}

impl Tokens {
    /// The tokens whose digits are at `digits`.
    fn around(memory: Memory<'_>, digits: u64) -> Option<Self> {
        // The 48 tokens before, and before those what is no text.
        const BEFORE: usize = 48 * 32;
        let start = digits.checked_sub(BEFORE as u64)?;
        let before = memory.bytes(start, BEFORE)?;
        let mut ends = before.iter().enumerate().rev().filter(|(_, byte)| **byte == 0);
        let (first_end, _) = ends.nth(47)?;
        let text = before.get(..first_end)?;
        let length = text.iter().rev().take_while(|byte| byte.is_ascii_graphic()).count();
        // The table begins on 4 bytes at least: the bytes before may happen to be text, too.
        let starts = first_end - length..first_end;
        starts.map(|at| start + at as u64).filter(|at| at.is_multiple_of(4)).find_map(|start| {
            let bytes = memory.bytes(start, MAX_TOKENS + 512)?;
            Self::parse(start, &bytes)
        })
    }

    fn parse(start: u64, bytes: &[u8]) -> Option<Self> {
        let mut tokens = Vec::new();
        let mut index = Vec::new();
        let mut at = 0;
        for _ in 0..256 {
            let rest = bytes.get(at..)?;
            let length = rest.iter().take(MAX_TOKENS).position(|byte| *byte == 0)?;
            index.push(u16::try_from(at).ok()?);
            tokens.push(rest.get(..length)?.to_vec());
            at += length + 1;
        }
        let is_index = |place: &usize| {
            let words = bytes.get(*place..).unwrap_or_default();
            index.iter().enumerate().all(|(at, value)| half(words, at) == Some(*value))
        };
        let place =
            ALIGNMENTS.map(|align| at.next_multiple_of(align)).into_iter().find(is_index)?;
        Some(Self { start, tokens, end: start + place as u64 + 512 })
    }
}

/// Names, and where their table and their count are.
struct Names {
    /// The address of `num_syms`.
    count_at: u64,
    names: Vec<(u8, String)>,
}

fn read(memory: Memory<'_>, tokens: &Tokens) -> Result<Tables, String> {
    let names = read_names(memory, tokens)?;
    let count = names.names.len();
    let mut fitting = [
        behind_place(memory, tokens.end, count),
        behind_base(memory, tokens.end, count),
        before_names(memory, names.count_at, count),
    ]
    .into_iter()
    .flatten();
    let Some((base, offsets)) = fitting.next() else {
        return Err(format!("{count} names, and no table of as many ascending addresses"));
    };
    if fitting.next().is_some() {
        return Err(format!("{count} names, and more than one table that may be their addresses"));
    }
    Ok(Tables { at: tokens.start, base, offsets, names: names.names })
}

/// Looks for the count of names, with names and markers behind it.
fn read_names(memory: Memory<'_>, tokens: &Tokens) -> Result<Names, String> {
    // RAM may begin nearer.
    let mut length = MAX_BEFORE.min(tokens.start);
    let before = loop {
        match memory.bytes(tokens.start - length, length as usize) {
            Some(bytes) => break bytes,
            None if length >= 1 << 16 => length /= 2,
            None => return Err("the memory before the tokens cannot be read".into()),
        }
    };
    let start = tokens.start - length;
    for align in ALIGNMENTS {
        let mut left = MAX_STEPS;
        for at in (0..before.len() / align).rev().map(|index| index * align) {
            let count = u32_at(&before, at).and_then(|count| usize::try_from(count).ok());
            let Some(count) = count.filter(|count| SYMBOLS.contains(count)) else { continue };
            let (head, bytes) = before.split_at_checked(at + align).unwrap_or_default();
            let is_alone = head.iter().skip(at + 4).all(|byte| *byte == 0);
            if !is_alone || !is_possible(bytes.len(), count) {
                continue;
            }
            if let Some(names) = decode(bytes, count, align, &tokens.tokens, &mut left) {
                return Ok(Names { count_at: start + at as u64, names });
            }
        }
    }
    Err("the names' tokens are there, and no names that fit them and their markers".into())
}

/// Whether `count` names and their markers can be all that is in `length` bytes: each has two bytes
/// at least, and far fewer than 32 on average.
fn is_possible(length: usize, count: usize) -> bool {
    (count * 2..count * 36).contains(&length)
}

/// `count` names at the start of `bytes`, whose markers follow and end in `bytes`.
fn decode(
    bytes: &[u8],
    count: usize,
    align: usize,
    tokens: &[Vec<u8>],
    left: &mut usize,
) -> Option<Vec<(u8, String)>> {
    // First their lengths and markers alone: most places are no names.
    let mut places = Vec::with_capacity(count.div_ceil(256));
    let mut at = 0;
    for index in 0..count {
        if index % 256 == 0 {
            places.push(u32::try_from(at).ok()?);
        }
        *left = left.checked_sub(1)?;
        let (length, header) = length_at(bytes, at)?;
        at += header + length;
    }
    let markers = at.next_multiple_of(align);
    bytes.get(at..markers)?.iter().all(|byte| *byte == 0).then_some(())?;
    let mut all = places.iter().enumerate();
    all.all(|(index, place)| u32_at(bytes, markers + index * 4) == Some(*place)).then_some(())?;
    let end = (markers + places.len() * 4).next_multiple_of(align);
    ends_at_tokens(bytes.len().checked_sub(end)?, count, align).then_some(())?;
    let mut names = Vec::with_capacity(count);
    at = 0;
    for _ in 0..count {
        let (length, header) = length_at(bytes, at)?;
        let numbers = bytes.get(at + header..at + header + length)?;
        names.push(expand(numbers, tokens)?);
        at += header + length;
    }
    Some(names)
}

/// Whether `gap` bytes between the markers and the tokens are right: none, or the numbers of the
/// names by alphabet, of 3 bytes each (4 in the first such kernel).
fn ends_at_tokens(gap: usize, count: usize, align: usize) -> bool {
    [0, count * 3, count * 4].iter().any(|bytes| bytes.next_multiple_of(align) == gap)
}

/// A name's length in tokens, and that of the length itself: ULEB128 of two bytes at most.
fn length_at(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let first = usize::from(*bytes.get(at)?);
    if first & 0x80 == 0 {
        return (first != 0).then_some((first, 1));
    }
    let second = usize::from(*bytes.get(at + 1)?);
    (second & 0x80 == 0).then_some(((first & 0x7f) | second << 7, 2))
}

fn expand(numbers: &[u8], tokens: &[Vec<u8>]) -> Option<(u8, String)> {
    let mut text = Vec::new();
    for number in numbers {
        text.extend_from_slice(tokens.get(usize::from(*number))?);
        (text.len() <= MAX_NAME).then_some(())?;
    }
    let (kind, name) = text.split_first()?;
    let is_text = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    (kind.is_ascii_alphabetic() && is_text).then_some(())?;
    Some((*kind, String::from_utf8(name.to_vec()).ok()?))
}

/// A table of offsets: its base, and them.
type Offsets = (Base, Vec<i64>);

/// 7.x: behind the tokens' index, from their own places.
fn behind_place(memory: Memory<'_>, at: u64, count: usize) -> Option<Offsets> {
    let bytes = memory.bytes(at, count * 4)?;
    let values = (0..count).map(|index| {
        // As the kernel does, with the sign.
        let offset = i64::from(u32_at(&bytes, index * 4)?.cast_signed());
        Some(offset + index as i64 * 4)
    });
    let offsets = values.collect::<Option<Vec<i64>>>()?;
    // The names lie inside the image, behind its code.
    let is_inside = offsets.first()? < &0 && offsets.last()? > &0;
    (is_inside && offsets.is_sorted()).then_some((Base::Place(at), offsets))
}

/// 6.4 to 6.19: behind the tokens' index, with their base behind them.
fn behind_base(memory: Memory<'_>, at: u64, count: usize) -> Option<Offsets> {
    from_base(memory, at, at + (count * 4).next_multiple_of(8) as u64, count)
}

/// Up to 6.3: before the names.
fn before_names(memory: Memory<'_>, count_at: u64, count: usize) -> Option<Offsets> {
    let base_at = count_at.checked_sub(8)?;
    let at = base_at.checked_sub((count * 4).next_multiple_of(8) as u64)?;
    from_base(memory, at, base_at, count)
}

fn from_base(memory: Memory<'_>, at: u64, base_at: u64, count: usize) -> Option<Offsets> {
    let base = memory.word(base_at)?;
    // A kernel's address, of the upper half.
    (base >> 52 == 0xfff && base.is_multiple_of(4)).then_some(())?;
    let bytes = memory.bytes(at, count * 4)?;
    let values = (0..count).map(|index| Some(i64::from(u32_at(&bytes, index * 4)?)));
    let offsets = values.collect::<Option<Vec<i64>>>()?;
    // The base is the lowest symbol's address.
    let is_first = offsets.first() == Some(&0) && offsets.last()? > &0;
    let is_real = base.checked_add_signed(*offsets.last()?).is_some();
    (is_first && is_real && offsets.is_sorted()).then_some((Base::Relative(base), offsets))
}

/// Whether a symbol of this type, as `nm` has it, is code.
pub(super) fn is_function(kind: u8) -> bool {
    matches!(kind, b't' | b'T' | b'w' | b'W')
}
