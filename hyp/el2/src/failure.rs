//! The codes of failures, by which they are looked up in `docs/troubleshooting.md`.
//!
//! A code never changes its meaning, and a code that is gone is not used again.

macro_rules! failures {
    ($($(#[doc = $text:literal])* $name:ident = $code:literal,)*) => {
        /// Why Oche cannot go on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Failure {
            $($(#[doc = $text])* $name,)*
        }

        impl Failure {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code.
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$name => $code),*
                }
            }
        }
    };
}

failures! {
    /// The CPU has no FEAT_VHE.
    NoHostExtensions = "B01",
    /// x0 leads to no FDT.
    NoFdt = "B02",
    /// The FDT is refused.
    Fdt = "B03",
    /// The FDT is another machine's.
    OtherMachine = "B04",
    /// `HCR_EL2` does not hold what the entry has written.
    Configuration = "B05",
    /// The CPU has no FEAT_S2FWB.
    NoForcedWriteBack = "B06",
    /// Oche's image is not in RAM.
    ImagePlace = "B07",
    /// The payload or the packed kernel is refused.
    Payload = "B08",
    /// There is no memory layout.
    Layout = "B09",
    /// EL2 has no room to map memory or registers.
    OwnMap = "B10",
    /// Stage 2 cannot be built.
    Stage2 = "B11",
    /// A table has a block where only pages may be.
    Block = "B12",
    /// A CPU's release address cannot be stored to.
    ReleaseAddress = "B13",
    /// The guest's FDT cannot be made.
    GuestFdt = "B14",
    /// The heap is exhausted, or was used after it was sealed.
    Heap = "B15",
    /// QEMU's SMMU or PCI host cannot be used.
    Smmu = "B16",
    /// A panic: a broken invariant.
    Invariant = "P01",
    /// A panic: any other.
    Panic = "P02",
    /// A data abort at EL2.
    DataAbort = "P03",
    /// An instruction abort at EL2.
    InstructionAbort = "P04",
    /// An SError at EL2.
    SystemError = "P05",
    /// A stack overflow at EL2.
    StackOverflow = "P06",
    /// Any other exception at EL2.
    Exception = "P07",
}

impl Failure {
    /// The class of a panic with this message.
    pub fn of_panic(message: &dyn core::fmt::Display) -> Self {
        let mut prefix = Prefix { rest: "invariant", is_broken: false };
        // It fails as soon as the message differs.
        let _ = core::fmt::write(&mut prefix, format_args!("{message}"));
        if prefix.rest.is_empty() && !prefix.is_broken { Self::Invariant } else { Self::Panic }
    }
}

/// Compares what is written with a text, without memory for it.
struct Prefix {
    rest: &'static str,
    is_broken: bool,
}

impl core::fmt::Write for Prefix {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let length = self.rest.len().min(text.len());
        if self.rest.as_bytes().get(..length) != text.as_bytes().get(..length) {
            self.is_broken = true;
            return Err(core::fmt::Error);
        }
        self.rest = self.rest.get(length..).unwrap_or("");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Failure;

    #[test]
    fn no_two_failures_have_one_code() {
        for (index, one) in Failure::ALL.iter().enumerate() {
            let others = Failure::ALL.iter().skip(index + 1);
            assert!(others.clone().all(|other| other.code() != one.code()), "{one:?}");
        }
    }

    #[test]
    fn a_panic_is_a_broken_invariant_if_its_message_begins_so() {
        let of = |message: std::fmt::Arguments<'_>| Failure::of_panic(&message);
        let name = "riant: it holds";
        assert_eq!(of(format_args!("inva{name}")), Failure::Invariant);
        assert_eq!(of(format_args!("invariant")), Failure::Invariant);
        assert_eq!(of(format_args!("inva{}", "lid")), Failure::Panic);
        assert_eq!(of(format_args!("")), Failure::Panic);
        assert_eq!(of(format_args!("an invariant")), Failure::Panic);
    }
}
