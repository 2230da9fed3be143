//! Accesses that were refused and writes into red zones: used after an unmap, in the wrong
//! direction, or wild.

use oche_trace::record::Record;
use oche_types::addr::{IovaPage, PAGE_BYTES};
use oche_types::event::Event;

use super::super::lifetime::{Lifetimes, Mapping, StreamPlace};
use super::super::words::{direction, many, permission};
use super::finding::{About, Detector, Reporter};
use super::recent::{Gone, Recent};

/// The page's history before an access, as far as it is known.
pub(super) struct Before<'a> {
    pub(super) lifetimes: &'a Lifetimes,
    pub(super) recent: &'a Recent,
    /// Time of the last event before others went missing: what was mapped and unmapped by then may
    /// have changed.
    pub(super) missing_until: Option<u64>,
}

impl Before<'_> {
    fn live(&self, place: StreamPlace, page: IovaPage) -> Option<Mapping> {
        self.lifetimes.at(place, page).filter(|mapping| self.is_known(mapping.since.time))
    }

    fn gone(&self, place: StreamPlace, page: IovaPage) -> Option<&Gone> {
        let gone = self.recent.find(self.lifetimes.space(place), page);
        gone.filter(|gone| self.is_known(gone.unmapped.time))
    }

    fn is_known(&self, time: u64) -> bool {
        self.missing_until.is_none_or(|until| time > until)
    }
}

/// Why something happened, and who is behind it.
struct Verdict {
    detector: Detector,
    because: String,
    program_counter: u64,
}

/// Judges a refused access, or a write into a red zone.
pub(super) fn judge(
    event: &Event,
    record: &Record,
    before: &Before<'_>,
    reporter: &mut Reporter<'_>,
) {
    match event {
        Event::Fault { .. } => fault(event, record, before, reporter),
        _ => red_zone(event, record, before, reporter),
    }
}

/// Judges a refused access.
fn fault(event: &Event, record: &Record, before: &Before<'_>, reporter: &mut Reporter<'_>) {
    let Event::Fault { dart, stream, iova, code, is_write, .. } = *event else { return };
    let place = StreamPlace::new(dart, stream);
    let page = u32::try_from(iova / PAGE_BYTES as u64).ok().map(IovaPage);
    let live = page.and_then(|page| before.live(place, page));
    let gone = page.and_then(|page| before.gone(place, page));
    let wrong_direction = live.filter(|mapping| !mapping.allows(is_write));
    let verdict = if let Some(mapping) = wrong_direction {
        Verdict {
            detector: Detector::WrongDirection,
            because: format!(
                "it is mapped for the device to {} only, since {}, {}.",
                permission(mapping.permission),
                reporter.at(mapping.since.time),
                reporter.by(&mapping.since)
            ),
            program_counter: mapping.since.program_counter,
        }
    } else if let Some(gone) = gone {
        let until = gone.unmapped;
        let again = match live {
            Some(mapping) => {
                format!(" It is mapped again since {}.", reporter.at(mapping.since.time))
            }
            None => String::new(),
        };
        Verdict {
            detector: Detector::UseAfterUnmap,
            because: format!(
                "it was mapped to guest page {:#x} at {}, {}, and unmapped at {}, {}; \
                 the fault was seen {} later.{again}",
                gone.page.address(),
                reporter.at(gone.mapped.time),
                reporter.by(&gone.mapped),
                reporter.at(until.time),
                reporter.by(&until),
                reporter.between(until.time, record.time())
            ),
            program_counter: until.program_counter,
        }
    } else {
        wild(live.as_ref(), code, before.missing_until, reporter)
    };
    let Verdict { detector, because, program_counter } = verdict;
    let message =
        format!("The device was refused a {} at {iova:#x}: {because}", direction(is_write));
    reporter.report(About { detector, place, iova: Some(iova), program_counter }, record, message);
}

fn wild(
    live: Option<&Mapping>,
    code: u16,
    missing_until: Option<u64>,
    reporter: &Reporter<'_>,
) -> Verdict {
    let because = match (live, missing_until) {
        (Some(mapping), _) => format!(
            "it is mapped now, since {}, {}: the device came before the mapping did.",
            reporter.at(mapping.since.time),
            reporter.by(&mapping.since)
        ),
        (None, Some(until)) => {
            format!(
                "what was mapped there is not known, for events before {} are missing.",
                reporter.at(until)
            )
        }
        (None, None) if code & 1 != 0 => {
            "the stream has no tables for it, and had nothing mapped there.".into()
        }
        (None, None) => "nothing had been mapped there.".into(),
    };
    let program_counter = live.map_or(0, |mapping| mapping.since.program_counter);
    Verdict { detector: Detector::WildAccess, because, program_counter }
}

/// Judges a write into a red zone.
fn red_zone(event: &Event, record: &Record, before: &Before<'_>, reporter: &mut Reporter<'_>) {
    let Event::RedZone { at, offset, bytes } = *event else { return };
    let place = StreamPlace::from(at);
    let iova = at.iova.iova().saturating_add(u64::from(offset));
    let page = IovaPage((iova / PAGE_BYTES as u64) as u32);
    let neighbour = || before.live(place, IovaPage(page.0.checked_sub(1)?));
    let verdict = match (before.gone(place, page), neighbour()) {
        (Some(gone), _) => Verdict {
            detector: Detector::UseAfterUnmap,
            because: format!(
                "it had been unmapped at {}, {}.",
                reporter.at(gone.unmapped.time),
                reporter.by(&gone.unmapped)
            ),
            program_counter: gone.unmapped.program_counter,
        },
        (None, Some(mapping)) => Verdict {
            detector: Detector::RedZoneHit,
            because: format!(
                "nothing was mapped there; the page before it was, {}: a buffer may have been overrun.",
                reporter.by(&mapping.since)
            ),
            program_counter: mapping.since.program_counter,
        },
        (None, None) => Verdict {
            detector: Detector::RedZoneHit,
            because: "nothing was mapped there.".into(),
            program_counter: 0,
        },
    };
    let Verdict { detector, because, program_counter } = verdict;
    let message = format!(
        "The device wrote {} from {iova:#x} on, into a red zone: {because} Seen at the next change of the \
         granule; no memory of the guest was hit.",
        many(u64::from(bytes), "byte")
    );
    reporter.report(About { detector, place, iova: Some(iova), program_counter }, record, message);
}
