//! Run time of the kernels that tests boot: entry, exceptions, console, firmware calls, device
//! tree, and the report of cases.
//!
//! A guest implements `Guest` and passes its type to `guest!`. For each case it prints
//! `guest: NAME ok` or `guest: NAME FAILED: REASON`, and at the end `guest: N cases, M failed`.
//!
//! On a developer's machine only [`fdt`] is compiled; the rest is for
//! `aarch64-unknown-none-softfloat`.
#![cfg_attr(target_os = "none", no_std)]
// UNSAFETY: a kernel's entry, its registers and its memory are raw addresses and assembly.
#![cfg_attr(
    target_os = "none",
    expect(unsafe_code, reason = "a kernel's entry, registers and memory are raw")
)]

pub mod fdt;

#[cfg(target_os = "none")]
mod bare;

#[cfg(target_os = "none")]
pub use bare::*;

/// Makes a type that implements [`Guest`] the guest of this binary.
#[cfg(target_os = "none")]
#[macro_export]
macro_rules! guest {
    ($guest:ty) => {
        #[unsafe(no_mangle)]
        static GUEST_STAGE1: $crate::entry::Table =
            $crate::entry::Table::new(<$guest as $crate::Guest>::STAGE1);

        #[unsafe(no_mangle)]
        extern "C" fn guest_main(fdt: u64) -> ! {
            // SAFETY: the booting contract puts the address of an FDT into x0.
            let tree = unsafe { $crate::fdt::Tree::at(fdt) };
            <$guest as $crate::Guest>::main(tree)
        }

        #[unsafe(no_mangle)]
        extern "C" fn guest_secondary(number: u64) -> ! {
            <$guest as $crate::Guest>::secondary(number)
        }

        #[unsafe(no_mangle)]
        extern "C" fn guest_fiq() {
            <$guest as $crate::Guest>::fiq();
        }

        #[unsafe(no_mangle)]
        fn guest_unexpected(exception: $crate::exception::Exception) {
            <$guest as $crate::Guest>::unexpected(exception);
        }

        #[unsafe(no_mangle)]
        fn guest_print(text: core::fmt::Arguments<'_>) {
            <$guest as $crate::Guest>::print(text);
        }

        #[panic_handler]
        fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
            $crate::fail(info)
        }
    };
}
