//! A test that software can assert a line of the interrupt controller which no device drives, that
//! the line is a level, and that it ends.
//!
//! The CPU must have interrupts masked: none is taken, `ISR_EL1` shows them. Afterwards the
//! controller is as it was. Source: Asahi documentation `hw/soc/aic.md`: reading `EVENT` masks the
//! line that it names; the set and clear registers read as the present state.

/// Offset of the number of the CPU that reads it.
const WHO_AM_I: u64 = 0x2000;
/// Offset of the event that this CPU has; and its type and number for a device's line.
const EVENT: u64 = 0x2004;
const DEVICE_EVENT: u32 = 1 << 16;
/// Offset of a word for each line: a bit for each CPU that it interrupts.
const TARGET: u64 = 0x3000;
/// Offsets of one bit for each line.
const SOFTWARE_SET: u64 = 0x4000;
const SOFTWARE_CLEAR: u64 = 0x4080;
const MASK_SET: u64 = 0x4100;
const MASK_CLEAR: u64 = 0x4180;
/// How often `ISR_EL1` is read until the line counts as not asserted.
const POLLS: usize = 10_000;

/// The controller, as this CPU sees it.
pub trait Controller {
    /// Reads the register at `offset`.
    fn read(&mut self, offset: u64) -> u32;
    /// Writes the register at `offset`.
    fn write(&mut self, offset: u64, value: u32);
    /// Whether an IRQ is pending on this CPU.
    fn has_interrupt(&mut self) -> bool;
}

/// What the test found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// All is as assumed.
    Works,
    /// The line is unmasked, or an interrupt is pending already: nothing was tried.
    InUse,
    /// No interrupt followed.
    NoInterrupt,
    /// The controller reported this event instead.
    OtherEvent(u32),
    /// No second interrupt followed while the line was asserted: it is no level.
    Once,
    /// The interrupt did not end with the line.
    NeverEnds,
}

/// Tests `line`.
pub fn test(controller: &mut impl Controller, line: u32) -> Finding {
    let word = u64::from(line / 32 * 4);
    let bit = 1 << (line % 32);
    let is_masked = controller.read(MASK_SET + word) & bit != 0;
    if !is_masked || controller.has_interrupt() {
        return Finding::InUse;
    }
    let own_target = TARGET + u64::from(line) * 4;
    let target = controller.read(own_target);
    let cpu = controller.read(WHO_AM_I);
    controller.write(own_target, 1_u32.checked_shl(cpu).unwrap_or(0));
    controller.write(SOFTWARE_SET + word, bit);
    let mut finding = interrupt(controller, word, bit, line, Finding::NoInterrupt);
    if finding == Finding::Works {
        finding = interrupt(controller, word, bit, line, Finding::Once);
    }
    controller.write(SOFTWARE_CLEAR + word, bit);
    if finding == Finding::Works {
        controller.write(MASK_CLEAR + word, bit);
        if is_interrupted(controller) {
            finding = Finding::NeverEnds;
        }
    }
    controller.write(MASK_SET + word, bit);
    controller.write(own_target, target);
    finding
}

/// Unmasks the asserted line, which then has to be this CPU's event; `missing` if there is none.
/// The line is masked afterwards.
fn interrupt(
    controller: &mut impl Controller,
    word: u64,
    bit: u32,
    line: u32,
    missing: Finding,
) -> Finding {
    controller.write(MASK_CLEAR + word, bit);
    if !is_interrupted(controller) {
        return missing;
    }
    match controller.read(EVENT) {
        event if event == DEVICE_EVENT | line => Finding::Works,
        event => Finding::OtherEvent(event),
    }
}

fn is_interrupted(controller: &mut impl Controller) -> bool {
    (0..POLLS).any(|_| controller.has_interrupt())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: u32 = 895;

    /// A controller with one line; its faults.
    #[derive(Clone, Default)]
    struct Model {
        is_asserted: bool,
        is_unmasked: bool,
        target: u32,
        /// No software can assert it.
        ignores_software: bool,
        /// It interrupts once.
        is_edge: bool,
        /// It stays asserted.
        never_ends: bool,
        /// Another line interrupts instead.
        is_wrong: bool,
    }

    impl Controller for Model {
        fn read(&mut self, offset: u64) -> u32 {
            match offset {
                0x2000 => 5,
                0x2004 => {
                    self.is_unmasked = false;
                    self.is_asserted &= !self.is_edge;
                    if self.is_wrong { DEVICE_EVENT | 3 } else { DEVICE_EVENT | LINE }
                }
                0x3dfc => self.target,
                0x416c => u32::from(!self.is_unmasked) << 31,
                _ => panic!("a read at {offset:#x}"),
            }
        }

        fn write(&mut self, offset: u64, value: u32) {
            if offset == 0x3dfc {
                self.target = value;
                return;
            }
            assert_eq!(value, 1 << 31, "another line is changed");
            match offset {
                0x406c => self.is_asserted = !self.ignores_software,
                0x40ec => self.is_asserted &= self.never_ends,
                0x416c => self.is_unmasked = false,
                0x41ec => self.is_unmasked = true,
                _ => panic!("a write at {offset:#x}"),
            }
        }

        fn has_interrupt(&mut self) -> bool {
            self.is_asserted && self.is_unmasked && self.target == 1 << 5
        }
    }

    #[test]
    fn each_fault_is_found_and_the_controller_is_as_it_was() {
        let sound = Model { target: 1, ..Model::default() };
        for (mut model, finding) in [
            (sound.clone(), Finding::Works),
            (Model { ignores_software: true, ..sound.clone() }, Finding::NoInterrupt),
            (Model { is_edge: true, ..sound.clone() }, Finding::Once),
            (Model { never_ends: true, ..sound.clone() }, Finding::NeverEnds),
            (Model { is_wrong: true, ..sound }, Finding::OtherEvent(DEVICE_EVENT | 3)),
        ] {
            assert_eq!(test(&mut model, LINE), finding);
            assert_eq!((model.target, model.is_unmasked), (1, false), "{finding:?}");
            assert!(model.never_ends || !model.is_asserted, "{finding:?}");
        }
    }

    #[test]
    fn a_line_in_use_is_left_alone() {
        let mut model = Model { is_unmasked: true, target: 1, ..Model::default() };
        assert_eq!(test(&mut model, LINE), Finding::InUse);
        assert!(model.is_unmasked && !model.is_asserted && model.target == 1);
    }
}
