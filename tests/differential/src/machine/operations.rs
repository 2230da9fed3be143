//! The operations of a program.

use super::{Checked, Machine};
use crate::program::{Mode, Operation};
use oche_reference::registers::STREAMS_ENABLE;

impl<const C: bool> Machine<C> {
    /// Carries out `operation`, and checks what comes of it.
    pub(super) fn perform(&mut self, operation: &Operation) -> Checked {
        match *operation {
            Operation::NewDomain => self.new_domain(),
            Operation::Attach { domain, dart, stream, flush } => {
                self.attach(domain.into(), self.dart(dart), usize::from(stream % 16), flush)
            }
            Operation::Detach { dart, stream, flush } => {
                self.detach(self.dart(dart), usize::from(stream % 16), flush)
            }
            Operation::Free { domain } => self.free_domain(domain.into()),
            Operation::Map { domain, pages, source, rights, site, fill, flush } => {
                self.map(domain.into(), pages.into(), source, rights, site, fill, flush)
            }
            Operation::Unmap { mapping, flush } => self.unmap(mapping, flush),
            Operation::Replace { mapping, source, rights, flush } => {
                self.replace(mapping, source, rights, flush)
            }
            Operation::Permit { mapping, rights, flush } => self.permit(mapping, rights, flush),
            Operation::Amend { mapping, page, source, rights, flush } => {
                self.amend(mapping, page.into(), source, rights, flush)
            }
            Operation::Flush { dart, streams } => self.flush(self.dart(dart), streams),
            Operation::Pack { domain, buffers, rights } => {
                self.pack(domain.into(), buffers.into(), rights)
            }
            Operation::HandleFault { dart } => self.handle_fault(self.dart(dart)),
            Operation::Suspend { dart } => self.suspend(self.dart(dart)),
            Operation::BreakTable { domain, is_first, word, garbage, flush } => {
                self.break_table(domain.into(), is_first, word.into(), garbage, flush)
            }
            _ => self.perform_access(operation),
        }?;
        // A quiescent program looks at nothing before all that it changed is flushed.
        if self.setting.mode == Mode::Quiescent { self.settle() } else { Ok(()) }
    }

    /// Accesses of CPUs and devices to memory, and of CPUs to single registers.
    fn perform_access(&mut self, operation: &Operation) -> Checked {
        match *operation {
            Operation::Load { page, length } => self.load_somewhere(page, length.into()),
            Operation::Store { page, length } => self.store_somewhere(page, length.into()),
            Operation::Fetch { page } => self.fetch(page),
            Operation::Walk { page, is_write } => self.walk(page, is_write),
            Operation::Read { stream, target, length } => {
                self.device(stream, target, length.into(), false)
            }
            Operation::Write { stream, target, length } => {
                self.device(stream, target, length.into(), true)
            }
            Operation::Exchange { stream, target, length, to_device } => {
                self.exchange(stream, target, length.into(), to_device)
            }
            Operation::Disk { page, length, is_write, stays } => {
                self.disk(page, length.into(), is_write, stays)?;
                // A mapping of the page may have been refused for want of memory.
                self.take_events()
            }
            Operation::DiskMap { domain, page, rights } => {
                self.disk_map(domain.into(), page, rights)?;
                self.take_events()
            }
            Operation::Deliver(count) => {
                (0..count).for_each(|_| self.host.deliver_any());
                Ok(())
            }
            Operation::Overlap(ref accesses) => {
                self.overlap.clone_from(accesses);
                Ok(())
            }
            Operation::ReadBack { dart, stream } => {
                self.read_back(self.dart(dart), usize::from(stream % 16))
            }
            Operation::OddAccess { dart, offset, bytes, is_write } => {
                self.odd_access(self.dart(dart), offset, bytes, is_write)
            }
            Operation::Enable { dart, streams } => {
                self.write_register(self.dart(dart), STREAMS_ENABLE, streams.into())
            }
            Operation::Lock { dart } => self.lock(self.dart(dart)),
            Operation::BreakRegister { dart, stream, register, garbage } => {
                self.break_register(self.dart(dart), usize::from(stream % 16), register, garbage)
            }
            _ => Ok(()),
        }
    }
}
