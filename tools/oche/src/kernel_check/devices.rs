//! The table of devices. What its rows rest on is said in [`super::rules`].

use super::rules::{Device, KernelOption, Macs, Need, early, since, unmerged};

const APPLE_DART: KernelOption = early("APPLE_DART", Some("apple-dart"), "drivers/iommu/Kconfig");
const APPLE_MAILBOX: KernelOption =
    early("APPLE_MAILBOX", Some("apple-mailbox"), "drivers/soc/apple/Kconfig");
const APPLE_RTKIT: KernelOption =
    early("APPLE_RTKIT", Some("apple-rtkit"), "drivers/soc/apple/Kconfig");
const PINCTRL: KernelOption =
    early("PINCTRL_APPLE_GPIO", Some("pinctrl-apple-gpio"), "drivers/pinctrl/Kconfig");
const PCIE: KernelOption =
    early("PCIE_APPLE", Some("pcie-apple"), "drivers/pci/controller/Kconfig");
const I2C: KernelOption =
    early("I2C_APPLE", Some("i2c-pasemi-platform"), "drivers/i2c/busses/Kconfig");
/// Merged before its nodes, which Asahi dates to 6.15.
const SPI: KernelOption =
    since("SPI_APPLE", Some("spi-apple"), (6, 13), (6, 12), "drivers/spi/Kconfig; Fedora 6.13.3");
const SPMI: KernelOption = since(
    "SPMI_APPLE",
    Some("spmi-apple-controller"),
    (6, 16),
    (6, 15),
    "drivers/spmi/Kconfig; Fedora 6.16.4, Asahi",
);
const NVMEM_SPMI: KernelOption = since(
    "NVMEM_APPLE_SPMI",
    Some("apple_nvmem_spmi"),
    (6, 16),
    (6, 15),
    "drivers/nvmem/Kconfig; Fedora 6.16.4",
);
const MACSMC: KernelOption =
    since("MFD_MACSMC", Some("macsmc"), (6, 17), (6, 16), "drivers/mfd/Kconfig; Fedora 6.17.0");
const XHCI: KernelOption = early("USB_XHCI_HCD", Some("xhci-hcd"), "drivers/usb/host/Kconfig");

const EVERY_TREE: &str = "every tree of an M1";
const TREES_6_18: &str = "trees from Linux 6.18 on";
const TREES_7_0: &str = "trees from Linux 7.0 on";
const ASAHI_TREES: &str = "the Asahi project's trees, and no mainline tree up to Linux 7.3";

/// The MacBooks' own keyboard and trackpad.
pub const KEYBOARD: &str = "keyboard and trackpad";
/// The USB ports of the M1 itself.
pub const USB_C: &str = "USB-C ports";
/// The USB ports of a controller behind PCIe.
pub const USB_A: &str = "USB-A (mini) and more USB-C (iMac)";

/// All devices, the most needed first.
pub const DEVICES: &[Device] = &[
    Device {
        name: "interrupts and power domains",
        need: Need::Start,
        macs: Macs::All,
        nodes: &["apple,aic"],
        trees: EVERY_TREE,
        options: &[
            &[early("ARCH_APPLE", None, "arch/arm64/Kconfig.platforms")],
            &[early("APPLE_AIC", None, "drivers/irqchip/Kconfig")],
            &[early("APPLE_PMGR_PWRSTATE", None, "drivers/pmdomain/apple/Kconfig")],
        ],
        note: None,
    },
    Device {
        name: "DARTs (IOMMUs)",
        need: Need::Start,
        macs: Macs::All,
        nodes: &["apple,t8103-dart"],
        trees: EVERY_TREE,
        options: &[&[APPLE_DART]],
        note: None,
    },
    Device {
        name: "internal SSD",
        need: Need::Root,
        macs: Macs::All,
        nodes: &["apple,nvme-ans2"],
        trees: EVERY_TREE,
        options: &[
            &[early("NVME_APPLE", Some("nvme-apple"), "drivers/nvme/host/Kconfig")],
            &[early("APPLE_SART", Some("apple-sart"), "drivers/soc/apple/Kconfig")],
            &[APPLE_RTKIT],
            &[APPLE_MAILBOX],
        ],
        note: None,
    },
    Device {
        name: "screen as m1n1 left it",
        need: Need::Use,
        macs: Macs::All,
        nodes: &[],
        trees: EVERY_TREE,
        options: &[
            &[
                early("DRM_SIMPLEDRM", Some("simpledrm"), "drivers/gpu/drm/sysfb/Kconfig"),
                early("FB_SIMPLE", Some("simplefb"), "drivers/video/fbdev/Kconfig"),
            ],
            &[early("FRAMEBUFFER_CONSOLE", None, "drivers/video/console/Kconfig")],
        ],
        note: None,
    },
    Device {
        name: KEYBOARD,
        need: Need::Use,
        macs: Macs::Laptops,
        nodes: &["apple,spi-hid-transport"],
        trees: ASAHI_TREES,
        options: &[
            &[SPI],
            &[unmerged(
                "SPI_HID_APPLE_OF",
                "in no Kconfig of 7.3.4; Asahi, and its page on kernel options",
            )],
            &[early("HID_APPLE", Some("hid-apple"), "drivers/hid/Kconfig")],
        ],
        note: Some("use a USB keyboard"),
    },
    Device {
        name: USB_C,
        need: Need::Use,
        macs: Macs::All,
        nodes: &["apple,t8103-dwc3"],
        trees: TREES_7_0,
        options: &[
            &[since(
                "PHY_APPLE_ATC",
                Some("phy-apple-atc"),
                (7, 0),
                (6, 19),
                "drivers/phy/apple/Kconfig; Asahi; not in Fedora 6.19.14",
            )],
            &[since(
                "USB_DWC3_APPLE",
                Some("dwc3-apple"),
                (6, 19),
                (6, 18),
                "drivers/usb/dwc3/Kconfig; Fedora 6.19.14, and the merge of apple-soc-dt-6.20, c0398be9890d",
            )],
            &[early("USB_DWC3", Some("dwc3"), "drivers/usb/dwc3/Kconfig")],
            &[XHCI],
            &[early("TYPEC_TPS6598X", Some("tps6598x"), "drivers/usb/typec/tipd/Kconfig")],
            &[I2C],
            &[PINCTRL],
        ],
        note: None,
    },
    Device {
        name: USB_A,
        need: Need::Use,
        macs: Macs::SecondPciePort,
        nodes: &["apple,pcie"],
        trees: EVERY_TREE,
        options: &[
            &[PCIE],
            &[PINCTRL],
            &[early("USB_XHCI_PCI", Some("xhci-pci"), "drivers/usb/host/Kconfig")],
        ],
        note: Some("the iMac's are not verified"),
    },
    Device {
        name: "Wi-Fi",
        need: Need::Use,
        macs: Macs::All,
        nodes: &["apple,pcie"],
        trees: EVERY_TREE,
        options: &[
            &[PCIE],
            &[PINCTRL],
            &[early(
                "BRCMFMAC",
                Some("brcmfmac"),
                "drivers/net/wireless/broadcom/brcm80211/brcmfmac/Kconfig",
            )],
            &[early(
                "BRCMFMAC_PCIE",
                None,
                "drivers/net/wireless/broadcom/brcm80211/brcmfmac/Kconfig",
            )],
        ],
        note: Some(WIRELESS),
    },
    Device {
        name: "Bluetooth",
        need: Need::Use,
        macs: Macs::All,
        nodes: &["apple,pcie"],
        trees: EVERY_TREE,
        options: &[
            &[PCIE],
            &[PINCTRL],
            &[since(
                "BT_HCIBCM4377",
                Some("hci_bcm4377"),
                (6, 2),
                (6, 1),
                "drivers/bluetooth/Kconfig; Fedora 6.2.0, Asahi",
            )],
        ],
        note: Some(WIRELESS),
    },
    Device {
        name: "Ethernet",
        need: Need::Use,
        macs: Macs::Ethernet,
        nodes: &["apple,pcie"],
        trees: EVERY_TREE,
        options: &[
            &[PCIE],
            &[PINCTRL],
            &[early("TIGON3", Some("tg3"), "drivers/net/ethernet/broadcom/Kconfig")],
        ],
        note: Some("the mini's port of 10 Gbit/s needs CONFIG_AQTION instead of CONFIG_TIGON3"),
    },
    Device {
        name: "battery and charger",
        need: Need::Use,
        macs: Macs::Laptops,
        nodes: &["apple,smc"],
        trees: TREES_6_18,
        options: &[
            &[MACSMC],
            &[since(
                "MACSMC_POWER",
                Some("macsmc-power"),
                (7, 1),
                (7, 0),
                "drivers/power/supply/Kconfig; Fedora 7.1.2, not in Fedora 6.19.14, nor in 7.0 by Asahi",
            )],
        ],
        note: None,
    },
    Device {
        name: "restart",
        need: Need::Use,
        macs: Macs::All,
        nodes: &["apple,wdt"],
        trees: EVERY_TREE,
        options: &[&[early("APPLE_WATCHDOG", Some("apple_wdt"), "drivers/watchdog/Kconfig")]],
        note: None,
    },
    Device {
        name: "power off",
        need: Need::Use,
        macs: Macs::All,
        nodes: &["apple,smc-reboot"],
        trees: TREES_6_18,
        options: &[
            &[since(
                "POWER_RESET_MACSMC",
                Some("macsmc-reboot"),
                (6, 17),
                (6, 16),
                "drivers/power/reset/Kconfig; Fedora 6.17.0",
            )],
            &[MACSMC],
            &[SPMI],
            &[NVMEM_SPMI],
        ],
        note: None,
    },
    Device {
        name: "clock that runs on (RTC)",
        need: Need::Use,
        macs: Macs::All,
        nodes: &["apple,smc-rtc"],
        trees: TREES_7_0,
        options: &[
            &[since(
                "RTC_DRV_MACSMC",
                Some("rtc-macsmc"),
                (7, 0),
                (6, 17),
                "drivers/rtc/Kconfig; Asahi, while Fedora 6.19.14 has the option",
            )],
            &[MACSMC],
            &[SPMI],
            &[NVMEM_SPMI],
        ],
        note: None,
    },
    Device {
        name: "temperatures and fans",
        need: Need::Use,
        macs: Macs::All,
        nodes: &["apple,smc-hwmon"],
        trees: "trees from Linux 7.3 on",
        options: &[
            &[since(
                "SENSORS_MACSMC_HWMON",
                Some("macsmc-hwmon"),
                (6, 19),
                (6, 17),
                "drivers/hwmon/Kconfig; Fedora 6.19.14",
            )],
            &[MACSMC],
        ],
        note: None,
    },
    Device {
        name: "power button and lid",
        need: Need::Use,
        macs: Macs::All,
        nodes: &["apple,smc"],
        trees: TREES_6_18,
        options: &[
            &[MACSMC],
            &[
                unmerged("INPUT_MACSMC", "in no Kconfig of 7.3.4"),
                unmerged("INPUT_MACSMC_INPUT", "in no Kconfig of 7.3.4"),
                unmerged(
                    "INPUT_MACSMC_HID",
                    "in no Kconfig of 7.3.4; Asahi's page on kernel options",
                ),
            ],
        ],
        note: None,
    },
    Device {
        name: "CPU frequencies",
        need: Need::Use,
        macs: Macs::All,
        nodes: &["apple,cluster-cpufreq"],
        trees: "trees from Linux 6.2 on",
        options: &[&[since(
            "ARM_APPLE_SOC_CPUFREQ",
            Some("apple-soc-cpufreq"),
            (6, 2),
            (6, 1),
            "drivers/cpufreq/Kconfig.arm; Fedora 6.2.0, Asahi",
        )]],
        note: None,
    },
    Device {
        name: "sound",
        need: Need::Use,
        macs: Macs::All,
        nodes: &["apple,mca"],
        trees: EVERY_TREE,
        options: &[
            &[early("SND_SOC_APPLE_MCA", Some("snd-soc-apple-mca"), "sound/soc/apple/Kconfig")],
            &[early("APPLE_ADMAC", Some("apple-admac"), "drivers/dma/Kconfig")],
            &[early("COMMON_CLK_APPLE_NCO", Some("clk-apple-nco"), "drivers/clk/Kconfig")],
            &[
                unmerged("SND_SOC_APPLE_MACAUDIO", "not in sound/soc/apple/Kconfig of 7.3.4"),
                unmerged("SND_SOC_APPLE_SILICON", "not in sound/soc/apple/Kconfig of 7.3.4"),
            ],
        ],
        note: None,
    },
    Device {
        name: "keyboard's light",
        need: Need::Use,
        macs: Macs::Laptops,
        nodes: &["apple,s5l-fpwm"],
        trees: "trees from Linux 6.4 on",
        options: &[
            &[since(
                "PWM_APPLE",
                Some("pwm-apple"),
                (6, 4),
                (6, 3),
                "drivers/pwm/Kconfig; Fedora 6.4.3, Asahi",
            )],
            &[early("LEDS_PWM", Some("leds-pwm"), "drivers/leds/Kconfig")],
        ],
        note: None,
    },
    Device {
        name: "Touch Bar",
        need: Need::Use,
        macs: Macs::TouchBar,
        nodes: &["apple,j293-touchbar"],
        trees: "trees from Linux 6.15 on",
        options: &[
            &[SPI],
            &[since(
                "TOUCHSCREEN_APPLE_Z2",
                Some("apple_z2"),
                (6, 15),
                (6, 14),
                "drivers/input/touchscreen/Kconfig; Fedora 6.15.3, Asahi",
            )],
            &[since(
                "DRM_ADP",
                Some("adpdrm"),
                (6, 15),
                (6, 14),
                "drivers/gpu/drm/adp/Kconfig; Fedora 6.15.3",
            )],
        ],
        note: None,
    },
    Device {
        name: "GPU",
        need: Need::Use,
        macs: Macs::All,
        nodes: &["apple,agx-g13g"],
        trees: "trees from Linux 6.17 on",
        options: &[&[unmerged("DRM_ASAHI", "in no Kconfig of 7.3.4; Asahi")]],
        note: Some("its driver needs a kernel with 16 KiB pages"),
    },
    Device {
        name: "serial console by a debug cable",
        need: Need::Use,
        macs: Macs::All,
        nodes: &["apple,s5l-uart"],
        trees: EVERY_TREE,
        options: &[
            &[early("SERIAL_SAMSUNG", Some("samsung_tty"), "drivers/tty/serial/Kconfig")],
            &[early("SERIAL_SAMSUNG_CONSOLE", None, "drivers/tty/serial/Kconfig")],
        ],
        note: None,
    },
    Device {
        name: "start by GRUB and EFI",
        need: Need::Use,
        macs: Macs::All,
        nodes: &[],
        trees: EVERY_TREE,
        options: &[&[early("EFI_STUB", None, "arch/arm64/Kconfig")]],
        note: None,
    },
    Device {
        name: "Oche's trace inside the guest",
        need: Need::Use,
        macs: Macs::All,
        nodes: &[],
        trees: EVERY_TREE,
        options: &[
            &[early("VIRTIO_MMIO", Some("virtio_mmio"), "drivers/virtio/Kconfig")],
            &[early("VIRTIO_CONSOLE", Some("virtio_console"), "drivers/char/Kconfig")],
        ],
        note: None,
    },
];

/// `pwren-gpios` stands neither in the trees of 7.3.4 nor in its `pcie-apple.c`. The Asahi
/// project's report on 6.17 calls the SMC's GPIOs the groundwork for Wi-Fi and Bluetooth.
const WIRELESS: &str =
    "no mainline driver up to Linux 7.3 switches the card's power on: not verified that it is on";
