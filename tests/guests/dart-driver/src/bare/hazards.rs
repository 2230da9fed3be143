//! DARTs that fail, and ISV=0 accesses to their registers.

use core::arch::asm;

use oche_guest_common::exception::attempt;
use oche_guest_common::fdt::Tree;
use oche_guest_common::{CaseReport, Check, check};

use super::arena::{fill, is_filled, page};
use super::board::{PCIE_0, SIO};
use super::dart::{CONFIG, Dart, ERROR, ERROR_IOVA, ERROR_IOVA_HIGH, PARAMS2, tcr, ttbr};
use super::drivers::{linux, page_shift};
use super::tables::{IOVA, READ_WRITE, attach, set, tables};
use super::{fiq, nvme, power};

pub(super) fn run(report: &mut CaseReport, tree: &Tree) {
    report.case(format_args!("registers by write-back, pair and vector register"), forms(PCIE_0));
    report.case(format_args!("an error in the middle of a flush"), error_in_flush(PCIE_0));
    report.case(format_args!("ticks between steps in a trapped page"), fiq::stepped(PCIE_0));
    if tree.has_option("guest=left") {
        report.case(format_args!("a DART that is left alone answers itself"), left(SIO));
    }
    if tree.has_option("guest=power") {
        nvme::quiet_table(report);
        report.case(format_args!("a DART that has no power, and gets it"), powered(SIO));
    }
    if tree.has_option("guest=stuck") {
        report.case(format_args!("a DART that ends no command any more"), stuck(SIO));
        report.case(format_args!("another one, after that"), linux(PCIE_0));
    }
}

/// What a compiler may make of a loop over registers.
fn forms(dart: Dart) -> Check {
    dart.reset()?;
    let at = dart.registers.base + ttbr(1, 0);
    let after: u64;
    // SAFETY: four TTBRs of a stream that does not translate.
    unsafe {
        asm!("str {value:w}, [{at}], #4", "stp {value:w}, wzr, [{at}], #8", "str {value:w}, [{at}]",
            at = inout(reg) at => after, value = in(reg) 0x8123_4567_u64, options(nostack))
    };
    check(after == at + 12, "write-back")?;
    let read = [0, 4, 8, 12].map(|offset| dart.read(0x210 + offset));
    check(read == [0x8123_4567, 0x8123_4567, 0, 0x8123_4567], "stores by write-back and pair")?;
    let (first, second): (u64, u64);
    // SAFETY: the same registers, read.
    unsafe {
        asm!("ldp {first:w}, {second:w}, [{at}, #4]!", at = inout(reg) at => _, first = out(reg) first,
            second = out(reg) second, options(nostack))
    };
    check((first, second) == (0x8123_4567, 0), "loads by pair")?;
    let (read, upper): (u64, u64);
    // SAFETY: the same registers; nothing uses the vector registers.
    unsafe {
        asm!(".arch_extension fp", "fmov d7, {ones}", "fmov s5, {value:w}", "str s5, [{at}, #8]", "ldr s7, [{at}, #8]",
            "fmov {read:w}, s7", "fmov {upper}, d7", ".arch_extension nofp", at = in(reg) at, value = in(reg) 0x8765_4321_u64,
            ones = in(reg) u64::MAX,
            read = out(reg) read, upper = out(reg) upper, options(nostack))
    };
    check(
        read == 0x8765_4321 && upper >> 32 == 0 && dart.read(0x218) == 0x8765_4321,
        "a vector register",
    )?;
    // SAFETY: a store of a width that no register has; the exception is expected.
    let refused =
        attempt(|| unsafe { asm!("stp xzr, xzr, [{at}]", at = in(reg) at, options(nostack)) });
    check(refused.is_some() && dart.read(0x210) == 0x8123_4567, "64 bits at once are not refused")?;
    dart.reset()
}

/// An access of the device faults while its DART is busy with an invalidation: the guest reads that
/// fault.
fn error_in_flush(dart: Dart) -> Check {
    let (root, leaves) = tables(0);
    dart.reset()?;
    let own = page(33);
    fill(own, 1);
    set(leaves, IOVA, own | READ_WRITE);
    attach(dart, 1, root);
    dart.flush(2)?;
    check(dart.copy(1, IOVA, IOVA + 0x800, 64)?, "a mapped page is refused")?;
    set(leaves, IOVA, 0);
    dart.read_in_next_flush(1, IOVA + 0x123 * 4)?;
    dart.flush(2)?;
    check(dart.read(ERROR) == 1 << 31 | 1 << 24 | 1 << 2, "another error, or none")?;
    let at = u64::from(dart.read(ERROR_IOVA_HIGH)) << 32 | u64::from(dart.read(ERROR_IOVA));
    check(at == IOVA + 0x123 * 4, "another IOVA")?;
    dart.clear_error();
    check(dart.read(ERROR) == 0, "the error stays")?;
    check(is_filled(own, 1, 2048), "the page at home")
}

/// A DART that Oche passes through: a guest that reads the page size gets the hardware's, and from
/// then on reads no bypass support, because a Linux with 4 KiB pages would enable bypass. The other
/// registers stay as firmware left them.
fn left(dart: Dart) -> Check {
    let registers = || [dart.read(CONFIG), dart.read(tcr(0)), dart.read(ttbr(0, 0))];
    let before = registers();
    check(
        dart.read(PARAMS2) & 1 == 1,
        "the hardware's bypass support is hidden before the page size is read",
    )?;
    check(page_shift(dart) == 14, "it is not the hardware that answers")?;
    let is_locked = dart.read(CONFIG) & 1 << 15 != 0;
    check(
        is_locked || dart.read(PARAMS2) & 1 == 0,
        "bypass is offered with pages larger than the kernel's",
    )?;
    check(registers() == before, "a register has changed")
}

/// Off while Oche boots: accesses abort until the domain is on.
fn powered(dart: Dart) -> Check {
    check(attempt(|| _ = dart.read(0)).is_some(), "a DART without power answers")?;
    check(attempt(|| dart.write(CONFIG, 0)).is_some(), "a DART without power takes a store")?;
    power::SIO_CPU.set(power::ACTIVE)?;
    linux(dart)
}

/// Oche's wait for the hardware is bounded, and so is the guest's.
fn stuck(dart: Dart) -> Check {
    linux(dart)?;
    // Not tables that another DART shares, which would be stuck too.
    let (root, leaves) = tables(2);
    set(leaves, IOVA, page(33) | READ_WRITE);
    attach(dart, 1, root);
    dart.flush(2)?;
    dart.hang_commands()?;
    set(leaves, IOVA, 0);
    dart.flush(2)?;
    dart.flush(2)
}
