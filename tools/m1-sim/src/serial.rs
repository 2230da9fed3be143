//! The board's serial port: takes the bytes that the machine sends, and types on it as a person
//! would.
//!
//! It is an S5L UART, polled: interrupts are not modelled. Source: m1n1 `src/uart_regs.h`; the
//! counts in `UFSTAT` are also in U-Boot `drivers/serial/serial_s5p.c`.

use std::collections::VecDeque;

use super::memory::BoardMemory;

/// UART 0. Source: Linux `t8103.dtsi`, `serial0`.
const BASE: u64 = 0x2_3520_0000;
/// `UTRSTAT`: both transmit bits set, and bit 0 while a byte waits.
const STATUS: u64 = BASE + 0x10;
const SENT: u32 = 0b110;
/// `UFSTAT`: the lowest four bits count the bytes that wait.
const FIFO_STATUS: u64 = BASE + 0x18;
/// `UTXH`, the byte to send, and `URXH`, the byte that was received.
pub(super) const TRANSMIT: u64 = BASE + 0x20;
pub(super) const RECEIVE: u64 = BASE + 0x24;
/// The register of the port's power domain. Source: Linux `t8103-pmgr.dtsi`, `ps_uart0`.
pub(super) const POWER: u64 = 0x2_3b70_0270;

/// What a person types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedText {
    /// The end of the output for which the person waits.
    pub behind: String,
    /// The text that is then typed.
    pub text: String,
}

/// The port.
#[derive(Debug)]
pub(super) struct SerialPort {
    /// The output since the last line feed.
    line: Vec<u8>,
    /// What is still to be typed.
    dialogue: VecDeque<TypedText>,
    /// Bytes that the machine has not read yet; the first is in the register.
    input: VecDeque<u8>,
}

impl SerialPort {
    /// Puts the port's registers into the board's memory.
    pub(super) fn new(memory: &BoardMemory, dialogue: &[TypedText]) -> Self {
        let port = Self {
            line: Vec::new(),
            dialogue: dialogue.iter().cloned().collect(),
            input: VecDeque::new(),
        };
        port.show(memory);
        port
    }

    /// Takes a byte of output; returns the line that it ends.
    pub(super) fn send(&mut self, memory: &BoardMemory, byte: u8) -> Option<String> {
        match byte {
            b'\r' => return None,
            b'\n' => {
                let line = String::from_utf8_lossy(&self.line).into_owned();
                self.line.clear();
                return Some(line);
            }
            _ => self.line.push(byte),
        }
        let line = &self.line;
        let is_awaited = |next: &mut TypedText| line.ends_with(next.behind.as_bytes());
        if let Some(next) = self.dialogue.pop_front_if(is_awaited) {
            self.input.extend(next.text.bytes());
            self.show(memory);
        }
        None
    }

    /// The machine has read the received byte: the next one follows.
    pub(super) fn has_been_read(&mut self, memory: &BoardMemory) {
        self.input.pop_front();
        self.show(memory);
    }

    /// Whether a person types anything.
    pub(super) fn is_typed_on(&self) -> bool {
        !self.dialogue.is_empty()
    }

    fn show(&self, memory: &BoardMemory) {
        let waits = u32::from(!self.input.is_empty());
        memory.set_word(RECEIVE, self.input.front().copied().map_or(0, u32::from));
        memory.set_word(FIFO_STATUS, waits);
        memory.set_word(STATUS, SENT | waits);
    }
}

#[cfg(test)]
mod tests {
    use super::{FIFO_STATUS, RECEIVE, STATUS, SerialPort, TypedText};
    use crate::memory::BoardMemory;

    #[test]
    fn text_is_typed_behind_its_prompt_and_read_byte_by_byte() {
        let memory = BoardMemory::create().expect("a file");
        let typed =
            |behind: &str, text: &str| TypedText { behind: behind.into(), text: text.into() };
        let mut port = SerialPort::new(&memory, &[typed("=> ", "ab"), typed("=> ", "c")]);
        let registers = || [RECEIVE, FIFO_STATUS, STATUS].map(|register| memory.word(register));
        let send = |port: &mut SerialPort, text: &str| -> Vec<String> {
            text.bytes().filter_map(|byte| port.send(&memory, byte)).collect()
        };
        assert_eq!(registers(), [0, 0, 0b110]);
        assert_eq!(send(&mut port, "=> no\r\n=>"), ["=> no"]);
        assert_eq!(registers(), [u32::from(b'a'), 1, 0b111], "behind the first prompt");
        port.has_been_read(&memory);
        assert_eq!(registers(), [u32::from(b'b'), 1, 0b111]);
        port.has_been_read(&memory);
        assert_eq!(registers(), [0, 0, 0b110], "not before the next prompt");
        assert_eq!(send(&mut port, " "), [""; 0]);
        assert_eq!(registers(), [u32::from(b'c'), 1, 0b111]);
        assert!(!port.is_typed_on());
    }
}
