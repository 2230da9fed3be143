//! Where the fields of each kind of event are in its record, as data: for those who describe the
//! records or read them in another language.

use oche_types::event::Kind;
use oche_types::events;

/// A word of a record that is different for each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Bits 63:49 of word 2.
    Detail,
    /// Word 3.
    Payload,
}

/// A field's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its type in the engine.
    pub unit: &'static str,
    /// The word that it is in.
    pub word: Word,
    /// Its lowest bit there.
    pub low: u32,
    /// Its bits.
    pub bits: u32,
}

/// A field of the event is nothing here, one field or two.
type Places = [Option<Field>; 2];

const fn dart(_: &str, _: &str) -> Places {
    [None; 2]
}

const fn stream(_: &str, _: &str) -> Places {
    [None; 2]
}

const fn words(_: &str, _: &str) -> Places {
    [None; 2]
}

const fn at(_: &'static str, _: &'static str, low: u32, bits: u32) -> Places {
    payload("iova", "IovaPage", low, bits)
}

const fn detail(name: &'static str, unit: &'static str, low: u32, bits: u32) -> Places {
    [Some(Field { name, unit, word: Word::Detail, low, bits }), None]
}

const fn payload(name: &'static str, unit: &'static str, low: u32, bits: u32) -> Places {
    [Some(Field { name, unit, word: Word::Payload, low, bits }), None]
}

const fn streams(name: &'static str, unit: &'static str, low: u32, bits: u32) -> Places {
    payload(name, unit, low, bits)
}

const fn optional(
    name: &'static str,
    unit: &'static str,
    flag: u32,
    low: u32,
    bits: u32,
) -> Places {
    let there = Field { name: "is_there", unit: "bool", word: Word::Detail, low: flag, bits: 1 };
    [Some(there), payload(name, unit, low, bits)[0]]
}

/// Generates [`fields`].
macro_rules! layout {
    ($(
        $(#[$doc:meta])*
        $kind:ident = $number:literal, $name:literal {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $place:ident($($at:tt)*),)*
        }
        $(also $also:ident: $also_type:ty = $also_place:ident($($also_at:tt)*) from $value:expr;)?
        reach($($reach:tt)*)
        text($($text:tt)*)
        counts($($counts:tt)*)
    )*) => {
        /// The fields of `kind` that are in words of its own, in the order of the event's.
        pub fn fields(kind: Kind) -> impl Iterator<Item = Field> {
            let places: &'static [Places] = match kind {
                $(Kind::$kind => const { &[
                    $($place(stringify!($field), stringify!($type), $($at)*),)*
                    $($also_place(stringify!($also), stringify!($also_type), $($also_at)*),)?
                ] },)*
            };
            places.iter().flatten().flatten().copied()
        }
    };
}

events!(layout);

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use alloc::format;
    use alloc::string::String;
    use alloc::vec::Vec;
    use oche_types::event::{Placement, Refusal, WatchHow};

    /// Where the generated part of the document begins and ends.
    const BEGIN: &str = "<!-- Generated from the table of events; a test compares. -->\n";
    const END: &str = "<!-- End of the generated part. -->\n";

    fn described(kind: Kind, word: Word) -> String {
        let mut found: Vec<Field> = fields(kind).filter(|field| field.word == word).collect();
        found.sort_by_key(|field| core::cmp::Reverse(field.low));
        let texts = found.iter().map(|field| {
            let unit = match field.unit {
                unit if unit.contains("Gfn") => ": guest page",
                "Hfn" => ": host page",
                "HostGranule" => ": 16 KiB frame",
                "IovaPage" => ": page of IOVA space",
                _ => "",
            };
            let bits = match field.bits {
                1 => format!("{}", field.low),
                bits => format!("{}:{}", field.low + bits - 1, field.low),
            };
            format!("{bits} `{}`{unit}", field.name)
        });
        texts.collect::<Vec<_>>().join(", ")
    }

    fn document() -> String {
        let mut text = String::from(
            "| Kind | Name | Detail | Payload |\n|------|------|--------|---------|\n",
        );
        for kind in Kind::ALL {
            let (detail, payload) = (described(kind, Word::Detail), described(kind, Word::Payload));
            text += &format!("| {} | {} | {detail} | {payload} |\n", kind.number(), kind.name());
        }
        let list = |name: &str, names: &mut dyn Iterator<Item = (usize, &'static str)>| {
            let names: Vec<String> =
                names.map(|(number, name)| format!("{number} {name}")).collect();
            format!("\n`{name}`: {}.\n", names.join(", "))
        };
        text +=
            &list("placement", &mut Placement::ALL.map(Placement::name).into_iter().enumerate());
        text += &list("reason", &mut Refusal::ALL.map(Refusal::name).into_iter().enumerate());
        text += &list("how", &mut WatchHow::ALL.map(WatchHow::name).into_iter().enumerate());
        text
    }

    /// With `OCHE_UPDATE` set, as `cargo xtask fix` does, the test first writes the part anew.
    #[test]
    fn the_document_describes_every_field_where_it_is() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/trace.md");
        let mut text = std::fs::read_to_string(path).expect("docs/trace.md");
        let part = |text: &str| {
            let (before, rest) =
                text.split_once(BEGIN).expect("docs/trace.md has a generated part");
            let (generated, after) = rest.split_once(END).expect("the part ends");
            (String::from(before), String::from(generated), String::from(after))
        };
        let expected = document();
        if std::env::var_os("OCHE_UPDATE").is_some() {
            let (before, _, after) = part(&text);
            text = format!("{before}{BEGIN}{expected}{END}{after}");
            std::fs::write(path, &text).expect("docs/trace.md can be written");
        }
        assert_eq!(part(&text).1, expected, "run `cargo xtask fix`: docs/trace.md should read");
    }

    #[test]
    fn the_document_says_of_every_event_when_it_happens() {
        let text = include_str!("../../../docs/trace.md");
        let (_, table) =
            text.split_once("| Event | When |\n").expect("docs/trace.md says when events happen");
        let (table, _) = table.split_once("\n\n").expect("the table ends");
        let names: Vec<&str> = table
            .lines()
            .filter_map(|row| row.split('|').nth(1))
            .flat_map(|names| names.split('`').skip(1).step_by(2))
            .collect();
        for kind in Kind::ALL {
            assert!(names.contains(&kind.name()), "no row has `{}`: {names:?}", kind.name());
        }
    }

    #[test]
    fn no_two_fields_of_an_event_share_a_bit_and_all_fit() {
        for kind in Kind::ALL {
            let mut taken = [0_u64; 2];
            for field in fields(kind) {
                let width = if field.word == Word::Detail { 15 } else { 64 };
                assert!(field.bits != 0 && field.low + field.bits <= width, "{kind:?} {field:?}");
                let mask = u64::MAX >> (64 - field.bits) << field.low;
                let taken = &mut taken[usize::from(field.word == Word::Detail)];
                assert_eq!(*taken & mask, 0, "{kind:?} {field:?}");
                *taken |= mask;
            }
        }
    }
}
