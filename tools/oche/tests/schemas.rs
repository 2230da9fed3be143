//! What commands print as JSON, against the schemas that `oche schema` prints: nothing that is
//! printed is unknown to the schema, and nothing that it requires is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jsonschema::Validator;
use oche::schema::{SCHEMAS, schema, strict, text};
use oche::trace::made::{with_every_error, with_losses};
use serde_json::{Value, json};

fn validator(name: &str) -> Validator {
    let strict = strict(name).expect("a schema of this name");
    jsonschema::draft202012::new(&strict).expect("a schema of draft 2020-12")
}

fn printed(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oche"));
    let ran = command.args(arguments).stdin(Stdio::null()).output().expect("oche runs");
    let error = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_ne!(ran.status.code(), Some(2), "{arguments:?}: {error}");
    String::from_utf8(ran.stdout).expect("UTF-8")
}

fn check(name: &str, value: &Value) {
    if let Some(error) = validator(name).iter_errors(value).next() {
        panic!("{name}: {error} at {}: {value:#}", error.instance_path());
    }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).expect("written");
    path
}

#[test]
fn every_view_of_a_trace_prints_what_its_schema_says() {
    let folder = tempfile::tempdir().expect("a folder");
    for bytes in [with_every_error().bytes(), with_losses().bytes()] {
        let path = write(folder.path(), "trace.oche", &bytes);
        let path = path.to_str().expect("UTF-8");
        let json = |view: &[&str]| -> Value {
            let printed = printed(&[&["trace"], view, &[path, "--json"]].concat());
            serde_json::from_str(&printed).expect("JSON")
        };
        check("stats", &json(&["stats"]));
        check("maps", &json(&["maps"]));
        check("leaks", &json(&["leaks"]));
        check("check", &json(&["check", "--hints"]));
        check("why", &json(&["why", "--iova", "0xffe00040"]));
        let lines = validator("text");
        let mut kinds = std::collections::BTreeSet::new();
        for line in printed(&["trace", "text", "--all", "--json", path]).lines() {
            let value: Value = serde_json::from_str(line).expect("JSON");
            kinds.insert(value["type"].to_string());
            assert!(lines.is_valid(&value), "{line}");
        }
        assert!(kinds.len() >= 2, "{kinds:?}");
    }
}

#[test]
fn a_field_that_is_not_described_and_one_that_is_missing_are_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = write(folder.path(), "trace.oche", &with_every_error().bytes());
    let path = path.to_str().expect("UTF-8");
    let leaks: Value =
        serde_json::from_str(&printed(&["trace", "leaks", "--json", path])).expect("JSON");
    let strict = validator("leaks");
    assert!(strict.is_valid(&leaks));
    let mut more = leaks.clone();
    more["groups"][0]["suspects"][0]["new"] = json!(1);
    assert!(!strict.is_valid(&more), "an unknown field");
    // As users have it, fields may be added.
    let own = jsonschema::draft202012::new(&schema("leaks").expect("a schema")).expect("a schema");
    assert!(own.is_valid(&more));
    let mut less = leaks;
    less["groups"][0].as_object_mut().expect("an object").remove("median_ns");
    assert!(!own.is_valid(&less) && !strict.is_valid(&less), "a missing field");
}

#[test]
fn the_copies_in_the_documents_are_the_schemas_of_this_program() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema");
    let mut files: Vec<String> = fs::read_dir(&folder)
        .expect("docs/schema")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    files.sort();
    let mut names: Vec<String> = SCHEMAS.iter().map(|(name, ..)| format!("{name}.json")).collect();
    names.sort();
    assert_eq!(files, names);
    for (name, ..) in SCHEMAS {
        assert_eq!(printed(&["schema", name]), text(name).expect("a schema"));
        let copy = fs::read_to_string(folder.join(format!("{name}.json"))).expect("a copy");
        let remedy = format!("run `oche schema {name} > docs/schema/{name}.json`");
        assert!(copy == text(name).expect("a schema"), "{remedy}");
        jsonschema::draft202012::meta::validate(&schema(name).expect("one")).expect(name);
    }
    assert_eq!(printed(&["schema"]).lines().count(), SCHEMAS.len());
}
