//! tshark captures from a guest while it runs, by `oche` as its extcap program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use oche::progress::Step;
use oche::trace::TraceFile;
use oche::trace::reader::TraceItem;
use oche::trace::wireshark::Folders;
use oche::{command, workspace};
use oche_types::event::Kind;
use tempfile::TempDir;

use crate::environment;

/// How long the last packets may take.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// The type of an enhanced packet block. Source: pcapng's specification, 4.3.
const PACKET: u32 = 6;

/// A capture under way.
pub(super) struct LiveCapture {
    tshark: Child,
    file: PathBuf,
    has_guest_ended: Arc<AtomicBool>,
    watcher: JoinHandle<Result<()>>,
    /// tshark's home, with the link to `oche`.
    _home: TempDir,
}

impl LiveCapture {
    /// Has tshark capture from the guest whose memory will be `ram`, into `folder`.
    ///
    /// # Errors
    ///
    /// A program cannot be built or started.
    pub(super) fn start(ram: &Path, folder: &Path, step: &Step) -> Result<Self> {
        environment::prepare_views(step)?;
        let oche = built_oche(step)?;
        let home = tempfile::tempdir().context("a folder for tshark")?;
        Folders::find(Some(home.path()))?.install(&oche)?;
        let file = folder.join("live.pcapng");
        workspace::write_whole(&file, b"")?;
        let mut tshark = Command::new("tshark");
        tshark.env("HOME", home.path());
        for name in ["XDG_CONFIG_HOME", "WIRESHARK_CONFIG_DIR", "WIRESHARK_EXTCAP_DIR"] {
            tshark.env_remove(name);
        }
        tshark.args(["-q", "-i", "oche", "-o"]);
        tshark.arg(format!("extcap.oche.source:{}", ram.display()));
        tshark.arg("-w").arg(&file);
        let log = fs::File::create(folder.join("tshark.log")).context("tshark's log")?;
        tshark.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let tshark =
            tshark.spawn().map_err(|_| anyhow::anyhow!("{}", command::missing("tshark")))?;
        let has_guest_ended = Arc::new(AtomicBool::new(false));
        let (seen, ended) = (file.clone(), Arc::clone(&has_guest_ended));
        let watcher = std::thread::spawn(move || watch(&oche, &seen, &ended));
        Ok(Self { tshark, file, has_guest_ended, watcher, _home: home })
    }

    /// Ends the capture after the guest, whose memory is still there, and compares it with the
    /// recording at `trace`. Gives how many packets there are.
    ///
    /// # Errors
    ///
    /// They differ, no packet came while the guest ran, or tshark does not end well.
    pub(super) fn finish(mut self, trace: &Path) -> Result<usize> {
        self.has_guest_ended.store(true, Ordering::SeqCst);
        let wanted = packets_of(trace)?;
        let begun = Instant::now();
        while packets(&self.file)? < wanted && begun.elapsed() < LIMIT {
            std::thread::sleep(POLL);
        }
        let captured = packets(&self.file)?;
        let watched = self.watcher.join();
        // As the interrupt of its terminal does.
        let process = rustix::process::Pid::from_child(&self.tshark);
        rustix::process::kill_process(process, rustix::process::Signal::INT)
            .context("ending tshark")?;
        let status = self.tshark.wait().context("waiting for tshark")?;
        watched.ok().context("watching the capture")??;
        ensure!(status.success(), "tshark ends with {status}");
        ensure!(captured == wanted, "tshark captured {captured} packets of {wanted} events");
        Ok(captured)
    }
}

/// Waits for the guest among the interfaces and for packets, both while it runs.
fn watch(oche: &Path, file: &Path, has_ended: &AtomicBool) -> Result<()> {
    let (mut is_listed, mut has_packets) = (false, false);
    while !(is_listed && has_packets) {
        if has_ended.load(Ordering::SeqCst) {
            bail!("while the guest ran: listed {is_listed}, packets {has_packets}");
        }
        is_listed = is_listed || lists_a_guest_of_ours(oche)?;
        has_packets = has_packets || packets(file)? > 0;
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Whether a guest that this process has started is an interface.
fn lists_a_guest_of_ours(oche: &Path) -> Result<bool> {
    let mut asked = Command::new(oche);
    asked.args(["--extcap-interfaces", "--extcap-version=4.0"]);
    let listed = command::text(&mut asked, "listing the interfaces")?;
    let is_ours = |process: &str| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{}", std::process::id()))
    };
    let of_guest = |line: &str| {
        line.split_once("{value=oche-")
            .is_some_and(|(_, rest)| rest.split('}').next().is_some_and(is_ours))
    };
    Ok(listed.lines().any(of_guest))
}

/// Counts the packets of a pcapng file that may still grow.
fn packets(file: &Path) -> Result<usize> {
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let (mut rest, mut count) = (&*bytes, 0);
    while let Some((head, _)) = rest.split_first_chunk::<8>() {
        let [kind, length] = [&head[..4], &head[4..]]
            .map(|word| word.try_into().map(u32::from_le_bytes).unwrap_or_default());
        let Some(after) = rest.get((length as usize).max(12)..) else { break };
        count += usize::from(kind == PACKET);
        rest = after;
    }
    Ok(count)
}

/// The events of a recording that are packets: all but the bytes behind others.
fn packets_of(trace: &Path) -> Result<usize> {
    let mut count = 0;
    for item in TraceFile::open(trace)?.events() {
        match item {
            TraceItem::Record(record) => count += usize::from(record.kind() != Some(Kind::Data)),
            TraceItem::Session(_) => {}
            TraceItem::Lost { .. } | TraceItem::Unreadable { .. } => {
                bail!("events of {} were lost", trace.display())
            }
        }
    }
    Ok(count)
}

/// The `oche` of this tree, built.
pub(super) fn built_oche(step: &Step) -> Result<PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root()).args(["build", "--quiet", "--package", "oche"]);
    command::run_showing_errors(&mut cargo, "building oche", step)?;
    Ok(workspace::target().join("debug").join("oche"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_a_file_that_grows_are_counted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = Vec::new();
        for kind in [0x0a0d_0d0a_u32, 1, PACKET, PACKET] {
            bytes.extend(kind.to_le_bytes());
            bytes.extend(16_u32.to_le_bytes());
            bytes.extend([0; 8]);
        }
        fs::write(file.path(), &bytes).unwrap();
        assert_eq!(packets(file.path()).unwrap(), 2);
        fs::write(file.path(), &bytes[..60]).unwrap();
        assert_eq!(packets(file.path()).unwrap(), 1);
        fs::write(file.path(), b"").unwrap();
        assert_eq!(packets(file.path()).unwrap(), 0);
    }
}
