//! The layout of the live screen.

use std::collections::BTreeMap;

use oche_trace::text::Line as TraceLine;
use oche_types::addr::PAGE_BYTES;
use oche_types::dart::stream::{DartId, StreamId};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Sparkline, Table};

use super::picture::{self, Cell};
use super::state::State;
use crate::trace::symbols::Symbols;

/// Columns in front of a row of the picture: `0x00000000bff43000 `.
const LABEL_COLUMNS: u16 = 13;

/// The user's choices.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// The source's name in the title.
    pub(super) source: String,
    pub(super) chosen: usize,
    pub(super) is_paused: bool,
    /// The order being typed, if one is.
    pub(super) typing: Option<String>,
    /// The answer to the last order.
    pub(super) message: String,
    /// The recording filter, where it is known.
    pub(super) recorded: String,
    pub(super) has_help: bool,
}

impl View {
    /// The stream that is chosen.
    pub(super) fn place(&self, state: &State) -> Option<(DartId, StreamId)> {
        let last = state.streams().len().checked_sub(1)?;
        state.streams().keys().nth(self.chosen.min(last)).copied()
    }
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, view: &View, symbols: &Symbols) {
    let devices = (state.streams().len() as u16 + 3).clamp(5, 14);
    let [title, totals, curves, tables, space, alarms, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(5),
        Constraint::Length(devices),
        Constraint::Min(4),
        Constraint::Length(5),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_title(frame, title, state, view);
    draw_totals(frame, totals, state);
    draw_curves(frame, curves, state);
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(58), Constraint::Percentage(42)]).areas(tables);
    draw_devices(frame, left, state, view);
    draw_places(frame, right, state, symbols);
    draw_space(frame, space, state, view);
    draw_alarms(frame, alarms, state);
    draw_keys(frame, keys, view);
    if view.has_help {
        draw_help(frame);
    }
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, state: &State, view: &View) {
    let board =
        state.description.as_ref().map_or("waiting for Oche", |known| known.machine.board.as_str());
    let (seconds, nanoseconds) = state.clock().seconds(state.newest_ticks);
    let mut spans = vec![
        " oche live ".bold().reversed(),
        format!(" {board}  {}  {seconds}.{:01} s ", view.source, nanoseconds / 100_000_000).into(),
    ];
    if state.sessions > 1 {
        spans.push(format!(" boot {} ", state.sessions).into());
    }
    if view.is_paused {
        spans.push(" PAUSED ".bold().reversed());
    }
    if !view.recorded.is_empty() {
        spans.push(format!(" filter: {} ", view.recorded).yellow());
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn draw_totals(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let second = state.last_second();
    let alarm = |count: u64| if count == 0 { Style::new() } else { Style::new().red().bold() };
    let line = Line::from(vec![
        format!(" mapped {}  ", size(state.mapped_pages() * PAGE_BYTES as u64)).bold(),
        format!("maps {}/s  unmaps {}/s  ", number(second.maps), number(second.unmaps)).into(),
        format!("flushes {}/s  events {}/s  ", number(second.flushes), number(second.events))
            .into(),
        Span::styled(format!("faults {}  ", number(state.faults())), alarm(state.faults())),
        Span::styled(format!("lost {}  ", number(state.lost)), alarm(state.lost)),
        format!("{} events in all", number(state.events)).into(),
    ]);
    frame.render_widget(Paragraph::new(line), area);
}

fn draw_curves(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
    for (area, name, colour, curve) in [
        (left, "maps/s", Color::Green, state.curve(|second| second.maps)),
        (right, "flushes/s", Color::Cyan, state.curve(|second| second.flushes)),
    ] {
        let columns = usize::from(area.width.saturating_sub(2));
        let newest = curve.get(curve.len().saturating_sub(columns)..).unwrap_or_default();
        let most = newest.iter().max().copied().unwrap_or(0);
        let (most, seconds) = (number(most), newest.len());
        let block =
            Block::bordered().title(format!(" {name}, at most {most} in these {seconds} s "));
        frame.render_widget(Sparkline::default().block(block).data(newest).style(colour), area);
    }
}

fn draw_devices(frame: &mut Frame<'_>, area: Rect, state: &State, view: &View) {
    let second = state.last_second();
    let chosen = view.place(state);
    let room = usize::from(area.height.saturating_sub(3));
    let first = view
        .chosen
        .min(state.streams().len().saturating_sub(1))
        .saturating_sub(room.saturating_sub(1));
    // Beside the other columns, the gaps between them, and the borders.
    let name_room = usize::from(area.width.saturating_sub(5 + 9 + 3 * 7 + 6 + 6 + 2));
    let rows = state.streams().iter().skip(first).map(|(place, stream)| {
        let rates = second.rates(*place);
        let alarms = stream.faults + stream.red_zones + stream.refused;
        let label = state.label(*place);
        let name = if label.len() <= name_room { label } else { state.name(*place) };
        let names = [format!("{}:{}", place.0.index(), place.1.index()), name];
        let figures = [
            size(stream.mapped * PAGE_BYTES as u64),
            number(rates.maps),
            number(rates.flushes),
            number(stream.maps),
            number(alarms),
        ];
        let row = Row::new(names.map(Line::from).into_iter().chain(figures.map(figure)));
        let row = if alarms > 0 { row.red() } else { row };
        if Some(*place) == chosen { row.reversed() } else { row }
    });
    let widths = [
        Constraint::Length(5),
        Constraint::Min(10),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(6),
    ];
    let figures =
        ["mapped", "maps/s", "flush/s", "maps", "alarms"].map(|name| figure(name.to_owned()));
    let header = Row::new(["", "device"].map(Line::from).into_iter().chain(figures));
    let header = header.add_modifier(Modifier::DIM);
    let table = Table::new(rows, widths)
        .header(header)
        .block(Block::bordered().title(" devices, by DART:stream "));
    frame.render_widget(table, area);
}

/// The guest's code that caused most events; what has a name is added up by it.
fn draw_places(frame: &mut Frame<'_>, area: Rect, state: &State, symbols: &Symbols) {
    let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
    let mut all = 0;
    for (program_counter, events) in state.busiest() {
        all += events;
        let name = symbols.find(program_counter).map(|place| match place.module {
            Some(module) => format!("{} [{module}]", place.function),
            None => place.function.to_owned(),
        });
        *by_name.entry(name.unwrap_or_else(|| symbols.name(program_counter))).or_default() +=
            events;
    }
    let mut sorted: Vec<(String, u64)> = by_name.into_iter().collect();
    sorted.sort_by_key(|(_, events)| std::cmp::Reverse(*events));
    let rows = sorted.into_iter().map(|(name, events)| {
        let share = format!("{:3.0} %", events as f64 * 100.0 / f64::max(all as f64, 1.0));
        Row::new([figure(share), figure(number(events)), Line::from(name)])
    });
    let widths = [Constraint::Length(5), Constraint::Length(7), Constraint::Min(10)];
    let header = [Line::default(), figure("events".into()), Line::from("guest code")];
    let header = Row::new(header).add_modifier(Modifier::DIM);
    let table =
        Table::new(rows, widths).header(header).block(Block::bordered().title(" caused by "));
    frame.render_widget(table, area);
}

fn draw_space(frame: &mut Frame<'_>, area: Rect, state: &State, view: &View) {
    let Some(place) = view.place(state) else {
        frame.render_widget(Block::bordered().title(" IOVA space "), area);
        return;
    };
    let Some(stream) = state.streams().get(&place) else { return };
    let (width, height) =
        (area.width.saturating_sub(2 + LABEL_COLUMNS), usize::from(area.height.saturating_sub(2)));
    let (scale, rows) = picture::draw(&stream.pages, usize::from(width), height);
    let title = format!(
        " IOVA space of {}: {} pages mapped, a cell is {} ",
        state.label(place),
        number(stream.mapped),
        size(scale * PAGE_BYTES as u64)
    );
    let lines: Vec<Line<'_>> = rows.iter().map(|row| space_line(row.iova, &row.cells)).collect();
    let legend = Line::from(vec![
        " \u{2588}".green(),
        " mapped  ".into(),
        "\u{2592}".green(),
        " in part  ".into(),
        "\u{b7}".dark_gray(),
        " was mapped  ".into(),
        "x".red().bold(),
        " fault or red zone ".into(),
    ]);
    let legend = legend.right_aligned();
    let block = Block::bordered().title(title).title_bottom(legend);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn space_line(iova: u64, cells: &[Cell]) -> Line<'static> {
    let mut spans = vec![Span::from(format!("{iova:#012x} ")).dim()];
    for cell in cells {
        let style = match (cell.has_alarm, cell.mapped) {
            (true, _) => Style::new().red().bold(),
            (false, 0) => Style::new().dark_gray(),
            (false, _) => Style::new().green(),
        };
        spans.push(Span::styled(cell.symbol().to_string(), style));
    }
    Line::from(spans)
}

fn draw_alarms(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let room = usize::from(area.height.saturating_sub(2));
    let lines: Vec<Line<'_>> = state
        .alarms
        .iter()
        .rev()
        .take(room)
        .map(|record| {
            let device = record.dart().zip(record.stream()).map(|place| state.name(place));
            let text = TraceLine::of(record, state.clock(), device.as_deref()).to_string();
            // Without the columns that are the same in every line.
            let text =
                text.split_once("..... ").map_or(text.as_str(), |(_, rest)| rest).trim_start();
            Line::from(text.to_owned()).red()
        })
        .collect();
    let block = Block::bordered().title(" faults, red zones, refused ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn draw_keys(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let line = match &view.typing {
        Some(order) => Line::from(vec![" filter> ".bold(), order.clone().into(), "\u{2588}".into()]),
        None if !view.message.is_empty() => Line::from(format!(" {}", view.message)).yellow(),
        None => Line::from(" q quit  space pause  \u{2191}\u{2193} stream  f filter  o only this stream  e everything  ? help").dim(),
    };
    frame.render_widget(Paragraph::new(line), area);
}

fn draw_help(frame: &mut Frame<'_>) {
    const HELP: &str = "\
q            quit
space        stand still; events are still taken in
up, down     choose a stream: its IOVA space is drawn
o            record only this stream
e            record everything
f            type an order, Enter sends it, Esc leaves it:
               start | stop
               kinds all | map,unmap,io_page_fault,...
               streams all | 0:1,1:*
               iova all | 0xbff00000-0xbfffffff
               snapshot off | 256 [streams ...] [iova ...]
?            this, and away again";
    let area = frame.area();
    let lines = HELP.lines().count() as u16;
    let columns = HELP.lines().map(str::len).max().unwrap_or(0) as u16;
    let (width, height) = ((columns + 4).min(area.width), (lines + 2).min(area.height));
    let area = Rect { x: (area.width - width) / 2, y: (area.height - height) / 2, width, height };
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(HELP).block(Block::bordered().title(" keys ")), area);
}

/// A figure in a table: its digits stand below those of the others.
fn figure(text: String) -> Line<'static> {
    Line::from(text).right_aligned()
}

/// A count in at most six columns.
fn number(value: u64) -> String {
    match value {
        0..100_000 => value.to_string(),
        100_000..10_000_000 => format!("{} k", value / 1000),
        _ => format!("{} M", value / 1_000_000),
    }
}

/// Bytes in at most nine columns.
fn size(bytes: u64) -> String {
    match bytes >> 10 {
        kibibytes @ 0..10_000 => format!("{kibibytes} KiB"),
        kibibytes @ 10_000..10_000_000 => format!("{} MiB", kibibytes >> 10),
        kibibytes => format!("{} GiB", kibibytes >> 20),
    }
}
