//! Finding out what the SMMU can do, and enabling it. Source: ARM IHI 0070, 3.11 and 6.3.

use tock_registers::LocalRegisterCopy;
use tock_registers::interfaces::{Readable, Writeable};

use super::barrier;
use super::command::Command;
use super::command_queue::CommandQueue;
use super::event_queue::EventQueue;
use super::poll;
use super::registers::{
    BASE, CR0, CR1, CR2, GBPA, IDR0, IDR1, IDR5, IRQ_CTRL, Registers, STRTAB_BASE_CFG,
};
use super::structures::{BUS_ENTRIES_LOG2, OutputSize};
use super::tables::{REQUESTER_BITS, StreamTable};

/// 256 commands: more than any caller issues at once, except for the largest maps, which wait.
const COMMANDS_LOG2: u32 = 8;
/// 512 events, 16 KiB.
const EVENTS_LOG2: u32 = 9;

/// Why this SMMU cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// It has no stage 1, or not AArch64's table format.
    NoStage1,
    /// It has no 16 KiB granule, which is needed.
    No16KiBGranule,
    /// Its accesses to tables and queues are not coherent.
    NotCoherent,
    /// It can only stall faulting accesses, which Oche does not resume.
    MayStall,
    /// It has no two-level stream table, or too few StreamID bits for PCI requester IDs.
    SmallStreamTable,
    /// Its tables or queues are at fixed addresses.
    FixedAddresses,
    /// It has fewer ASIDs than the engine has domains.
    TooManyDomains {
        /// Number of domains that would be possible.
        most: usize,
    },
    /// CR0, IRQ_CTRL or GBPA did not acknowledge a write.
    NotObeyed,
    /// The first commands were not completed.
    NoCommands,
}

/// The features of a supported SMMU that the driver uses.
pub(super) struct Abilities {
    pub(super) output: OutputSize,
    pub(super) domains: usize,
    pub(super) commands_log2: u32,
    pub(super) events_log2: u32,
}

impl Registers {
    pub(super) fn identify(&self) -> Result<Abilities, Unsupported> {
        let idr0 = self.zero.idr0.extract();
        let idr1 = self.zero.idr1.extract();
        let idr5 = self.zero.idr5.extract();
        let checks = [
            (idr0.is_set(IDR0::S1P) && idr0.is_set(IDR0::TTF_AARCH64), Unsupported::NoStage1),
            (idr5.is_set(IDR5::GRAN16K), Unsupported::No16KiBGranule),
            (idr0.is_set(IDR0::COHACC), Unsupported::NotCoherent),
            (!idr0.matches_all(IDR0::STALL_MODEL::StallOnly), Unsupported::MayStall),
            (idr0.matches_all(IDR0::ST_LEVEL::TwoLevel), Unsupported::SmallStreamTable),
            (idr1.read(IDR1::SIDSIZE) >= REQUESTER_BITS, Unsupported::SmallStreamTable),
            (idr1.read(IDR1::PRESET) == 0, Unsupported::FixedAddresses),
        ];
        if let Some((_, reason)) = checks.into_iter().find(|(is_met, _)| !is_met) {
            return Err(reason);
        }
        // ASID 0 is that of the blocking context.
        let domains = if idr0.is_set(IDR0::ASID16) { 0xffff } else { 0xff };
        Ok(Abilities {
            output: OutputSize::from_identification(idr5.read(IDR5::OAS)),
            domains,
            commands_log2: idr1.read(IDR1::CMDQS).min(COMMANDS_LOG2),
            events_log2: idr1.read(IDR1::EVENTQS).min(EVENTS_LOG2),
        })
    }

    /// Sets the SMMU's tables and queues and enables translation. Until then every access aborts.
    ///
    /// # Order
    ///
    /// The SMMU is disabled. Then attributes and bases are set, which may only change while it is
    /// disabled; then the command queue is enabled, and everything cached is invalidated; then the
    /// event queue and its interrupt; translation last.
    pub(super) fn enable(
        &self,
        streams: &StreamTable,
        commands: &mut CommandQueue,
        events: &EventQueue,
    ) -> Result<(), Unsupported> {
        let zero = self.zero;
        self.abort_while_disabled()?;
        self.write_cr0(LocalRegisterCopy::new(0))?;
        self.write_irq_ctrl(LocalRegisterCopy::new(0))?;

        zero.cr1.write(
            CR1::TABLE_SH::InnerShareable
                + CR1::TABLE_OC::WriteBack
                + CR1::TABLE_IC::WriteBack
                + CR1::QUEUE_SH::InnerShareable
                + CR1::QUEUE_OC::WriteBack
                + CR1::QUEUE_IC::WriteBack,
        );
        zero.cr2.write(CR2::PTM::SET + CR2::RECINVSID::SET);
        zero.strtab_base.write(
            BASE::ALLOCATE::SET + BASE::ADDRESS.val(streams.address() >> BASE::ADDRESS.shift),
        );
        zero.strtab_base_cfg.write(
            STRTAB_BASE_CFG::FMT::TwoLevel
                + STRTAB_BASE_CFG::SPLIT.val(BUS_ENTRIES_LOG2)
                + STRTAB_BASE_CFG::LOG2SIZE.val(REQUESTER_BITS),
        );
        let base = |address: u64, entries: u32| {
            BASE::ALLOCATE::SET
                + BASE::ADDRESS.val(address >> BASE::ADDRESS.shift)
                + BASE::LOG2SIZE.val(u64::from(entries.trailing_zeros()))
        };
        zero.cmdq_base.write(base(commands.address(), commands.capacity()));
        zero.cmdq_prod.set(0);
        zero.cmdq_cons.set(0);
        zero.eventq_base.write(base(events.address(), events.entries()));
        self.one.eventq_prod.set(0);
        self.one.eventq_cons.set(0);
        zero.gerrorn.set(zero.gerror.get());

        let mut cr0 = LocalRegisterCopy::new(0);
        cr0.modify(CR0::CMDQEN::SET);
        self.write_cr0(cr0)?;
        commands
            .run(self, [Command::ForgetAllConfiguration, Command::DropAllTranslations])
            .map_err(|_| Unsupported::NoCommands)?;

        cr0.modify(CR0::EVENTQEN::SET);
        self.write_cr0(cr0)?;
        // The interrupt is wired to the guest: the SMMU writes no MSI. Global errors are polled.
        zero.eventq_irq_cfg0.set(0);
        let mut interrupts = LocalRegisterCopy::new(0);
        interrupts.modify(IRQ_CTRL::EVENTQ_IRQEN::SET);
        self.write_irq_ctrl(interrupts)?;
        cr0.modify(CR0::SMMUEN::SET);
        self.write_cr0(cr0)
    }

    /// What comes while the SMMU does not translate is aborted. Source: IHI 0070, 6.3.14 (GBPA).
    /// QEMU before 8.0 has no GBPA: it reads as zero, and such accesses bypass translation, but no
    /// device is a bus master before the guest runs.
    fn abort_while_disabled(&self) -> Result<(), Unsupported> {
        self.zero.gbpa.write(GBPA::UPDATE::SET + GBPA::ABORT::SET);
        wait_until(|| !self.zero.gbpa.is_set(GBPA::UPDATE))
    }

    fn write_cr0(&self, value: LocalRegisterCopy<u32, CR0::Register>) -> Result<(), Unsupported> {
        barrier::complete();
        self.zero.cr0.set(value.get());
        wait_until(|| self.zero.cr0ack.get() == value.get())
    }

    fn write_irq_ctrl(
        &self,
        value: LocalRegisterCopy<u32, IRQ_CTRL::Register>,
    ) -> Result<(), Unsupported> {
        self.zero.irq_ctrl.set(value.get());
        wait_until(|| self.zero.irq_ctrlack.get() == value.get())
    }
}

fn wait_until(is_obeyed: impl Fn() -> bool) -> Result<(), Unsupported> {
    for _ in 0..poll::BOUND {
        if is_obeyed() {
            return Ok(());
        }
        poll::pause();
    }
    Err(Unsupported::NotObeyed)
}
