//! JSON Schemas (draft 2020-12) of what each `--json` prints, made from the very types that are
//! printed. docs/schema has a copy of each.

use std::io::Write;

use anyhow::{Result, bail};
use clap::Args;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::output::to_standard_output;

mod events;

/// The address that names a schema. Nothing is fetched from it.
const PLACE: &str = "urn:oche:schema:";

/// A schema: its name, the command whose output it describes, and what makes it.
type Entry = (&'static str, &'static str, fn() -> Value);

/// All of them.
pub const SCHEMAS: [Entry; 16] = [
    ("text", "oche trace text --json, each line", events::schema),
    ("stats", "oche trace stats --json", of::<Vec<crate::trace::summary::TraceSummary>>),
    ("why", "oche trace why --json", of::<crate::trace::why::Answer>),
    ("maps", "oche trace maps --json", of::<crate::trace::maps::Maps>),
    ("leaks", "oche trace leaks --json", of::<crate::trace::leaks::Leaks>),
    ("check", "oche trace check --json", of::<Vec<crate::trace::check::CheckReport>>),
    (
        "inspect-image",
        "oche inspect --json of a packed image",
        of::<crate::inspect::command::ImageAnswer<'_>>,
    ),
    (
        "inspect-boot-file",
        "oche inspect --json of a boot.bin",
        of::<crate::inspect::command::BootFileAnswer<'_>>,
    ),
    ("check-kernel", "oche check-kernel --json", of::<crate::kernel_check::text::KernelAnswer<'_>>),
    ("install", "oche install --json", of::<crate::install::command::Installed<'_>>),
    ("install-plan", "oche install --dry-run --json", of::<crate::install::command::Planned<'_>>),
    ("status", "oche status --json", of::<crate::install::status::Status>),
    ("uninstall", "oche uninstall --json", of::<crate::install::remove::Removal>),
    (
        "uninstall-plan",
        "oche uninstall --dry-run --json",
        of::<crate::install::command::PlannedRemoval<'_>>,
    ),
    ("probe", "oche probe --decode --json", of::<crate::probe::answers::Answers>),
    (
        "decode-panic",
        "oche decode-panic --json",
        of::<crate::decode_panic::command::PanicAnswer<'_>>,
    ),
];

/// Print the JSON Schema of what a command's --json prints.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  oche schema                    lists the schemas
  oche schema check > check.json
  oche trace check boot.oche --json | python3 -c 'import json, jsonschema, sys; jsonschema.validate(
      json.load(sys.stdin), json.load(open(\"check.json\")))'

The schemas are of draft 2020-12. Fields may be added in later versions, so further ones are allowed; none changes its
meaning. A release has them in docs/schema.")]
pub struct SchemaArguments {
    /// The schema [default: list them]
    name: Option<String>,
}

impl SchemaArguments {
    /// Prints the schema, or the list.
    ///
    /// # Errors
    ///
    /// There is none of this name.
    pub fn run(&self) -> Result<()> {
        let Some(name) = &self.name else {
            return to_standard_output(|out| {
                SCHEMAS.iter().try_for_each(|(name, of, _)| writeln!(out, "{name:<18} {of}"))
            });
        };
        let Some(text) = text(name) else {
            let names: Vec<&str> = SCHEMAS.iter().map(|(name, ..)| *name).collect();
            bail!("there is no schema {name}; there are {}", names.join(", "));
        };
        to_standard_output(|out| out.write_all(text.as_bytes()))
    }
}

/// The schema of this name, as text.
pub fn text(name: &str) -> Option<String> {
    schema(name).map(|schema| format!("{schema:#}\n"))
}

/// The schema of this name.
pub fn schema(name: &str) -> Option<Value> {
    let (name, of, make) = SCHEMAS.iter().find(|(own, ..)| *own == name)?;
    let mut schema = make();
    schema["$id"] = format!("{PLACE}{name}").into();
    schema["title"] = format!("Output of {of}").into();
    Some(schema)
}

/// The schema of this name, for tests: it refuses fields that it does not describe, so that none is
/// printed without a description.
pub fn strict(name: &str) -> Option<Value> {
    let mut schema = schema(name)?;
    let mut merged = Vec::new();
    find_merged(&schema, &mut merged);
    refuse_more(&mut schema, &merged);
    Some(schema)
}

/// The definitions that are part of larger objects, which see to further fields themselves.
fn find_merged(value: &Value, merged: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            if let (Some(Value::String(name)), true) =
                (object.get("$ref"), object.contains_key("properties"))
            {
                merged.extend(name.rsplit('/').next().map(str::to_owned));
            }
            object.values().for_each(|value| find_merged(value, merged));
        }
        Value::Array(list) => list.iter().for_each(|value| find_merged(value, merged)),
        _ => {}
    }
}

fn refuse_more(value: &mut Value, merged: &[String]) {
    match value {
        Value::Object(object) => {
            let has_properties = object.get("properties").is_some_and(Value::is_object);
            if has_properties && !object.contains_key("additionalProperties") {
                object.insert("unevaluatedProperties".to_owned(), Value::Bool(false));
            }
            for (name, value) in object.iter_mut() {
                refuse_more(value, merged);
                if merged.contains(name)
                    && let Some(definition) = value.as_object_mut()
                {
                    definition.remove("unevaluatedProperties");
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| refuse_more(value, merged)),
        _ => {}
    }
}

/// The schema of a type, as it is printed.
fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    Value::from(settings.into_generator().into_root_schema_for::<T>())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Panics unless `value` is as the schema of this name says, field by field.
    pub(crate) fn check(name: &str, value: &Value) {
        let validator = jsonschema::draft202012::new(&strict(name).unwrap()).unwrap();
        if let Some(error) = validator.iter_errors(value).next() {
            panic!("{name}: {error} at {}: {value:#}", error.instance_path());
        }
    }
}
