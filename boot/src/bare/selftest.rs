//! `oche.selftest`: measures, before the guest runs, what only the hardware can show, and prints it
//! as one block to paste into a report.
//!
//! The lines are those of [`crate::selftest_line`]. All work is bounded, and nothing is left
//! changed except scratch pages, which the guest's kernel later overwrites.

use core::fmt;
use core::sync::atomic::{Ordering, compiler_fence};

use aarch64_cpu::registers::{
    CNTFRQ_EL0, CNTPCT_EL0, HCR_EL2, ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64MMFR2_EL1,
    MIDR_EL1, Readable, Writeable,
};
use oche_el2::console::print;
use oche_el2::fiq::{self, Route};
use oche_el2::lock::Once;
use oche_el2::registers::*;
use oche_el2::stage2::Stage2;
use oche_el2::tlb::Cpus;
use oche_el2::{apple, cache, cpu_setup, features, identity};
use oche_engine::host::{CpuAccess, Stage2 as _};
use oche_types::addr::{Gfn, Hfn};
use oche_types::range::{PAGE, PhysRange};

use crate::bare::board::Board;
use crate::bare::prepare::Prepared;
pub use crate::selftest_line::Verdict;

pub mod probe;
mod wide_words;

/// Rounds of a measurement.
const ROUNDS: u64 = 256;
/// Bytes of the largest block.
const GIBIBYTE: u64 = 1 << 30;
/// How long an interrupt may take, in milliseconds.
const INTERRUPT_MILLISECONDS: u64 = 100;
/// The fill pattern of pages.
const FIRST: u64 = 0x0c4e_0c4e_0c4e_0001;
const SECOND: u64 = 0x0c4e_0c4e_0c4e_0002;
const THIRD: u64 = 0x0c4e_0c4e_0c4e_0003;
/// `HCR_EL2.{VF, FMO}`: a virtual FIQ is pending, and FIQs are routed to EL2.
const VIRTUAL_FIQ: u64 = HCR_VF | HCR_FMO;
/// Bits of `HID4_EL1`, or `EHID4_EL1` on an E core: cache maintenance by address, and by set and
/// way, does nothing. Source: m1n1 `src/cpu_regs.h`.
const NO_CLEAN_BY_ADDRESS: u64 = 1 << 11;
const NO_CLEAN_BY_SET: u64 = 1 << 44;

/// Receives the lines of the block, without their ends.
pub type LineSink = fn(fmt::Arguments<'_>);

static SINK: Once<LineSink> = Once::new();

/// Has `sink` receive the lines instead of the console. Call once, before the first line.
pub fn set_sink(sink: LineSink) {
    SINK.set(sink);
}

/// Prints a line of the block.
pub fn print_line<'a>(
    name: &str,
    value: impl fmt::Display,
    unit: &str,
    verdict: impl Into<Verdict<'a>>,
) {
    let verdict = verdict.into();
    let line = format_args!("{name} {value} {unit} {verdict}");
    match SINK.get() {
        Some(sink) => sink(line),
        None => print(format_args!("{line}\n")),
    }
}

/// Ticks of the counter that `work` takes.
pub fn ticks(work: impl FnOnce()) -> u64 {
    let before = CNTPCT_EL0.get();
    compiler_fence(Ordering::SeqCst);
    work();
    compiler_fence(Ordering::SeqCst);
    CNTPCT_EL0.get().wrapping_sub(before)
}

/// Prints a duration of `rounds` rounds as that of one, in nanoseconds.
pub fn report_time(name: &str, all_ticks: u64, rounds: u64) {
    let frequency = CNTFRQ_EL0.get().max(1);
    let nanoseconds =
        u128::from(all_ticks) * 1_000_000_000 / u128::from(frequency) / u128::from(rounds.max(1));
    print_line(name, nanoseconds, "ns", Verdict::Figure);
}

impl Prepared {
    /// Begins the block with the lines of every board. Call it before the guest is loaded; [`end`]
    /// ends the block.
    pub fn selftest<B: Board>(&self, version: &str, stage2: &mut Stage2<Cpus>) {
        print(format_args!("```\n"));
        print_line("oche.version", version, B::NAME, Verdict::Figure);
        let own = identity::own();
        match own.build {
            Some(build) => print_line("oche.build", build, own.commit, Verdict::Figure),
            None => print_line("oche.build", "none", "-", Verdict::Figure),
        }
        let model = self.machine.tree().root().first_string("model");
        let model = model.and_then(|model| str::from_utf8(model).ok()).unwrap_or("unknown");
        print_line("machine.model", format_args!("\"{model}\""), "-", Verdict::Figure);
        print_line(
            "machine.memory",
            self.machine.ram.as_slice().iter().map(PhysRange::size).sum::<u64>() >> 20,
            "MiB",
            Verdict::Figure,
        );
        print_line("machine.cpus", self.machine.affinities().len(), "CPUs", Verdict::Figure);
        registers();
        apple_registers(self.layout.image);
        cpu_setup::configure();
        let kernel = self.layout.kernel;
        let pool = self.layout.pool;
        if kernel.size() < 4 * PAGE || pool.size() < PAGE {
            print_line("probe.room", kernel.size(), "bytes", Verdict::Skipped("no scratch memory"));
            return;
        }
        let scratch =
            Scratch { code: kernel.start, page: kernel.start + 2 * PAGE, other: pool.start };
        scratch.copies();
        probe::load(scratch.code);
        scratch.caches();
        scratch.hypervisor_calls();
        scratch.stage2_changes(stage2);
        large_block(self.layout.guest.as_slice(), self.layout.image.end);
        interrupts();
        fiq::hw::set_route(self.options.fiq);
        cpu_setup::reset_guest();
        cpu_setup::configure();
    }
}

/// Ends the block.
pub fn end() {
    print(format_args!("```\n"));
}

/// The identification registers, as far as Oche relies on them. Source: Arm ARM DDI 0487, by
/// register name.
fn registers() {
    let midr = MIDR_EL1.get();
    print_line(
        "cpu.midr",
        format_args!("{midr:#x}"),
        if apple::is_apple() { "apple" } else { "other" },
        Verdict::Figure,
    );
    let frequency = CNTFRQ_EL0.get();
    // The M1's is 24 MHz; any other value is only unexpected.
    let is_right =
        if apple::is_apple() { Verdict::from(frequency == 24_000_000) } else { Verdict::Figure };
    print_line("cpu.cntfrq", frequency, "Hz", is_right);
    let (mmfr0, mmfr1, mmfr2) =
        (ID_AA64MMFR0_EL1.get(), ID_AA64MMFR1_EL1.get(), ID_AA64MMFR2_EL1.get());
    print_line("cpu.vhe", id_field(mmfr1, 8), "ID_AA64MMFR1.VH", id_field(mmfr1, 8) != 0);
    print_line("cpu.e2h", HCR_EL2.get() >> 34 & 1, "HCR_EL2.E2H", HCR_EL2.get() >> 34 & 1 == 1);
    print_line("cpu.address-bits", id_field(mmfr0, 0), "ID_AA64MMFR0.PARange", Verdict::Figure);
    // TGran4_2 (43:40): 2 and more, or 0 and stage 1 has it (TGran4, 31:28, is 0 or 1).
    let stage2_4k =
        id_field(mmfr0, 40) >= 2 || id_field(mmfr0, 40) == 0 && id_field(mmfr0, 28) <= 1;
    print_line("cpu.stage2-4k", id_field(mmfr0, 40), "ID_AA64MMFR0.TGran4_2", stage2_4k);
    print_line(
        "cpu.fwb",
        id_field(mmfr2, 40),
        "ID_AA64MMFR2.FWB",
        if features::has_forced_write_back() { Verdict::Ok } else { Verdict::Figure },
    );
    print_line("cpu.bbm", id_field(mmfr2, 52), "ID_AA64MMFR2.BBM", Verdict::Figure);
    print_line("cpu.ctr", format_args!("{:#x}", CtrEl0.read()), "CTR_EL0", Verdict::Figure);
}

/// The lines of [`apple_registers`].
const APPLE_LINES: [&str; 5] = [
    "apple.hid4.no-clean-by-address",
    "apple.hid4.no-clean-by-set",
    "apple.vm-tmr-fiq-ena",
    "apple.ctrr",
    "apple.ctrr-control",
];

/// The lines for Apple's CPUs. `image` is Oche's own; the memory that CTRR protects must be below
/// it.
fn apple_registers(image: PhysRange) {
    let Some(found) = apple::read_registers() else {
        for name in APPLE_LINES {
            print_line(name, "-", "-", Verdict::Skipped("not Apple's CPU"));
        }
        return;
    };
    let bit = |mask: u64| u64::from(found.cache_control & mask != 0);
    print_line("apple.hid4.no-clean-by-address", bit(NO_CLEAN_BY_ADDRESS), "bit", Verdict::Figure);
    print_line("apple.hid4.no-clean-by-set", bit(NO_CLEAN_BY_SET), "bit", Verdict::Figure);
    print_line(
        "apple.vm-tmr-fiq-ena",
        format_args!("{:#x}", found.timer_fiq),
        "at-entry",
        Verdict::Figure,
    );
    print_line("apple.ctrr", found.ctrr, "CTRR_A_LWR..UPR", found.ctrr.end <= image.start);
    print_line(
        "apple.ctrr-control",
        format_args!("{:#x}", found.ctrr_control),
        "CTRR_CTL",
        Verdict::Figure,
    );
}

/// Memory that has no use yet.
#[derive(Clone, Copy, Debug)]
struct Scratch {
    /// Two pages of the guest's for the probe's code.
    code: u64,
    /// A page of the guest's.
    page: u64,
    /// A page of Oche's pool.
    other: u64,
}

impl Scratch {
    fn copies(self) {
        fill(self.page, FIRST);
        let took = ticks(|| (0..ROUNDS).for_each(|_| wide_words::copy(self.page, self.other)));
        report_time("memory.copy-4k", took, ROUNDS);
        let agree = wide_words::agree(self.page, self.other);
        print_line("memory.wide-words", PAGE, "bytes", agree);
    }

    /// Whether a CPU with its caches off sees the stores of one with caches on, with maintenance
    /// and without.
    fn caches(self) {
        fill(self.page, FIRST);
        cache::clean_and_invalidate(PhysRange { start: self.page, end: self.page + PAGE });
        let cleaned = probe::read(self.page);
        print_line(
            "cache.uncached-sees-cleaned",
            format_args!("{cleaned:#x}"),
            "word",
            cleaned == FIRST,
        );
        fill(self.page, SECOND);
        let plain = probe::read(self.page);
        let sees = if plain == SECOND { "sees" } else { "does-not-see" };
        print_line("cache.uncached-sees-stored", sees, "-", Verdict::Figure);
        cache::clean_and_invalidate(PhysRange { start: self.page, end: self.page + PAGE });
    }

    fn hypervisor_calls(self) {
        let took = probe::call(ROUNDS);
        report_time("hvc.round-trip", took, ROUNDS);
    }

    /// Moves a page elsewhere and back, with the whole sequence for all CPUs each time, and checks
    /// what EL1 reads.
    fn stage2_changes(self, stage2: &mut Stage2<Cpus>) {
        let (Some(page), Some(home), Some(other)) =
            (Gfn::containing(self.page), page_of(self.page), page_of(self.other))
        else {
            return print_line(
                "stage2.change",
                "-",
                "-",
                Verdict::Skipped("an address out of range"),
            );
        };
        fill(self.page, FIRST);
        fill(self.other, THIRD);
        for address in [self.page, self.other] {
            cache::clean_and_invalidate(PhysRange { start: address, end: address + PAGE });
        }
        if stage2.prepare(page).is_err() {
            return print_line("stage2.change", "-", "-", Verdict::Skipped("no memory for tables"));
        }
        let mut point = |at: Hfn| {
            stage2.break_page(page);
            stage2.flush_tlb();
            stage2.remap_page(page, at, CpuAccess::ReadWrite);
            stage2.publish();
        };
        point(other);
        let away = probe::read(self.page);
        point(home);
        let back = probe::read(self.page);
        let is_right = away == THIRD && back == FIRST;
        print_line(
            "stage2.page-away-and-home",
            format_args!("{away:#x},{back:#x}"),
            "words",
            is_right,
        );
        let took =
            ticks(|| (0..ROUNDS / 2).for_each(|_| [other, home].into_iter().for_each(&mut point)));
        report_time("stage2.change-all-cpus", took, ROUNDS);
    }
}

/// Whether EL1 reads through a stage-2 block of 1 GiB what EL2 reads, with an unused word of the
/// RAM `behind` the image, where there are blocks.
fn large_block(guest: &[PhysRange], behind: u64) {
    let whole = guest.iter().map(|range| range.shrunk_to(GIBIBYTE)).find(|range| !range.is_empty());
    let Some(start) = whole.map(|range| range.end - GIBIBYTE).filter(|start| *start >= behind)
    else {
        return print_line("stage2.block-1g", "-", "-", Verdict::Skipped("no such block in RAM"));
    };
    if !features::has_forced_write_back() {
        return print_line(
            "stage2.block-1g",
            "-",
            "-",
            Verdict::Skipped("EL1 without its MMU reads past the caches"),
        );
    }
    let here = words(start).first().map(|word| word.load(Ordering::Relaxed));
    let there = probe::read(start);
    print_line("stage2.block-1g", format_args!("{there:#x}"), "word", here == Some(there));
}

/// How interrupts reach EL1: injected with `HCR_EL2`, and from the guest's timers, both directly
/// and through EL2, whichever route was chosen.
fn interrupts() {
    let limit = CNTFRQ_EL0.get() / 1000 * INTERRUPT_MILLISECONDS;
    let plain = HCR_EL2.get();
    HCR_EL2.set(plain | VIRTUAL_FIQ);
    report_interrupt("fiq.injected", probe::interrupt(probe::Source::Pending, limit));
    HCR_EL2.set(plain);
    let has_fiqs = fiq::hw::has_fiqs();
    let sources = [
        ("virtual-timer", probe::Source::VirtualTimer),
        ("physical-timer", probe::Source::PhysicalTimer),
    ];
    for (way, route) in [("fiq", Route::Direct), ("fiq.by-el2", Route::Virtual)] {
        fiq::hw::set_route(route);
        for (timer, source) in sources {
            let name = alloc::format!("{way}.{timer}");
            if has_fiqs {
                cpu_setup::reset_guest();
                cpu_setup::configure();
                report_interrupt(&name, probe::interrupt(source, limit));
            } else {
                print_line(&name, "-", "-", Verdict::Skipped("timers raise no FIQs here"));
            }
        }
    }
}

fn report_interrupt(name: &str, seen: probe::Seen) {
    let what = match seen.vector {
        probe::FIQ => "fiq",
        probe::IRQ => "irq",
        probe::NONE => "nothing",
        probe::FIQ_AT_EL2 => "fiq-at-el2",
        probe::FIQ_STORM => "endless-fiq",
        _ => "exception",
    };
    print_line(
        name,
        format_args!("{what},{}", seen.ticks),
        "kind,ticks",
        seen.vector == probe::FIQ,
    );
}

fn page_of(address: u64) -> Option<Hfn> {
    u32::try_from(address >> 12).ok().map(Hfn)
}

/// Words of a page, through EL2's own map.
fn words(page: u64) -> &'static [core::sync::atomic::AtomicU64] {
    probe::words(page)
}

fn fill(page: u64, value: u64) {
    words(page).iter().for_each(|word| word.store(value, Ordering::Relaxed));
}
