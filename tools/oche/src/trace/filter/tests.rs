//! Each choice in each view: what is shown is what was asked for, and what was not asked for still
//! counts where it decides what the rest means.

use clap::Parser;
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::DartId;
use serde_json::Value;

use super::options::EventOptions;
use super::*;
use crate::trace::check::{CheckOptions, CheckReport, Detector, check};
use crate::trace::leaks::leaks;
use crate::trace::made::{FLUSHER, Made, at, map};
use crate::trace::maps::maps;
use crate::trace::output::{write_json, write_text};
use crate::trace::pcapng::write_pcapng;
use crate::trace::report::{ReportedFile, write_report};
use crate::trace::summary::summarize_chosen;
use crate::trace::why::{Question, why};

const TO_DEVICE: Permission = Permission::READ_ONLY;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    events: EventOptions,
}

/// The filter of a command line, for the trace.
fn filter_for(made: &Made, line: &str, symbols: &Symbols) -> Result<EventFilter, String> {
    let words = ["oche"].into_iter().chain(line.split_whitespace());
    let options = Line::try_parse_from(words).map_err(|error| error.to_string())?;
    let left_out = Some(Kind::Access);
    options.events.filter(&made.open(), symbols, left_out).map_err(|error| format!("{error:#}"))
}

/// The events that the command line shows, by kind and CPU, and the accesses that it leaves out.
fn shown(made: &Made, line: &str) -> (Vec<String>, u64) {
    let symbols = symbols();
    let filter = filter_for(made, line, &symbols).unwrap();
    let (mut json, mut text) = (Vec::new(), Vec::new());
    let left_out = write_json(&made.open(), &filter, &symbols, &mut json).unwrap();
    assert_eq!(write_text(&made.open(), &filter, &symbols, &mut text).unwrap(), left_out);
    let objects = String::from_utf8(json).unwrap();
    let objects = objects.lines().map(|line| serde_json::from_str(line).unwrap());
    let events = objects.filter(|object: &Value| object["type"] == "event");
    let words: Vec<String> = events
        .map(|event| format!("{}@{}", event["event"].as_str().unwrap(), event["cpu"]))
        .collect();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(words.len(), text.lines().filter(|line| line.contains("oche-0")).count());
    (words, left_out)
}

/// One function for the flushes, and two that call it.
fn symbols() -> Symbols {
    let names = [(FLUSHER - 0x10, "dart_flush"), (0x1000, "nvme_map_data"), (0x2000, "xmit")];
    Symbols::new(names.map(|(address, name)| (address, name.to_owned())).into(), 0)
}

/// Two devices and two CPUs, accesses, and a flush with its callers.
fn small() -> Made {
    let mut made = Made::new();
    made.map(0, 1, 0x100, 1, TO_DEVICE);
    made.event(Event::Access { address: 0x5000, is_write: true });
    made.cpu = 1;
    made.map(0, 2, 0x200, 2, TO_DEVICE).event(Event::Access { address: 0x6000, is_write: false });
    made.cpu = 0;
    let dart = DartId::FIRST;
    made.event(Event::Callers { dart, frames: 3, first: 0x800 });
    made.event(Event::Data { words: [0x1014, 0x900] });
    made.unmap(0, 1, 0x100, 1).fault(0, 1, 0x10_0040, false, 4);
    made
}

#[test]
fn each_option_chooses_what_it_names() {
    let made = small();
    let count = |line: &str| shown(&made, line).0.len();
    // Two registers, the flush, its change and its end, three times over; the callers, the fault.
    assert_eq!(count(""), 17);
    assert_eq!(shown(&made, "").1, 2);
    assert_eq!((count("--all"), count("--kind +access"), count("--kind access")), (19, 19, 2));
    assert_eq!(shown(&made, "--cpu 1").0.len(), 5);
    assert_eq!(shown(&made, "--cpu 1").1, 1);
    assert_eq!(
        shown(&made, "--device nvme").0,
        ["flush@0", "map@0", "flush@0", "unmap@0", "io_page_fault@0"]
    );
    assert_eq!(shown(&made, "--stream 0:2").0, ["flush@1", "map@1"]);
    assert_eq!(shown(&made, "--stream 1,2 --kind map").0, ["map@0", "map@1"]);
    assert_eq!(shown(&made, "--iova 0x200000").0, ["map@1"]);
    assert_eq!(shown(&made, "--iova 100fff-200000").0, ["map@0", "map@1", "unmap@0"]);
    assert_eq!(shown(&made, "--iova 100040 --kind io_page_fault").0, ["io_page_fault@0"]);
    assert_eq!(shown(&made, "--iova 100041 --kind io_page_fault").0, [""; 0]);
    assert_eq!(shown(&made, "--kind -register,-flush,-flush_done").0.len(), 5);
}

#[test]
fn a_time_has_both_its_ends_and_must_be_in_the_trace() {
    let made = small();
    // The first map, as the text shows its time.
    let time = "0.001040000";
    let both = format!("--from {time} --to {time}");
    assert_eq!(shown(&made, &both).0, ["map@0"]);
    assert_eq!(shown(&made, "--from 0.00105").0.len(), 13);
    assert_eq!(shown(&made, "--to 0.00105").0.len(), 5);
    let refused = |line: &str| filter_for(&made, line, &Symbols::default()).unwrap_err();
    let range = "0.001010000 to 0.001200000 s";
    for line in ["--from 1", "--to 0.001"] {
        let error = refused(line);
        assert!(
            error.contains(range) && error.contains(line.split(' ').next().unwrap()),
            "{error}"
        );
    }
    assert!(refused("--from 0.00105 --to 0.00102").contains("is after --to"));
}

#[test]
fn a_caller_flushed_or_called_the_flush() {
    let made = small();
    let by_nvme = ["callers@0", "register@0", "register@0", "flush@0", "unmap@0", "flush_done@0"];
    assert_eq!(shown(&made, "--caller nvme_map").0, by_nvme);
    assert_eq!(shown(&made, "--caller 0x1014").0, by_nvme);
    assert_eq!(shown(&made, "--caller dart_flush").0.len(), 17);
    assert_eq!(shown(&made, "--caller xmit").0, [""; 0]);
    let none = filter_for(&made, "--caller nvme", &Symbols::default()).unwrap_err();
    assert!(none.contains("--symbols"), "{none}");
    assert!(filter_for(&made, "--caller nvmf", &symbols()).is_err());
}

#[test]
fn what_the_trace_does_not_have_is_refused_with_what_it_has() {
    let refused = |line: &str| filter_for(&small(), line, &Symbols::default()).unwrap_err();
    assert!(refused("--device gpu").contains("e1000e"));
    assert!(refused("--stream 16").contains("there is no stream 16"));
    assert!(refused("--dart 5").contains("there is no DART 5"));
    assert!(refused("--cpu 7").contains("CPU 7"));
}

fn found(made: &Made, filter: EventFilter, detectors: &[Detector]) -> CheckReport {
    let options = CheckOptions { detectors: detectors.to_vec(), filter, ..CheckOptions::default() };
    check(&made.open(), &Symbols::default(), &options).remove(0)
}

#[test]
fn a_finding_says_the_same_whatever_of_the_trace_is_left_out() {
    let mut made = Made::new();
    made.map(0, 1, 0x100, 1, TO_DEVICE)
        .unmap(0, 1, 0x100, 1)
        .fault(0, 2, 0x9000, true, 4)
        .wait(500);
    made.fault(0, 1, 0x10_0040, false, 4);
    let all = found(&made, EventFilter::default(), &[]);
    assert_eq!((all.findings.len(), all.left_out), (2, 0));
    let late = filter_for(&made, "--from 0.0015", &Symbols::default()).unwrap();
    let report = found(&made, late, &[]);
    assert_eq!(report.findings, all.findings[1..]);
    assert_eq!(report.findings[0].detector, Detector::UseAfterUnmap);
    assert_eq!((report.errors(), report.left_out, report.events), (1, 1, all.events));
    let other = filter_for(&made, "--device e1000e", &Symbols::default()).unwrap();
    assert_eq!(found(&made, other, &[]).findings, all.findings[..1]);
    let wild = found(&made, EventFilter::default(), &[Detector::WildAccess]);
    assert_eq!((wild.findings.len(), wild.left_out), (1, 1));
}

#[test]
fn more_findings_than_are_reported_do_not_hide_those_asked_for() {
    let mut made = Made::new();
    for page in 0..30 {
        made.fault(0, 1, 0x1000 * page, false, 4).wait(100);
    }
    let last = filter_for(&made, "--iova 0x1d000", &Symbols::default()).unwrap();
    assert_eq!(found(&made, last, &[]).findings.len(), 1);
}

#[test]
fn mappings_are_chosen_by_when_they_were_made_and_counted_by_all_that_happened() {
    let made = crate::trace::made::with_every_error();
    let trace = made.open();
    let symbols = Symbols::default();
    let everything = EventFilter::default();
    let all = leaks(&trace, 0, &everything, &symbols);
    let late = EventFilter { from_ns: Some(10_000_000), ..EventFilter::default() };
    let some = leaks(&trace, 0, &late, &symbols);
    assert!(some.pages > 0 && some.pages < all.pages && some.suspect_pages == 0);
    let kind = |of: &crate::trace::leaks::Leaks| {
        let group = of.groups.iter().find(|group| group.permission == "r-" && group.stream == 1);
        group.map(|group| (group.completed, group.peak_pages))
    };
    assert_eq!(kind(&some), kind(&all));
    let page = EventFilter { iova: Some(0xffd0_0000..=0xffd0_0fff), ..EventFilter::default() };
    let listed = maps(&trace, 0, None, &page, &symbols);
    assert_eq!((listed.pages, listed.devices.len()), (1, 1));
}

#[test]
fn figures_of_a_part_know_what_was_mapped_before_it() {
    let mut made = Made::new();
    made.map(0, 1, 0x100, 1, TO_DEVICE).map(0, 1, 0x101, 2, TO_DEVICE).wait(1000);
    made.map(0, 2, 0x200, 3, TO_DEVICE).unmap(0, 1, 0x100, 1);
    let filter = EventFilter { from_ns: Some(2_000_000), ..EventFilter::default() };
    let figures = summarize_chosen(&made.open(), &filter, &Symbols::default()).remove(0);
    let nvme = figures.devices["nvme"];
    assert_eq!((nvme.maps, nvme.unmaps, nvme.peak_bytes), (0, 1, 8192));
    let everything = EventFilter::default();
    let whole = summarize_chosen(&small().open(), &everything, &Symbols::default());
    let usual = crate::trace::summary::summarize(&small().open());
    assert_eq!(format!("{whole:?}"), format!("{usual:?}"));
}

#[test]
fn an_answer_lists_the_time_that_was_asked_for_and_says_the_same() {
    let mut made = Made::new();
    for round in 0..4 {
        made.map(0, 1, 0x100, round, TO_DEVICE).unmap(0, 1, 0x100, round).wait(1000);
    }
    let ask = |from_ns, until_ns| {
        let question = Question { iova: 0x10_0000, from_ns, until_ns, ..Question::default() };
        why(&made.open(), 0, &question, &Symbols::default()).devices.remove(0)
    };
    let (all, some) = (ask(None, None), ask(Some(2_000_000), Some(3_300_000)));
    assert_eq!((all.history.len(), some.history.len()), (4, 2));
    assert_eq!(some.history, all.history[1..3]);
    assert_eq!((some.times_mapped, &some.sentences), (4, &all.sentences));
}

#[test]
fn files_for_other_programs_have_what_was_asked_for() {
    let made = small();
    let symbols = Symbols::default();
    let filter = filter_for(&made, "--device nvme", &symbols).unwrap();
    let mut bytes = Vec::new();
    write_pcapng(&made.open(), 0, &filter, &symbols, &mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.contains("nvme") && !text.contains("e1000e"));
    let mut bytes = Vec::new();
    crate::trace::perfetto::write_perfetto(&made.open(), 0, &filter, &symbols, &mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.contains("nvme") && !text.contains("e1000e") && text.contains("fault"));
}

#[test]
fn a_report_of_a_part_begins_with_what_was_mapped() {
    let mut made = Made::new();
    made.flush(0, 1, &[map(at(0, 1, 0x100), 1, TO_DEVICE), map(at(0, 1, 0x101), 2, TO_DEVICE)]);
    made.wait(5000).unmap(0, 1, 0x100, 1).map(0, 2, 0x300, 9, TO_DEVICE).wait(5000);
    made.unmap(0, 1, 0x101, 2);
    let filter = filter_for(&made, "--device nvme --from 0.005 --to 0.01", &Symbols::default());
    let filter = filter.unwrap();
    let mut out = Vec::new();
    write_report(&made.open(), 0, &ReportedFile::default(), &filter, &Symbols::default(), &mut out)
        .unwrap();
    let page = String::from_utf8(out).unwrap();
    let (_, rest) = page.split_once("id=\"data\">").unwrap();
    let data: Value = serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap();
    let devices = data["devices"].as_array().unwrap();
    assert_eq!((devices.len(), &devices[0]["name"]), (1, &Value::from("nvme")));
    assert_eq!((&devices[0]["maps"], &devices[0]["unmaps"]), (&Value::from(0), &Value::from(1)));
    assert_eq!(devices[0]["end_bytes"], 4096);
    assert_eq!(devices[0]["mapped"][0], 8192);
    let words = data["filter"].to_string();
    assert!(words.contains("device nvme, from 5.00 ms"), "{words}");
}
