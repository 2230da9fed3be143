# Reads Oche's trace inside the guest, from the port that Oche plays, while a disk does DMA behind a DART.
#
# Speaks to the runner in lines: `port: name NAME`, `port: bytes N`, `port: error TEXT`, `port: end`. What was read from the
# port is left at the beginning of the disk that no DART translates, and ftrace's text 16 MiB behind it.

port=/dev/virtio-ports/org.oche.trace
copy=/tmp/trace.oche
tracing=/sys/kernel/tracing

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
    # Larger requests are mapped in fewer pieces, the fewer the more of their pages lie side by side.
    echo 16 >/sys/block/${translated##*/}/queue/read_ahead_kb
    cat <&3 >$copy &
    reader=$!
    trace_too
    echo "port: uptime-before $(cut -d' ' -f1 /proc/uptime)"
    read_disk 0
    echo "port: uptime-after $(cut -d' ' -f1 /proc/uptime)"
    echo 0 >$tracing/tracing_on
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
    cat $tracing/trace >/tmp/ftrace
    dd if=/tmp/ftrace of=$plain bs=1M seek=16 conv=fsync 2>/dev/null || echo "port: error ftrace's text cannot be written"
    # And the way that people take.
    timeout 2 cat $port >/tmp/again
    echo "port: again $(stat -c %s /tmp/again)"
}

# Has the kernel trace what it maps, in the clock of /proc/uptime.
trace_too() {
    mount -t tracefs tracefs $tracing
    echo boot >$tracing/trace_clock
    echo 1 >$tracing/events/iommu/enable
    echo 1 >$tracing/events/irq/irq_handler_entry/enable
}

read_disk() { # FROM, in MiB
    dd if=$translated of=/dev/null bs=4k skip=$(($1 * 256)) count=1024 2>/dev/null || echo "port: error the disk cannot be read"
}

main
