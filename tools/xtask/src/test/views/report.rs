//! The report in a browser: driven as a reader does, at two widths, in light, dark and print.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Result, bail};
use oche::trace::TraceFile;
use oche::trace::filter::EventFilter;
use oche::trace::report::{ReportedFile, write_report};
use oche::trace::symbols::Symbols;

use super::devtools::Browser;

/// CSS pixels of a desktop's window and of a telephone's.
const WIDTHS: [(u32, u32); 2] = [(1280, 900), (400, 800)];
/// How much of the page the pictures show.
const PICTURE_HEIGHT: u32 = 3200;

/// Opens the report of `trace` in a browser without a network.
pub(super) fn run(trace: &TraceFile<Vec<u8>>, folder: &Path) -> Result<()> {
    let path = folder.join("report.html");
    write_report(
        trace,
        0,
        &ReportedFile::new("made up.oche", []),
        &EventFilter::default(),
        &Symbols::default(),
        &mut File::create(&path)?,
    )?;
    let size = fs::metadata(&path)?.len();
    if size > 1 << 20 {
        bail!("the report has {size} bytes");
    }
    let mut browser = Browser::start(folder)?;
    for (width, height) in WIDTHS {
        browser.emulate("screen", "light")?;
        browser.open(&path, (width, height))?;
        fits(&mut browser)?;
        let picture = folder.join(format!("report-{width}.png"));
        browser.picture(&picture, (width, PICTURE_HEIGHT))?;
        has_everything(&mut browser)?;
        zooms(&mut browser)?;
        filters(&mut browser)?;
        links(&mut browser)?;
        copies(&mut browser)?;
        fits(&mut browser)?;
        is_readable(&mut browser)?;
        browser.emulate("screen", "dark")?;
        is_readable(&mut browser)?;
        let picture = folder.join(format!("report-{width}-dark.png"));
        browser.picture(&picture, (width, PICTURE_HEIGHT))?;
        browser.emulate("print", "dark")?;
        is_readable(&mut browser)?;
        if let Some(complaint) = browser.complaints().first() {
            bail!("the browser's console, or a request of the page: {complaint}");
        }
    }
    Ok(())
}

/// Nothing is wider than the window, except what scrolls in a box of its own.
fn fits(browser: &mut Browser) -> Result<()> {
    browser.expect(
        "that nothing is wider than the window",
        "document.documentElement.scrollWidth <= innerWidth || [...document.querySelectorAll('#page *')]\
         .filter(one => one.getBoundingClientRect().right > innerWidth && !one.closest('.scroll'))\
         .map(one => `${one.tagName}.${one.className.baseVal ?? one.className}`).slice(0, 9)",
    )
}

fn has_everything(browser: &mut Browser) -> Result<()> {
    let text = browser.value("document.getElementById('page').textContent")?;
    let text = text.as_str().unwrap_or_default();
    for wanted in [
        "DMA report",
        "Findings",
        "Mapped memory",
        "use-after-unmap",
        "unmapped-without-flush",
        "double-map",
        "wrong-direction",
        "left-at-reset",
        "neighbours-exposed",
        "red-zone-hit",
        "wild-access",
        "read refused",
        "0xffe00040",
        "IOMMU: iova=0x00000000ffe00000",
        "Mapping lifetimes",
        "0xffff800008000c74",
        "oche trace why 'made up.oche' --iova 0xffe00040 --stream 0:1 --from",
    ] {
        if !text.contains(wanted) {
            bail!("the page as the browser has it lacks `{wanted}`");
        }
    }
    browser.expect(
        "that every chart has a name and a table",
        "[...document.querySelectorAll('section [role=img]')].every(one => one.getAttribute('aria-label')) \
         && document.querySelectorAll('figure > details').length >= 3",
    )
}

const CHART: &str = "#mapped svg";
const LISTED: &str = "document.querySelectorAll('#findings .finding').length";

/// A drag, the wheel, keys and the reset change what is listed.
fn zooms(browser: &mut Browser) -> Result<()> {
    let whole = browser.value("document.body.dataset.view")?;
    let listed = browser.value(LISTED)?.as_u64().unwrap_or(0);
    let view = "document.body.dataset.view";
    browser.drag(CHART, 0.2, 0.6)?;
    let dragged = browser.value(view)?;
    if dragged == whole {
        bail!("a drag over the report's chart does not zoom");
    }
    browser.expect("that findings out of view are not listed", &format!("{LISTED} === 0"))?;
    browser
        .expect("that the list says so", "document.querySelector('#findings .empty') !== null")?;
    browser.value("document.querySelector('#mapped svg').focus()")?;
    browser.press("+", "+")?;
    if browser.value(view)? == dragged {
        bail!("the key + does not zoom the report's chart");
    }
    browser.expect(
        "that the chart keeps the focus",
        "document.activeElement === document.querySelector('#mapped svg')",
    )?;
    browser.press("0", "0")?;
    browser.expect("that the key 0 resets", &format!("{view} === {whole}"))?;
    browser.wheel(".overview svg", -100)?;
    let turned = format!("new Promise(done => setTimeout(() => done({view} !== {whole}), 300))");
    browser.expect("that the wheel zooms", &turned)?;
    browser.click("button[aria-label='Show the whole time']")?;
    browser.expect("that the button resets", &format!("{view} === {whole}"))?;
    browser.expect("that all findings are back", &format!("{LISTED} === {listed}"))
}

/// A device that is switched off is in no list and no chart.
fn filters(browser: &mut Browser) -> Result<()> {
    let charts = "document.querySelectorAll('#space .space').length";
    let (all, listed) = (browser.value(charts)?, browser.value(LISTED)?);
    browser.click("button[data-device='0:1']")?;
    browser.expect(
        "that a device switched off has no finding",
        "![...document.querySelectorAll('#findings .finding')].some(one => / nvme|nvme,/.test(one.textContent))",
    )?;
    browser.expect("that it has no chart", &format!("{charts} === {all} - 1"))?;
    browser.expect("that other devices' stay", &format!("{LISTED} > 0 && {LISTED} < {listed}"))?;
    browser.click("button[aria-label='Show all devices']")?;
    browser.expect("that all devices are back", &format!("{charts} === {all}"))
}

/// A finding's link lands on its event, whatever is shown at the time.
fn links(browser: &mut Browser) -> Result<()> {
    browser.click("#findings .finding a[href^='#event-']")?;
    let lands = "new Promise(done => setTimeout(() => { \
         const row = document.querySelector('tr.target'), box = row?.getBoundingClientRect(); \
         done(!!row && location.hash === '#' + row.id && box.top >= 0 && box.bottom <= innerHeight \
              && row.textContent.includes('io_page_fault')); }, 1200))";
    browser.expect("that a finding's link lands on its event", lands)?;
    browser.drag(".overview svg", 0.1, 0.2)?;
    browser.value("showEvent(data.findings[0].event)")?;
    browser.expect("that an event out of view is shown all the same", lands)
}

/// The button copies the command that stands beside it.
fn copies(browser: &mut Browser) -> Result<()> {
    browser.click("#findings .finding .command button")?;
    browser.expect(
        "that the button copies, or marks what is to be copied",
        "new Promise(done => setTimeout(() => done(/Copied|Selected/.test(\
         document.querySelector('#findings .finding .command button').textContent)), 200))",
    )
}

/// Text stands out from what is behind it: 4.5 to 1, as WCAG 2.1 (1.4.3) asks.
fn is_readable(browser: &mut Browser) -> Result<()> {
    let script = include_str!("report/contrast.js");
    let faint = browser.value(script)?;
    match faint.as_array() {
        Some(list) if list.is_empty() => Ok(()),
        _ => bail!("text of the report that is hard to read: {faint}"),
    }
}
