//! The programs of `tests/corpus` pass, those that found a fault of the engine in both modes.

use oche_differential::corpus::CorpusProgram;
use oche_differential::program::{Mode, Program};
use oche_differential::run_program;
use std::path::Path;

#[global_allocator]
static ALLOCATOR: oche_sim::allocations::Counting = oche_sim::allocations::Counting;

/// What is wrong with the program in the file `path`.
fn failure(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).expect("a file that can be read");
    let program = match CorpusProgram::parse(&text) {
        Ok(program) => program,
        Err(error) => return Some(format!("not a program: {error}")),
    };
    if program.why.trim().is_empty() {
        return Some("no reason in `why`".to_owned());
    }
    let is_about_the_engine = program.why.starts_with("Engine");
    let Program { setting, steps } = program.into_program();
    [Mode::Quiescent, Mode::Concurrent].into_iter().find_map(|mode| {
        if mode != setting.mode && !is_about_the_engine {
            return None;
        }
        let mut program = Program { setting, steps: steps.clone() };
        program.setting.mode = mode;
        let difference = run_program(&program).err()?;
        Some(format!("{mode:?}, after {} operations: {}", difference.step + 1, difference.what))
    })
}

#[test]
fn every_program_of_the_corpus_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    let entries = std::fs::read_dir(&folder).expect("the corpus");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    assert!(paths.len() >= 19, "the corpus has {} programs", paths.len());
    let failures: Vec<_> = paths
        .iter()
        .filter_map(|path| failure(path).map(|what| format!("{}: {what}", path.display())))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
