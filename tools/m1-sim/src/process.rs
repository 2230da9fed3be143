//! QEMU, whose CPUs the board uses: starts it, reads its output, and always reaps it.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use anyhow::{Context, Result};

use super::linux;
use super::mac::{Mac, STUB};
use super::memory::{BYTES, BoardMemory};

/// Starts QEMU on `memory`; its debugger port is at `socket`, and it stands at its first
/// instruction.
pub(crate) fn spawn(
    mac: &Mac,
    qemu: &[OsString],
    memory: &BoardMemory,
    socket: &Path,
) -> Result<Child> {
    let (program, first) = qemu.split_first().context("no program is named that starts QEMU")?;
    let mut line = Command::new(program);
    line.args(first);
    line.args(["-M", "virt,virtualization=on,gic-version=3,memory-backend=ram"]);
    let cpu = if mac.has_linux { linux::CPU } else { "max,pauth-impdef=on" };
    line.args(["-cpu", cpu, "-smp", &mac.cpus.to_string()]);
    line.args(["-m", &format!("{}M", BYTES >> 20)]);
    line.args(["-nodefaults", "-display", "none", "-monitor", "none", "-no-reboot", "-S"]);
    line.args(if mac.has_linux { &linux::QEMU[..] } else { &["-serial", "none"] });
    line.arg("-object").arg(format!(
        "memory-backend-file,id=ram,size={}M,share=on,mem-path={}",
        BYTES >> 20,
        memory.path().display()
    ));
    line.arg("-device").arg(format!("loader,addr={:#x},cpu-num=0", STUB.start));
    line.arg("-chardev")
        .arg(format!("socket,id=debugger,server=on,wait=off,path={}", socket.display()));
    line.args(["-gdb", "chardev:debugger"]).args(&mac.arguments);
    let output = if mac.has_linux { Stdio::piped() } else { Stdio::null() };
    line.stdin(Stdio::null()).stdout(output).stderr(Stdio::inherit());
    line.spawn().with_context(|| format!("cannot start {}", program.display()))
}

/// Reads lines in a thread of its own until the other end is closed.
pub(crate) fn lines_of(output: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned();
            bytes.clear();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Ends a child, by its own handle, and collects it.
pub(crate) fn end(child: &mut Child) {
    // Both fail only for a child that is gone and collected already.
    let _ = child.kill();
    let _ = child.wait();
}

/// A path for a socket, removed with the value.
#[derive(Debug)]
pub(crate) struct Socket(pub(crate) PathBuf);

impl Socket {
    pub(crate) fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("oche-gdb.{}.{number}", std::process::id())))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Gone already is as good as removed.
        let _ = fs::remove_file(&self.0);
    }
}
