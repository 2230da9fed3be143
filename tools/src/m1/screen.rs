//! The simulated board's framebuffer, and a picture of it.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result};

/// Pixels of a row.
pub const WIDTH: u32 = 1280;
/// Rows.
pub const HEIGHT: u32 = 800;
/// Bytes from one row to the next: more than a row has.
pub const STRIDE: u32 = WIDTH * 4 + 256;

/// How many pixels are not black.
#[must_use]
pub fn lit_pixels(bytes: &[u8]) -> usize {
    pixels(bytes).filter(|pixel| *pixel & 0x3fff_ffff != 0).count()
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
    (0..HEIGHT as usize).flat_map(move |row| {
        (0..WIDTH as usize).map(move |column| {
            let at = row * STRIDE as usize + column * 4;
            let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
            word.map_or(0, u32::from_le_bytes)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{HEIGHT, STRIDE, WIDTH, lit_pixels, write_png};

    #[test]
    fn a_picture_has_the_pixels_of_the_memory() {
        let mut bytes = vec![0; (STRIDE * HEIGHT) as usize];
        let at = (STRIDE * 2 + 12) as usize;
        bytes[at..at + 4].copy_from_slice(&(0x3ff_u32 << 20 | 0x200 << 10).to_le_bytes());
        assert_eq!(lit_pixels(&bytes), 1);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("screen.png");
        write_png(&bytes, &path).expect("written");
        let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path).expect("a file")));
        let mut reader = decoder.read_info().expect("a picture");
        let mut colours = vec![0; reader.output_buffer_size().expect("a size")];
        reader.next_frame(&mut colours).expect("a frame");
        let at = ((2 * WIDTH + 3) * 3) as usize;
        assert_eq!(colours[at..at + 3], [0xff, 0x80, 0]);
        assert_eq!(colours.iter().filter(|colour| **colour != 0).count(), 2);
    }
}
