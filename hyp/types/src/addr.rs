//! Page and frame numbers, with one type for each address space.
//!
//! Addresses from hardware or a guest are converted to one of these types where they enter the
//! engine; inside it, no raw `u64` is an address. The only conversion between the guest's and the
//! host's numbers is [`Gfn::home`], whose name states its assumption.

/// Bytes in a guest page and in a page of the CPUs' stage 2: 4 KiB.
pub const PAGE_BYTES: usize = 4096;
/// Eight-byte words in a page.
pub const PAGE_WORDS: usize = PAGE_BYTES / 8;
/// Bytes in a granule and in a frame: 16 KiB, the only unit that the hardware IOMMU translates in.
pub const FRAME_BYTES: usize = 16384;
/// Pages in a frame, slots in a granule.
pub const SLOTS: usize = FRAME_BYTES / PAGE_BYTES;

/// Guest frame number: a guest-physical address divided by 4 KiB. Covers 44 bits of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gfn(pub u32);

impl Gfn {
    /// The page that holds guest-physical `address`, or `None` past 44 bits.
    pub fn containing(address: u64) -> Option<Self> {
        u32::try_from(address >> 12).ok().map(Self)
    }

    /// The page's first guest-physical address.
    pub fn address(self) -> u64 {
        u64::from(self.0) << 12
    }

    /// The page's home: the host page at the same address, where the page is unless it has
    /// migrated.
    pub fn home(self) -> Hfn {
        Hfn(self.0)
    }

    /// The page's slot, 0 to 3, in the 16 KiB frame that contains it.
    pub fn slot(self) -> usize {
        (self.0 & 3) as usize
    }
}

/// Host frame number: a host-physical address divided by 4 KiB. Covers 44 bits of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hfn(pub u32);

impl Hfn {
    /// The page's first host-physical address.
    pub fn address(self) -> u64 {
        u64::from(self.0) << 12
    }

    /// The 16 KiB frame that contains the page.
    pub fn frame(self) -> HostGranule {
        HostGranule(self.0 >> 2)
    }
}

/// A 16 KiB frame of host memory: its host-physical address divided by 16 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostGranule(pub u32);

impl HostGranule {
    /// The frame's first host-physical address.
    pub fn address(self) -> u64 {
        u64::from(self.0) << 14
    }

    /// The page in slot `slot` (0 to 3; higher bits are ignored) of the frame.
    pub fn page(self, slot: usize) -> Hfn {
        Hfn(self.0 << 2 | (slot & 3) as u32)
    }
}

/// A run of adjacent slots of a granule or frame, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRun {
    first: u8,
    last: u8,
}

impl SlotRun {
    /// Every slot.
    pub const ALL: Self = Self { first: 0, last: SLOTS as u8 - 1 };

    /// The slots from `first` to `last`, or `None` unless `first <= last < SLOTS`.
    pub fn new(first: usize, last: usize) -> Option<Self> {
        (first <= last && last < SLOTS).then_some(Self { first: first as u8, last: last as u8 })
    }

    /// The shortest run that has all slots in `members`, or `None` if there is none.
    pub fn around(members: [bool; SLOTS]) -> Option<Self> {
        let first = members.iter().position(|is_member| *is_member)?;
        Self::new(first, members.iter().rposition(|is_member| *is_member)?)
    }

    /// The lowest slot.
    pub fn first(self) -> usize {
        usize::from(self.first)
    }

    /// The highest slot.
    pub fn last(self) -> usize {
        usize::from(self.last)
    }

    /// Whether `slot` is in the run.
    pub fn contains(self, slot: usize) -> bool {
        (self.first()..=self.last()).contains(&slot)
    }
}

/// Number of a 4 KiB page of IOVA space: an IOVA divided by 4 KiB. 20 bits are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IovaPage(pub u32);

impl IovaPage {
    /// The page's first IOVA.
    pub fn iova(self) -> u64 {
        u64::from(self.0) << 12
    }

    /// The 16 KiB granule that contains the page.
    pub fn granule(self) -> Granule {
        Granule(self.0 >> 2)
    }

    /// The page's slot, 0 to 3, in its granule.
    pub fn slot(self) -> usize {
        (self.0 & 3) as usize
    }
}

/// Number of a granule, the IOVA range of one hardware entry: an IOVA divided by 16 KiB. 18 bits
/// are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Granule(pub u32);

impl Granule {
    /// The page in `slot` (0 to 3; higher bits are ignored) of the granule.
    pub fn page(self, slot: usize) -> IovaPage {
        IovaPage(self.0 << 2 | (slot & 3) as u32)
    }

    /// The granule's first IOVA.
    pub fn iova(self) -> u64 {
        u64::from(self.0) << 14
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_number_goes_to_its_frame_and_back() {
        let page = Hfn(0x8_0003);
        assert_eq!(page.frame(), HostGranule(0x2_0000));
        assert_eq!(page.frame().page(3), page);
        assert_eq!(IovaPage(0xbff43).granule().page(3), IovaPage(0xbff43));
        assert_eq!(Gfn(0x1_2346).slot(), 2);
    }

    #[test]
    fn a_run_is_the_shortest_around_its_slots() {
        assert_eq!(SlotRun::around([false; SLOTS]), None);
        assert_eq!(SlotRun::around([true; SLOTS]), Some(SlotRun::ALL));
        let run = SlotRun::around([false, true, false, true]);
        assert_eq!(run, SlotRun::new(1, 3));
        assert!(run.is_some_and(|run| run.contains(2) && !run.contains(0)));
        assert_eq!(SlotRun::new(2, 1), None);
        assert_eq!(SlotRun::new(0, SLOTS), None);
    }

    #[test]
    fn an_address_past_44_bits_is_no_guest_page() {
        assert_eq!(Gfn::containing((1 << 44) - 1), Some(Gfn(u32::MAX)));
        assert_eq!(Gfn::containing(1 << 44), None);
    }
}
