//! Raising an interrupt for the guest. The guest owns the GIC, but setting an interrupt pending
//! does not interfere with it.

use core::ptr;

use oche_types::range::PhysRange;

/// The distributor. Source: QEMU 7.2 `hw/arm/virt.c`, `VIRT_GIC_DIST`.
pub const DISTRIBUTOR: PhysRange = PhysRange { start: 0x0800_0000, end: 0x0801_0000 };
/// `GICD_ISPENDR<n>`: a bit an interrupt, writing 1 makes it pending. Source: Arm IHI 0069,
/// 12.9.24.
const SET_PENDING: u64 = 0x200;
/// Shared peripheral interrupts begin here. Source: the same, 2.2.1.
const FIRST_SHARED: u32 = 32;

/// A shared peripheral interrupt that no device of the machine uses.
#[derive(Clone, Copy, Debug)]
pub struct SharedInterrupt {
    number: u32,
}

impl SharedInterrupt {
    /// Shared peripheral interrupt `number`, from 0 to 219.
    ///
    /// # Safety
    ///
    /// The distributor's registers must be mapped at [`DISTRIBUTOR`] as Device memory, and stay so.
    pub unsafe fn new(number: u32) -> Self {
        Self { number: number.min(219) }
    }

    /// Sets the interrupt pending, once. For the guest it is edge-triggered.
    pub fn raise(self) {
        let id = FIRST_SHARED + self.number;
        let register = (DISTRIBUTOR.start + SET_PENDING + 4 * u64::from(id / 32)) as *mut u32;
        // SAFETY: inside the distributor, which the caller of `new` vouched for. Bits written as 0
        // change nothing, so this does not meddle with what the guest does there.
        unsafe { ptr::write_volatile(register, 1 << (id % 32)) };
    }
}
