//! A CTF export as babeltrace2 reads it, against the trace's own JSON.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use oche::trace::TraceFile;
use oche::trace::ctf::write_ctf;
use oche::trace::filter::EventFilter;
use oche::trace::output::write_json;
use oche::trace::symbols::Symbols;
use serde_json::Value;

/// Of so many events of a CPU, one is compared field by field; in a short trace all are.
const SAMPLE: u64 = 499;
/// Events of a trace that is short.
const SHORT: u64 = 10_000;

/// What both must agree on.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// Events by kind.
    by_kind: BTreeMap<String, u64>,
    /// Events that are missing.
    pub(crate) lost: u64,
}

impl Agreed {
    /// Events of all kinds.
    pub(crate) fn events(&self) -> u64 {
        self.by_kind.values().sum()
    }
}

/// Events to compare, by CPU, number on the CPU, and kind.
type Sampled<T> = BTreeMap<(u64, u64, String), T>;

/// Exports the last boot of the trace at `trace` into the folder `into`, has babeltrace2 read it,
/// and compares: the number of events of each kind, those that were lost, and fields of some.
///
/// # Errors
///
/// They differ, or a program or file is missing.
pub(crate) fn compare(trace: &Path, into: &Path) -> Result<Agreed> {
    let trace = TraceFile::open(trace)?;
    let last = trace.sessions.len().saturating_sub(1);
    if last > 0 {
        bail!("the trace has several boots, and one is compared");
    }
    let (all, none) = (EventFilter::default(), Symbols::default());
    let counts = write_ctf(&trace, last, &all, &none, into)?;
    let every = if counts.events > SHORT { SAMPLE } else { 1 };
    let (theirs, lines) = read_by_babeltrace(into, every)?;
    let mut json = Json { every, ours: Agreed::default(), sampled: Sampled::new(), rest: vec![] };
    write_json(&trace, &all, &none, &mut json)?;
    if json.ours != theirs {
        bail!("babeltrace2 reads {theirs:?}, and the trace has {:?}", json.ours);
    }
    if json.sampled.is_empty() || lines.len() != json.sampled.len() {
        bail!("{} of {} events can be compared", lines.len(), json.sampled.len());
    }
    for (key, object) in &json.sampled {
        let line = lines.get(key).with_context(|| format!("babeltrace2 has no {key:?}"))?;
        if let Some(field) = first_difference(object, line) {
            bail!("`{field}` differs: babeltrace2 prints {line}, and the trace has {object}");
        }
    }
    Ok(theirs)
}

fn read_by_babeltrace(folder: &Path, every: u64) -> Result<(Agreed, Sampled<String>)> {
    let mut babeltrace = Command::new("babeltrace2");
    babeltrace.args(["--clock-cycles", "--no-delta"]).arg(folder);
    babeltrace.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = babeltrace
        .spawn()
        .map_err(|_| anyhow::anyhow!("{}", oche::command::missing("babeltrace2")))?;
    // What is lost is on standard error: a line a packet.
    let errors = child.stderr.take().context("the standard error of babeltrace2")?;
    let errors = std::thread::spawn(move || std::io::read_to_string(errors));
    let (mut read, mut sampled) = (Agreed::default(), Sampled::new());
    let output = child.stdout.take().context("the output of babeltrace2")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("reading what babeltrace2 prints")?;
        let name = line.split_once("] ").and_then(|(_, rest)| rest.split_once(": {"));
        let name = name.with_context(|| format!("babeltrace2 prints: {line}"))?.0.to_owned();
        *read.by_kind.entry(name.clone()).or_default() += 1;
        let number = |name| field(&line, name).and_then(|text| text.parse::<u64>().ok());
        let (cpu, seq) = number("cpu_id").zip(number("seq")).context("an event without a CPU")?;
        if seq.is_multiple_of(every) {
            sampled.insert((cpu, seq, name), line);
        }
    }
    let errors = errors.join().ok().context("babeltrace2's messages")??;
    let status = child.wait().context("waiting for babeltrace2")?;
    for line in errors.lines().filter(|line| !line.is_empty()) {
        let lost = line
            .split_once("Tracer discarded ")
            .and_then(|(_, rest)| rest.split_once(" event")?.0.parse::<u64>().ok());
        read.lost += lost.with_context(|| format!("babeltrace2 says: {line}"))?;
    }
    if !status.success() {
        bail!("babeltrace2 failed ({status})");
    }
    Ok((read, sampled))
}

/// Takes JSON, an object a line.
struct Json {
    every: u64,
    ours: Agreed,
    sampled: Sampled<Value>,
    rest: Vec<u8>,
}

impl Json {
    fn line(&mut self, line: &[u8]) -> Result<()> {
        // Most lines are only counted, and a whole parse of each would take long.
        let text = std::str::from_utf8(line)?;
        let word = |name: &str| {
            let begin = format!("\"{name}\":");
            let rest = text.split_once(&begin)?.1;
            Some(rest.split([',', '}']).next()?.trim_matches('"'))
        };
        match word("type").context("an object without a type")? {
            "lost" | "unreadable" => {
                self.ours.lost +=
                    word("records").context("a loss without a number")?.parse::<u64>()?;
            }
            "event" => {
                let name = word("event").context("an event without a kind")?.to_owned();
                *self.ours.by_kind.entry(name.clone()).or_default() += 1;
                let (cpu, seq) = word("cpu").zip(word("seq")).context("an event without a CPU")?;
                let (cpu, seq) = (cpu.parse::<u64>()?, seq.parse::<u64>()?);
                if seq.is_multiple_of(self.every) {
                    self.sampled.insert((cpu, seq, name), serde_json::from_slice(line)?);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl std::io::Write for Json {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.line(line.trim_ascii_end()).map_err(std::io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The text of `name`'s value in a line of babeltrace2.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = line.split_once(&format!(" {name} = "))?.1;
    Some(match rest.strip_prefix('"') {
        Some(text) => text.split('"').next().unwrap_or_default(),
        None if rest.starts_with('[') => rest.split(" ]").next().unwrap_or_default(),
        None => rest.split([',', ' ']).next().unwrap_or_default(),
    })
}

/// The name of a field of `object` that `line` does not have with the same value.
fn first_difference(object: &Value, line: &str) -> Option<String> {
    let is_same = |(name, value): &(&String, &Value)| match name.as_str() {
        "type" | "ticks" | "cpu" | "event" => true,
        "time_ns" => {
            let time = line.strip_prefix('[').and_then(|rest| rest.split(']').next());
            time.and_then(|time| time.parse().ok()) == value.as_u64()
        }
        "root" => match value.as_str() {
            Some("none") => line.contains("root = { { } }"),
            _ => line.contains("\"address\"") && is_equal(field_of_root(line), value),
        },
        "chain" => field(line, "chain_names") == value.as_str(),
        // Sixteen bytes, or what the records behind an event hold; a register has a number.
        "bytes" | "value" if field(line, name).is_some_and(|text| text.starts_with('[')) => {
            field(line, name).is_some_and(|text| same_bytes(&digits(text), value))
        }
        name => is_equal(field(line, name), value),
    };
    let fields = object.as_object()?;
    fields.iter().find(|field| !is_same(field)).map(|(name, _)| name.clone())
}

fn field_of_root(line: &str) -> Option<&str> {
    line.split_once(" root = { ")?.1.split(' ').next()
}

fn is_equal(printed: Option<&str>, value: &Value) -> bool {
    let Some(printed) = printed else { return false };
    match value {
        Value::String(text) if text.starts_with("0x") => {
            let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
            number(printed).is_some() && number(printed) == number(text)
        }
        Value::String(text) => printed == text,
        other => *printed == *other.to_string(),
    }
}

/// `[ [0] = 0x4F, [1] = 0x63` as `4f63`.
fn digits(array: &str) -> String {
    let bytes = array.split("] = 0x").skip(1);
    bytes
        .map(|rest| format!("{:0>2}", rest.split(',').next().unwrap_or_default().to_lowercase()))
        .collect()
}

/// Bytes as two digits each in the order of their addresses, against digits, or against a number
/// (of more than eight bytes several, each as wide as they are).
fn same_bytes(bytes: &str, value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    if !text.starts_with("0x") {
        return bytes == text;
    }
    let mut rest = bytes;
    for word in text.split(',').filter_map(|word| word.strip_prefix("0x")) {
        let Some((own, after)) = rest.split_at_checked(word.len()) else { return false };
        let reversed: Vec<&str> = (0..own.len() / 2)
            .rev()
            .filter_map(|place| own.get(2 * place..2 * place + 2))
            .collect();
        if reversed.concat() != word {
            return false;
        }
        rest = after;
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_difference_in_any_field_is_found() {
        let line = "[00000000000001040000] map: { cpu_id = 0 }, { dart = 0, device = \"nvme\", seq = 3 }, \
                    { iova = 0xFFFFF000, size = 4096, bytes = [ [0] = 0x4F, [1] = 0x3 ], root = { 0x10 } : \"address\" }";
        let good = json!({"time_ns": 1_040_000, "event": "map", "device": "nvme", "seq": 3,
            "iova": "0xfffff000", "bytes": "4f03", "root": "0x10"});
        assert_eq!(first_difference(&good, line), None);
        for (name, wrong) in [
            ("time_ns", json!(1)),
            ("device", json!("nvm")),
            ("iova", json!("0xfffff001")),
            ("seq", json!(4)),
            ("bytes", json!("4f04")),
            ("root", json!("none")),
            ("new", json!(1)),
        ] {
            let mut object = good.clone();
            object[name] = wrong;
            assert_eq!(first_difference(&object, line).as_deref(), Some(name));
        }
    }

    #[test]
    fn a_number_is_its_bytes_the_lowest_first() {
        assert!(same_bytes("44332211", &json!("0x11223344")));
        assert!(same_bytes("010000000000000002", &json!("0x0000000000000001,0x02")));
        assert!(!same_bytes("4433221100", &json!("0x11223344")));
        assert!(!same_bytes("", &json!("0x11")));
    }
}
