//! Names and phrases that were retired in favour of the field's terms do not come back.

use std::path::Path;

use oche::workspace;

/// Identifiers, compared as whole words in Rust, shell, Lua and Python files and in documents, each
/// with the name that replaced it.
const IDENTIFIERS: &[(&str, &str)] = &[
    ("StrictWorld", "SimulatedMachine"),
    ("SpaceId", "DomainId"),
    ("PlacedSpace", "PlacedDomain"),
    ("CpuReach", "AccessKind"),
    ("NotGuardable", "NotTrappable"),
    ("Unwatched", "RejectedTable"),
    ("PageRecord", "PageState"),
    ("NO_CHAPTER", "NO_BLOCK"),
    ("Departure", "UnmapOp"),
    ("misfits", "to_migrate"),
    ("send_leaving", "return_home"),
    ("mark_leaving", "mark_vacated"),
    ("refuse_strangers", "refuse_non_ram"),
    ("refuse_departed", "refuse_unmapped"),
    ("QUIET_SYNCS", "IDLE_FLUSHES"),
    ("set_closed", "set_write_protected"),
    ("is_replica", "is_bounce"),
    ("bytes_composed", "bytes_migrated"),
    ("bytes_replica", "bytes_bounce"),
    ("begin_base", "create_twin"),
    ("drop_unneeded_base", "drop_unneeded_twin"),
    ("merge_words", "propagate"),
    ("bring_forward", "apply_diff"),
    ("guard_loads", "trap_loads"),
    ("load_guarded", "load_trapped"),
    ("store_guarded", "store_trapped"),
    ("open_guarded", "open_trapped"),
    ("settle_guarded", "close_trapped"),
    ("guarded_accesses", "trapped_accesses"),
    ("hold_all", "pin_all"),
    ("release_all", "unpin_all"),
    ("table_opens", "table_unsyncs"),
    ("table_closes", "table_write_protects"),
    ("exits_watched_page", "exits_trapped_page"),
    ("refused_spaces_full", "refused_domains_full"),
    ("set_end", "set_panic_action"),
    ("tell_watched", "report_watched"),
    ("Sabotage", "FaultInjection"),
    ("is_sabotaged", "injects"),
    ("is_vandalised", "is_hostile"),
    ("Mediation", "EmulatedDarts"),
    ("VirtualDart", "EmulatedDart"),
    ("vdart", "emulated_dart"),
    ("InMotion", "Broken"),
    ("make_page", "remap_page"),
    ("flush_broken", "flush_tlb"),
    ("settle_trapped", "close_trapped"),
    ("settle_split", "complete_split"),
    ("idle_syncs", "idle_flushes"),
    ("needs_sync", "needs_flush"),
    ("has_followed", "has_flush_merged"),
    ("put_aside", "quarantine"),
    ("most_aliases", "max_aliases"),
    ("is_negatively_cached", "caches_invalid_entries"),
    ("look_again", "update_mapped_pages"),
    ("go_on_watching", "continue_watch_pass"),
];

/// Phrases, compared without regard to case, each with the field's term.
const PHRASES: &[(&str, &str)] = &[
    ("guarded page", "trapped page"),
    ("guarded access", "trapped access"),
    ("composed frame", "frame of the pool"),
    ("composed granule", "relocated granule"),
    ("placement=composed", "placement=migrated"),
    ("placement=replica", "placement=bounce"),
    ("too-many-spaces", "too-many-domains"),
    ("not-guardable", "not-trappable"),
    ("strict world", "simulated machine"),
    ("in motion", "broken"),
    ("followed page", "flush-merged page"),
    ("virtual dart", "emulated DART"),
    ("behind no dart", "untranslated bus master"),
    ("strict machine", "simulated machine"),
    ("by way of el2", "through EL2, virtual FIQ injection"),
    ("calls between cpus", "IPIs"),
    ("call between cpus", "IPI"),
];

/// The retired prefix of upper bounds, now `MAX_`.
const BOUND: &str = "MOST_";

/// The file that lists them.
const THIS: &str = "retired.rs";

fn is_part_of_a_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}

/// Whether `word` stands in `text` by itself.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text.get(..at).and_then(|text| text.chars().next_back());
        let after = text.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(is_part_of_a_word) && !after.is_some_and(is_part_of_a_word)
    })
}

/// The retired name or phrase in `line`, with its replacement.
fn retired(line: &str) -> Option<String> {
    let identifier = IDENTIFIERS.iter().find(|(old, _)| has_word(line, old));
    if let Some((old, new)) = identifier {
        return Some(format!("`{old}` is now `{new}`"));
    }
    let lower = line.to_lowercase();
    if let Some((old, new)) = PHRASES.iter().find(|(old, _)| lower.contains(old)) {
        return Some(format!("\"{old}\": the field's term is \"{new}\""));
    }
    let mut words = line.split(|character| !is_part_of_a_word(character));
    words
        .find(|word| word.starts_with(BOUND))
        .map(|word| format!("`{word}`: upper bounds begin with `MAX_`"))
}

/// The retired names in the files under `folder`, each with its place.
fn look(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                look(&path, found);
            }
            continue;
        }
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        let is_read = matches!(&*extension, "rs" | "md" | "txt" | "sh" | "lua" | "py" | "html");
        if !is_read || name == THIS || name == "CHANGELOG.md" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(what) = retired(line) {
                found.push(format!("{}:{number}: {what}", path.display()));
            }
        }
    }
}

#[test]
fn no_retired_name_comes_back() {
    let mut found = Vec::new();
    look(&workspace::root(), &mut found);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_retired_name_is_found_as_a_word_and_not_inside_another() {
    for line in [
        "use oche_engine::host::SpaceId;",
        "the engine's `is_replica`",
        "const MOST_CPUS: usize = 8;",
        "/// A Guarded page.",
        "placement=composed dart=1",
    ] {
        assert!(retired(line).is_some(), "{line}");
    }
    for line in [
        "struct MySpaceIds;",
        "ALMOST_EMPTY",
        "const MAX_CPUS: usize = 8;",
        "most_tables",
        "a trapped page",
    ] {
        assert_eq!(retired(line), None, "{line}");
    }
}

#[test]
fn a_file_with_a_retired_name_is_named_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("src")).unwrap();
    std::fs::write(folder.path().join("src/a.rs"), "//! One.\nfn set_end() {}\n").unwrap();
    std::fs::write(folder.path().join("picture.bin"), "set_end").unwrap();
    let mut found = Vec::new();
    look(folder.path(), &mut found);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].ends_with("a.rs:2: `set_end` is now `set_panic_action`"), "{found:?}");
}
