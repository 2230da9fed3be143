# Runs the cases in /etc/cases, and reports in lines: `compare: run CASE`, `compare: cost CASE MAP UNMAP USER KERNEL HYPERVISOR
# CLOCK_READS`, `compare: access CASE COST`, `compare: flush CASE COST`, `compare: error TEXT`, `compare: end`. A case is `BUFFER PAGES DIRECTION`, as the runner writes it.

edu=0000:00:08.0
bell=0000:00:09.0

main() {
    load_modules
    mount -t debugfs debugfs /sys/kernel/debug
    echo dma_map_benchmark >/sys/bus/pci/devices/$edu/driver_override
    echo $edu >/sys/bus/pci/drivers/dma_map_benchmark/bind || fail "the benchmark does not take the device"
    address=0
    if grep -q compare.count /proc/cmdline; then
        # Memory space on: writes reach the device.
        echo 1 >/sys/bus/pci/devices/$bell/enable
        address=$(($(head -n 1 /sys/bus/pci/devices/$bell/resource | cut -d ' ' -f 1)))
    fi
    second=20
    # The first maps open the stream and the domain: no case shall pay for that.
    /bin/map-cost /sys/kernel/debug/dma_map_benchmark 1 0 $second 0 >/tmp/cost || fail "the benchmark does not run"
    while read -r buffer pages direction; do
        measure $buffer $pages $direction || fail "$buffer $pages $direction: map-cost ended with $?"
    done </etc/cases
    sed 's/^/compare: access /' /sys/kernel/debug/oche_access_cost || fail "no access is measured"
    sed 's/^/compare: flush /' /sys/kernel/debug/oche_flush_cost || fail "no flush is measured"
    echo "compare: end"
    poweroff -f
    sleep 60
}

measure() { # BUFFER PAGES DIRECTION
    case $1 in
    reused) file=dma_map_benchmark module=map_benchmark ;;
    fresh) file=oche_map_cost module=oche_map_cost ;;
    esac
    reads=/sys/module/$module/parameters/clock_reads
    before=$(cat $reads)
    second=$((second + 1))
    echo "compare: run $*"
    /bin/map-cost /sys/kernel/debug/$file $2 $3 $second $address >/tmp/cost || return
    echo "compare: cost $* $(cat /tmp/cost) $(($(cat $reads) - before))"
}

fail() {
    echo "compare: error $1"
    poweroff -f
    sleep 60
}

main
