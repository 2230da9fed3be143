//! Power domains, by their registers.

/// The state of a device, by the register of its power domain.
///
/// Source of the bits: Linux `drivers/pmdomain/apple/pmgr-pwrstate.c`, `APPLE_PMGR_*`; m1n1
/// `src/pmgr.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// Its registers answer. That includes a domain whose clock gates by itself: it wakes at an
    /// access, and the device has kept what it held.
    On,
    /// Its registers do not answer, and it may have kept what it held: its clock is off, it is
    /// disabled, or the domain is on its way to another state.
    Unreachable,
    /// It has no power or is being reset, and has forgotten what it held.
    Off,
}

/// The device is held in reset. A reset needs power and a clock to have an effect.
const RESET: u32 = 1 << 31;
/// The domain may gate its clock by itself, and turns it on by itself.
const AUTO_ENABLE: u32 = 1 << 28;
/// The device is cut off from the CPUs and from memory.
const DEVICE_DISABLE: u32 = 1 << 10;
/// States, in bits 3:0 (asked for) and 7:4 (reached).
const ACTIVE: u32 = 0xf;
const POWER_GATED: u32 = 0;

impl Power {
    /// The state that the register's `value` shows.
    ///
    /// The rule for "on" is Linux's `apple_pmgr_ps_is_active`, with devices that are disabled or in
    /// reset excluded.
    pub fn from_register(value: u32) -> Self {
        let (target, actual) = (value & 0xf, value >> 4 & 0xf);
        let is_automatic = target == ACTIVE && value & AUTO_ENABLE != 0;
        if actual == POWER_GATED && !is_automatic || actual == ACTIVE && value & RESET != 0 {
            Self::Off
        } else if value & (RESET | DEVICE_DISABLE) == 0 && (actual == ACTIVE || is_automatic) {
            Self::On
        } else {
            Self::Unreachable
        }
    }

    /// The state of a device in all of `domains`. A device in no domain is on.
    pub fn of_all(domains: impl IntoIterator<Item = Self>) -> Self {
        let mut domains = domains.into_iter();
        let Some(first) = domains.next() else { return Self::On };
        domains.fold(first, |all, next| if all == next { all } else { Self::Unreachable })
    }
}

#[cfg(test)]
mod tests {
    use super::Power;

    #[test]
    fn a_power_domain_is_on_by_its_state_or_by_gating_its_clock_by_itself() {
        for (value, power) in [
            (0x0000_00ff, Power::On),
            (0x1000_00ff, Power::On),
            // The clock is gated by itself, and was before.
            (0x1000_004f, Power::On),
            (0x1000_034f, Power::On),
            // The same without the leave to do so: on its way, or held there.
            (0x0000_004f, Power::Unreachable),
            (0x0000_0044, Power::Unreachable),
            (0x1000_0044, Power::Unreachable),
            (0x1000_0040, Power::Unreachable),
            // On its way to another state: it still answers.
            (0x0000_00f0, Power::On),
            (0x0000_0000, Power::Off),
            (0x0000_000f, Power::Off),
            (0x1000_0000, Power::Off),
            // Held in reset, with a clock and without.
            (0x9000_00ff, Power::Off),
            (0x9000_004f, Power::Unreachable),
            // Disabled: no source documents that it forgets.
            (0x1000_04ff, Power::Unreachable),
            (0x0000_0400, Power::Off),
        ] {
            assert_eq!(Power::from_register(value), power, "{value:#x}");
        }
    }

    #[test]
    fn a_device_in_several_domains_needs_all_of_them() {
        let of = |domains: &[Power]| Power::of_all(domains.iter().copied());
        assert_eq!(of(&[]), Power::On);
        assert_eq!(of(&[Power::On, Power::On]), Power::On);
        assert_eq!(of(&[Power::On, Power::Off]), Power::Unreachable);
        assert_eq!(of(&[Power::Off, Power::Off]), Power::Off);
        assert_eq!(of(&[Power::Off, Power::Off, Power::Unreachable]), Power::Unreachable);
    }
}
