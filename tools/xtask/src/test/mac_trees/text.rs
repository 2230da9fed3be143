//! A device tree as dtc prints it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use oche::{command, workspace};

/// Every property of `blob` by path and name, `/cpus/cpu@0:reg`, and every node by its path with a
/// colon behind it.
///
/// # Errors
///
/// dtc is missing or refuses the blob.
pub(super) fn properties(
    folder: &Path,
    name: &str,
    blob: &[u8],
) -> Result<BTreeMap<String, String>> {
    let path = folder.join(format!("{name}.dtb"));
    workspace::write_whole(&path, blob)?;
    let mut dtc = Command::new("dtc");
    dtc.args(["-q", "-s", "-I", "dtb", "-O", "dts"]).arg(&path);
    parse(&command::text(&mut dtc, "reading a device tree")?)
}

fn parse(text: &str) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut path: Vec<&str> = Vec::new();
    let mut reservations = 0;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let place = || format!("/{}", path.get(1..).unwrap_or_default().join("/"));
        if let Some(node) = line.strip_suffix(" {") {
            // A label may stand before the name.
            path.push(node.rsplit(' ').next().unwrap_or(node));
            found.insert(
                format!("/{}:", path.get(1..).unwrap_or_default().join("/")),
                String::new(),
            );
        } else if line == "};" {
            path.pop().context("dtc closes a node too often")?;
        } else if let Some(range) = line.strip_prefix("/memreserve/") {
            found.insert(format!("memreserve {reservations}"), range.to_owned());
            reservations += 1;
        } else if let Some((name, value)) = line.split_once(" = ") {
            found.insert(format!("{}:{name}", place()), value.to_owned());
        } else if let Some(name) = line.strip_suffix(';') {
            found.insert(format!("{}:{name}", place()), String::new());
        } else if line != "/dts-v1/;" {
            bail!("dtc prints a line of an unknown form: {line}");
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn nodes_and_properties_have_their_paths() {
        let text = "/dts-v1/;\n\n/memreserve/\t0x1 0x2;\n/ {\n\tmodel = \"A = B\";\n\n\tcpus {\n\t\t\
                    cpu@0 {\n\t\t\treg = <0x00 0x01>;\n\t\t\tempty;\n\t\t};\n\t};\n};\n";
        let found = parse(text).expect("it is dtc's");
        let value = |name: &str| found.get(name).map(String::as_str);
        assert_eq!(value("/:model"), Some("\"A = B\";"));
        assert_eq!(value("/cpus/cpu@0:reg"), Some("<0x00 0x01>;"));
        assert_eq!(value("/cpus/cpu@0:empty"), Some(""));
        assert_eq!(value("/cpus:"), Some(""));
        assert_eq!(value("memreserve 0"), Some("\t0x1 0x2;"));
        assert!(parse("nonsense").is_err());
    }
}
