//! A split virtqueue, the device's side (section 2.7).

use alloc::vec::Vec;

use oche_types::guest_memory::{GuestMemory, NotMemory};

/// Most descriptors of a queue.
pub const QUEUE_MAX: u16 = 64;

/// `VIRTQ_DESC_F_NEXT`, section 2.7.5.
const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`.
const WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`: not offered, so never right.
const INDIRECT: u16 = 4;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT`, section 2.7.6.
const NO_INTERRUPT: u16 = 1;
const DESCRIPTOR_BYTES: u64 = 16;

/// A queue as the driver set it up, and how far the device has come.
#[derive(Debug)]
pub struct Queue {
    /// Descriptors: a power of two, at most [`QUEUE_MAX`].
    pub size: u16,
    /// Whether the driver has set it up.
    pub is_ready: bool,
    /// Guest-physical address of the descriptors.
    pub descriptors: u64,
    /// Guest-physical address of the driver's ring.
    pub available: u64,
    /// Guest-physical address of the device's ring.
    pub used: u64,
    next_available: u16,
    next_used: u16,
    /// The buffers of the chain taken last: kept, so that taking one needs no memory.
    buffers: Vec<Buffer>,
}

/// Memory of the driver's in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes.
    pub length: u32,
    /// Whether it is for the device to write; otherwise to read.
    pub is_writable: bool,
}

/// The driver broke a rule of the queue's, which the device cannot go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl From<NotMemory> for Broken {
    fn from(NotMemory: NotMemory) -> Self {
        Self
    }
}

/// Bytes of heap that a queue takes when it is made, as a buddy allocator rounds them.
pub(super) const HEAP_BYTES: usize = (QUEUE_MAX as usize * size_of::<Buffer>()).next_power_of_two();

impl Default for Queue {
    fn default() -> Self {
        Self::with_buffers(Vec::with_capacity(usize::from(QUEUE_MAX)))
    }
}

impl Queue {
    fn with_buffers(buffers: Vec<Buffer>) -> Self {
        Self {
            size: QUEUE_MAX,
            is_ready: false,
            descriptors: 0,
            available: 0,
            used: 0,
            next_available: 0,
            next_used: 0,
            buffers,
        }
    }

    /// Makes it ready as the driver set it up, if that can be.
    pub fn enable(&mut self) {
        let is_sound = self.size.is_power_of_two()
            && self.size <= QUEUE_MAX
            && self.descriptors.is_multiple_of(16)
            && self.available.is_multiple_of(2)
            && self.used.is_multiple_of(4)
            && [self.descriptors, self.available, self.used]
                .iter()
                .all(|address| *address < 1 << 52);
        self.is_ready = is_sound;
        (self.next_available, self.next_used) = (0, 0);
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        *self = Self::with_buffers(core::mem::take(&mut self.buffers));
    }

    /// Whether the driver has made a chain available that was not taken yet.
    ///
    /// # Errors
    ///
    /// [`Broken`].
    pub(crate) fn has_chain(&self, memory: &impl GuestMemory) -> Result<bool, Broken> {
        if !self.is_ready {
            return Ok(false);
        }
        let waiting = memory.observe(self.available + 2)?.wrapping_sub(self.next_available);
        if waiting > self.size { Err(Broken) } else { Ok(waiting != 0) }
    }

    /// Takes the next chain: its number, for [`Self::give`], and its buffers. Looks at each
    /// descriptor once and at no more than the queue has.
    ///
    /// # Errors
    ///
    /// [`Broken`].
    pub fn take(&mut self, memory: &impl GuestMemory) -> Result<Option<(u16, &[Buffer])>, Broken> {
        if !self.has_chain(memory)? {
            return Ok(None);
        }
        let place = u64::from(self.next_available % self.size);
        let head = memory.observe(self.available + 4 + 2 * place)?;
        self.next_available = self.next_available.wrapping_add(1);
        self.buffers.clear();
        let mut index = head;
        for _ in 0..self.size {
            if index >= self.size {
                return Err(Broken);
            }
            let mut descriptor = [0; DESCRIPTOR_BYTES as usize];
            memory.read(self.descriptors + DESCRIPTOR_BYTES * u64::from(index), &mut descriptor)?;
            let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = descriptor;
            let flags = u16::from_le_bytes([f0, f1]);
            if flags & INDIRECT != 0 {
                return Err(Broken);
            }
            self.buffers.push(Buffer {
                address: u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
                length: u32::from_le_bytes([l0, l1, l2, l3]),
                is_writable: flags & WRITE != 0,
            });
            if flags & NEXT == 0 {
                return Ok(Some((head, &self.buffers)));
            }
            index = u16::from_le_bytes([n0, n1]);
        }
        // A chain longer than the queue is a circle.
        Err(Broken)
    }

    /// Gives the chain `head` back, with `written` bytes in it. Returns whether the driver wants to
    /// be notified.
    ///
    /// # Errors
    ///
    /// [`Broken`].
    pub fn give(
        &mut self,
        memory: &mut impl GuestMemory,
        head: u16,
        written: u32,
    ) -> Result<bool, Broken> {
        let place = u64::from(self.next_used % self.size);
        let mut element = [0; 8];
        let (id, length) = element.split_at_mut(4);
        id.copy_from_slice(&u32::from(head).to_le_bytes());
        length.copy_from_slice(&written.to_le_bytes());
        memory.write(self.used + 4 + 8 * place, &element)?;
        self.next_used = self.next_used.wrapping_add(1);
        memory.publish(self.used + 2, self.next_used)?;
        Ok(memory.observe(self.available)? & NO_INTERRUPT == 0)
    }
}
