use std::fs;

use super::{CompiledRow, Profile, Row, Sums};
use crate::measure::profile::counts::Counts;
use crate::measure::profile::symbols::{Place, Symbols};

const NOP: u32 = 0xd503_201f;
const BL_TO_NEXT_BUT_ONE: u32 = 0x9400_0002;
const B_TO_NEXT: u32 = 0x1400_0001;

fn profile(operations: f64, counts: &Counts, symbols: &Symbols<'_>) -> Profile {
    Profile::new(("case", "an operation"), operations, counts, symbols).unwrap()
}

#[test]
fn each_tables_sum_is_what_was_counted() {
    let elf = fs::read(std::env::current_exe().unwrap()).unwrap();
    let symbols = Symbols::read(&elf).unwrap();
    let start = symbols.start_of("each_tables_sum_is_what_was_counted") as usize / 4;
    // Each instruction from there on once more often than the one before.
    let counts: Vec<u64> =
        (0..start + 400).map(|place| place.saturating_sub(start) as u64).collect();
    let profile = profile(10.0, &counts.into(), &symbols);
    assert!((profile.instructions - 7980.0).abs() < 1e-6, "{}", profile.instructions);
    let own: Vec<Row> = profile
        .compiled
        .iter()
        .map(|row| Row { name: row.name.clone(), instructions: row.instructions })
        .collect();
    let tables = [&profile.crates, &profile.files, &profile.functions, &profile.innermost];
    for table in tables.into_iter().chain([&profile.lines, &own]) {
        let sum: f64 = table.iter().map(|row| row.instructions).sum();
        assert!((sum - profile.instructions).abs() < 1e-6, "{sum}: {table:?}");
        assert!(table.is_sorted_by(|one, other| one.instructions >= other.instructions));
    }
    let file = file!().to_owned();
    assert!(profile.files.iter().any(|row| row.name == file), "{:?}", profile.files);
}

#[test]
fn code_that_is_inlined_from_a_library_counts_to_the_function_that_uses_it() {
    let place = |function: &str, file: &str, line, is_own| Place {
        function: function.to_owned(),
        file: file.to_owned(),
        line,
        is_own,
    };
    let places = [
        place("read", "library/core/src/ptr/mod.rs", 9, false),
        place("load", "hyp/engine/src/host.rs", 5, true),
        place("compare", "hyp/engine/src/tracker.rs", 7, true),
    ];
    let mut sums = Sums::default();
    sums.add(&places, 3);
    // Nothing of it is Oche's.
    sums.add(&places[..1], 2);
    let of = |rows: &[(&str, u64)]| rows.iter().map(|(name, sum)| ((*name).into(), *sum)).collect();
    assert_eq!(sums.crates, of(&[("hyp/engine", 3), ("library/core", 2)]));
    let read = "read (library/core/src/ptr/mod.rs)";
    assert_eq!(sums.functions, of(&[("load (hyp/engine/src/host.rs)", 3), (read, 2)]));
    assert_eq!(sums.innermost, of(&[(read, 5)]));
    let lines = [("hyp/engine/src/host.rs:5 load", 3), ("library/core/src/ptr/mod.rs:9 read", 2)];
    assert_eq!(sums.lines, of(&lines));
}

#[test]
fn calls_and_what_is_called_are_counted() {
    // `caller` executes 2 instructions and calls `callee`, 3 instructions, which ends in `last`.
    let words = [BL_TO_NEXT_BUT_ONE, NOP, NOP, NOP, B_TO_NEXT, NOP];
    let code: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    let functions = [(0, "caller"), (8, "callee"), (20, "last")];
    let symbols = Symbols::of_code(&functions, &code);
    let counts = vec![4, 4, 6, 6, 6, 6].into();
    let profile = profile(2.0, &counts, &symbols);
    let row = |name: &str| profile.compiled.iter().find(|row| row.name == name).unwrap().clone();
    let expected = |name: &str, instructions, calls, with_callees| CompiledRow {
        name: name.to_owned(),
        instructions,
        calls,
        with_callees,
    };
    assert_eq!(row("last"), expected("last", 3.0, 3.0, 3.0));
    assert_eq!(row("callee"), expected("callee", 9.0, 3.0, 12.0));
    // Two of the three calls an operation are the caller's.
    assert_eq!(row("caller"), expected("caller", 4.0, 2.0, 12.0));
    assert_eq!(profile.crates, [Row { name: "assembly".to_owned(), instructions: 16.0 }]);
}
