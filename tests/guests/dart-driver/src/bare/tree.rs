//! As much of the FDT as this guest needs: the CPUs, in order, and words on its command line.

/// The blob, as it lies in memory.
pub(super) struct Tree(&'static [u8]);

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

    /// Calls `found` with number, affinity and release address (0 without one) of each CPU.
    pub(super) fn cpus(&self, mut found: impl FnMut(usize, u64, u64)) {
        let mut count = 0;
        // Number, affinity, release address of the node that is being read.
        let mut now: Option<(u64, u64)> = None;
        self.each(|event| match event {
            Event::Begin(name) => now = name.starts_with(b"cpu@").then_some((0, 0)),
            Event::Property(name, value) => match (&mut now, name) {
                (Some((affinity, _)), b"reg") => *affinity = number(value),
                (Some((_, release)), b"cpu-release-addr") => *release = number(value),
                _ => {}
            },
            Event::End => {
                if let Some((affinity, release)) = now.take() {
                    found(count, affinity, release);
                    count += 1;
                }
            }
        });
    }

    /// Whether `word` stands on the command line.
    pub(super) fn says(&self, word: &[u8]) -> bool {
        let mut is_said = false;
        self.each(|event| {
            if let Event::Property(b"bootargs", value) = event {
                is_said |= value.windows(word.len()).any(|part| part == word);
            }
        });
        is_said
    }

    /// Calls `found` with start and bytes of each range of `/memory`.
    pub(super) fn memory(&self, mut found: impl FnMut(u64, u64)) {
        let mut is_memory = false;
        self.each(|event| match event {
            Event::Begin(name) => is_memory = name == b"memory" || name.starts_with(b"memory@"),
            Event::Property(b"reg", value) if is_memory => {
                value
                    .chunks_exact(16)
                    .for_each(|range| found(number(&range[..8]), number(&range[8..])));
            }
            Event::Property(..) => {}
            Event::End => is_memory = false,
        });
    }

    /// Calls `found` with start and bytes of each range of memory that the board has, Oche's too.
    pub(super) fn board_memory(&self, mut found: impl FnMut(u64, u64)) {
        self.each(|event| {
            if let Event::Property(b"board,memory", value) = event {
                value
                    .chunks_exact(16)
                    .for_each(|range| found(number(&range[..8]), number(&range[8..])));
            }
        });
    }

    /// Calls `found` with name, start, bytes and whether it is no-map, of each node of
    /// `/reserved-memory`; the blob's own list of reservations has empty names.
    pub(super) fn reserved(&self, mut found: impl FnMut(&[u8], u64, u64, bool)) {
        let mut at = word(self.0, 16).unwrap_or(0) as usize;
        while let Some(entry) = self.0.get(at..at + 16) {
            let (start, bytes) = (number(&entry[..8]), number(&entry[8..]));
            if start == 0 && bytes == 0 {
                break;
            }
            found(b"", start, bytes, false);
            at += 16;
        }
        let mut depth = 0;
        // Depth of the node, and the child that is being read.
        let mut parent = 0;
        let mut child: Option<([u8; 32], usize, u64, u64, bool)> = None;
        self.each(|event| match event {
            Event::Begin(name) => {
                depth += 1;
                if name == b"reserved-memory" {
                    parent = depth;
                } else if parent != 0 && depth == parent + 1 {
                    let mut kept = [0; 32];
                    let length = name.len().min(32);
                    kept[..length].copy_from_slice(&name[..length]);
                    child = Some((kept, length, 0, 0, false));
                }
            }
            Event::Property(name, value) => match (&mut child, name) {
                (Some((_, _, start, bytes, _)), b"reg") if value.len() >= 16 => {
                    (*start, *bytes) = (number(&value[..8]), number(&value[8..16]));
                }
                (Some((.., is_no_map)), b"no-map") => *is_no_map = true,
                _ => {}
            },
            Event::End => {
                if let Some((name, length, start, bytes, is_no_map)) = child.take() {
                    found(&name[..length], start, bytes, is_no_map);
                }
                if depth == parent {
                    parent = 0;
                }
                depth -= 1;
            }
        });
    }

    fn each(&self, mut seen: impl FnMut(Event<'_>)) -> Option<()> {
        let strings = self.0.get(word(self.0, 12)? as usize..)?;
        let mut at = word(self.0, 8)? as usize;
        loop {
            let token = word(self.0, at)?;
            at += 4;
            match token {
                1 => {
                    let name = text(self.0.get(at..)?)?;
                    seen(Event::Begin(name));
                    at = (at + name.len() + 4) & !3;
                }
                2 => seen(Event::End),
                3 => {
                    let (length, name) =
                        (word(self.0, at)? as usize, word(self.0, at + 4)? as usize);
                    let value = self.0.get(at + 8..at + 8 + length)?;
                    seen(Event::Property(text(strings.get(name..)?)?, value));
                    at = (at + 8 + length + 3) & !3;
                }
                4 => {}
                _ => return None,
            }
        }
    }
}

enum Event<'a> {
    Begin(&'a [u8]),
    Property(&'a [u8], &'a [u8]),
    End,
}

fn text(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(..bytes.iter().position(|byte| *byte == 0)?)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset + 4)?.try_into().ok().map(u32::from_be_bytes)
}
