//! The files that were packed with Oche, and their places in memory.

use oche_el2::image;
use oche_types::range::{PAGE, PhysRange};

use crate::bare::memory::{bytes, try_map_memory};
use crate::header::{self, HEADER_BYTES, Kernel, KernelError};
use crate::payload::{self, Item, MAX_HEADER_BYTES, PayloadError};

/// Why the files cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PackedError {
    /// The payload is refused.
    Payload(PayloadError),
    /// EL2 has no room to map them.
    CannotMap,
    /// There is no kernel.
    NoKernel,
    /// The kernel is refused.
    Kernel(KernelError),
}

impl PackedError {
    /// The reason in words, for one line on the console.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Payload(error) => error.reason(),
            Self::CannotMap => "EL2 cannot map the payload",
            Self::NoKernel => "the payload has no guest kernel",
            Self::Kernel(error) => error.reason(),
        }
    }
}

/// The files' places.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackedFiles {
    /// The options' text; empty if there is none.
    pub(super) options: PhysRange,
    /// The guest's initrd.
    pub(super) initrd: Option<PhysRange>,
    kernel: Option<PhysRange>,
}

impl PackedFiles {
    /// Reads the payload's header, which follows Oche's image, and maps the payload, of which
    /// `room` bytes at most are in memory. [`room`] is what firmware gave.
    ///
    /// # Errors
    ///
    /// [`PackedError::Payload`] or [`PackedError::CannotMap`].
    pub(super) fn find(room: u64) -> Result<Self, PackedError> {
        let start = image::range().end;
        // The packer wrote the length of the whole file into the header of Oche's image.
        let length = self::room().min(room);
        let header = PhysRange { start, end: start + room.min(MAX_HEADER_BYTES as u64) };
        // The rest of RAM is mapped later, when there is memory for its tables.
        let all = PhysRange { end: header.end.max(start + length), ..header }.grown_to(PAGE);
        try_map_memory(all).map_err(|_| PackedError::CannotMap)?;
        let payload = payload::parse(bytes(header), length).map_err(PackedError::Payload)?;
        let place = |item: Item| PhysRange {
            start: start + item.offset,
            end: start + item.offset + item.length,
        };
        Ok(Self {
            options: payload.options.map(place).unwrap_or_default(),
            kernel: payload.kernel.map(place),
            initrd: payload.initrd.map(place),
        })
    }

    /// The kernel's file, and the requirements in its header.
    ///
    /// # Errors
    ///
    /// [`PackedError::NoKernel`] or [`PackedError::Kernel`].
    pub(super) fn kernel(&self) -> Result<(PhysRange, Kernel), PackedError> {
        let file = self.kernel.ok_or(PackedError::NoKernel)?;
        let end = file.end.min(file.start + HEADER_BYTES as u64);
        let kernel = header::parse_kernel(bytes(PhysRange { end, ..file }), file.size());
        Ok((file, kernel.map_err(PackedError::Kernel)?))
    }
}

/// Bytes of memory behind Oche's own image that firmware gave for the payload.
pub(super) fn room() -> u64 {
    whole_image().end.saturating_sub(image::range().end)
}

/// The packed image in memory: Oche and its payload, by the header of Oche's own image.
pub(super) fn whole_image() -> PhysRange {
    let image = image::range();
    let at = (image.start + header::IMAGE_SIZE as u64) as *const u64;
    // SAFETY: in Oche's own text, which is mapped and never written.
    let size = unsafe { at.read_volatile() };
    PhysRange { start: image.start, end: image.start.saturating_add(size) }
}
