//! What the fields of each kind of event are called and how they are read, for formats that declare
//! them before the first event. Generated from the table of events, as the values are.

use oche_types::event::Kind;
use oche_types::events;

/// How a field is read; a method of [`oche_trace::text::Fields`] each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// A number that people read in hexadecimal: an address, a pattern of bits.
    Hex,
    /// A number that people read in decimal.
    Number,
    /// A word of a fixed set.
    Word,
    /// The first address of a range.
    Range,
    /// A number as [`FieldType::Hex`], or none.
    HexOrNone,
    /// Sixteen bytes.
    Bytes,
}

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventClass {
    /// The kind; `None`: every kind that this program does not know.
    pub kind: Option<Kind>,
    /// Its name in every output.
    pub name: &'static str,
    /// When it happens.
    pub about: &'static str,
    /// Its fields' names, in order, without those that every event has.
    pub fields: &'static [(&'static str, FieldType)],
}

/// What is shown of an event of a later version. As `oche_trace::text::describe` gives it out.
const UNKNOWN: EventClass = EventClass {
    kind: None,
    name: "unknown",
    about: " An event of a later version of Oche.",
    fields: &[("kind", FieldType::Number), ("detail", FieldType::Hex), ("payload", FieldType::Hex)],
};

/// The variant of a method of `Fields`.
macro_rules! field_type {
    (hex) => {
        FieldType::Hex
    };
    (number) => {
        FieldType::Number
    };
    (word) => {
        FieldType::Word
    };
    (range) => {
        FieldType::Range
    };
    (hex_or_none) => {
        FieldType::HexOrNone
    };
    (bytes) => {
        FieldType::Bytes
    };
}

/// Declares [`CLASSES`].
macro_rules! classes {
    ($(
        $(#[doc = $doc:literal])*
        $kind:ident = $number:literal, $name:literal {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $place:ident($($at:tt)*),)*
        }
        $(also $also:ident: $also_type:ty = $also_place:ident($($also_at:tt)*) from $value:expr;)?
        reach($($reach:tt)*)
        text($($method:ident($field_name:literal $(, $argument:expr)*)),* $(,)?)
        counts($($counts:tt)*)
    )*) => {
        /// All kinds of events, by number; first the one for those of a later version.
        pub const CLASSES: [EventClass; 1 + [$($number),*].len()] = [
            UNKNOWN,
            $(EventClass {
                kind: Some(Kind::$kind),
                name: $name,
                about: concat!($($doc),*),
                fields: &[$(($field_name, field_type!($method))),*],
            },)*
        ];
    };
}

events!(classes);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_class_of_its_name() {
        let kinds: Vec<Option<Kind>> = CLASSES.iter().map(|class| class.kind).collect();
        assert!(kinds.iter().skip(1).copied().eq(Kind::ALL.map(Some)));
        for class in &CLASSES[1..] {
            assert_eq!(Some(class.name), class.kind.map(Kind::name));
            assert!(class.about.starts_with(' ') && class.about.ends_with('.'), "{class:?}");
        }
        let map = CLASSES.iter().find(|class| class.name == "map").unwrap();
        assert_eq!(map.fields.first(), Some(&("iova", FieldType::Range)));
        assert_eq!(map.fields.len(), 5);
    }
}
