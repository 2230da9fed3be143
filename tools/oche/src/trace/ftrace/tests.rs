//! Lines of ftrace as kernels and trace-cmd print them; wild ones; clocks that are aligned.

use super::*;

fn event(line: &str) -> FtraceEvent<'_> {
    match parse_line(line) {
        FtraceLine::Event(event) => event,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn lines_of_the_kernel_and_of_trace_cmd_are_events() {
    let kernel = event(
        "              dd-123     [001] d.h1.    12.345678: map: IOMMU: iova=0x00000000fffc3000 - 0x00000000fffc4000 paddr=0x0000000041000000 size=4096",
    );
    let expected = ("dd", 123, 1, 12_345_678_000, "map");
    assert_eq!((kernel.task, kernel.pid, kernel.cpu, kernel.time_ns, kernel.name), expected);
    assert_eq!(address(kernel.fields, "paddr="), Some(0x4100_0000));
    let report = event(
        "    kworker/u8:2-ev-77    [000]     3.000000019: irq_handler_entry:    irq=44 name=nvme0q1",
    );
    assert_eq!((report.task, report.pid, report.time_ns), ("kworker/u8:2-ev", 77, 3_000_000_019));
    assert_eq!((report.name, report.fields), ("irq_handler_entry", "irq=44 name=nvme0q1"));
    let group =
        event("      my [0] app-9   (    9) [003] .....     0.000001: sched_wakeup: comm=x");
    assert_eq!((group.task, group.pid, group.cpu), ("my [0] app", 9, 3));
    let unknown = event("          <idle>-0   (-------) [000] d....     1.5: timer_start: timer=0");
    assert_eq!((unknown.task, unknown.time_ns), ("<idle>", 1_500_000_000));
    let mark = event("   sh-1 [000] ..... 7.25: tracing_mark_write: a: b");
    assert_eq!((mark.name, mark.fields), ("tracing_mark_write", "a: b"));
}

#[test]
fn other_lines_are_told_from_events() {
    for comment in ["", "# tracer: nop", "cpus=2", "version = 7", "CPU 1 is empty"] {
        assert_eq!(parse_line(comment), FtraceLine::Comment, "{comment}");
    }
    assert_eq!(parse_line("CPU:1 [LOST 12 EVENTS]"), FtraceLine::Lost);
    for wild in [
        "dd-1 [000] 12: map: x",
        "dd-1 [000] .... 12345678: map: counter",
        "dd-1 [000] 1.0000000001: map: x",
        "dd [000] 1.5: map: x",
        "dd-1 [000] 1.5:",
        "dd-1 [000] 1.5: two words: x",
        "dd-1 [99999999999] 1.5: map: x",
        "dd-1 [000] 99999999999999999999.5: map: x",
        "[[[[]]]]--::",
    ] {
        assert_eq!(parse_line(wild), FtraceLine::Malformed, "{wild}");
    }
    let ftrace =
        Ftrace::new("# x\ndd-1 [000] 1.5: map: x\nwhat\nCPU:1 [LOST 1 EVENTS]\nno\n".into());
    assert_eq!(ftrace.events().count(), 1);
    assert_eq!(
        ftrace.complaint().unwrap(),
        "2 lines are no event of ftrace and left out, the first is line 3; the guest lost events in 1 places"
    );
}

#[test]
fn a_million_wild_lines_are_read() {
    let seeds = [
        "              dd-123     [001] d.h1.    12.345678: map: IOMMU: iova=0x00000000fffc3000 - 0x00000000fffc4000 paddr=0x0 size=4096",
        "    kworker/u8:2-ev-77  (  7) [000]     3.000000019: unmap:    IOMMU: iova=0xfff size=0",
        "CPU:1 [LOST 12 EVENTS]",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let alphabet: Vec<char> = "[]()-:.# \t0129afx=\u{0}\u{e9}\u{1f600}\u{202f}".chars().collect();
    let (mut events, mut malformed) = (0, 0);
    for _ in 0..1_000_000 {
        let mut line: Vec<char> = seeds[next(seeds.len())].chars().collect();
        for _ in 0..=next(4) {
            let place = next(line.len());
            match next(3) {
                0 => line[place] = alphabet[next(alphabet.len())],
                1 => line.truncate(place.max(1)),
                _ => line.insert(place, alphabet[next(alphabet.len())]),
            }
        }
        let line: String = line.into_iter().collect();
        match parse_line(&line) {
            FtraceLine::Event(event) => {
                events += 1;
                assert!(!event.name.is_empty() && line.contains(event.fields), "{line}");
                let _ = address(event.fields, "iova=");
            }
            FtraceLine::Malformed => malformed += 1,
            FtraceLine::Comment | FtraceLine::Lost => {}
        }
    }
    assert!(events > 100_000 && malformed > 100_000, "{events} and {malformed}");
}
