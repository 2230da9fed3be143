# Reads Oche's trace inside the guest, from the port that Oche plays, while a disk does DMA behind a DART.
#
# Speaks to the runner in lines: `port: name NAME`, `port: bytes N`, `port: error TEXT`, `port: end`. What was read from the
# port is left at the beginning of the disk that no DART translates.

port=/dev/virtio-ports/org.oche.trace
copy=/tmp/trace.oche

main() {
    load_modules
    sleep 2
    name_ports
    find_disks
    if ! [ -e $port ]; then
        echo "port: error there is no port"
    elif [ -z "$translated" ] || [ -z "$plain" ]; then
        echo "port: error a disk is missing"
    else
        read_trace
    fi
    echo "port: end"
    poweroff -f
    sleep 60
}

# What udev does on a distribution.
name_ports() {
    mkdir -p /dev/virtio-ports
    for entry in /sys/class/virtio-ports/*; do
        name=$(cat $entry/name)
        echo "port: name $name"
        ln -s ../${entry##*/} /dev/virtio-ports/$name
    done
}

find_disks() {
    for disk in /sys/block/vd*; do
        case $(readlink -f $disk) in
            *pci*) translated=/dev/${disk##*/} ;;
            *) plain=/dev/${disk##*/} ;;
        esac
    done
}

read_trace() {
    # One opening for both directions: the port allows no second.
    exec 3<>$port
    cat <&3 >$copy &
    reader=$!
    read_disk 0
    echo "kinds map,unmap" >&3
    read_disk 4
    echo "kinds all" >&3
    echo "snapshot 64" >&3
    read_disk 8
    echo "end" >&3
    wait $reader
    exec 3>&-
    echo "port: bytes $(stat -c %s $copy)"
    dd if=$copy of=$plain bs=64k conv=fsync 2>/dev/null || echo "port: error the copy cannot be written"
    # And the way that people take.
    timeout 2 cat $port >/tmp/again
    echo "port: again $(stat -c %s /tmp/again)"
}

read_disk() { # FROM, in MiB
    dd if=$translated of=/dev/null bs=4k skip=$(($1 * 256)) count=1024 2>/dev/null || echo "port: error the disk cannot be read"
}

main
