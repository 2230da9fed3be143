//! Oche's memory on a machine, as boot plans it.

use anyhow::{Result, anyhow};
use oche_boot::header::Kernel;
use oche_boot::layout::{HEAP_BYTES, LayoutRequest, MemoryLayout, below_image, trace_bytes};
use oche_boot::options::BootOptions;
use oche_trace::directory;
use oche_types::range::{PhysRange, RangeList};
use serde::{Deserialize, Serialize};

/// A board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Board {
    /// A Mac with an M1.
    M1,
    /// QEMU's virt machine.
    QemuVirt,
}

/// A part of Oche's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) bytes: u64,
}

/// Oche's memory on one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MemoryUse {
    pub(super) board: String,
    pub(super) ram_gib: u64,
    pub(super) parts: Vec<Part>,
}

impl Board {
    /// The package of its image.
    pub(super) fn package(self) -> &'static str {
        match self {
            Self::M1 => "oche-m1",
            Self::QemuVirt => "oche-qemu-virt",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::M1 => "m1",
            Self::QemuVirt => "qemu-virt",
        }
    }

    /// Where RAM begins.
    fn dram(self) -> u64 {
        match self {
            Self::M1 => 0x8_0000_0000,
            Self::QemuVirt => 0x4000_0000,
        }
    }

    /// Where its loader puts the image: m1n1 behind itself, QEMU at the start.
    fn image(self) -> u64 {
        match self {
            Self::M1 => self.dram() + (128 << 20),
            Self::QemuVirt => self.dram() + (2 << 20),
        }
    }

    fn cpus(self) -> usize {
        match self {
            Self::M1 => 8,
            Self::QemuVirt => 4,
        }
    }

    fn engine_bytes(self) -> fn(u64, u64) -> u64 {
        match self {
            Self::M1 => oche_m1::memory::engine_bytes,
            Self::QemuVirt => oche_qemu_virt::memory::engine_bytes,
        }
    }

    /// The parts of [`Self::engine_bytes`].
    fn heap_parts(self, ram_bytes: u64, pool_bytes: u64) -> Vec<Part> {
        let (darts, nvme) = match self {
            Self::M1 => (oche_m1::memory::DARTS, Some(oche_m1::nvme::HEAP_BYTES)),
            Self::QemuVirt => (oche_qemu_virt::memory::DARTS, None),
        };
        let engine = oche_platform::memory::heap_parts(darts, ram_bytes, pool_bytes);
        let engine = engine.map(|part| Part::of(part.name, part.bytes as u64));
        engine.into_iter().chain(nvme.map(|bytes| Part::of("NVMe queues", bytes))).collect()
    }
}

impl Part {
    fn of(name: &str, bytes: u64) -> Self {
        Self { name: name.to_owned(), bytes }
    }
}

impl MemoryUse {
    /// All of Oche's memory in bytes.
    pub(super) fn total(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// The bytes of one part.
    pub(super) fn part(&self, name: &str) -> Option<u64> {
        self.parts.iter().find(|part| part.name == name).map(|part| part.bytes)
    }
}

/// Plans the memory of a machine with `ram_gib` GiB of RAM, all of it free, and without options.
///
/// # Errors
///
/// It does not fit.
pub(super) fn compute(board: Board, ram_gib: u64, image_bytes: u64) -> Result<MemoryUse> {
    let mut ram = RangeList::new();
    let start = board.dram();
    let all = PhysRange { start, end: start + (ram_gib << 30) };
    ram.push(all).map_err(|_| anyhow!("one range fits"))?;
    let image = PhysRange { start: board.image(), end: board.image() + image_bytes };
    let around_ram = if board == Board::M1 { all } else { PhysRange::default() };
    let trace = directory::Layout::new(board.cpus(), BootOptions::default().trace_bytes as usize);
    let layout = MemoryLayout::plan(&LayoutRequest {
        ram: &ram,
        firmware: &RangeList::new(),
        image,
        sources: &[],
        initrd: None,
        kernel: Kernel { text_offset: 0, image_size: 32 << 20 },
        pool_bytes: None,
        trace_bytes: trace_bytes(trace),
        engine_bytes: board.engine_bytes(),
        around_ram,
        by_page: below_image(image, around_ram, &ram),
        keeps_image: board == Board::M1,
        address_limit: u64::MAX,
    });
    let layout = layout.map_err(|error| anyhow!("{error}"))?;
    let mut parts = vec![Part::of("image", layout.image.size())];
    parts.extend(board.heap_parts(ram.total(), layout.pool.size()));
    parts.push(Part::of("heap of boot", HEAP_BYTES));
    parts.push(Part::of("stage-2 tables", layout.tables.size()));
    parts.push(Part::of("EL2's own tables", layout.own_tables.size()));
    parts.push(Part::of("trace", layout.trace.size()));
    parts.push(Part::of("pool", layout.pool.size()));
    let mut memory = MemoryUse { board: board.name().to_owned(), ram_gib, parts };
    let whole = layout.image.size() + layout.reserved.size();
    memory.parts.push(Part::of("between the parts", whole - memory.total()));
    Ok(memory)
}
