//! EL2's own map: the identity, 39 bits, 4 KiB granule.
//!
//! The first tables live in Oche's BSS; RAM below the image is mapped in pages (see
//! [`crate::blocks`]), and the tables for that come from Oche's reserved memory, as many as the
//! image lies high.
//!
//! E2H = 1, so this is the EL2&0 regime with the descriptor layout of EL1: AP[1] is 0 (EL2 only)
//! and there are two execute-never bits. TTBR1 is off. Text is the only executable memory, and
//! read-only; SCTLR_EL2.WXN backs that up. Entries only ever go from invalid to valid, so nothing
//! here needs break-before-make.
//!
//! Source: Arm ARM DDI 0487, "VMSAv8-64 descriptor formats", `TCR_EL2` (E2H = 1), `MAIR_EL2`.

use core::arch::asm;
use core::cell::UnsafeCell;

use aarch64_cpu::registers::{ID_AA64MMFR0_EL1, PAR_EL1, Readable};
use oche_el2::image;
use oche_el2::smp::Regime;
use oche_types::range::{BLOCK, PhysRange, align_up};

use crate::blocks;

/// Bits of address that the map covers: 512 GiB, one level-1 table.
pub const ADDRESS_BITS: u32 = 39;
/// `MAIR_EL2`: attribute 0 is Normal Write-Back (0xff), attribute 1 is Normal Non-Cacheable (0x44),
/// attribute 2 is Device-nGnRnE (0x00): the M1's own registers answer anything weaker with an
/// SError (Asahi documentation `hw/cpu/system-registers.md`; Linux `nonposted-mmio`).
pub const MAIR: u64 = 0x44ff;
/// Tables in the BSS: the image, registers and the framebuffer, and what is read before memory is
/// planned.
const TABLES: usize = 48;
const TABLE_BYTES: u64 = 4096;

#[repr(C, align(4096))]
struct Tables(UnsafeCell<[[u64; 512]; TABLES]>);

// SAFETY: written by the boot CPU only, before any other CPU of Oche's runs; walked by hardware.
unsafe impl Sync for Tables {}

static MAP: Tables = Tables(UnsafeCell::new([[0; 512]; TABLES]));
/// The allocated tables, in a cell with the same rule.
static SUPPLY: Supply =
    Supply(UnsafeCell::new(Stock { used: 0, more: PhysRange { start: 0, end: 0 } }));

struct Supply(UnsafeCell<Stock>);

// SAFETY: as for `Tables`.
unsafe impl Sync for Supply {}

/// The tables in use, and the memory for more.
#[derive(Clone, Copy)]
struct Stock {
    /// Tables in use. Zero means that the root is not made yet.
    used: usize,
    /// Memory for tables in addition to those of the BSS: mapped and zero.
    more: PhysRange,
}

/// The use of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Oche's code: read and execute.
    Text,
    /// Oche's constants: read.
    Constants,
    /// Memory: read and write.
    Memory,
    /// Registers: read and write, Device-nGnRnE.
    Device,
    /// A framebuffer: read and write, not cached.
    Screen,
}

/// No table is left, or the range is beyond the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotMap;

const VALID: u64 = 1;
const TABLE_OR_PAGE: u64 = 2;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

impl Use {
    /// AF, SH = inner shareable for memory, AP[2] = read-only, PXN (53), UXN (54), attribute index.
    fn attributes(self) -> u64 {
        const ACCESSED: u64 = 1 << 10;
        const INNER: u64 = 3 << 8;
        const READ_ONLY: u64 = 1 << 7;
        const NOT_CACHED: u64 = 1 << 2;
        const DEVICE: u64 = 2 << 2;
        const NO_EXECUTE_EL2: u64 = 1 << 53;
        const NO_EXECUTE_EL0: u64 = 1 << 54;
        let common = ACCESSED | NO_EXECUTE_EL0;
        match self {
            Self::Text => common | INNER | READ_ONLY,
            Self::Constants => common | INNER | READ_ONLY | NO_EXECUTE_EL2,
            Self::Memory => common | INNER | NO_EXECUTE_EL2,
            Self::Device => common | DEVICE | NO_EXECUTE_EL2,
            Self::Screen => common | NOT_CACHED | NO_EXECUTE_EL2,
        }
    }
}

/// Maps the whole pages of `range` that are not mapped yet. Existing mappings stay as they are.
///
/// # Errors
///
/// [`CannotMap`] with part of the range mapped.
///
/// # Safety
///
/// Only the boot CPU, before others run. `range` is what `purpose` says: mapping a device as memory
/// lets the CPU read it at will, and mapping Oche's own text as memory would undo its protection.
pub unsafe fn map(range: PhysRange, purpose: Use) -> Result<(), CannotMap> {
    if range.end > 1 << ADDRESS_BITS {
        return Err(CannotMap);
    }
    let mut at = range.start;
    while at < range.end {
        at += map_one(at, range.end - at, purpose.attributes())?;
    }
    // The walker of this CPU sees the new entries before the next access; no TLB holds an invalid
    // one.
    // SAFETY: a barrier changes nothing.
    unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
    Ok(())
}

/// The level-1 table: what goes into `TTBR0_EL2`.
pub fn root() -> u64 {
    MAP.0.get() as u64
}

/// `TCR_EL2` with E2H = 1: T0SZ = 25, walks inner shareable and write-back, 4 KiB granule, no walks
/// by TTBR1 (EPD1, bit 23; its T1SZ and TG1 hold legal values), IPS (bits 34:32) as wide as the
/// CPU's.
pub fn tcr() -> u64 {
    let physical = ID_AA64MMFR0_EL1.read(ID_AA64MMFR0_EL1::PARange).min(5);
    let t0sz = u64::from(64 - ADDRESS_BITS);
    t0sz | 1 << 8 | 1 << 10 | 3 << 12 | t0sz << 16 | 1 << 23 | 2 << 30 | physical << 32
}

/// The registers with which another CPU uses this map.
pub fn regime() -> Regime {
    Regime { ttbr: root(), tcr: tcr(), mair: MAIR }
}

/// Adds memory for more tables, in whole pages.
///
/// # Safety
///
/// Only the boot CPU, before others run, once. `memory` is mapped as [`Use::Memory`], zero, and
/// without another use.
pub unsafe fn supply(memory: PhysRange) {
    // SAFETY: `map`'s contract: one CPU.
    unsafe { (*SUPPLY.0.get()).more = memory };
}

/// Tables in use and tables in all.
pub fn usage() -> (usize, usize) {
    let stock = stock();
    let left = TABLES.saturating_sub(stock.used) as u64 + stock.more.size() / TABLE_BYTES;
    (stock.used, stock.used + left as usize)
}

/// The first block in the tables at `root`, from `TTBR0_EL2` or `VTTBR_EL2`, that overlaps
/// `region`.
pub fn first_block(root: u64, region: PhysRange) -> Option<PhysRange> {
    blocks::first_block(&read, root & ADDRESS, region)
}

/// Checks with the CPU's address translation that EL2 may store to `address`.
///
/// # Errors
///
/// `PAR_EL1`, which holds the reason. Source: Arm ARM DDI 0487, `AT S1E2W`, `PAR_EL1`.
pub fn check_store(address: u64) -> Result<(), u64> {
    // SAFETY: it translates, and changes `PAR_EL1` alone, which is unused before the guest runs.
    unsafe { asm!("at s1e2w, {}", "isb", in(reg) address, options(nostack, preserves_flags)) };
    let result = PAR_EL1.get();
    if result & 1 == 0 { Ok(()) } else { Err(result) }
}

fn map_one(at: u64, bytes: u64, attributes: u64) -> Result<u64, CannotMap> {
    let mut table = root();
    if stock().used == 0 {
        take_table()?;
    }
    for level in 1..=3u32 {
        let size = 1u64 << (39 - 9 * level);
        let index = (at >> (39 - 9 * level)) as usize & 511;
        let entry = read(table, index);
        // A block begins at a multiple of its size: one that begins behind this border covers
        // nothing before it.
        let may_be_block = at >= align_up(image::range().start, BLOCK);
        let fits = at & (size - 1) == 0 && bytes >= size && may_be_block;
        if entry & VALID != 0 && (level == 3 || entry & TABLE_OR_PAGE == 0) {
            return Ok(size - (at & (size - 1)));
        }
        if entry & VALID == 0 && (fits || level == 3) {
            let kind = if level == 3 { TABLE_OR_PAGE | VALID } else { VALID };
            write(table, index, (at & ADDRESS & !(size - 1)) | attributes | kind);
            return Ok(size - (at & (size - 1)));
        }
        if entry & VALID == 0 {
            let next = take_table()?;
            write(table, index, next | TABLE_OR_PAGE | VALID);
            table = next;
        } else {
            table = entry & ADDRESS;
        }
    }
    Err(CannotMap)
}

fn stock() -> Stock {
    // SAFETY: `map`'s contract: one CPU changes it.
    unsafe { SUPPLY.0.get().read_volatile() }
}

/// Allocates a table that is zero, and returns its address.
fn take_table() -> Result<u64, CannotMap> {
    let mut stock = stock();
    let table = if stock.used < TABLES {
        root() + stock.used as u64 * TABLE_BYTES
    } else if stock.more.size() >= TABLE_BYTES {
        stock.more.start += TABLE_BYTES;
        stock.more.start - TABLE_BYTES
    } else {
        return Err(CannotMap);
    };
    stock.used += 1;
    // SAFETY: as for `stock`.
    unsafe { SUPPLY.0.get().write_volatile(stock) };
    Ok(table)
}

fn entry_pointer(table: u64, index: usize) -> *mut u64 {
    (table as *mut u64).wrapping_add(index)
}

fn read(table: u64, index: usize) -> u64 {
    // SAFETY: a table of either stage: in `MAP`, or in memory that EL2 maps; volatile because the
    // walker reads it too.
    unsafe { entry_pointer(table, index).read_volatile() }
}

fn write(table: u64, index: usize, value: u64) {
    // SAFETY: as for `read`; `map`'s contract makes this CPU the only writer.
    unsafe { entry_pointer(table, index).write_volatile(value) };
}
