//! Text on a framebuffer: each character a glyph, each line below the last, and from the top again
//! at the end.
//!
//! Nothing is ever read back: reading a framebuffer is slow, and it may not be readable at all.
//! Long lines are wrapped between words and indented. Errors and warnings have a colour.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use oche_el2::lock::SpinLock;

use crate::framebuffer::{Format, Framebuffer};

const WEIGHT: FontWeight = FontWeight::Regular;
const SIZE: RasterHeight = RasterHeight::Size24;
/// Pixels of a character at scale 1.
const GLYPH_WIDTH: usize = get_raster_width(WEIGHT, SIZE);
const GLYPH_HEIGHT: usize = SIZE.val();
/// The scale is the screen's width divided by this: letters are about as large on every Mac.
const WIDTH_OF_ONE: usize = 1280;
/// The largest scale.
const MAX_SCALE: usize = 4;
/// Rows of pixels that stay free at the top, before scaling: some Macs have a notch there.
const TOP: usize = 40;
/// Characters that stay free at each side.
const MARGIN: usize = 1;
/// Indentation of the rest of a wrapped line, in characters.
const INDENT: usize = 8;
/// Longest row that is kept, in characters: that of the widest screen that is accepted.
const MAX_COLUMNS: usize = 1400;
/// Attempts to lock the cursor before a character is dropped: a CPU that panicked may hold the lock
/// for ever.
const ATTEMPTS: usize = 1 << 20;

/// Red, green and blue of a line, by its prefix.
const COLOURS: [(&[u8], [u8; 3]); 5] = [
    (b"oche: panic: ", [255, 120, 100]),
    (b"oche: fatal: ", [255, 120, 100]),
    (b"oche: error: ", [255, 120, 100]),
    (b"oche: warning: ", [255, 200, 80]),
    (b"oche: Oche ", [255, 255, 255]),
];
/// The colour of any other line.
const PLAIN: [u8; 3] = [200, 204, 208];

/// The memory of a framebuffer.
pub trait Pixels {
    /// Stores `value`, of the format's width, at a byte offset into the framebuffer.
    fn store(&self, offset: usize, value: u32);
}

/// A console of characters.
#[derive(Debug)]
pub struct Screen<P> {
    framebuffer: Framebuffer,
    pixels: P,
    cursor: SpinLock<Cursor>,
}

/// Where the next character goes, and what is on its row.
#[derive(Debug)]
struct Cursor {
    row: usize,
    text: [u8; MAX_COLUMNS],
    length: usize,
    colour: [u8; 3],
}

impl<P: Pixels> Screen<P> {
    /// Begins at the top. What is on the screen stays until a line is written over it.
    pub fn new(framebuffer: Framebuffer, pixels: P) -> Self {
        let cursor = Cursor { row: 0, text: [b' '; MAX_COLUMNS], length: 0, colour: PLAIN };
        Self { framebuffer, pixels, cursor: SpinLock::new(cursor) }
    }

    /// Begins at the top of an empty screen.
    pub fn clear(&self) {
        let Framebuffer { width, height, stride, format, .. } = self.framebuffer;
        for y in 0..height {
            (0..width).for_each(|x| self.pixels.store(y * stride + x * format.bytes(), 0));
        }
        if let Some(mut cursor) = self.cursor.lock_within(ATTEMPTS) {
            (cursor.row, cursor.length, cursor.colour) = (0, 0, PLAIN);
        }
    }

    /// Puts a character.
    pub fn put(&self, byte: u8) {
        // A CPU that holds the lock for so long has panicked in here: no more text can be shown.
        let Some(mut cursor) = self.cursor.lock_within(ATTEMPTS) else { return };
        match byte {
            b'\n' => {
                cursor.colour = PLAIN;
                self.next_row(&mut cursor);
            }
            b'\r' => {}
            _ => {
                if cursor.length >= self.columns() {
                    self.wrap(&mut cursor);
                }
                self.add(&mut cursor, byte);
            }
        }
    }

    fn add(&self, cursor: &mut Cursor, byte: u8) {
        let column = cursor.length;
        let Some(place) = cursor.text.get_mut(column) else { return };
        *place = byte;
        cursor.length += 1;
        let text = cursor.text.get(..cursor.length).unwrap_or_default();
        match COLOURS.iter().find(|(prefix, _)| *prefix == text) {
            // The line's kind is known now: its first characters get the colour too.
            Some((_, colour)) => {
                cursor.colour = *colour;
                self.redraw(cursor, 0, cursor.length);
            }
            None => self.redraw(cursor, column, cursor.length),
        }
    }

    /// Continues on the next row, with the word that does not fit, unless the row is that word.
    fn wrap(&self, cursor: &mut Cursor) {
        let row = cursor.text.get(..cursor.length).unwrap_or_default();
        let start = row.iter().rposition(|byte| *byte == b' ').map_or(row.len(), |space| space + 1);
        let start = if start > INDENT && start > self.columns() / 2 { start } else { row.len() };
        let (text, length) = (cursor.text, cursor.length);
        cursor.text.iter_mut().skip(start).for_each(|byte| *byte = b' ');
        self.redraw(cursor, start, length);
        self.next_row(cursor);
        if self.columns() > 2 * INDENT {
            cursor.length = INDENT;
        }
        for byte in text.get(start..length).unwrap_or_default() {
            self.add(cursor, *byte);
        }
    }

    fn next_row(&self, cursor: &mut Cursor) {
        cursor.row = (cursor.row + 1) % self.rows().max(1);
        cursor.text.fill(b' ');
        cursor.length = 0;
        self.redraw(cursor, 0, self.columns());
    }

    /// Draws the cursor's row from one column to another.
    fn redraw(&self, cursor: &Cursor, from: usize, to: usize) {
        for column in from..to.min(self.columns()) {
            let byte = cursor.text.get(column).copied().unwrap_or(b' ');
            self.draw(char::from(byte), column, cursor);
        }
    }

    /// Draws `text` in place of what is on `row`, which does not become the cursor's. What does not
    /// fit is left out.
    pub fn write_row(&self, row: usize, text: &str, colour: [u8; 3]) {
        if row >= self.rows() {
            return;
        }
        let mut cursor = Cursor { row, text: [b' '; MAX_COLUMNS], length: 0, colour };
        for (place, byte) in cursor.text.iter_mut().zip(text.bytes()) {
            *place = byte;
        }
        self.redraw(&cursor, 0, self.columns());
    }

    /// Fills a rectangle: the pixels of its corner, and its width and height.
    pub fn fill(&self, (left, top): (usize, usize), size: (usize, usize), colour: [u8; 3]) {
        let value = self.framebuffer.format.pixel(colour);
        for y in top..top + size.1 {
            (left..left + size.0).for_each(|x| self.plot(x, y, value));
        }
    }

    /// The pixels that are left below `row`: where they begin, their width and their height.
    pub fn area_below(&self, row: usize) -> (usize, (usize, usize)) {
        let top = self.top() + (row + 1) * GLYPH_HEIGHT * self.scale();
        (top, (self.framebuffer.width, self.framebuffer.height.saturating_sub(top)))
    }

    /// How many pixels a pixel of a letter is wide and high.
    pub fn scale(&self) -> usize {
        (self.framebuffer.width / WIDTH_OF_ONE).clamp(1, MAX_SCALE)
    }

    /// Characters in a row.
    pub fn columns(&self) -> usize {
        let all = self.framebuffer.width / (GLYPH_WIDTH * self.scale());
        all.saturating_sub(2 * MARGIN).clamp(1, MAX_COLUMNS)
    }

    /// Rows of text.
    pub fn rows(&self) -> usize {
        self.framebuffer.height.saturating_sub(self.top()) / (GLYPH_HEIGHT * self.scale())
    }

    fn top(&self) -> usize {
        (TOP * self.scale()).min(self.framebuffer.height / 4)
    }

    fn draw(&self, character: char, column: usize, cursor: &Cursor) {
        let glyph = get_raster(character, WEIGHT, SIZE).or_else(|| get_raster('?', WEIGHT, SIZE));
        let Some(glyph) = glyph else { return };
        let scale = self.scale();
        let left = (column + MARGIN) * GLYPH_WIDTH * scale;
        let top = self.top() + cursor.row * GLYPH_HEIGHT * scale;
        for (y, line) in glyph.pixels().chunks_exact(GLYPH_WIDTH).enumerate() {
            for (x, intensity) in line.iter().enumerate() {
                let value = self.framebuffer.format.pixel(shade(cursor.colour, *intensity));
                for part in 0..scale * scale {
                    self.plot(
                        left + x * scale + part % scale,
                        top + y * scale + part / scale,
                        value,
                    );
                }
            }
        }
    }

    fn plot(&self, x: usize, y: usize, value: u32) {
        let Framebuffer { width, height, stride, format, .. } = self.framebuffer;
        if x < width && y < height {
            self.pixels.store(y * stride + x * Format::bytes(format), value);
        }
    }
}

/// A colour on black, by how much of a pixel the letter covers.
fn shade(colour: [u8; 3], intensity: u8) -> [u8; 3] {
    colour.map(|part| (u16::from(part) * u16::from(intensity) / 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;
    use oche_types::range::PhysRange;
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

    fn of_size(width: usize, height: usize) -> Screen<Memory> {
        let memory = PhysRange { start: 0, end: (width * 4 * height) as u64 };
        let framebuffer =
            Framebuffer { memory, width, height, stride: width * 4, format: Format::Bits8 };
        Screen::new(framebuffer, Memory::default())
    }

    fn screen(columns: usize, rows: usize) -> Screen<Memory> {
        of_size((columns + 2 * MARGIN) * GLYPH_WIDTH + 3, rows * GLYPH_HEIGHT + TOP + 13)
    }

    /// The lightest pixel of a character's place.
    fn light(screen: &Screen<Memory>, column: usize, row: usize) -> u32 {
        let (stride, scale) = (screen.framebuffer.stride, screen.scale());
        let pixels = screen.pixels.0.borrow();
        let lit = pixels.iter().filter(|(offset, _)| {
            let (x, y) = (*offset % stride / 4, *offset / stride);
            x / (GLYPH_WIDTH * scale) == column + MARGIN
                && y >= screen.top()
                && (y - screen.top()) / (GLYPH_HEIGHT * scale) == row
        });
        lit.map(|(_, value)| *value).max().unwrap_or(0)
    }

    fn write(screen: &Screen<Memory>, text: &str) {
        text.bytes().for_each(|byte| screen.put(byte));
    }

    /// The places that have light, of the first `columns` and `rows`.
    fn lit(screen: &Screen<Memory>, columns: usize, rows: usize) -> Vec<(usize, usize)> {
        (0..rows)
            .flat_map(|row| (0..columns).map(move |column| (column, row)))
            .filter(|(column, row)| light(screen, *column, *row) != 0)
            .collect()
    }

    #[test]
    fn characters_stand_beside_and_below_each_other() {
        let screen = screen(10, 20);
        write(&screen, "AB\nC");
        assert_eq!(lit(&screen, 3, 3), [(0, 0), (1, 0), (0, 1)]);
    }

    #[test]
    fn a_long_line_goes_on_below_and_the_last_row_is_followed_by_the_first() {
        let screen = screen(4, 3);
        write(&screen, "AAAAB");
        assert!(light(&screen, 0, 1) != 0 && light(&screen, 1, 1) == 0);
        let rows = screen.rows();
        (0..rows - 1).for_each(|_| screen.put(b'\n'));
        assert!(light(&screen, 0, 0) == 0, "the first row was cleared for the text to come");
    }

    #[test]
    fn a_line_breaks_between_words_and_goes_on_further_in() {
        let screen = screen(20, 5);
        write(&screen, "aaaaaaaaaaaaaaaa bbbbbb c");
        assert_eq!(light(&screen, 17, 0), 0, "the word's beginning went below with it");
        let second: Vec<usize> =
            lit(&screen, 20, 2).into_iter().filter(|at| at.1 == 1).map(|at| at.0).collect();
        assert_eq!(second, [8, 9, 10, 11, 12, 13, 15]);
    }

    #[test]
    fn what_must_not_be_missed_has_a_colour_from_its_first_letter_on() {
        let screen = screen(40, 5);
        write(&screen, "oche: warning: W\noche: W");
        let (warning, plain) = (light(&screen, 0, 0), light(&screen, 0, 1));
        assert!(warning >> 16 > warning & 0xff, "amber: {warning:#x}");
        assert!(plain >> 16 <= plain & 0xff, "grey: {plain:#x}");
    }

    #[test]
    fn letters_are_twice_as_large_on_a_screen_with_twice_as_many_pixels() {
        let (small, large) = (of_size(1280, 800), of_size(2560, 1600));
        assert_eq!((small.columns(), small.rows()), (large.columns(), large.rows()));
        for screen in [&small, &large] {
            write(screen, "WWW");
            assert_eq!(lit(screen, 5, 2), [(0, 0), (1, 0), (2, 0)]);
        }
    }

    #[test]
    fn a_cleared_screen_is_dark_and_begins_at_the_top() {
        let screen = screen(10, 5);
        write(&screen, "AB\nCD\n");
        screen.clear();
        assert_eq!(lit(&screen, 10, 5), []);
        write(&screen, "E");
        assert_eq!(lit(&screen, 10, 5), [(0, 0)]);
    }

    #[test]
    fn row_is_written_over_and_the_cursor_stays() {
        let screen = screen(10, 5);
        write(&screen, "AB\n");
        screen.write_row(0, "  C", PLAIN);
        screen.write_row(99, "D", PLAIN);
        write(&screen, "E");
        assert_eq!(lit(&screen, 10, 5), [(2, 0), (0, 1)]);
    }

    #[test]
    fn rectangle_is_filled_below_a_row_and_not_outside_the_framebuffer() {
        let screen = of_size(100, 200);
        let (top, (width, height)) = screen.area_below(0);
        assert_eq!((top, width, height), (64, 100, 136));
        screen.fill((90, top + 130), (50, 50), [255; 3]);
        let pixels = screen.pixels.0.borrow();
        assert_eq!(pixels.len(), 10 * 6);
        assert!(pixels.values().all(|value| *value == 0xff_ffff));
    }

    #[test]
    fn no_pixel_lies_outside_the_framebuffer() {
        for screen in [screen(4, 3), of_size(1, 1), of_size(9, 30), of_size(2600, 60)] {
            let text: String = core::iter::repeat_n("Wj\u{7f} ", 300).collect();
            text.bytes().chain(0..=255).for_each(|byte| screen.put(byte));
            let end = screen.framebuffer.memory.end as usize;
            assert!(screen.pixels.0.borrow().keys().all(|offset| offset + 4 <= end));
        }
    }
}
