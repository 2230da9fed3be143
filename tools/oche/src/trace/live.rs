//! `oche trace live`: a screen of what devices may reach, over a running guest or over a trace as
//! it is written.

use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use screen::View;
use state::State;

use super::filter::EventFilter;
use super::filter::options::{IovaOptions, WhomOptions};
use super::follow::{Follower, LiveSource};
use super::names::Function;
use super::recorder::NameWatch;
use super::signals::Signals;
use super::symbols::{SymbolOptions, Symbols};

mod picture;
mod screen;
mod state;

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
    #[command(flatten)]
    symbols: SymbolOptions,
    #[command(flatten)]
    whom: WhomOptions,
    #[command(flatten)]
    iova: IovaOptions,
}

impl LiveArguments {
    /// Shows the screen until the user quits.
    ///
    /// # Errors
    ///
    /// The source cannot be read, or there is no terminal.
    pub fn run(&self) -> Result<()> {
        if !std::io::stdout().is_terminal() {
            bail!(
                "standard output is no terminal; `oche trace text` and `oche trace stats` write to files and pipes"
            );
        }
        let symbols = self.symbols.load()?;
        let mut live = Live::new(&self.file)?;
        live.know(symbols);
        let (whom, iova) = (self.whom.unchecked(), self.iova.range());
        live.choose(EventFilter { whom, iova, ..EventFilter::default() });
        let signals = Signals::catch()?;
        let mut terminal = ratatui::try_init().context("taking over the terminal")?;
        let result = live.run(&mut terminal, &signals);
        ratatui::restore();
        result
    }
}

/// The loop's action after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
enum Next {
    GoOn,
    Quit,
}

struct Live {
    source: LiveSource,
    state: State,
    /// The state that is shown while it is paused.
    frozen: Option<State>,
    view: View,
    answered_at: Instant,
    /// When the newest event came, for time to pass behind it.
    newest: (u64, Instant),
    symbols: Symbols,
    guest: GuestNames,
}

/// The guest's own names, where no file has them.
#[derive(Default)]
struct GuestNames {
    /// A file has them.
    is_given: bool,
    ram: PathBuf,
    /// The boot that they are of, as the state counts them.
    boot: u64,
    watch: Option<NameWatch>,
    functions: Vec<Function>,
}

impl Live {
    fn new(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        Ok(Self {
            source: LiveSource::open(path)?,
            state: State::default(),
            frozen: None,
            view: View { source: super::description::plain(&name), ..View::default() },
            answered_at: Instant::now(),
            newest: (0, Instant::now()),
            symbols: Symbols::default(),
            guest: GuestNames { ram: path.to_owned(), ..GuestNames::default() },
        })
    }

    /// Has code named by `symbols`; by the guest's own names where these are none.
    fn know(&mut self, symbols: Symbols) {
        self.guest.is_given = !symbols.is_empty();
        self.state.know(&symbols);
        self.symbols = symbols;
    }

    /// Takes the names of the guest's code that have come, or are found in its memory.
    fn learn(&mut self) {
        if self.guest.boot != self.state.sessions {
            let ram =
                matches!(self.source, LiveSource::Ram(_)).then(|| File::open(&self.guest.ram));
            let board = self.state.description.as_ref().map(|of| of.machine.board);
            self.guest.boot = self.state.sessions;
            self.guest.functions.clear();
            self.guest.watch = match (ram, board) {
                (Some(Ok(ram)), Some(board)) => NameWatch::start(&ram, board.as_str()),
                _ => None,
            };
        }
        let found: Vec<_> = self.guest.watch.iter().flat_map(NameWatch::found).collect();
        found.into_iter().for_each(|names| self.state.learn(names));
        let learned = std::mem::take(&mut self.state.learned);
        if self.guest.is_given || learned.iter().all(|names| names.functions.is_empty()) {
            return;
        }
        self.guest.functions.extend(learned.into_iter().flat_map(|names| names.functions));
        self.symbols = Symbols::of(self.guest.functions.iter().cloned());
        self.state.know(&self.symbols);
    }

    /// Has only what `filter` chooses shown, and the screen say so.
    fn choose(&mut self, filter: EventFilter) {
        if let Some(words) = filter.words() {
            self.view.source = format!("{} (only {words})", self.view.source);
        }
        self.state.choose(filter);
    }

    fn run(&mut self, terminal: &mut ratatui::DefaultTerminal, signals: &Signals) -> Result<()> {
        while !signals.is_caught() {
            self.update()?;
            terminal
                .draw(|frame| {
                    screen::draw(
                        frame,
                        self.frozen.as_ref().unwrap_or(&self.state),
                        &self.view,
                        &self.symbols,
                    )
                })
                .context("drawing")?;
            let until = Instant::now() + FRAME;
            while event::poll(until.saturating_duration_since(Instant::now()))
                .context("waiting for a key")?
            {
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
        Ok(())
    }

    /// Takes in what is new, for at most the time of a picture.
    fn update(&mut self) -> Result<()> {
        let begun = Instant::now();
        while self.source.poll(&mut self.state)? && begun.elapsed() < FRAME {}
        self.learn();
        if self.newest.0 != self.state.newest_ticks {
            self.newest = (self.state.newest_ticks, Instant::now());
        }
        if self.source.is_running() && self.state.description.is_some() {
            // A guest that does no DMA makes no events, and its rates fall to nothing.
            let (seconds, _) = self.state.clock().seconds(self.newest.0);
            self.state.advance(seconds + self.newest.1.elapsed().as_secs());
        }
        self.view.recorded =
            self.source.recorded().filter(|text| !is_everything(text)).unwrap_or_default();
        if self.answered_at.elapsed() > MESSAGE {
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
            KeyCode::Down | KeyCode::Char('j') => {
                self.view.chosen = (self.view.chosen + 1).min(last)
            }
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
        self.answered_at = Instant::now();
    }
}

/// Whether `recorded`, lines of `oche trace filter`, leaves nothing out.
fn is_everything(recorded: &str) -> bool {
    recorded.starts_with("kinds all\nstreams all\niova all\n")
}

#[cfg(test)]
mod tests;
