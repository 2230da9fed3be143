# Has Oche watch the rings of a disk's driver, by the port that Oche plays, and leaves the names of the kernel's functions
# at the beginning of the disk that no DART translates.
#
# Speaks to the runner in lines: `watch: symbols BYTES`, `watch: error TEXT`, `watch: end`.

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
    exec 3<>$port || echo "watch: error there is no port"
    cat <&3 >/dev/null &
    # Watched since the machine's start; then not; then again.
    read_disk 0
    echo "watch off" >&3
    read_disk 1
    echo "watch 0xffc00000-0xffffffff streams 0:1" >&3
    read_disk 2
    cat /proc/kallsyms >/tmp/symbols
    dd if=/tmp/symbols of=$plain bs=64k conv=fsync 2>/dev/null || echo "watch: error the names cannot be written"
    echo "watch: symbols $(stat -c %s /tmp/symbols)"
    echo "watch: end"
    poweroff -f
    sleep 60
}

read_disk() { # FROM, in MiB
    dd if=$translated of=/dev/null bs=4k skip=$(($1 * 256)) count=64 iflag=direct 2>/dev/null || echo "watch: error the disk cannot be read"
}

main
