//! An executable specification of a t8020 DART with 4 KiB pages: what a guest that drives it, and a
//! device behind it, must observe. Oche's engine is compared with it. It does not depend on Oche.
//!
//! It is written from public facts, not from Oche's own code, so that both can be wrong only
//! independently. It knows nothing of 16K pages, frames, stage 2 or caches: a walk reads the tables
//! as they are at that moment, so it is exact from the completion of an invalidation to the guest's
//! next change of its tables, and says nothing of the time between.
//!
//! | Item | Where | Source |
//! |---|---|---|
//! | registers, their offsets and bits, what each reads back | [`registers`] | Linux 6.1 `drivers/iommu/apple-dart.c`, `DART_*` |
//! | width and alignment of an access | [`registers::is_register_access`] | every driver accesses 32 bits: Linux, U-Boot, the BSDs |
//! | streams that may do DMA, streams that translate | [`registers::Dart::translate`] | Linux, `DART_STREAMS_ENABLE`, `DART_TCR_TRANSLATE_ENABLE` |
//! | four tables a stream, 1 GiB each; two levels; entries | [`walk`] | Linux 6.1 `drivers/iommu/io-pgtable-dart.c` |
//! | permissions | [`walk::decode_leaf`] | Linux, `APPLE_DART1_PTE_PROT_NO_READ`, `_NO_WRITE` |
//! | faults: code, stream, address; the first stays until it is written back | [`registers::Dart::latch`], [`walk::code`] | Linux, `apple_dart_t8020_irq_handler`; m1n1 `proxyclient/m1n1/hw/dart8020.py`, `R_ERROR` |
//! | the lock | [`registers::Dart::is_locked`] | Linux, `DART_CONFIG_LOCK`; m1n1 `src/dart.c` |
//!
//! # Where no source says what hardware does
//! - A second fault while one is latched: here it is not shown. The model of the QEMU fork for
//!   Apple machines merges the codes.
//! - A leaf's sub-page window in a DART with 4 KiB pages: a leaf whose window excludes a part of
//!   its page is marked as such ([`walk::Leaf::is_narrowed`]), and the comparison decides.
//! - A first-level entry or a TTBR that names no memory: the walk ends as if there were nothing.
//! - `ERROR_ADDRESS` while no fault is latched, and registers that no driver touches: unknown.
//!
//! # Example
//! ```
//! use oche_reference::memory::{GuestMemory, Page};
//! use oche_reference::registers::{Dart, STREAMS_ENABLE, TCR, TCR_TRANSLATE, TTBR};
//! use oche_reference::walk::{code, encode_leaf, encode_table};
//!
//! let mut memory = GuestMemory::new(&[(Page(0x100), 3)]);
//! memory.set_word(Page(0x100), 0, encode_table(Page(0x101)));
//! memory.set_word(Page(0x101), 7, encode_leaf(Page(0x102), true, false));
//! let mut dart = Dart::default();
//! dart.write(STREAMS_ENABLE, 0xffff);
//! dart.write(TTBR, 1 << 31 | 0x100);
//! dart.write(TCR, TCR_TRANSLATE);
//! assert_eq!(dart.translate(&memory, 0, 0x7123, false), Ok(Page(0x102)));
//! assert_eq!(dart.translate(&memory, 0, 0x7123, true), Err(code::WRITE));
//! assert_eq!(dart.translate(&memory, 0, 0x8000, false), Err(code::NO_LEAF));
//! ```
#![forbid(unsafe_code)]

pub mod memory;
pub mod registers;
pub mod walk;
