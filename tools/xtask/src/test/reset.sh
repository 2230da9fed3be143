# Boots twice: has a disk do DMA and resets the machine; then reads Oche's trace from its port, with what the boot
# before left in front, and leaves it on the disk that no DART translates, behind its first MiB.
#
# Speaks to the runner in lines: `reset: resets`, `reset: bytes N`, `reset: error TEXT`, `reset: end`.

port=/dev/virtio-ports/org.oche.trace

main() {
    load_modules
    sleep 1
    mkdir -p /dev/virtio-ports
    for entry in /sys/class/virtio-ports/*; do
        ln -s ../${entry##*/} /dev/virtio-ports/$(cat $entry/name)
    done
    for disk in /sys/block/vd*; do
        case $(readlink -f $disk) in
            *pci*) translated=/dev/${disk##*/} ;;
            *) plain=/dev/${disk##*/} ;;
        esac
    done
    dd if=$translated of=/dev/null bs=4k count=256 iflag=direct 2>/dev/null || echo "reset: error the disk cannot be read"
    if [ "$(head -c 5 $plain)" != again ]; then
        echo again | dd of=$plain conv=notrunc,fsync 2>/dev/null
        echo "reset: resets"
        reboot -f
        sleep 60
    fi
    exec 3<>$port || echo "reset: error there is no port"
    cat <&3 >/tmp/trace.oche &
    reader=$!
    sleep 2
    echo end >&3
    wait $reader
    exec 3>&-
    dd if=/tmp/trace.oche of=$plain bs=64k seek=16 conv=notrunc,fsync 2>/dev/null || echo "reset: error the copy cannot be written"
    echo "reset: bytes $(stat -c %s /tmp/trace.oche)"
    echo "reset: end"
    poweroff -f
    sleep 60
}

main
