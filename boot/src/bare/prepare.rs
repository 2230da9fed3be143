//! Preparing boot: reads and checks what firmware and the packer have left, and plans the memory.
//!
//! Every step either succeeds, or prints one line `oche: fatal: ...`. Then the machine is turned
//! off, or U-Boot starts without Oche ([`fail_open`]).

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use oche_el2::failure::Failure;
use oche_el2::fiq::{self, Route};
use oche_el2::firmware::{self, fatal};
use oche_el2::stage2::cacheability::Coherence;
use oche_el2::{cpu_setup, features, image};
use oche_trace::directory;
use oche_types::range::{PAGE, PhysRange, RangeList};

use crate::bare::board::Board;
use crate::bare::bring_up::reached;
use crate::bare::entry::FdtAddress;
use crate::bare::memory::{bytes, clear, map_memory, map_ram, supply_tables};
use crate::bare::packed::PackedFiles;
use crate::bare::{entry_state, fail_open, fdt_buffer, handover, heap, stage1};
use crate::blob;
use crate::bring_up::Step;
use crate::layout::{LayoutRequest, MemoryLayout, below_image, trace_bytes};
use crate::machine::Machine;
use crate::options::{BootOptions, retired};

/// The results of preparation, before the guest is loaded.
///
/// It refers to the payload, which is in memory that becomes the guest's, so [`Prepared::launch`]
/// consumes it.
#[derive(Debug)]
pub struct Prepared {
    /// The machine, as firmware describes it.
    pub machine: Machine<'static>,
    /// The options.
    pub options: BootOptions<'static>,
    /// The memory layout.
    pub layout: MemoryLayout,
    /// The guest's kernel file.
    pub(super) kernel_file: PhysRange,
    /// The initrd, at the place where the guest reads it.
    pub(super) initrd: Option<PhysRange>,
    /// [`Board::around_ram`].
    pub(super) around_ram: PhysRange,
    /// DRAM in which both stages map pages only: see [`below_image`].
    pub(super) by_page: PhysRange,
    /// [`Board::RESERVES_IMAGE`].
    pub(super) reserves_image: bool,
}

/// Reads the FDT, maps RAM, reads payload and options, plans the memory, and opens the heap.
pub fn prepare<B: Board>(fdt: FdtAddress) -> Prepared {
    static ONCE: AtomicBool = AtomicBool::new(false);
    assert!(!ONCE.swap(true, Ordering::Relaxed), "memory is given out once");
    let (machine, fdt) = check_machine::<B>(fdt);
    let image = image::range();
    let files = find_files(&machine.ram, image);
    reached(Step::Payload);
    let options = read_options(&machine, files.options);
    reached(Step::Options);
    let (kernel_file, kernel) = files
        .kernel()
        .unwrap_or_else(|error| fatal(Failure::Payload, format_args!("{}", error.reason())));
    let trace = directory::Layout::new(machine.affinities().len(), options.trace_bytes as usize);
    let around_ram = B::around_ram(&machine.ram);
    let by_page = below_image(image, around_ram, &machine.ram);
    let initrd = files.initrd.or(machine.initrd);
    // Only a native start reads firmware's FDT again.
    let [kept_fdt, trampoline] = match B::FAILS_OPEN {
        true => [fdt, handover::trampoline()],
        false => Default::default(),
    };
    let request = LayoutRequest {
        ram: &machine.ram,
        firmware: &machine.reserved,
        image,
        // Also the options' text: the command line is read from it when the guest's FDT is written.
        sources: &[kernel_file, files.options, kept_fdt, trampoline],
        initrd,
        kernel,
        pool_bytes: options.pool_bytes,
        trace_bytes: trace_bytes(trace),
        engine_bytes: B::engine_bytes,
        around_ram,
        by_page,
        keeps_image: B::RESERVES_IMAGE,
        address_limit: 1 << stage1::ADDRESS_BITS,
    };
    let layout = MemoryLayout::plan(&request)
        .unwrap_or_else(|error| fatal(Failure::Layout, format_args!("{error}")));
    reached(Step::Layout);
    for written in [layout.reserved, layout.kernel] {
        handover::will_write(written);
    }
    open_memory(&layout, &machine.ram, trace);
    reached(Step::Memory);
    let reserves_image = B::RESERVES_IMAGE;
    Prepared { machine, options, layout, kernel_file, initrd, around_ram, by_page, reserves_image }
}

/// Checks the CPU, and that the FDT at `fdt` is one of the board `B` with Oche's image in its RAM.
/// Also returns the FDT's place.
fn check_machine<B: Board>(fdt: FdtAddress) -> (Machine<'static>, PhysRange) {
    if !features::has_host_extensions() {
        fatal(
            Failure::NoHostExtensions,
            format_args!("this CPU has no VHE (FEAT_VHE), which Oche needs"),
        );
    }
    if B::FAILS_OPEN {
        fail_open::arm(fdt);
    }
    let (machine, fdt) = read_machine::<B>(fdt);
    reached(Step::Fdt);
    cpu_setup::check_entry();
    if cpu_setup::check_coherence() == Coherence::NoCaches {
        log::info!(
            "no FEAT_S2FWB: Non-cacheable RAM relies on an emulated CPU, which has no caches"
        );
    }
    entry_state::save_apple();
    reached(Step::Cpu);
    firmware::set_present(machine.has_psci_smc);
    let image = image::range();
    if !machine.ram.covers(&image) {
        fatal(Failure::ImagePlace, format_args!("Oche's image at {image} is not in RAM"));
    }
    (machine, fdt)
}

/// Reads the FDT at `fdt` and checks that it describes the board `B`. Also returns its place.
fn read_machine<B: Board>(fdt: FdtAddress) -> (Machine<'static>, PhysRange) {
    let first = PhysRange { start: fdt.0, end: fdt.0.saturating_add(8) };
    if !fdt.0.is_multiple_of(8) || fdt.0 == 0 {
        fatal(Failure::NoFdt, format_args!("x0 holds no FDT address: {:#x}", fdt.0));
    }
    // Read-write, like the RAM around it: a mapping is not changed later.
    map_memory(first.grown_to(PAGE));
    let Some(size) = blob::total_size(bytes(first)) else {
        fatal(Failure::NoFdt, format_args!("no FDT at {:#x}", fdt.0));
    };
    let whole = PhysRange { start: fdt.0, end: fdt.0.saturating_add(size as u64) };
    map_memory(whole.grown_to(PAGE));
    B::on_fdt(bytes(whole));
    let machine = Machine::read(bytes(whole), fdt_buffer::take());
    let machine =
        machine.unwrap_or_else(|error| fatal(Failure::Fdt, format_args!("{}", error.reason())));
    if !machine.has_compatible(B::COMPATIBLE) {
        fatal(Failure::OtherMachine, format_args!("{}", B::INCOMPATIBLE));
    }
    (machine, whole)
}

/// The packed files. The payload follows the image, and may end where RAM does.
fn find_files(ram: &RangeList, image: PhysRange) -> PackedFiles {
    let in_ram = ram.as_slice().iter().find(|range| range.contains(image.end));
    let files = PackedFiles::find(in_ram.map_or(0, |range| range.end - image.end));
    files.unwrap_or_else(|error| fatal(Failure::Payload, format_args!("{}", error.reason())))
}

fn read_options(machine: &Machine<'static>, text: PhysRange) -> BootOptions<'static> {
    let mut options = BootOptions::default();
    let mut complain = |name: &str| match retired(name) {
        Some(why) => log::warn!("not an option any more: {name}: {why}"),
        None => log::warn!("option ignored: {name}"),
    };
    match str::from_utf8(bytes(text)) {
        Ok(text) => options.take_text(text, &mut complain),
        Err(_) => log::warn!("options ignored: not UTF-8"),
    }
    machine.chosen_options(&mut |name, value| options.take(name, value, &mut complain));
    fail_open::choose(options.fail_open);
    log::set_max_level(options.log.0);
    fiq::hw::set_route(options.fiq);
    if options.fiq == Route::Virtual {
        log::info!("FIQs are injected by EL2, which takes exits: oche.fiq=virtual");
    }
    options
}

/// Maps all RAM, sets up the heap, and clears Oche's memory for tables and trace.
fn open_memory(layout: &MemoryLayout, ram: &RangeList, trace: directory::Layout) {
    log::debug!("heap {}, tables {}, EL2's {}", layout.heap, layout.tables, layout.own_tables);
    // SAFETY: Oche's own memory by the layout, not yet in use; `prepare` runs once.
    unsafe { supply_tables(layout.own_tables) };
    map_ram(ram, layout.image);
    // SAFETY: the layout took the heap out of everything else, and `prepare` runs once.
    unsafe { heap::give(layout.heap) };
    let (_, total) = heap::usage();
    assert!(
        total as u64 == layout.heap.size(),
        "the heap is {total} bytes, planned was {}",
        layout.heap
    );
    for range in [keep_previous(trace, layout.trace), layout.tables] {
        // SAFETY: Oche's own memory by the same layout, mapped above, not yet in use.
        unsafe { clear(range) };
    }
}

/// Saves the rings of the previous boot, if its trace had the same size and is still in memory: a
/// trace up to a panic or a reset is the most useful one. Returns the part of `trace` to clear.
fn keep_previous(layout: directory::Layout, trace: PhysRange) -> PhysRange {
    if layout.ring_records() == 0 {
        return trace;
    }
    let half = (trace.size() / 2) as usize;
    let now = core::ptr::with_exposed_provenance::<AtomicU64>(trace.start as usize);
    // SAFETY: Oche's own memory by the layout, mapped above, 2 MiB aligned, and not yet in use; all
    // bytes are words.
    let words = unsafe { core::slice::from_raw_parts(now, half / 4) };
    let (now, before) = words.split_at(half / 8);
    if directory::keep_previous(&now, &before, half) {
        log::info!("the trace of the boot before is kept");
    }
    PhysRange { end: trace.start + half as u64, ..trace }
}
