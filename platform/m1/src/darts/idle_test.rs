//! The self-test's measurements of an idle DART, on a stream that no device uses.

use oche_types::dart::stream::{StreamId, StreamSet};

use super::handle::DartHandle;
use super::hardware::{BusError, Hardware};
use super::recovery::IDLE_STREAM;
use super::registers::{PARAMS1, PARAMS2, STREAM_SELECT, TCR, TTBR, tcr, ttbr};

/// Invalidations that a test makes.
pub const ROUNDS: u64 = 8;
/// Bits of the page number that an M1's tables need: 36 bits of address, less 12.
const M1_PAGE_BITS: u32 = 24;

/// What an idle DART answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleTest {
    /// Logarithm to base two of the page size in bytes, from `PARAMS1`.
    pub page_shift: u32,
    /// Whether `PARAMS2` offers bypass.
    pub has_bypass: bool,
    /// Bits of a TTBR's page number that keep what is written.
    pub ttbr_page: u32,
    /// A TCR in which only translation was turned on, as it reads back.
    pub tcr: u32,
    /// Whether that TCR turns translation on, and bypass off.
    pub is_translating: bool,
    /// Ticks of [`ROUNDS`] invalidations, or `None` if one did not complete in time.
    pub invalidations: Option<u64>,
}

impl IdleTest {
    /// Whether a TTBR can name every page of an M1.
    pub fn holds_every_page(&self) -> bool {
        self.ttbr_page.trailing_ones() >= M1_PAGE_BITS
    }
}

impl<H: Hardware> DartHandle<'_, H> {
    /// Tests a DART that is on and that nothing uses; `None` if the stream of the test is in use
    /// or the DART stops answering. All registers are as they were afterwards.
    pub(super) fn test_stream(&mut self) -> Option<IdleTest> {
        let stream = StreamId::new(IDLE_STREAM)?;
        let control = tcr(stream).read(self.hardware, self.id).ok()?;
        if control.get() == 0 { self.measure(stream).ok() } else { None }
    }

    fn measure(&mut self, stream: StreamId) -> Result<IdleTest, BusError> {
        let selected = STREAM_SELECT.read(self.hardware, self.id)?;
        let ttbr_page = self.test_ttbr(stream)?;
        // No table: an access from this stream would fault.
        tcr(stream).write(self.hardware, self.id, TCR::TRANSLATE::SET)?;
        let control = tcr(stream).read(self.hardware, self.id)?;
        tcr(stream).write(self.hardware, self.id, TCR::TRANSLATE::CLEAR)?;
        let invalidations = self.time_invalidations(stream);
        STREAM_SELECT.write_back(self.hardware, self.id, selected)?;
        Ok(IdleTest {
            page_shift: PARAMS1.read(self.hardware, self.id)?.read(PARAMS1::PAGE_SHIFT),
            has_bypass: PARAMS2.read(self.hardware, self.id)?.is_set(PARAMS2::BYPASS),
            ttbr_page,
            tcr: control.get(),
            is_translating: control.is_set(TCR::TRANSLATE) && !control.is_set(TCR::BYPASS),
            invalidations,
        })
    }

    /// The page number that reads back when all of its bits are written without the valid bit.
    fn test_ttbr(&mut self, stream: StreamId) -> Result<u32, BusError> {
        let register = ttbr(stream, 0);
        let before = register.read(self.hardware, self.id)?;
        register.write(self.hardware, self.id, TTBR::PAGE.val(u32::MAX))?;
        let after = register.read(self.hardware, self.id)?;
        register.write_back(self.hardware, self.id, before)?;
        Ok(after.read(TTBR::PAGE))
    }

    fn time_invalidations(&mut self, stream: StreamId) -> Option<u64> {
        let mut streams = StreamSet::default();
        streams.insert(stream);
        let start = self.hardware.ticks();
        let has_completed = (0..ROUNDS).all(|_| self.flush(streams).is_ok());
        has_completed.then_some(self.hardware.ticks().wrapping_sub(start))
    }
}
