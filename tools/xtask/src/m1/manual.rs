//! The manual's table of hazards names tests that exist, and probes that its checklist has.

#[cfg(test)]
mod tests {
    use std::fs;

    use oche::workspace;

    fn section<'a>(text: &'a str, title: &str) -> Vec<&'a str> {
        let from = text.find(title).unwrap_or_else(|| panic!("docs/m1.md has no `{title}`"));
        let lines = text[from..].lines().skip(1).take_while(|line| !line.starts_with("## "));
        lines.filter(|line| line.starts_with("| ")).collect()
    }

    /// m1n1's `proxyclient/tools/linux.py` takes a payload's compression from its name, and refuses
    /// other names.
    #[test]
    fn tethered_command_names_a_compressed_file_that_pack_writes() {
        let text = fs::read_to_string(workspace::root().join("docs/m1.md")).expect("the manual");
        let commands =
            text.lines().filter(|line| line.starts_with("    ") && line.contains("linux.py "));
        let payloads: Vec<&str> = commands
            .filter_map(|line| line.split("linux.py ").nth(1)?.split_whitespace().next())
            .collect();
        assert!(!payloads.is_empty(), "no command starts m1n1's linux.py");
        for payload in payloads {
            let plain = payload
                .strip_suffix(".gz")
                .unwrap_or_else(|| panic!("{payload} is not compressed"));
            let pack = format!("--output {plain}");
            assert!(
                text.lines().any(|line| line.contains(" pack ") && line.contains(&pack)),
                "no {pack}"
            );
        }
    }

    #[test]
    fn every_hazard_points_to_tests_that_exist_or_to_a_probe_of_the_checklist() {
        let root = workspace::root();
        let text = fs::read_to_string(root.join("docs/m1.md")).expect("the manual");
        let probes: Vec<&str> = section(&text, "## The checklist of a first boot")
            .into_iter()
            .filter_map(|row| row.split('|').nth(1))
            .map(str::trim)
            .collect();
        let rows = section(&text, "## The ten hazards of a first boot");
        let mut named = Vec::new();
        for number in 1..=10 {
            let row = rows.iter().find(|row| row.starts_with(&format!("| {number} ")));
            let row = row.unwrap_or_else(|| panic!("no row for hazard {number}"));
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let [_, _, tests, wanted, _] = cells[..] else { panic!("not three cells: {row}") };
            let tests = tests.split('`').filter(|part| part.contains("::")).collect::<Vec<_>>();
            for test in &tests {
                let (path, name) = test.split_once("::").expect("a path and a name");
                let code =
                    fs::read_to_string(root.join(path)).unwrap_or_else(|_| panic!("no {path}"));
                assert!(code.contains(&format!("fn {name}(")), "{path} has no {name}");
            }
            let wanted: Vec<&str> =
                wanted.split(',').map(str::trim).filter(|probe| !probe.is_empty()).collect();
            assert!(!tests.is_empty() || !wanted.is_empty(), "hazard {number} has neither");
            for probe in wanted {
                assert!(probes.contains(&probe), "the checklist has no {probe}");
                named.push(probe);
            }
        }
        for probe in probes.iter().filter(|probe| !matches!(**probe, "Probe" | "---")) {
            assert!(named.contains(probe), "no hazard asks for {probe}");
        }
    }
}
