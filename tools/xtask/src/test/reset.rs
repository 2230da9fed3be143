//! A guest that resets its machine: what Oche had traced until then is still there after the next
//! boot.

use anyhow::{Result, bail, ensure};
use oche::el2::Toolchain;
use oche::progress::Step;
use oche::trace::TraceFile;
use oche::trace::reader::TraceItem;
use oche::trace::recorder::record_previous;
use oche::workspace;
use oche_trace::record::Record;

use super::stock::{self, DISK_AND_PORT, StockGuest, TwoDisks, value};

/// The guest's script.
const SCRIPT: &str = include_str!("reset.sh");
/// Bytes of the disk that the guest leaves the trace on, and where on it.
const DISK_BYTES: u64 = 32 << 20;
const COPY_AT: usize = 1 << 20;
/// Events of the first boot: fewer were not the disk's.
const LEAST: usize = 1000;

/// Boots the guest, which resets itself once, and compares what is left of the first boot with what
/// was recorded then.
///
/// # Errors
///
/// Something of the first boot is missing, or the run cannot be made.
pub(super) fn run(toolchain: Toolchain, step: &Step) -> Result<String> {
    let folder = stock::folder("reset")?;
    let disks = TwoDisks::create(&folder, 4 << 20, DISK_BYTES)?;
    let guest = StockGuest {
        folder: &folder,
        script: SCRIPT,
        modules: DISK_AND_PORT,
        driver: None,
        options: &[],
        cpus: 2,
        devices: [["-action", "reboot=reset"].map(Into::into).to_vec(), disks.arguments()].concat(),
    };
    let (outside, left) = (folder.join("outside.oche"), folder.join("left.oche"));
    let boot = guest.boot(toolchain, Some(&outside), step)?;
    let lines = boot.lines_of("reset: ")?;
    record_previous(&boot.ram(), &left)?;
    let bytes = value(&lines, "bytes ").and_then(|bytes| bytes.parse::<usize>().ok());
    let inside = folder.join("inside.oche");
    let copy = disks.left()?;
    let copy =
        copy.get(COPY_AT..).and_then(|copy| copy.get(..bytes.unwrap_or(0))).unwrap_or_default();
    workspace::write_whole(&inside, copy)?;

    let outside = sessions(&TraceFile::open(&outside)?);
    let [first, second] = &outside[..] else {
        bail!("{} boots were recorded instead of two", outside.len())
    };
    ensure!(first.len() >= LEAST && second.len() >= LEAST, "too few events in a boot");
    let left = sessions(&TraceFile::open(&left)?);
    // The recorder looks every few milliseconds: the last events before the reset it may have
    // missed.
    ensure!(
        left.len() == 1 && left[0].starts_with(first),
        "the RAM file holds other events of the first boot"
    );
    let inside = sessions(&TraceFile::open(&inside)?);
    ensure!(
        inside.len() == 2 && inside[0] == left[0],
        "the port holds other events of the first boot"
    );
    ensure!(
        inside[1].len() >= LEAST && second.starts_with(&inside[1]),
        "the port holds others of the second"
    );
    Ok(format!(
        "{} events of the boot before are kept, {} of them recorded then",
        left[0].len(),
        first.len()
    ))
}

/// The records of each boot, those of each CPU together.
fn sessions(trace: &TraceFile) -> Vec<Vec<Record>> {
    let mut sessions: Vec<Vec<Record>> = Vec::new();
    for item in trace.events() {
        match (item, sessions.last_mut()) {
            (TraceItem::Session(_), _) => sessions.push(Vec::new()),
            (TraceItem::Record(record), Some(session)) => session.push(record),
            _ => {}
        }
    }
    sessions
}
