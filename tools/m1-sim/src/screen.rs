//! The simulated board's framebuffer, and a picture of it.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

/// Pixels of a row.
pub const WIDTH: u32 = 1280;
/// Rows.
pub const HEIGHT: u32 = 800;
/// Pixels of the screen.
pub const ALL_PIXELS: usize = (WIDTH * HEIGHT) as usize;
/// Bytes from one row to the next, of a usual board's screen: more than a row has.
pub const STRIDE: u32 = WIDTH * 4 + 256;

/// The console's font and places. Source: `platform/m1/src/screen.rs`.
const GLYPH_WIDTH: usize = get_raster_width(FontWeight::Regular, RasterHeight::Size24);
const GLYPH_HEIGHT: usize = RasterHeight::Size24.val();
const TOP: usize = 40;
const MARGIN: usize = 1;
/// The brightest component of each colour that Oche writes in.
const BRIGHTEST: [u32; 2] = [208, 255];
/// A pixel with less than this is background.
const DARK: u32 = 100;

/// How many pixels are not black.
#[must_use]
pub fn lit_pixels(bytes: &[u8]) -> usize {
    pixels(bytes).filter(|pixel| *pixel & 0x3fff_ffff != 0).count()
}

/// How many pixels have a colour: their red and their blue differ.
#[must_use]
pub fn coloured_pixels(bytes: &[u8]) -> usize {
    pixels(bytes).filter(|pixel| pixel >> 20 & 0x3ff != pixel & 0x3ff).count()
}

/// The text on the screen, row by row, without trailing blanks: characters of Oche's font where
/// Oche draws them. A place with anything else on it reads as U+FFFD.
#[must_use]
pub fn text(bytes: &[u8]) -> Vec<String> {
    let all: Vec<u32> = pixels(bytes).map(brightness).collect();
    let shapes = shapes();
    let columns = WIDTH as usize / GLYPH_WIDTH - 2 * MARGIN;
    let rows = (HEIGHT as usize - TOP) / GLYPH_HEIGHT;
    let read = |row: usize, column: usize| {
        let (left, top) = ((column + MARGIN) * GLYPH_WIDTH, TOP + row * GLYPH_HEIGHT);
        let places = (0..GLYPH_HEIGHT).flat_map(|y| (0..GLYPH_WIDTH).map(move |x| (x, y)));
        let shape: Vec<bool> = places
            .map(|(x, y)| {
                all.get((top + y) * WIDTH as usize + left + x).is_some_and(|light| *light >= DARK)
            })
            .collect();
        shapes.get(&shape).copied().unwrap_or(char::REPLACEMENT_CHARACTER)
    };
    (0..rows)
        .map(|row| {
            (0..columns).map(|column| read(row, column)).collect::<String>().trim_end().to_owned()
        })
        .collect()
}

/// The shape of each character in each brightness that Oche writes in.
fn shapes() -> HashMap<Vec<bool>, char> {
    let mut shapes = HashMap::new();
    for character in (' '..='~').rev() {
        let glyph = get_raster(character, FontWeight::Regular, RasterHeight::Size24);
        for brightest in BRIGHTEST {
            let light = |intensity: &u8| u32::from(*intensity) * brightest / 255 >= DARK;
            if let Some(glyph) = &glyph {
                shapes.insert(glyph.pixels().iter().map(light).collect(), character);
            }
        }
    }
    shapes
}

/// The brightest of a pixel's colours, in eight bits.
fn brightness(pixel: u32) -> u32 {
    [22, 12, 2].map(|shift| pixel >> shift & 0xff).into_iter().max().unwrap_or(0)
}

/// Writes a PNG.
///
/// # Errors
///
/// The file cannot be written.
pub fn write_png(bytes: &[u8], path: &Path) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut encoder = png::Encoder::new(BufWriter::new(file), WIDTH, HEIGHT);
    encoder.set_color(png::ColorType::Rgb);
    // Ten bits of each colour, of which the upper eight count.
    let colours: Vec<u8> =
        pixels(bytes).flat_map(|pixel| [22, 12, 2].map(|shift| (pixel >> shift) as u8)).collect();
    let mut writer = encoder.write_header().context("the picture's header")?;
    writer.write_image_data(&colours).context("the picture")
}

/// All pixels, row by row; of a row that is missing, black ones.
fn pixels(bytes: &[u8]) -> impl Iterator<Item = u32> {
    let stride = bytes.len() / HEIGHT as usize;
    (0..HEIGHT as usize).flat_map(move |row| {
        (0..WIDTH as usize).map(move |column| {
            let at = row * stride + column * 4;
            let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
            word.map_or(0, u32::from_le_bytes)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{HEIGHT, STRIDE, WIDTH, coloured_pixels, lit_pixels, write_png};

    #[test]
    fn a_picture_has_the_pixels_of_the_memory() {
        let mut bytes = vec![0; (STRIDE * HEIGHT) as usize];
        let at = (STRIDE * 2 + 12) as usize;
        bytes[at..at + 4].copy_from_slice(&(0x3ff_u32 << 20 | 0x200 << 10).to_le_bytes());
        assert_eq!((lit_pixels(&bytes), coloured_pixels(&bytes)), (1, 1));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("screen.png");
        write_png(&bytes, &path).expect("written");
        let decoder =
            png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path).expect("a file")));
        let mut reader = decoder.read_info().expect("a picture");
        let mut colours = vec![0; reader.output_buffer_size().expect("a size")];
        reader.next_frame(&mut colours).expect("a frame");
        let at = ((2 * WIDTH + 3) * 3) as usize;
        assert_eq!(colours[at..at + 3], [0xff, 0x80, 0]);
        assert_eq!(colours.iter().filter(|colour| **colour != 0).count(), 2);
    }
}
