//! QEMU's debugger port: stops the machine when a register is written, and lets it continue.
//!
//! The board's registers are plain memory for QEMU. A write watchpoint on each stops the whole
//! machine right behind the store, so that the device's model acts before the next
//! instruction of any CPU. QEMU stops in front of the store on this architecture, so the one CPU is
//! stepped over it with the watchpoint taken out. Source: GDB manual, "Remote Protocol": packets
//! `Z2`, `z2`, `Z3`, `z3`, `c`, `vCont`, `T05...watch`, `T05...rwatch`.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long QEMU may take to listen and to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of a description of registers that are requested at once.
const FEATURE_BYTES: usize = 0xf00;

/// A connection to a machine that stands still or runs.
#[derive(Debug)]
pub struct Debugger {
    stream: UnixStream,
    /// Bytes that were received and not parsed yet.
    pending: Vec<u8>,
    watched: Vec<Watch>,
    /// QEMU's description of the system registers, once it was requested.
    registers: String,
}

/// A watched register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watch {
    kind: Kind,
    address: u64,
    bytes: u64,
}

impl Watch {
    fn packet(&self, letter: char) -> String {
        format!("{letter}{},{:x},{:x}", self.kind as u8, self.address, self.bytes)
    }
}

/// Which accesses stop the machine, by the number in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Store = 2,
    Load = 3,
}

/// Why the machine stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineStop {
    /// The watched word at this address was written.
    Written(u64),
    /// The watched word at this address was read.
    Read(u64),
    /// Anything else.
    Other,
}

impl Debugger {
    /// Connects to a QEMU that was started with `-S`.
    ///
    /// # Errors
    ///
    /// No debugger port is open there within some seconds.
    pub fn connect(socket: &Path) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10))
                }
                Err(error) => return Err(error).context("QEMU's debugger port does not answer"),
            }
        };
        let mut debugger =
            Self { stream, pending: Vec::new(), watched: Vec::new(), registers: String::new() };
        debugger.ask("?")?;
        Ok(debugger)
    }

    /// Has the machine stop behind each store to `bytes` bytes at `address`.
    ///
    /// # Errors
    ///
    /// QEMU refuses.
    pub fn watch(&mut self, address: u64, bytes: u64) -> Result<()> {
        self.add(Watch { kind: Kind::Store, address, bytes })
    }

    /// Has the machine stop at each load from `bytes` bytes at `address`, or no longer. The machine
    /// stands still.
    ///
    /// # Errors
    ///
    /// QEMU refuses.
    pub fn watch_loads(&mut self, (address, bytes): (u64, u64), is_on: bool) -> Result<()> {
        let watch = Watch { kind: Kind::Load, address, bytes };
        let place = self.watched.iter().position(|known| *known == watch);
        match (place, is_on) {
            (None, true) => self.add(watch),
            (Some(place), false) => {
                self.watched.remove(place);
                self.ask(&watch.packet('z')).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    fn add(&mut self, watch: Watch) -> Result<()> {
        let answer = self.ask(&watch.packet('Z'))?;
        if answer != "OK" {
            bail!("QEMU does not watch {:#x}: {answer}", watch.address);
        }
        self.watched.push(watch);
        Ok(())
    }

    /// Lets the machine run.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub fn go_on(&mut self) -> Result<()> {
        self.send("c")
    }

    /// Stores a word at a physical address of a machine that stands still: a device's register,
    /// too.
    ///
    /// # Errors
    ///
    /// QEMU refuses.
    pub fn store_physical(&mut self, address: u64, value: u32) -> Result<()> {
        let bytes = value.to_le_bytes().map(|byte| format!("{byte:02x}")).concat();
        // QEMU's own packet: addresses are physical while it is 1. Source: QEMU 7.2
        // `docs/system/gdb.rst`.
        for (text, what) in [
            ("Qqemu.PhyMemMode:1".to_owned(), "physical addresses"),
            (format!("M{address:x},4:{bytes}"), "the store"),
            ("Qqemu.PhyMemMode:0".to_owned(), "virtual addresses"),
        ] {
            let answer = self.ask(&text)?;
            if answer != "OK" {
                bail!("QEMU refuses {what} at {address:#x}: {answer}");
            }
        }
        Ok(())
    }

    /// Waits until the machine stops, at most `patience`; `None` while it runs.
    ///
    /// # Errors
    ///
    /// The connection is gone: QEMU ended.
    pub fn stopped(&mut self, patience: Duration) -> Result<Option<MachineStop>> {
        let Some(packet) = self.packet(patience)? else { return Ok(None) };
        let (thread, hit) = parse_stop(&packet);
        let Some((kind, address)) = hit else { return Ok(Some(MachineStop::Other)) };
        let is_hit = |known: &&Watch| (known.kind, known.address) == (kind, address);
        let watch = self.watched.iter().find(is_hit).copied();
        let watch = watch.unwrap_or(Watch { kind, address, bytes: 4 });
        self.ask(&watch.packet('z'))?;
        self.ask(&format!("vCont;s:{thread}"))?;
        self.ask(&watch.packet('Z'))?;
        Ok(Some(match kind {
            Kind::Store => MachineStop::Written(address),
            Kind::Load => MachineStop::Read(address),
        }))
    }

    /// Has the machine stop soon: [`Self::stopped`] reports it.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub fn ask_to_stop(&mut self) -> Result<()> {
        self.stream.write_all(&[3]).context("QEMU's debugger port is gone")
    }

    /// Stops the machine, and returns the first CPU's program counter.
    ///
    /// # Errors
    ///
    /// QEMU does not answer.
    pub fn interrupt(&mut self) -> Result<u64> {
        self.ask_to_stop()?;
        self.packet(PATIENCE)?;
        self.ask("Hg1")?;
        let registers = self.ask("g")?;
        // 31 registers and the stack pointer come before it, sixteen digits each, lowest byte
        // first.
        let digits = registers.get(32 * 16..33 * 16).context("QEMU's registers are cut short")?;
        Ok(u64::from_str_radix(digits, 16)?.swap_bytes())
    }

    /// The value of a system register of the first CPU, of a machine that stands still.
    ///
    /// # Errors
    ///
    /// QEMU does not know it.
    pub fn system_register(&mut self, name: &str) -> Result<u64> {
        if self.registers.is_empty() {
            self.registers = self.read_feature("system-registers.xml")?;
        }
        let number = register_number(&self.registers, name);
        let number = number.with_context(|| format!("QEMU names no register {name}"))?;
        self.ask("Hg1")?;
        let digits = self.ask(&format!("p{number:x}"))?;
        // The lowest byte comes first.
        Ok(u64::from_str_radix(&digits, 16)
            .with_context(|| format!("{name}: {digits}"))?
            .swap_bytes())
    }

    /// A description of registers, piece by piece. Asking for one also has QEMU answer `p`.
    fn read_feature(&mut self, name: &str) -> Result<String> {
        let mut text = String::new();
        loop {
            let piece = self
                .ask(&format!("qXfer:features:read:{name}:{:x},{FEATURE_BYTES:x}", text.len()))?;
            match piece.split_at_checked(1) {
                Some(("m", more)) => text.push_str(more),
                Some(("l", last)) => return Ok(text + last),
                _ => bail!("QEMU has no {name}: {piece}"),
            }
        }
    }

    fn ask(&mut self, text: &str) -> Result<String> {
        self.send(text)?;
        self.packet(PATIENCE)?
            .with_context(|| format!("QEMU's debugger port does not answer `{text}`"))
    }

    fn send(&mut self, text: &str) -> Result<()> {
        let sum = text.bytes().fold(0_u8, u8::wrapping_add);
        self.stream
            .write_all(format!("${text}#{sum:02x}").as_bytes())
            .context("QEMU's debugger port is gone")
    }

    /// The next packet's text; it is acknowledged.
    fn packet(&mut self, patience: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(text) = self.take_packet() {
                self.stream.write_all(b"+").context("QEMU's debugger port is gone")?;
                return Ok(Some(text));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut bytes = [0; 512];
            match self.stream.read(&mut bytes) {
                Ok(0) => bail!("QEMU ended"),
                Ok(count) => self.pending.extend(bytes.iter().take(count)),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error).context("QEMU's debugger port is gone"),
            }
        }
    }

    /// Takes `$text#xx` out of the pending bytes; acknowledgements before it are dropped.
    fn take_packet(&mut self) -> Option<String> {
        let start = self.pending.iter().position(|byte| *byte == b'$')?;
        let end = start + self.pending.get(start..)?.iter().position(|byte| *byte == b'#')?;
        if self.pending.len() < end + 3 {
            return None;
        }
        let text = String::from_utf8_lossy(self.pending.get(start + 1..end)?).into_owned();
        self.pending.drain(..end + 3);
        Some(text)
    }
}

/// The thread, and what was done to which watched address, of a stop such as
/// `T05thread:01;watch:0000000235200020;`.
fn parse_stop(packet: &str) -> (&str, Option<(Kind, u64)>) {
    let value = |name: &str| {
        let start = packet.find(name)? + name.len();
        packet.get(start..)?.split(';').next()
    };
    let hit = |name, kind| Some((kind, u64::from_str_radix(value(name)?, 16).ok()?));
    let hit = hit(";rwatch:", Kind::Load).or_else(|| hit(";watch:", Kind::Store));
    (value("thread:").unwrap_or("1"), hit)
}

/// The number of a register in a description with elements such as
/// `<reg name="VTTBR_EL2" bitsize="64" regnum="301" group="cp_regs"/>`.
fn register_number(description: &str, name: &str) -> Option<u64> {
    let element = description.split('<').find(|part| part.contains(&format!("name=\"{name}\"")))?;
    element.split("regnum=\"").nth(1)?.split('"').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Debugger, Kind, MachineStop, Watch, parse_stop, register_number};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[test]
    fn a_register_is_found_by_its_whole_name() {
        let text = "<reg name=\"TTBR0_EL2\" bitsize=\"64\" regnum=\"7\"/>\
                    <reg name=\"VTTBR_EL2\" bitsize=\"64\" regnum=\"301\" group=\"cp_regs\"/>";
        assert_eq!(register_number(text, "VTTBR_EL2"), Some(301));
        assert_eq!(register_number(text, "TTBR0_EL2"), Some(7));
        assert_eq!(register_number(text, "TTBR_EL2"), None);
    }

    #[test]
    fn a_stop_in_pieces_is_put_together_and_the_store_stepped_over() {
        let (stream, mut other) = UnixStream::pair().expect("a pair");
        let watched = vec![Watch { kind: Kind::Store, address: 0x2_3520_0020, bytes: 4 }];
        let mut debugger =
            Debugger { stream, pending: Vec::new(), watched, registers: String::new() };
        let wait = Duration::from_millis(20);
        other.write_all(b"+$T05thread:01;wat").expect("sent");
        assert_eq!(debugger.stopped(wait).expect("alive"), None);
        let answers = b"ch:235200020;#5a+$OK#9a+$T05thread:01;#00+$OK#9a+$T02thread:01;#00";
        other.write_all(answers).expect("sent");
        assert_eq!(
            debugger.stopped(wait).expect("alive"),
            Some(MachineStop::Written(0x2_3520_0020))
        );
        assert_eq!(debugger.stopped(wait).expect("alive"), Some(MachineStop::Other));
        let mut sent = [0; 512];
        let count = other.read(&mut sent).expect("something");
        let sent = String::from_utf8_lossy(&sent[..count]).into_owned();
        let order = ["z2,235200020,4", "vCont;s:01", "Z2,235200020,4"].map(|text| sent.find(text));
        assert!(order.is_sorted() && order[0].is_some(), "{sent}");
        drop(other);
        assert!(debugger.stopped(wait).is_err());
    }

    #[test]
    fn load_is_distinguished_from_store() {
        let address = 0x2_3b70_03e8;
        let stop = |name: &str| format!("T05thread:02;{name}:00000002{:08x};", 0x3b70_03e8);
        assert_eq!(parse_stop(&stop("watch")), ("02", Some((Kind::Store, address))));
        assert_eq!(parse_stop(&stop("rwatch")), ("02", Some((Kind::Load, address))));
        assert_eq!(parse_stop("T05thread:02;"), ("02", None));
    }
}
