# Two mistakes that drivers make, made in a stock kernel: a queue unmapped while its device may still use it, and a buffer
# that is never unmapped.
#
# Speaks to the runner in lines: `mistakes: queue IOVA`, `mistakes: error TEXT`, `mistakes: end`. Source of the NVMe's registers: NVM Express base specification 1.4, section 3.1.

nvme=/sys/bus/pci/devices/0000:00:04.0

main() {
    echo 7 >/proc/sys/kernel/printk
    load_modules
    for second in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/nvme0n1 ] && break; sleep 1; done
    dd if=/dev/nvme0n1 of=/dev/null bs=64k count=64 2>/dev/null || echo "mistakes: error the disk cannot be read"
    use_after_unmap
    echo "mistakes: end"
    poweroff -f
    sleep 60
}

# The stock driver lets go of the controller, and with that unmaps its queues. Then the controller, whose registers still name
# them, is made to continue: as where a driver frees its queues before the controller has stopped.
use_after_unmap() {
    registers=$(head -n 1 $nvme/resource | cut -d ' ' -f 1)
    echo 0000:00:04.0 >/sys/bus/pci/drivers/nvme/unbind
    # Command register: memory space and bus master.
    printf '\006\000' | dd of=$nvme/config bs=1 seek=4 conv=notrunc 2>/dev/null
    echo "mistakes: queue $(devmem $((registers + 0x28)) 64)"
    # Configuration: entries of 64 and 16 bytes, enabled.
    devmem $((registers + 0x14)) 32 0x00460001
    sleep 1
    # The doorbell: one command is in the queue.
    devmem $((registers + 0x1000)) 32 1
    sleep 1
}

main
