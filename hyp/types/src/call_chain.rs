//! A chain of callers, as distances from the instruction that trapped.
//!
//! A kernel's code and its modules lie within 2 GiB of each other, since their branches and their
//! relative references must reach. Source: Linux 6.1 `arch/arm64/kernel/{kaslr,module}.c`, 6.12
//! `arch/arm64/kernel/module.c`. So 32 bits are enough for an address, and what the record needs
//! besides, the program counter, is in the record anyway: a chain can be read wherever a recording
//! begins. An address that is further away is not stored: the chain ends there, and is marked.

/// Most callers of a chain.
///
/// Between a flush and the driver that had something mapped are at most eight functions of Linux's
/// DART driver, IOMMU and DMA layers, and two more where virtio or SCSI map on behalf of others.
/// Two distances fit into the first record and four into each that follows, so ten take three.
pub const MAX_CALLERS: usize = 10;

/// Words of a chain's distances.
pub const CHAIN_WORDS: usize = MAX_CALLERS / 2;

/// Where the functions under way return to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallChain {
    /// Distances of the return addresses in bytes, two in a word, innermost first: the first in
    /// bits 31:0. 0 behind the last.
    pub words: [u64; CHAIN_WORDS],
    /// How many there are, at most [`MAX_CALLERS`].
    pub count: usize,
    /// Whether the chain may go on: its end was not seen.
    pub is_cut: bool,
}

/// From where distances are measured: 2^31 bytes before the instruction that trapped, so that they
/// are not negative, and cheaper to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin(u64);

/// A distance from an [`Origin`], as little-endian bytes.
pub type FromOrigin = [u8; 4];

/// What is at the instruction itself, and stands for no distance.
pub const NO_DISTANCE: FromOrigin = (1_u32 << 31).to_le_bytes();
/// What is added to each of two distances in a word.
const BIAS: u64 = 1 << 31 | 1 << 63;

impl Origin {
    /// The origin for an event of the instruction at `program_counter`.
    #[inline(always)]
    pub fn of(program_counter: u64) -> Self {
        // Made unknown to the compiler, or it would subtract twice for each address.
        Self(core::hint::black_box(program_counter.wrapping_sub(1 << 31)))
    }

    /// The distance of `address`, one of the kernel's, or `None` if it is too far away or none of
    /// the kernel's: bit 55 selects the half of the address space, and the kernel has the upper
    /// one. The other bits above 47 are copies of it, or hold a pointer authentication code.
    /// Source: Arm ARM DDI 0487, "Pointer authentication", D8.8 in issue J.
    #[inline(always)]
    pub fn distance(self, address: u64) -> Option<FromOrigin> {
        let distance = address.wrapping_sub(self.0);
        let is_near = distance & 0xffff_0000_0000 == 0;
        if is_kernel(address) && is_near { Some((distance as u32).to_le_bytes()) } else { None }
    }
}

impl CallChain {
    /// The chain of `count` distances, with [`NO_DISTANCE`] behind them.
    #[inline(always)]
    pub fn new(distances: &[FromOrigin; MAX_CALLERS], count: usize, is_cut: bool) -> Self {
        let mut words = [0; CHAIN_WORDS];
        for (to, from) in words.iter_mut().zip(distances.as_flattened().as_chunks().0) {
            *to = u64::from_le_bytes(*from) ^ BIAS;
        }
        Self { words, count, is_cut }
    }
}

/// Whether `address` is in the half of the address space that kernels have.
#[inline(always)]
pub fn is_kernel(address: u64) -> bool {
    address >> 55 & 1 == 1
}

/// The address at `distance` from `program_counter`.
pub fn address(program_counter: u64, distance: i32) -> u64 {
    program_counter.wrapping_add_signed(i64::from(distance))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The distance as it is stored.
    fn distance(from: u64, to: u64) -> Option<i32> {
        let distances = [Origin::of(from).distance(to)?; MAX_CALLERS];
        Some(CallChain::new(&distances, MAX_CALLERS, false).words[4] as i32)
    }

    const KERNEL: u64 = 0xffff_8000_0812_3450;

    #[test]
    fn an_address_within_two_gibibytes_comes_back_without_its_signature() {
        for (from, to) in [
            (KERNEL, KERNEL),
            (KERNEL, KERNEL - 4),
            (KERNEL, KERNEL + 0x7fff_ffff),
            (KERNEL, KERNEL - 0x8000_0000),
            (0xffff_ffff_ffff_fffc, 0xffff_ffff_8000_0000),
        ] {
            let near = distance(from, to).expect("near");
            assert_eq!(address(from, near), to);
            // Bits 54:48 hold a code, and 63:56 too unless the top byte is ignored.
            for code in [1 << 48, 0x5a << 48, 0x7f << 48, 0xff7f << 48] {
                assert_eq!(distance(from, to ^ code), Some(near), "{to:#x} {code:#x}");
            }
        }
    }

    #[test]
    fn what_is_further_away_or_in_the_other_half_has_no_distance() {
        for to in [
            KERNEL + 0x8000_0000,
            KERNEL - 0x8000_0001,
            KERNEL ^ 1 << 40,
            KERNEL ^ 1 << 55,
            KERNEL & 0x0000_ffff_ffff_ffff,
            0,
        ] {
            assert_eq!(distance(KERNEL, to), None, "{to:#x}");
        }
    }
}
