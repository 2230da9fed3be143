//! The names that are read out of a guest's memory, against those that the guest itself gives.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use oche::trace::guest_kernel::{self, RamFile};
use oche::trace::names::Function;

use crate::qemu::RAM_BASE;

/// Names that a message gives of those that differ.
const SHOWN: usize = 5;

/// Compares every function in the RAM file `ram` with the copy of /proc/kallsyms `kallsyms`.
///
/// # Errors
///
/// One differs in name, address or module; or the memory cannot be read.
pub(super) fn compare(ram: &Path, kallsyms: &str) -> Result<String> {
    let file = File::open(ram).with_context(|| format!("cannot open {}", ram.display()))?;
    let read = guest_kernel::read(&RamFile::new(&file, RAM_BASE)?)?;
    ensure!(read.missing.is_empty(), "not all is known: {}", read.missing.join("; "));
    let said: BTreeSet<Function> = kallsyms.lines().filter_map(parse).collect();
    let found: BTreeSet<Function> = read.functions.into_iter().collect();
    let lacking: Vec<_> = said.difference(&found).collect();
    let wrong: Vec<_> = found.difference(&said).collect();
    ensure!(
        lacking.is_empty() && wrong.is_empty(),
        "of the {} functions that the guest names, {} are not read from its memory, such as {:x?}, \
         and {} are read that it does not name, such as {:x?}",
        said.len(),
        lacking.len(),
        lacking.iter().take(SHOWN).collect::<Vec<_>>(),
        wrong.len(),
        wrong.iter().take(SHOWN).collect::<Vec<_>>()
    );
    let modules: BTreeSet<&String> =
        found.iter().filter_map(|function| function.module.as_ref()).collect();
    ensure!(!modules.is_empty(), "the guest has modules, and none of its functions is theirs");
    Ok(format!("{} functions of the kernel and {} modules", found.len(), modules.len()))
}

/// A function in a line such as `ffff... t apple_dart_probe\t[apple_dart]`.
fn parse(line: &str) -> Option<Function> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let is_code = matches!(words.next()?, "t" | "T" | "w" | "W");
    let name = words.next()?.to_owned();
    let module = words.next().map(|word| word.trim_matches(['[', ']']).to_owned());
    // `$x` marks code for disassemblers. Programs of BPF are no module's.
    let is_named = is_code && !name.starts_with('$') && module.as_deref() != Some("bpf");
    is_named.then_some(Function { address, name, module })
}
