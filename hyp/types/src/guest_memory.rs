//! Access of virtual devices to the guest's memory.

/// The guest's memory by guest-physical address in bytes, for a virtual device.
pub trait GuestMemory {
    /// Reads the bytes from `address` on into `into`.
    ///
    /// # Errors
    ///
    /// [`NotMemory`] if some byte is not guest RAM; `into` may have changed in part.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), NotMemory>;

    /// Stores `from` at `address`.
    ///
    /// # Errors
    ///
    /// [`NotMemory`] if some byte is not guest RAM; some of the bytes may have been stored.
    fn write(&mut self, address: u64, from: &[u8]) -> Result<(), NotMemory>;

    /// Stores `value` at `address`, a multiple of 2, with one store that follows all earlier
    /// stores.
    ///
    /// # Errors
    ///
    /// [`NotMemory`] if `address` is not aligned or not guest RAM; then nothing has been stored.
    fn publish(&mut self, address: u64, value: u16) -> Result<(), NotMemory>;

    /// Loads the two bytes at `address`, a multiple of 2, with one load that precedes all later
    /// loads.
    ///
    /// # Errors
    ///
    /// [`NotMemory`] if `address` is not aligned or not guest RAM.
    fn observe(&self, address: u64) -> Result<u16, NotMemory>;
}

/// The address that the guest gave is not guest RAM, or is not aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMemory;
