//! Addresses of the simulated M1. They are a Mac's, but for the DMA engines.

use oche_guest_common::console::Uart;
use oche_guest_common::mmio::RegisterBlock;

use super::dart::Dart;

/// The GiB at which DRAM begins.
pub(super) const DRAM_GIB: usize = 0x8_0000_0000 >> 30;
/// UART 0. Source: Linux `arch/arm64/boot/dts/apple/t8103.dtsi`, `serial0`.
pub(super) const UART: Uart = Uart::apple(0x2_3520_0000);

// The DARTs, in the board's order: see `oche_m1_sim::DARTS`.
pub(super) const PCIE_0: Dart = Dart::new(0x6_8100_8000, dma_engine(0));
pub(super) const PCIE_1: Dart = Dart::new(0x6_8200_8000, dma_engine(1));
pub(super) const USB_0: Dart = Dart::new(0x3_82f0_0000, dma_engine(2));
pub(super) const USB_1: Dart = Dart::new(0x3_82f8_0000, dma_engine(3));
pub(super) const SIO: Dart = Dart::new(0x2_3500_4000, dma_engine(4));
pub(super) const DISPLAY: Dart = Dart::new(0x2_3130_4000, dma_engine(5));

/// The NVMe controller. Source: Linux `t8103.dtsi`, `ans`.
pub(super) const NVME: RegisterBlock = RegisterBlock::new(0x2_7bcc_0000);

// Registers of power domains. Source: Linux `t8103-pmgr.dtsi`.
pub(super) const POWER_APCIE_GP: RegisterBlock = RegisterBlock::new(0x2_3b70_03e8);
pub(super) const POWER_ATC0_USB: RegisterBlock = RegisterBlock::new(0x2_3d28_0098);
pub(super) const POWER_SIO_CPU: RegisterBlock = RegisterBlock::new(0x2_3b70_01d0);
pub(super) const POWER_UART0: RegisterBlock = RegisterBlock::new(0x2_3b70_0270);
pub(super) const POWER_ANS2: RegisterBlock = RegisterBlock::new(0x2_3b70_03f0);

/// The DMA engine that the board has behind its DART `number`.
const fn dma_engine(number: u64) -> RegisterBlock {
    RegisterBlock::new(0x2_1000_0000 + number * 0x1000)
}
