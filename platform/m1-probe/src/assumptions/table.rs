//! The table of assumptions, in the order of `docs/m1.md`.

/// A behaviour of the hardware that no source confirms.
#[derive(Clone, Copy, Debug)]
pub struct Assumption {
    /// Its name in `docs/m1.md`.
    pub name: &'static str,
    /// What is assumed.
    pub claim: &'static str,
    /// What answers it.
    pub evidence: Evidence,
    /// What to do if it fails.
    pub if_wrong: &'static str,
}

/// What answers an assumption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Lines by name; `*` stands for any word between dots, or a part of one. Of each name there
    /// must be a line that is right, and none that is wrong.
    Lines(&'static [&'static str]),
    /// No line of the probe, for this reason.
    None(&'static str),
}

use Evidence::{Lines, None};

/// All named assumptions.
pub const ASSUMPTIONS: &[Assumption] = &[
    Assumption {
        name: "fiq-direct",
        claim: "with HCR_EL2.FMO = 0, timers reach EL1 as FIQs",
        evidence: Lines(&["fiq.virtual-timer", "fiq.physical-timer"]),
        if_wrong: "boot Oche with oche.fiq=virtual",
    },
    Assumption {
        name: "fiq-by-el2",
        claim: "with HCR_EL2.FMO = 1, FIQs are taken to EL2, and VF injects them into EL1",
        evidence: Lines(&["fiq.injected", "fiq.by-el2.virtual-timer", "fiq.by-el2.physical-timer"]),
        if_wrong: "do not use oche.fiq=virtual",
    },
    Assumption {
        name: "pmu-fiq-ends",
        claim: "a write to PMCR0 with its flag clear ends the PMU's FIQ",
        evidence: None("needs a kernel that counts events"),
        if_wrong: "perf misses samples with oche.fiq=virtual",
    },
    Assumption {
        name: "no-ttbr-faults",
        claim: "a stream that translates without a valid TTBR faults",
        evidence: None("needs a device's DMA"),
        if_wrong: "do not boot Oche: a blocked stream does DMA",
    },
    Assumption {
        name: "power-words",
        claim: "a power domain's register shows whether a DART answers",
        evidence: Lines(&["dart.*.page-size"]),
        if_wrong: "leave that DART out with oche.darts, and report its power words",
    },
    Assumption {
        name: "power-loss-clears",
        claim: "a DART that had no power returns with streams that are off and an empty TLB",
        evidence: None("needs a driver that switches a DART off"),
        if_wrong: "Oche prints `DART n stream s came back`: report it",
    },
    Assumption {
        name: "auto-gating-keeps",
        claim: "a domain that gates its clock by itself keeps the DART's registers and TLB",
        evidence: None("needs a driver that lets a DART idle"),
        if_wrong: "as for power-loss-clears",
    },
    Assumption {
        name: "dart-reads-back",
        claim: "bits 7 and 8 of a TCR, and a TTBR, read back what was written",
        evidence: Lines(&["dart.*.tcr-holds", "dart.*.ttbr-holds"]),
        if_wrong: "Oche programs all streams at each access: slow, and nothing else. A TTBR with \
                   fewer than 24 bits is not usable: leave that DART out with oche.darts",
    },
    Assumption {
        name: "dart-drain",
        claim: "DSB ST makes table stores visible to a DART; BUSY clears after earlier writes",
        evidence: None("needs a device's DMA: the checklist's `drain`"),
        if_wrong: "received bytes are lost: do not boot Oche",
    },
    Assumption {
        name: "window-units",
        claim: "a DART checks sub-page windows, in units of four bytes",
        evidence: None("needs a device's DMA: the checklist's `windows`"),
        if_wrong: "boot Oche with oche.windows=0",
    },
    Assumption {
        name: "bus-error-reported",
        claim: "a bus error of EL2's own access is reported at the access, or by ISR_EL1.A",
        evidence: Lines(&["bus.error"]),
        if_wrong: "the guest's kernel panics with an SError that EL2 caused",
    },
    Assumption {
        name: "serror-is-brief",
        claim: "SErrors of the guest's own are pending for a moment at most",
        evidence: None("needs a guest"),
        if_wrong: "the guest's accesses to DARTs end in an abort",
    },
    Assumption {
        name: "serror-to-el2",
        claim: "with HCR_EL2.AMO = 1 a pending SError is taken to EL2 and ends",
        evidence: Lines(&["mmio.serror-window"]),
        if_wrong: "Oche panics at a bus error: boot it with oche.darts=none only",
    },
    Assumption {
        name: "nvme-doorbell",
        claim: "the value of an NVMe doorbell is the entry's number",
        evidence: None("needs the NVMe's driver: the checklist's `nvme`"),
        if_wrong: "do not boot Oche: the disk uses pages that have migrated",
    },
    Assumption {
        name: "dart-walks-coherent",
        claim: "a DART walks its tables coherently with the CPUs' caches",
        evidence: None("needs a device's DMA"),
        if_wrong: "faults on what has just been mapped: do not boot Oche",
    },
    Assumption {
        name: "software-line",
        claim: "software can assert a line that no device drives, as a level",
        evidence: Lines(&["aic.software-line"]),
        if_wrong: "there is no trace port; read the trace otherwise",
    },
    Assumption {
        name: "port-window-empty",
        claim: "nothing is at 0x600000000",
        evidence: Lines(&["bus.port-window"]),
        if_wrong: "boot Oche without a trace: oche.trace=0",
    },
    Assumption {
        name: "ctrr-below-image",
        claim: "the memory that CTRR names lies below the image, on each CPU",
        evidence: Lines(&["apple.ctrr", "cpu*.ctrr"]),
        if_wrong: "an L2 address size fault at the first access: do not boot Oche, and report it",
    },
    Assumption {
        name: "stage2-4k",
        claim: "stage 2 with 4 KiB pages works under CTRR",
        evidence: Lines(&["cpu.stage2-4k", "stage2.page-away-and-home"]),
        if_wrong: "Oche cannot run",
    },
    Assumption {
        name: "stage2-1g",
        claim: "stage 2 takes leaves of 1 GiB with the 4 KiB granule",
        evidence: Lines(&["stage2.block-1g"]),
        if_wrong: "Oche cannot run as it is: report it",
    },
    Assumption {
        name: "masters-coherent",
        claim: "every DMA master is I/O-coherent",
        evidence: None("needs each device and its driver: the checklist's `drain`"),
        if_wrong: "timeouts and wrong data of that device",
    },
    Assumption {
        name: "msi-before-dart",
        claim: "a PCIe port takes MSIs before its DART sees them, and only those 4 bytes",
        evidence: None("needs a device behind the port"),
        if_wrong: "faults at 0xfffff000 in the trace, and no interrupts",
    },
    Assumption {
        name: "usb-bypass-quiet",
        claim: "a USB controller in bypass does no DMA when its streams begin to fault",
        evidence: None("needs the controller's driver"),
        if_wrong: "one lost transfer",
    },
    Assumption {
        name: "step-to-el2",
        claim: "a software step of EL1 is taken to EL2 with MDCR_EL2.TDE",
        evidence: Lines(&["step.taken"]),
        if_wrong: "a CPU hangs at its first exclusive pair in a page with copies",
    },
    Assumption {
        name: "port-line-exists",
        claim: "the interrupt controller has the highest line that no node names",
        evidence: Lines(&["aic.lines"]),
        if_wrong: "there is no trace port",
    },
    Assumption {
        name: "uncached-sees-stores",
        claim: "a CPU with caches off sees stores of one with caches on after a barrier",
        evidence: Lines(&["cpu*.enters", "cache.uncached-sees-cleaned"]),
        if_wrong: "Oche leaves out each CPU that does not see them",
    },
    Assumption {
        name: "cpus-return",
        claim: "m1n1's loop takes a CPU back when the function that it called returns",
        evidence: Lines(&["cpu*.returns"]),
        if_wrong: "after a probe, the kernel lacks that CPU; Oche itself does not rely on it",
    },
    Assumption {
        name: "cpus-alike",
        claim: "every CPU has the boot CPU's ID registers, as far as Oche reads them, and counter",
        evidence: Lines(&["cpu*.ids", "cpu*.cntfrq"]),
        if_wrong: "report the lines",
    },
    Assumption {
        name: "wfi-keeps-registers",
        claim: "WFI keeps all general-purpose registers",
        evidence: Lines(&["cpu*.wfi"]),
        if_wrong: "a guest crashes when it idles: use m1n1 1.6 or newer",
    },
    Assumption {
        name: "maintenance-traps",
        claim: "cache maintenance at EL1 traps with HCR_EL2.TPC, TPU and TSW",
        evidence: Lines(&["trap.dc-civac", "trap.*"]),
        if_wrong: "Oche does not rely on it today",
    },
];
