//! Commands to the SMMU, as the two 64-bit words of a queue entry. Source: ARM IHI 0070, chapter 4.

use super::structures::Asid;
use crate::iommu_map::RequesterId;

/// 64-bit words of a command.
pub const COMMAND_WORDS: usize = 2;

/// The commands that Oche uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// CMD_CFGI_STE_RANGE over all StreamIDs (4.3.2): invalidate every configuration structure.
    ForgetAllConfiguration,
    /// CMD_CFGI_STE (4.3.1): invalidate a requester's entry and what was read through it.
    ForgetEntry(RequesterId),
    /// CMD_CFGI_CD (4.3.3): invalidate the context descriptor of a requester.
    ForgetContext(RequesterId),
    /// CMD_TLBI_NSNH_ALL (4.4.3): invalidate every non-secure translation.
    DropAllTranslations,
    /// CMD_TLBI_NH_ASID (4.4.2): invalidate the translations of one domain.
    DropTranslations(Asid),
    /// CMD_SYNC (4.7.3) without a completion signal: it is complete when it has been consumed.
    Synchronize,
}

impl Command {
    /// The entry's words.
    pub fn words(self) -> [u64; COMMAND_WORDS] {
        match self {
            // Range, bits 4:0 of word 1: 31 means all.
            Self::ForgetAllConfiguration => [0x04, 31],
            // Leaf, bit 0 of word 1: the level 1 descriptor is unchanged.
            Self::ForgetEntry(RequesterId(id)) => [0x03 | u64::from(id) << 32, 1],
            Self::ForgetContext(RequesterId(id)) => [0x05 | u64::from(id) << 32, 1],
            Self::DropAllTranslations => [0x30, 0],
            Self::DropTranslations(Asid(asid)) => [0x11 | u64::from(asid) << 48, 0],
            Self::Synchronize => [0x46, 0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_its_requester_or_domain_where_the_manual_draws_it() {
        assert_eq!(Command::ForgetEntry(RequesterId(0x108)).words(), [0x0000_0108_0000_0003, 1]);
        assert_eq!(Command::ForgetContext(RequesterId(0x108)).words(), [0x0000_0108_0000_0005, 1]);
        assert_eq!(Command::DropTranslations(Asid(7)).words(), [0x0007_0000_0000_0011, 0]);
    }
}
