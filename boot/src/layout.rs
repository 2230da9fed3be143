//! Where everything goes: Oche's reserved memory, the guest's kernel, its FDT.
//!
//! Oche's image stays where the loader put it. The rest of what Oche needs is one contiguous region at the
//! top of RAM, 2 MiB aligned: trace, heap, stage-2 tables, frame pool, in this order. The guest gets the
//! rest of RAM, and never hears of those two ranges.

use core::fmt;

use crate::header::Kernel;
use crate::range::{BLOCK, ListFull, PAGE, PhysRange, RangeList, align_down, align_up};

/// Bytes of EL2's heap beyond what the engine asks for: the guest's FDT while it is edited, then whatever
/// the machine's own drivers hold.
pub const HEAP_BYTES: u64 = 16 << 20;
/// The smallest frame pool, and the smallest that is taken by default: 32 MiB.
pub const LEAST_POOL_BYTES: u64 = 32 << 20;
/// Table pages beyond one for each 2 MiB of RAM: ragged edges, device holes, level-2 tables.
const SPARE_TABLES: u64 = 256;

/// What the plan starts from.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
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
    /// Pages of stage-2 tables beyond what RAM in blocks needs.
    pub more_tables: u64,
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
    /// The engine's 16K frames.
    pub pool: PhysRange,
    /// Where the guest kernel's first byte goes, and all the memory that its header asks for.
    pub kernel: PhysRange,
    /// RAM that the guest has.
    pub guest: RangeList,
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
    pub fn plan(request: &Request<'_>) -> Result<Self, LayoutError> {
        let mut free = *request.ram;
        let firmware = request.firmware.as_slice().iter();
        let occupied = firmware.chain(request.sources).chain(request.initrd.as_ref()).chain([&request.image]);
        for range in occupied {
            free.subtract(range.grown_to(PAGE))?;
        }

        let ram_bytes = request.ram.total();
        let pool_bytes = request.pool_bytes.unwrap_or((ram_bytes / 4).max(LEAST_POOL_BYTES));
        if pool_bytes < LEAST_POOL_BYTES {
            return Err(LayoutError::PoolTooSmall);
        }
        let table_bytes =
            (ram_bytes / BLOCK + SPARE_TABLES).saturating_add(request.more_tables).saturating_mul(PAGE);
        // A buddy allocator places a block at a multiple of its size, wherever the heap begins: the largest
        // may miss its place by nearly its own size.
        let engine = (request.engine_bytes)(ram_bytes, pool_bytes);
        let largest = 1u64 << engine.max(1).ilog2();
        let heap_bytes = HEAP_BYTES.saturating_add(engine).saturating_add(largest);
        let sizes =
            [request.trace_bytes, heap_bytes, table_bytes, pool_bytes].map(|bytes| align_up(bytes, BLOCK));
        let needed = sizes.iter().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
        let limit = PhysRange { start: 0, end: request.address_limit };
        let reserved = highest(&free, needed, limit).ok_or(LayoutError::TooLittleMemory { needed })?;
        free.subtract(reserved)?;
        let mut next = reserved.start;
        let [trace, heap, tables, pool] = sizes.map(|bytes| {
            let range = PhysRange { start: next, end: next + bytes };
            next = range.end;
            range
        });

        let kernel = lowest_kernel(&free, request.kernel).ok_or(LayoutError::NoPlaceForGuest)?;
        free.subtract(kernel.grown_to(PAGE))?;
        let mut guest = *request.ram;
        guest.subtract(request.image.grown_to(PAGE))?;
        guest.subtract(reserved)?;
        Ok(Self { image: request.image, trace, heap, tables, pool, kernel, guest, free })
    }

    /// A place for `bytes` of the guest's that nothing occupies, 2 MiB aligned, as high as possible.
    ///
    /// # Errors
    ///
    /// [`LayoutError::NoPlaceForGuest`].
    pub fn place_fdt(&mut self, bytes: u64) -> Result<PhysRange, LayoutError> {
        let everywhere = PhysRange { start: 0, end: u64::MAX };
        let place =
            highest(&self.free, align_up(bytes, PAGE), everywhere).ok_or(LayoutError::NoPlaceForGuest)?;
        self.free.subtract(place)?;
        Ok(place)
    }

    /// The memory that Oche keeps, image apart.
    pub fn reserved(&self) -> PhysRange {
        PhysRange { start: self.trace.start, end: self.pool.end }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn ram(ranges: &[(u64, u64)]) -> RangeList {
        let mut list = RangeList::new();
        for (start, size) in ranges {
            list.push(PhysRange::sized(*start, *size).expect("fits")).expect("room");
        }
        list
    }

    fn request<'a>(ram: &'a RangeList, none: &'a RangeList, sources: &'a [PhysRange]) -> Request<'a> {
        Request {
            ram,
            firmware: none,
            image: PhysRange { start: 0x4020_0000, end: 0x4040_1000 },
            sources,
            initrd: Some(PhysRange { start: 0x4300_0000, end: 0x4400_0123 }),
            kernel: Kernel { text_offset: 0, image_size: 31 * MIB },
            pool_bytes: None,
            trace_bytes: 5 * MIB,
            engine_bytes: |_, _| 3 * MIB,
            more_tables: 0,
            address_limit: 1 << 39,
        }
    }

    #[test]
    fn nothing_overlaps_and_the_guest_gets_the_rest() {
        let (ram, none) = (ram(&[(0x4000_0000, 2048 * MIB)]), RangeList::new());
        let sources = [
            PhysRange { start: 0x4800_0000, end: 0x4810_0000 },
            PhysRange { start: 0x4040_1000, end: 0x4300_0000 },
        ];
        let request = request(&ram, &none, &sources);
        let mut layout = Layout::plan(&request).expect("it fits");
        let fdt = layout.place_fdt(0x1_2345).expect("it fits");
        let parts = [layout.trace, layout.heap, layout.tables, layout.pool, layout.kernel, layout.image, fdt];
        for (index, one) in parts.iter().enumerate() {
            assert!(ram.covers(one), "{one}");
            assert!(parts.iter().skip(index + 1).all(|other| !one.overlaps(other)), "{one}");
            assert!(!sources.iter().any(|source| source.overlaps(one)), "{one}");
            assert!(!request.initrd.expect("given").overlaps(one), "{one}");
        }
        assert_eq!(layout.pool.size(), 512 * MIB);
        assert_eq!(layout.pool.end, 0xc000_0000, "at the top");
        assert!(layout.trace.start.is_multiple_of(BLOCK) && layout.kernel.start.is_multiple_of(BLOCK));
        let own = layout.image.size() + layout.reserved().size();
        assert_eq!(layout.guest.total() + own, ram.total());
        assert!(layout.guest.covers(&layout.kernel) && layout.guest.covers(&fdt));
        assert!(!layout.guest.overlaps(&layout.image) && !layout.guest.overlaps(&layout.reserved()));
    }

    #[test]
    fn too_little_memory_is_said_and_not_squeezed() {
        let (ram, none) = (ram(&[(0x4000_0000, 64 * MIB)]), RangeList::new());
        let mut request = request(&ram, &none, &[]);
        request.image.end = 0x4030_0000;
        assert!(matches!(Layout::plan(&request), Err(LayoutError::TooLittleMemory { .. })));
        request.pool_bytes = Some(MIB);
        assert_eq!(Layout::plan(&request).err(), Some(LayoutError::PoolTooSmall));
        request.pool_bytes = Some(u64::MAX);
        assert!(matches!(Layout::plan(&request), Err(LayoutError::TooLittleMemory { .. })));
    }

    #[test]
    fn firmwares_memory_is_never_used() {
        let (ram, mut firmware) = (ram(&[(0x4000_0000, 1024 * MIB)]), RangeList::new());
        firmware.push(PhysRange { start: 0x7f00_0000, end: 0x8000_0000 }).expect("room");
        let layout = Layout::plan(&request(&ram, &firmware, &[])).expect("it fits");
        assert_eq!(layout.pool.end, 0x7f00_0000);
        assert!(
            layout.guest.covers(&PhysRange { start: 0x7f00_0000, end: 0x8000_0000 }),
            "but the guest sees it"
        );
    }
}
