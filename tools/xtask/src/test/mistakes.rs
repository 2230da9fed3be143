//! Mistakes of drivers, made in a stock kernel on purpose, and how `oche trace` reports them.
//!
//! The traces stay in `target/test/mistakes/`: the worked examples of `docs/trace-examples.md` are
//! made from them.

use anyhow::{Context, Result, anyhow, bail};
use oche::el2::Toolchain;
use oche::progress::Step;
use oche::trace::TraceFile;
use oche::trace::check::{CheckOptions, Detector, Finding, check};
use oche::trace::filter::EventFilter;
use oche::trace::leaks::leaks;
use oche::trace::symbols::SymbolOptions;
use oche::trace::why::{Question, why};
use oche::trace::words::parse_address;
use oche::workspace;

use super::stock::{self, StockGuest};
use super::views::queries;
use crate::environment;
use crate::perfetto::Perfetto;

/// The guest's script.
const SCRIPT: &str = include_str!("mistakes.sh");
/// The driver that forgets a mapping.
const DRIVER: [(&str, &str); 2] = [
    ("Kbuild", include_str!("mistakes/Kbuild")),
    ("edu-copy.c", include_str!("mistakes/edu-copy.c")),
];

/// Boots the guest, and asks the trace what went wrong.
///
/// # Errors
///
/// The trace does not show it, or a run cannot be made.
pub(super) fn run(toolchain: Toolchain, step: &Step) -> Result<String> {
    let folder = stock::folder("mistakes")?;
    let path = folder.join("trace.oche");
    let disk = folder.join("nvme.img");
    workspace::write_whole(&disk, &vec![0x5a; 8 << 20])?;
    let guest = StockGuest {
        folder: &folder,
        script: SCRIPT,
        modules: &["?crc64_rocksoft_generic", "?crct10dif_ce", "?crc32c_generic", "nvme"],
        driver: Some((&DRIVER, "edu-copy.ko")),
        options: &[],
        cpus: 1,
        devices: [
            "-drive".into(),
            stock::drive("nvme", &disk),
            "-device".into(),
            "nvme,addr=4,drive=nvme,serial=oche-nvme,dbcs=off".into(),
            "-device".into(),
            "edu,addr=8,dma_mask=0xffffffff".into(),
        ]
        .into(),
    };
    let boot = guest.boot(toolchain, Some(&path), step)?;
    let lines = boot.lines_of("mistakes: ")?;
    let queue = stock::value(&lines, "queue ")
        .context("the guest does not print where the NVMe's queue was")?;
    let queue = parse_address(queue.trim())
        .map_err(|wanted| anyhow!("the NVMe's queue is at {queue} instead of {wanted}"))?;
    let explained = judge(&TraceFile::open(&path)?, queue)?;
    step.detail("Perfetto's trace processor");
    environment::prepare_views(step)?;
    let answers = queries::compare(&Perfetto::fetch(step)?, &path, &folder)?;
    answers.name("faults", "[nvme]")?;
    answers.name("still-mapped", "[edu_copy]")?;
    Ok(format!("{explained}; {answers}"))
}

/// The worked examples must agree with the trace.
fn judge(trace: &TraceFile, queue: u64) -> Result<String> {
    let symbols = SymbolOptions::default().load_for(trace, Some(0))?;
    let everything = EventFilter::default();
    let question = Question { iova: queue, ..Question::default() };
    let answer = why(trace, 0, &question, &symbols);
    let reported = answer.devices.iter().flat_map(|device| &device.sentences);
    if !reported.clone().any(|sentence| sentence.contains("use after unmap")) {
        bail!(
            "of the NVMe's queue at {queue:#x} the trace has only: {}",
            reported.cloned().collect::<Vec<_>>().join(" ")
        );
    }
    let leaks = leaks(trace, 0, &everything, &symbols);
    let suspects = leaks.groups.iter().flat_map(|group| &group.suspects);
    let overtaken: Vec<u64> = suspects.map(|suspect| suspect.overtaken).collect();
    let [overtaken] = overtaken.as_slice() else {
        bail!("{} mappings look forgotten instead of one", overtaken.len());
    };
    let report = check(trace, &symbols, &CheckOptions::default());
    let findings: Vec<_> = report.iter().flat_map(|report| &report.findings).collect();
    let errors: Vec<Detector> = findings.iter().map(|finding| finding.detector).collect();
    if !errors.contains(&Detector::UseAfterUnmap)
        || errors.iter().any(|error| *error != Detector::UseAfterUnmap)
    {
        bail!("the detectors find {errors:?} instead of use after unmap");
    }
    let names_the_driver = |finding: &&&Finding| {
        let (mapped, unmapped) =
            finding.message.split_once(" and unmapped at ").unwrap_or_default();
        [mapped, unmapped].iter().all(|part| part.contains(", by nvme_"))
    };
    if let Some(finding) = findings.iter().find(|finding| !names_the_driver(finding)) {
        bail!("not said of the NVMe's driver: {}", finding.message);
    }
    Ok(format!(
        "a queue used after its unmap is explained; a page that {overtaken} later ones overtook is found"
    ))
}
