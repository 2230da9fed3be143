//! Time in a fixed number of bins that widen as the trace goes on, and what is counted in them.

use std::collections::BTreeMap;

use oche_types::addr::{IovaPage, PAGE_BYTES};

/// Bins at the most: several for each column of a picture, so that there is something to zoom into.
const MOST: usize = 960;
/// Bins of a column of an address space: as many columns as the page's widest picture draws.
pub(super) const SPACE_BINS: usize = 4;
/// Bins of a step, in which lifetimes and places in the code are counted.
pub(super) const STEP_BINS: usize = 16;
/// The first width, in nanoseconds: a sixteenth of a millisecond.
const FIRST_WIDTH: u64 = 62_500;
/// Rows of a picture of an address space, at the most.
const MAX_ROWS: usize = 96;

/// The bins' range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bins {
    start: u64,
    width: u64,
}

impl Default for Bins {
    fn default() -> Self {
        Self { start: 0, width: FIRST_WIDTH }
    }
}

impl Bins {
    pub(super) fn begin(&mut self, start: u64) {
        self.start = start;
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    pub(super) fn width(&self) -> u64 {
        self.width
    }

    pub(super) fn must_widen(&self, now: u64) -> bool {
        now.saturating_sub(self.start) / self.width >= MOST as u64
    }

    pub(super) fn widen(&mut self) {
        self.width = self.width.saturating_mul(2);
    }

    /// Bins that are as wide as `count` of these.
    pub(super) fn wider(self, count: usize) -> Self {
        Self { width: self.width.saturating_mul(count as u64), ..self }
    }

    /// The bin that `time` is in; the first for what is earlier.
    pub(super) fn of(&self, time: u64) -> usize {
        ((time.saturating_sub(self.start) / self.width) as usize).min(MOST - 1)
    }
}

/// How often something happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Sum(Vec<u64>);

impl Sum {
    pub(super) fn add(&mut self, bin: usize, count: u64) {
        if self.0.len() <= bin {
            self.0.resize(bin + 1, 0);
        }
        self.0[bin] += count;
    }

    pub(super) fn fold(&mut self) {
        self.0 = self.0.chunks(2).map(|pair| pair.iter().sum()).collect();
    }

    pub(super) fn finish(mut self, used: usize) -> Vec<u64> {
        self.0.resize(used, 0);
        self.0
    }
}

/// How often each of `N` things happened, in each step of some bins.
#[derive(Clone, Debug)]
pub(super) struct Steps<const N: usize>(Vec<[u32; N]>);

impl<const N: usize> Default for Steps<N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<const N: usize> Steps<N> {
    /// Thing number `which` happened in bin number `bin`.
    pub(super) fn add(&mut self, bin: usize, which: usize) {
        let step = bin / STEP_BINS;
        if self.0.len() <= step {
            self.0.resize(step + 1, [0; N]);
        }
        if let Some(count) = self.0[step].get_mut(which) {
            *count = count.saturating_add(1);
        }
    }

    pub(super) fn fold(&mut self) {
        let sum = |pair: &[[u32; N]]| {
            std::array::from_fn(|which| {
                pair.iter().fold(0_u32, |sum, step| sum.saturating_add(step[which]))
            })
        };
        self.0 = self.0.chunks(2).map(sum).collect();
    }

    /// The steps in which anything happened, with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &[u32; N])> {
        self.0.iter().enumerate().filter(|(_, counts)| counts.iter().any(|count| *count > 0))
    }
}

/// A level over time: the highest value in each bin.
#[derive(Clone, Debug, Default)]
pub(super) struct Level {
    now: u64,
    peak: u64,
    most: Vec<u64>,
}

impl Level {
    pub(super) fn change(&mut self, bin: usize, by: i64) {
        // It stood as it was through the bins since.
        if self.most.len() <= bin {
            self.most.resize(bin + 1, self.now);
        }
        self.now = self.now.saturating_add_signed(by);
        self.peak = self.peak.max(self.now);
        self.most[bin] = self.most[bin].max(self.now);
    }

    pub(super) fn fold(&mut self) {
        self.most =
            self.most.chunks(2).map(|pair| pair.iter().copied().max().unwrap_or(0)).collect();
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    pub(super) fn peak(&self) -> u64 {
        self.peak
    }

    pub(super) fn finish(mut self, used: usize) -> Vec<u64> {
        self.most.resize(used, self.now);
        self.most
    }
}

/// How much of an address space was mapped, over time: rows of neighbouring pages that widen when
/// there are too many.
#[derive(Clone, Debug, Default)]
pub(super) struct Space {
    /// Pages of a row, as a power of two.
    row_shift: u32,
    /// By row: page-nanoseconds in each bin.
    rows: BTreeMap<u32, Vec<f64>>,
}

/// A row of the finished picture.
pub(super) struct Row {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) cells: String,
}

impl Space {
    /// The page at `iova` was mapped from `since` to `until`, in nanoseconds.
    pub(super) fn add(&mut self, iova: IovaPage, bins: &Bins, since: u64, until: u64) {
        let row = self.rows.entry(iova.0 >> self.row_shift).or_default();
        let (first, last) = (bins.of(since), bins.of(until));
        if row.len() <= last {
            row.resize(last + 1, 0.0);
        }
        for (bin, cell) in row.iter_mut().enumerate().take(last + 1).skip(first) {
            let begin = bins.start + bin as u64 * bins.width;
            let end = begin.saturating_add(bins.width);
            // A short mapping counts for a little, so that it is seen.
            *cell += until.min(end).saturating_sub(since.max(begin)).max(1) as f64;
        }
        while self.rows.len() > MAX_ROWS {
            self.coarsen();
        }
    }

    fn coarsen(&mut self) {
        self.row_shift += 1;
        for (number, cells) in std::mem::take(&mut self.rows) {
            let row = self.rows.entry(number >> 1).or_default();
            if row.len() < cells.len() {
                row.resize(cells.len(), 0.0);
            }
            row.iter_mut().zip(cells).for_each(|(to, from)| *to += from);
        }
    }

    pub(super) fn fold(&mut self) {
        for row in self.rows.values_mut() {
            *row = row.chunks(2).map(|pair| pair.iter().sum()).collect();
        }
    }

    /// The rows, highest address first, as pictures of address spaces are.
    pub(super) fn finish(self, bins: &Bins, used: usize) -> Vec<Row> {
        let page = PAGE_BYTES as u64;
        let full = bins.width as f64 * f64::from(1_u32 << self.row_shift.min(31));
        let rows = self.rows.into_iter().rev().map(|(number, cells)| {
            let start = (u64::from(number) << self.row_shift) * page;
            let digit = |bin: usize| match cells.get(bin).copied().unwrap_or(0.0) {
                0.0 => '0',
                // The scale is of square roots: what is used for a thousandth is still seen.
                filled => char::from(b'1' + ((filled / full).min(1.0).sqrt() * 8.0).round() as u8),
            };
            Row {
                start,
                end: start + (page << self.row_shift),
                cells: (0..used).map(digit).collect(),
            }
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_widen_until_the_end_fits_and_nothing_is_lost() {
        let (mut bins, mut sum, mut level) = (Bins::default(), Sum::default(), Level::default());
        bins.begin(1000);
        for step in 0..10_000_u64 {
            let now = 1000 + step * 1_000_000;
            while bins.must_widen(now) {
                bins.widen();
                sum.fold();
                level.fold();
            }
            sum.add(bins.of(now), 1);
            level.change(bins.of(now), if step < 100 { 1 } else { 0 });
        }
        let used = bins.of(1000 + 9_999 * 1_000_000) + 1;
        assert!(used > MOST / 2 && used <= MOST);
        assert_eq!(sum.finish(used).iter().sum::<u64>(), 10_000);
        assert_eq!((level.peak(), level.now()), (100, 100));
        assert!(level.finish(used).iter().skip(12).all(|value| *value == 100));
    }

    #[test]
    fn a_space_has_a_row_for_what_is_used_and_coarser_ones_when_there_are_many() {
        let bins = Bins::default();
        let mut space = Space::default();
        space.add(IovaPage(0xfffff), &bins, 0, FIRST_WIDTH * 2);
        space.add(IovaPage(0x100), &bins, FIRST_WIDTH, FIRST_WIDTH + FIRST_WIDTH / 4);
        let rows = space.clone().finish(&bins, 4);
        let shown: Vec<(u64, &str)> =
            rows.iter().map(|row| (row.start, row.cells.as_str())).collect();
        assert_eq!(shown, [(0xffff_f000, "9910"), (0x10_0000, "0500")]);
        for page in 0..10_000 {
            space.add(IovaPage(page), &bins, 0, 10);
        }
        assert!(space.rows.len() <= MAX_ROWS);
        assert!(space.finish(&bins, 4).iter().all(|row| row.cells.len() == 4));
    }

    #[test]
    fn steps_add_up_however_often_they_fold() {
        let mut steps = Steps::<3>::default();
        for bin in 0..MOST {
            steps.add(bin, bin % 2);
        }
        steps.fold();
        steps.add(MOST / 2, 2);
        let sums: Vec<(usize, u32)> =
            steps.iter().map(|(step, counts)| (step, counts.iter().sum())).collect();
        assert_eq!(sums.len(), MOST / STEP_BINS / 2 + 1);
        assert_eq!(sums[0], (0, 2 * STEP_BINS as u32));
        assert_eq!(sums[sums.len() - 1], (MOST / STEP_BINS / 2, 1));
    }
}
