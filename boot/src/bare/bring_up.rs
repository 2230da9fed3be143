//! The point at the end of each step of bring-up at which a test can have it fail.

use crate::bring_up::Step;

/// Notes that `step` has been carried out. In an image that tests build, it may fail here.
pub fn reached(step: Step) {
    #[cfg(feature = "fail-on-request")]
    on_request::obey(step);
    #[cfg(not(feature = "fail-on-request"))]
    let _ = step;
}

#[cfg(feature = "fail-on-request")]
mod on_request {
    use core::sync::atomic::{AtomicU32, Ordering};

    use oche_el2::failure::Failure;
    use oche_el2::firmware::fatal;

    use crate::bring_up::{Mode, NO_REQUEST, Step, request};

    /// What a test has written into the image.
    #[unsafe(no_mangle)]
    static OCHE_FAIL_AT: AtomicU32 = AtomicU32::new(NO_REQUEST);

    pub(super) fn obey(step: Step) {
        let asked = OCHE_FAIL_AT.load(Ordering::Relaxed);
        if asked == request(step, Mode::Fatal) {
            fatal(Failure::Payload, format_args!("requested after {step:?}"));
        }
        assert!(asked != request(step, Mode::Panic), "requested after {step:?}");
        if asked == request(step, Mode::Abort) {
            // SAFETY: none: stage 1 maps nothing there, and the exception that follows is the
            // purpose.
            unsafe { core::ptr::without_provenance::<u64>(0x7f_ffff_f000).read_volatile() };
        }
    }
}
