//! The driver of an SMMUv3, with stage 1, a 16 KiB granule and 36-bit IOVAs. Faulting accesses are
//! recorded and aborted.
//!
//! ```text
//! STRTAB_BASE -> bus descriptors -> a bus's entries -> context of a domain -> first-level table of the engine
//!                                        (one word)         \-> or the blocking context: a table with nothing in it
//! ```
//!
//! Every requester on the map always translates. A stream that is blocked translates through the
//! blocking context, so its accesses fault and are recorded; a requester on no map aborts. Source:
//! ARM IHI 0070 (SMMUv3), cited by section where something is built.

mod barrier;
mod block;
mod bring_up;
pub mod command;
mod command_queue;
pub mod entry;
pub mod event;
mod event_queue;
mod kept_faults;
mod poll;
pub mod queue;
mod registers;
pub mod structures;
mod tables;
#[cfg(test)]
mod tests;

use oche_engine::host::{DeviceFault, DomainId, InvalidateTimedOut, Iommu};
use oche_types::addr::{HostGranule, SlotRun};
use oche_types::dart::entry::Permission;
use oche_types::dart::stream::{DartId, MAX_DARTS, Members, STREAMS, StreamId};

use crate::iommu_map::IommuMap;
pub use bring_up::Unsupported;
use command::Command;
pub use command_queue::CommandFailed;
use command_queue::CommandQueue;
use event::Event;
use event_queue::EventQueue;
use kept_faults::KeptFaults;
pub use registers::Registers;
use tables::{Contexts, StreamTable};

/// Counters of errors, and of events that are not reported to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Number of commands that were not completed in time.
    pub commands_timed_out: u64,
    /// Number of commands that the SMMU rejected.
    pub commands_refused: u64,
    /// Number of times that the event queue was full or could not be written, each of which lost at
    /// least one event, and of faults beyond those that are kept for a DART.
    pub event_losses: u64,
    /// Number of events that are not accesses of a requester on the map.
    pub other_events: u64,
    /// The event record that was counted last in `other_events`: its number and StreamID.
    pub last_other: Option<(u8, u32)>,
}

/// The SMMU, its tables and its queues.
pub struct Smmu {
    registers: Registers,
    map: IommuMap,
    streams: StreamTable,
    contexts: Contexts,
    commands: CommandQueue,
    events: EventQueue,
    kept: KeptFaults,
    attached: [[Option<DomainId>; STREAMS]; MAX_DARTS],
    statistics: Statistics,
    /// Whether a command has failed. No source says which other commands were carried out then, so
    /// all cached state must be invalidated.
    has_failed: bool,
}

/// Physical addresses of the structures that the SMMU reads, for checks from outside (see
/// `smmu/README.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StructureAddresses {
    /// The level 1 stream table, as in STRTAB_BASE.
    pub stream_table: u64,
    /// The first context descriptor, that of the blocking context. The one of domain `n` is 64 × (n
    /// + 1) bytes after it.
    pub contexts: u64,
    /// The first-level table of the blocking context, all zero.
    pub blocking: u64,
    /// The command queue.
    pub commands: u64,
    /// The event queue.
    pub events: u64,
}

impl Smmu {
    /// Brings the SMMU up with every requester of `map` blocked. `domains` is the number of
    /// domains.
    ///
    /// # Errors
    ///
    /// [`Unsupported`], if the SMMU lacks a feature that Oche needs, or does not respond. It is
    /// left disabled.
    pub fn new(registers: Registers, map: IommuMap, domains: usize) -> Result<Self, Unsupported> {
        let abilities = registers.identify()?;
        if domains > abilities.domains {
            return Err(Unsupported::TooManyDomains { most: abilities.domains });
        }
        let contexts = Contexts::new(domains, abilities.output);
        let streams = StreamTable::new(&map, contexts.blocking());
        let commands = CommandQueue::new(abilities.commands_log2);
        let events = EventQueue::new(abilities.events_log2);
        let attached = [[None; STREAMS]; MAX_DARTS];
        let statistics = Statistics::default();
        let mut smmu = Self {
            registers,
            map,
            streams,
            contexts,
            commands,
            events,
            kept: KeptFaults::default(),
            attached,
            statistics,
            has_failed: false,
        };
        smmu.registers.enable(&smmu.streams, &mut smmu.commands, &smmu.events)?;
        Ok(smmu)
    }

    /// The counters of errors.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// The addresses of the SMMU's structures.
    pub fn layout(&self) -> StructureAddresses {
        StructureAddresses {
            stream_table: self.streams.address(),
            contexts: self.contexts.blocking(),
            blocking: self.contexts.blocking_root().address(),
            commands: self.commands.address(),
            events: self.events.address(),
        }
    }

    /// The map from requesters to streams.
    pub fn map(&self) -> &IommuMap {
        &self.map
    }

    /// Makes every requester of a stream use `context`, and invalidates what the SMMU has cached of
    /// it.
    ///
    /// # Order
    ///
    /// The entries are stored first. Then everything that was read from the old ones is
    /// invalidated, and then the translations of the domain before. CMD_SYNC waits until all
    /// accesses that use them are complete (IHI 0070, 3.21.1, 3.21.3).
    fn move_stream(
        &mut self,
        dart: DartId,
        stream: StreamId,
        to: Option<DomainId>,
    ) -> Result<(), CommandFailed> {
        let context = to.map_or(self.contexts.blocking(), |domain| self.contexts.address(domain));
        let slot = &mut self.attached[dart.index()][stream.index()];
        let before = core::mem::replace(slot, to);
        for requester in self.map.requesters(dart, stream) {
            self.streams.set_context(requester, context);
        }
        let forget = self.map.requesters(dart, stream).map(Command::ForgetEntry);
        let drop =
            before.into_iter().map(|domain| Command::DropTranslations(self.contexts.asid(domain)));
        self.commands.run(&self.registers, forget.chain(drop))
    }

    /// Sets `root` as the first-level table of the context of `domain`, also for the streams that
    /// use it already.
    fn root_domain(&mut self, domain: DomainId, root: HostGranule) -> Result<(), CommandFailed> {
        if !self.contexts.set_root(domain, root) {
            return Ok(());
        }
        let attached = &self.attached;
        let members = self.map.connections().iter().filter(|connection| {
            attached[connection.dart.index()][connection.stream.index()] == Some(domain)
        });
        let forget = members.map(|connection| Command::ForgetContext(connection.requester));
        let drop = Command::DropTranslations(self.contexts.asid(domain));
        self.commands.run(&self.registers, forget.chain([drop]))
    }

    fn count(&mut self, result: Result<(), CommandFailed>) -> Result<(), CommandFailed> {
        self.has_failed |= result.is_err();
        match result {
            Ok(()) => {}
            Err(CommandFailed::TimedOut) => self.statistics.commands_timed_out += 1,
            Err(CommandFailed::Refused) => self.statistics.commands_refused += 1,
        }
        result
    }
}

// SAFETY: an entry names one frame, with the permission asked for. Attaching, blocking and
// invalidating return after the synchronization that follows their commands, or report that it did
// not complete.
unsafe impl Iommu for Smmu {
    // An entry that is not valid is never kept in a TLB. Source: Arm ARM DDI 0487, D8.16; IHI 0070,
    // 3.21.1.
    const CACHES_INVALID_ENTRIES: bool = false;
    const CAN_FORBID_READS: bool = false;

    // A page descriptor has no part of its page. Source: Arm ARM DDI 0487, D8.3.
    fn has_windows(&self) -> bool {
        false
    }

    fn leaf_entry(&self, frame: HostGranule, permission: Permission, _: SlotRun) -> u64 {
        entry::leaf(frame, permission)
    }

    fn table_entry(&self, table: HostGranule) -> u64 {
        entry::table(table)
    }

    fn attach(
        &mut self,
        dart: DartId,
        stream: StreamId,
        domain: DomainId,
        root: HostGranule,
    ) -> Result<(), InvalidateTimedOut> {
        let rooted = self.root_domain(domain, root);
        let moved = self.move_stream(dart, stream, Some(domain));
        if self.count(rooted.and(moved)).is_err() {
            // The hardware may still use what was attached before, so the stream is blocked.
            self.block(dart, stream);
            return Err(InvalidateTimedOut);
        }
        Ok(())
    }

    fn block(&mut self, dart: DartId, stream: StreamId) {
        let moved = self.move_stream(dart, stream, None);
        if self.count(moved).is_err() {
            log::error!(
                "smmu: blocking DART {} stream {} was not confirmed",
                dart.index(),
                stream.index()
            );
        }
    }

    fn invalidate(
        &mut self,
        domain: DomainId,
        _members: &Members,
    ) -> Result<(), InvalidateTimedOut> {
        let drop = Command::DropTranslations(self.contexts.asid(domain));
        let done = self.commands.run(&self.registers, [drop]);
        self.count(done).map_err(|_| InvalidateTimedOut)
    }

    /// After a failure this invalidates everything that the SMMU has cached of tables and
    /// structures, which are always correct in memory. The CMD_SYNC after it waits for all accesses
    /// that used anything older (IHI 0070, 3.21.1, 4.7.3). If the SMMU has not completed its
    /// commands yet, this does not wait for it.
    fn is_confirmed(&mut self) -> bool {
        if self.has_failed && self.commands.is_idle(&self.registers) {
            let all = [Command::ForgetAllConfiguration, Command::DropAllTranslations];
            let done = self.commands.run(&self.registers, all);
            self.has_failed = self.count(done).is_err();
        }
        !self.has_failed
    }

    /// One event queue serves all DARTs. Faults of other DARTs that are found first are kept until
    /// they are requested. Reads at most as many records as the queue has.
    fn next_fault(&mut self, dart: DartId) -> Option<DeviceFault> {
        if let Some(fault) = self.kept.take(dart) {
            return Some(fault);
        }
        for _ in 0..self.events.entries() {
            let Some(record) = self.events.pop(&self.registers) else { break };
            match self.fault_of(event::decode(record)) {
                Some((of, fault)) if of == dart => return Some(fault),
                Some((of, fault)) if !self.kept.keep(of, fault) => {
                    self.statistics.event_losses += 1;
                }
                _ => {}
            }
        }
        self.statistics.event_losses += self.events.take_losses(&self.registers);
        None
    }
}

impl Smmu {
    fn fault_of(&mut self, event: Event) -> Option<(DartId, DeviceFault)> {
        let other = match event {
            Event::Refused { requester, iova, is_write } => match self.map.stream_of(requester) {
                Some((dart, stream)) => {
                    return Some((dart, DeviceFault { stream, iova, is_write }));
                }
                None => (0, u32::from(requester.0)),
            },
            Event::Other { number, stream_id } => (number, stream_id),
        };
        self.statistics.other_events += 1;
        self.statistics.last_other = Some(other);
        None
    }
}
