//! Whether Oche's copies of pages are coherent with RAM that the guest maps Non-cacheable.
//!
//! Oche copies pages and fills bounce pages through cacheable mappings, without cache maintenance.
//! Where stage 2 does not force guest RAM to Write-Back, a Non-cacheable mapping of the guest
//! misses what is in a cache, and a later eviction overwrites the stores made through it.

/// What keeps the copies coherent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coherence {
    /// Stage 2 forces guest RAM to Write-Back (FEAT_S2FWB).
    ForcedWriteBack,
    /// The CPU has no caches: it is an emulator's.
    NoCaches,
    /// Nothing: bytes would be lost.
    Nothing,
}

impl Coherence {
    /// The coherence on a CPU, by `ID_AA64MMFR2_EL1.FWB` and the implementer in `MIDR_EL1`.
    ///
    /// Apple's CPUs have caches. CPUs of other implementers run Oche in emulators alone, and QEMU
    /// models no caches.
    pub fn of(has_forced_write_back: bool, is_apple: bool) -> Self {
        match (has_forced_write_back, is_apple) {
            (true, _) => Self::ForcedWriteBack,
            (false, false) => Self::NoCaches,
            (false, true) => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Coherence;

    #[test]
    fn cpu_of_apple_without_forced_write_back_is_not_coherent() {
        assert_eq!(Coherence::of(true, true), Coherence::ForcedWriteBack);
        assert_eq!(Coherence::of(false, true), Coherence::Nothing);
    }

    #[test]
    fn emulated_cpu_is_coherent_without_forced_write_back() {
        assert_eq!(Coherence::of(true, false), Coherence::ForcedWriteBack);
        assert_eq!(Coherence::of(false, false), Coherence::NoCaches);
    }
}
