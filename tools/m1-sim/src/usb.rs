//! The board's first USB controller, as far as a boot loader drives it: an xHCI host with one port.
//!
//! It has its registers at the addresses of an M1's, and does DMA through the second of its two
//! DARTs: U-Boot maps memory for a device in the last DART of its `iommus` alone. As it starts, it
//! reads where its events go, and writes one. Source: Asahi Linux `t8103.dtsi`, `dwc3_0`; xHCI 1.2,
//! 4.2, 4.9.4, 5.3, 5.4, 6.4.2.3, 6.5; U-Boot `drivers/iommu/iommu-uclass.c`.

use anyhow::{Context, Result};
use dtoolkit::model::DeviceTreeNode;
use dtoolkit::{Node, Property};

use super::dart::SimulatedDart;
use super::mac::DARTS;
use super::memory::BoardMemory;
use super::property::{cells, set};

const BASE: u64 = 0x3_8228_0000;
const BYTES: u64 = 0x10_0000;
/// The DARTs with the controller's stream in each, by their places in [`DARTS`].
const BEHIND: [(usize, u32); 2] = [(2, 0), (3, 1)];
/// The one that its DMA takes, and the stream.
pub(super) const DMA_DART: usize = BEHIND[1].0;
const DMA_STREAM: u32 = BEHIND[1].1;

/// Registers that software only reads, with their values: version 1.1, one slot, one interrupter,
/// one port, 64-bit addresses, where doorbells and runtime registers are, pages of 4 KiB, and the
/// core's identification.
const CONSTANTS: [(u64, u32); 6] = [
    (BASE, 0x0110_0020),
    (BASE + 0x04, 1 << 24 | 1 << 8 | 1),
    (BASE + 0x10, 1),
    (BASE + 0x14, 0x480),
    (BASE + 0x18, 0x440),
    (BASE + 0x28, 1),
];
/// The identification of the core around the host. Source: U-Boot `include/linux/usb/dwc3.h`.
const CORE_ID: (u64, u32) = (BASE + 0xc120, 0x5533 << 16);
const COMMAND: u64 = BASE + 0x20;
const COMMAND_RUN: u32 = 1;
const COMMAND_RESET: u32 = 1 << 1;
const STATUS: u64 = BASE + 0x24;
const STATUS_HALTED: u32 = 1;
const PORT: u64 = BASE + 0x420;
const PORT_POWER: u32 = 1 << 9;
const PORT_CONNECT_CHANGE: u32 = 1 << 17;
/// Bits that are cleared by writing 1.
const PORT_CHANGES: u32 = 0x7f << 17;
/// The address of the segment table of the events.
const EVENT_SEGMENTS: u64 = BASE + 0x470;
/// The event that a port has changed; and the cycle bit of the first round.
const PORT_CHANGED: u32 = 34 << 10 | 1;
const SUCCESS: u32 = 1 << 24;

/// The controller.
#[derive(Debug)]
pub(super) struct UsbController {
    command: u32,
    port: u32,
    /// Accesses of its own that went wrong.
    pub(super) violations: Vec<String>,
    /// Events that it has written.
    pub(super) events: u64,
}

impl UsbController {
    /// Puts the registers into the board's memory.
    pub(super) fn new(memory: &BoardMemory) -> Self {
        for (register, value) in CONSTANTS.into_iter().chain([CORE_ID]) {
            memory.set_word(register, value);
        }
        let mut controller = Self { command: 0, port: 0, violations: Vec::new(), events: 0 };
        controller.reset(memory);
        controller
    }

    /// Addresses to watch, with their bytes.
    pub(super) fn watches() -> [(u64, u64); 2] {
        [(COMMAND, 4), (PORT, 4)]
    }

    fn reset(&mut self, memory: &BoardMemory) {
        (self.command, self.port) = (0, PORT_POWER | PORT_CONNECT_CHANGE);
        memory.set_word(COMMAND, 0);
        memory.set_word(STATUS, STATUS_HALTED);
        memory.set_word(PORT, self.port);
    }

    /// Models the write of a register; `dart` is the one that its DMA takes.
    pub(super) fn written(&mut self, memory: &BoardMemory, dart: &mut SimulatedDart, address: u64) {
        let value = memory.word(address);
        if address == PORT {
            self.port &= !(value & PORT_CHANGES);
            return memory.set_word(PORT, self.port);
        }
        if value & COMMAND_RESET != 0 {
            return self.reset(memory);
        }
        let is_started = value & !self.command & COMMAND_RUN != 0;
        self.command = value;
        memory.set_word(STATUS, if value & COMMAND_RUN == 0 { STATUS_HALTED } else { 0 });
        if is_started && self.report_port(memory, dart).is_err() {
            self.violations.push("the USB controller could not write its first event".to_owned());
        }
    }

    /// Writes the event of the port into the first segment.
    fn report_port(&mut self, memory: &BoardMemory, dart: &mut SimulatedDart) -> Result<(), ()> {
        let mut segment = [0; 4];
        dart.load(memory, DMA_STREAM, memory.double(EVENT_SEGMENTS), &mut segment)?;
        let [low, high, ..] = segment;
        let event = [1 << 24, 0, SUCCESS, PORT_CHANGED];
        dart.store_words(memory, DMA_STREAM, u64::from(high) << 32 | u64::from(low), &event)?;
        self.events += 1;
        Ok(())
    }
}

/// Names the controller in the tree, as Asahi Linux does.
///
/// # Errors
///
/// The tree lacks a DART.
pub(super) fn complete(root: &mut DeviceTreeNode) -> Result<()> {
    let soc = root.child_mut("soc").context("the tree has no /soc")?;
    let mut node = DeviceTreeNode::new_unchecked(format!("usb@{BASE:x}"));
    let mut iommus = Vec::new();
    for (number, stream) in BEHIND {
        let (base, ..) = DARTS.get(number).context("the board has no such DART")?;
        let dart = soc.child(&format!("iommu@{base:x}")).context("the tree lacks a DART")?;
        let value = |name| dart.property(name).map(|property| property.value().to_vec());
        iommus.extend(value("phandle").context("a DART without a reference")?);
        iommus.extend(stream.to_be_bytes());
        if let Some(domains) = value("power-domains") {
            set(&mut node, "power-domains", domains);
        }
    }
    set(&mut node, "compatible", "apple,t8103-dwc3\0apple,dwc3\0snps,dwc3");
    set(&mut node, "reg", cells(&[BASE, BYTES]));
    set(&mut node, "dr_mode", "host");
    set(&mut node, "iommus", iommus);
    soc.add_child(node);
    Ok(())
}

#[cfg(test)]
mod tests {
    use oche_types::dart::registers::TCR;

    use super::{COMMAND, EVENT_SEGMENTS, PORT, STATUS, UsbController};
    use crate::dart::{DartSetting, SimulatedDart};
    use crate::memory::BoardMemory;

    const DART: u64 = 0x3_82f8_0000;
    const SEGMENTS: u64 = 0x8_1000_0000;
    const EVENTS: u64 = 0x8_1000_4000;

    /// Starts the controller with its event ring in place, behind a DART whose stream 1 has this
    /// TCR; returns the first event.
    fn start(tcr: u32) -> (BoardMemory, SimulatedDart, UsbController, [u32; 4]) {
        let memory = BoardMemory::create().expect("a file");
        let mut dart = SimulatedDart::new(&memory, 3, DART, DartSetting::Idle);
        memory.set_word(DART + TCR + 4, tcr);
        dart.written(&memory, DART);
        let mut controller = UsbController::new(&memory);
        assert_eq!(memory.word(STATUS), 1, "halted");
        memory.write(SEGMENTS, &EVENTS.to_le_bytes());
        memory.write(EVENT_SEGMENTS, &SEGMENTS.to_le_bytes());
        memory.set_word(COMMAND, 1);
        controller.written(&memory, &mut dart, COMMAND);
        assert_eq!(memory.word(STATUS), 0, "running");
        let event = [0, 4, 8, 12].map(|offset| memory.word(EVENTS + offset));
        (memory, dart, controller, event)
    }

    #[test]
    fn first_event_goes_where_the_segment_table_says() {
        let (memory, mut dart, mut controller, event) = start(1 << 8);
        assert_eq!(event, [1 << 24, 0, 1 << 24, 34 << 10 | 1]);
        assert_eq!((controller.events, controller.violations.len()), (1, 0));
        memory.set_word(PORT, 1 << 17);
        controller.written(&memory, &mut dart, PORT);
        assert_eq!(memory.word(PORT), 1 << 9, "the change is acknowledged, and power is on");
        memory.set_word(COMMAND, 2);
        controller.written(&memory, &mut dart, COMMAND);
        assert_eq!([COMMAND, STATUS].map(|register| memory.word(register)), [0, 1], "reset");
    }

    #[test]
    fn dma_that_the_dart_refuses_is_a_violation() {
        let (_, _, controller, event) = start(0);
        assert_eq!((event, controller.events, controller.violations.len()), ([0; 4], 0, 1));
    }
}
