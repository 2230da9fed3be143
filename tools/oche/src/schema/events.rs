//! The schema of the lines of `oche trace text --json`, from the table of events.

use oche_types::event::Kind;
use serde_json::{Map, Value, json};

use crate::trace::event_fields::{CLASSES, EventClass, FieldType};

/// The schema of a line.
pub(super) fn schema() -> Value {
    let gap = |name: &str, about: &str| {
        object(name, about, [("cpu", number("The CPU")), ("records", number("How many"))], [])
    };
    let mut lines = vec![
        session(),
        gap("lost", "Events that a CPU overwrote before they were read."),
        gap("unreadable", "Events that damage of the file took."),
    ];
    lines.extend(CLASSES.iter().map(event));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "oneOf": lines,
    })
}

fn session() -> Value {
    let list = |fields: Vec<(&str, Value)>| {
        let required: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        let properties: Map<String, Value> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let item = json!({"type": "object", "properties": properties, "required": required});
        json!({"type": "array", "items": item})
    };
    let darts = list(vec![
        ("dart", number("Its number")),
        ("name", text("Its name")),
        ("registers", hex("Guest-physical address of its registers")),
    ]);
    let devices = list(vec![
        ("name", text("Its name")),
        ("dart", number("The DART in front of it")),
        ("stream", number("Its stream there")),
        ("requester", hex("Its requester id")),
    ]);
    object(
        "session",
        "A boot of Oche begins.",
        [
            ("board", text("The board")),
            ("release", text("Oche's version, commit and build")),
            ("counter_hz", number("Ticks a second")),
            ("darts", darts),
            ("devices", devices),
        ],
        [],
    )
}

fn event(class: &EventClass) -> Value {
    let mut required = vec![
        ("time_ns", number("Nanoseconds since Oche's start")),
        ("ticks", number("The counter")),
        ("cpu", number("The CPU")),
        ("event", json!({"const": class.name})),
        ("seq", number("The event's number on its CPU")),
    ];
    required.extend(class.fields.iter().map(|(name, of)| (*name, field(*of))));
    let mut optional = vec![
        ("dart", number("The DART")),
        ("stream", number("The stream")),
        ("device", text("The device, where it is known")),
        ("pc", hex("The guest's instruction that caused it")),
        ("code_name", text("The function that it is in, where symbols are known")),
    ];
    match class.kind {
        Some(Kind::Callers) => required.push(("chain", text("Return addresses, innermost first"))),
        Some(Kind::Watch | Kind::RedZone) => {
            optional.push(("value", text("The bytes, as numbers")))
        }
        _ => {}
    }
    object("event", class.about.trim(), required, optional)
}

fn field(of: FieldType) -> Value {
    match of {
        FieldType::Hex | FieldType::Range => hex(""),
        FieldType::Number => number(""),
        FieldType::Word => text(""),
        FieldType::HexOrNone => json!({"type": "string", "pattern": "^(0x[0-9a-f]+|none)$"}),
        FieldType::Bytes => json!({"type": "string", "pattern": "^[0-9a-f]{32}$"}),
    }
}

/// An object of `type` `name`.
fn object<'a>(
    name: &str,
    about: &str,
    required: impl IntoIterator<Item = (&'a str, Value)>,
    optional: impl IntoIterator<Item = (&'a str, Value)>,
) -> Value {
    let mut names = vec!["type".to_owned()];
    let mut properties = Map::from_iter([("type".to_owned(), json!({"const": name}))]);
    for (name, value) in required {
        names.push(name.to_owned());
        properties.insert(name.to_owned(), value);
    }
    properties.extend(optional.into_iter().map(|(name, value)| (name.to_owned(), value)));
    json!({"type": "object", "description": about, "properties": properties, "required": names})
}

fn number(about: &str) -> Value {
    described(json!({"type": "integer", "minimum": 0}), about)
}

fn text(about: &str) -> Value {
    described(json!({"type": "string"}), about)
}

fn hex(about: &str) -> Value {
    described(json!({"type": "string", "pattern": "^0x[0-9a-f]+$"}), about)
}

fn described(mut schema: Value, about: &str) -> Value {
    if !about.is_empty() {
        schema["description"] = about.into();
    }
    schema
}
