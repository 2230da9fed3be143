//! Lines of the guest's kernel log after which a run is not good.

/// Parts of a line that are never right in the demo, in small letters: a crash, or a device or its
/// IOMMU that gave up.
const NEVER: [&str; 42] = [
    "warning: ",
    "bug: ",
    "oops",
    "call trace:",
    "unable to handle",
    "internal error",
    "translation fault",
    "unhandled fault",
    "synchronous external abort",
    "serror interrupt",
    "dma-api:",
    "swiotlb buffer is full",
    "overflow 0x",
    "nvme i/o error",
    "controller is down",
    "removing after probe failure",
    "device not ready",
    "completion polled",
    "resetting controller",
    "aborting",
    "i/o error",
    "critical medium error",
    "ext4-fs error",
    "ext4-fs warning",
    "jbd2: error",
    "transmit queue",
    "netdev watchdog",
    "hardware unit hang",
    "reset adapter",
    "hc died",
    "host not responding",
    "xhci host controller not responding",
    "usb disconnect",
    "reset superspeed",
    "reset high-speed",
    "probe with driver",
    "timed out",
    "timeout",
    "nobody cared",
    "blocked for more than",
    "soft lockup",
    "detected stalls",
];

/// Of a line of level warning or worse, these are too many.
const NOT_AS_WARNING: [&str; 10] =
    ["iommu", "dma", "dart", "swiotlb", "nvme", "e1000e", "xhci", "virtio", "fail", "refus"];

/// Lines that any healthy boot prints, though they look like trouble.
const HARMLESS: [&str; 6] = [
    "printk: ",
    "rcu: adjusting geometry",
    // Debian's kernel logs this for every module that Debian did not sign; the DART driver is one.
    "loading out-of-tree module taints kernel",
    "module verification failed: signature and/or required key missing",
    // The guest's FDT has no msi-map, since a doorbell page at an arbitrary 4K IOVA cannot be
    // expressed in 16K: devices fall back to wired interrupts, and this driver warns of it.
    "failed to initialize msi-x interrupts.  falling back to msi interrupts.",
    "failed to initialize msi interrupts.  falling back to legacy interrupts.",
];

/// Whether a line of the console is a complaint of the guest's kernel.
#[must_use]
pub fn is_complaint(line: &str) -> bool {
    let Some(message) = message_of(line) else { return false };
    let message = message.to_lowercase();
    if HARMLESS.iter().any(|part| message.contains(part)) {
        return false;
    }
    NEVER.iter().any(|part| message.contains(part))
        || (mentions_iommu(&message)
            && ["fail", "error", "refus", "unable", "invalid "]
                .iter()
                .any(|bad| message.contains(bad)))
}

/// Whether a line of level warning or worse (`<4>[    1.0] text`) is a complaint about DMA or a
/// device of the demo.
#[must_use]
pub fn is_bad_warning(line: &str) -> bool {
    let Some((_, rest)) = line.split_once('>') else { return false };
    let message = message_of(rest).unwrap_or(rest).to_lowercase();
    let is_harmless = HARMLESS.iter().any(|part| message.contains(part));
    !is_harmless && NOT_AS_WARNING.iter().any(|part| message.contains(part)) || is_complaint(rest)
}

fn mentions_iommu(message: &str) -> bool {
    ["iommu", "dma", "dart", "smmu"].iter().any(|part| message.contains(part))
}

/// The text behind the kernel's time stamp, `[    1.029901] `.
fn message_of(line: &str) -> Option<&str> {
    let (stamp, message) = line.strip_prefix('[')?.split_once("] ")?;
    stamp.trim().parse::<f64>().ok().map(|_| message)
}

#[cfg(test)]
mod tests {
    use super::{is_bad_warning, is_complaint};

    #[test]
    fn complaints_of_the_drivers_are_noticed() {
        for line in [
            "[   12.345678] apple-dart 9100000.iommu: translation fault: status:0x80000001 stream:1 code:1 (no TTBR for IOVA) at 0x1000",
            "[   40.000000] nvme nvme0: I/O 12 QID 1 timeout, completion polled",
            "[    1.000000] WARNING: CPU: 0 PID: 1 at drivers/iommu/dma-iommu.c:700",
            "[    1.000000] e1000e 0000:00:02.0 eth0: Detected Hardware Unit Hang:",
            "[    1.000000] NETDEV WATCHDOG: eth0 (e1000e): transmit queue 0 timed out",
            "[    1.000000] apple-dart 9100000.iommu: busy bit still set: error -110",
            "[    1.000000] blk_update_request: I/O error, dev nvme0n1, sector 0",
            "[    1.000000] xhci_hcd 0000:00:03.0: HC died; cleaning up",
            "[    1.000000] EXT4-fs error (device nvme0n1): ext4_lookup",
            "[    1.000000] watchdog: BUG: soft lockup - CPU#1 stuck for 26s!",
        ] {
            assert!(is_complaint(line), "{line}");
        }
    }

    #[test]
    fn a_healthy_boot_has_no_complaints() {
        for line in [
            "[    0.000000] Zone ranges:  DMA      [mem 0x0000000040000000-0x00000000bfffffff]",
            "[    0.200000] iommu: Default domain type: Translated",
            "[    0.200000] iommu: DMA domain TLB invalidation policy: strict mode",
            "[    1.200000] apple-dart 9100000.iommu: DART [pagesize 1000, 16 streams, bypass support: 0, bypass forced: 0] initialized",
            "[    1.200000] nvme 0000:00:01.0: Adding to iommu group 0",
            "[    2.200000] sd 0:0:0:0: [sda] Attached SCSI disk",
            "[    5.438018] apple_dart_module: module verification failed: signature and/or required key missing - tainting kernel",
            "demo: step nvme failed 3 timeout",
            "oche: fault",
        ] {
            assert!(!is_complaint(line), "{line}");
        }
    }

    #[test]
    fn a_warning_counts_when_it_is_about_dma_or_a_device() {
        assert!(is_bad_warning("<4>[    1.0] nvme nvme0: missing or invalid SUBNQN field."));
        assert!(is_bad_warning("<3>[    1.0] something about DMA"));
        assert!(!is_bad_warning("<4>[    7.292617] sd 0:0:0:0: Power-on or device reset occurred"));
        let host_bridge = "<4>[    1.0] pci-host-generic 4010000000.pcie: Memory resource size exceeds max for 32 bits";
        assert!(!is_bad_warning(host_bridge));
        let no_msi = "<3>[    7.692850] e1000e 0000:00:02.0 0000:00:02.0 (uninitialized): Failed to initialize MSI-X \
             interrupts.  Falling back to MSI interrupts.";
        assert!(!is_bad_warning(no_msi));
        assert!(!is_bad_warning("<4>[   10.851861] hrtimer: interrupt took 15547456 ns"));
    }
}
