//! What others ask of the trace while the guest runs: a block in the directory that they write and
//! Oche reads, and the lines of text that mean the same.
//!
//! Byte offsets in the block, which begins at [`CONTROL`] in the directory:
//!
//! ```text
//! 0x00  u64 generation: odd while it is being written, 0 where nothing was ever asked
//! 0x08  u64 kinds: bit k, events of kind k are recorded
//! 0x10  u64 bytes of a snapshot, at most 4096; 0: none are taken
//! 0x18  u64 whether who called is recorded at a flush: 0 or 1 (as where nothing was ever asked)
//! 0x20  selection of the events
//! 0x80  selection of the snapshots
//! 0xe0  watches: four selections; one without a stream watches nothing
//! ```
//!
//! A selection is u64 first IOVA, u64 last IOVA (included), then 32 u16: a set of streams for each
//! DART.
//!
//! The writer makes the generation odd, writes, and makes it the next even number. Oche takes over
//! a generation that was even and the same before and after it read the block. There is one writer
//! at a time: of two at once one wins, or a mixture, which does no harm.

use core::fmt;

use oche_types::addr::PAGE_BYTES;
use oche_types::dart::stream::{DartId, MAX_DARTS, StreamId, StreamSet};
use oche_types::event::Kind;
use oche_types::selection::{MAX_WATCHED_BYTES, MAX_WATCHES, Selection};

use crate::directory::{CONTROL, DIRECTORY_BYTES};
use crate::filter::Filter;
use crate::words::Words;

/// Bytes of the block.
pub const CONTROL_BYTES: usize = WATCHES + MAX_WATCHES * WATCH_STRIDE;
/// Most bytes of a page that a snapshot takes: all of it.
pub const MAX_SNAPSHOT_BYTES: u16 = PAGE_BYTES as u16;

const GENERATION: usize = 0x00;
/// The word of the trace's memory that changes with each setting.
pub const GENERATION_WORD: usize = (CONTROL + GENERATION) / 8;
const KINDS: usize = 0x08;
const SNAPSHOT_BYTES: usize = 0x10;
const CALLERS: usize = 0x18;
const EVENTS: usize = 0x20;
const SNAPSHOTS: usize = 0x80;
const WATCHES: usize = 0xe0;
const WATCH_STRIDE: usize = SELECTION_WORDS * 8;
const SELECTION_WORDS: usize = 2 + MAX_DARTS / 4;

const _: () = {
    assert!(
        EVENTS + SELECTION_WORDS * 8 <= SNAPSHOTS && SNAPSHOTS + SELECTION_WORDS * 8 <= WATCHES
    );
    assert!(CONTROL + CONTROL_BYTES <= DIRECTORY_BYTES);
};

/// All that can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Which events are recorded.
    pub events: Filter,
    /// Bytes that are taken of a page that a device may begin to read, or that it has ended to
    /// write: up to [`MAX_SNAPSHOT_BYTES`], 0 for none.
    pub snapshot_bytes: u16,
    /// Of which pages.
    pub snapshots: Selection,
    /// Whether the callers of the code that flushes are recorded.
    pub has_callers: bool,
    /// Where every access of a CPU is recorded; [`Selection::NONE`] watches nothing. Of a range,
    /// the first [`MAX_WATCHED_BYTES`] count.
    pub watches: [Selection; MAX_WATCHES],
}

impl Default for Control {
    fn default() -> Self {
        let watches = [Selection::NONE; MAX_WATCHES];
        Self {
            events: Filter::default(),
            snapshot_bytes: 0,
            snapshots: Selection::ALL,
            has_callers: true,
            watches,
        }
    }
}

/// Oche's side of the block.
#[derive(Clone, Copy, Debug, Default)]
pub struct ControlReader {
    generation: u64,
}

impl ControlReader {
    /// Whether anything was asked since the last [`Self::changed`], if [`GENERATION_WORD`] of the
    /// trace's memory is `generation` now.
    #[inline]
    pub fn is_changed(&self, generation: u64) -> bool {
        generation != self.generation
    }

    /// What was asked since the last call, with the number of the setting.
    pub fn changed(&mut self, words: &impl Words) -> Option<(u32, Control)> {
        let generation = words.load(GENERATION_WORD);
        if generation == self.generation { None } else { self.read(words, generation) }
    }

    /// Reads the block once: a writer that never ends cannot hold the reader.
    fn read(&mut self, words: &impl Words, generation: u64) -> Option<(u32, Control)> {
        if generation & 1 != 0 {
            return None;
        }
        let control = Control::load(words);
        if words.load(GENERATION_WORD) != generation {
            return None;
        }
        self.generation = generation;
        Some(((generation / 2) as u32, control))
    }
}

impl Control {
    /// What the block holds now, if no write is under way.
    pub fn current(words: &impl Words) -> Option<Self> {
        let generation = words.load(GENERATION_WORD);
        let control = if generation == 0 { Self::default() } else { Self::load(words) };
        let is_whole = generation & 1 == 0 && words.load(GENERATION_WORD) == generation;
        if is_whole { Some(control) } else { None }
    }

    /// Asks for this.
    pub fn publish(&self, words: &impl Words) {
        let generation = words.load(GENERATION_WORD);
        let set = |offset: usize, value| words.store((CONTROL + offset) / 8, value);
        set(GENERATION, generation | 1);
        set(KINDS, self.events.kinds());
        set(SNAPSHOT_BYTES, u64::from(self.snapshot_bytes));
        set(CALLERS, u64::from(self.has_callers));
        store_selection(words, EVENTS, self.events.selection());
        store_selection(words, SNAPSHOTS, &self.snapshots);
        for (index, watch) in self.watches.iter().enumerate() {
            store_selection(words, WATCHES + index * WATCH_STRIDE, watch);
        }
        set(GENERATION, (generation | 1).wrapping_add(1));
    }

    fn load(words: &impl Words) -> Self {
        let get = |offset: usize| words.load((CONTROL + offset) / 8);
        let snapshot_bytes = get(SNAPSHOT_BYTES).min(u64::from(MAX_SNAPSHOT_BYTES));
        Self {
            events: Filter::new(get(KINDS), load_selection(words, EVENTS)),
            snapshot_bytes: snapshot_bytes as u16,
            snapshots: load_selection(words, SNAPSHOTS),
            has_callers: get(CALLERS) == 1,
            watches: core::array::from_fn(|index| {
                load_selection(words, WATCHES + index * WATCH_STRIDE)
            }),
        }
    }

    /// Changes what `line` names and leaves the rest:
    ///
    /// ```text
    /// start | stop                       record everything chosen again | no event at all
    /// kinds all | map,unmap,...          these kinds only
    /// streams all | 0:1,0:2,1:*          these streams only, as DART:STREAM
    /// iova all | 0xbff00000-0xbfffffff   this range only, both ends included
    /// snapshot off | BYTES [streams ...] [iova ...]
    /// callers on | off                   who called, at each flush: on by default
    /// watch off | 0xbff00000-0xbff00fff [streams ...]     no range | one more whose accesses by CPUs are recorded
    /// ```
    ///
    /// ```
    /// # use oche_trace::control::Control;
    /// let mut control = Control::default();
    /// control.apply("kinds map,unmap").unwrap();
    /// control.apply("snapshot 256 streams 0:1").unwrap();
    /// assert_eq!(control.snapshot_bytes, 256);
    /// ```
    ///
    /// # Errors
    ///
    /// [`ControlError`]; then nothing has changed.
    pub fn apply(&mut self, line: &str) -> Result<(), ControlError> {
        let mut words = line.split_whitespace();
        let mut changed = *self;
        let (kinds, mut selection) = (self.events.kinds(), *self.events.selection());
        let events = match (words.next(), words.next()) {
            (Some("start"), None) => Filter::new(u64::MAX, selection),
            (Some("stop"), None) => Filter::new(0, selection),
            (Some("kinds"), Some(names)) => Filter::new(parse_kinds(names)?, selection),
            (Some("snapshot"), Some(bytes)) => {
                changed.snapshot_bytes = parse_snapshot_bytes(bytes)?;
                while let Some(word) = words.next() {
                    change(&mut changed.snapshots, word, words.next())?;
                }
                self.events
            }
            (Some("callers"), Some(word @ ("on" | "off"))) => {
                changed.has_callers = word == "on";
                self.events
            }
            (Some("watch"), Some("off")) => {
                changed.watches = Self::default().watches;
                self.events
            }
            (Some("watch"), Some(range)) => {
                let mut watch = Selection::ALL;
                change(&mut watch, "iova", Some(range))?;
                while let Some(word) = words.next() {
                    change(&mut watch, word, words.next())?;
                }
                changed.add_watch(watch)?;
                self.events
            }
            (Some(word), value) => {
                change(&mut selection, word, value)?;
                Filter::new(kinds, selection)
            }
            (None, _) => return Err(ControlError::Command),
        };
        if words.next().is_some() {
            return Err(ControlError::Command);
        }
        *self = Self { events, ..changed };
        Ok(())
    }

    /// What is watched.
    pub fn watched(&self) -> impl Iterator<Item = &Selection> {
        self.watches.iter().filter(|watch| watch.has_streams())
    }

    fn add_watch(&mut self, watch: Selection) -> Result<(), ControlError> {
        if watch.last - watch.first >= MAX_WATCHED_BYTES {
            return Err(ControlError::WatchBytes);
        }
        let free = self.watches.iter_mut().find(|watch| !watch.has_streams());
        *free.ok_or(ControlError::Watches)? = watch;
        Ok(())
    }
}

/// Changes what `word` and its `value` name of `selection`.
fn change(selection: &mut Selection, word: &str, value: Option<&str>) -> Result<(), ControlError> {
    match (word, value) {
        ("streams", Some("all")) => selection.streams = Selection::ALL.streams,
        ("streams", Some(list)) => {
            selection.streams = parse_streams(list).ok_or(ControlError::Streams)?
        }
        ("iova", Some("all")) => (selection.first, selection.last) = (0, u64::MAX),
        ("iova", Some(range)) => {
            (selection.first, selection.last) = parse_range(range).ok_or(ControlError::Range)?;
        }
        _ => return Err(ControlError::Command),
    }
    Ok(())
}

/// Why a line asks for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// No such word, or too few or too many of them.
    Command,
    /// A kind of event that there is not.
    Kind,
    /// Streams are `0:1,0:2,1:*` or `all`.
    Streams,
    /// A range is `0x1000-0x1fff` or `all`.
    Range,
    /// A snapshot takes 1 to 4096 bytes.
    SnapshotBytes,
    /// There are as many watches as there can be.
    Watches,
    /// A watch covers too much.
    WatchBytes,
}

impl fmt::Display for ControlError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Command => {
                "expected start, stop, kinds LIST, streams LIST, iova RANGE, snapshot BYTES [streams LIST] [iova RANGE], callers on|off, or watch RANGE [streams LIST]"
            }
            Self::Kind => "no such kind of event (map, unmap, io_page_fault, ... or all)",
            Self::Streams => "streams are DART:STREAM, separated by commas (0:1,0:2,1:*), or all",
            Self::Range => "a range is FIRST-LAST (0xbff00000-0xbfffffff), both included, or all",
            Self::SnapshotBytes => "a snapshot takes 1 to 4096 bytes of a page, or is off",
            Self::Watches => "there are four watches already; `watch off` ends them",
            Self::WatchBytes => "a watch covers at most 4 MiB of IOVAs, such as 0xbff00000-0xbff00fff",
        })
    }
}

impl core::error::Error for ControlError {}

fn parse_kinds(names: &str) -> Result<u64, ControlError> {
    if names == "all" {
        return Ok(u64::MAX);
    }
    names.split(',').try_fold(0, |kinds, name| {
        let kind =
            Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or(ControlError::Kind)?;
        Ok(kinds | 1 << kind.number())
    })
}

fn parse_snapshot_bytes(text: &str) -> Result<u16, ControlError> {
    let bytes = if text == "off" { Some(0) } else { text.parse().ok().filter(|bytes| *bytes != 0) };
    bytes.filter(|bytes| *bytes <= MAX_SNAPSHOT_BYTES).ok_or(ControlError::SnapshotBytes)
}

fn parse_streams(list: &str) -> Option<[StreamSet; MAX_DARTS]> {
    let mut streams = [StreamSet(0); MAX_DARTS];
    for entry in list.split(',') {
        let (dart, stream) = entry.split_once(':')?;
        let set = streams.get_mut(DartId::new(dart.parse().ok()?)?.index())?;
        match stream {
            "*" => *set = StreamSet(u16::MAX),
            stream => set.insert(StreamId::new(stream.parse().ok()?)?),
        }
    }
    Some(streams)
}

fn parse_range(range: &str) -> Option<(u64, u64)> {
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    let (first, last) = (number(first)?, number(last)?);
    if first <= last { Some((first, last)) } else { None }
}

fn store_selection(words: &impl Words, offset: usize, selection: &Selection) {
    let first = (CONTROL + offset) / 8;
    words.store(first, selection.first);
    words.store(first + 1, selection.last);
    for (index, sets) in selection.streams.as_chunks::<4>().0.iter().enumerate() {
        let word = sets.iter().rev().fold(0, |word, set| word << 16 | u64::from(set.0));
        words.store(first + 2 + index, word);
    }
}

fn load_selection(words: &impl Words, offset: usize) -> Selection {
    let first = (CONTROL + offset) / 8;
    let mut streams = [StreamSet(0); MAX_DARTS];
    for (index, sets) in streams.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let word = words.load(first + 2 + index);
        for (place, set) in sets.iter_mut().enumerate() {
            *set = StreamSet((word >> (16 * place)) as u16);
        }
    }
    Selection { streams, first: words.load(first), last: words.load(first + 1) }
}

#[cfg(test)]
mod tests;
