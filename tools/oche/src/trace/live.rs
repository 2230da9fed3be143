//! `oche trace live`: a screen of what devices may reach, over a running guest or over a trace as it is written.

use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use screen::View;
use source::Source;
use state::State;

use super::reader::{Item, TraceFile};
use super::symbols::{SymbolOptions, Symbols};
use crate::destination::{refuse_input, write_file};

mod picture;
mod screen;
mod source;
mod state;
mod svg;

/// Time between two pictures.
const FRAME: Duration = Duration::from_millis(250);
/// Time for which an answer to an order stands in the keys' line.
const MESSAGE: Duration = Duration::from_secs(4);

/// Arguments of `oche trace live`.
#[derive(Debug, Args)]
#[command(after_help = "\
FILE is one of
  a guest's RAM file         (QEMU: memory-backend-file,...,share=on); waited for if Oche is not in it yet
  a trace                    that is being written, or is whole
  /dev/virtio-ports/org.oche.trace   in the guest itself
  -                          a trace on standard input

Keys: q quit, space pause, up and down choose a stream, f filter, ? all of them. The guest is never made to wait.")]
pub struct LiveArguments {
    /// Where the events come from
    file: PathBuf,
    /// Write one screen to this file, an SVG picture, instead; FILE is a trace then
    #[arg(long, value_name = "SVG")]
    picture: Option<PathBuf>,
    /// The picture's moment, in seconds since Oche's start [default: the end]
    #[arg(long, value_name = "SECONDS", requires = "picture", value_parser = super::words::parse_seconds)]
    at: Option<u64>,
    /// The picture's stream, as the screen names it
    #[arg(long, value_name = "DART:STREAM", requires = "picture")]
    stream: Option<String>,
    #[command(flatten)]
    symbols: SymbolOptions,
}

impl LiveArguments {
    /// Shows the screen until the person has seen enough.
    ///
    /// # Errors
    ///
    /// The source cannot be read, or there is no terminal.
    pub fn run(&self) -> Result<()> {
        if let Some(picture) = &self.picture {
            return self.draw(picture);
        }
        if !std::io::stdout().is_terminal() {
            bail!(
                "standard output is no terminal; `oche trace text` and `oche trace stats` write to files and pipes, and \
                 --picture writes the screen as a picture"
            );
        }
        let symbols = self.symbols.load()?;
        let mut live = Live::new(&self.file)?;
        live.state.know(&symbols);
        let mut terminal = ratatui::try_init().context("taking over the terminal")?;
        let result = live.run(&mut terminal, &symbols);
        ratatui::restore();
        result
    }
}

/// Columns and rows of a picture.
pub const PICTURE: (u16, u16) = (132, 40);

impl LiveArguments {
    /// One screen, as a picture.
    fn draw(&self, picture: &Path) -> Result<()> {
        let svg = picture_of(&self.file, self.at, self.stream.as_deref(), &self.symbols.load()?)?;
        refuse_input(picture, std::iter::once(self.file.as_path()).chain(self.symbols.files()))?;
        write_file(picture, |out| out.write_all(svg.as_bytes()))?;
        crate::say!("{}", picture.display());
        Ok(())
    }
}

/// The screen over the trace at `path` at the moment `at`, in nanoseconds since Oche's start, with the space of `stream`
/// (`DART:STREAM`): an SVG picture of [`PICTURE`] cells.
///
/// # Errors
///
/// The file is no trace, or the stream did nothing by then.
pub fn picture_of(path: &Path, at: Option<u64>, stream: Option<&str>, symbols: &Symbols) -> Result<String> {
    let trace = TraceFile::open(path)?;
    if trace.sessions.is_empty() {
        bail!("{}: {}", path.display(), trace.warnings.join("; "));
    }
    trace.warnings.iter().for_each(|warning| crate::say!("oche: {}: {warning}", path.display()));
    let mut state = State::default();
    for item in trace.events() {
        match item {
            Item::Session(index) => {
                if let Some(session) = trace.sessions.get(index) {
                    state.begin(session.description.clone());
                }
            }
            Item::Record(record) => {
                if at.is_none_or(|at| state.clock().nanoseconds(record.time()) <= at) {
                    state.take(&record);
                }
            }
            Item::Lost { records, .. } | Item::Unreadable { records, .. } => state.lose(records),
        }
    }
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let mut view = View { source: super::description::plain(&name), ..View::default() };
    if let Some(stream) = stream {
        let mut known = state.streams().keys();
        let place = known.position(|(dart, of)| format!("{}:{}", dart.index(), of.index()) == stream);
        view.chosen = place.with_context(|| format!("no stream {stream} did anything by then"))?;
    }
    let mut terminal = Terminal::new(TestBackend::new(PICTURE.0, PICTURE.1)).context("drawing")?;
    terminal.draw(|frame| screen::draw(frame, &state, &view, symbols)).context("drawing")?;
    Ok(svg::draw(terminal.backend().buffer()))
}

/// Pixels of a picture, across and down.
#[must_use]
pub fn picture_size() -> (u32, u32) {
    svg::size(PICTURE.0, PICTURE.1)
}

/// What the loop does after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
enum Next {
    GoOn,
    Quit,
}

struct Live {
    source: Source,
    state: State,
    /// What is shown while it is paused.
    frozen: Option<State>,
    view: View,
    said: Instant,
    /// When the newest event came, for time to pass behind it.
    newest: (u64, Instant),
}

impl Live {
    fn new(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        Ok(Self {
            source: Source::open(path)?,
            state: State::default(),
            frozen: None,
            view: View { source: super::description::plain(&name), ..View::default() },
            said: Instant::now(),
            newest: (0, Instant::now()),
        })
    }

    fn run(&mut self, terminal: &mut ratatui::DefaultTerminal, symbols: &Symbols) -> Result<()> {
        loop {
            self.update()?;
            terminal
                .draw(|frame| {
                    screen::draw(frame, self.frozen.as_ref().unwrap_or(&self.state), &self.view, symbols)
                })
                .context("drawing")?;
            let until = Instant::now() + FRAME;
            while event::poll(until.saturating_duration_since(Instant::now())).context("waiting for a key")? {
                let Event::Key(key) = event::read().context("reading a key")? else { break };
                if key.kind != KeyEventKind::Press {
                    continue;
                }
                let is_interrupt =
                    key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
                if is_interrupt || self.press(key.code) == Next::Quit {
                    return Ok(());
                }
                break;
            }
        }
    }

    /// Takes in what is new, for at most the time of a picture.
    fn update(&mut self) -> Result<()> {
        let begun = Instant::now();
        while self.source.poll(&mut self.state)? && begun.elapsed() < FRAME {}
        if self.newest.0 != self.state.newest_ticks {
            self.newest = (self.state.newest_ticks, Instant::now());
        }
        if self.source.is_running() && self.state.description.is_some() {
            // A guest that does no DMA makes no events, and its rates fall to nothing.
            let (seconds, _) = self.state.clock().seconds(self.newest.0);
            self.state.advance(seconds + self.newest.1.elapsed().as_secs());
        }
        self.view.recorded = self.source.recorded().filter(|text| !is_everything(text)).unwrap_or_default();
        if self.said.elapsed() > MESSAGE {
            self.view.message.clear();
        }
        Ok(())
    }

    fn press(&mut self, key: KeyCode) -> Next {
        if let Some(mut order) = self.view.typing.take() {
            match key {
                KeyCode::Enter => self.order(&order),
                KeyCode::Esc => {}
                KeyCode::Backspace => {
                    order.pop();
                    self.view.typing = Some(order);
                }
                KeyCode::Char(char) => {
                    order.push(char);
                    self.view.typing = Some(order);
                }
                _ => self.view.typing = Some(order),
            }
            return Next::GoOn;
        }
        let last = self.state.streams().len().saturating_sub(1);
        match key {
            KeyCode::Char('q') => return Next::Quit,
            KeyCode::Char(' ') => {
                self.frozen = if self.frozen.is_some() { None } else { Some(self.state.clone()) };
                self.view.is_paused = self.frozen.is_some();
            }
            KeyCode::Down | KeyCode::Char('j') => self.view.chosen = (self.view.chosen + 1).min(last),
            KeyCode::Up | KeyCode::Char('k') => {
                self.view.chosen = self.view.chosen.min(last).saturating_sub(1)
            }
            KeyCode::Char('f') => self.view.typing = Some(String::new()),
            KeyCode::Char('o') => {
                if let Some((dart, stream)) = self.view.place(&self.state) {
                    self.order(&format!("streams {}:{}", dart.index(), stream.index()));
                }
            }
            KeyCode::Char('e') => {
                for order in ["start", "streams all", "iova all"] {
                    self.order(order);
                }
            }
            KeyCode::Char('?') => self.view.has_help = !self.view.has_help,
            KeyCode::Esc => self.view.has_help = false,
            _ => {}
        }
        Next::GoOn
    }

    fn order(&mut self, line: &str) {
        self.view.message = match self.source.order(line) {
            Ok(()) => format!("ordered: {line}"),
            Err(error) => format!("{error:#}"),
        };
        self.said = Instant::now();
    }
}

/// Whether `recorded`, lines of `oche trace filter`, leaves nothing out.
fn is_everything(recorded: &str) -> bool {
    recorded.starts_with("kinds all\nstreams all\niova all\n")
}

#[cfg(test)]
mod tests;
