# The demo's guest: every device does real DMA, every byte is checked, each step has a time limit of its own.
#
# Speaks to the runner in lines: `demo: fact NAME VALUE`, `demo: step NAME ok|failed SECONDS TEXT`,
# `demo: digest NAME HEX`, `demo: marker NAME`, `demo: warning KERNEL-LINE`, `demo: end`.
# Sizes and the server's port come on the kernel's command line as demo.NAME=VALUE.
# What every init script begins with (mounts, tools, load_modules) stands before this, and transfers.sh.

main() {
    mkdir -p $nvme $memory_disk $state
    # Drops nothing, but from now on the kernel drops caches without a line on the console, in the midst of ours.
    echo 4 >/proc/sys/vm/drop_caches
    read_options

    report "fact kernel $(uname -r)"
    report "fact page-size $(getconf PAGESIZE)"
    report "fact cpus $(grep -c ^processor /proc/cpuinfo)"

    phase modules 60 load_all_modules
    phase devices 60 wait_for_devices || give_up
    say_facts
    phase mkfs 60 make_file_system || give_up
    if [ "$is_measured" ]; then
        only_transfers
        give_up
    fi

    report "marker busy-begin"
    start nvme 240 write_and_read_back
    start e1000e 180 fetch_e1000e
    start virtio-net 180 fetch_virtio_net
    start usb 180 read_usb
    start virtio-blk 180 read_virtio_blk
    start shared-blk 180 read_shared_blk
    start shared-rng 120 read_shared_rng
    start mmio 240 copy_to_and_fro
    finish
    report "marker busy-end"
    phase transfers 240 run_transfers

    phase quiet 60 come_to_rest
    report "marker idle-begin"
    sleep "$idle_seconds"
    report "marker idle-end"

    give_up
}

# Also the good end: what the kernel warned of, and off.
give_up() {
    dmesg -r 2>/dev/null | grep -E '^<[0-4]>' | sed 's/^/demo: warning /'
    dmesg 2>/dev/null | grep -F 'DART [pagesize' | sed 's/^/fact greeting /' >>$state/reported
    # Once more, now that nothing else writes to the console: another writer's line may have run into one of ours.
    echo "demo: marker again"
    sed 's/^/demo: /' $state/reported
    report "end"
    # Both may hang in a driver whose device is gone; the last resort asks neither.
    sync &
    sleep 1
    poweroff -f &
    sleep 60
    echo o >/proc/sysrq-trigger
    sleep 60
}

report() {
    case $* in "fact "* | "step "* | "digest "*) echo "$*" >>$state/reported ;; esac
    echo "demo: $*" >/dev/console
}

read_options() {
    nvme_mib=64 port=0 idle_seconds=5 rounds=2 turns=1 chosen= is_measured= bell=
    for word in $(cat /proc/cmdline); do
        case $word in
            demo.nvme_mib=*) nvme_mib=${word#*=} ;;
            demo.port=*) port=${word#*=} ;;
            demo.rounds=*) rounds=${word#*=} ;;
            demo.turns=*) turns=${word#*=} ;;
            demo.transfers=*) chosen=$(echo ${word#*=} | tr , ' ') is_measured=y ;;
            demo.bell=*) bell=${word#*=} ;;
            demo.idle_seconds=*) idle_seconds=${word#*=} ;;
        esac
    done
}

# --- Steps with time limits ------------------------------------------------------------------------

# A step that hangs in the kernel cannot be killed, so it is not waited for: it leaves its verdict in
# a file, and the loop that looks for the file has a time limit.
start() { # NAME SECONDS FUNCTION
    echo "$1 $2 $(uptime_seconds)" >>$state/started
    report "begin $1"
    (
        began=$(uptime_seconds)
        if $3 >$state/$1.out 2>&1; then verdict=ok; else verdict=failed; fi
        took=$(( $(uptime_seconds) - began ))
        echo "$verdict $took $(tr '\n' ' ' <$state/$1.out | tail -c 400)" >$state/$1.tmp
        mv $state/$1.tmp $state/$1.verdict
    ) &
}

# Tells each verdict; fails if one of them was bad.
finish() {
    all=0
    while read -r name limit began; do
        until [ -e $state/$name.verdict ]; do
            if [ $(( $(uptime_seconds) - began )) -ge $limit ]; then
                report "step $name failed $limit gave up after $limit s: $(tr '\n' ' ' <$state/$name.out | tail -c 300)"
                echo >$state/$name.hung
                all=1
                continue 2
            fi
            sleep 0.1
        done
        verdict=$(cat $state/$name.verdict)
        report "step $name $verdict"
        case $verdict in ok*) ;; *) all=1 ;; esac
    done <$state/started
    : >$state/started
    return $all
}

phase() {
    start "$@"
    finish
}

uptime_seconds() {
    read -r up rest </proc/uptime
    echo ${up%.*}
}

# --- What the steps do -----------------------------------------------------------------------------

load_all_modules() {
    load_modules 2>&1 | tee $state/loaded
    ! grep -q 'cannot load' $state/loaded
}

wait_for_devices() {
    for attempt in $(seq 1 300); do
        find_devices && return 0
        sleep 0.1
    done
    echo "still missing after 30 s:$missing"
    return 1
}

# Sets one variable a device; in $missing the names of those that are not there yet.
find_devices() {
    missing=
    [ -b /dev/nvme0n1 ] || missing="$missing nvme"
    [ -n "$(usb_disk)" ] || missing="$missing usb-storage"
    for name in vblk shared mmio; do
        [ -n "$(disk_called $name)" ] || missing="$missing $name"
    done
    for driver in e1000e virtio_net; do
        [ -n "$(interface_of $driver)" ] || missing="$missing $driver"
    done
    [ -e /dev/hwrng ] && grep -q virtio /sys/class/misc/hw_random/rng_current 2>/dev/null || missing="$missing virtio-rng"
    [ -z "$missing" ]
}

usb_disk() { ls /sys/block 2>/dev/null | grep '^sd' | head -n 1; }

disk_called() { # SERIAL
    for disk in /sys/block/vd*; do
        if [ -e $disk/serial ] && [ "$(cat $disk/serial)" = "$1" ]; then
            echo ${disk##*/}
            return
        fi
    done
}

interface_of() { # DRIVER
    for interface in /sys/class/net/*; do
        driver=$(readlink $interface/device/driver)
        if [ "${driver##*/}" = "$1" ]; then
            echo ${interface##*/}
            return
        fi
    done
}

say_facts() {
    for device in /sys/bus/pci/devices/*; do
        driver=$(readlink $device/driver) || continue
        group=$(readlink $device/iommu_group)
        report "fact device ${device##*/} ${driver##*/} group ${group##*/}"
    done
}

make_file_system() {
    # No lazy initialisation: it would still write while the guest is supposed to idle.
    mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 /dev/nvme0n1 &&
        mount -t ext4 /dev/nvme0n1 $nvme &&
        mount -t ext4 -o ro /dev/$(disk_called mmio) $memory_disk &&
        mount -o remount,rw $memory_disk
}

write_and_read_back() {
    mkfifo $state/pipe || return 1
    sha256sum <$state/pipe >$state/written &
    dd if=/dev/urandom bs=1M count=$nvme_mib 2>/dev/null | tee $state/pipe >$nvme/random || return 1
    wait $!
    sync -f $nvme/random
    echo 3 >/proc/sys/vm/drop_caches
    written=$(cut -d ' ' -f 1 <$state/written)
    digest nvme-written $written
    digest nvme-read "$(sum $nvme/random)"
    [ "$(stat -c %s $nvme/random)" -eq $((nvme_mib * 1048576)) ] || { echo "short file"; return 1; }
    [ "$written" = "$(cat $state/digest.nvme-read)" ] || { echo "read back differs from what was written"; return 1; }
}

fetch_e1000e() { fetch e1000e 10.0.2 e1000e random; }
fetch_virtio_net() { fetch virtio_net 10.0.3 virtio-net part; }

fetch() { # DRIVER SUBNET NAME FILE
    connect $1 $2 || return 1
    wget -q -O $state/$3.bin http://$2.2:$port/$4 || return 1
    digest $3 "$(sum $state/$3.bin)"
    rm $state/$3.bin
}

connect() { # DRIVER SUBNET
    [ -e $state/connected.$1 ] && return
    interface=$(interface_of $1)
    ip link set $interface up && ip addr add $2.15/24 dev $interface || return 1
    for attempt in $(seq 1 100); do
        [ "$(cat /sys/class/net/$interface/carrier 2>/dev/null)" = 1 ] && break
        sleep 0.1
    done
    : >$state/connected.$1
}

read_usb() { read_disk usb /dev/$(usb_disk); }
read_virtio_blk() { read_disk virtio-blk /dev/$(disk_called vblk); }
read_shared_blk() { read_disk shared-blk /dev/$(disk_called shared); }

# Several times, for a difference between two readings can be shown and not only be known of.
read_disk() { # NAME DEVICE
    for round in $(seq 1 $rounds); do
        cat $2 >$state/$1.new || return 1
        blockdev --flushbufs $2
        if [ $round -eq 1 ]; then
            digest $1 "$(sum $state/$1.new)"
            mv $state/$1.new $state/$1.first
        elif ! cmp -s $state/$1.first $state/$1.new; then
            show_difference $state/$1.first $state/$1.new >/dev/console
            echo "reading $round differs from the first"
            return 1
        fi
    done
    rm -f $state/$1.first $state/$1.new
}

# How many bytes differ in which pages, and the first of them.
show_difference() { # FILE FILE
    cmp -l $1 $2 | awk '{ pages[int(($1 - 1) / 4096)]++; if (!first) first = $1 }
        END { for (page in pages) printf "page %d: %d bytes differ\n", page, pages[page]; print "first at byte", first - 1 }' | sort -k 2 -n
    at=$(cmp $1 $2 | sed 's/.*byte \([0-9]*\).*/\1/')
    for file in $1 $2; do
        echo "$file:"
        dd if=$file bs=16 skip=$(( (at - 1) / 16 )) count=8 2>/dev/null | hexdump -C
    done
}

read_shared_rng() {
    for round in $(seq 2 $rounds); do
        dd if=/dev/hwrng of=$state/rng.a bs=512 count=16 2>/dev/null && dd if=/dev/hwrng of=$state/rng.b bs=512 count=16 2>/dev/null || return 1
    done
    [ "$(stat -c %s $state/rng.a)" -ge 4096 ] || { echo "too few random bytes"; return 1; }
    cmp -s $state/rng.a $state/rng.b && { echo "the same random bytes twice"; return 1; }
    # A buffer that the device never reached would be one byte over and over.
    [ "$(tr -d '\000' <$state/rng.a | wc -c)" -gt 3000 ] || { echo "random bytes are zeros"; return 1; }
}

# The memory-mapped disk addresses memory physically; the NVMe goes through its DART. The same pages of
# the page cache serve both.
copy_to_and_fro() {
    mkdir -p $nvme/from-mmio $memory_disk/back || return 1
    for file in $memory_disk/files/*; do
        name=${file##*/}
        cp $file $nvme/from-mmio/$name && sync -f $nvme/from-mmio/$name || return 1
        echo 1 >/proc/sys/vm/drop_caches
        cp $nvme/from-mmio/$name $memory_disk/back/$name && sync -f $memory_disk/back/$name || return 1
        echo 1 >/proc/sys/vm/drop_caches
        digest mmio-$name "$(sum $memory_disk/back/$name)"
        [ "$(cat $state/digest.mmio-$name)" = "$(sum $nvme/from-mmio/$name)" ] || { echo "$name differs on the way"; return 1; }
    done
}

come_to_rest() {
    ip link set "$(interface_of e1000e)" down
    ip link set "$(interface_of virtio_net)" down
    sync
    for name in nvme mmio; do
        [ -e $state/$name.hung ] && { echo "$name hangs, file systems left mounted"; return 1; }
    done
    umount $nvme && umount $memory_disk || return 1
    # The kernel asks a source of random numbers for more, some seconds apart, as long as there is one.
    for device in /sys/bus/virtio/drivers/virtio_rng/virtio*; do
        echo "${device##*/}" >/sys/bus/virtio/drivers/virtio_rng/unbind || return 1
    done
    # Writeback, link state changes and USB's autosuspend settle within this.
    sleep 1
}

sum() { sha256sum "$1" | cut -d ' ' -f 1; }

digest() { # NAME HEX
    echo "$2" >$state/digest.$1
    report "digest $1 $2"
}

main
