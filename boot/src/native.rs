//! The places of a native start: the packed kernel where firmware would have put it, in Oche's
//! place.

use oche_types::range::{PAGE, PhysRange};

use crate::header::Kernel;

/// The places of a native start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NativePlan {
    /// The kernel's file, where it was packed.
    pub file: PhysRange,
    /// The kernel's memory, BSS included.
    pub kernel: PhysRange,
    /// A page beside both, for the code that copies the kernel.
    pub trampoline: PhysRange,
}

/// Why a kernel cannot be started natively.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NativeError {
    /// It needs more memory than the packed image has, which is all that firmware gave.
    TooLarge,
    /// Its file is not where `oche pack` puts it.
    Misplaced,
}

impl NativeError {
    /// The reason in words, for one line on the console.
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => "it needs more memory than the packed image has",
            Self::Misplaced => "its file has no page of the packed image behind it",
        }
    }
}

impl NativePlan {
    /// Plans the start of `kernel`, whose `file` is in the packed image at `image`, a multiple of
    /// 2 MiB. Firmware gave the image as much memory as its header asks for, and reads no
    /// `text_offset` (m1n1 `src/payload.c`), so the kernel begins where Oche begins. The packer
    /// leaves the last page for the trampoline.
    ///
    /// # Errors
    ///
    /// A [`NativeError`].
    pub fn new(image: PhysRange, file: PhysRange, kernel: Kernel) -> Result<Self, NativeError> {
        let end = image.end & !(PAGE - 1);
        let start = end.checked_sub(PAGE).ok_or(NativeError::Misplaced)?;
        let trampoline = PhysRange { start, end };
        // The copy ascends: it overwrites no byte of the file that it has not read.
        let is_right = file.start.is_multiple_of(PAGE)
            && file.start > image.start
            && !file.is_empty()
            && file.end <= start;
        if !is_right {
            return Err(NativeError::Misplaced);
        }
        let kernel = PhysRange::sized(image.start, kernel.image_size)
            .filter(|kernel| kernel.size() >= file.size() && kernel.end <= start)
            .ok_or(NativeError::TooLarge)?;
        Ok(Self { file, kernel, trampoline })
    }
}

#[cfg(test)]
mod tests {
    use super::{NativeError, NativePlan};
    use crate::header::Kernel;
    use oche_types::range::PhysRange;

    const IMAGE: PhysRange = PhysRange { start: 0x20_0000, end: 0x40_0000 };

    fn plan(start: u64, end: u64, image_size: u64) -> Result<NativePlan, NativeError> {
        NativePlan::new(IMAGE, PhysRange { start, end }, Kernel { text_offset: 0x8000, image_size })
    }

    #[test]
    fn the_kernel_takes_oches_place_and_the_last_page_copies_it() {
        let found = plan(0x30_1000, 0x3f_f000, 0x1f_f000).expect("it fits");
        assert_eq!(found.kernel, PhysRange { start: 0x20_0000, end: 0x3f_f000 });
        assert_eq!(found.trampoline, PhysRange { start: 0x3f_f000, end: 0x40_0000 });
    }

    #[test]
    fn neither_the_kernel_nor_its_file_reaches_the_trampoline() {
        assert_eq!(plan(0x30_1000, 0x3f_f000, 0x1f_f001), Err(NativeError::TooLarge));
        assert_eq!(plan(0x30_1000, 0x3f_f001, 0x1f_0000), Err(NativeError::Misplaced));
        assert_eq!(plan(0x20_0000, 0x30_0000, 0x1f_0000), Err(NativeError::Misplaced));
        assert_eq!(plan(0x30_0800, 0x30_1000, 0x1f_0000), Err(NativeError::Misplaced));
        assert_eq!(plan(0x30_1000, 0x3f_0000, 0x1000), Err(NativeError::TooLarge), "no header");
        assert_eq!(plan(0x30_1000, 0x30_2000, u64::MAX), Err(NativeError::TooLarge));
    }
}
