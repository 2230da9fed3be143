//! A virtio console with one named port and no console (section 5.3), behind virtio-mmio registers
//! (section 4.2).
//!
//! What the guest reads from the port comes from a [`Port`], and what it writes goes there. The
//! device works only when it is called, in a trap, and does bounded work then. It allocates when it
//! is made and never again.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::num::NonZero;
use core::ops::Range;

use oche_types::guest_memory::GuestMemory;

use crate::queue::{self, Broken, QUEUE_MAX, Queue};

/// Bytes of the registers, as virtio-mmio transports have them.
pub const REGION_BYTES: u64 = 0x200;
/// Bytes that one call moves at most in each direction.
const MAX_BYTES: usize = 128 << 10;
/// Bytes of one chain from the guest that are looked at.
const MAX_INPUT_BYTES: usize = 4096;
/// Bytes that are pulled from the port at once.
const PULL_BYTES: usize = 4096;
/// Control messages that wait for the guest to take them; a guest that asks for more gets none.
const MAX_MESSAGES: usize = 32;
/// Bytes of the longest control message: its header and a port's name.
const MAX_MESSAGE_BYTES: usize = MESSAGE_HEADER_BYTES + 56;
const MESSAGE_HEADER_BYTES: usize = 8;

/// Bytes of heap that a console takes when it is made, as a buddy allocator rounds them.
pub const HEAP_BYTES: usize = QUEUES * queue::HEAP_BYTES
    + (MAX_MESSAGES * size_of::<Message>()).next_power_of_two()
    + PULL_BYTES.next_power_of_two()
    + MAX_INPUT_BYTES.next_power_of_two();

/// Section 4.2.2.
mod register {
    pub(super) const MAGIC: u64 = 0x000;
    pub(super) const VERSION: u64 = 0x004;
    pub(super) const DEVICE: u64 = 0x008;
    pub(super) const VENDOR: u64 = 0x00c;
    pub(super) const DEVICE_FEATURES: u64 = 0x010;
    pub(super) const DEVICE_FEATURES_SELECT: u64 = 0x014;
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SELECT: u64 = 0x024;
    pub(super) const QUEUE_SELECT: u64 = 0x030;
    pub(super) const QUEUE_SIZE_MAX: u64 = 0x034;
    pub(super) const QUEUE_SIZE: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const INTERRUPT_STATUS: u64 = 0x060;
    pub(super) const INTERRUPT_ACKNOWLEDGE: u64 = 0x064;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESCRIPTORS: u64 = 0x080;
    pub(super) const QUEUE_AVAILABLE: u64 = 0x090;
    pub(super) const QUEUE_USED: u64 = 0x0a0;
    pub(super) const CONFIGURATION: u64 = 0x100;
}

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
/// Section 5: a console.
const DEVICE: u32 = 3;
const VENDOR: u32 = u32::from_le_bytes(*b"OCHE");
/// `VIRTIO_CONSOLE_F_MULTIPORT` and `VIRTIO_F_VERSION_1`: sections 5.3.3 and 6.
const FEATURES: u64 = 1 << 1 | 1 << 32;
/// Section 2.1: FEATURES_OK, DRIVER_OK and DEVICE_NEEDS_RESET.
const FEATURES_OK: u32 = 8;
const DRIVER_OK: u32 = 4;
const NEEDS_RESET: u32 = 0x40;
/// Section 4.2.2: a buffer was used; the configuration (or the status) changed.
const USED_BUFFER: u32 = 1;
const CHANGED: u32 = 2;

/// The queues, section 5.3.2.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL_RECEIVE: usize = 2;
const CONTROL_TRANSMIT: usize = 3;
const QUEUES: usize = 4;

/// Control messages, section 5.3.6.2.
mod message {
    pub(super) const DEVICE_READY: u16 = 0;
    pub(super) const DEVICE_ADD: u16 = 1;
    pub(super) const PORT_READY: u16 = 3;
    pub(super) const PORT_OPEN: u16 = 6;
    pub(super) const PORT_NAME: u16 = 7;
}

/// A control message for the guest about the port.
#[derive(Clone, Copy, Debug)]
struct Message {
    event: u16,
    value: u16,
}

impl Message {
    /// The bytes of the message, with `name` where it gives the port's name, and how many there
    /// are.
    fn to_bytes(self, name: &str) -> ([u8; MAX_MESSAGE_BYTES], usize) {
        let name = if self.event == message::PORT_NAME { name } else { "" };
        let mut bytes = [0; MAX_MESSAGE_BYTES];
        let (header, rest) = bytes.split_at_mut(MESSAGE_HEADER_BYTES);
        // The port's number, 0, comes first.
        header[4..6].copy_from_slice(&self.event.to_le_bytes());
        header[6..8].copy_from_slice(&self.value.to_le_bytes());
        rest[..name.len()].copy_from_slice(name.as_bytes());
        (bytes, MESSAGE_HEADER_BYTES + name.len())
    }
}

/// What is behind the port.
pub trait Port {
    /// Its name, of at most 56 bytes: the guest finds it as `/dev/virtio-ports/NAME`.
    const NAME: &'static str;

    /// Somebody in the guest opened it (`is_open`) or closed it.
    fn set_open(&mut self, is_open: bool);

    /// Fills `into` with what is to be read next, and returns how many bytes that is; 0: nothing
    /// for now.
    fn pull(&mut self, into: &mut [u8]) -> usize;

    /// The guest wrote `bytes`.
    fn push(&mut self, bytes: &[u8]);

    /// Whether everything was pulled and nothing will come until it is opened anew: the guest reads
    /// an end of file.
    fn is_over(&self) -> bool;
}

/// The device.
#[derive(Debug)]
pub struct Console {
    queues: [Queue; QUEUES],
    selected: u32,
    device_features_selected: u32,
    driver_features_selected: u32,
    driver_features: u64,
    status: u32,
    interrupts: u32,
    messages: VecDeque<Message>,
    is_open: bool,
    /// Whether the guest has been notified of the end.
    has_told_end: bool,
    /// Where in `scratch` is what was pulled and not given yet.
    output: Range<usize>,
    scratch: Vec<u8>,
    input: Vec<u8>,
}

impl Default for Console {
    fn default() -> Self {
        Self {
            queues: core::array::from_fn(|_| Queue::default()),
            selected: 0,
            device_features_selected: 0,
            driver_features_selected: 0,
            driver_features: 0,
            status: 0,
            interrupts: 0,
            messages: VecDeque::with_capacity(MAX_MESSAGES),
            is_open: false,
            has_told_end: false,
            output: 0..0,
            scratch: alloc::vec![0; PULL_BYTES],
            input: alloc::vec![0; MAX_INPUT_BYTES],
        }
    }
}

/// What is to be done after a register was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// [`Console::work`].
    Work,
}

impl Console {
    /// Whether somebody in the guest has the port open.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether the guest has not acknowledged all that it was interrupted for: a level-triggered
    /// line is up meanwhile.
    pub fn is_interrupting(&self) -> bool {
        self.interrupts != 0
    }

    /// The guest loads `bytes` (1, 2 or 4) bytes at `offset` of the registers. What is no register
    /// reads as 0.
    pub fn read(&self, offset: u64, bytes: usize) -> u32 {
        if offset >= register::CONFIGURATION {
            return configuration(offset - register::CONFIGURATION, bytes);
        }
        if bytes != 4 {
            return 0;
        }
        match offset {
            register::MAGIC => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE => DEVICE,
            register::VENDOR => VENDOR,
            register::DEVICE_FEATURES => half(FEATURES, self.device_features_selected),
            register::QUEUE_SIZE_MAX => self.queue().map_or(0, |_| u32::from(QUEUE_MAX)),
            register::QUEUE_READY => self.queue().map_or(0, |queue| u32::from(queue.is_ready)),
            register::INTERRUPT_STATUS => self.interrupts,
            register::STATUS => self.status,
            _ => 0,
        }
    }

    /// The guest stores `value` of `bytes` bytes at `offset`. What is no register takes no value.
    pub fn write(&mut self, offset: u64, bytes: usize, value: u32, port: &mut impl Port) -> Effect {
        if bytes != 4 {
            return Effect::None;
        }
        match offset {
            register::DEVICE_FEATURES_SELECT => self.device_features_selected = value,
            register::DRIVER_FEATURES_SELECT => self.driver_features_selected = value,
            register::DRIVER_FEATURES => {
                set_half(&mut self.driver_features, self.driver_features_selected, value);
            }
            register::QUEUE_SELECT => self.selected = value,
            register::QUEUE_NOTIFY => return Effect::Work,
            register::INTERRUPT_ACKNOWLEDGE => self.interrupts &= !value,
            register::STATUS => return self.set_status(value, port),
            _ => self.set_up_queue(offset, value),
        }
        Effect::None
    }

    fn set_status(&mut self, value: u32, port: &mut impl Port) -> Effect {
        if value == 0 {
            self.reset(port);
            return Effect::None;
        }
        // Section 2.1.2: what was set stays until the reset, and features are right or are not
        // accepted.
        let has_version_1 =
            self.driver_features >> 32 & 1 != 0 && self.driver_features & !FEATURES == 0;
        let refused = if has_version_1 { 0 } else { FEATURES_OK };
        self.status |= value & 0xff & !refused & !NEEDS_RESET;
        Effect::Work
    }

    fn reset(&mut self, port: &mut impl Port) {
        if self.is_open {
            port.set_open(false);
        }
        self.queues.iter_mut().for_each(Queue::reset);
        self.messages.clear();
        self.is_open = false;
        self.has_told_end = false;
        self.output = 0..0;
        (self.selected, self.status, self.interrupts) = (0, 0, 0);
        (self.device_features_selected, self.driver_features_selected, self.driver_features) =
            (0, 0, 0);
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(self.selected as usize)
    }

    fn set_up_queue(&mut self, offset: u64, value: u32) {
        let Some(queue) = self.queues.get_mut(self.selected as usize) else { return };
        match offset {
            register::QUEUE_READY if value == 0 => queue.reset(),
            register::QUEUE_READY if !queue.is_ready => queue.enable(),
            // Section 4.2.2.1: what a ready queue stands on does not change.
            _ if queue.is_ready => {}
            register::QUEUE_SIZE => queue.size = u16::try_from(value).unwrap_or(0),
            _ => {
                let half = u32::from(offset & 4 != 0);
                match offset & !4 {
                    register::QUEUE_DESCRIPTORS => set_half(&mut queue.descriptors, half, value),
                    register::QUEUE_AVAILABLE => set_half(&mut queue.available, half, value),
                    register::QUEUE_USED => set_half(&mut queue.used, half, value),
                    _ => {}
                }
            }
        }
    }

    /// Takes what the guest sent, and gives it what there is. Returns whether the guest is to be
    /// interrupted.
    #[must_use]
    pub fn work(&mut self, memory: &mut impl GuestMemory, port: &mut impl Port) -> bool {
        if self.status & (DRIVER_OK | NEEDS_RESET) != DRIVER_OK {
            return false;
        }
        match self.try_work(memory, port) {
            Ok(is_wanted) => {
                self.interrupts |= if is_wanted { USED_BUFFER } else { 0 };
                is_wanted
            }
            Err(Broken) => {
                self.status |= NEEDS_RESET;
                self.interrupts |= CHANGED;
                true
            }
        }
    }

    fn try_work(
        &mut self,
        memory: &mut impl GuestMemory,
        port: &mut impl Port,
    ) -> Result<bool, Broken> {
        let mut is_wanted = false;
        for index in [CONTROL_TRANSMIT, TRANSMIT] {
            is_wanted |= self.take_input(index, memory, port)?;
        }
        is_wanted |= self.give_output(memory, port)?;
        if self.is_open && self.output.is_empty() && port.is_over() && !self.has_told_end {
            self.has_told_end = true;
            self.send_control(message::PORT_OPEN, 0);
        }
        is_wanted |= self.give_messages(memory, name_of(port))?;
        Ok(is_wanted)
    }

    /// What the guest sent on queue `index`.
    fn take_input(
        &mut self,
        index: usize,
        memory: &mut impl GuestMemory,
        port: &mut impl Port,
    ) -> Result<bool, Broken> {
        let mut is_wanted = false;
        for _ in 0..QUEUE_MAX {
            let Some(queue) = self.queues.get_mut(index) else { break };
            let Some((head, buffers)) = queue.take(memory)? else { break };
            let mut length = 0;
            for buffer in buffers.iter().filter(|buffer| !buffer.is_writable) {
                let room = self.input.get_mut(length..).unwrap_or_default();
                let bytes = room.len().min(buffer.length as usize);
                memory.read(buffer.address, room.get_mut(..bytes).unwrap_or_default())?;
                length += bytes;
            }
            is_wanted |= queue.give(memory, head, 0)?;
            let whole = core::mem::take(&mut self.input);
            let input = whole.get(..length).unwrap_or_default();
            if index == CONTROL_TRANSMIT {
                self.control(input, port)
            } else {
                port.push(input)
            }
            self.input = whole;
        }
        Ok(is_wanted)
    }

    fn control(&mut self, input: &[u8], port: &mut impl Port) {
        let Some(&[i0, i1, i2, i3, e0, e1, v0, v1]) = input.first_chunk() else { return };
        let (id, value) = (u32::from_le_bytes([i0, i1, i2, i3]), u16::from_le_bytes([v0, v1]));
        match (u16::from_le_bytes([e0, e1]), id, value) {
            (message::DEVICE_READY, _, 1) => self.send_control(message::DEVICE_ADD, 1),
            (message::PORT_READY, 0, 1) => {
                self.send_control(message::PORT_NAME, 1);
                self.send_control(message::PORT_OPEN, 1);
            }
            (message::PORT_OPEN, 0, value) => {
                let is_open = value != 0;
                if is_open != self.is_open {
                    self.is_open = is_open;
                    self.output = 0..0;
                    port.set_open(is_open);
                }
                if !is_open && core::mem::take(&mut self.has_told_end) {
                    // It can be opened anew.
                    self.send_control(message::PORT_OPEN, 1);
                }
            }
            _ => {}
        }
    }

    fn send_control(&mut self, event: u16, value: u16) {
        if self.messages.len() < MAX_MESSAGES {
            self.messages.push_back(Message { event, value });
        }
    }

    fn give_messages(&mut self, memory: &mut impl GuestMemory, name: &str) -> Result<bool, Broken> {
        let mut is_wanted = false;
        while !self.messages.is_empty() {
            let Some(queue) = self.queues.get_mut(CONTROL_RECEIVE) else { break };
            let Some((head, buffers)) = queue.take(memory)? else { break };
            let Some(message) = self.messages.pop_front() else { break };
            let (bytes, count) = message.to_bytes(name);
            let mut left = &bytes[..count];
            for buffer in buffers.iter().filter(|buffer| buffer.is_writable) {
                let (now, later) = left.split_at(left.len().min(buffer.length as usize));
                memory.write(buffer.address, now)?;
                left = later;
            }
            let written = (count - left.len()) as u32;
            is_wanted |= queue.give(memory, head, written)?;
        }
        Ok(is_wanted)
    }

    /// Fills the guest's buffers while there is something to fill them with.
    fn give_output(
        &mut self,
        memory: &mut impl GuestMemory,
        port: &mut impl Port,
    ) -> Result<bool, Broken> {
        let mut is_wanted = false;
        let mut left = MAX_BYTES;
        while self.is_open && left > 0 {
            let Some(queue) = self.queues.get_mut(RECEIVE) else { break };
            if !queue.has_chain(memory)? {
                break;
            }
            if self.output.is_empty() {
                let count = port.pull(&mut self.scratch).min(self.scratch.len());
                self.output = 0..count;
            }
            let mut bytes = self.scratch.get(self.output.clone()).unwrap_or_default();
            let Some(count) = NonZero::new(bytes.len()) else { break };
            let Some((head, buffers)) = queue.take(memory)? else { break };
            for buffer in buffers.iter().filter(|buffer| buffer.is_writable) {
                let (now, later) = bytes.split_at(bytes.len().min(buffer.length as usize));
                memory.write(buffer.address, now)?;
                bytes = later;
            }
            let written = count.get() - bytes.len();
            self.output.start += written;
            is_wanted |= queue.give(memory, head, written as u32)?;
            // A chain without room costs as much as one with.
            left = left.saturating_sub(written.max(64));
        }
        Ok(is_wanted)
    }
}

/// The configuration, section 5.3.4: no size of a terminal, one port.
fn configuration(offset: u64, bytes: usize) -> u32 {
    const BYTES: [u8; 12] = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let bytes =
        start.checked_add(bytes.min(4)).and_then(|end| BYTES.get(start..end)).unwrap_or_default();
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn name_of<P: Port>(_: &P) -> &'static str {
    const { assert!(MESSAGE_HEADER_BYTES + P::NAME.len() <= MAX_MESSAGE_BYTES) };
    P::NAME
}

/// The low (0) or high (1) half of `word`; 0 for any other.
fn half(word: u64, which: u32) -> u32 {
    match which {
        0 => word as u32,
        1 => (word >> 32) as u32,
        _ => 0,
    }
}

fn set_half(word: &mut u64, which: u32, value: u32) {
    match which {
        0 => *word = *word >> 32 << 32 | u64::from(value),
        1 => *word = *word & 0xffff_ffff | u64::from(value) << 32,
        _ => {}
    }
}

#[cfg(test)]
mod tests;
