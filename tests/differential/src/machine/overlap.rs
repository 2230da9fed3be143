//! Accesses in the middle of the engine's work.

use super::transfer::Transfer;
use super::{Checked, Machine, name};
use crate::program::During;
use oche_sim::access::{Access, CpuResult, Data, Outcome};
use oche_types::dart::stream::{DartId, StreamId};

impl<const C: bool> Machine<C> {
    /// Gives the host the accesses that are to happen in the middle of the sync that begins now.
    pub(super) fn queue_overlap(&mut self) {
        for (number, during) in std::mem::take(&mut self.overlap).into_iter().enumerate() {
            // Each has bytes of its own, so that their order among each other does not matter.
            let offset = 256 * (number % 16) + 8 * self.random.index(24);
            let cpu = self.random.index(self.host.cpu_count());
            let access = match during {
                During::CpuLoad(page) | During::CpuStore(page) => {
                    let page = self.choose(page);
                    if self.views.is_table(page) || self.guest.is_table(page) {
                        continue;
                    }
                    self.deliver_to(page, offset, 32);
                    if matches!(during, During::CpuLoad(_)) {
                        Access::Load { cpu, page, offset, length: 8 }
                    } else {
                        Access::Store { cpu, page, offset, data: self.random_data(8) }
                    }
                }
                During::DeviceRead(stream, target) | During::DeviceWrite(stream, target) => {
                    let is_write = matches!(during, During::DeviceWrite(..));
                    let Some(mut transfer) = self.aim(stream, target, 8, is_write) else {
                        continue;
                    };
                    transfer.iova = transfer.iova & !0xfff | offset as u64;
                    for page in self.pages_within_reach(&transfer) {
                        self.deliver_to(page, offset, 32);
                    }
                    let (dart, stream) = name(transfer.dart, transfer.stream);
                    let iova = transfer.iova;
                    if is_write {
                        Access::Write { dart, stream, iova, data: self.random_data(8) }
                    } else {
                        Access::Read { dart, stream, iova, length: 8 }
                    }
                }
            };
            self.host.overlap.push_back(access);
        }
    }

    /// Accesses that had to wait for the engine happen now.
    pub(super) fn finish_overlap(&mut self) -> Checked {
        let mut patience = 100;
        while let Some(access) = self.host.overlap.pop_front() {
            match self.host.perform(&access) {
                // What is replayed has happened in this order: these come after all of it.
                Some(Outcome::Cpu(CpuResult::ReadOnly | CpuResult::NoAccess)) => {
                    self.replay()?;
                    match access {
                        Access::Store { page, offset, data, .. } => {
                            self.store(page, offset, data.bytes())?
                        }
                        Access::Load { page, offset, length, .. } => {
                            self.load(page, offset, length)?
                        }
                        Access::Read { .. } | Access::Write { .. } => {}
                    }
                }
                Some(outcome) => self.host.overlapped.push((access, outcome)),
                None => self.host.overlap.push_back(access),
            }
            patience -= 1;
            if patience == 0 {
                return Err(format!("an access waits for ever: {access:?}"));
            }
        }
        Ok(())
    }

    /// Does on the reference what happened in the middle of the engine's work, and compares.
    pub(super) fn replay(&mut self) -> Checked {
        if !self.host.overlapped.is_empty() {
            self.note_refusals_so_far();
        }
        for (access, outcome) in std::mem::take(&mut self.host.overlapped) {
            self.counts.overlapped += 1;
            match (access, outcome) {
                (Access::Load { page, offset, .. }, Outcome::Cpu(result)) => {
                    self.judge_load(page, offset, result)?
                }
                (Access::Store { page, offset, data, .. }, Outcome::Cpu(CpuResult::Stored)) => {
                    self.note_cpu_store(page, offset, data.bytes());
                }
                (Access::Read { dart, stream, iova, length }, Outcome::Device(result)) => {
                    self.judge(&overlapped((dart, stream), iova, length, None), result)?;
                }
                (Access::Write { dart, stream, iova, data }, Outcome::Device(result)) => {
                    let length = data.bytes().len();
                    self.judge(&overlapped((dart, stream), iova, length, Some(data)), result)?;
                }
                (access, outcome) => return Err(format!("{access:?} ends with {outcome:?}")),
            }
        }
        self.check_answers()
    }
}

/// An access that ran in the middle of the engine's work.
fn overlapped(
    (dart, stream): (DartId, StreamId),
    iova: u64,
    length: usize,
    data: Option<Data>,
) -> Transfer {
    let (dart, stream) = (dart.index(), stream.index());
    Transfer { dart, stream, iova, length, data, is_overlapped: true }
}
