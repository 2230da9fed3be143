//! A strict 16K DART on the simulated board, with a TLB that forgets nothing by itself and a DMA
//! engine behind it.
//!
//! What hardware does not allow is a violation and fails the run: an access to a DART that does
//! not answer, a store to a locked one's tables, a command while it is busy. Source of registers
//! and tables: `docs/hardware/dart.md`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use oche_types::dart::registers::{
    CONFIG, ERROR, ERROR_ADDRESS_HIGH, ERROR_ADDRESS_LOW, PARAMS1, PARAMS2, STREAM_COMMAND,
    STREAM_SELECT, TCR, TTBR,
};

use super::flaw::Flaw;
use super::memory::BoardMemory;
use super::power::Supply;

/// Bytes of registers that are modelled.
const FILE_BYTES: u64 = 0x300;
const CONFIG_LOCK: u32 = 1 << 15;
const INVALIDATE: u32 = 1 << 20;
const BUSY: u32 = 1 << 2;
/// How long an invalidation takes: long enough that a driver that does not wait is detected.
const INVALIDATION: Duration = Duration::from_millis(20);
/// Bytes of a DMA engine's registers.
pub const ENGINE_BYTES: u64 = 0x1000;
/// The address of the first DMA engine's registers, where an M1 has no device.
pub const ENGINES: u64 = 0x2_1000_0000;

/// The address of the registers of the DMA engine behind DART `number`.
#[must_use]
pub fn engine_of(number: u64) -> u64 {
    ENGINES + number * ENGINE_BYTES
}

/// The state in which a DART is found at boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DartSetting {
    /// On, nothing translates.
    Idle,
    /// iBoot's: locked, and translating.
    Locked,
    /// Locked, and nothing translates.
    Frozen,
    /// Translating for firmware, not locked.
    Live,
    /// Its power domain is off.
    Off,
    /// A command never ends.
    Stuck,
    /// Left in bypass.
    Bypass,
    /// Nothing translates, and it cannot bypass.
    NoBypass,
}

/// One DART.
#[derive(Debug)]
pub struct SimulatedDart {
    /// Its registers' address.
    pub base: u64,
    setting: DartSetting,
    supply: Supply,
    number: u64,
    /// The bits of a TCR and of a TTBR that keep what is written.
    kept_bits: (u32, u32),
    shadow: Vec<u32>,
    /// Cached leaf entries by stream and granule; 0 where there was none.
    cache: HashMap<(u32, u64), u64>,
    busy: Option<(Instant, u32)>,
    /// The access that the device makes in the next invalidation: stream and IOVA.
    armed: Option<(u32, u64)>,
    /// Accesses that hardware does not allow.
    pub violations: Vec<String>,
    /// Invalidations that were carried out.
    pub invalidations: u64,
    /// Bytes that the device behind it wrote.
    pub copied_bytes: u64,
    /// Accesses that it refused.
    pub refusals: u64,
}

impl SimulatedDart {
    /// Puts the registers of DART `number` at `base` into the board's memory.
    #[must_use]
    pub fn new(memory: &BoardMemory, number: u64, base: u64, setting: DartSetting) -> Self {
        let mut dart = Self {
            base,
            setting,
            supply: Supply::On,
            number,
            kept_bits: Flaw::kept_bits(None),
            shadow: vec![0; FILE_BYTES as usize / 4],
            cache: HashMap::new(),
            busy: None,
            armed: None,
            violations: Vec::new(),
            invalidations: 0,
            copied_bytes: 0,
            refusals: 0,
        };
        dart.reset(memory);
        match setting {
            DartSetting::Locked | DartSetting::Frozen => dart.set(memory, CONFIG, CONFIG_LOCK),
            DartSetting::Bypass => dart.set(memory, TCR, 0x1100),
            DartSetting::Off => dart.supply(memory, Supply::Off),
            _ => {}
        }
        if matches!(setting, DartSetting::Locked | DartSetting::Live) {
            dart.set(memory, TCR, 0x80);
            dart.set(memory, TTBR, 0x8080_1234);
        }
        dart
    }

    /// The same DART with a flaw of the board.
    #[must_use]
    pub fn with_flaw(self, flaw: Option<Flaw>) -> Self {
        Self { kept_bits: Flaw::kept_bits(flaw), ..self }
    }

    /// Resets the registers as power on does.
    fn reset(&mut self, memory: &BoardMemory) {
        for offset in (0..FILE_BYTES).step_by(4) {
            self.set(memory, offset, 0);
        }
        self.set(memory, PARAMS1, 0x0e00_0000);
        self.set(memory, PARAMS2, u32::from(self.setting != DartSetting::NoBypass));
        self.cache.clear();
        self.busy = None;
    }

    /// Applies the state of its power domain.
    pub fn supply(&mut self, memory: &BoardMemory, supply: Supply) {
        match (self.supply, supply) {
            (Supply::Off, Supply::Off) => {}
            (_, Supply::Off) => {
                self.reset(memory);
                self.show_nothing(memory);
            }
            (Supply::Off, _) => self.reset(memory),
            _ => {}
        }
        self.supply = supply;
    }

    /// A bus error cannot be modelled. With these values all streams seem to translate.
    fn show_nothing(&mut self, memory: &BoardMemory) {
        (0..FILE_BYTES).step_by(4).for_each(|offset| self.set(memory, offset, u32::MAX));
    }

    /// Registers that must not be read now, if there are any: address and bytes.
    #[must_use]
    pub fn unreadable(&self) -> Option<(u64, u64)> {
        (self.supply != Supply::On).then_some((self.base, FILE_BYTES))
    }

    /// Records a read of registers that do not answer.
    pub fn read(&mut self) {
        self.violations.push(format!("{:#x}: read while it is {:?}", self.base, self.supply));
    }

    /// Addresses to watch, with their bytes.
    #[must_use]
    pub fn watches(&self) -> [(u64, u64); 3] {
        // A store of the value that a register has already is noticed only by a watch of its own.
        // That matters for ERROR.
        [(0, ERROR), (ERROR, 4), (ERROR + 4, FILE_BYTES - ERROR - 4)]
            .map(|(at, size)| (self.base + at, size))
    }

    /// The address of its DMA engine's registers.
    #[must_use]
    pub fn engine(&self) -> u64 {
        engine_of(self.number)
    }

    /// Whether a fault is latched: its interrupt line is up.
    #[must_use]
    pub fn has_fault(&self) -> bool {
        self.supply == Supply::On && self.get(ERROR) >> 31 != 0
    }

    /// Models a store into the part of the registers that begins at `address`.
    pub fn written(&mut self, memory: &BoardMemory, address: u64) {
        if self.supply != Supply::On {
            self.violations
                .push(format!("{:#x}: written while it is {:?}", self.base, self.supply));
            return;
        }
        if address == self.base + ERROR {
            let cleared = self.get(ERROR) & !memory.word(address);
            self.set(memory, ERROR, cleared);
            return;
        }
        for offset in (0..FILE_BYTES).step_by(4).filter(|offset| *offset != ERROR) {
            let value = memory.word(self.base + offset);
            if value != self.get(offset) {
                self.store(memory, offset, value);
            }
        }
    }

    fn store(&mut self, memory: &BoardMemory, offset: u64, value: u32) {
        let is_locked = self.get(CONFIG) & CONFIG_LOCK != 0;
        match offset {
            PARAMS1 | PARAMS2 | ERROR_ADDRESS_LOW | ERROR_ADDRESS_HIGH => {
                let kept = self.get(offset);
                self.set(memory, offset, kept);
            }
            STREAM_COMMAND => {
                if self.busy.is_some() {
                    self.violations.push(format!("{:#x}: a command while it is busy", self.base));
                }
                if value & INVALIDATE != 0 {
                    self.busy = Some((Instant::now() + INVALIDATION, self.get(STREAM_SELECT)));
                    self.set(memory, STREAM_COMMAND, BUSY);
                    if let Some((stream, iova)) = self.armed.take() {
                        // It has dropped what it had cached, and not yet reported it.
                        self.cache.retain(|(cached, _), _| *cached != stream);
                        let _ = self.translate(memory, stream, iova, false);
                        self.cache.retain(|(cached, _), _| *cached != stream);
                    }
                }
            }
            TCR..FILE_BYTES if is_locked => {
                self.violations
                    .push(format!("{:#x}: {offset:#x} written while it is locked", self.base));
                let kept = self.get(offset);
                self.set(memory, offset, kept);
            }
            TCR..TTBR => self.set(memory, offset, value & self.kept_bits.0),
            TTBR..FILE_BYTES => self.set(memory, offset, value & self.kept_bits.1),
            CONFIG => self.set(memory, CONFIG, value | self.get(CONFIG) & CONFIG_LOCK),
            _ => self.set(memory, offset, value),
        }
    }

    /// Completes an invalidation whose time is over.
    pub fn tick(&mut self, memory: &BoardMemory) {
        let Some((due, streams)) = self.busy else { return };
        if Instant::now() >= due && self.setting != DartSetting::Stuck && self.supply == Supply::On
        {
            self.cache.retain(|(stream, _), _| streams >> stream & 1 == 0);
            self.busy = None;
            self.invalidations += 1;
            self.set(memory, STREAM_COMMAND, 0);
        }
    }

    /// Carries out the order that the guest has written to its DMA engine. Words from there: order,
    /// stream, source, target, bytes, result.
    pub fn ring(&mut self, memory: &BoardMemory) {
        let word = |index: u64| memory.word(self.engine() + 4 * index);
        let (order, stream, from, to, bytes) = (word(0), word(1), word(2), word(3), word(4));
        // Before the result: a driver that has the result may write the next order at once.
        memory.set_word(self.engine(), 0);
        let result = match order {
            1 => self.copy(memory, stream, u64::from(from), u64::from(to), bytes),
            // Power off and on without a notice: all state is lost.
            2 if self.supply == Supply::On => {
                self.reset(memory);
                Ok(())
            }
            3 => {
                self.armed = Some((stream, u64::from(from)));
                Ok(())
            }
            4 => {
                self.setting = DartSetting::Stuck;
                Ok(())
            }
            _ => Err(()),
        };
        memory.set_word(self.engine() + 20, if result.is_ok() { 1 } else { 2 });
    }

    /// Reads at one IOVA and writes at another, as a device does: in pieces that end where a
    /// granule ends.
    fn copy(
        &mut self,
        memory: &BoardMemory,
        stream: u32,
        from: u64,
        to: u64,
        bytes: u32,
    ) -> Result<(), ()> {
        for index in (0..u64::from(bytes)).step_by(4) {
            let mut word = [0];
            self.load(memory, stream, from + index, &mut word)?;
            self.store_words(memory, stream, to + index, &word)?;
        }
        Ok(())
    }

    /// Reads words from an IOVA on, as a device does.
    ///
    /// # Errors
    ///
    /// Nothing answers: the DART refuses the access or has no power.
    pub(super) fn load(
        &mut self,
        memory: &BoardMemory,
        stream: u32,
        iova: u64,
        words: &mut [u32],
    ) -> Result<(), ()> {
        for (word, at) in words.iter_mut().zip((iova..).step_by(4)) {
            *word = memory.word(self.translate(memory, stream, at, false)?);
        }
        Ok(())
    }

    /// Writes words from an IOVA on, as a device does.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub(super) fn store_words(
        &mut self,
        memory: &BoardMemory,
        stream: u32,
        iova: u64,
        words: &[u32],
    ) -> Result<(), ()> {
        for (word, at) in words.iter().zip((iova..).step_by(4)) {
            memory.set_word(self.translate(memory, stream, at, true)?, *word);
            self.copied_bytes += 4;
        }
        Ok(())
    }

    fn translate(
        &mut self,
        memory: &BoardMemory,
        stream: u32,
        iova: u64,
        is_write: bool,
    ) -> Result<u64, ()> {
        if self.supply != Supply::On {
            return Err(());
        }
        let tcr = self.get(TCR + 4 * u64::from(stream));
        if tcr & 0x100 != 0 {
            return Ok(iova);
        }
        let entry = match self.cache.get(&(stream, iova >> 14)) {
            Some(entry) => *entry,
            None => {
                let entry = self.walk(memory, stream, iova);
                self.cache.insert((stream, iova >> 14), entry);
                entry
            }
        };
        let unit = (iova & 0x3fff) / 4;
        let window = (entry >> 52 & 0xfff)..=(entry >> 40 & 0xfff);
        let code = if tcr & 0x80 == 0 {
            1
        } else if entry & 1 == 0 {
            1 << 2
        } else if is_write && entry & 1 << 7 != 0 {
            1 << 3
        } else if !is_write && entry & 1 << 8 != 0 {
            1 << 4
        } else if entry & 2 == 0 && !window.contains(&unit) {
            1 << 7
        } else {
            return Ok(entry & 0xf_ffff_c000 | iova & 0x3fff);
        };
        self.refusals += 1;
        if self.get(ERROR) >> 31 == 0 {
            let write = if is_write { 1 << 10 } else { 0 };
            self.set(memory, ERROR, 1 << 31 | stream << 24 | write | code);
            self.set(memory, ERROR_ADDRESS_LOW, iova as u32);
            self.set(memory, ERROR_ADDRESS_HIGH, (iova >> 32) as u32);
        }
        Err(())
    }

    /// The leaf entry for `iova`, or 0.
    fn walk(&self, memory: &BoardMemory, stream: u32, iova: u64) -> u64 {
        let ttbr = self.get(TTBR + 16 * u64::from(stream) + 4 * (iova >> 36 & 3));
        if ttbr >> 31 == 0 {
            return 0;
        }
        let table = u64::from(ttbr & 0x7fff_ffff) << 12;
        let first = memory.double(table + (iova >> 25 & 0x7ff) * 8);
        if first & 1 == 0 {
            return 0;
        }
        memory.double((first & 0xf_ffff_c000) + (iova >> 14 & 0x7ff) * 8)
    }

    fn get(&self, offset: u64) -> u32 {
        self.shadow.get(offset as usize / 4).copied().unwrap_or(0)
    }

    fn set(&mut self, memory: &BoardMemory, offset: u64, value: u32) {
        if let Some(word) = self.shadow.get_mut(offset as usize / 4) {
            *word = value;
        }
        memory.set_word(self.base + offset, value);
    }
}

#[cfg(test)]
mod tests;
