//! Stage 2, the IOMMU and the trace, as the engine calls them; each injected fault is made here.

use super::SimulatedMachine;
use crate::allocations::outside;
use crate::setup::{Board, FaultInjection};
use oche_engine::host::{
    CpuAccess, DeviceFault, DomainId, InvalidateTimedOut, Iommu, OutOfTables, Stage2, TraceSink,
};
use oche_types::addr::{Gfn, Hfn, HostGranule, SlotRun};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, Members, StreamId};
use oche_types::event::Event;

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: no CPU translates through it but the model's.
unsafe impl<const CACHES_INVALID: bool> Stage2 for SimulatedMachine<CACHES_INVALID> {
    fn prepare(&mut self, page: Gfn) -> Result<(), OutOfTables> {
        let _side = outside();
        self.step();
        let scarce = self.options.scarce_tables;
        if scarce != 0 && !self.is_prepared(page) && self.random.chance(1, scarce) {
            return Err(OutOfTables);
        }
        self.stage2_prepare(page)
    }

    fn break_page(&mut self, page: Gfn) {
        let _side = outside();
        self.step();
        self.stage2_break(page);
        self.step();
    }

    fn flush_tlb(&mut self) {
        let _side = outside();
        self.step();
        self.stage2_flush();
        self.step();
    }

    fn remap_page(&mut self, page: Gfn, at: Hfn, access: CpuAccess) {
        let _side = outside();
        self.step();
        let at = if self.injects(FaultInjection::OffByOneSlot) && at != page.home() {
            at.frame().page(at.0 as usize + 1)
        } else {
            at
        };
        let access = match (self.options.injection, access) {
            (Some(FaultInjection::SkipWriteProtect), _) => CpuAccess::ReadWrite,
            (Some(FaultInjection::WeakTrap), CpuAccess::None) => CpuAccess::ReadOnly,
            _ => access,
        };
        self.stage2_make(page, at, access);
        self.step();
    }

    fn publish(&mut self) {
        let _side = outside();
        self.step();
        self.stage2_publish();
        self.step();
    }
}

#[expect(unsafe_code, reason = "a model of the machine")]
// SAFETY: no device translates through it but the model's.
unsafe impl<const CACHES_INVALID: bool> Iommu for SimulatedMachine<CACHES_INVALID> {
    const CACHES_INVALID_ENTRIES: bool = CACHES_INVALID;
    const CAN_FORBID_READS: bool = true;

    fn has_windows(&self) -> bool {
        let _side = outside();
        self.options.has_windows && self.options.board == Board::Dart
    }

    fn leaf_entry(&self, frame: HostGranule, permission: Permission, slots: SlotRun) -> u64 {
        let _side = outside();
        let slots = match self.options.injection {
            Some(FaultInjection::WideWindow) => SlotRun::ALL,
            Some(FaultInjection::NarrowWindow) => {
                SlotRun::new(slots.first(), slots.first()).unwrap_or(slots)
            }
            _ => slots,
        };
        let frame = if self.injects(FaultInjection::OffByOneHostGranule) {
            HostGranule(frame.0 + 1)
        } else {
            frame
        };
        let permission = match self.options.injection {
            Some(FaultInjection::AllowAll) => Permission::READ_WRITE,
            Some(FaultInjection::SwapPermission) if permission.read != permission.write => {
                Permission { read: permission.write, write: permission.read }
            }
            _ => permission,
        };
        self.options.board.leaf_entry(frame, permission, slots)
    }

    fn table_entry(&self, table: HostGranule) -> u64 {
        let _side = outside();
        self.options.board.table_entry(table)
    }

    fn attach(
        &mut self,
        dart: DartId,
        stream: StreamId,
        domain: DomainId,
        root: HostGranule,
    ) -> Result<(), InvalidateTimedOut> {
        let _side = outside();
        self.step();
        let attached = self.driver.attach(dart, stream, domain, root);
        self.carry_out();
        self.unblocked.retain(|unblocked| *unblocked != (dart, stream));
        self.confirm();
        self.set_domain(dart, stream, Some(domain));
        self.frames.attach(self.options.board, &self.memory, (dart, stream), domain, root);
        self.step();
        attached
    }

    fn block(&mut self, dart: DartId, stream: StreamId) {
        let _side = outside();
        self.step();
        if !self.injects(FaultInjection::SkipBlock) {
            self.ask_to_let_go(dart, stream);
            self.driver.block(dart, stream);
            self.carry_out();
            self.set_domain(dart, stream, None);
            self.unblocked.push((dart, stream));
            self.confirm();
        }
        self.step();
    }

    fn invalidate(
        &mut self,
        domain: DomainId,
        members: &Members,
    ) -> Result<(), InvalidateTimedOut> {
        let _side = outside();
        self.step();
        let timeouts = self.options.timeouts;
        let hangs = timeouts != 0 && self.random.chance(1, timeouts);
        let hanging = if hangs { 1 + self.random.below(4) as u32 } else { 0 };
        self.check_members(domain, members);
        self.cpus.note_drain();
        let streams =
            || members.iter().flat_map(|(dart, all)| all.iter().map(move |stream| (dart, stream)));
        streams().for_each(|(dart, stream)| self.ask_to_let_go(dart, stream));
        let done = self.driver.invalidate(domain, members, hanging);
        self.carry_out();
        self.confirm();
        if done.is_ok() && streams().all(|(dart, stream)| self.has_let_go(dart, stream)) {
            self.frames.invalidate(domain);
        }
        self.step();
        done
    }

    fn is_confirmed(&mut self) -> bool {
        let _side = outside();
        let is_confirmed = self.driver.is_confirmed();
        // The driver may have repeated a command that a DART had not confirmed.
        self.carry_out();
        self.confirm();
        is_confirmed
    }

    fn next_fault(&mut self, dart: DartId) -> Option<DeviceFault> {
        let _side = outside();
        let first = self.hardware.faults.iter().position(|(of, _)| *of == dart)?;
        self.hardware.faults.remove(first).map(|(_, fault)| fault)
    }
}

impl<const CACHES_INVALID: bool> TraceSink for SimulatedMachine<CACHES_INVALID> {
    fn event(&mut self, event: Event) {
        let _side = outside();
        if let Event::Moved { page, to } = event {
            self.cpus.checker().note_move(page, to);
        }
        self.cpus.has_live_move |= matches!(event, Event::LiveMove { .. });
        self.events.push(event);
    }
}
