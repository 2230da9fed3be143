//! A terminal's screen as a picture, SVG: for documentation, mails and machines without a terminal.

use std::fmt::Write;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

/// A cell's size, and the baseline's distance from its top, in pixels.
const WIDTH: u32 = 9;
const HEIGHT: u32 = 18;
const BASELINE: u32 = 14;
const BORDER: u32 = 10;
const BACKGROUND: &str = "#10141b";
const FOREGROUND: &str = "#d6dbe4";

/// Size of the picture of a screen of so many columns and rows, in pixels.
pub(super) fn size(columns: u16, rows: u16) -> (u32, u32) {
    (u32::from(columns) * WIDTH + 2 * BORDER, u32::from(rows) * HEIGHT + 2 * BORDER)
}

/// The picture of `screen`.
pub(super) fn draw(screen: &Buffer) -> String {
    let (width, height) = size(screen.area.width, screen.area.height);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"DejaVu Sans \
         Mono, Menlo, Consolas, monospace\" font-size=\"15\">\n<rect width=\"100%\" height=\"100%\" fill=\"{BACKGROUND}\"/>\n"
    );
    for row in 0..screen.area.height {
        let mut column = 0;
        while let Some(cell) = screen.cell((column, row)).filter(|_| column < screen.area.width) {
            let same = |other: u16| screen.cell((other, row)).is_some_and(|other| is_alike(cell, other));
            let end = (column..screen.area.width).find(|other| !same(*other)).unwrap_or(screen.area.width);
            let symbols = (column..end).filter_map(|column| screen.cell((column, row))).map(Cell::symbol);
            run(&mut svg, cell, symbols.collect(), u32::from(column), u32::from(row));
            column = end;
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Whether two cells look alike but for their symbol, and both or neither are text.
fn is_alike(one: &Cell, other: &Cell) -> bool {
    let style = |cell: &Cell| (cell.fg, cell.bg, cell.modifier, is_drawn(cell.symbol()));
    style(one) == style(other)
}

/// Whether a symbol is drawn as a shape: fonts leave gaps between such.
fn is_drawn(symbol: &str) -> bool {
    symbol.chars().all(|symbol| ('\u{2500}'..='\u{259f}').contains(&symbol))
}

/// Cells side by side in one style.
fn run(svg: &mut String, cell: &Cell, symbols: Vec<&str>, column: u32, row: u32) {
    let (mut ink, mut paper) = (colour(cell.fg, FOREGROUND), colour(cell.bg, BACKGROUND));
    if cell.modifier.contains(Modifier::REVERSED) {
        std::mem::swap(&mut ink, &mut paper);
    }
    let (x, y) = (BORDER + column * WIDTH, BORDER + row * HEIGHT);
    let columns = symbols.len() as u32;
    if paper != BACKGROUND {
        rectangle(svg, paper, [x, y, columns * WIDTH, HEIGHT], "1");
    }
    if is_drawn(&symbols.concat()) {
        for (place, symbol) in symbols.iter().enumerate() {
            shape(svg, ink, symbol, x + place as u32 * WIDTH, y);
        }
        return;
    }
    let text = symbols.concat();
    if text.trim().is_empty() {
        return;
    }
    let weight = if cell.modifier.contains(Modifier::BOLD) { " font-weight=\"bold\"" } else { "" };
    let dim = if cell.modifier.contains(Modifier::DIM) { " opacity=\"0.65\"" } else { "" };
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
    // Writing to a String does not fail.
    let _ = writeln!(
        svg,
        "<text x=\"{x}\" y=\"{}\" fill=\"{ink}\"{weight}{dim} textLength=\"{}\" xml:space=\"preserve\">{escaped}</text>",
        y + BASELINE,
        columns * WIDTH
    );
}

fn rectangle(svg: &mut String, ink: &str, [x, y, width, height]: [u32; 4], opacity: &str) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{ink}\" opacity=\"{opacity}\"/>"
    );
}

/// A symbol of the blocks "box drawing" and "block elements", as far as the screen uses them.
fn shape(svg: &mut String, ink: &str, symbol: &str, x: u32, y: u32) {
    let symbol = symbol.chars().next().unwrap_or(' ');
    let eighths = (symbol as u32).wrapping_sub(0x2580);
    if (1..=8).contains(&eighths) {
        let height = HEIGHT * eighths / 8;
        return rectangle(svg, ink, [x, y + HEIGHT - height, WIDTH, height], "1");
    }
    if symbol == '\u{2592}' {
        return rectangle(svg, ink, [x, y, WIDTH, HEIGHT], "0.45");
    }
    let (middle, centre) = (x + WIDTH / 2, y + HEIGHT / 2);
    // Left, right, up, down.
    let arms = match symbol {
        '\u{2500}' => [true, true, false, false],
        '\u{2502}' => [false, false, true, true],
        '\u{250c}' => [false, true, false, true],
        '\u{2510}' => [true, false, false, true],
        '\u{2514}' => [false, true, true, false],
        '\u{2518}' => [true, false, true, false],
        _ => return,
    };
    let ends = [(x, centre), (x + WIDTH, centre), (middle, y), (middle, y + HEIGHT)];
    for ((to_x, to_y), _) in ends.into_iter().zip(arms).filter(|(_, has)| *has) {
        let _ =
            writeln!(svg, "<path d=\"M{middle} {centre}L{to_x} {to_y}\" stroke=\"{ink}\" opacity=\"0.45\"/>");
    }
}

fn colour(colour: Color, otherwise: &'static str) -> &'static str {
    match colour {
        Color::Red | Color::LightRed => "#ff6b6b",
        Color::Green | Color::LightGreen => "#7ecb7a",
        Color::Yellow | Color::LightYellow => "#e7c26f",
        Color::Cyan | Color::LightCyan => "#56c2d8",
        Color::DarkGray => "#566072",
        Color::Gray => "#9aa4b5",
        _ => otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::layout::Rect;
    use ratatui::style::Style;

    #[test]
    fn text_is_escaped_and_blocks_become_shapes() {
        let mut screen = Buffer::empty(Rect::new(0, 0, 8, 2));
        screen.set_string(0, 0, "<a&b>", Style::new().fg(Color::Red));
        screen.set_string(0, 1, "\u{250c}\u{2584}\u{2588}", Style::new());
        let svg = draw(&screen);
        assert!(
            svg.contains("fill=\"#ff6b6b\" textLength=\"45\" xml:space=\"preserve\">&lt;a&amp;b></text>"),
            "{svg}"
        );
        assert!(svg.contains("<rect x=\"19\" y=\"37\" width=\"9\" height=\"9\""), "half a cell: {svg}");
        assert_eq!(svg.matches("<path").count(), 2, "a corner has two arms");
        assert_eq!(size(8, 2), (92, 56));
    }
}
