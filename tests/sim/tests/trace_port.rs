//! The trace's port allocates nothing once it has been made, whatever the guest does with it.

use oche_sim::allocations::{Counting, allocations_of};
use oche_sim::random::Random;
use oche_trace::directory::{
    ALIGNMENT, DESCRIPTION_BYTES, DirectoryWriter, Layout, MAX_COUNTERS, MAX_CPUS, Machine,
    keep_previous,
};
use oche_trace::file::{CHUNK_HEADER_BYTES, ChunkHeader, FILE_HEADER_BYTES, checksum};
use oche_trace::record::RECORD_BYTES;
use oche_trace::ring::RingWriter;
use oche_trace::words::{Text, Words};
use oche_types::addr::Gfn;
use oche_types::event::Event;
use oche_types::guest_memory::{GuestMemory, NotMemory};
use oche_virtio::console::{self, Console, Effect};
use oche_virtio::port::{self, TracePort};
use std::sync::atomic::AtomicU64;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// VIRTIO 1.2, section 4.2.2.
mod register {
    pub(super) const DRIVER_FEATURES: u64 = 0x020;
    pub(super) const DRIVER_FEATURES_SELECT: u64 = 0x024;
    pub(super) const QUEUE_SELECT: u64 = 0x030;
    pub(super) const QUEUE_SIZE: u64 = 0x038;
    pub(super) const QUEUE_READY: u64 = 0x044;
    pub(super) const QUEUE_NOTIFY: u64 = 0x050;
    pub(super) const STATUS: u64 = 0x070;
    pub(super) const QUEUE_DESCRIPTORS: u64 = 0x080;
    pub(super) const QUEUE_AVAILABLE: u64 = 0x090;
    pub(super) const QUEUE_USED: u64 = 0x0a0;
}

/// Section 5.3.2.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const CONTROL_RECEIVE: usize = 2;
const CONTROL_TRANSMIT: usize = 3;
const QUEUES: usize = 4;
/// Section 5.3.6.2.
const DEVICE_READY: u16 = 0;
const PORT_READY: u16 = 3;
const PORT_OPEN: u16 = 6;

/// Descriptors of each queue: as many as the device takes.
const SIZE: u16 = 64;
/// Section 2.7.5.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// Queue `index` lies at `QUEUE_BYTES * index`: descriptors, the two rings, then a buffer for each
/// descriptor.
const QUEUE_BYTES: u64 = 0x10_0000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = 0x1_0000;
const BUFFER_BYTES: u64 = 0x2000;
const RAM_BYTES: usize = QUEUE_BYTES as usize * QUEUES;

/// `CNTFRQ_EL0`, and a time long after every record.
const COUNTER_HZ: u64 = 1000;
const NOW: u64 = 90_000;
/// Records that CPU 0 writes, more than its ring holds; and those that each other CPU writes.
const RING_RECORDS: usize = 256;
const RECORDS: [u64; 2] = [300, 200];

/// Guest memory from 0 on.
struct Ram(Vec<u8>);

impl Ram {
    fn range(&self, address: u64, bytes: usize) -> Result<std::ops::Range<usize>, NotMemory> {
        let start = usize::try_from(address).map_err(|_| NotMemory)?;
        let end = start.checked_add(bytes).filter(|end| *end <= self.0.len()).ok_or(NotMemory)?;
        Ok(start..end)
    }
}

impl GuestMemory for Ram {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), NotMemory> {
        into.copy_from_slice(&self.0[self.range(address, into.len())?]);
        Ok(())
    }

    fn write(&mut self, address: u64, from: &[u8]) -> Result<(), NotMemory> {
        let range = self.range(address, from.len())?;
        self.0[range].copy_from_slice(from);
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

/// A driver of the port, and the device that each store reaches.
struct Guest {
    console: Console,
    port: TracePort,
    ram: Ram,
    available: [u16; QUEUES],
    seen: [u16; QUEUES],
}

impl Guest {
    /// A guest of a machine with as many CPUs, names of counters and records as a trace has at
    /// most, and the same of the boot before.
    fn new() -> Self {
        let (memory, layout) = traced();
        let (earlier, _) = traced();
        let previous: &'static [AtomicU64] = words(layout.total_bytes());
        assert!(keep_previous(&earlier, &previous, layout.total_bytes()));
        let ((console, port), allocations, bytes) = allocations_of(|| {
            (Console::default(), TracePort::new(memory, layout, Some((previous, layout))))
        });
        assert!(allocations != 0, "the allocator counts");
        assert!(bytes <= console::HEAP_BYTES + port::HEAP_BYTES, "it takes {bytes} bytes of heap");
        Self {
            console,
            port,
            ram: Ram(vec![0; RAM_BYTES]),
            available: [0; QUEUES],
            seen: [0; QUEUES],
        }
    }

    /// The guest stores `value` in the register at `offset`: what the platform does in that trap.
    fn store(&mut self, offset: u64, value: u32) {
        let ((), allocations, bytes) = allocations_of(|| {
            if self.console.write(offset, 4, value, &mut self.port) == Effect::Work {
                self.port.is_due(NOW);
                let _ = self.console.work(&mut self.ram, &mut self.port);
            }
        });
        assert_eq!(
            allocations, 0,
            "the port allocates {bytes} bytes at a store of {value:#x} to {offset:#x}"
        );
    }

    /// Resets the device and sets it up.
    fn set_up(&mut self) {
        self.store(register::STATUS, 0);
        self.ram.0.fill(0);
        (self.available, self.seen) = ([0; QUEUES], [0; QUEUES]);
        for (select, features) in [(0, 2), (1, 1)] {
            self.store(register::DRIVER_FEATURES_SELECT, select);
            self.store(register::DRIVER_FEATURES, features);
        }
        self.store(register::STATUS, 11);
        for index in 0..QUEUES {
            let base = index as u32 * QUEUE_BYTES as u32;
            self.store(register::QUEUE_SELECT, index as u32);
            self.store(register::QUEUE_SIZE, u32::from(SIZE));
            self.store(register::QUEUE_DESCRIPTORS, base);
            self.store(register::QUEUE_AVAILABLE, base + AVAILABLE as u32);
            self.store(register::QUEUE_USED, base + USED as u32);
            self.store(register::QUEUE_READY, 1);
        }
        self.store(register::STATUS, 15);
    }

    fn notify(&mut self, index: usize) {
        self.store(register::QUEUE_NOTIFY, index as u32);
    }

    fn descriptor(&mut self, index: usize, number: u16, length: u64, flags: u16, next: u16) {
        let base = QUEUE_BYTES * index as u64;
        let address = base + BUFFERS + BUFFER_BYTES * u64::from(number);
        let [low, high] = [u64::from(flags), u64::from(next)];
        let words = [address, length | low << 32 | high << 48];
        for (word, at) in words.into_iter().zip([0, 8]) {
            self.ram
                .write(base + 16 * u64::from(number) + at, &word.to_le_bytes())
                .expect("guest RAM");
        }
    }

    fn offer(&mut self, index: usize, head: u16) {
        let ring = QUEUE_BYTES * index as u64 + AVAILABLE;
        self.ram
            .publish(ring + 4 + 2 * u64::from(self.available[index] % SIZE), head)
            .expect("guest RAM");
        self.available[index] = self.available[index].wrapping_add(1);
        self.ram.publish(ring + 2, self.available[index]).expect("guest RAM");
    }

    /// Offers every descriptor of a queue as room for the device.
    fn offer_room(&mut self, index: usize) {
        for number in 0..SIZE {
            self.descriptor(index, number, BUFFER_BYTES, WRITE, 0);
            self.offer(index, number);
        }
    }

    fn send(&mut self, index: usize, bytes: &[u8]) {
        let number = self.available[index] % SIZE;
        let address = QUEUE_BYTES * index as u64 + BUFFERS + BUFFER_BYTES * u64::from(number);
        self.ram.write(address, bytes).expect("guest RAM");
        self.descriptor(index, number, bytes.len() as u64, 0, 0);
        self.offer(index, number);
        self.notify(index);
    }

    fn control(&mut self, event: u16, value: u16) {
        let words = [0, u32::from(event) | u32::from(value) << 16];
        self.send(CONTROL_TRANSMIT, words.map(u32::to_le_bytes).as_flattened());
    }

    /// Goes through the port's announcement, as Linux does, and opens it.
    fn open(&mut self) {
        self.offer_room(CONTROL_RECEIVE);
        self.control(DEVICE_READY, 1);
        self.control(PORT_READY, 1);
        self.control(PORT_OPEN, 1);
        assert!(self.console.is_open());
    }

    /// Reads until the device has nothing more.
    fn read(&mut self) -> Vec<u8> {
        let base = QUEUE_BYTES * RECEIVE as u64;
        let mut file = Vec::new();
        loop {
            // All that is offered and not used is used first.
            if self.available[RECEIVE] == self.seen[RECEIVE] {
                self.offer_room(RECEIVE);
            }
            self.notify(RECEIVE);
            let before = file.len();
            while self.seen[RECEIVE] != self.ram.observe(base + USED + 2).expect("guest RAM") {
                let mut element = [0; 8];
                let place = u64::from(self.seen[RECEIVE] % SIZE);
                self.ram.read(base + USED + 4 + 8 * place, &mut element).expect("guest RAM");
                let [number, length] = [0, 4].map(|at| {
                    u32::from_le_bytes(*element[at..].first_chunk().expect("four bytes"))
                });
                let mut bytes = vec![0; length as usize];
                self.ram
                    .read(base + BUFFERS + BUFFER_BYTES * u64::from(number), &mut bytes)
                    .expect("guest RAM");
                file.extend(bytes);
                self.seen[RECEIVE] = self.seen[RECEIVE].wrapping_add(1);
            }
            if file.len() == before {
                return file;
            }
        }
    }
}

fn words(bytes: usize) -> &'static [AtomicU64] {
    (0..bytes / 8).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak()
}

/// A trace in which everything is as large as it can be.
fn traced() -> (&'static [AtomicU64], Layout) {
    let layout = Layout::new(MAX_CPUS, RING_RECORDS * RECORD_BYTES);
    assert!(layout.total_bytes() as u64 <= ALIGNMENT);
    let words = words(layout.total_bytes());
    let machine = Machine {
        board: Text::new("test"),
        release: Text::new("0.1.0 (ceabe3a4f01d, build 3f2a9c1be0d4)"),
        counter_hz: COUNTER_HZ,
        start_ticks: 0,
        wall_clock_nanoseconds: Some(1),
    };
    DirectoryWriter::begin(&words, layout, &machine).finish();
    // Every name that there is room for is a counter of each CPU: see the layout of the directory.
    words.store(0x58 / 8, MAX_COUNTERS as u64);
    (0..MAX_COUNTERS).for_each(|entry| words.store((DESCRIPTION_BYTES + 32 * entry + 24) / 8, 1));
    for cpu in 0..MAX_CPUS {
        let mut writer = RingWriter::new(layout, cpu).expect("a ring");
        for time in 0..RECORDS[usize::from(cpu != 0)] {
            writer.record(&words, time + 1, 4, &Event::Table { page: Gfn(1), is_unsync: true });
        }
    }
    (words, layout)
}

/// Kinds of the chunks of a file, each of which is sound, and how many records are in it.
fn chunks(file: &[u8]) -> (Vec<u32>, u64) {
    let (mut kinds, mut records) = (Vec::new(), 0);
    let mut rest = &file[FILE_HEADER_BYTES..];
    while let Some((head, behind)) = rest.split_first_chunk::<CHUNK_HEADER_BYTES>() {
        let header = ChunkHeader::from_bytes(head).expect("a chunk");
        let (payload, behind) = behind.split_at(header.payload_bytes as usize);
        assert_eq!(checksum(&header, payload), header.checksum);
        if header.kind == 2 {
            records += payload.len() as u64 / RECORD_BYTES as u64;
        }
        kinds.push(header.kind);
        rest = behind;
    }
    assert!(rest.is_empty());
    kinds.dedup();
    (kinds, records)
}

/// Records that one boot's rings hold.
const HELD: u64 = RING_RECORDS as u64 + (MAX_CPUS as u64 - 1) * RECORDS[1];

#[test]
fn reader_of_the_largest_trace_makes_the_port_allocate_nothing() {
    let mut guest = Guest::new();
    guest.set_up();
    guest.open();
    let mut file = guest.read();
    guest.send(TRANSMIT, b"end\n");
    file.extend(guest.read());
    assert_eq!(
        chunks(&file),
        (vec![1, 2, 3, 4, 1, 2, 3, 4], 2 * HELD),
        "the boot before, then this one"
    );

    guest.control(PORT_OPEN, 0);
    guest.send(TRANSMIT, b"forget\n");
    guest.control(PORT_OPEN, 1);
    assert_eq!(chunks(&guest.read()), (vec![1, 2, 3], HELD));

    guest.set_up();
    guest.open();
    assert_eq!(chunks(&guest.read()), (vec![1, 2, 3], HELD));
}

#[test]
fn orders_and_messages_in_any_number_make_the_port_allocate_nothing() {
    let mut guest = Guest::new();
    guest.set_up();
    // There is no room for the answers.
    (0..1000).for_each(|_| guest.control(PORT_READY, 1));
    guest.open();
    for line in [
        "kinds map,unmap",
        "iova 0x1000-0x1fff\r",
        "snapshot 256 streams 0:1",
        "watch off",
        "\u{fffd}",
        "",
    ] {
        guest.send(TRANSMIT, line.as_bytes());
        guest.send(TRANSMIT, b"\n");
    }
    (0..4).for_each(|_| guest.send(TRANSMIT, &[b'x'; 4096]));
    guest.send(TRANSMIT, b"\nstop\n");
    (0..SIZE).for_each(|number| {
        guest.descriptor(TRANSMIT, number, 100, NEXT * u16::from(number != 63), number + 1)
    });
    guest.offer(TRANSMIT, 0);
    guest.notify(TRANSMIT);
    for is_open in [0, 1, 0, 1] {
        guest.control(PORT_OPEN, is_open);
    }
}

#[test]
fn wild_registers_and_queues_make_the_port_allocate_nothing() {
    let mut random = Random::new(7);
    let mut guest = Guest::new();
    for _ in 0..200 {
        guest.set_up();
        guest.open();
        for _ in 0..100 {
            let queue = random.below(QUEUES as u64) as usize;
            match random.below(5) {
                0 => {
                    let at = QUEUE_BYTES * queue as u64 + random.below(0x2400);
                    let value = [4, 64, u16::MAX][random.below(3) as usize];
                    guest
                        .ram
                        .publish(at & !1, random.below(u64::from(value)) as u16)
                        .expect("guest RAM");
                }
                1 => {
                    let offset = random.below(0x140) & !3;
                    // Not a reset each time, or nothing is ever reached.
                    if offset != register::STATUS || random.below(8) == 0 {
                        let bits = random.below(33);
                        guest.store(offset, random.below(1 << bits) as u32);
                    }
                }
                2 => guest.control(random.below(8) as u16, random.below(2) as u16),
                3 => guest.send(TRANSMIT, b"end\nforget\nstop\nstart\n"),
                _ => guest.notify(queue),
            }
        }
    }
}
