//! Launching the guest according to the memory layout.

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTPCT_EL0, Readable, TTBR0_EL2, VTTBR_EL2};
use alloc::vec::Vec;
use oche_el2::failure::Failure;
use oche_el2::firmware::{self, fatal};
use oche_el2::stage2::Stage2;
use oche_el2::tlb::Cpus;
use oche_el2::{cache, cpu_setup, features, guest, smp};
use oche_trace::directory;
use oche_types::MAX_CPUS;
use oche_types::range::{PAGE, PhysRange};

use crate::bare::bring_up::reached;
use crate::bare::memory::{bytes, copy};
use crate::bare::prepare::Prepared;
use crate::bare::spin_table::{self, WaitingCpu};
use crate::bare::{entry, fail_open, handover, heap, stage1};
use crate::bring_up::Step;
use crate::guest_fdt::{self, Changes, Edit, Reservation, SpinCpu, VirtioPort};
use crate::guest_map::{GuestMap, MapError};

/// Most bytes by which the guest's FDT is larger than firmware's.
const FDT_GROWTH: u64 = 64 << 10;

/// The board's part of the guest's FDT.
struct GuestChanges<'a> {
    edit: Option<&'a dyn Edit>,
    port: Option<VirtioPort>,
}

impl Prepared {
    /// The trace's layout: a ring of `oche.trace` bytes for each CPU.
    pub fn trace_layout(&self) -> directory::Layout {
        directory::Layout::new(self.machine.affinities().len(), self.options.trace_bytes as usize)
    }

    /// Builds stage 2: the guest's RAM at home and everything that is not RAM passed through,
    /// except `holes`: registers that trap, or that the guest must not access. Every CPU uses these
    /// tables.
    pub fn stage2(&self, holes: &[PhysRange]) -> Stage2<Cpus> {
        let stage2 = self.build_stage2(holes);
        stage2.unwrap_or_else(|reason| fatal(Failure::Stage2, format_args!("stage 2: {reason}")))
    }

    fn build_stage2(&self, holes: &[PhysRange]) -> Result<Stage2<Cpus>, MapError> {
        let ipa_bits = features::ipa_bits();
        let mut stage2 =
            Stage2::new(Cpus, self.layout.tables, ipa_bits, features::has_forced_write_back())
                .map_err(|_| MapError::OutOfTables)?;
        let (before, began) = (stage2.free_tables(), CNTPCT_EL0.get());
        let map = GuestMap {
            ram: &self.machine.ram,
            guest: &self.layout.guest,
            release: self.layout.release,
            around_ram: self.around_ram,
            by_page: self.by_page,
            holes,
            ipa_bits,
        };
        map.map(&mut stage2)?;
        let ((own, all), left) = (stage1::usage(), stage2.free_tables());
        let microseconds = (CNTPCT_EL0.get() - began) * 1_000_000 / CNTFRQ_EL0.get().max(1);
        let used = before - left;
        log::debug!(
            "tables: {own} of {all} of EL2's, {used} of {before} of stage 2 in {microseconds} us"
        );
        guest::set_root(stage2.root());
        Ok(stage2)
    }

    /// Loads the guest and enters it. `edit` is the board's change of the guest's FDT, and `port`
    /// is added to the FDT.
    ///
    /// The platform has been set and stage 2 built: from here on the guest's CPUs may trap.
    /// Everything that can fail happens before the first of the other CPUs enters Oche.
    pub fn launch(mut self, edit: Option<&dyn Edit>, port: Option<VirtioPort>) -> ! {
        smp::prepare(self.machine.affinities(), stage1::regime(), self.layout.guest);
        cpu_setup::configure();
        self.check_blocks();
        reached(Step::Configuration);
        let waiting = spin_table::find(&self.machine, self.layout.release);
        reached(Step::OtherCpus);
        let changes = GuestChanges { edit, port };
        let room = self.plan_fdt(&changes, &waiting);
        reached(Step::GuestFdt);
        copy(bytes(self.kernel_file), self.layout.kernel.start);
        reached(Step::Kernel);
        // From here on, nothing fails, and U-Boot could not have the CPUs.
        fail_open::disarm();
        let cpus = spin_table::take(&waiting, self.layout.release);
        let fdt = self.load_fdt(&changes, &cpus, room);
        self.report(fdt);
        self.clean_loaded(fdt);
        log::info!("boot took {} ns from the entry on", entry::nanoseconds());
        heap::seal();
        smp::enter_guest(self.layout.kernel.start, fdt.start)
    }

    /// Finds a place for the guest's FDT. Whichever of the CPUs come, it fits there: it is made
    /// once with all of them, and one that does not come only loses its node.
    fn plan_fdt(&mut self, changes: &GuestChanges<'_>, waiting: &[WaitingCpu]) -> PhysRange {
        let all: Vec<SpinCpu> = waiting.iter().map(WaitingCpu::present).collect();
        let bytes = self.guest_fdt(changes, &all).len() as u64;
        let old_bytes = self.machine.blob().len() as u64;
        let place = self.layout.place_fdt((old_bytes + FDT_GROWTH).max(bytes));
        let place = place.unwrap_or_else(|error| fatal(Failure::Layout, format_args!("{error}")));
        handover::will_write(place);
        place
    }

    /// Writes the guest's FDT to `place`, and returns where it is.
    fn load_fdt(
        &self,
        changes: &GuestChanges<'_>,
        cpus: &[SpinCpu],
        place: PhysRange,
    ) -> PhysRange {
        let blob = self.guest_fdt(changes, cpus);
        let fdt = PhysRange { start: place.start, end: place.start + blob.len() as u64 };
        assert!(place.covers(&fdt), "invariant: the guest's FDT fits the place planned for it");
        copy(&blob, fdt.start);
        fdt
    }

    /// The guest's FDT.
    fn guest_fdt(&self, changes: &GuestChanges<'_>, cpus: &[SpinCpu]) -> Vec<u8> {
        let mut reserved = Vec::new();
        if self.reserves_image {
            let range = self.layout.image.grown_to(PAGE);
            reserved.push(Reservation { name: "oche", range, no_map: true });
        }
        let changes = Changes {
            memory: self.layout.offered.as_slice(),
            initrd: self.initrd,
            bootargs: self.options.bootargs,
            board: changes.edit,
            port: changes.port,
            reserved: &reserved,
            spin_table: cpus,
        };
        let blob = guest_fdt::rewrite(self.machine.blob(), &changes);
        blob.unwrap_or_else(|error| fatal(Failure::GuestFdt, format_args!("{}", error.reason())))
    }

    /// The guest starts with its MMU off: what was written through the cache must be in memory, and
    /// no line of a place that it will write may be left. Booting contract: kernel and FDT clean to
    /// the PoC.
    fn clean_loaded(&self, fdt: PhysRange) {
        for range in [fdt, self.layout.kernel] {
            cache::clean_and_invalidate(range);
        }
        if let Some(initrd) = self.initrd {
            cache::clean_and_invalidate(initrd);
        }
        cache::synchronize_instructions(PhysRange {
            start: self.layout.kernel.start,
            end: self.layout.kernel.start,
        });
    }

    /// Checks the tables that this CPU is about to use.
    fn check_blocks(&self) {
        let region = self.by_page;
        // There is no memory before DRAM, and EL2 maps few registers.
        let own = PhysRange { start: 0, ..region };
        for (stage, root, region) in
            [("stage 1 of EL2", TTBR0_EL2.get(), own), ("stage 2", VTTBR_EL2.get(), region)]
        {
            if let Some(block) = stage1::first_block(root, region) {
                let image = self.layout.image;
                fatal(
                    Failure::Block,
                    format_args!("{stage} maps {block} as a block, below the image at {image}"),
                );
            }
        }
    }

    fn report(&self, fdt: PhysRange) {
        let (used, total) = heap::usage();
        log::info!(
            "image {}, trace {}, pool {}",
            self.layout.image,
            self.layout.trace,
            self.layout.pool
        );
        log::info!("heap {} ({} of {} KiB used)", self.layout.heap, used >> 10, total >> 10);
        log::info!("tables {}, own tables {}", self.layout.tables, self.layout.own_tables);
        for range in self.layout.guest.as_slice() {
            log::info!("guest memory {range}");
        }
        if let Some(initrd) = self.initrd {
            log::info!("initrd {initrd}");
        }
        if self.machine.cpus_ignored != 0 {
            log::warn!("{} CPUs beyond the {}th stay off", self.machine.cpus_ignored, MAX_CPUS);
        }
        let (all, guest) = (self.machine.ram.total(), self.layout.guest.total());
        log::info!(
            "memory: Oche keeps {} MiB of {} MiB, the guest has {} MiB",
            all.saturating_sub(guest) >> 20,
            all >> 20,
            guest >> 20
        );
        firmware::advise(firmware::PREFIX, |advice| advice.silent);
        let cpus = self.machine.affinities().len();
        log::info!("the guest starts: kernel {}, fdt {fdt}, {cpus} CPUs", self.layout.kernel);
    }
}
