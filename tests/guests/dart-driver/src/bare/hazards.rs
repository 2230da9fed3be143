//! What DARTs do wrong, and accesses to them that are described by no syndrome.

use core::arch::asm;

use super::Tally;
use super::dart::{Dart, fill, is_filled, page};
use super::drivers::{Check, IOVA, READ_WRITE, attach, check, linux, set, tables};
use super::tree::Tree;
use super::{fiq, power, start};

const PCIE_0: Dart = Dart { base: 0x6_8100_8000, number: 0 };
const SIO: Dart = Dart { base: 0x2_3500_4000, number: 4 };

pub(super) fn run(tally: &mut Tally, tree: &Tree) {
    tally.case(format_args!("registers by write-back, pair and vector register"), forms(PCIE_0));
    tally.case(format_args!("an error in the middle of a flush"), error_in_flush(PCIE_0));
    tally.case(format_args!("ticks between steps in a trapped page"), fiq::stepped(PCIE_0));
    if tree.says(b"guest=left") {
        tally.case(format_args!("a DART that is left alone answers itself"), left(SIO));
    }
    if tree.says(b"guest=power") {
        super::nvme::quiet_table(tally);
        tally.case(format_args!("a DART that has no power, and gets it"), powered(SIO));
    }
    if tree.says(b"guest=stuck") {
        tally.case(format_args!("a DART that ends no command any more"), stuck(SIO));
        tally.case(format_args!("another one, after that"), linux(PCIE_0));
    }
}

/// What a compiler makes of a loop over registers.
fn forms(dart: Dart) -> Check {
    dart.reset()?;
    let at = dart.base + 0x210;
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
    // SAFETY: the same registers; the vector registers are nobody's.
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
    // SAFETY: a store that no register takes; the exception is expected.
    let refused = start::faults(|| unsafe {
        asm!("stp xzr, xzr, [{at}]", at = in(reg) at, options(nostack))
    });
    check(refused && dart.read(0x210) == 0x8123_4567, "64 bits at once are not refused")?;
    dart.reset()
}

/// The device behind a DART is refused while the DART is busy with an invalidation: the guest reads
/// that very fault.
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
    check(dart.read(0x40) == 1 << 31 | 1 << 24 | 1 << 2, "another error, or none")?;
    check(u64::from(dart.read(0x50)) == IOVA + 0x123 * 4 && dart.read(0x54) == 0, "another IOVA")?;
    dart.write(0x40, dart.read(0x40));
    check(dart.read(0x40) == 0, "the error stays")?;
    check(is_filled(own, 1, 2048), "the page at home")
}

/// Who asks for the page size is given the hardware's, and no bypass from then on: with pages of 4
/// KiB Linux would turn it on. Everything stays as firmware had it.
fn left(dart: Dart) -> Check {
    let registers = || [dart.read(0x60), dart.read(0x100), dart.read(0x200)];
    let before = registers();
    check(
        dart.read(4) & 1 == 1,
        "what the hardware says of bypass is hidden from who asks for nothing else",
    )?;
    check(dart.read(0) >> 24 & 0xf == 14, "it is not the hardware that answers")?;
    let is_locked = dart.read(0x60) & 1 << 15 != 0;
    check(
        is_locked || dart.read(4) & 1 == 0,
        "bypass is offered with pages larger than the kernel's",
    )?;
    check(registers() == before, "it is not as it was")
}

/// Off while Oche boots: whoever touches it gets an abort, until the domain is on.
fn powered(dart: Dart) -> Check {
    check(start::faults(|| _ = dart.read(0)), "a DART without power answers")?;
    check(start::faults(|| dart.write(0x60, 0)), "a DART without power takes a store")?;
    power::SIO_CPU.set(power::ACTIVE)?;
    linux(dart)
}

/// The wait for the hardware is bounded, and so is the guest's.
fn stuck(dart: Dart) -> Check {
    linux(dart)?;
    // Not the tables that another DART uses as well: who shares them would be stuck too.
    let (root, leaves) = tables(2);
    set(leaves, IOVA, page(33) | READ_WRITE);
    attach(dart, 1, root);
    dart.flush(2)?;
    dart.end_no_command_any_more()?;
    set(leaves, IOVA, 0);
    dart.flush(2)?;
    dart.flush(2)
}
