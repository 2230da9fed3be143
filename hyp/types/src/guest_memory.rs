//! The guest's memory as a device that Oche shows the guest reaches it.

/// The guest's memory by guest-physical address, as a device of Oche's reaches it.
pub trait GuestMemory {
    /// Fills `into` from `address` on.
    ///
    /// # Errors
    ///
    /// [`NotMemory`]; `into` may have changed in part.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), NotMemory>;

    /// Stores `from` at `address`.
    ///
    /// # Errors
    ///
    /// [`NotMemory`]; some of the bytes may have been stored.
    fn write(&mut self, address: u64, from: &[u8]) -> Result<(), NotMemory>;

    /// Stores `value` at `address`, which is a multiple of 2, in one piece, after everything stored
    /// before.
    ///
    /// # Errors
    ///
    /// [`NotMemory`]; then nothing has been stored.
    fn publish(&mut self, address: u64, value: u16) -> Result<(), NotMemory>;

    /// The two bytes at `address`, a multiple of 2, in one piece; what is read later is no older.
    ///
    /// # Errors
    ///
    /// [`NotMemory`].
    fn observe(&self, address: u64) -> Result<u16, NotMemory>;
}

/// The guest named memory that is not its own, or nothing at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMemory;
