//! The consoles: the serial port, and the screen until the guest runs.

use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::framebuffer::{Format, Framebuffer};
use crate::power::Power;
use crate::screen::{Pixels, Screen};
use oche_boot::bare::memory;
use oche_el2::console::{self, Console};
use oche_el2::lock::{Once, SpinLock};
use oche_el2::{mmio, panic, percpu};
use oche_types::range::PhysRange;

use super::power::PowerDomains;

/// UART 0. Source: Linux `arch/arm64/boot/dts/apple/t8103.dtsi`, `serial0`.
pub const UART: PhysRange = PhysRange { start: 0x2_3520_0000, end: 0x2_3520_1000 };
/// Offset of `UTRSTAT`; bit 1: the transmit buffer is empty. Source: m1n1 `src/uart_regs.h`.
const STATUS: u64 = 0x10;
const TRANSMIT_EMPTY: u32 = 1 << 1;
/// Offset of `UTXH`, the byte to send. Source: the same.
const TRANSMIT: u64 = 0x20;
/// Polls before a byte is given up: a byte takes 87 us at 115200 bits a second.
const POLL_LIMIT: u32 = 1 << 16;
/// White in every format.
const WHITE: u32 = u32::MAX;
/// Bytes that are kept until there is a screen to show them on.
const EARLY_BYTES: usize = 512;

/// All consoles at once.
struct TeeConsole;

static SCREEN: Once<Screen<Memory>> = Once::new();
/// A screen on which no text can be shown.
static PLAIN: Once<PhysRange> = Once::new();
/// The screen was taken from the guest.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);
/// The power domains of the serial port, once the tree has been read.
static POWER: Once<PowerDomains> = Once::new();
/// The serial port did not take the last byte.
static IS_STUCK: AtomicBool = AtomicBool::new(false);
static EARLY: SpinLock<Early> = SpinLock::new(Early { bytes: [0; EARLY_BYTES], length: 0 });

/// The output from before there was a screen.
struct Early {
    bytes: [u8; EARLY_BYTES],
    length: usize,
}

/// Prints on the serial port from now on.
pub fn begin() {
    memory::map_registers(UART);
    console::set(&TeeConsole);
}

/// Keeps the memory of a screen on which no text can be shown, to fill it with white if Oche cannot
/// go on.
pub fn keep_screen(memory: PhysRange) {
    if memory::map_screen(memory).is_ok() {
        PLAIN.set(memory);
    }
}

/// Uses the serial port only while `domains` have power: the guest's driver of it may gate them.
pub fn watch_power(domains: PowerDomains) {
    POWER.set(domains);
}

/// Prints on the screen too, and repeats the earlier output there.
pub fn open_screen(framebuffer: Framebuffer) {
    if memory::map_screen(framebuffer.memory).is_err() {
        return log::warn!("EL2 cannot map the framebuffer at {}", framebuffer.memory);
    }
    let screen = Screen::new(framebuffer, Memory(framebuffer.memory, framebuffer.format));
    let early = EARLY.lock();
    early.bytes.iter().take(early.length).for_each(|byte| screen.put(*byte));
    SCREEN.set(screen);
}

/// The screen that is open, for a program that draws on it by itself.
pub fn screen() -> Option<&'static Screen<Memory>> {
    SCREEN.get()
}

/// Sends a line on the serial port alone.
pub fn send_line(line: &str) {
    line.bytes().chain(*b"\r\n").for_each(send);
}

impl Console for TeeConsole {
    fn on_fatal(&self) {
        let Some(memory) = PLAIN.get() else { return };
        for address in (memory.start..memory.end).step_by(size_of::<u32>()) {
            // SAFETY: inside a framebuffer, which is mapped and which Oche alone writes; it begins
            // and ends at multiples of a page.
            unsafe { ptr::write_volatile(address as *mut u32, WHITE) };
        }
    }

    fn put(&self, byte: u8) {
        send(byte);
        match SCREEN.get() {
            // Once the guest runs, the screen is the guest's, until Oche has to report a panic.
            Some(screen) if panic::is_panicking() => {
                if percpu::this().has_run() && !IS_TAKEN.swap(true, Ordering::Relaxed) {
                    screen.clear();
                }
                screen.put(byte);
            }
            Some(screen) if !percpu::this().has_run() => screen.put(byte),
            Some(_) => {}
            None => {
                let mut early = EARLY.lock();
                let length = early.length;
                if let Some(slot) = early.bytes.get_mut(length) {
                    *slot = byte;
                    early.length += 1;
                }
            }
        }
    }
}

/// Sends a byte on the serial port if that answers. The guest may have gated its clock or its
/// power.
fn send(byte: u8) {
    if POWER.get().is_some_and(|domains| domains.power() != Power::On) {
        return;
    }
    // SAFETY: `begin` mapped the registers as Device memory before it named this console; reading
    // the status has no side effect.
    let read = || unsafe { mmio::read32(UART.start + STATUS) };
    // The port has power. While an SError of the guest is pending, whether the port answered cannot
    // be known. The value is used, so that no output is lost.
    let status = || match read() {
        Err(mmio::BusError { report: mmio::ReportedBy::Unknown(status), .. }) => Ok(status as u32),
        other => other,
    };
    let is_full = || status().map(|status| status & TRANSMIT_EMPTY == 0);
    // A port that has not taken a byte in time is not waited for again until it takes one.
    let polls = if IS_STUCK.load(Ordering::Relaxed) { 1 } else { POLL_LIMIT };
    let has_room = (0..polls).find_map(|_| match is_full() {
        Ok(true) => None,
        Ok(false) => Some(true),
        Err(_) => Some(false),
    });
    IS_STUCK.store(has_room != Some(true), Ordering::Relaxed);
    if has_room == Some(true) {
        // SAFETY: as above; a byte into the transmit buffer. If nothing answers the byte is lost.
        let _ = unsafe { mmio::write32(UART.start + TRANSMIT, u32::from(byte)) };
    }
}

/// A framebuffer's memory, mapped for Oche.
#[derive(Debug)]
pub struct Memory(PhysRange, Format);

impl Pixels for Memory {
    fn store(&self, offset: usize, value: u32) {
        let address = self.0.start + offset as u64;
        if address + self.1.bytes() as u64 > self.0.end {
            return;
        }
        match self.1 {
            // SAFETY: inside the framebuffer, which is mapped, and aligned: offsets are multiples
            // of the pixel.
            Format::Bits5 => unsafe { ptr::write_volatile(address as *mut u16, value as u16) },
            // SAFETY: as above.
            Format::Bits8 | Format::Bits10 => unsafe {
                ptr::write_volatile(address as *mut u32, value)
            },
        }
    }
}
