//! Device faults: from the hardware IOMMU to the ERROR registers of the emulated DARTs.

use oche_types::Invariant;
use oche_types::addr::Gfn;
use oche_types::dart::entry::{decode_leaf, decode_table};
use oche_types::dart::registers::{FaultCode, Ttbr};
use oche_types::dart::stream::DartId;
use oche_types::event::Event;

use crate::engine::Engine;
use crate::host::{DeviceFault, Host};

/// Faults that one trap takes from the hardware.
const MAX_FAULTS: usize = 64;

impl Engine {
    /// Hands the faults that the hardware has recorded for `dart` to the guest's DART.
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

    /// The code that a 4K DART would latch for `fault`: how far its walk of the guest's tables
    /// comes.
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
            // Mapped by the guest and not by Oche: refused, or mapped since.
            _ => FaultCode::NoLeaf,
        }
    }
}
