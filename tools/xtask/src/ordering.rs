//! The ordering checker: QEMU runs with a plugin that sees each instruction of EL2
//! (`tests/ordering`), and what it reports is judged here.
//!
//! The places of tables, frames and devices are computed from Oche's own report of its layout and
//! from its ELF file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSymbol, SymbolKind, SymbolSection};
use oche::progress::Step;
use oche::workspace;
use oche_trace::directory;
use oche_trace::statistics::{Exit, INJECTED};
use oche_types::range::PhysRange;

use crate::qemu::{escape_commas, plugin};

/// Set in the environment: the run ends at the first violation.
pub(crate) const FIRST_ONLY: &str = "OCHE_FIRST_VIOLATION";

/// The plugin's package.
const PACKAGE: &str = "oche-ordering-checker";
/// Statics of Oche's that the rules are about, by their names: EL2's own tables; what a CPU reads
/// with its MMU off; the records of CPUs.
const OWN_TABLES: &str = "oche_boot::bare::stage1::MAP";
const STARTS: &str = "oche_el2::smp::entry::STARTS";
const CPUS: &str = "oche_el2::percpu::CPUS";
/// EL2's vector table, and where a CPU begins that firmware starts.
const VECTORS: &str = "oche_vectors";
const START: &str = "oche_secondary_entry";
/// Part of the names of the functions that wait for a lock.
const WAITING: &str = "wait_for_turn";
/// The name of an exit that EL2 does not count.
const UNCOUNTED: &str = "uncounted";
/// Most instructions of an exit other than a DART's register, and of one for a DART's register,
/// without those that wait for a lock: docs/contract.md, C6.
///
/// The most that was measured is 2 790 769 and 11 043 228, both in the hostile guest's cases on
/// pages with 32 copies that differ in every other byte. The latter is one granule, which costs a
/// slice. A quarter of a slice may have been spent before it begins, or a page be merged after a
/// slice, which makes 14 million. The rest, and 40 % for other exits, is for changes of the code.
const MAX_EXIT_INSTRUCTIONS: u64 = 4_000_000;
const MAX_REGISTER_INSTRUCTIONS: u64 = 16_000_000;
const REGISTER: &str = Exit::NAMES[Exit::DartRegister as usize];

/// The built plugin.
#[derive(Debug)]
pub struct OrderingChecker {
    library: PathBuf,
}

/// The ranges of memory that the plugin checks, by the names of its arguments.
#[derive(Clone, Debug, Default)]
pub struct MemoryRanges {
    image: PhysRange,
    ranges: Vec<(&'static str, PhysRange)>,
}

/// The plugin's report of a run.
#[derive(Clone, Debug, Default)]
pub struct OrderingReport {
    /// Broken rules, one a line.
    pub violations: Vec<String>,
    /// The kinds of instructions that were executed.
    pub seen: BTreeSet<String>,
    /// The most instructions of an exit by the name of its counter, without those that wait for a
    /// lock.
    pub exits: BTreeMap<String, u64>,
}

impl OrderingChecker {
    /// Builds the plugin.
    ///
    /// # Errors
    ///
    /// It does not compile.
    pub fn build(step: &Step) -> Result<Self> {
        Ok(Self { library: plugin::build(PACKAGE, step)? })
    }

    /// QEMU's arguments for a run of `oche`, an ELF file, that reports to `report`.
    ///
    /// # Errors
    ///
    /// The ELF file lacks a symbol, or a file cannot be written.
    pub fn arguments(
        &self,
        oche: &Path,
        layout: &MemoryRanges,
        report: &Path,
    ) -> Result<Vec<OsString>> {
        let elf = fs::read(oche).with_context(|| format!("cannot read {}", oche.display()))?;
        let symbols = Symbols::of(&elf)?;
        let base = layout.image.start;
        let names = report.with_extension("symbols");
        workspace::write_whole(&names, symbols.listing(base).as_bytes())?;
        // What an earlier run has left must not be taken for this run's.
        workspace::write_whole(report, b"")?;
        let mut value = escape_commas(&self.library);
        let mut add = |name: &str, text: OsString| {
            value.push(format!(",{name}="));
            value.push(text);
        };
        add("report", escape_commas(report));
        add("symbols", escape_commas(&names));
        add("vectors", format!("{:x}", symbols.range(VECTORS)?.start + base).into());
        add("start", format!("{:x}", symbols.range(START)?.start + base).into());
        add("kinds", format!("{INJECTED:x}").into());
        let waiting: Vec<_> =
            symbols.named_like(WAITING).map(|range| ("waiting", moved(range, base))).collect();
        if waiting.is_empty() {
            bail!("Oche's file has no function that waits for a lock");
        }
        let own = [("own", OWN_TABLES), ("handoff", STARTS), ("announced", CPUS)];
        let own = own.map(|(name, symbol)| Ok((name, moved(symbols.range(symbol)?, base))));
        let own = own.into_iter().collect::<Result<Vec<_>>>()?;
        let image = [("image", layout.image)];
        for (name, range) in image.iter().chain(&own).chain(&waiting).chain(&layout.ranges) {
            if range.start < range.end {
                add(name, format!("{:x}-{:x}", range.start, range.end).into());
            }
        }
        Ok(vec!["-plugin".into(), value])
    }
}

impl MemoryRanges {
    /// Reads it from the lines that Oche prints before the guest starts.
    ///
    /// # Errors
    ///
    /// A line is missing.
    pub fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut layout = Self::default();
        let mut pool = PhysRange::default();
        for line in lines.filter_map(|line| line.trim().strip_prefix("oche: ")) {
            let named = |name: &str| range_behind(line, name);
            if let (Some(image), Some(frames)) = (named("image "), named("pool ")) {
                (layout.image, pool) = (image, frames);
                layout
                    .ranges
                    .extend(named("trace ").and_then(counters).map(|range| ("counters", range)));
            } else if let (Some(tables), Some(own)) = (named("tables "), named("own tables ")) {
                layout.add("tables", tables);
                layout.add("own", own);
            } else if let Some(range) =
                line.strip_prefix("guest memory ").and(named("guest memory "))
            {
                layout.add("shared", range);
            } else if line.starts_with("the guest starts: ") {
                let parts = ["kernel ", "fdt "].map(named);
                parts.into_iter().flatten().for_each(|range| layout.add("loaded", range));
            } else if let Some(range) = line.strip_prefix("initrd ").and(named("initrd ")) {
                layout.add("loaded", range);
            } else if let Some(range) = line.strip_prefix("CPUs wait ").and(named("in ")) {
                layout.add("handoff", range);
                layout.add("mailbox", range);
            } else if let Some(blocks) = line.strip_prefix("smmu: ") {
                let parts = [
                    ("stream table ", 0x800),
                    ("contexts ", 0x800),
                    ("commands ", 0x1000),
                    ("events ", 0x4000),
                ];
                for (name, bytes) in parts {
                    if let Some(start) = number_behind(blocks, name) {
                        layout.add("shared", PhysRange { start, end: start + bytes });
                        if name == "contexts " {
                            layout.add("descriptors", PhysRange { start, end: start + bytes });
                        }
                    }
                }
            }
        }
        let has_tables = layout.ranges.iter().any(|(kind, _)| *kind == "tables");
        if layout.image.size() == 0 || pool.size() == 0 || !has_tables {
            bail!("Oche does not report its image, its tables and its pool");
        }
        layout.add("shared", pool);
        Ok(layout)
    }

    /// Adds a range of a kind that the plugin knows.
    pub fn add(&mut self, kind: &'static str, range: PhysRange) {
        self.ranges.push((kind, range));
    }
}

impl OrderingReport {
    /// Reads what a run has left.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or QEMU never loaded the plugin.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut report = Self::default();
        for line in text.lines() {
            if let Some(violation) = line.strip_prefix("violation: ") {
                report.violations.push(violation.to_owned());
            } else if let Some(name) = line.strip_prefix("seen: ") {
                report.seen.insert(name.to_owned());
            } else if let Some(exit) = line.strip_prefix("exit: ") {
                report.add_exit(exit);
            }
        }
        if report.seen.is_empty() && report.violations.is_empty() {
            bail!(
                "the ordering checker saw no instruction of EL2: QEMU needs support for TCG plugins"
            );
        }
        Ok(report)
    }

    fn add_exit(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        let (kind, _cpu) = (words.next()?, words.next()?);
        let (all, waited): (u64, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let name =
            kind.parse().ok().and_then(|place: usize| Exit::NAMES.get(place)).unwrap_or(&UNCOUNTED);
        let most = self.exits.entry((*name).to_owned()).or_default();
        *most = (*most).max(all - waited);
        Some(())
    }

    /// # Errors
    ///
    /// A rule is broken.
    pub fn broken(&self) -> Result<()> {
        match self.violations.first() {
            Some(first) => bail!("{} ordering violations: {first}", self.violations.len()),
            None => Ok(()),
        }
    }

    /// Gives a few words on a run without a violation in which each of `expected` was executed.
    ///
    /// # Errors
    ///
    /// A rule is broken, or an operation is missing.
    pub fn judge(&self, expected: &[&str]) -> Result<String> {
        self.broken()?;
        if let Some(missing) = expected.iter().find(|name| !self.seen.contains(**name)) {
            bail!("EL2 never executed {missing}");
        }
        let longest = self.exits.iter().map(|(name, most)| format!("{name} {most}"));
        let longest = longest.collect::<Vec<_>>().join(", ");
        if self.exits.contains_key(UNCOUNTED) {
            bail!("an exit from the guest is not counted");
        }
        for (name, most) in &self.exits {
            let bound =
                if name == REGISTER { MAX_REGISTER_INSTRUCTIONS } else { MAX_EXIT_INSTRUCTIONS };
            if *most > bound {
                bail!("an exit of {name} takes more than {bound} instructions: {longest}");
            }
        }
        Ok(format!(
            "{} kinds of operations; longest exits in instructions: {longest}",
            self.seen.len()
        ))
    }
}

/// The counters of all CPUs in the trace directory at the start of `trace`.
fn counters(trace: PhysRange) -> Option<PhysRange> {
    let layout = directory::Layout::new(directory::MAX_CPUS, 0);
    let of_cpu = |cpu| directory::cpu_counters(layout, cpu);
    let address = |word: usize| trace.start + 8 * word as u64;
    let (first, last) = (of_cpu(0)?, of_cpu(directory::MAX_CPUS - 1)?);
    (trace.size() != 0).then(|| PhysRange { start: address(first.start), end: address(last.end) })
}

fn moved(range: PhysRange, by: u64) -> PhysRange {
    PhysRange { start: range.start + by, end: range.end + by }
}

/// The range `0x1..0x2` behind `name`.
fn range_behind(line: &str, name: &str) -> Option<PhysRange> {
    let (_, text) = line.split_once(name)?;
    let (start, text) = text.strip_prefix("0x")?.split_once("..0x")?;
    let end: String = text.chars().take_while(char::is_ascii_hexdigit).collect();
    Some(PhysRange {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(&end, 16).ok()?,
    })
}

fn number_behind(line: &str, name: &str) -> Option<u64> {
    let (_, text) = line.split_once(name)?;
    let digits: String =
        text.strip_prefix("0x")?.chars().take_while(char::is_ascii_hexdigit).collect();
    u64::from_str_radix(&digits, 16).ok()
}

/// An ELF file's symbols.
struct Symbols(Vec<(String, PhysRange, bool)>);

impl Symbols {
    fn of(elf: &[u8]) -> Result<Self> {
        let file = object::read::elf::ElfFile64::<object::Endianness>::parse(elf)
            .context("Oche's file")?;
        let all = file.symbols().filter_map(|symbol| {
            let range =
                PhysRange { start: symbol.address(), end: symbol.address() + symbol.size() };
            // Not the constants of the assembler, which lie in no section.
            let is_code = matches!(symbol.section(), SymbolSection::Section(_))
                && matches!(
                    symbol.kind(),
                    SymbolKind::Text | SymbolKind::Unknown | SymbolKind::Label
                );
            let name =
                symbol.name().ok().filter(|name| !name.is_empty() && !name.starts_with('$'))?;
            Some((plain_name(name), range, is_code))
        });
        Ok(Self(all.collect()))
    }

    fn range(&self, name: &str) -> Result<PhysRange> {
        let found = self.0.iter().find(|(known, ..)| known == name).map(|(_, range, _)| *range);
        found.with_context(|| format!("Oche's file has no symbol {name}"))
    }

    /// The code of functions whose names contain `part`.
    fn named_like(&self, part: &str) -> impl Iterator<Item = PhysRange> {
        self.0
            .iter()
            .filter(move |(name, _, is_code)| *is_code && name.contains(part))
            .map(|(_, range, _)| *range)
    }

    /// A line for each function, `base` bytes farther up.
    fn listing(&self, base: u64) -> String {
        let code = self.0.iter().filter(|(.., is_code)| *is_code);
        code.map(|(name, range, _)| format!("{:x} {name}\n", range.start + base)).collect()
    }
}

/// `_ZN4oche5thing17h0123456789abcdefE` as `oche::thing`; other names as they are.
fn plain_name(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

#[cfg(test)]
mod tests {
    use super::{
        MAX_EXIT_INSTRUCTIONS, MAX_REGISTER_INSTRUCTIONS, MemoryRanges, OrderingReport, PhysRange,
        plain_name, range_behind,
    };

    #[test]
    fn names_lose_their_mangling() {
        let mangled = "_ZN9oche_boot4bare6stage13MAP17h4dd36ff30080cbd8E";
        assert_eq!(plain_name(mangled), "oche_boot::bare::stage1::MAP");
        assert_eq!(plain_name("oche_vectors"), "oche_vectors");
    }

    #[test]
    fn a_layout_is_read_from_what_oche_prints() {
        let lines = [
            "oche: image 0x40200000..0x403d0000, trace 0x69e00000..0x6aa00000, pool 0x70000000..0x80000000",
            "oche: heap 0x6aa00000..0x6fc00000 (12557 of 83968 KiB used)",
            "oche: tables 0x6fc00000..0x6fd00000, own tables 0x6fd00000..0x6fd40000",
            "oche: guest memory 0x40000000..0x40200000",
        ];
        let layout = MemoryRanges::read(lines.into_iter()).unwrap();
        assert_eq!(layout.image, PhysRange { start: 0x4020_0000, end: 0x403d_0000 });
        let tables = PhysRange { start: 0x6fc0_0000, end: 0x6fd0_0000 };
        assert!(layout.ranges.contains(&("tables", tables)), "{layout:?}");
        let own = PhysRange { start: 0x6fd0_0000, end: 0x6fd4_0000 };
        assert!(layout.ranges.contains(&("own", own)), "{layout:?}");
        assert!(MemoryRanges::read(lines.into_iter().take(1)).is_err());
        assert_eq!(range_behind("heap none", "heap "), None);
    }

    #[test]
    fn a_report_without_an_instruction_is_an_error_unless_the_first_one_was_a_violation() {
        assert!(OrderingReport::parse("").is_err());
        let report = OrderingReport::parse("violation: context at 0x1: cpu 0\n").unwrap();
        assert!(report.broken().is_err());
        assert!(OrderingReport::parse("seen: Isb\n").unwrap().broken().is_ok());
    }

    #[test]
    fn a_violation_or_a_missing_operation_fails_a_run() {
        let mut report = OrderingReport::default();
        report.seen.insert("Isb".to_owned());
        assert!(report.judge(&["Isb"]).is_ok());
        assert!(report.judge(&["SendEvent"]).is_err());
        report.add_exit("6 0 900 100");
        report.add_exit("6 1 1000 300");
        assert_eq!(report.exits.get("exits_hvc"), Some(&800));
        report.add_exit(&format!("0 1 {MAX_REGISTER_INSTRUCTIONS} 0"));
        assert!(report.judge(&["Isb"]).is_ok());
        report.add_exit(&format!("7 1 {} 0", MAX_EXIT_INSTRUCTIONS + 1));
        assert!(
            report
                .judge(&["Isb"])
                .is_err_and(|error| error.to_string().contains("exits_smc 4000001"))
        );
        report.exits.clear();
        report.add_exit("none 1 1 0");
        assert!(
            report.judge(&["Isb"]).is_err_and(|error| error.to_string().contains("not counted"))
        );
        report.violations.push("context at 0x1: cpu 0".to_owned());
        assert!(report.judge(&["Isb"]).is_err_and(|error| error.to_string().contains("context")));
    }
}
