//! Register accesses on both sides, faults, suspend.

use super::transfer::Transfer;
use super::{Checked, ExpectedFault, Machine, name};
use crate::history::{ANY_CODE, Reach};
use crate::program::Mode;
use oche_reference::registers::{
    BUSY, CONFIG, ERROR, ERROR_ADDRESS_HIGH, ERROR_ADDRESS_LOW, ERROR_FLAG, LOCK, PARAMS1, PARAMS2,
    STREAM_COMMAND, STREAM_SELECT, STREAMS, STREAMS_ENABLE, TCR, TTBR, is_register_access,
};
use oche_reference::walk::code;
use oche_types::addr::PAGE_BYTES;
use oche_types::dart::stream::{DartId, StreamId};
use oche_types::event::Event;

impl<const C: bool> Machine<C> {
    /// Reads a register and compares.
    pub(super) fn read_register(&mut self, dart: usize, offset: u64) -> Checked<u32> {
        let (id, _) = name(dart, 0);
        let value = self.engine.read(&mut self.host, id, offset, 4);
        self.after_call()?;
        self.take_events()?;
        let value = value
            .map_err(|error| format!("a read of register {offset:#x} is refused: {error:?}"))?;
        let mask = match offset {
            // Only the fields that drivers look at are documented.
            PARAMS1 => 0x0f00_0000,
            PARAMS2 => 1,
            STREAM_COMMAND => 0,
            STREAM_SELECT | STREAMS_ENABLE => 0xffff,
            CONFIG => LOCK,
            ERROR | ERROR_ADDRESS_LOW | ERROR_ADDRESS_HIGH if self.odd_errors.contains(&dart) => 0,
            // While the flag is clear the rest means nothing.
            ERROR if self.history.darts[dart].read(ERROR) == Some(0) => ERROR_FLAG,
            _ => u32::MAX,
        };
        match self.history.darts[dart].read(offset) {
            Some(expected) if (value ^ expected) & mask != 0 => Err(format!(
                "register {offset:#x} of DART {dart} reads {value:#x}, not {expected:#x}"
            )),
            _ => Ok(value),
        }
    }

    /// Writes a register on both sides.
    pub(super) fn write_register(&mut self, dart: usize, offset: u64, value: u32) -> Checked {
        for roots in self.history.write_register(dart, offset, value) {
            self.views.note_roots(&self.history, roots);
        }
        self.look_at_tables()?;
        let (id, _) = name(dart, 0);
        let done = self.engine.write(&mut self.host, id, offset, 4, value);
        self.after_call()?;
        // A command's events are looked at when the flush is complete.
        if offset != STREAM_COMMAND {
            if self.setting.mode == Mode::Quiescent {
                // A stream that begins or ends may be more than one trap's work.
                self.wait(dart)?;
            }
            self.replay()?;
            self.take_events()?;
        }
        done.map_err(|error| format!("a write of register {offset:#x} is refused: {error:?}"))
    }

    /// Tables in pages that devices write: what their entries are is what a CPU finds there before
    /// they are compared.
    fn look_at_tables(&mut self) -> Checked {
        let pages = self.sharing.pages().into_iter().filter(|page| self.views.is_table(*page));
        for page in pages.collect::<Vec<_>>() {
            self.deliver_to(page, 0, PAGE_BYTES);
            self.look_at_all_of(page)?;
        }
        Ok(())
    }

    /// The engine has returned: nothing may be half done.
    pub(super) fn after_call(&mut self) -> Checked {
        self.host.check_settled();
        // Heard at once: devices may have been cut off in the middle of the call.
        self.is_blind |=
            self.host.events.iter().any(|event| matches!(event, Event::InvalidateTimedOut { .. }));
        match self.host.take_violation() {
            Some(violation) => Err(format!("broken contract: {violation}")),
            None => Ok(()),
        }
    }

    pub(super) fn read_back(&mut self, dart: usize, stream: usize) -> Checked {
        let common = [PARAMS1, PARAMS2, STREAM_SELECT, CONFIG, STREAMS_ENABLE];
        let own = (0..4)
            .map(|index| TTBR + 16 * stream as u64 + 4 * index)
            .chain([TCR + 4 * stream as u64]);
        for offset in common.into_iter().chain(own) {
            self.read_register(dart, offset)?;
        }
        Ok(())
    }

    /// What Linux's handler does.
    pub(super) fn handle_fault(&mut self, dart: usize) -> Checked {
        self.replay()?;
        let error = self.read_register(dart, ERROR)?;
        if error & ERROR_FLAG == 0 {
            return Ok(());
        }
        self.read_register(dart, ERROR_ADDRESS_LOW)?;
        self.read_register(dart, ERROR_ADDRESS_HIGH)?;
        self.write_register(dart, ERROR, error)?;
        self.odd_errors.remove(&dart);
        self.read_register(dart, ERROR).map(drop)
    }

    /// A device's access was refused: it must be reported to the guest.
    pub(super) fn expect_fault(&mut self, transfer: &Transfer) {
        let (is_write, &Transfer { dart, stream, iova, .. }) = (transfer.is_write(), transfer);
        let codes = self.codes(dart, stream, iova, is_write);
        self.faults.push_back(ExpectedFault { dart, stream, iova, is_write, codes });
    }

    /// With which codes an access can fault now.
    fn codes(&self, dart: usize, stream: usize, iova: u64, is_write: bool) -> u16 {
        let iova_page = (iova >> 12) as u32;
        if self.is_any_refused(dart, stream, iova_page) {
            return ANY_CODE;
        }
        let codes =
            self.history.reaches(dart, stream, iova_page).into_iter().map(|reach| match reach {
                Reach::Nothing(codes) => codes,
                Reach::Page(leaf) if is_write && !leaf.write => code::WRITE,
                Reach::Page(leaf) if !is_write && !leaf.read => code::READ,
                // Mapped since: no code is right any more, and this one is as good as any.
                Reach::Page(_) => code::NO_LEAF,
            });
        codes.fold(0, |all, one| all | one)
    }

    /// The engine reported a fault.
    pub(super) fn note_fault(
        &mut self,
        dart: DartId,
        stream: StreamId,
        iova: u64,
        found: u16,
        is_write: bool,
        is_hidden: bool,
    ) -> Checked {
        let (dart, stream) = (dart.index(), stream.index());
        let text = || {
            format!(
                "DART {dart} stream {stream} IOVA {iova:#x} (write: {is_write}) code {found:#x}"
            )
        };
        let first = self.faults.iter().position(|fault| fault.dart == dart);
        let Some(expected) = first.and_then(|first| self.faults.remove(first)) else {
            return Err(format!("a fault that did not happen is reported: {}", text()));
        };
        let is_it = (expected.dart, expected.stream, expected.iova, expected.is_write)
            == (dart, stream, iova, is_write);
        if !is_it {
            return Err(format!(
                "a fault is reported as {}; it was DART {} stream {} IOVA {:#x}",
                text(),
                expected.dart,
                expected.stream,
                expected.iova
            ));
        }
        // Tables may have changed since the access: what they hold by now is right as well.
        let codes = expected.codes | self.codes(dart, stream, iova, is_write);
        if found & codes == 0 || !found.is_power_of_two() {
            return Err(format!(
                "a fault has the wrong code: {}, one of {codes:#x} would be right",
                text()
            ));
        }
        if self.odd_errors.contains(&dart) {
            return Ok(());
        }
        let is_latched = self.history.darts[dart].latch(stream, found, iova);
        if is_latched == is_hidden {
            return Err(format!(
                "a fault is hidden ({is_hidden}) where the reference latches ({is_latched}): {}",
                text()
            ));
        }
        Ok(())
    }

    /// What Linux does to a DART on its way to sleep and back.
    pub(super) fn suspend(&mut self, dart: usize) -> Checked {
        if self.history.darts[dart].is_locked() {
            return Ok(());
        }
        let offsets: Vec<u64> = (0..STREAMS as u64)
            .map(|i| TCR + 4 * i)
            .chain((0..4 * STREAMS as u64).map(|i| TTBR + 4 * i))
            .collect();
        let mut saved = Vec::with_capacity(offsets.len());
        for &offset in &offsets {
            saved.push(self.read_register(dart, offset)?);
        }
        for &offset in &offsets {
            self.write_register(dart, offset, 0)?;
        }
        self.write_register(dart, STREAMS_ENABLE, 0xffff)?;
        self.flush(dart, u16::MAX)?;
        // The order of Linux's resume: tables first, then control.
        for (&offset, &value) in offsets.iter().zip(&saved).rev() {
            self.write_register(dart, offset, value)?;
        }
        // Linux makes none.
        if self.random.chance(1, 2) { self.flush(dart, u16::MAX) } else { Ok(()) }
    }

    pub(super) fn odd_access(
        &mut self,
        dart: usize,
        offset: u16,
        bytes: u8,
        is_write: bool,
    ) -> Checked {
        let (id, _) = name(dart, 0);
        let offset = u64::from(offset) % 0x5000;
        let is_odd = !is_register_access(offset, bytes.into());
        let is_known =
            self.history.darts[dart].read(offset).is_some() || (0x38..0x60).contains(&offset);
        if !is_odd && is_write && is_known {
            return Ok(());
        }
        let value = self.random.bits() as u32;
        let refused = if is_write {
            self.engine.write(&mut self.host, id, offset, bytes.into(), value).is_err()
        } else {
            self.engine.read(&mut self.host, id, offset, bytes.into()).is_err()
        };
        self.after_call()?;
        self.replay()?;
        self.take_events()?;
        if is_odd && !refused {
            return Err(format!("an access of {bytes} bytes at {offset:#x} is answered"));
        }
        Ok(())
    }

    pub(super) fn lock(&mut self, dart: usize) -> Checked {
        self.write_register(dart, CONFIG, LOCK)?;
        self.read_register(dart, CONFIG).map(drop)
    }

    /// Polls until the command is done.
    pub(super) fn wait(&mut self, dart: usize) -> Checked {
        for _ in 0..20_000 {
            if self.read_register_quietly(dart, STREAM_COMMAND)? & BUSY == 0 {
                return Ok(());
            }
        }
        Err(String::from("an invalidation never ends"))
    }

    fn read_register_quietly(&mut self, dart: usize, offset: u64) -> Checked<u32> {
        let (id, _) = name(dart, 0);
        let value = self.engine.read(&mut self.host, id, offset, 4);
        self.after_call()?;
        value.map_err(|error| format!("a read of register {offset:#x} is refused: {error:?}"))
    }
}
