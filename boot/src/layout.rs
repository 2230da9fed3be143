//! Where everything goes: Oche's reserved memory, the guest's kernel, its FDT.
//!
//! Oche's image stays where the loader put it. The rest of what Oche needs is one contiguous region
//! that begins at a multiple of 2 MiB and runs to the end of RAM: trace, heap, tables of both
//! stages, the page in which the guest writes where its CPUs begin, and the frame pool, in this
//! order. The guest gets the rest of RAM. No RAM is left behind the region: it would be a second
//! bank of the guest's, which U-Boot allocates from and does not map (U-Boot
//! `arch/arm/mach-apple/board.c`, `lib/lmb.c`).

use core::fmt;

use oche_types::range::{BLOCK, ListFull, PAGE, PhysRange, RangeList, align_down, align_up};

use crate::header::Kernel;

#[cfg(test)]
mod tests;

/// Bytes of EL2's heap beyond what the engine asks for: the guest's FDT while it is edited, then
/// whatever the machine's own drivers hold.
pub const HEAP_BYTES: u64 = 16 << 20;
/// The smallest frame pool, and the smallest that is taken by default: 32 MiB.
pub const LEAST_POOL_BYTES: u64 = 32 << 20;
/// Table pages beyond one for each 2 MiB of RAM: ragged edges, device holes, level-2 tables.
const SPARE_TABLES: u64 = 256;
/// Tables of EL2's own map beyond one for each 2 MiB of RAM that is mapped in pages: registers,
/// edges, level 2.
const SPARE_OWN_TABLES: u64 = 128;
/// Alignment of the stage-2 tables in bytes: the root may be two tables long.
const ROOT_BYTES: u64 = 2 * PAGE;

/// What the plan starts from.
#[derive(Clone, Copy, Debug)]
pub struct LayoutRequest<'a> {
    /// All RAM.
    pub ram: &'a RangeList,
    /// What firmware keeps for itself: the guest sees it, nothing is placed there.
    pub firmware: &'a RangeList,
    /// Oche's own image, BSS and stacks included, page aligned.
    pub image: PhysRange,
    /// What must survive until the guest is loaded: firmware's FDT, the payload.
    pub sources: &'a [PhysRange],
    /// The initrd, where the guest will read it.
    pub initrd: Option<PhysRange>,
    /// The guest kernel's wishes.
    pub kernel: Kernel,
    /// `oche.pool`, or a quarter of RAM.
    pub pool_bytes: Option<u64>,
    /// Bytes for the trace: directory and rings.
    pub trace_bytes: u64,
    /// How many bytes of heap the engine needs, by the bytes of RAM and of the pool.
    pub engine_bytes: fn(ram_bytes: u64, pool_bytes: u64) -> u64,
    /// Pages of stage-2 tables beyond what RAM needs.
    pub more_tables: u64,
    /// Memory that both stages map in pages alone: see [`crate::blocks`].
    pub by_page: PhysRange,
    /// The guest's `/memory` keeps the place of Oche's image, as a reservation: a guest that looks
    /// at the first bank alone (U-Boot) would otherwise lose what lies behind.
    pub keeps_image: bool,
    /// Host-physical limit that Oche's own map reaches; nothing of Oche's goes beyond.
    pub address_limit: u64,
}

/// Where everything is.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
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
    /// The page in which the guest writes where its other CPUs begin: mapped for the guest, and
    /// outside its memory.
    pub release: PhysRange,
    /// All that Oche keeps, image apart: from the trace to the end of RAM.
    pub reserved: PhysRange,
    /// Where the guest kernel's first byte goes, and all the memory that its header asks for.
    pub kernel: PhysRange,
    /// RAM that the guest has.
    pub guest: RangeList,
    /// What the guest's FDT calls memory: `guest`, and Oche's image where that is a reservation.
    pub offered: RangeList,
    /// The part of it that nothing occupies yet.
    free: RangeList,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// No gap of RAM is large enough for Oche's reserved memory.
    TooLittleMemory {
        /// Bytes that are needed in one piece.
        needed: u64,
    },
    /// `oche.pool` is below 32 MiB.
    PoolTooSmall,
    /// No place for the guest's kernel or FDT.
    NoPlaceForGuest,
    /// RAM is in too many pieces.
    TooManyRanges,
}

/// The reason, for one line on the console.
impl fmt::Display for LayoutError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLittleMemory { needed } => {
                let mib = needed.div_ceil(1 << 20);
                write!(
                    out,
                    "too little memory: Oche needs {mib} MiB in one piece (oche.pool sets most of it)"
                )
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

impl Layout {
    /// Plans.
    ///
    /// # Errors
    ///
    /// A [`LayoutError`] when something does not fit.
    pub fn plan(request: &LayoutRequest<'_>) -> Result<Self, LayoutError> {
        // What is no whole page cannot be mapped.
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
        let needed = sizes.total();
        let limit = PhysRange { start: 0, end: request.address_limit };
        let reserved =
            highest_to_end(&free, needed, limit).ok_or(LayoutError::TooLittleMemory { needed })?;
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

    /// A place for `bytes` of the guest's that nothing occupies, 2 MiB aligned, as high as
    /// possible.
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
        let pool = request.pool_bytes.unwrap_or((ram_bytes / 4).max(LEAST_POOL_BYTES));
        if pool < LEAST_POOL_BYTES {
            return Err(LayoutError::PoolTooSmall);
        }
        let tables = (ram_bytes / BLOCK + SPARE_TABLES)
            .saturating_add(request.more_tables)
            .saturating_mul(PAGE);
        let in_pages = ram.as_slice().iter().filter_map(|range| range.overlap(&request.by_page));
        let own_tables = in_pages.map(|range| range.grown_to(BLOCK).size() / BLOCK).sum::<u64>();
        // A buddy allocator places a block at a multiple of its size, wherever the heap begins: the
        // largest may miss its place by nearly its own size.
        let engine = (request.engine_bytes)(ram_bytes, pool);
        let largest = 1u64 << engine.max(1).ilog2();
        let heap = HEAP_BYTES.saturating_add(engine).saturating_add(largest);
        Ok(Self {
            trace: align_up(request.trace_bytes, BLOCK),
            heap: align_up(heap, BLOCK),
            tables: align_up(tables, ROOT_BYTES),
            own_tables: (own_tables + SPARE_OWN_TABLES).saturating_mul(PAGE),
            pool: align_up(pool, BLOCK),
        })
    }

    /// All of it, with the page of releases.
    fn total(&self) -> u64 {
        let tables =
            align_up(self.tables.saturating_add(self.own_tables).saturating_add(PAGE), BLOCK);
        [self.trace, self.heap, tables, self.pool].into_iter().fold(0, u64::saturating_add)
    }
}

/// The highest piece of at least `bytes`, inside `limit`, that begins at a multiple of 2 MiB and
/// ends where a range of the list does.
fn highest_to_end(list: &RangeList, bytes: u64, limit: PhysRange) -> Option<PhysRange> {
    let pieces = list.as_slice().iter().filter_map(|range| {
        let end = range.end.min(limit.end);
        let start = align_down(end.checked_sub(bytes)?, BLOCK);
        let piece = PhysRange { start, end };
        range.covers(&piece).then_some(piece)
    });
    pieces.max_by_key(|piece| piece.start)
}

/// The highest 2 MiB-aligned piece of `bytes` in the list, inside `limit`.
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
