//! For tests: the guest makes Oche panic, so that the output of a panic can be checked.
#![expect(unsafe_code, reason = "a load that is to fail")]

/// HVC function ids, of the range for vendor-specific hypervisor calls (Arm DEN 0028): a panic, a
/// load from where nothing is mapped, and a stack that overflows.
const FIRST_FUNCTION: u64 = 0x8600_f000;

/// Panics as the guest requests, if it does.
pub(super) fn obey(function: u64) {
    match function.wrapping_sub(FIRST_FUNCTION) {
        0 => panic!("on the guest's request"),
        1 => read_nothing(),
        2 => {
            overflow(u64::MAX);
        }
        _ => {}
    }
}

fn read_nothing() {
    // SAFETY: none: stage 1 maps nothing there, and the exception that follows is the purpose.
    unsafe { core::ptr::without_provenance::<u64>(0x7f_ffff_f000).read_volatile() };
}

#[inline(never)]
#[expect(unconditional_recursion, reason = "it is to overflow the stack")]
fn overflow(depth: u64) -> u64 {
    let here = core::hint::black_box([depth; 16]);
    overflow(depth.wrapping_sub(1)).wrapping_add(here.iter().fold(0, |sum: u64, word| sum ^ word))
}
