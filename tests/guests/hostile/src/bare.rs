//! The cases, one after the other.
// UNSAFETY: this guest exists to touch what it should not; every access goes to a fault handler
// that goes on.
#![expect(unsafe_code, reason = "wild accesses are the purpose")]

mod access;
mod aliases;
mod attacks;
mod calls;
mod console;
mod debug;
mod edu;
mod exception;
mod firmware;
mod forms;
mod guarded;
mod idle;
mod mapping;
mod motion;
mod races;
mod random;
mod start;
mod storm;
mod tree;
mod unprivileged;
mod user;
mod window;

use core::sync::atomic::{AtomicU64, Ordering};

use console::print;
use tree::Tree;

/// Pages of memory for a purpose of their own, shared by whoever knows them.
#[repr(C, align(4096))]
pub(crate) struct Pages<const COUNT: usize>([[AtomicU64; 512]; COUNT]);

impl<const COUNT: usize> Pages<COUNT> {
    pub(crate) const fn new() -> Self {
        Self([const { [const { AtomicU64::new(0) }; 512] }; COUNT])
    }

    pub(crate) fn address(&self) -> u64 {
        (&raw const self.0) as u64
    }

    pub(crate) fn words(&self) -> usize {
        COUNT * 512
    }

    pub(crate) fn word(&self, index: usize) -> u64 {
        self.0.as_flattened()[index].load(Ordering::SeqCst)
    }

    pub(crate) fn set_word(&self, index: usize, value: u64) {
        self.0.as_flattened()[index].store(value, Ordering::SeqCst);
    }
}

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
    for (word, function) in [("hostile=panic", 0), ("hostile=fault", 1), ("hostile=overflow", 2)] {
        if tree.contains(word) {
            print(format_args!("guest: asks for it\n"));
            access::leave_a_trace();
            firmware::hypervisor_call([0x8600_f000 + function, 0, 0, 0]);
            print(format_args!("guest: Oche did not panic\n"));
            firmware::power_off();
        }
    }
    let holes = tree.holes();
    if tree.contains("hostile=idle") {
        idle::run(&holes);
    }
    if let Some(seed) = tree.number("random.seed=") {
        random::run(seed, tree.number("random.ops=").unwrap_or(0));
    }
    let mut tally = Tally::default();
    access::run(&mut tally, &holes);
    calls::run(&mut tally, &holes);
    guarded::run(&mut tally);
    aliases::run(&mut tally);
    motion::run(&mut tally);
    unprivileged::run(&mut tally);
    races::run(&mut tally);
    debug::run(&mut tally);
    unprivileged::livelocks(&mut tally);
    attacks::run(&mut tally, &holes);
    storm::run(&mut tally);
    print(format_args!("guest: {} cases, {} failed\n", tally.cases, tally.failed));
    firmware::power_off()
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    print(format_args!("guest: itself FAILED: {info}\n"));
    firmware::power_off()
}
