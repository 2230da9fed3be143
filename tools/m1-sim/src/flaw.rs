//! Behaviour that Oche relies on and that a board can be made to lack, so that the probe reports
//! it.

/// What a board lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A DART's TCRs do not keep the bit that turns translation on.
    DartForgetsTranslation,
    /// A DART's TTBRs keep fewer bits than an M1's memory needs.
    NarrowTtbr,
    /// The interrupt controller has half of its lines.
    FewLines,
    /// The second CPU does not wait again after the function that it was sent to.
    KeepsCpu,
    /// EL2's timer does not wake the second CPU.
    SleepsOn,
}

impl Flaw {
    /// The bits of a DART's TCR and TTBR that keep what is written.
    pub(crate) fn kept_bits(flaw: Option<Self>) -> (u32, u32) {
        match flaw {
            Some(Self::DartForgetsTranslation) => (!0x80, u32::MAX),
            Some(Self::NarrowTtbr) => (u32::MAX, 0x803f_ffff),
            _ => (u32::MAX, u32::MAX),
        }
    }
}
