//! A driver that a test plays, good and hostile.

use super::*;
use alloc::vec;
use oche_types::guest_memory::NotMemory;

/// Guest memory from 0 on.
struct Ram(Vec<u8>);

impl GuestMemory for Ram {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), NotMemory> {
        let start = usize::try_from(address).map_err(|_| NotMemory)?;
        let end = start.checked_add(into.len()).ok_or(NotMemory)?;
        into.copy_from_slice(self.0.get(start..end).ok_or(NotMemory)?);
        Ok(())
    }

    fn write(&mut self, address: u64, from: &[u8]) -> Result<(), NotMemory> {
        let start = usize::try_from(address).map_err(|_| NotMemory)?;
        let end = start.checked_add(from.len()).ok_or(NotMemory)?;
        self.0.get_mut(start..end).ok_or(NotMemory)?.copy_from_slice(from);
        Ok(())
    }

    fn publish(&mut self, address: u64, value: u16) -> Result<(), NotMemory> {
        self.write(address, &value.to_le_bytes())
    }

    fn observe(&self, address: u64) -> Result<u16, NotMemory> {
        let mut bytes = [0; 2];
        self.read(address, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }
}

/// A port that sends `text` and keeps what it receives.
#[derive(Default)]
struct Talker {
    text: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
    opened: u32,
    closed: u32,
    is_over: bool,
}

impl Port for Talker {
    const NAME: &'static str = "org.oche.test";

    fn set_open(&mut self, is_open: bool) {
        if is_open { self.opened += 1 } else { self.closed += 1 }
    }

    fn pull(&mut self, into: &mut [u8]) -> usize {
        let rest = self.text.get(self.sent..).unwrap_or_default();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.sent += count;
        count
    }

    fn push(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    fn is_over(&self) -> bool {
        self.is_over && self.sent == self.text.len()
    }
}

const SIZE: u16 = 8;

/// Queue `index` lies here: descriptors, available ring, used ring, then buffers of 256 bytes.
fn base(index: usize) -> u64 {
    0x1000 * (1 + index as u64)
}

fn buffer(index: usize, number: u16) -> u64 {
    base(index) + 0x800 + 256 * u64::from(number)
}

struct Driver {
    console: Console,
    port: Talker,
    ram: Ram,
    available: [u16; QUEUES],
    seen: [u16; QUEUES],
}

impl Driver {
    fn new() -> Self {
        let ram = Ram(vec![0; 0x8000]);
        let (console, port) = (Console::default(), Talker::default());
        let mut driver = Self { console, port, ram, available: [0; QUEUES], seen: [0; QUEUES] };
        let identity = [register::MAGIC, register::VERSION, register::DEVICE]
            .map(|offset| driver.load(offset));
        assert_eq!(identity, [0x7472_6976, 2, 3]);
        driver.store(register::STATUS, 3);
        for select in [0, 1] {
            driver.store(register::DEVICE_FEATURES_SELECT, select);
            let features = driver.load(register::DEVICE_FEATURES);
            driver.store(register::DRIVER_FEATURES_SELECT, select);
            driver.store(register::DRIVER_FEATURES, features);
        }
        driver.store(register::STATUS, 11);
        assert_eq!(driver.load(register::STATUS), 11, "the features are right");
        (0..QUEUES).for_each(|index| driver.set_up(index, SIZE, base(index)));
        driver.store(register::STATUS, 15);
        driver
    }

    fn load(&self, offset: u64) -> u32 {
        self.console.read(offset, 4)
    }

    fn store(&mut self, offset: u64, value: u32) -> bool {
        match self.console.write(offset, 4, value, &mut self.port) {
            Effect::Work => self.console.work(&mut self.ram, &mut self.port),
            Effect::None => false,
        }
    }

    fn notify(&mut self, index: usize) -> bool {
        self.store(register::QUEUE_NOTIFY, index as u32)
    }

    fn set_up(&mut self, index: usize, size: u16, base: u64) {
        self.store(register::QUEUE_SELECT, index as u32);
        self.store(register::QUEUE_SIZE, u32::from(size));
        let parts = [
            (register::QUEUE_DESCRIPTORS, base),
            (register::QUEUE_AVAILABLE, base + 0x200),
            (register::QUEUE_USED, base + 0x300),
        ];
        for (offset, address) in parts {
            self.store(offset, address as u32);
            self.store(offset + 4, (address >> 32) as u32);
        }
        self.store(register::QUEUE_READY, 1);
    }

    fn descriptor(
        &mut self,
        index: usize,
        number: u16,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        let at = base(index) + 16 * u64::from(number);
        self.ram.write(at, &address.to_le_bytes()).unwrap();
        self.ram.write(at + 8, &length.to_le_bytes()).unwrap();
        self.ram.write(at + 12, &flags.to_le_bytes()).unwrap();
        self.ram.write(at + 14, &next.to_le_bytes()).unwrap();
    }

    fn offer(&mut self, index: usize, head: u16) {
        let ring = base(index) + 0x200;
        let place = u64::from(self.available[index] % SIZE);
        self.ram.publish(ring + 4 + 2 * place, head).unwrap();
        self.available[index] = self.available[index].wrapping_add(1);
        self.ram.publish(ring + 2, self.available[index]).unwrap();
    }

    fn offer_room(&mut self, index: usize, number: u16, length: u32) {
        self.descriptor(index, number, buffer(index, number), length, 2, 0);
        self.offer(index, number);
    }

    fn send(&mut self, index: usize, bytes: &[u8]) -> bool {
        let number = self.available[index] % SIZE;
        self.ram.write(buffer(index, number), bytes).unwrap();
        self.descriptor(index, number, buffer(index, number), bytes.len() as u32, 0, 0);
        self.offer(index, number);
        self.notify(index)
    }

    fn control(&mut self, id: u32, event: u16, value: u16) -> bool {
        let mut bytes = id.to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        self.send(CONTROL_TRANSMIT, &bytes)
    }

    /// What the device put into the next buffer that it gave back.
    fn received(&mut self, index: usize) -> Option<Vec<u8>> {
        let used = base(index) + 0x300;
        if self.ram.observe(used + 2).unwrap() == self.seen[index] {
            return None;
        }
        let mut element = [0; 8];
        self.ram.read(used + 4 + 8 * u64::from(self.seen[index] % SIZE), &mut element).unwrap();
        self.seen[index] = self.seen[index].wrapping_add(1);
        let number = u32::from_le_bytes(element[..4].try_into().unwrap());
        let mut bytes = vec![0; u32::from_le_bytes(element[4..].try_into().unwrap()) as usize];
        self.ram.read(buffer(index, number as u16), &mut bytes).unwrap();
        Some(bytes)
    }

    /// Goes through the port's announcement, as Linux does, and opens it.
    fn open(&mut self) {
        (0..SIZE).for_each(|number| self.offer_room(CONTROL_RECEIVE, number, 64));
        assert!(self.control(u32::MAX, message::DEVICE_READY, 1));
        assert_eq!(self.received(CONTROL_RECEIVE).unwrap(), [0, 0, 0, 0, 1, 0, 1, 0]);
        self.control(0, message::PORT_READY, 1);
        assert_eq!(self.received(CONTROL_RECEIVE).unwrap(), b"\0\0\0\0\x07\0\x01\0org.oche.test");
        assert_eq!(self.received(CONTROL_RECEIVE).unwrap(), [0, 0, 0, 0, 6, 0, 1, 0]);
        self.control(0, message::PORT_OPEN, 1);
        assert!(self.console.is_open());
    }
}

#[test]
fn a_driver_finds_the_port_by_name_opens_it_and_reads_all_that_there_is_in_order() {
    let mut driver = Driver::new();
    driver.port.text = (0..3000_u32).map(|number| number as u8).collect();
    driver.open();
    assert_eq!((driver.port.opened, driver.port.sent), (1, 0), "there is no buffer yet");
    let mut got = Vec::new();
    for round in 0..40 {
        for number in 0..3 {
            driver.offer_room(RECEIVE, number + (round % 2) * 3, 100);
        }
        let is_wanted = driver.notify(RECEIVE);
        let before = got.len();
        while let Some(bytes) = driver.received(RECEIVE) {
            got.extend(bytes);
        }
        assert_eq!(is_wanted, got.len() > before);
        if got.len() == driver.port.text.len() {
            break;
        }
    }
    assert_eq!(got, driver.port.text);
    assert_eq!(driver.load(register::INTERRUPT_STATUS), 1);
    driver.store(register::INTERRUPT_ACKNOWLEDGE, 1);
    assert_eq!(driver.load(register::INTERRUPT_STATUS), 0);
}

#[test]
fn what_the_guest_writes_is_received_and_a_chain_of_buffers_is_one_text() {
    let mut driver = Driver::new();
    driver.open();
    driver.send(TRANSMIT, b"stop\n");
    driver.ram.write(buffer(TRANSMIT, 5), b"kinds ").unwrap();
    driver.ram.write(buffer(TRANSMIT, 6), b"map\n").unwrap();
    driver.descriptor(TRANSMIT, 5, buffer(TRANSMIT, 5), 6, 1, 6);
    driver.descriptor(TRANSMIT, 6, buffer(TRANSMIT, 6), 4, 0, 0);
    driver.offer(TRANSMIT, 5);
    driver.notify(TRANSMIT);
    assert_eq!(driver.port.received, b"stop\nkinds map\n");
}

#[test]
fn the_end_is_told_once_and_the_port_can_be_opened_anew() {
    let mut driver = Driver::new();
    driver.port.text = vec![7; 10];
    driver.port.is_over = true;
    driver.open();
    driver.offer_room(RECEIVE, 0, 100);
    driver.notify(RECEIVE);
    assert_eq!(driver.received(RECEIVE), Some(vec![7; 10]));
    assert_eq!(driver.received(CONTROL_RECEIVE).unwrap(), [0, 0, 0, 0, 6, 0, 0, 0]);
    driver.notify(RECEIVE);
    assert_eq!(driver.received(CONTROL_RECEIVE), None);
    driver.control(0, message::PORT_OPEN, 0);
    assert_eq!(driver.received(CONTROL_RECEIVE).unwrap(), [0, 0, 0, 0, 6, 0, 1, 0]);
    assert_eq!((driver.port.opened, driver.port.closed), (1, 1));
}

#[test]
fn a_reset_closes_the_port_and_forgets_the_queues() {
    let mut driver = Driver::new();
    driver.open();
    driver.store(register::STATUS, 0);
    assert_eq!((driver.port.closed, driver.load(register::STATUS)), (1, 0));
    driver.store(register::QUEUE_SELECT, 0);
    assert_eq!(driver.load(register::QUEUE_READY), 0);
    assert!(!driver.notify(0));
}

#[test]
fn features_that_were_not_offered_or_the_legacy_ones_are_not_accepted() {
    let (mut console, mut port) = (Console::default(), Talker::default());
    for (low, high, is_right) in
        [(0, 0, false), (2, 1, true), (0, 1, true), (4, 1, false), (2, 3, false)]
    {
        let mut write = |offset, value| {
            let _ = console.write(offset, 4, value, &mut port);
        };
        write(register::STATUS, 0);
        for (select, features) in [(0, low), (1, high)] {
            write(register::DRIVER_FEATURES_SELECT, select);
            write(register::DRIVER_FEATURES, features);
        }
        write(register::STATUS, 11);
        assert_eq!(
            console.read(register::STATUS, 4) & FEATURES_OK != 0,
            is_right,
            "{low:#x} {high:#x}"
        );
    }
}

#[test]
fn a_queue_that_breaks_the_rules_stops_the_device_until_it_is_reset() {
    type Break = fn(&mut Driver);
    let breaks: [(&str, Break); 8] = [
        ("a circle", |driver| {
            driver.descriptor(TRANSMIT, 0, 0x7000, 4, 1, 1);
            driver.descriptor(TRANSMIT, 1, 0x7000, 4, 1, 0);
            driver.offer(TRANSMIT, 0);
        }),
        ("a head that is none", |driver| driver.offer(TRANSMIT, SIZE)),
        ("a next that is none", |driver| {
            driver.descriptor(TRANSMIT, 0, 0x7000, 4, 1, u16::MAX);
            driver.offer(TRANSMIT, 0);
        }),
        ("an indirect table", |driver| {
            driver.descriptor(TRANSMIT, 0, 0x7000, 16, 4, 0);
            driver.offer(TRANSMIT, 0);
        }),
        ("memory that is none", |driver| {
            driver.descriptor(TRANSMIT, 0, u64::MAX - 1, 4, 0, 0);
            driver.offer(TRANSMIT, 0);
        }),
        ("room that is none", |driver| {
            driver.port.text = vec![1; 9];
            driver.descriptor(RECEIVE, 0, 0x7fff, 100, 2, 0);
            driver.offer(RECEIVE, 0);
        }),
        ("more chains than descriptors", |driver| {
            driver
                .ram
                .publish(base(TRANSMIT) + 0x202, SIZE + driver.available[TRANSMIT] + 1)
                .unwrap();
        }),
        ("a ring that is no memory", |driver| {
            driver.store(register::QUEUE_SELECT, TRANSMIT as u32);
            driver.store(register::QUEUE_READY, 0);
            driver.set_up(TRANSMIT, SIZE, 0x000f_ffff_ffff_0000);
        }),
    ];
    for (what, break_it) in breaks {
        let mut driver = Driver::new();
        driver.open();
        break_it(&mut driver);
        assert!(driver.notify(0), "{what}: the guest is notified");
        assert_eq!(driver.load(register::STATUS) & NEEDS_RESET, NEEDS_RESET, "{what}");
        assert!(!driver.notify(0), "{what}: it works no more");
        driver.store(register::STATUS, 0);
        assert_eq!(driver.load(register::STATUS), 0, "{what}");
    }
}

#[test]
fn a_queue_of_an_impossible_shape_does_not_become_ready() {
    let mut driver = Driver::new();
    for (size, base) in
        [(0, 0x1000), (3, 0x1000), (128, 0x1000), (SIZE, 0x1001), (SIZE, u64::MAX - 0xfff)]
    {
        driver.store(register::STATUS, 0);
        driver.set_up(0, size, base);
        assert_eq!(driver.load(register::QUEUE_READY), 0, "{size} {base:#x}");
    }
    driver.store(register::QUEUE_SELECT, QUEUES as u32);
    assert_eq!((driver.load(register::QUEUE_SIZE_MAX), driver.load(register::QUEUE_READY)), (0, 0));
}

#[test]
fn a_guest_that_never_takes_messages_costs_a_bounded_number_of_them() {
    let mut driver = Driver::new();
    for _ in 0..1000 {
        driver.control(0, message::PORT_READY, 1);
    }
    assert_eq!(driver.console.messages.len(), MAX_MESSAGES);
}

#[test]
fn any_registers_and_any_memory_are_survived() {
    // A xorshift generator: what matters is that it is wild and the same each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..300 {
        let mut driver = Driver::new();
        driver.open();
        driver.port.text = vec![1; 10_000];
        for _ in 0..200 {
            match next() % 4 {
                0 => {
                    let at = 0x1000 + next() % 0x4400;
                    let value = next() as u16 % [4, 64, u16::MAX][(next() % 3) as usize];
                    driver.ram.publish(at & !1, value).unwrap();
                }
                1 => {
                    let offset = (next() % 0x140) & !3;
                    // Not a reset each time, or nothing is ever reached.
                    if offset != register::STATUS || next() % 8 == 0 {
                        driver.store(offset, (next() >> (next() % 64)) as u32);
                    }
                }
                2 => {
                    driver.console.read(next() % 0x140, (next() % 9) as usize);
                }
                _ => {
                    driver.notify((next() % 5) as usize);
                }
            }
        }
    }
}

#[test]
fn the_configuration_reads_in_every_width_and_nothing_lies_behind_it() {
    let console = Console::default();
    assert_eq!(console.read(0x104, 4), 1, "one port");
    assert_eq!([console.read(0x104, 1), console.read(0x104, 2), console.read(0x108, 4)], [1, 1, 0]);
    assert_eq!([console.read(0x10c, 4), console.read(u64::MAX, 4), console.read(0, 2)], [0, 0, 0]);
}
