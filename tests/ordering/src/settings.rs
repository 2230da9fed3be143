//! The plugin's arguments.

use std::path::PathBuf;

/// Addresses, the end outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
}

impl Range {
    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

/// Bytes of a CPU's counters, 64 bits each.
pub const COUNTERS_BYTES: u64 = 512;

/// What the plugin is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `image=`: Oche's image in memory. Only instructions in it are looked at.
    pub image: Option<Range>,
    /// `report=`: the file to write.
    pub report: PathBuf,
    /// `symbols=`: a file with a line for each function, its hexadecimal address and its name.
    pub symbols: Option<PathBuf>,
    /// `vectors=`: EL2's vector table.
    pub vectors: Option<u64>,
    /// `tables=`: stage-2 tables.
    pub tables: Vec<Range>,
    /// `own=`: stage-1 tables of EL2.
    pub own_tables: Vec<Range>,
    /// `shared=`: Normal memory that devices read and write: the frame pool, guest RAM, queues.
    pub shared: Vec<Range>,
    /// `device=`: registers; a store there may have a device read `shared`.
    pub devices: Vec<Range>,
    /// `completion=`: registers by which a device reports that it is done with `shared`.
    pub completions: Vec<Range>,
    /// `consumer=`: registers by which EL2 gives memory in `shared` back to a device.
    pub consumers: Vec<Range>,
    /// `handoff=`: memory that EL2 writes for CPUs with their caches off, announced by `SEV` or
    /// `SMC`.
    pub handoff: Vec<Range>,
    /// `announced=`: memory that EL2 writes for CPUs that firmware starts by `SMC`.
    pub announced: Vec<Range>,
    /// `descriptors=`: an IOMMU's descriptors of 64 bytes, the first word of which makes the others
    /// valid.
    pub descriptors: Vec<Range>,
    /// `mailbox=`: words that CPUs with their caches off write, and EL2 reads.
    pub mailbox: Vec<Range>,
    /// `start=`: where a CPU begins that firmware starts; what it executes until it enters the
    /// guest is no exit.
    pub start: Option<u64>,
    /// `waiting=`: code that waits for a lock.
    pub waiting: Vec<Range>,
    /// `counters=`: what counts the exits of each CPU, [`COUNTERS_BYTES`] for each.
    pub counters: Option<Range>,
    /// `kinds=`: how many of a CPU's counters, the first ones, count exits.
    pub kinds: u64,
    /// `loaded=`: the guest as loaded, which begins with its caches off.
    pub loaded: Vec<Range>,
}

impl Settings {
    /// Reads arguments such as `image=40000000-40200000`.
    ///
    /// # Errors
    ///
    /// An argument is unknown or malformed, or the image or the report is not named.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut settings = Self::default();
        for argument in arguments {
            let malformed = || format!("cannot read the argument {argument}");
            let (name, value) = argument.split_once('=').ok_or_else(malformed)?;
            let range = || parse_range(value).ok_or_else(malformed);
            let address = || u64::from_str_radix(value, 16).map_err(|_| malformed());
            match name {
                "image" => settings.image = Some(range()?),
                "report" => settings.report = value.into(),
                "symbols" => settings.symbols = Some(value.into()),
                "vectors" => settings.vectors = Some(address()?),
                "start" => settings.start = Some(address()?),
                "kinds" => settings.kinds = address()?,
                "tables" => settings.tables.push(range()?),
                "own" => settings.own_tables.push(range()?),
                "shared" => settings.shared.push(range()?),
                "device" => settings.devices.push(range()?),
                "completion" => settings.completions.push(range()?),
                "consumer" => settings.consumers.push(range()?),
                "handoff" => settings.handoff.push(range()?),
                "announced" => settings.announced.push(range()?),
                "descriptors" => settings.descriptors.push(range()?),
                "mailbox" => settings.mailbox.push(range()?),
                "waiting" => settings.waiting.push(range()?),
                "counters" => settings.counters = Some(range()?),
                "loaded" => settings.loaded.push(range()?),
                _ => return Err(malformed()),
            }
        }
        if settings.image.is_none() || settings.report.as_os_str().is_empty() {
            return Err("image= and report= are needed".to_owned());
        }
        Ok(settings)
    }
}

fn parse_range(text: &str) -> Option<Range> {
    let (start, end) = text.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    (start < end).then_some(Range { start, end })
}

#[cfg(test)]
mod tests {
    use super::{Range, Settings};

    fn parse(arguments: &[&str]) -> Result<Settings, String> {
        Settings::parse(arguments.iter().map(|argument| (*argument).to_owned()))
    }

    #[test]
    fn ranges_are_read_and_wrong_arguments_are_named() {
        let settings =
            parse(&["image=1000-2000", "report=/r", "device=10-20", "device=30-40", "kinds=c"])
                .unwrap();
        assert_eq!(settings.image, Some(Range { start: 0x1000, end: 0x2000 }));
        assert_eq!((settings.devices.len(), settings.kinds), (2, 12));
        for wrong in ["image=1", "image=2-1", "colour=1-2", "image"] {
            assert!(
                parse(&[wrong, "report=/r"]).is_err_and(|error| error.contains(wrong)),
                "{wrong}"
            );
        }
        assert!(parse(&["image=1-2"]).is_err());
    }
}
