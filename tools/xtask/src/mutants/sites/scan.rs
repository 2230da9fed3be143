//! Finds every call site of a barrier, a TLB or cache operation, a power check, a permission
//! re-check, an `MDCR_EL2` bit and an access with a fixup, in the source of Oche.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Where Oche's own code is.
const FOLDERS: [&str; 5] =
    ["hyp/el2/src", "boot/src", "platform/m1/src", "platform/qemu-virt/src", "platform/common/src"];
/// Instructions that are sites by their mnemonic.
const INSTRUCTIONS: [&str; 6] = ["dsb", "dmb", "isb", "tlbi", "sev", "wfe"];
/// The same by mnemonic and operation.
const OPERATIONS: [(&str, &[&str]); 2] =
    [("dc", &["civac", "cvac", "cvau", "ivac", "zva"]), ("ic", &["iallu", "ialluis", "ivau"])];
/// Calls in assembly that are sites.
const ASSEMBLY_CALLS: [&str; 1] = ["oche_clean_image"];
/// Functions whose calls are sites: with what stands in front of the name, where that matters.
const CALLS: [(&str, &str); 28] = [
    (".", "barrier"),
    ("barrier::", "complete"),
    (".", "invalidate_all"),
    (".", "invalidate_page"),
    (".", "finish_invalidation"),
    (".", "order_stores"),
    (".", "publish_stores"),
    (".", "order_loads"),
    (".", "complete_stores"),
    (".", "leave_view"),
    (".", "clean_line"),
    (".", "drop_instructions"),
    ("", "synchronize_context"),
    ("", "synchronize_instructions"),
    ("", "clean_and_invalidate"),
    ("", "fence"),
    ("", "dsb"),
    ("", "dmb"),
    ("", "isb"),
    (".", "power"),
    (".", "settled_power"),
    ("Power::", "from_register"),
    ("Power::", "of_all"),
    ("", "recheck_translation"),
    ("mmio::", "read"),
    ("mmio::", "write"),
    ("mmio::", "fix_up"),
    (".", "invalidate"),
];
/// Those of them that return whether something has power, and what they return where it has.
const POWER: [&str; 4] = ["power", "settled_power", "from_register", "of_all"];
const POWER_ON: &str = "Power::On";
/// A call of `invalidate` is a site where this is its argument; others are of IOMMUs.
const TRANSLATIONS: &str = "Translations::";
/// Names that begin so are bits of `MDCR_EL2`.
const DEBUG_BITS: &str = "MDCR_";
/// The register itself is none.
const DEBUG_REGISTER: &str = "MDCR_EL2";

/// How a site is taken away where its verdict names nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An instruction of assembly: `nop` stands there instead.
    Instruction,
    /// A statement: it is deleted.
    Statement,
    /// An expression whose verdict must name what stands there instead.
    Expression,
    /// A question whether something is on: it always is.
    Power,
    /// A bit: 0.
    Bit,
    /// An access with a fixup: one without.
    Fixup,
}

/// One site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    /// The file, from the top of the tree.
    pub(super) file: String,
    /// The function, or the label or macro of assembly, that it is in.
    pub(super) function: String,
    /// What stands there, with `#2` and so on behind the second of the same in one function.
    pub(super) text: String,
    pub(super) kind: Kind,
    /// Where it stands in the file: bytes.
    start: usize,
    end: usize,
}

impl Site {
    /// What identifies it.
    pub(super) fn key(&self) -> (&str, &str, &str) {
        (&self.file, &self.function, &self.text)
    }

    /// The file's source without the site, or with `replacement` in its place.
    ///
    /// # Errors
    ///
    /// It is an expression, and nothing is to stand there instead.
    pub(super) fn removed(&self, source: &str, replacement: Option<&str>) -> Result<String> {
        let original = source.get(self.start..self.end).context("the file has changed")?;
        let instead = match (replacement, self.kind) {
            (Some(replacement), _) => replacement.to_owned(),
            // The operands of inline assembly stay named, in a comment of the assembler's.
            (None, Kind::Instruction) => format!("nop // {}", original.replace("//", "")),
            (None, Kind::Statement) => String::new(),
            (None, Kind::Power) => POWER_ON.to_owned(),
            (None, Kind::Bit) => "0".to_owned(),
            (None, Kind::Fixup) => {
                without_fixup(original).context("the access is not understood")?
            }
            (None, Kind::Expression) => {
                bail!(
                    "{}: {}: its verdict must name what stands there instead",
                    self.file,
                    self.text
                )
            }
        };
        let (before, after) = (source.get(..self.start), source.get(self.end..));
        Ok(format!("{}{instead}{}", before.unwrap_or_default(), after.unwrap_or_default()))
    }
}

/// `mmio::read32(address)` or `mmio::write64(address, value)` without its fixup.
fn without_fixup(original: &str) -> Option<String> {
    let (name, arguments) = original.split_once('(')?;
    let arguments = arguments.strip_suffix(')')?;
    let bits = name.rsplit(|letter: char| !letter.is_ascii_digit()).next()?;
    Some(if name.contains("write") {
        let (address, value) = arguments.split_once(',')?;
        format!(
            "Ok::<(), mmio::BusError>(core::ptr::write_volatile(({address}) as *mut u{bits}, {value}))"
        )
    } else {
        format!(
            "Ok::<u{bits}, mmio::BusError>(core::ptr::read_volatile(({arguments}) as *const u{bits}))"
        )
    })
}

/// All sites of the tree at `root`, by file.
///
/// # Errors
///
/// A file cannot be read.
pub(super) fn sites(root: &Path) -> Result<Vec<Site>> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort();
    let mut all = Vec::new();
    for path in files {
        let source =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        all.extend(scan(&file, &source));
    }
    Ok(all)
}

fn collect(folder: &Path, files: &mut Vec<std::path::PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            collect(&path, files)?;
        } else if path.is_file() && name.ends_with(".rs") && name != "tests.rs" {
            files.push(path);
        }
    }
    Ok(())
}

/// What only tests compile: an item behind `#[cfg(test)]`, which ends with its first line or where
/// a brace closes in the first column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Test {
    None,
    Begins,
    Inside,
}

/// The sites of one file.
pub(super) fn scan(file: &str, source: &str) -> Vec<Site> {
    let mut sites = Vec::new();
    let mut counts: HashMap<(String, String), usize> = HashMap::new();
    let (mut function, mut is_assembly, mut test) = ("-".to_owned(), false, Test::None);
    let mut offset = 0;
    for line in source.split_inclusive('\n') {
        let start = offset;
        offset += line.len();
        let code = without_comment(line);
        let trimmed = code.trim();
        if trimmed == "#[cfg(test)]" {
            test = Test::Begins;
        } else if test != Test::None {
            let is_over = line.starts_with('}') || test == Test::Begins && trimmed.ends_with(';');
            test = if is_over { Test::None } else { Test::Inside };
        } else {
            is_assembly |= trimmed.contains("global_asm!(");
            if let Some(name) = name_of(trimmed, is_assembly) {
                function = name;
            }
            for (from, to, kind) in in_line(code, is_assembly) {
                let text = code.get(from..to).unwrap_or_default();
                let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
                let count = counts.entry((function.clone(), text.clone())).or_default();
                *count += 1;
                let text = if *count == 1 { text } else { format!("{text} #{count}") };
                let (file, function) = (file.to_owned(), function.clone());
                sites.push(Site {
                    file,
                    function,
                    text,
                    kind,
                    start: start + from,
                    end: start + to,
                });
            }
            is_assembly &= !line.starts_with(");");
        }
    }
    sites
}

/// The line without what is behind `//`, in Rust and in assembly alike.
fn without_comment(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

/// The function, label or macro that begins in this line.
fn name_of(line: &str, is_assembly: bool) -> Option<String> {
    let word = |text: &str| -> String {
        text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
    };
    if is_assembly {
        let label = line
            .strip_suffix(':')
            .filter(|name| !name.starts_with(|first: char| first.is_numeric()));
        let name = line.strip_prefix(".macro ").or(label).map(word);
        return name.filter(|name| !name.is_empty());
    }
    let at = words(line, "fn").next()?;
    Some(word(line.get(at + 3..)?)).filter(|name| !name.is_empty())
}

/// Where `word` stands alone in `line`.
fn words<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    line.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = line.get(..*at).and_then(|text| text.chars().next_back());
        let after = line.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// The sites of a line: where each begins and ends, in order.
fn in_line(line: &str, is_assembly: bool) -> Vec<(usize, usize, Kind)> {
    let mut found = Vec::new();
    let mnemonics = INSTRUCTIONS.iter().chain(OPERATIONS.iter().map(|(mnemonic, _)| mnemonic));
    for mnemonic in mnemonics {
        for at in words(line, mnemonic) {
            found.extend(
                instruction(line, at, mnemonic, is_assembly)
                    .map(|end| (at, end, Kind::Instruction)),
            );
        }
    }
    if is_assembly {
        for name in ASSEMBLY_CALLS {
            for at in words(line, name) {
                let start = line.get(..at).and_then(|before| before.rfind("bl "));
                found.extend(start.map(|start| (start, at + name.len(), Kind::Instruction)));
            }
        }
        return sorted(found);
    }
    for (before, name) in CALLS {
        let names = if before == "mmio::" { mmio_names(line, name) } else { vec![name] };
        for at in names.iter().flat_map(|name| words(line, name)) {
            found.extend(call(line, at, before, name));
        }
    }
    if !line.trim_start().trim_start_matches("pub(super) ").starts_with("const ") {
        for (at, _) in line.match_indices(DEBUG_BITS) {
            let rest = line.get(at..).unwrap_or_default();
            let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
            let end = end.unwrap_or(rest.len());
            if rest.get(..end) != Some(DEBUG_REGISTER) {
                found.push((at, at + end, Kind::Bit));
            }
        }
    }
    sorted(found)
}

/// The names in `line` of the accesses with a fixup that begin with `name`, such as `read32`.
fn mmio_names<'a>(line: &'a str, name: &str) -> Vec<&'a str> {
    let starts = line.match_indices("mmio::").map(|(at, prefix)| at + prefix.len());
    let rest = starts.filter_map(|start| line.get(start..));
    rest.filter(|rest| rest.starts_with(name))
        .filter_map(|rest| rest.split(['(', ' ', ';', ',']).next())
        .collect()
}

fn sorted(mut found: Vec<(usize, usize, Kind)>) -> Vec<(usize, usize, Kind)> {
    found.sort_unstable_by_key(|(start, end, _)| (*start, *end));
    found.dedup_by_key(|(start, ..)| *start);
    found
}

/// Where the instruction at `at` ends, if it is one.
fn instruction(line: &str, at: usize, mnemonic: &str, is_assembly: bool) -> Option<usize> {
    let (before, rest) = (line.get(..at)?, line.get(at..)?);
    let is_in_string = before.matches('"').count() % 2 == 1;
    if !is_assembly && !is_in_string {
        return None;
    }
    // At the start of a line, of a string, or behind a local label.
    let lead = before.rsplit('"').next()?.trim();
    if !lead.is_empty() && !lead.ends_with(':') {
        return None;
    }
    let end = if is_in_string { rest.find('"')? } else { rest.trim_end().len() };
    let mut parts = rest.get(..end)?.split_whitespace().skip(1);
    if let Some((_, operations)) = OPERATIONS.iter().find(|(known, _)| *known == mnemonic) {
        let operation = parts.next()?.trim_end_matches(',');
        operations.contains(&operation).then_some(())?;
    }
    Some(at + rest.get(..end)?.trim_end().len())
}

/// The call of `name` at `at`, if it is one: its receiver too, and the whole statement where it is
/// one.
fn call(line: &str, at: usize, before: &str, name: &str) -> Option<(usize, usize, Kind)> {
    let lead = line.get(..at)?;
    if lead.trim_end().ends_with("fn") || !lead.ends_with(before) {
        return None;
    }
    let open = at + line.get(at..)?.find('(')?;
    if line.get(at..open)?.contains(|letter: char| !letter.is_alphanumeric() && letter != '_') {
        return None;
    }
    let close = open + closing(line.get(open..)?)?;
    if name == "invalidate" && !line.get(open..close)?.contains(TRANSLATIONS) {
        return None;
    }
    let is_path = |letter: char| letter.is_alphanumeric() || "_.:".contains(letter);
    let start = lead.char_indices().rev().find(|(_, letter)| !is_path(*letter));
    let start = start.map_or(0, |(index, letter)| index + letter.len_utf8());
    if POWER.contains(&name) {
        return Some((start, close, Kind::Power));
    }
    if before == "mmio::" && name != "fix_up" {
        return Some((start, close, Kind::Fixup));
    }
    let is_statement =
        line.get(..start)?.trim().is_empty() && line.get(close..)?.trim_start().starts_with(';');
    if is_statement {
        return Some((start, close + line.get(close..)?.find(';')? + 1, Kind::Statement));
    }
    Some((start, close, Kind::Expression))
}

/// One past the parenthesis that closes the one that `text` begins with.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    text.char_indices().find_map(|(index, letter)| {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(index + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::{Kind, scan};

    const SOURCE: &str = r##"
fn order(&self) {
    self.barrier(Barrier::Stores); // the dsb
    unsafe { asm!("dsb ish", "isb", options(nostack)) };
    unsafe { asm!("dc civac, {}", in(reg) line) };
    if self.hardware.power(dart) != Power::On {
        MDCR_EL2.set(aside.mdcr | MDCR_TDE);
    }
    self.iommu.invalidate(space, members)
    let value = mmio::read32(register);
    self.barrier(Barrier::Stores);
}
const MDCR_TDE: u64 = 1 << 8;
global_asm!(
    r#"
oche_head:
    tlbi    alle2                       // all
    bl      oche_clean_image
2:  dc      civac, x11
"#,
);
#[cfg(test)]
mod tests {
    use super::Power;
    fn one() { fence(Ordering::SeqCst); }
}
#[cfg(test)]
use core::cell::Cell;
fn after() {
    fence(Ordering::SeqCst);
}
"##;

    #[test]
    fn each_site_is_found_once_with_its_function() {
        let found = scan("a.rs", SOURCE);
        let found: Vec<_> = found
            .iter()
            .map(|site| (site.function.as_str(), site.text.as_str(), site.kind))
            .collect();
        assert_eq!(
            found,
            [
                ("order", "self.barrier(Barrier::Stores);", Kind::Statement),
                ("order", "dsb ish", Kind::Instruction),
                ("order", "isb", Kind::Instruction),
                ("order", "dc civac, {}", Kind::Instruction),
                ("order", "self.hardware.power(dart)", Kind::Power),
                ("order", "MDCR_TDE", Kind::Bit),
                ("order", "mmio::read32(register)", Kind::Fixup),
                ("order", "self.barrier(Barrier::Stores); #2", Kind::Statement),
                ("oche_head", "tlbi alle2", Kind::Instruction),
                ("oche_head", "bl oche_clean_image", Kind::Instruction),
                ("oche_head", "dc civac, x11", Kind::Instruction),
                ("after", "fence(Ordering::SeqCst);", Kind::Statement),
            ]
        );
    }

    #[test]
    fn a_site_is_taken_away_and_nothing_else() {
        for site in scan("a.rs", SOURCE) {
            let mutated = site.removed(SOURCE, None).unwrap();
            let changed: Vec<_> = SOURCE
                .lines()
                .zip(mutated.lines())
                .filter(|(before, after)| before != after)
                .collect();
            assert_eq!(changed.len(), 1, "{site:?}: {changed:?}");
        }
        let source = "fn f() { g(recheck_translation(a)); }";
        let expression = scan("a.rs", source).remove(0);
        assert_eq!(expression.kind, Kind::Expression);
        assert!(expression.removed(source, None).is_err());
    }
}
