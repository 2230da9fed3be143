//! Memory for the normalized FDT: in the BSS, because RAM is known only once the FDT has been read.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::normalize::MAX_NORMALIZED_BYTES;

struct Buffer(UnsafeCell<[u8; MAX_NORMALIZED_BYTES]>);

// SAFETY: `take` hands out the only reference.
unsafe impl Sync for Buffer {}

static BUFFER: Buffer = Buffer(UnsafeCell::new([0; MAX_NORMALIZED_BYTES]));

/// The buffer, which can be taken once.
pub(super) fn take() -> &'static mut [u8] {
    static IS_TAKEN: AtomicBool = AtomicBool::new(false);
    assert!(!IS_TAKEN.swap(true, Ordering::Relaxed), "invariant: the FDT's buffer is taken once");
    // SAFETY: the flag above makes this the only reference, ever.
    unsafe { &mut *BUFFER.0.get() }
}
