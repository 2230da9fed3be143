//! The way from an FDT address to a running guest, step by step, for a platform's `main` to walk.
//!
//! Every step either succeeds or ends in one line `oche: fatal: ...` and the machine off.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable, TTBR0_EL2};
use alloc::vec::Vec;
use oche_el2::fiq::{self, Route};
use oche_el2::firmware::{self, fatal};
use oche_el2::registers::VttbrEl2;
use oche_el2::stage2::Stage2;
use oche_el2::tlb::Cpus;
use oche_el2::{cache, cpu_setup, features, guest, image, smp};
use oche_trace::directory;
use oche_types::MAX_CPUS;
use oche_types::range::{BLOCK, PAGE, PhysRange, RangeList, align_up};

use crate::bare::entry::FdtAddress;
use crate::bare::stage1::{self, CannotMap, Use};
use crate::bare::{heap, spin_table};
use crate::blob;
use crate::guest_fdt::{self, Changes, Edit, Reservation, VirtioPort};
use crate::guest_map::{GuestMap, MapError};
use crate::header::{self, HEADER_BYTES};
use crate::layout::{Layout, LayoutError, Request};
use crate::machine::Machine;
use crate::options::{Options, retired};
use crate::payload::{self, Item, MAX_HEADER_BYTES};

/// Bytes beyond the old blob that a new one may need.
const FDT_GROWTH: u64 = 64 << 10;

/// Everything that is known before the guest is loaded.
///
/// It refers to firmware's FDT and to the payload, which lie in memory that becomes the guest's: it
/// ends when [`Prepared::launch`] takes it.
#[derive(Debug)]
pub struct Prepared {
    /// The machine, as firmware describes it.
    pub machine: Machine<'static>,
    /// What was chosen.
    pub options: Options<'static>,
    /// Where everything goes.
    pub layout: Layout,
    board: Board,
    kernel_file: PhysRange,
    initrd: Option<PhysRange>,
}

/// How a board wants things.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    /// How many bytes of heap the engine needs, by the bytes of RAM and of the pool.
    pub engine_bytes: fn(ram_bytes: u64, pool_bytes: u64) -> u64,
    /// What lies beside RAM in the same memory: mapped page by page, because only firmware knows
    /// its borders.
    pub around_ram: fn(ram: &RangeList) -> PhysRange,
    /// The guest's `/memory` keeps the place of Oche's image, as a reservation: a guest that looks
    /// at the first range alone (U-Boot) would otherwise lose what lies behind.
    pub reserves_image: bool,
    /// Called with the FDT as soon as its bytes can be read, and before anything in it is believed:
    /// what is wrong with the rest is to be seen on a screen.
    pub on_fdt: fn(&[u8]),
}

/// Maps a framebuffer, which lies outside RAM, for Oche's own use.
///
/// # Errors
///
/// [`CannotMap`]: there is no screen then.
pub fn map_screen(range: PhysRange) -> Result<(), CannotMap> {
    // SAFETY: boot CPU, alone; the caller names a framebuffer, and writes are all that is done to
    // it.
    unsafe { stage1::map(range.grown_to(PAGE), Use::Screen) }
}

/// Maps registers for Oche's own use.
pub fn map_registers(range: PhysRange) {
    // SAFETY: boot CPU, alone; registers are Device memory. The caller names registers.
    if unsafe { stage1::map(range.grown_to(PAGE), Use::Device) }.is_err() {
        fatal(format_args!("no room to map the registers at {range}"));
    }
}

/// Reads the FDT, maps RAM, reads payload and options, plans the memory, and opens the heap, which
/// has what the board says.
pub fn prepare(fdt: FdtAddress, board: Board) -> Prepared {
    static ONCE: AtomicBool = AtomicBool::new(false);
    assert!(!ONCE.swap(true, Ordering::Relaxed), "memory is given out once");
    if !features::has_host_extensions() {
        fatal(format_args!("this CPU has no VHE (FEAT_VHE), which Oche needs"));
    }
    let machine = read_machine(fdt, &board);
    cpu_setup::check_entry();
    firmware::set_present(machine.has_psci_smc);
    let image = image::range();
    if !machine.ram.covers(&image) {
        fatal(format_args!("Oche's image at {image} is not in RAM"));
    }
    let payload_at = image.end;
    let room = machine
        .ram
        .as_slice()
        .iter()
        .find(|range| range.contains(payload_at))
        .map_or(0, |range| range.end - payload_at);
    // The packer made Oche's own header say how long the whole file is.
    let length = own_image_size(image).saturating_sub(image.size()).min(room);
    let header =
        PhysRange { start: payload_at, end: payload_at + room.min(MAX_HEADER_BYTES as u64) };
    // The rest of RAM waits for its tables.
    map_memory(
        PhysRange { end: header.end.max(payload_at + length), ..header }.grown_to(PAGE),
        Use::Memory,
    );
    let header = bytes(header);
    let payload = payload::parse(header, length)
        .unwrap_or_else(|error| fatal(format_args!("{}", error.reason())));
    let place = |item: Item| PhysRange {
        start: payload_at + item.offset,
        end: payload_at + item.offset + item.length,
    };

    let options_text = payload.options.map(place).unwrap_or_default();
    let options = read_options(&machine, options_text);
    let Some(kernel_file) = payload.kernel.map(place) else {
        fatal(format_args!("the payload has no guest kernel"))
    };
    let first = PhysRange {
        start: kernel_file.start,
        end: kernel_file.end.min(kernel_file.start + HEADER_BYTES as u64),
    };
    let kernel = header::parse_kernel(bytes(first), kernel_file.size())
        .unwrap_or_else(|error| fatal(format_args!("{}", error.reason())));
    let initrd = payload.initrd.map(place).or(machine.initrd);

    let trace = directory::Layout::new(machine.affinities().len(), options.trace_bytes as usize);
    let blob = PhysRange { start: fdt.0, end: fdt.0 + machine.blob().len() as u64 };
    let request = Request {
        ram: &machine.ram,
        firmware: &machine.reserved,
        image,
        // The options' text too: the command line is read from it when the guest's FDT is written.
        sources: &[blob, kernel_file, options_text],
        initrd,
        kernel,
        pool_bytes: options.pool_bytes,
        trace_bytes: trace_bytes(trace),
        engine_bytes: board.engine_bytes,
        more_tables: (board.around_ram)(&machine.ram).size().div_ceil(BLOCK) + 2,
        by_page: below_image(&board, &machine.ram),
        keeps_image: board.reserves_image,
        address_limit: 1 << stage1::ADDRESS_BITS,
    };
    let layout = Layout::plan(&request).unwrap_or_else(|error| fatal(format_args!("{error}")));
    log::debug!("heap {}, tables {}, EL2's {}", layout.heap, layout.tables, layout.own_tables);
    map_own_tables(layout.own_tables);
    map_ram(&machine.ram, image);
    // SAFETY: the layout took the heap out of everything else, and this function runs once.
    unsafe { heap::give(layout.heap) };
    let (_, total) = heap::usage();
    assert!(
        total as u64 == layout.heap.size(),
        "the heap is {total} bytes, planned was {}",
        layout.heap
    );
    for range in [keep_previous(trace, layout.trace), layout.tables] {
        // SAFETY: Oche's own memory by the same layout, mapped above, not yet in use.
        unsafe { core::ptr::write_bytes(range.start as *mut u8, 0, range.size() as usize) };
    }
    Prepared { machine, options, layout, board, kernel_file, initrd }
}

/// Room for this boot's trace, and as much behind it for what the boot before left.
fn trace_bytes(trace: directory::Layout) -> u64 {
    let bytes = (trace.total_bytes() as u64).next_multiple_of(BLOCK);
    if trace.ring_records() == 0 { bytes } else { 2 * bytes }
}

/// Saves the rings of the boot before, if it was as large and its memory still holds them: a trace
/// up to a panic or a reset is worth most. Gives the part of `trace` that is to be cleared.
fn keep_previous(layout: directory::Layout, trace: PhysRange) -> PhysRange {
    if layout.ring_records() == 0 {
        return trace;
    }
    let half = (trace.size() / 2) as usize;
    let now = core::ptr::with_exposed_provenance::<AtomicU64>(trace.start as usize);
    // SAFETY: Oche's own memory by the layout, mapped above, 2 MiB aligned, and nobody else's yet;
    // all bytes are words.
    let words = unsafe { core::slice::from_raw_parts(now, half / 4) };
    let (now, before) = words.split_at(half / 8);
    if directory::keep_previous(&now, &before, half) {
        log::info!("the trace of the boot before is kept");
    }
    PhysRange { end: trace.start + half as u64, ..trace }
}

impl Prepared {
    /// The trace's layout: a ring of `oche.trace` bytes for each CPU.
    pub fn trace_layout(&self) -> directory::Layout {
        directory::Layout::new(self.machine.affinities().len(), self.options.trace_bytes as usize)
    }

    /// Stage 2 with the guest's RAM at home and everything that is not RAM passed through, but for
    /// `holes`: registers that trap, or that the guest must not reach. Every CPU will use these
    /// tables.
    pub fn stage2(&self, holes: &[PhysRange]) -> Stage2<Cpus> {
        let stage2 = self.build_stage2(holes);
        stage2.unwrap_or_else(|reason| fatal(format_args!("stage 2: {reason}")))
    }

    fn build_stage2(&self, holes: &[PhysRange]) -> Result<Stage2<Cpus>, MapError> {
        let ipa_bits = features::ipa_bits();
        let mut stage2 =
            Stage2::new(Cpus, self.layout.tables, ipa_bits, features::has_forced_write_back())
                .map_err(|_| MapError::OutOfTables)?;
        let (before, began) = (stage2.free_tables(), CNTPCT_EL0.get());
        let map = GuestMap {
            ram: &self.machine.ram,
            guest: &self.layout.guest,
            release: self.layout.release,
            around_ram: (self.board.around_ram)(&self.machine.ram),
            by_page: self.below_image(),
            holes,
            ipa_bits,
        };
        map.map(&mut stage2)?;
        let ((own, all), left) = (stage1::usage(), stage2.free_tables());
        let microseconds = (CNTPCT_EL0.get() - began) * 1_000_000 / CNTFRQ_EL0.get().max(1);
        let used = before - left;
        log::debug!(
            "tables: {own} of {all} of EL2's, {used} of {before} of stage 2 in {microseconds} us"
        );
        guest::set_root(stage2.root());
        Ok(stage2)
    }

    fn below_image(&self) -> PhysRange {
        below_image(&self.board, &self.machine.ram)
    }

    /// Loads the guest and enters it. `board` changes the guest's FDT, and `port` is added to it.
    ///
    /// The platform has been set and stage 2 built: from here on the guest's CPUs may trap.
    pub fn launch(mut self, board: Option<&dyn Edit>, port: Option<VirtioPort>) -> ! {
        smp::prepare(self.machine.affinities(), stage1::regime(), self.layout.guest);
        let spin_table = spin_table::take(&self.machine, self.layout.release);
        let mut reserved = Vec::new();
        if self.board.reserves_image {
            reserved.push(Reservation {
                name: "oche",
                range: self.layout.image.grown_to(PAGE),
                no_map: true,
            });
        }
        let changes = Changes {
            memory: self.layout.offered.as_slice(),
            initrd: self.initrd,
            bootargs: self.options.bootargs,
            board,
            port,
            reserved: &reserved,
            spin_table: &spin_table,
        };
        let blob = guest_fdt::rewrite(self.machine.blob(), &changes);
        let blob = blob.unwrap_or_else(|error| fatal(format_args!("{}", error.reason())));
        let place = self
            .layout
            .place_fdt((self.machine.blob().len() as u64 + FDT_GROWTH).max(blob.len() as u64));
        let place = place.unwrap_or_else(|error| fatal(format_args!("{error}")));
        let fdt = PhysRange { start: place.start, end: place.start + blob.len() as u64 };
        copy(&blob, fdt.start);
        copy(bytes(self.kernel_file), self.layout.kernel.start);
        self.report(fdt);
        // The guest starts with its MMU off: what was written through the cache must be in memory,
        // and no line of a place that it will write may be left. Booting contract: kernel and FDT
        // clean to the PoC.
        for range in [fdt, self.layout.kernel] {
            cache::clean_and_invalidate(range);
        }
        if let Some(initrd) = self.initrd {
            cache::clean_and_invalidate(initrd);
        }
        cache::synchronize_instructions(PhysRange {
            start: self.layout.kernel.start,
            end: self.layout.kernel.start,
        });
        drop((blob, spin_table, reserved));
        cpu_setup::configure();
        self.check_blocks();
        heap::seal();
        smp::enter_guest(self.layout.kernel.start, fdt.start)
    }

    /// Looks through the tables that this CPU is about to use.
    fn check_blocks(&self) {
        let region = self.below_image();
        // No memory is before it, and EL2 maps few registers.
        let own = PhysRange { start: 0, ..region };
        for (stage, root, region) in
            [("stage 1 of EL2", TTBR0_EL2.get(), own), ("stage 2", VttbrEl2.read(), region)]
        {
            if let Some(block) = stage1::first_block(root, region) {
                let image = self.layout.image;
                fatal(format_args!("{stage} maps {block} as a block, below the image at {image}"));
            }
        }
    }

    fn report(&self, fdt: PhysRange) {
        let (used, total) = heap::usage();
        log::info!(
            "image {}, trace {}, pool {}",
            self.layout.image,
            self.layout.trace,
            self.layout.pool
        );
        log::info!("heap {} ({} of {} KiB used)", self.layout.heap, used >> 10, total >> 10);
        log::info!("tables {}, own tables {}", self.layout.tables, self.layout.own_tables);
        for range in self.layout.guest.as_slice() {
            log::info!("guest memory {range}");
        }
        if let Some(initrd) = self.initrd {
            log::info!("initrd {initrd}");
        }
        if self.machine.cpus_ignored != 0 {
            log::warn!("{} CPUs beyond the {}th stay off", self.machine.cpus_ignored, MAX_CPUS);
        }
        let cpus = self.machine.affinities().len();
        log::info!("the guest starts: kernel {}, fdt {fdt}, {cpus} CPUs", self.layout.kernel);
    }
}

fn read_machine(fdt: FdtAddress, board: &Board) -> Machine<'static> {
    let first = PhysRange { start: fdt.0, end: fdt.0.saturating_add(8) };
    if !fdt.0.is_multiple_of(8) || fdt.0 == 0 {
        fatal(format_args!("x0 is no FDT address: {:#x}", fdt.0));
    }
    // Read-write, like the RAM that it lies in: what is mapped first stays.
    map_memory(first.grown_to(PAGE), Use::Memory);
    let Some(size) = blob::total_size(bytes(first)) else {
        fatal(format_args!("no FDT at {:#x}", fdt.0));
    };
    let whole = PhysRange { start: fdt.0, end: fdt.0.saturating_add(size as u64) };
    map_memory(whole.grown_to(PAGE), Use::Memory);
    (board.on_fdt)(bytes(whole));
    Machine::read(bytes(whole)).unwrap_or_else(|error| fatal(format_args!("{}", error.reason())))
}

fn read_options(machine: &Machine<'static>, text: PhysRange) -> Options<'static> {
    let mut options = Options::default();
    let mut complain = |name: &str| match retired(name) {
        Some(why) => log::warn!("not an option any more: {name}: {why}"),
        None => log::warn!("option ignored: {name}"),
    };
    match str::from_utf8(bytes(text)) {
        Ok(text) => options.take_text(text, &mut complain),
        Err(_) => log::warn!("options ignored: not UTF-8"),
    }
    machine.chosen_options(&mut |name, value| options.take(name, value, &mut complain));
    log::set_max_level(options.log.0);
    fiq::set_route(options.fiq);
    if options.fiq == Route::Virtual {
        log::info!("FIQs are injected by EL2, which takes exits: oche.fiq=virtual");
    }
    options
}

/// What the `Image` header in front of Oche says of its size, in bytes.
fn own_image_size(image: PhysRange) -> u64 {
    let at = (image.start + header::IMAGE_SIZE as u64) as *const u64;
    // SAFETY: in Oche's own text, which is mapped and never written.
    unsafe { at.read_volatile() }
}

/// DRAM below Oche's image, in which both stages map pages alone: somewhere in there is the memory
/// that CTRR names.
fn below_image(board: &Board, ram: &RangeList) -> PhysRange {
    let around = (board.around_ram)(ram);
    let lowest = ram.as_slice().iter().map(|range| range.start).min().unwrap_or(0);
    let start = if around.is_empty() { lowest } else { around.start.min(lowest) };
    PhysRange { start, end: align_up(image::range().start, BLOCK) }
}

/// Maps the memory of further tables, and hands it over.
fn map_own_tables(memory: PhysRange) {
    map_memory(memory, Use::Memory);
    // SAFETY: Oche's own memory by the layout, mapped above, not yet in use.
    unsafe { core::ptr::write_bytes(memory.start as *mut u8, 0, memory.size() as usize) };
    // SAFETY: the same memory, used from here on by the map alone. Boot CPU, once.
    unsafe { stage1::supply(memory) };
}

/// Maps RAM but for the image, which has its map: its stacks' guard pages must stay unmapped.
fn map_ram(ram: &RangeList, image: PhysRange) {
    let mut outside = *ram;
    if outside.subtract(image).is_err() {
        fatal(format_args!("{}", LayoutError::TooManyRanges));
    }
    for range in outside.as_slice() {
        map_memory(range.grown_to(PAGE), Use::Memory);
    }
}

fn map_memory(range: PhysRange, purpose: Use) {
    // SAFETY: boot CPU, alone. Ranges are those of RAM by the FDT, or of the FDT by firmware's
    // word; what is mapped already, Oche's own image, stays as it is.
    if unsafe { stage1::map(range, purpose) }.is_err() {
        fatal(format_args!("EL2 cannot map memory {range}"));
    }
}

/// Memory that firmware or the packer filled.
fn bytes(range: PhysRange) -> &'static [u8] {
    if range.is_empty() {
        return &[];
    }
    // SAFETY: in RAM, mapped, and nobody writes it before the guest runs; by then `Prepared` is
    // gone.
    unsafe { core::slice::from_raw_parts(range.start as *const u8, range.size() as usize) }
}

fn copy(from: &[u8], to: u64) {
    // SAFETY: the layout keeps sources and destinations apart, and gives the destination to this
    // use alone.
    unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
}
