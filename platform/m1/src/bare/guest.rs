//! The board at run time: the guest's accesses to DARTs and to the NVMe controller.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use oche_el2::device::{IoError, IoResult};
use oche_el2::fault::{Platform, Resume, Stage2Fault, TrapContext};
use oche_el2::frame::TrapFrame;
use oche_el2::lock::SpinLock;
use oche_el2::trapped_page;
use oche_m1::aic::WINDOW;
use oche_m1::dart_choice::DartChoice;
use oche_m1::darts::DartDriver;
use oche_m1::device_tree::{DartNode, candidates};
use oche_m1::framebuffer::DRAM;
use oche_m1::hw::selftest::words;
use oche_m1::ownership::{DartAccess, Owner, Ownership, Route, Takeover};
use oche_m1::windows::DartWindows;
use oche_platform::emulated_darts::EmulatedDarts;
use oche_platform::recorder::{Description, Device};
use oche_types::dart::registers::{STREAM_COMMAND, STREAMS_ENABLE, TCR, TTBR};
use oche_types::dart::stream::{DartId, StreamId};
use oche_types::event::Event;
use oche_types::range::PhysRange;

use super::ans::Controller;
use oche_m1::hw::hardware::MappedDarts;

/// Logs a line for each DART; returns the registers that the guest must not reach by itself.
pub(super) fn report(
    all: &[DartNode],
    choice: &DartChoice,
    ownership: &mut Ownership,
    darts: &DartDriver<MappedDarts>,
) -> Vec<PhysRange> {
    let mut holes = Vec::new();
    let mut numbers = candidates(all).peekable();
    for dart in all {
        let id = numbers.next_if(|(_, next)| core::ptr::eq(*next, dart)).map(|(id, _)| id);
        let place = dart.registers.start;
        let clients = dart.clients.iter().fold(String::new(), |mut text, (stream, name)| {
            text.push_str(&alloc::format!(" {stream}={name}"));
            text
        });
        let Some(id) = id else {
            log::info!("dart {} {place:#x}{clients}: off in the tree; left alone", dart.name);
            continue;
        };
        let (owner, condition) = (ownership.owner(darts, id), darts.condition(id));
        let state =
            condition.map_or_else(|| String::from("no power"), |condition| condition.to_string());
        let fate = match owner {
            Owner::Firmware => "left alone",
            Owner::NotChosen => "left alone: not in oche.darts",
            Owner::Unknown => "examined at the guest's first access",
            Owner::Passthrough | Owner::Emulated => "16K, or 4K once the guest asks",
        };
        log::info!("dart {} {place:#x}{clients}: {state}; {fate}", dart.name);
        log::info!("dart {} {}", dart.name, words(darts, id));
        // The guest may access a locked DART directly: its tables cannot be changed, nor can it be
        // set to bypass. If no DART is emulated, no page moves, and bypass reaches what it should.
        let is_locked = condition.is_some_and(|condition| condition.is_locked);
        if !choice.is_none() && (owner != Owner::Firmware || !is_locked) {
            holes.push(dart.registers);
        }
    }
    holes
}

/// The description of the machine in the trace.
pub(super) fn describe(all: &[DartNode]) -> Description {
    let devices = candidates(all).flat_map(|(id, dart)| {
        dart.clients.iter().filter_map(move |(stream, name)| {
            let stream = StreamId::new(*stream as usize)?;
            Some(Device { source: 0, dart: id, stream, name: name.clone() })
        })
    });
    Description {
        board: "m1",
        darts: candidates(all)
            .map(|(id, dart)| (id, dart.registers.start, dart.name.clone()))
            .collect(),
        devices: devices.collect(),
    }
}

/// The board at run time. The guest's DMA is behind one lock.
pub(super) struct M1Platform {
    windows: DartWindows,
    emulated_darts: SpinLock<EmulatedDarts<DartDriver<MappedDarts>>>,
    /// Only used while the lock of `emulated_darts` is held.
    ownership: SpinLock<Ownership>,
    controller: Option<Controller>,
}

impl M1Platform {
    pub(super) fn new(
        all: &[DartNode],
        emulated_darts: EmulatedDarts<DartDriver<MappedDarts>>,
        ownership: Ownership,
        controller: Option<Controller>,
    ) -> Self {
        let windows = DartWindows::of(all);
        Self {
            windows,
            emulated_darts: SpinLock::new(emulated_darts),
            ownership: SpinLock::new(ownership),
            controller,
        }
    }

    /// Carries out an access to a DART, on the hardware or on the emulated one.
    fn access(&self, context: TrapContext, access: &DartAccess) -> IoResult {
        let DartAccess { dart, offset, bytes, write } = *access;
        let mut emulated_darts = self.emulated_darts.lock();
        let mut ownership = self.ownership.lock();
        match ownership.route(emulated_darts.iommu(), access) {
            Route::Emulated => {}
            Route::Passthrough => {
                return pass_through(&mut emulated_darts, &mut ownership, context, access);
            }
            Route::Refused => return Err(IoError::NoRegister),
        }
        emulated_darts.iommu().restore(dart);
        // Writes that can have pages mapped.
        let can_map =
            matches!(offset, STREAM_COMMAND | STREAMS_ENABLE | TCR..TTBR) && write.is_some();
        if let (true, Some(controller)) = (can_map, &self.controller) {
            emulated_darts.for_master(context, |emulated_darts| controller.collect(emulated_darts));
        }
        emulated_darts.access_dart(context, dart, offset, bytes, write)
    }
}

/// The guest accesses the hardware itself; the trace records it.
fn pass_through(
    emulated_darts: &mut EmulatedDarts<DartDriver<MappedDarts>>,
    ownership: &mut Ownership,
    context: TrapContext,
    access: &DartAccess,
) -> IoResult {
    let DartAccess { dart, offset, write, .. } = *access;
    let darts = emulated_darts.iommu();
    let value = match write {
        Some(value) => darts.write(dart, offset, value as u32).map(|()| value as u32),
        None => darts.read(dart, offset).map(|value| ownership.read_through(dart, offset, value)),
    };
    // Without power: on a Mac this is a bus error, and so it is here.
    let value = value.map_err(|_| IoError::NoRegister)?;
    let is_write = write.is_some();
    emulated_darts
        .pass_through(context, &Event::Register { dart, offset: offset as u16, is_write, value });
    Ok(u64::from(value))
}

// SAFETY: the port is emulated, and so is a DART that was taken over; the registers of other DARTs
// are the guest's, and those of the NVMe controller too, once the pages of its commands are pinned.
// A trapped page is accessed through the engine.
unsafe impl Platform for M1Platform {
    #[inline]
    fn may_be_memory(address: u64) -> bool {
        DRAM.contains(address)
    }

    fn dart_at(&self, address: u64) -> Option<(DartId, u64)> {
        self.windows.dart_at(address)
    }

    fn access_dart(
        &'static self,
        context: TrapContext,
        (dart, offset): (DartId, u64),
        bytes: usize,
        write: Option<u64>,
    ) -> IoResult {
        self.access(context, &DartAccess { dart, offset, bytes, write })
    }

    fn access_device(
        &'static self,
        context: TrapContext,
        address: u64,
        bytes: usize,
        write: Option<u64>,
    ) -> IoResult {
        let mut emulated_darts = self.emulated_darts.lock();
        if WINDOW.contains(address) {
            return emulated_darts.access_port(context, address - WINDOW.start, bytes, write);
        }
        let controller = self.controller.as_ref().ok_or(IoError::NoRegister)?;
        controller.access(&mut emulated_darts, context, (address, bytes), write)
    }

    fn access_trapped_page(&'static self, fault: &Stage2Fault, frame: &mut TrapFrame) -> Resume {
        trapped_page::hw::on_fault(&self.emulated_darts, fault, frame)
    }

    fn emulate_known(&'static self, far: u64, is_write: bool, frame: &mut TrapFrame) -> bool {
        trapped_page::known::emulate_known(&self.emulated_darts, far, is_write, frame)
    }

    fn step_ended(
        &'static self,
        is_done: bool,
        frame: &mut TrapFrame,
        fault: &mut dyn FnMut() -> Option<Stage2Fault>,
    ) -> Option<Resume> {
        trapped_page::hw::on_step(&self.emulated_darts, is_done, frame, fault)
    }
}
