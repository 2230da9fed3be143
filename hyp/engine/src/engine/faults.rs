//! Device faults: from the hardware IOMMU to the ERROR registers of the emulated DARTs.

use oche_types::Invariant;
use oche_types::addr::Gfn;
use oche_types::dart::entry::{decode_leaf, decode_table};
use oche_types::dart::registers::{FaultCode, Ttbr};
use oche_types::dart::stream::DartId;
use oche_types::event::Event;

use crate::engine::Engine;
use crate::host::{DeviceFault, Host};

/// Most faults that one trap reads from the hardware.
const MAX_FAULTS: usize = 64;

impl Engine {
    /// Passes the faults that the hardware has recorded for `dart` to the emulated DART.
    #[cold]
    #[inline(never)]
    pub(super) fn take_faults(&mut self, host: &mut impl Host, dart: DartId) {
        for _ in 0..MAX_FAULTS {
            let Some(fault) = host.next_fault(dart) else { return };
            let code = self.fault_code(host, dart, &fault);
            let emulated = self.darts.get_mut(dart.index()).must("the DART is the guest's");
            let is_hidden = !emulated.registers.latch(fault.stream, code, fault.iova);
            host.event(Event::Fault {
                dart,
                stream: fault.stream,
                iova: fault.iova,
                code: code as u16,
                is_write: fault.is_write,
                is_hidden,
            });
        }
    }

    /// The code that a DART with 4 KiB pages would latch for `fault`, found by a walk of the
    /// guest's tables.
    fn fault_code(&self, host: &impl Host, dart: DartId, fault: &DeviceFault) -> FaultCode {
        let table = |page: Gfn, index: u64| {
            let is_ram = self.mapper.mover.is_ram(page);
            is_ram.then(|| host.load(self.locate(page), (index & 0x1ff) as usize))
        };
        let roots = self.roots(dart, fault.stream).filter(|_| fault.iova >> 32 == 0);
        let root = roots.and_then(|roots| roots.get((fault.iova >> 30) as usize).copied());
        let Some(root) = root.filter(Ttbr::valid) else { return FaultCode::NoTtbr };
        let Some(leaves) = table(Gfn(root.page()), fault.iova >> 21).and_then(decode_table) else {
            return FaultCode::NoL1;
        };
        match table(leaves, fault.iova >> 12).and_then(decode_leaf) {
            Some(leaf) if fault.is_write && !leaf.permission.write => FaultCode::Write,
            Some(leaf) if !fault.is_write && !leaf.permission.read => FaultCode::Read,
            // The guest maps it and Oche does not: it was refused, or mapped since the last flush.
            _ => FaultCode::NoLeaf,
        }
    }
}
