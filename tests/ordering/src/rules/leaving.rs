//! What must be complete before the guest, another CPU or the firmware goes on.

use super::registers::Dependent;
use super::{Cpu, Violation};

impl Cpu {
    /// What must be complete before the guest goes on, or before other tables are used.
    pub(super) fn unfinished(&self, pc: u64) -> Option<Violation> {
        let broken = |rule, text| move |earlier| Violation { rule, pc, earlier, text };
        let store = self.table_store.map(broken(
            "table-store-before-return",
            "no DSB completes a store to a stage-2 table",
        ));
        let tlbi = self
            .tlbi
            .map(|(earlier, _)| earlier)
            .map(broken("tlbi-incomplete", "no DSB completes a TLBI"));
        let instructions =
            self.instructions.map(broken("instruction-cache", "no DSB completes an IC"));
        store.or(tlbi).or(instructions)
    }

    pub(super) fn go_back(&mut self, pc: u64) -> Option<Violation> {
        let mut found = self.unfinished(pc).or_else(|| self.depend(pc, Dependent::Return));
        if let Some(earlier) = self.loaded.take()
            && self.lines_cleaned < self.loaded_lines
        {
            let text = "the guest begins before every line of what was loaded is cleaned";
            found = found.or(Some(Violation { rule: "handoff-not-cleaned", pc, earlier, text }));
        }
        self.has_returned = true;
        self.synchronize();
        // From here on what the guest needs ordered is the guest's to order.
        self.shared_store = None;
        self.shared_load = None;
        self.completion = None;
        found
    }

    pub(super) fn send_event(&mut self, pc: u64) -> Option<Violation> {
        let broken = |rule, text| move |earlier| Violation { rule, pc, earlier, text };
        let cleaned = "SEV before what it announces is cleaned";
        let completed = "SEV before DSB completes what it announces";
        let event = self.event.map(broken("event-before-store", completed));
        self.handoff.pending().map(broken("handoff-not-cleaned", cleaned)).or(event)
    }

    pub(super) fn call(&mut self, pc: u64) -> Option<Violation> {
        let broken = |rule, text| move |earlier| Violation { rule, pc, earlier, text };
        let cleaned = "SMC before what another CPU reads with its caches off is cleaned";
        let completed = "SMC before DSB completes what another CPU reads";
        let announced = self.announced.map(broken("call-before-store", completed));
        self.handoff.pending().map(broken("handoff-not-cleaned", cleaned)).or(announced)
    }
}
