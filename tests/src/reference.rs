//! The oracle: a 4K DART of the t8020 type, as plainly as it can be said.
//!
//! It is written from public facts, not from Oche's own code, so that both can be wrong only
//! independently. It knows nothing of 16K pages, frames, stage 2 or caches: a walk reads the tables as
//! they are at that moment.
//!
//! Sources, named at each item: Linux 6.1 `drivers/iommu/apple-dart.c` and `io-pgtable-dart.c`; m1n1
//! `proxyclient/m1n1/hw/dart8020.py`; the t8020 DART of the QEMU fork that models Apple machines.

pub mod memory;
pub mod registers;
pub mod walk;
