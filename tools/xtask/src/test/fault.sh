# A device that reads and writes where nothing is mapped, and a stock driver that must report it.
#
# QEMU's `edu` device copies between memory and a buffer of its own when its registers are written. A stub driver holds it,
# so the kernel attaches its stream and maps nothing. Speaks to the runner in lines: `fault: asked IOVA read|write`,
# `fault: error TEXT`, `fault: end`. Source of the registers: QEMU's documentation, "EDU device".

device=/sys/bus/pci/devices/0000:00:08.0
buffer=0x40000

main() {
    echo 7 >/proc/sys/kernel/printk
    load_modules
    echo 1234 11e8 >/sys/bus/pci/drivers/pci-stub/new_id
    if ! [ -e $device/driver ]; then
        echo "fault: error no driver holds the device"
    elif ! [ -e $device/iommu_group ]; then
        echo "fault: error the device is in no IOMMU group"
    else
        # Command register: memory space and bus master.
        printf '\006\000' | dd of=$device/config bs=1 seek=4 conv=notrunc 2>/dev/null
        registers=$(head -n 1 $device/resource | cut -d ' ' -f 1)
        ask 0x0abcd000 read
        ask 0x0123f000 write
    fi
    echo "fault: end"
    poweroff -f
    sleep 60
}

# Every register of the DMA engine is 64 bits wide: source 0x80, target 0x88, count 0x90, command 0x98.
ask() { # IOVA read|write
    echo "fault: asked $1 $2"
    case $2 in
        read) set_register 0x80 $1; set_register 0x88 $buffer; command=1 ;;
        write) set_register 0x80 $buffer; set_register 0x88 $1; command=3 ;;
    esac
    set_register 0x90 64
    set_register 0x98 $command
    sleep 2
}

set_register() { # OFFSET VALUE
    devmem $((registers + $1)) 64 $(($2)) || echo "fault: error cannot write register $1"
}

main
