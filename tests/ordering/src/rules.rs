//! The rules: what must be ordered before what, for each CPU.
//!
//! | rule | what it requires | source: Arm ARM DDI 0487 |
//! |---|---|---|
//! | `store-before-command` | a store to memory that devices read is completed by `DSB` (`ST` or all; `OSH` or `SY`) before a store to a device's register | B2.3 "Memory barriers"; B2.7.2 "Device memory" |
//! | `descriptor-valid-last` | the words of a descriptor are ordered by `DMB` or `DSB` (`ST` or all; `OSH` or `SY`) before its first, which makes it valid | the same; Arm IHI 0070 (SMMUv3), 3.21.3 |
//! | `load-after-completion` | between the load by which a device reports completion and the next load of what it wrote there is `DMB` or `DSB` (`LD` or all; `OSH` or `SY`), or the first is an acquire | the same |
//! | `load-before-return` | a load of memory that a device writes is completed by `DMB` or `DSB` (`LD` or all; `OSH` or `SY`) before the store to the register that gives the memory back | the same |
//! | `table-store-before-tlbi` | a store to a stage-2 table is completed by `DSB` (`ISHST` or more) before `TLBI` | D8.14 "TLB maintenance", break-before-make |
//! | `table-store-before-return` | the same before `ERET` or before a register names the tables | D8.2.6, ordering of translation table writes |
//! | `tlbi-incomplete` | `DSB` (all; `NSH` for this CPU's, `ISH` for a broadcast) completes a `TLBI` before what relies on it: a store to a table, an access to memory that moves, a `TLBI` of the other stage, `ERET`, `VTTBR_EL2`, `SCTLR_EL2` | D8.14, "Ordering and completion of TLB maintenance instructions" |
//! | `own-table-store` | a store to EL2's own tables is completed by `DSB` and `ISB` before an access through them | D8.2.6 |
//! | `translate-before-par` | `ISB` between `AT` and the read of `PAR_EL1` | D8.1, "Address translation instructions" |
//! | `context` | `ISB` between the write of a system register and what depends on it at EL2 | D19.1.2 "Synchronization requirements for AArch64 System registers" |
//! | `instruction-cache` | `DSB` (all; `ISH`) between `DC CVAU` and `IC`, and (`NSH` for `IC IALLU`) behind `IC` before a table store, a `TLBI`, `ERET`, `SCTLR_EL2` | B2.4.4 "Concurrent modification and execution of instructions" |
//! | `event-before-store` | what `SEV` announces is completed by `DSB SY` | D1.6.1 "Wait for Event mechanism" |
//! | `handoff-not-cleaned` | what CPUs with their caches off read is cleaned by `DC CIVAC` and `DSB SY` before `SEV`, `SMC`, a store to other memory that is cleaned, or the guest's first instruction | B2.7.1; D7.5 "Cache maintenance" |
//! | `mailbox-not-dropped` | a word that CPUs with their caches off write is dropped from the caches before each look | the same |
//! | `call-before-store` | what a CPU reads that `SMC` starts is completed by `DSB` (`ISHST` or more) | the same |
//! | `caches-off` | with its caches off EL2 stores to its image only where it was cleaned and invalidated, and does so again before its MMU goes on | D7.5 |

mod cleaning;
mod leaving;
mod registers;

use crate::decode::{Access, Accesses, Cache, Domain, Instruction, Register, Scope};
use crate::settings::{Range, Settings};
use cleaning::Cleaning;
use registers::{DEPENDENTS, Dependent, PAR_EL1, SCTLR_EL2, VTTBR_EL2};

/// Bytes of a cache line, as QEMU's `CTR_EL0` gives it for the CPUs that are used.
const LINE_BYTES: u64 = 64;

/// Bytes of an SMMU's descriptor of a context. Source: Arm IHI 0070, 5.4 "Context Descriptor".
const DESCRIPTOR_BYTES: u64 = 64;
/// Bytes of code from an exclusive load to behind its store.
const LONGEST_PAIR: u64 = 32;

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule's name.
    pub rule: &'static str,
    /// Where it shows.
    pub pc: u64,
    /// Where what is not ordered was executed.
    pub earlier: u64,
    /// What is wrong.
    pub text: &'static str,
}

/// What one CPU has executed and the architecture has not ordered. Each field holds the PC.
#[derive(Debug, Default)]
pub struct Cpu {
    shared_store: Option<u64>,
    shared_load: Option<u64>,
    /// With the address of its descriptor.
    descriptor_store: Option<(u64, u64)>,
    completion: Option<u64>,
    table_store: Option<u64>,
    table_unsynchronized: Option<u64>,
    /// The last exclusive store to a table, and the two fields above before it.
    exclusive: Option<(u64, Option<u64>, Option<u64>)>,
    own_table_store: Option<u64>,
    own_table_unsynchronized: Option<u64>,
    tlbi: Option<(u64, Scope)>,
    tlbi_is_broadcast: bool,
    translate: Option<u64>,
    written: Vec<(Register, u64)>,
    unification: Option<u64>,
    instructions: Option<u64>,
    instructions_are_own: bool,
    handoff: Cleaning,
    /// The range of [`Settings::handoff`] that was stored to.
    handoff_range: usize,
    event: Option<u64>,
    announced: Option<u64>,
    mailbox: Cleaning,
    /// Whether the guest has run on this CPU.
    has_returned: bool,
    /// The last store to what is loaded, and the lines cleaned since.
    loaded: Option<u64>,
    lines_cleaned: u64,
    /// Lines that are to be cleaned before the guest's first instruction.
    loaded_lines: u64,
    /// The caches are off: between the write of `SCTLR_EL2` at the entry and the next.
    is_off: bool,
    /// Cleaned and invalidated since the caches went off; and whether that is complete.
    is_invalidating: bool,
    was_invalidated: bool,
    off: Cleaning,
    seen: Vec<Instruction>,
}

impl Cpu {
    /// Whether this kind of instruction is executed for the first time.
    pub fn is_new(&mut self, instruction: Instruction) -> bool {
        let matters = !matches!(instruction, Instruction::Write(_) | Instruction::Read(_));
        let is_new = matters && !self.seen.contains(&instruction);
        if is_new {
            self.seen.push(instruction);
        }
        is_new
    }

    /// An exception from the guest: entering EL2 synchronises the context.
    pub fn enter(&mut self) {
        self.synchronize();
    }

    /// A load or a store.
    pub fn access(
        &mut self,
        settings: &Settings,
        pc: u64,
        address: u64,
        is_store: bool,
        kind: Access,
    ) -> Option<Violation> {
        let is_in = |ranges: &[Range]| ranges.iter().any(|range| range.contains(address));
        let mut found = self.depend(pc, Dependent::Access);
        let is_shared = is_in(&settings.shared);
        if let Some(image) = settings.image {
            if image.contains(address) {
                found = found.or_else(|| self.access_off(pc, is_store));
            } else if let Some(earlier) =
                self.own_table_unsynchronized.filter(|_| !is_in(&settings.own_tables))
            {
                let text = "an access outside the image before DSB and ISB complete a store to EL2's tables";
                found = found.or(Some(Violation { rule: "own-table-store", pc, earlier, text }));
            }
        }
        let is_table = is_in(&settings.tables);
        if let Some((earlier, _)) = self.tlbi
            && (is_shared || is_table && is_store)
        {
            let text = "an access to memory that moves, or a store to a table, before DSB completes the TLBI";
            found = found.or(Some(Violation { rule: "tlbi-incomplete", pc, earlier, text }));
        }
        if let Some(earlier) = self.instructions
            && is_table
            && is_store
        {
            let text = "a store to a table before DSB completes the IC";
            found = found.or(Some(Violation { rule: "instruction-cache", pc, earlier, text }));
        }
        if is_table && kind == Access::Exclusive {
            self.note_exclusive(pc, is_store);
        }
        if is_store {
            found.or_else(|| self.store(settings, pc, address, is_shared, is_table))
        } else {
            found.or_else(|| self.load(settings, pc, address, is_shared, kind))
        }
    }

    fn store(
        &mut self,
        settings: &Settings,
        pc: u64,
        address: u64,
        is_shared: bool,
        is_table: bool,
    ) -> Option<Violation> {
        let is_in = |ranges: &[Range]| ranges.iter().any(|range| range.contains(address));
        let is_loaded = !self.has_returned && is_in(&settings.loaded);
        self.note_table_store(pc, is_shared, is_table, is_in(&settings.own_tables));
        let found = self.store_for_handoff(settings, pc, address, is_loaded);
        if is_in(&settings.announced) {
            self.announced = Some(pc);
        }
        if is_loaded {
            self.loaded = Some(pc);
            self.lines_cleaned = 0;
            let lines =
                settings.loaded.iter().map(|range| (range.end - range.start).div_ceil(LINE_BYTES));
            self.loaded_lines = lines.sum();
        }
        // Before the guest runs the memory is the allocator's, and no walk reads it.
        if self.has_returned && is_in(&settings.descriptors) {
            let start = address - address % DESCRIPTOR_BYTES;
            let before = self.descriptor_store.replace((pc, start));
            if let Some((earlier, _)) =
                before.filter(|(_, other)| *other == start && address == start)
            {
                let text = "a descriptor becomes valid before its other words are ordered";
                return Some(Violation { rule: "descriptor-valid-last", pc, earlier, text });
            }
        }
        if is_in(&settings.consumers)
            && let Some(earlier) = self.shared_load
        {
            let text = "memory is given back to a device before what it wrote there is loaded";
            return Some(Violation { rule: "load-before-return", pc, earlier, text });
        }
        if is_in(&settings.devices)
            && let Some(earlier) = self.shared_store
        {
            let text = "a device's register is stored to before DSB completes a store to what devices read";
            return Some(Violation { rule: "store-before-command", pc, earlier, text });
        }
        found
    }

    /// An exclusive load or store of a table. A store that fails stores nothing, but shows as one.
    /// Compiled code then goes back to the load of the pair, a few instructions before it.
    fn note_exclusive(&mut self, pc: u64, is_store: bool) {
        if is_store {
            self.exclusive = Some((pc, self.table_store, self.table_unsynchronized));
        } else if let Some((store, table_store, table_unsynchronized)) = self.exclusive.take()
            && self.table_store == Some(store)
            && (pc..pc + LONGEST_PAIR).contains(&store)
        {
            (self.table_store, self.table_unsynchronized) = (table_store, table_unsynchronized);
        }
    }

    /// A store may have to be completed before a device or a table walk may see it.
    fn note_table_store(&mut self, pc: u64, is_shared: bool, is_table: bool, is_own_table: bool) {
        if is_shared {
            self.shared_store = Some(pc);
        }
        if is_table {
            self.table_store = Some(pc);
            self.table_unsynchronized = Some(pc);
        }
        if is_own_table {
            self.own_table_store = Some(pc);
            self.own_table_unsynchronized = Some(pc);
        }
    }

    /// A store to what a CPU with its caches off reads, or to what is loaded before the guest runs.
    fn store_for_handoff(
        &mut self,
        settings: &Settings,
        pc: u64,
        address: u64,
        is_loaded: bool,
    ) -> Option<Violation> {
        let mut found = None;
        // The address that is cleaned does not show: what is cleaned is taken for the range that
        // was stored to last.
        let handoff = settings.handoff.iter().position(|range| range.contains(address));
        let is_other = handoff.is_none_or(|range| range != self.handoff_range);
        if is_other && (handoff.is_some() || is_loaded) {
            let text =
                "a store to what is cleaned next before what was stored for another CPU is cleaned";
            let broken = |earlier| Violation { rule: "handoff-not-cleaned", pc, earlier, text };
            found = self.handoff.pending().map(broken);
        }
        if let Some(range) = handoff {
            self.handoff.store(pc);
            self.handoff_range = range;
            self.event = Some(pc);
        }
        found
    }

    fn load(
        &mut self,
        settings: &Settings,
        pc: u64,
        address: u64,
        is_shared: bool,
        kind: Access,
    ) -> Option<Violation> {
        let is_in = |ranges: &[Range]| ranges.iter().any(|range| range.contains(address));
        if is_in(&settings.completions) {
            self.completion = (kind != Access::Acquire).then_some(pc);
            return None;
        }
        // What is exchanged was looked at before.
        if is_in(&settings.mailbox) && kind != Access::Exclusive {
            let earlier = self.mailbox.pending();
            self.mailbox.store(pc);
            let text = "a look at a word that was not dropped from the caches since the last look";
            return earlier.map(|earlier| Violation {
                rule: "mailbox-not-dropped",
                pc,
                earlier,
                text,
            });
        }
        if is_shared {
            self.shared_load = Some(pc);
        }
        if is_shared && let Some(earlier) = self.completion {
            let text = "a load of what a device wrote with no DMB or DSB behind the load of its completion";
            return Some(Violation { rule: "load-after-completion", pc, earlier, text });
        }
        None
    }

    /// An access to the image.
    fn access_off(&mut self, pc: u64, is_store: bool) -> Option<Violation> {
        if !self.is_off || !is_store {
            return None;
        }
        self.off.store(pc);
        if self.was_invalidated {
            return None;
        }
        let text = "a store with the caches off before the image is cleaned and invalidated";
        Some(Violation { rule: "caches-off", pc, earlier: pc, text })
    }

    /// Anything that is not a load or a store.
    pub fn execute(&mut self, pc: u64, instruction: Instruction) -> Option<Violation> {
        match instruction {
            Instruction::Barrier { is_dsb, domain, accesses } => {
                self.barrier(is_dsb, domain, accesses);
                None
            }
            Instruction::Isb => {
                self.synchronize();
                None
            }
            Instruction::Tlbi { scope, is_broadcast } => self.invalidate(pc, scope, is_broadcast),
            Instruction::Maintain(cache) => self.maintain(pc, cache),
            Instruction::Translate => {
                self.translate = Some(pc);
                let text = "AT before DSB and ISB complete a store to a table";
                let table = self.table_unsynchronized;
                let table = table.map(|earlier| Violation { rule: "context", pc, earlier, text });
                self.depend(pc, Dependent::Translate).or(table)
            }
            Instruction::Write(register) => self.write(pc, register),
            Instruction::Read(register) => self.read(pc, register),
            Instruction::Return => self.go_back(pc),
            Instruction::SendEvent => self.send_event(pc),
            Instruction::Call => self.call(pc),
            Instruction::Other
            | Instruction::Yield
            | Instruction::Memory(_)
            | Instruction::WaitForEvent
            | Instruction::Block { .. } => None,
        }
    }

    fn barrier(&mut self, is_dsb: bool, domain: Domain, accesses: Accesses) {
        let (loads, stores) = (accesses != Accesses::Stores, accesses != Accesses::Loads);
        if loads && domain >= Domain::Outer {
            self.completion = None;
            self.shared_load = None;
        }
        if stores && domain >= Domain::Outer {
            self.descriptor_store = None;
        }
        if !is_dsb {
            return;
        }
        if stores {
            if domain >= Domain::Outer {
                self.shared_store = None;
            }
            if domain >= Domain::Inner {
                self.table_store = None;
                self.announced = None;
            }
            self.own_table_store = None;
        }
        if accesses != Accesses::All {
            return;
        }
        if domain == Domain::System {
            self.handoff.complete();
            self.mailbox.complete();
            self.off.complete();
            self.was_invalidated |= self.is_invalidating;
            self.event = None;
        }
        if !self.tlbi_is_broadcast || domain >= Domain::Inner {
            self.tlbi = None;
            self.tlbi_is_broadcast = false;
        }
        if domain >= Domain::Inner {
            self.unification = None;
        }
        if self.instructions_are_own || domain >= Domain::Inner {
            self.instructions = None;
        }
    }

    /// A context synchronisation.
    fn synchronize(&mut self) {
        self.written.clear();
        self.translate = None;
        self.own_table_unsynchronized = self.own_table_store;
        self.table_unsynchronized = self.table_store;
    }

    fn invalidate(&mut self, pc: u64, scope: Scope, is_broadcast: bool) -> Option<Violation> {
        let mut found = self.depend(pc, Dependent::Tlbi);
        if let Some(earlier) = self.table_store.filter(|_| scope != Scope::Own) {
            let text = "TLBI before DSB completes a store to a table";
            found =
                found.or(Some(Violation { rule: "table-store-before-tlbi", pc, earlier, text }));
        }
        if let Some((earlier, before)) = self.tlbi
            && before != scope
        {
            let text = "TLBI of one stage before DSB completes that of the other";
            found = found.or(Some(Violation { rule: "tlbi-incomplete", pc, earlier, text }));
        }
        if let Some(earlier) = self.instructions.filter(|_| scope != Scope::Own) {
            let text = "TLBI before DSB completes the IC";
            found = found.or(Some(Violation { rule: "instruction-cache", pc, earlier, text }));
        }
        self.tlbi = Some((pc, scope));
        self.tlbi_is_broadcast |= is_broadcast;
        found
    }

    fn maintain(&mut self, pc: u64, cache: Cache) -> Option<Violation> {
        match cache {
            Cache::CleanToUnification => {
                self.unification = Some(pc);
                None
            }
            Cache::CleanToCoherency => {
                self.lines_cleaned += 1;
                self.handoff.clean();
                self.mailbox.clean();
                self.off.clean();
                self.is_invalidating |= self.is_off;
                None
            }
            Cache::Instructions | Cache::OwnInstructions => {
                self.instructions = Some(pc);
                self.instructions_are_own = cache == Cache::OwnInstructions;
                let text = "IC before DSB completes DC CVAU";
                let broken = |earlier| Violation { rule: "instruction-cache", pc, earlier, text };
                self.unification.map(broken)
            }
        }
    }

    fn write(&mut self, pc: u64, register: Register) -> Option<Violation> {
        let mut found = self.depend(pc, Dependent::Register(register));
        if matches!(register, VTTBR_EL2 | SCTLR_EL2) {
            found = found.or_else(|| self.unfinished(pc));
        }
        if register == SCTLR_EL2 {
            if let Some(earlier) = self.off.pending().filter(|_| self.is_off) {
                let text = "the MMU goes on before what was stored with the caches off is cleaned";
                found = found.or(Some(Violation { rule: "caches-off", pc, earlier, text }));
            }
            self.is_off = !self.is_off;
            self.is_invalidating = false;
            self.was_invalidated = false;
            self.off = Cleaning::Done;
        }
        self.written.push((register, pc));
        found
    }

    fn read(&mut self, pc: u64, register: Register) -> Option<Violation> {
        if register == PAR_EL1
            && let Some(earlier) = self.translate
        {
            let text = "PAR_EL1 is read with no ISB behind AT";
            return Some(Violation { rule: "translate-before-par", pc, earlier, text });
        }
        self.depend(pc, Dependent::Register(register))
    }

    /// A register was written and not synchronised that `dependent` depends on.
    fn depend(&self, pc: u64, dependent: Dependent) -> Option<Violation> {
        let is_broken = |register: Register| {
            DEPENDENTS.iter().any(|(written, dependents)| {
                *written == register && dependents.contains(&dependent)
            })
        };
        let (_, earlier) = self.written.iter().find(|(register, _)| is_broken(*register))?;
        let text = "no ISB behind the write of a system register that this depends on";
        Some(Violation { rule: "context", pc, earlier: *earlier, text })
    }
}

#[cfg(test)]
mod tests;
