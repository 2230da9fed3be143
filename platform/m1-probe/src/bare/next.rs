//! What follows the report.

use oche_boot::bare::handover::NativeStart;
use oche_m1_probe::settings::Settings;

/// What follows when the report has been shown.
pub(super) enum Next {
    /// U-Boot, after so many seconds.
    UBoot { start: NativeStart, seconds: u32 },
    /// Nothing, for this reason.
    Nothing(&'static str),
}

impl Next {
    /// What `settings` ask for, if it can be done. `is_alone`: no other CPU executes the probe.
    pub(super) fn of(settings: Settings, is_alone: bool) -> Self {
        if !settings.has_next {
            return Self::Nothing("hold the power button to turn off");
        }
        if !is_alone {
            return Self::Nothing("no U-Boot: a CPU did not come back");
        }
        match NativeStart::find() {
            Ok(Some(start)) => Self::UBoot { start, seconds: settings.seconds },
            Ok(None) => Self::Nothing("no U-Boot is packed"),
            Err(reason) => Self::Nothing(reason),
        }
    }
}
