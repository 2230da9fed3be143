//! The places of members in the kernel's structures, by the kernel's own description of its types:
//! BTF (Documentation/bpf/btf.rst of Linux).

use super::memory::{half, u32_at};

/// The first two bytes.
const MAGIC: u16 = 0xeb9f;
/// Most bytes of a kernel's types. Debian's 6.12 has 6 MB.
const MAX_BYTES: u64 = 64 << 20;

/// What follows each type's first three words.
fn more_bytes(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Array.
        3 => 12,
        // Structure, union, section, enumeration of 64 bits.
        STRUCT | UNION | 15 | 19 => count * 12,
        // Enumeration, prototype.
        6 | 13 => count * 8,
        _ => return None,
    })
}

const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// The types of a kernel.
#[derive(Debug)]
pub(super) struct Types {
    types: Vec<u8>,
    strings: Vec<u8>,
    /// Where the structures begin in `types`.
    structures: Vec<usize>,
}

impl Types {
    /// How many bytes the types between two addresses have, if that many are read.
    pub(super) fn length(start: u64, end: u64) -> Option<usize> {
        let bytes = end.checked_sub(start).filter(|bytes| (24..=MAX_BYTES).contains(bytes))?;
        usize::try_from(bytes).ok()
    }

    /// Understands `bytes`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if half(bytes, 0) != Some(MAGIC) || bytes.get(2) != Some(&1) {
            return Err("they do not begin as BTF of version 1 does".into());
        }
        let part = |offset_at: usize| {
            let word = |at| usize::try_from(u32_at(bytes, at)?).ok();
            let start = word(4)?.checked_add(word(offset_at)?)?;
            bytes.get(start..start.checked_add(word(offset_at + 4)?)?)
        };
        let (Some(types), Some(strings)) = (part(8), part(16)) else {
            return Err("their parts do not lie inside them".into());
        };
        let mut structures = Vec::new();
        let mut at = 0;
        while at < types.len() {
            let Some(info) = u32_at(types, at + 4) else {
                return Err("a type is cut off".into());
            };
            let kind = info >> 24 & 0x1f;
            let Some(more) = more_bytes(kind, (info & 0xffff) as usize) else {
                return Err(format!("a type is of the unknown kind {kind}"));
            };
            if kind == STRUCT {
                structures.push(at);
            }
            at += 12 + more;
        }
        Ok(Self { types: types.to_vec(), strings: strings.to_vec(), structures })
    }

    /// The places in bytes of the members `members` of the structure `name`. None: no structure, or
    /// more than one that differ, are called that and have all of them.
    pub(super) fn offsets<const N: usize>(
        &self,
        name: &str,
        members: [&str; N],
    ) -> Option<[u64; N]> {
        let named = self.structures.iter().filter(|at| self.is_named(**at, name));
        let mut found = named.filter_map(|at| {
            let places = members.map(|member| self.offset(*at, member));
            places.iter().all(Option::is_some).then(|| places.map(Option::unwrap_or_default))
        });
        let first = found.next()?;
        found.all(|other| other == first).then_some(first)
    }

    fn is_named(&self, at: usize, name: &str) -> bool {
        let offset = u32_at(&self.types, at).and_then(|offset| usize::try_from(offset).ok());
        let text = offset.and_then(|offset| self.strings.get(offset..)).unwrap_or_default();
        text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    fn offset(&self, at: usize, member: &str) -> Option<u64> {
        let info = u32_at(&self.types, at + 4)?;
        let members = (0..(info & 0xffff) as usize).map(|index| at + 12 + index * 12);
        let place = members.into_iter().find(|place| self.is_named(*place, member))?;
        let offset = u32_at(&self.types, place + 8)?;
        // With bit 31 of `info` the upper byte is the size of a bit field.
        let (bits, size) =
            if info >> 31 == 1 { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
        (bits.is_multiple_of(8) && size == 0).then_some(u64::from(bits / 8))
    }
}
