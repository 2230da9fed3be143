//! Text on a framebuffer: each character a glyph, each line below the last, and from the top again at the end.
//!
//! Nothing is ever read back: reading a framebuffer is slow, and it may not be readable at all.

use core::sync::atomic::{AtomicUsize, Ordering};

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use crate::framebuffer::{Format, Framebuffer};

const WEIGHT: FontWeight = FontWeight::Regular;
const SIZE: RasterHeight = RasterHeight::Size24;
/// Pixels of a character.
const GLYPH_WIDTH: usize = get_raster_width(WEIGHT, SIZE);
const GLYPH_HEIGHT: usize = SIZE.val();
/// Rows that stay free at the top: some Macs have a notch there.
const TOP: usize = 80;

/// Where pixels go.
pub trait Pixels {
    /// Stores `value`, of the format's width, at a byte offset into the framebuffer.
    fn store(&self, offset: usize, value: u32);
}

/// A console of characters.
#[derive(Debug)]
pub struct Screen<P> {
    framebuffer: Framebuffer,
    pixels: P,
    column: AtomicUsize,
    row: AtomicUsize,
}

impl<P: Pixels> Screen<P> {
    /// Begins at the top. What is on the screen stays until a line is written over it.
    pub fn new(framebuffer: Framebuffer, pixels: P) -> Self {
        Self { framebuffer, pixels, column: AtomicUsize::new(0), row: AtomicUsize::new(0) }
    }

    /// Puts a character. Of several CPUs at once each has its turn; a mark that is torn is all that can happen.
    pub fn put(&self, byte: u8) {
        match byte {
            b'\n' => self.next_line(),
            b'\r' => self.column.store(0, Ordering::Relaxed),
            _ => {
                let column = self.column.fetch_add(1, Ordering::Relaxed);
                if column >= self.columns() {
                    self.next_line();
                    self.column.store(1, Ordering::Relaxed);
                }
                let column = column % self.columns().max(1);
                self.draw(char::from(byte), column, self.row.load(Ordering::Relaxed));
            }
        }
    }

    fn columns(&self) -> usize {
        self.framebuffer.width / GLYPH_WIDTH
    }

    fn rows(&self) -> usize {
        self.framebuffer.height.saturating_sub(self.top()) / GLYPH_HEIGHT
    }

    fn top(&self) -> usize {
        TOP.min(self.framebuffer.height / 4)
    }

    fn next_line(&self) {
        let row = self.row.fetch_add(1, Ordering::Relaxed) + 1;
        self.column.store(0, Ordering::Relaxed);
        let row = row % self.rows().max(1);
        self.row.store(row, Ordering::Relaxed);
        for column in 0..self.columns() {
            self.draw(' ', column, row);
        }
    }

    fn draw(&self, character: char, column: usize, row: usize) {
        let glyph = get_raster(character, WEIGHT, SIZE).or_else(|| get_raster('?', WEIGHT, SIZE));
        let Some(glyph) = glyph else { return };
        for (y, line) in glyph.pixels().chunks_exact(GLYPH_WIDTH).enumerate() {
            for (x, intensity) in line.iter().enumerate() {
                self.plot(column * GLYPH_WIDTH + x, self.top() + row * GLYPH_HEIGHT + y, *intensity);
            }
        }
    }

    fn plot(&self, x: usize, y: usize, intensity: u8) {
        let Framebuffer { width, height, stride, format, .. } = self.framebuffer;
        if x < width && y < height {
            self.pixels.store(y * stride + x * Format::bytes(format), format.grey(intensity));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;
    use oche_boot::range::PhysRange;
    use std::collections::BTreeMap;
    use std::string::String;
    use std::vec::Vec;

    #[derive(Default)]
    struct Memory(RefCell<BTreeMap<usize, u32>>);

    impl Pixels for Memory {
        fn store(&self, offset: usize, value: u32) {
            self.0.borrow_mut().insert(offset, value);
        }
    }

    fn screen(columns: usize, rows: usize) -> Screen<Memory> {
        let (width, height) = (columns * GLYPH_WIDTH + 3, rows * GLYPH_HEIGHT + 80 + 300);
        let memory = PhysRange { start: 0, end: (width * 4 * height) as u64 };
        let framebuffer = Framebuffer { memory, width, height, stride: width * 4, format: Format::Bits8 };
        Screen::new(framebuffer, Memory::default())
    }

    fn has_light(screen: &Screen<Memory>, column: usize, row: usize) -> bool {
        let stride = screen.framebuffer.stride;
        screen.pixels.0.borrow().iter().any(|(offset, value)| {
            let (x, y) = (offset % stride / 4, offset / stride);
            let is_there = x / GLYPH_WIDTH == column && y >= TOP && (y - TOP) / GLYPH_HEIGHT == row;
            is_there && *value != 0
        })
    }

    #[test]
    fn characters_stand_beside_and_below_each_other() {
        let screen = screen(10, 20);
        "AB\nC".bytes().for_each(|byte| screen.put(byte));
        let lit: Vec<(usize, usize)> = (0..3)
            .flat_map(|row| (0..3).map(move |column| (column, row)))
            .filter(|(column, row)| has_light(&screen, *column, *row))
            .collect();
        assert_eq!(lit, [(0, 0), (1, 0), (0, 1)]);
    }

    #[test]
    fn a_long_line_goes_on_below_and_the_last_line_is_followed_by_the_first() {
        let screen = screen(4, 3);
        "AAAAB".bytes().for_each(|byte| screen.put(byte));
        assert!(has_light(&screen, 0, 1) && !has_light(&screen, 1, 1));
        let rows = screen.rows();
        (0..rows - 1).for_each(|_| screen.put(b'\n'));
        assert!(!has_light(&screen, 0, 0), "the first line was cleared for the text to come");
    }

    #[test]
    fn no_pixel_lies_outside_the_framebuffer() {
        let screen = screen(4, 3);
        let text: String = core::iter::repeat_n("Wj\u{7f}", 500).collect();
        text.bytes().chain(0..=255).for_each(|byte| screen.put(byte));
        let end = screen.framebuffer.memory.end as usize;
        assert!(screen.pixels.0.borrow().keys().all(|offset| offset + 4 <= end));
    }
}
