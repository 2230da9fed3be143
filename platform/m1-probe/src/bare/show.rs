//! Shows the report on the screen, page after page: the answers, the codes, the report as text.

use alloc::string::String;
use alloc::vec::Vec;
use core::hint::spin_loop;
use core::ops::Range;

use super::next::Next;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable};
use oche_m1::hw::console::{self, Memory};
use oche_m1::screen::Screen;
use oche_m1_probe::codes;
use oche_m1_probe::pages::{self, Grid, QUIET};
use qrcodegen_no_heap::{QrCode, QrCodeEcc, Version};

/// How long a page stays, in seconds.
const PAGE_SECONDS: u64 = 10;
/// The smallest version that holds [`codes::MAX_BYTES`] with error correction at level L: 1171
/// bytes in 113 modules a side. Source: ISO/IEC 18004, tables 1 and 7.
const VERSION: Version = Version::new(24);
const MODULES: usize = 113;
const BUFFER_BYTES: usize = VERSION.buffer_len();
/// Colours of text and codes.
const TITLE: [u8; 3] = [255, 255, 255];
const TEXT: [u8; 3] = [200, 204, 208];
const WRONG: [u8; 3] = [255, 120, 100];
const BLACK: [u8; 3] = [0, 0, 0];
const WHITE: [u8; 3] = [255, 255, 255];

/// A page.
enum Page {
    /// Lines of text, and what they are.
    Text(&'static str, Vec<String>),
    /// Some of the codes.
    Codes(Range<usize>),
}

/// What is shown, and how.
struct Show<'a> {
    screen: &'a Screen<Memory>,
    codes: Vec<String>,
    grid: Option<Grid>,
    pages: Vec<Page>,
}

/// When the pages end, as `CNTPCT_EL0`, and what then follows; or why they do not end.
type End = Result<(u64, &'static str), &'static str>;
/// How long the part of a report is shown that was written when the probe failed, in seconds.
const FAILED_SECONDS: u32 = 60;

/// Shows the pages in turn, until `next` starts, or for ever.
pub(super) fn run(report: &str, next: &Next) {
    show(
        report,
        match next {
            Next::UBoot { seconds, .. } => Ok((later(*seconds), "U-Boot starts")),
            Next::Nothing(reason) => Err(*reason),
        },
    );
}

/// Shows the part of a report that was written when the probe failed: for some time if `has_next`,
/// otherwise for ever.
pub(super) fn run_failed(part: &str, has_next: bool) {
    show(
        part,
        match has_next {
            true => Ok((later(FAILED_SECONDS), "THE PROBE FAILED: it ends")),
            false => Err("THE PROBE FAILED: hold the power button to turn off"),
        },
    );
}

/// `CNTPCT_EL0` in so many seconds.
fn later(seconds: u32) -> u64 {
    CNTPCT_EL0.get() + u64::from(seconds) * CNTFRQ_EL0.get().max(1)
}

fn show(report: &str, end: End) {
    let hertz = CNTFRQ_EL0.get().max(1);
    if let Err(reason) = end {
        console::send_line(&alloc::format!("oche: {reason}"));
    }
    let Some(screen) = console::screen() else {
        console::send_line("oche: there is no screen to show the report on");
        return while stay(end, || {}) {};
    };
    let show = Show::of(report, screen, end.is_ok());
    loop {
        for (number, page) in show.pages.iter().enumerate() {
            show.draw(number, page, end);
            let what = show.what(page);
            let count = show.pages.len();
            console::send_line(&alloc::format!("oche: page {} of {count}: {what}", number + 1));
            let next = CNTPCT_EL0.get() + PAGE_SECONDS * hertz;
            while CNTPCT_EL0.get() < next {
                if !stay(end, || show.write_title(number, page, end)) {
                    return;
                }
            }
        }
    }
}

/// Lets a second pass, then calls `update`. Returns false as soon as the time is over.
fn stay(end: End, update: impl FnOnce()) -> bool {
    let next = CNTPCT_EL0.get() + CNTFRQ_EL0.get();
    while CNTPCT_EL0.get() < next {
        if end.is_ok_and(|(end, _)| CNTPCT_EL0.get() >= end) {
            return false;
        }
        spin_loop();
    }
    update();
    true
}

impl<'a> Show<'a> {
    /// The pages: without those of the report's text if the time `is_short`, so that the codes come
    /// often enough.
    fn of(report: &str, screen: &'a Screen<Memory>, is_short: bool) -> Self {
        let codes = codes::split(report);
        let (_, area) = screen.area_below(0);
        let grid = Grid::of(area, MODULES, codes.len(), screen.scale());
        let rows = screen.rows().saturating_sub(1).max(1);
        let columns = screen.columns();
        let text_pages = |title, lines: Vec<String>| {
            let page = |lines: &[String]| Page::Text(title, lines.to_vec());
            lines.chunks(rows).map(page).collect::<Vec<Page>>()
        };
        let mut pages = text_pages("what it means", pages::answers(report, columns));
        if let Some(grid) = grid {
            let starts = (0..codes.len()).step_by(grid.count());
            let range = |start: usize| start..(start + grid.count()).min(codes.len());
            pages.extend(starts.map(|start| Page::Codes(range(start))));
        }
        if !is_short || grid.is_none() {
            let lines = report.lines().flat_map(|line| pages::wrapped(line, columns)).collect();
            pages.extend(text_pages("the report", lines));
        }
        Self { screen, codes, grid, pages }
    }

    fn draw(&self, number: usize, page: &Page, end: End) {
        self.screen.clear();
        self.write_title(number, page, end);
        match page {
            Page::Text(_, lines) => {
                for (row, line) in lines.iter().enumerate() {
                    let is_wrong = line.starts_with("FAILS") || line.ends_with("WRONG");
                    self.screen.write_row(row + 1, line, if is_wrong { WRONG } else { TEXT });
                }
            }
            Page::Codes(range) => {
                for (place, code) in self.codes.iter().take(range.end).skip(range.start).enumerate()
                {
                    self.draw_code(place, code);
                }
            }
        }
    }

    /// What `page` shows, in words.
    fn what(&self, page: &Page) -> String {
        match page {
            Page::Text(title, _) => String::from(*title),
            Page::Codes(range) => {
                let (first, last) = (range.start + 1, range.end);
                alloc::format!("codes {first} to {last} of {}, take a picture", self.codes.len())
            }
        }
    }

    fn write_title(&self, number: usize, page: &Page, end: End) {
        let what = self.what(page);
        let pages = self.pages.len();
        let after = match end {
            Ok((end, what)) => {
                let left = end.saturating_sub(CNTPCT_EL0.get()) / CNTFRQ_EL0.get().max(1);
                alloc::format!("{what} in {left} s")
            }
            Err(reason) => String::from(reason),
        };
        let title = alloc::format!(
            "page {} of {pages}, {PAGE_SECONDS} s each: {what}; {after}",
            number + 1
        );
        self.screen.write_row(0, &title, TITLE);
    }

    /// Draws `text` as a code at `place` of the grid.
    fn draw_code(&self, place: usize, text: &str) {
        let Some(Grid { columns, pixels, .. }) = self.grid else { return };
        let (mut data, mut out) = ([0; BUFFER_BYTES], [0; BUFFER_BYTES]);
        let Some(room) = data.get_mut(..text.len()) else { return };
        room.copy_from_slice(text.as_bytes());
        let level = QrCodeEcc::Low;
        let code = QrCode::encode_binary(
            &mut data,
            text.len(),
            &mut out,
            level,
            VERSION,
            VERSION,
            None,
            false,
        );
        let code = code.expect("invariant: a code's content fits its version");
        let side = (MODULES + 2 * QUIET) * pixels;
        let (top, _) = self.screen.area_below(0);
        let corner = (place % columns * side, top + place / columns * side);
        self.screen.fill(corner, (side, side), WHITE);
        for y in 0..MODULES {
            for x in 0..MODULES {
                if code.get_module(x as i32, y as i32) {
                    let left = corner.0 + (x + QUIET) * pixels;
                    let top = corner.1 + (y + QUIET) * pixels;
                    self.screen.fill((left, top), (pixels, pixels), BLACK);
                }
            }
        }
    }
}
