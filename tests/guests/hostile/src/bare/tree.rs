//! As much of the FDT as this guest needs: a word on its command line, and which memory it was not
//! given.

/// The blob, as it lies in memory.
pub(super) struct Tree(&'static [u8]);

/// Most holes.
pub(super) const HOLES: usize = 4;

impl Tree {
    /// The blob at `address`.
    pub(super) fn at(address: u64) -> Self {
        let pointer = address as *const u8;
        // SAFETY: the booting contract puts an FDT there, and its header has 40 bytes.
        let header = unsafe { core::slice::from_raw_parts(pointer, 40) };
        let size = word(header, 4).unwrap_or(40) as usize;
        // SAFETY: the header says that the blob is that long.
        Self(unsafe { core::slice::from_raw_parts(pointer, size) })
    }

    /// Whether the text occurs anywhere.
    pub(super) fn contains(&self, text: &str) -> bool {
        self.0.windows(text.len()).any(|bytes| bytes == text.as_bytes())
    }

    /// The decimal number behind the first occurrence of `name`.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let at =
            self.0.windows(name.len()).position(|bytes| bytes == name.as_bytes())? + name.len();
        let digits = self.0.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(None, |number, digit| {
            Some(number.unwrap_or(0_u64).wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
        })
    }

    /// Addresses of memory that is Oche's: the last page before each gap in `/memory`'s ranges
    /// ends, and one a MiB behind them all. 0 where there is none.
    pub(super) fn holes(&self) -> [u64; HOLES] {
        let mut holes = [0; HOLES];
        let mut slots = holes.iter_mut();
        let mut last_end = 0;
        for range in self.memory().unwrap_or(&[]).chunks_exact(16) {
            let start = u64::from(word(range, 0).unwrap_or(0)) << 32
                | u64::from(word(range, 4).unwrap_or(0));
            let size = u64::from(word(range, 8).unwrap_or(0)) << 32
                | u64::from(word(range, 12).unwrap_or(0));
            if last_end != 0
                && last_end != start
                && let Some(slot) = slots.next()
            {
                *slot = start - 4096;
            }
            last_end = start + size;
        }
        if let Some(slot) = slots.next() {
            *slot = last_end + (1 << 20);
        }
        holes
    }

    /// The `reg` of the memory node.
    fn memory(&self) -> Option<&'static [u8]> {
        let strings = self.0.get(word(self.0, 12)? as usize..)?;
        let mut at = word(self.0, 8)? as usize;
        let mut is_memory = false;
        loop {
            let token = word(self.0, at)?;
            at += 4;
            match token {
                1 => {
                    let name = self.0.get(at..)?;
                    is_memory = name.starts_with(b"memory@");
                    at = (at + name.iter().position(|byte| *byte == 0)? + 4) & !3;
                }
                3 => {
                    let (length, name) =
                        (word(self.0, at)? as usize, word(self.0, at + 4)? as usize);
                    let value = self.0.get(at + 8..at + 8 + length)?;
                    if is_memory && strings.get(name..)?.starts_with(b"reg\0") {
                        return Some(value);
                    }
                    at = (at + 8 + length + 3) & !3;
                }
                2 | 4 => {}
                _ => return None,
            }
        }
    }
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset + 4)?.try_into().ok().map(u32::from_be_bytes)
}
