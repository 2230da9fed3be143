//! The options: `oche.NAME=VALUE`, from the payload's options text and from `/chosen`.
//!
//! An unknown name or a bad value is reported to the caller's `complain` and ignored: a typing
//! error must not keep a machine from booting.

use oche_el2::fiq::Route;
use oche_engine::Isolation;

/// How much the console prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(pub log::LevelFilter);

/// What Oche does if it cannot go on before the guest runs, and the packed kernel is U-Boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailOpen {
    /// Starts U-Boot without Oche.
    After {
        /// How long the reason stays on the screen before that.
        seconds: u8,
    },
    /// Stops the machine.
    Off,
}

impl Default for FailOpen {
    fn default() -> Self {
        Self::After { seconds: 10 }
    }
}

/// The values of all options.
#[derive(Clone, Copy, Debug)]
pub struct BootOptions<'a> {
    /// `oche.pool`: bytes of the frame pool. `None`: see
    /// [`default_pool_bytes`](crate::layout::default_pool_bytes).
    pub pool_bytes: Option<u64>,
    /// `oche.trace`: bytes of each CPU's trace ring; 0 turns the trace off.
    pub trace_bytes: u64,
    /// `oche.trace-orders`: what is recorded from the start, as commands of `oche trace filter`
    /// separated by `;`.
    pub trace_orders: Option<&'a str>,
    /// `oche.log`.
    pub log: Level,
    /// `oche.bootargs`: replaces the guest's command line.
    pub bootargs: Option<&'a str>,
    /// `oche.iommu-map`, for the board that reads it.
    pub iommu_map: Option<&'a str>,
    /// `oche.panic`: whether a panic of Oche resets the machine, if the board can; otherwise the
    /// machine stops.
    pub panic_resets: bool,
    /// `oche.isolation`: `page` or `strict`.
    pub isolation: Isolation,
    /// `oche.selftest`: `1` or `0`. Whether to run the self-test before the guest runs.
    pub selftest: bool,
    /// `oche.windows`: `1` or `0`. Whether sub-page windows are used, if the hardware has them.
    pub has_windows: bool,
    /// `oche.fiq`: `direct` or `virtual`.
    pub fiq: Route,
    /// `oche.darts`, for the board that reads it: `all`, `none`, or a list.
    pub darts: &'a str,
    /// `oche.fail-open`: seconds, or `off`.
    pub fail_open: FailOpen,
}

impl Default for BootOptions<'_> {
    fn default() -> Self {
        Self {
            pool_bytes: None,
            trace_bytes: 1 << 20,
            trace_orders: None,
            log: Level(log::LevelFilter::Info),
            bootargs: None,
            iommu_map: None,
            panic_resets: false,
            isolation: Isolation::default(),
            selftest: false,
            has_windows: true,
            fiq: Route::default(),
            darts: "all",
            fail_open: FailOpen::default(),
        }
    }
}

impl<'a> BootOptions<'a> {
    /// Parses every line of an options text. Empty lines and lines that begin with `#` are skipped.
    pub fn take_text(&mut self, text: &'a str, complain: &mut dyn FnMut(&str)) {
        for line in
            text.lines().map(|line| line.trim_matches(|c: char| c.is_whitespace() || c == '\0'))
        {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once('=') {
                Some((name, value)) => self.take(name.trim(), value.trim(), complain),
                None => complain(line),
            }
        }
    }

    /// Sets one option. The last setting of an option is used.
    pub fn take(&mut self, name: &str, value: &'a str, complain: &mut dyn FnMut(&str)) {
        let taken = match name {
            "oche.pool" => parse_size(value).map(|bytes| self.pool_bytes = Some(bytes)),
            "oche.trace" => parse_size(value).map(|bytes| self.trace_bytes = bytes),
            "oche.trace-orders" => {
                self.trace_orders = Some(value);
                Some(())
            }
            "oche.log" => parse_word(value, &LEVELS).map(|level| self.log = Level(level)),
            "oche.bootargs" => {
                self.bootargs = Some(value);
                Some(())
            }
            "oche.isolation" => {
                parse_word(value, &ISOLATIONS).map(|chosen| self.isolation = chosen)
            }
            "oche.selftest" => parse_word(value, &SWITCH).map(|chosen| self.selftest = chosen),
            "oche.windows" => parse_word(value, &SWITCH).map(|chosen| self.has_windows = chosen),
            "oche.fiq" => parse_word(value, &ROUTES).map(|chosen| self.fiq = chosen),
            "oche.darts" => {
                self.darts = value;
                Some(())
            }
            "oche.fail-open" => parse_fail_open(value).map(|chosen| self.fail_open = chosen),
            "oche.panic" => parse_word(value, &ENDS).map(|resets| self.panic_resets = resets),
            "oche.iommu-map" => {
                self.iommu_map = Some(value);
                Some(())
            }
            _ => None,
        };
        if taken.is_none() {
            complain(name);
        }
    }
}

/// Why `name` is no longer an option, if it was one in an earlier version.
pub fn retired(name: &str) -> Option<&'static str> {
    RETIRED.iter().find(|(known, _)| *known == name).map(|(_, why)| *why)
}

/// A number of bytes: decimal or 0x-hexadecimal, with an optional suffix K, M or G (powers of
/// 1024).
fn parse_size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (text.get(..text.len() - 1)?, 10),
        b'M' | b'm' => (text.get(..text.len() - 1)?, 20),
        b'G' | b'g' => (text.get(..text.len() - 1)?, 30),
        _ => (text, 0),
    };
    let number: u64 = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    number.checked_mul(1 << shift)
}

/// `off`, or a number of seconds.
fn parse_fail_open(text: &str) -> Option<FailOpen> {
    match text {
        "off" => Some(FailOpen::Off),
        _ => text.parse().ok().map(|seconds| FailOpen::After { seconds }),
    }
}

const LEVELS: [(&str, log::LevelFilter); 4] = [
    ("error", log::LevelFilter::Error),
    ("warn", log::LevelFilter::Warn),
    ("info", log::LevelFilter::Info),
    ("debug", log::LevelFilter::Debug),
];
/// BootOptions of earlier versions, with what replaces them.
const RETIRED: [(&str, &str); 1] =
    [("oche.coherence", "the copies of a page are one memory at every moment")];
const SWITCH: [(&str, bool); 2] = [("0", false), ("1", true)];
const ENDS: [(&str, bool); 2] = [("stop", false), ("reset", true)];
const ROUTES: [(&str, Route); 2] = [("direct", Route::Direct), ("virtual", Route::Virtual)];
const ISOLATIONS: [(&str, Isolation); 2] =
    [("page", Isolation::Page), ("strict", Isolation::Strict)];

fn parse_word<T: Copy>(text: &str, words: &[(&str, T)]) -> Option<T> {
    words.iter().find(|(name, _)| *name == text).map(|(_, meaning)| *meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_sets_what_it_names_and_complains_about_the_rest() {
        let mut complaints = Vec::new();
        let mut options = BootOptions::default();
        options.take_text(
            "# a comment\noche.pool=256M\noche.trace = 0\noche.bootargs=console=ttyAMA0 root=/dev/vda\n\
             oche.pol=1\noche.log=loud\nnonsense\n\0\0",
            &mut |name| complaints.push(name.to_string()),
        );
        assert_eq!(options.pool_bytes, Some(256 << 20));
        assert_eq!(options.trace_bytes, 0);
        assert_eq!(options.bootargs, Some("console=ttyAMA0 root=/dev/vda"));
        assert_eq!(complaints, ["oche.pol", "oche.log", "nonsense"]);
    }

    #[test]
    fn isolation_is_that_of_pages_unless_strict_is_chosen() {
        let mut complaints = 0;
        let mut options = BootOptions::default();
        options.take("oche.isolation", "sometimes", &mut |_| complaints += 1);
        assert_eq!((options.isolation, complaints), (Isolation::Page, 1));
        options.take("oche.isolation", "strict", &mut |_| panic!("it is good"));
        assert_eq!(options.isolation, Isolation::Strict);
    }

    #[test]
    fn a_retired_option_is_refused_with_its_reason() {
        let mut complaints = Vec::new();
        let mut options = BootOptions::default();
        options.take_text("oche.coherence=api", &mut |name| complaints.push(name.to_string()));
        assert_eq!(complaints, ["oche.coherence"]);
        assert!(retired("oche.coherence").is_some());
        assert_eq!(retired("oche.pool"), None);
    }

    #[test]
    fn fiqs_take_the_way_through_el2_only_if_a_person_says_so() {
        let mut complaints = Vec::new();
        let mut options = BootOptions::default();
        options.take("oche.fiq", "el2", &mut |name| complaints.push(name.to_string()));
        assert_eq!(
            (options.fiq, complaints.as_slice()),
            (Route::Direct, &["oche.fiq".to_string()][..])
        );
        options.take("oche.fiq", "virtual", &mut |_| panic!("it is good"));
        assert_eq!(options.fiq, Route::Virtual);
    }

    #[test]
    fn a_failure_starts_u_boot_after_some_seconds_unless_that_is_off() {
        let choice = |value| {
            let mut options = BootOptions::default();
            let mut is_refused = false;
            options.take("oche.fail-open", value, &mut |_| is_refused = true);
            (options.fail_open, is_refused)
        };
        assert_eq!(choice("off"), (FailOpen::Off, false));
        assert_eq!(choice("0"), (FailOpen::After { seconds: 0 }, false));
        assert_eq!(choice("60"), (FailOpen::After { seconds: 60 }, false));
        for refused in ["no", "", "256", "-1"] {
            assert_eq!(choice(refused), (FailOpen::After { seconds: 10 }, true), "{refused}");
        }
    }

    #[test]
    fn bad_sizes_are_refused_whole() {
        assert_eq!(parse_size("20000000000G"), None);
        assert_eq!(parse_size(""), None);
        assert_eq!(parse_size("0x10K"), Some(0x4000));
    }
}
