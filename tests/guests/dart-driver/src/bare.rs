//! The cases, one after the other.
// UNSAFETY: registers and tables are raw addresses.
#![expect(unsafe_code, reason = "registers and tables are raw addresses")]

use core::arch::asm;

mod console;
mod cpus;
mod dart;
mod dead;
mod drivers;
mod fiq;
mod hazards;
mod memory;
mod nvme;
mod power;
mod registers;
mod start;
mod tree;

use console::print;
use tree::Tree;

/// How many cases there were and how many failed.
#[derive(Default)]
pub(crate) struct Tally {
    cases: u32,
    failed: u32,
}

impl Tally {
    /// Tells one case's result.
    pub(crate) fn case(&mut self, name: core::fmt::Arguments<'_>, result: Result<(), &str>) {
        self.cases += 1;
        match result {
            Ok(()) => print(format_args!("guest: {name} ok\n")),
            Err(reason) => {
                self.failed += 1;
                print(format_args!("guest: {name} FAILED: {reason}\n"));
            }
        }
    }
}

/// The first CPU, with its MMU on. `fdt` is what x0 held.
#[unsafe(no_mangle)]
extern "C" fn guest_main(fdt: u64) -> ! {
    print(format_args!("guest: hello\n"));
    let tree = Tree::at(fdt);
    if tree.says(b"guest=panic") {
        // An Oche that was built to panic does so on this call; any other refuses it.
        // SAFETY: a hypervisor call, which keeps memory.
        unsafe {
            asm!("hvc #0", inout("x0") 0x8600_f000_u64 => _, out("x1") _, out("x2") _, out("x3") _)
        };
    }
    let mut tally = Tally::default();
    tally.case(format_args!("it runs at EL1"), start::level_is_one());
    tally.case(format_args!("its timers are off"), start::timers_are_off());
    cpus::run(&mut tally, &tree, fiq::run);
    fiq::begin_background();
    memory::run(&mut tally, &tree);
    power::begin();
    drivers::run(&mut tally);
    if tree.says(b"guest=dead") {
        dead::run(&mut tally);
    } else {
        nvme::run(&mut tally);
    }
    hazards::run(&mut tally, &tree);
    power::run(&mut tally);
    fiq::end_background(&mut tally);
    // Whoever hears this says what exits there were; no firmware here turns anything off.
    // SAFETY: a call of PSCI's, SYSTEM_OFF, which keeps memory.
    unsafe {
        asm!("smc #0", inout("x0") 0x8400_0008_u64 => _, out("x1") _, out("x2") _, out("x3") _,
            clobber_abi("C"))
    };
    print(format_args!("guest: {} cases, {} failed\n", tally.cases, tally.failed));
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    // In one line, as it is read.
    print(format_args!("guest: itself FAILED: {}\n", info.message()));
    loop {
        core::hint::spin_loop();
    }
}
