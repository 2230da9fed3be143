//! The other CPUs: each is found in the FDT, released as Linux releases it, and says who it is.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::Tally;
use super::tree::Tree;
use super::{fiq, start};

/// Most CPUs.
const MOST: usize = 16;
/// Looks before a CPU counts as dead.
const PATIENCE: u32 = 200_000_000;

/// In place of an affinity: the CPU came at another exception level than a kernel's.
const NOT_AT_ONE: u64 = u64::MAX;

/// The affinity of each CPU that came, plus one; by the order of the FDT.
static CAME: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
/// Which CPU comes next: its number in the FDT.
pub(super) static NEXT: AtomicU64 = AtomicU64::new(0);

/// Calls `here` with the numbers of those that came, by their affinity.
pub(super) fn run(tally: &mut Tally, tree: &Tree, here: impl FnOnce(&mut Tally, &[usize])) {
    let mut count = 1;
    let mut others = [0; MOST];
    tree.cpus(|number, affinity, release| {
        if number == 0 || number >= MOST {
            return;
        }
        let came = is_outside_memory(tree, release).and_then(|()| {
            // Registers, and Oche's own memory.
            refuses(release, 0x1000)?;
            refuses(release, release & !0xfff)?;
            wake(number, affinity, release)
        });
        if came.is_ok()
            && let Some(other) = others.get_mut(count - 1)
        {
            *other = affinity as usize & 0xff;
        }
        count += 1;
        tally.case(format_args!("cpu {affinity:#x} comes"), came);
    });
    super::print(format_args!("guest: {count} CPUs\n"));
    here(tally, others.get(..count - 1).unwrap_or(&[]));
}

/// Whether nobody is given the memory in which a CPU looks for its word.
fn is_outside_memory(tree: &Tree, release: u64) -> Result<(), &'static str> {
    let mut is_memory = false;
    tree.memory(|start, bytes| is_memory |= (start..start + bytes).contains(&release));
    if is_memory { Err("its release address is memory") } else { Ok(()) }
}

/// Whether a CPU that is released at `place`, which is no memory of the guest's, stays and takes
/// the word back.
fn refuses(release: u64, place: u64) -> Result<(), &'static str> {
    // SAFETY: the word that the FDT names for this CPU.
    let word = unsafe { &*(release as *const AtomicU64) };
    word.store(place, Ordering::SeqCst);
    // SAFETY: cache maintenance and an event, as Linux does it.
    unsafe { asm!("dc civac, {}", "dsb sy", "sev", in(reg) release, options(nostack)) };
    for _ in 0..PATIENCE {
        if word.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        core::hint::spin_loop();
    }
    Err("it is released where no memory of the guest's is")
}

fn wake(number: usize, affinity: u64, release: u64) -> Result<(), &'static str> {
    if release == 0 {
        return Err("no release address");
    }
    let slot = CAME.get(number).ok_or("too many CPUs")?;
    NEXT.store(number as u64, Ordering::SeqCst);
    // The other CPU reads it with its caches off.
    // SAFETY: keeps data.
    unsafe { asm!("dc civac, {}", "dsb sy", in(reg) &raw const NEXT, options(nostack)) };
    // SAFETY: the word that the FDT names for this CPU.
    unsafe { &*(release as *const AtomicU64) }.store(start::secondary_entry(), Ordering::SeqCst);
    // SAFETY: cache maintenance and an event, as Linux does it.
    unsafe { asm!("dc civac, {}", "dsb sy", "sev", in(reg) release, options(nostack)) };
    for _ in 0..PATIENCE {
        match slot.load(Ordering::SeqCst) {
            0 => core::hint::spin_loop(),
            who if who == affinity + 1 => return Ok(()),
            NOT_AT_ONE => return Err("it came, but not at EL1"),
            _ => return Err("another CPU came"),
        }
    }
    Err("it did not come")
}

/// Another CPU, with its MMU on.
#[unsafe(no_mangle)]
extern "C" fn guest_secondary(number: u64) -> ! {
    let affinity: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) affinity, options(nomem, nostack)) };
    let who =
        if start::level_is_one().is_ok() { (affinity & 0xff_00ff_ffff) + 1 } else { NOT_AT_ONE };
    if let Some(slot) = CAME.get(number as usize) {
        slot.store(who, Ordering::SeqCst);
    }
    fiq::idle()
}
