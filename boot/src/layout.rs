//! The memory layout: Oche's reserved memory, the guest's kernel, and its FDT.
//!
//! Oche's image stays where the loader put it. Oche's other memory is one contiguous region that
//! begins at a multiple of 2 MiB and extends to the end of RAM. It contains the trace, the heap,
//! the tables of both stages, the page in which the guest writes the entry points of its CPUs, and
//! the frame pool, in this order. The guest gets the rest of RAM. There is no RAM after the region:
//! it would be a second bank of the guest, from which U-Boot allocates without mapping it (U-Boot
//! `arch/arm/mach-apple/board.c`, `lib/lmb.c`).

use core::fmt;

use oche_trace::directory;
use oche_types::range::{BLOCK, ListFull, PAGE, PhysRange, RangeList, align_down, align_up};

use crate::header::Kernel;

#[cfg(test)]
mod tests;

/// Bytes of EL2's heap in addition to the engine's: for the guest's FDT while it is edited, and for
/// the board's drivers.
pub const HEAP_BYTES: u64 = 16 << 20;
/// The smallest frame pool: 32 MiB.
pub const LEAST_POOL_BYTES: u64 = 32 << 20;
/// The largest frame pool that is not asked for: 128 MiB.
pub const MAX_DEFAULT_POOL_BYTES: u64 = 128 << 20;
/// Table pages beyond one for each 2 MiB of RAM: ragged edges, device holes, level-2 tables.
const SPARE_TABLES: u64 = 256;
/// Tables of EL2's own map beyond one for each 2 MiB of RAM that is mapped in pages: registers,
/// edges, level 2.
const SPARE_OWN_TABLES: u64 = 128;
/// Alignment of the stage-2 tables in bytes: the root may be two tables long.
const ROOT_BYTES: u64 = 2 * PAGE;

/// The input of the plan.
#[derive(Clone, Copy, Debug)]
pub struct LayoutRequest<'a> {
    /// All RAM.
    pub ram: &'a RangeList,
    /// Memory reserved by firmware: the guest sees it, and nothing is placed there.
    pub firmware: &'a RangeList,
    /// Oche's own image, BSS and stacks included, page aligned.
    pub image: PhysRange,
    /// Memory that must be preserved until the guest is loaded: firmware's FDT, the payload.
    pub sources: &'a [PhysRange],
    /// The initrd, where the guest will read it.
    pub initrd: Option<PhysRange>,
    /// The guest kernel's requirements.
    pub kernel: Kernel,
    /// `oche.pool`, if it is set: see [`default_pool_bytes`].
    pub pool_bytes: Option<u64>,
    /// Bytes for the trace: directory and rings.
    pub trace_bytes: u64,
    /// The bytes of heap that the engine needs, as a function of the bytes of RAM and of the pool.
    pub engine_bytes: fn(ram_bytes: u64, pool_bytes: u64) -> u64,
    /// Memory that stage 2 maps in pages as far as it is not RAM; empty if there is none.
    pub around_ram: PhysRange,
    /// Memory that both stages map in pages only: see [`crate::blocks`].
    pub by_page: PhysRange,
    /// Whether the guest's `/memory` includes Oche's image, as a reservation: a guest that uses
    /// only the first bank (U-Boot) would otherwise lose the memory after it.
    pub keeps_image: bool,
    /// Host-physical limit of Oche's own map. Oche's memory is below it.
    pub address_limit: u64,
}

/// The memory layout.
#[derive(Clone, Copy, Debug)]
pub struct MemoryLayout {
    /// Oche's image.
    pub image: PhysRange,
    /// Trace directory and rings; starts at a multiple of 2 MiB.
    pub trace: PhysRange,
    /// EL2's heap.
    pub heap: PhysRange,
    /// Memory of the stage-2 tables.
    pub tables: PhysRange,
    /// Memory for tables of EL2's own map.
    pub own_tables: PhysRange,
    /// The engine's 16K frames.
    pub pool: PhysRange,
    /// The page in which the guest writes the entry points of its other CPUs. It is mapped for the
    /// guest, and not part of its memory.
    pub release: PhysRange,
    /// All of Oche's memory except the image: from the trace to the end of RAM.
    pub reserved: PhysRange,
    /// The guest kernel's memory, as large as its header requires.
    pub kernel: PhysRange,
    /// RAM that the guest has.
    pub guest: RangeList,
    /// What the guest's FDT calls memory: `guest`, and Oche's image where that is a reservation.
    pub offered: RangeList,
    /// The part of the guest's RAM that is not occupied yet.
    free: RangeList,
}

/// Why no layout was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// No gap of RAM is large enough for Oche's reserved memory.
    TooLittleMemory {
        /// Number of contiguous bytes that are needed.
        needed: u64,
        /// How many of them are the frame pool.
        pool: u64,
        /// The largest frame pool with which the rest would fit, if there is one.
        fitting_pool: Option<u64>,
    },
    /// `oche.pool` is below 32 MiB.
    PoolTooSmall,
    /// No place for the guest's kernel or FDT.
    NoPlaceForGuest,
    /// There are too many ranges of RAM.
    TooManyRanges,
}

/// The reason, for one line on the console.
impl fmt::Display for LayoutError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLittleMemory { needed, pool, fitting_pool } => {
                let mib = |bytes: u64| bytes.div_ceil(1 << 20);
                write!(
                    out,
                    "too little memory: Oche needs {} MiB in one piece, {} of them for oche.pool",
                    mib(*needed),
                    mib(*pool)
                )?;
                match fitting_pool {
                    Some(bytes) => write!(out, "; oche.pool={}M fits", bytes >> 20),
                    None => Ok(()),
                }
            }
            Self::PoolTooSmall => out.write_str("oche.pool is below 32M"),
            Self::NoPlaceForGuest => out.write_str("no free place in RAM for the guest's kernel"),
            Self::TooManyRanges => out.write_str("RAM is in too many pieces"),
        }
    }
}

impl From<ListFull> for LayoutError {
    fn from(_: ListFull) -> Self {
        Self::TooManyRanges
    }
}

impl MemoryLayout {
    /// Plans the layout.
    ///
    /// # Errors
    ///
    /// A [`LayoutError`] if something does not fit.
    pub fn plan(request: &LayoutRequest<'_>) -> Result<Self, LayoutError> {
        // Only whole pages can be mapped.
        let mut ram = RangeList::new();
        for range in request.ram.as_slice() {
            ram.push(range.shrunk_to(PAGE))?;
        }
        let mut free = ram;
        let firmware = request.firmware.as_slice().iter();
        let occupied =
            firmware.chain(request.sources).chain(request.initrd.as_ref()).chain([&request.image]);
        for range in occupied {
            free.subtract(range.grown_to(PAGE))?;
        }

        let sizes = Sizes::of(request, &ram)?;
        let plan = Self::with_sizes(request, ram, free, &sizes);
        if let Err(LayoutError::TooLittleMemory { needed, pool, .. }) = plan {
            let fits = |pool: &u64| {
                let sizes = Sizes::with_pool(request, &ram, *pool);
                sizes.and_then(|sizes| Self::with_sizes(request, ram, free, &sizes)).is_ok()
            };
            let smaller = (LEAST_POOL_BYTES..pool.min(ram.total())).step_by(BLOCK as usize);
            // The larger the pool, the less fits.
            let fitting_pool = smaller.take_while(fits).last();
            return Err(LayoutError::TooLittleMemory { needed, pool, fitting_pool });
        }
        plan
    }

    /// Plans the layout with Oche's memory as large as `sizes`.
    fn with_sizes(
        request: &LayoutRequest<'_>,
        ram: RangeList,
        mut free: RangeList,
        sizes: &Sizes,
    ) -> Result<Self, LayoutError> {
        let (needed, pool) = (sizes.total(), sizes.pool);
        let limit = PhysRange { start: 0, end: request.address_limit };
        let reserved = highest_to_end(&free, needed, limit)
            .ok_or(LayoutError::TooLittleMemory { needed, pool, fitting_pool: None })?;
        free.subtract(reserved)?;
        let mut next = reserved.start;
        let mut take = |bytes: u64| {
            let range = PhysRange { start: next, end: next + bytes };
            next = range.end;
            range
        };
        let (trace, heap) = (take(sizes.trace), take(sizes.heap));
        let (tables, own_tables) = (take(sizes.tables), take(sizes.own_tables));
        let release = take(PAGE);
        let pool_start = align_up(release.end, BLOCK);
        let pool = PhysRange { start: pool_start, end: pool_start + sizes.pool };

        let kernel = lowest_kernel(&free, request.kernel).ok_or(LayoutError::NoPlaceForGuest)?;
        free.subtract(kernel.grown_to(PAGE))?;
        let mut guest = ram;
        guest.subtract(reserved)?;
        let mut offered = guest;
        guest.subtract(request.image.grown_to(PAGE))?;
        if !request.keeps_image {
            offered = guest;
        }
        let image = request.image;
        Ok(Self {
            image,
            trace,
            heap,
            tables,
            own_tables,
            pool,
            release,
            reserved,
            kernel,
            guest,
            offered,
            free,
        })
    }

    /// Allocates `bytes` bytes of the guest's free RAM, 2 MiB aligned, as high as possible.
    ///
    /// # Errors
    ///
    /// [`LayoutError::NoPlaceForGuest`].
    pub fn place_fdt(&mut self, bytes: u64) -> Result<PhysRange, LayoutError> {
        let everywhere = PhysRange { start: 0, end: u64::MAX };
        let place = highest(&self.free, align_up(bytes, PAGE), everywhere)
            .ok_or(LayoutError::NoPlaceForGuest)?;
        self.free.subtract(place)?;
        Ok(place)
    }
}

/// The bytes of the frame pool without `oche.pool`: a quarter of RAM, but from 32 MiB to 128 MiB.
pub const fn default_pool_bytes(ram_bytes: u64) -> u64 {
    let quarter = ram_bytes / 4;
    if quarter < LEAST_POOL_BYTES {
        LEAST_POOL_BYTES
    } else if quarter > MAX_DEFAULT_POOL_BYTES {
        MAX_DEFAULT_POOL_BYTES
    } else {
        quarter
    }
}

/// Room for this boot's trace, and as much after it for that of the previous boot.
pub fn trace_bytes(trace: directory::Layout) -> u64 {
    let bytes = align_up(trace.total_bytes() as u64, BLOCK);
    if trace.ring_records() == 0 { bytes } else { 2 * bytes }
}

/// DRAM below Oche's `image`, in which both stages map pages only: it contains the memory that CTRR
/// protects. `around_ram` is the memory around RAM whose boundaries only firmware knows.
pub fn below_image(image: PhysRange, around_ram: PhysRange, ram: &RangeList) -> PhysRange {
    let lowest = ram.as_slice().iter().map(|range| range.start).min().unwrap_or(0);
    let start = if around_ram.is_empty() { lowest } else { around_ram.start.min(lowest) };
    PhysRange { start, end: align_up(image.start, BLOCK) }
}

/// How large each part of Oche's memory is, in bytes.
struct Sizes {
    trace: u64,
    heap: u64,
    tables: u64,
    own_tables: u64,
    pool: u64,
}

impl Sizes {
    fn of(request: &LayoutRequest<'_>, ram: &RangeList) -> Result<Self, LayoutError> {
        let ram_bytes = ram.total();
        let pool = request.pool_bytes.unwrap_or(default_pool_bytes(ram_bytes));
        if pool < LEAST_POOL_BYTES {
            return Err(LayoutError::PoolTooSmall);
        }
        Self::with_pool(request, ram, pool)
    }

    fn with_pool(
        request: &LayoutRequest<'_>,
        ram: &RangeList,
        pool: u64,
    ) -> Result<Self, LayoutError> {
        let ram_bytes = ram.total();
        // Any block of RAM may be split, and any block around it consist of pages.
        let mut elsewhere = *ram;
        elsewhere.subtract(request.around_ram)?;
        let around = request.around_ram.grown_to(BLOCK).size() / BLOCK;
        let tables =
            (elsewhere.total() / BLOCK + SPARE_TABLES).saturating_add(around).saturating_mul(PAGE);
        let in_pages = ram.as_slice().iter().filter_map(|range| range.overlap(&request.by_page));
        let own_tables = in_pages.map(|range| range.grown_to(BLOCK).size() / BLOCK).sum::<u64>();
        let heap = HEAP_BYTES.saturating_add((request.engine_bytes)(ram_bytes, pool));
        Ok(Self {
            trace: align_up(request.trace_bytes, BLOCK),
            heap: align_up(heap, BLOCK),
            tables: align_up(tables, ROOT_BYTES),
            own_tables: (own_tables + SPARE_OWN_TABLES).saturating_mul(PAGE),
            pool: align_up(pool, BLOCK),
        })
    }

    /// The sum, with the page of release words.
    fn total(&self) -> u64 {
        let tables =
            align_up(self.tables.saturating_add(self.own_tables).saturating_add(PAGE), BLOCK);
        [self.trace, self.heap, tables, self.pool].into_iter().fold(0, u64::saturating_add)
    }
}

/// The highest range of at least `bytes` bytes, inside `limit`, that begins at a multiple of 2 MiB
/// and ends at the end of a range of the list.
fn highest_to_end(list: &RangeList, bytes: u64, limit: PhysRange) -> Option<PhysRange> {
    let pieces = list.as_slice().iter().filter_map(|range| {
        let end = range.end.min(limit.end);
        let start = align_down(end.checked_sub(bytes)?, BLOCK);
        let piece = PhysRange { start, end };
        range.covers(&piece).then_some(piece)
    });
    pieces.max_by_key(|piece| piece.start)
}

/// The highest 2 MiB-aligned range of `bytes` bytes in the list, inside `limit`.
fn highest(list: &RangeList, bytes: u64, limit: PhysRange) -> Option<PhysRange> {
    let pieces = list.as_slice().iter().filter_map(|range| {
        let end = range.end.min(limit.end);
        let start = align_down(end.checked_sub(bytes)?, BLOCK);
        let piece = PhysRange { start, end: start + bytes };
        range.covers(&piece).then_some(piece)
    });
    pieces.max_by_key(|piece| piece.start)
}

/// The lowest place for the kernel: `text_offset` above a multiple of 2 MiB.
fn lowest_kernel(list: &RangeList, kernel: Kernel) -> Option<PhysRange> {
    let places = list.as_slice().iter().filter_map(|range| {
        let start = align_up(range.start, BLOCK).checked_add(kernel.text_offset)?;
        let place = PhysRange::sized(start, kernel.image_size)?;
        range.covers(&place).then_some(place)
    });
    places.min_by_key(|place| place.start)
}
