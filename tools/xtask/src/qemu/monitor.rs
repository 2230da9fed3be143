//! QEMU's monitor over a socket: stop, go on, look at device registers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

/// How long QEMU may take to listen, and to answer one command.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to QEMU's monitor.
///
/// Source of the protocol: QEMU's documentation, "QEMU Machine Protocol Specification".
#[derive(Debug)]
pub struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to the socket that QEMU was asked to listen on.
    ///
    /// # Errors
    ///
    /// No monitor listens in time, or it speaks another protocol.
    pub fn connect(path: &Path) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20))
                }
                Err(error) => return Err(error).context("QEMU's monitor does not answer"),
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).context("QEMU's monitor")?;
        let mut monitor = Self { stream: BufReader::new(stream) };
        // An event of a machine that starts meanwhile may come before the greeting.
        let mut greeting = monitor.next()?;
        while greeting.get("event").is_some() {
            greeting = monitor.next()?;
        }
        if greeting.get("QMP").is_none() {
            bail!("QEMU's monitor greeted with {greeting}");
        }
        monitor.command("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    /// Stops all CPUs; devices may still finish what they are at.
    ///
    /// # Errors
    ///
    /// QEMU is gone or refuses.
    pub fn stop(&mut self) -> Result<()> {
        self.command("stop", &json!({})).map(|_| ())
    }

    /// Lets the CPUs go on.
    ///
    /// # Errors
    ///
    /// QEMU is gone or refuses.
    pub fn resume(&mut self) -> Result<()> {
        self.command("cont", &json!({})).map(|_| ())
    }

    /// Whether the CPUs run: not after [`Self::stop`], nor where the guest stopped its machine.
    ///
    /// # Errors
    ///
    /// QEMU is gone or refuses.
    pub fn is_running(&mut self) -> Result<bool> {
        let status = self.command("query-status", &json!({}))?;
        status
            .get("running")
            .and_then(Value::as_bool)
            .with_context(|| format!("QEMU's status is {status}"))
    }

    /// Ends QEMU in good order.
    ///
    /// # Errors
    ///
    /// QEMU is gone already, or refuses.
    pub fn quit(&mut self) -> Result<()> {
        self.command("quit", &json!({})).map(|_| ())
    }

    /// Reads a 32-bit device register at a physical address.
    ///
    /// # Errors
    ///
    /// QEMU is gone, or nothing answers at the address.
    pub fn read_register(&mut self, address: u64) -> Result<u32> {
        let answer = self.command(
            "human-monitor-command",
            &json!({"command-line": format!("xp /1wx {address:#x}")}),
        )?;
        let text = answer.as_str().unwrap_or_default();
        parse_examined(text)
            .ok_or_else(|| anyhow!("QEMU cannot read {address:#x}: {}", text.trim()))
    }

    fn command(&mut self, name: &str, arguments: &Value) -> Result<Value> {
        let line = format!("{}\n", json!({"execute": name, "arguments": arguments}));
        self.stream.get_mut().write_all(line.as_bytes()).context("QEMU's monitor is gone")?;
        loop {
            let answer = self.next()?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {name}: {error}");
            }
            // Anything else is an event, not the answer.
        }
    }

    fn next(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).context("QEMU's monitor does not answer")? == 0 {
            bail!("QEMU has ended");
        }
        serde_json::from_str(&line).with_context(|| format!("QEMU's monitor answered {line:?}"))
    }
}

/// Takes the value out of `0000000009050020: 0x0000000d`.
fn parse_examined(text: &str) -> Option<u32> {
    let (_, value) = text.trim().rsplit_once(": 0x")?;
    u32::from_str_radix(value, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::parse_examined;

    #[test]
    fn an_examined_word_is_understood_and_a_refusal_is_not_one() {
        assert_eq!(parse_examined("0000000009050020: 0x0000000d\r\n"), Some(13));
        assert_eq!(parse_examined("Cannot access memory\r\n"), None);
    }
}
