//! The IOVA space as rows of cells: which parts are mapped, were, or saw a fault.

use std::collections::BTreeMap;

use oche_types::addr::PAGE_BYTES;

use super::state::Page;

/// Empty parts of the space longer than this, in pages, are left out between rows: 1 MiB.
const GAP_PAGES: u64 = 256;

/// One cell: some pages side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) mapped: u64,
    pub(super) pages: u64,
    pub(super) was_mapped: bool,
    pub(super) has_alarm: bool,
}

impl Cell {
    /// How much of it is mapped, as a character.
    pub(super) fn symbol(self) -> char {
        if self.has_alarm {
            return 'x';
        }
        match (self.mapped * 4).checked_div(self.pages.max(1)) {
            _ if self.mapped == 0 && self.was_mapped => '\u{b7}',
            _ if self.mapped == 0 => ' ',
            Some(0) => '\u{2591}',
            Some(1 | 2) => '\u{2592}',
            Some(3) => '\u{2593}',
            _ => '\u{2588}',
        }
    }
}

/// A row of cells from an IOVA on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The IOVA of the first cell, in bytes.
    pub(super) iova: u64,
    pub(super) cells: Vec<Cell>,
}

/// Rows of `width` cells for `pages`, at most `height` of them, and how many pages a cell stands
/// for: as few as makes it fit.
pub(super) fn draw(pages: &BTreeMap<u32, Page>, width: usize, height: usize) -> (u64, Vec<Row>) {
    let mut scale = 1;
    loop {
        let rows = rows(pages, width.max(1) as u64, scale, height);
        match rows {
            Some(rows) => return (scale, rows),
            // With 2^32 pages in a cell one row has the whole space.
            None if scale < 1 << 32 && height > 0 => scale *= 2,
            None => return (scale, Vec::new()),
        }
    }
}

fn rows(pages: &BTreeMap<u32, Page>, width: u64, scale: u64, height: usize) -> Option<Vec<Row>> {
    let row_pages = width * scale;
    let mut rows: Vec<Row> = Vec::new();
    let mut row_end = 0;
    for (number, page) in pages {
        let number = u64::from(*number);
        if rows.is_empty() || number >= row_end {
            // Rows follow on each other where little lies between them; else a new one begins at a
            // round place.
            let start = if !rows.is_empty() && number < row_end + GAP_PAGES.max(row_pages) {
                row_end + (number - row_end) / row_pages * row_pages
            } else {
                number / scale * scale
            };
            if rows.len() == height {
                return None;
            }
            let cells =
                vec![Cell { pages: scale, ..Cell::default() }; usize::try_from(width).ok()?];
            rows.push(Row { iova: start * PAGE_BYTES as u64, cells });
            row_end = start + row_pages;
        }
        let row = rows.last_mut()?;
        let index = (number - row.iova / PAGE_BYTES as u64) / scale;
        let cell = row.cells.get_mut(usize::try_from(index).ok()?)?;
        cell.mapped += u64::from(page.is_mapped);
        cell.was_mapped = true;
        cell.has_alarm |= page.has_alarm;
    }
    Some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(numbers: &[u32]) -> BTreeMap<u32, Page> {
        numbers.iter().map(|number| (*number, Page { is_mapped: true, has_alarm: false })).collect()
    }

    fn text(row: &Row) -> String {
        row.cells.iter().map(|cell| cell.symbol()).collect()
    }

    #[test]
    fn neighbours_share_a_row_and_far_pages_begin_another() {
        let mut pages = pages(&[0x100, 0x101, 0x104, 0x9000]);
        pages.insert(0x102, Page { is_mapped: false, has_alarm: false });
        pages.insert(0x9001, Page { is_mapped: false, has_alarm: true });
        let (scale, rows) = draw(&pages, 6, 4);
        assert_eq!(scale, 1);
        assert_eq!(rows.iter().map(|row| row.iova).collect::<Vec<_>>(), [0x10_0000, 0x900_0000]);
        assert_eq!(text(&rows[0]), "\u{2588}\u{2588}\u{b7} \u{2588} ");
        assert_eq!(text(&rows[1]), "\u{2588}x    ");
    }

    #[test]
    fn what_does_not_fit_is_shown_coarser_until_it_does() {
        let numbers: Vec<u32> = (0..64).collect();
        let (scale, rows) = draw(&pages(&numbers), 8, 2);
        assert_eq!((scale, rows.len()), (4, 2));
        assert!(rows.iter().all(|row| text(row) == "\u{2588}".repeat(8)));
        let far: Vec<u32> = (0..64).map(|index| index << 26).collect();
        let (_, rows) = draw(&pages(&far), 8, 1);
        assert_eq!(rows.len(), 1);
        assert_eq!(draw(&pages(&numbers), 8, 0).1, []);
        assert_eq!(draw(&BTreeMap::new(), 8, 2), (1, vec![]));
    }

    #[test]
    fn a_cell_shows_how_much_of_it_is_mapped() {
        let symbol =
            |mapped, was_mapped| Cell { mapped, pages: 8, was_mapped, has_alarm: false }.symbol();
        assert_eq!(symbol(0, false), ' ');
        assert_eq!(symbol(0, true), '\u{b7}');
        assert_eq!(
            [1, 2, 5, 6, 7, 8].map(|mapped| symbol(mapped, true)),
            ['\u{2591}', '\u{2592}', '\u{2592}', '\u{2593}', '\u{2593}', '\u{2588}']
        );
    }
}
