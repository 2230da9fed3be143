# One transfer after the other, with no other device at work: `fact transfer NAME NANOSECONDS USER KERNEL HYPERVISOR`, the time
# and the instructions by exception level that it took. A transfer is named DEVICE-VERB. All of them move the same bytes, those
# of the disk `shared`, and each is compared with them afterwards. The functions of the demo's script are used; it follows this.

state=/run/demo
nvme=/mnt/nvme
memory_disk=/mnt/mmio
transfers="nvme-write nvme-read usb-write usb-read virtio-blk-write virtio-blk-read
    e1000e-receive e1000e-send virtio-net-receive virtio-net-send"
data=$state/data
back=$state/back

# In place of the demo's work.
only_transfers() {
    if run_transfers >$state/transfers.out 2>&1; then verdict=ok; else verdict=failed; fi
    report "step transfers $verdict 0 $(tr '\n' ' ' <$state/transfers.out | tail -c 400)"
}

run_transfers() {
    cat /dev/$(disk_called shared) >$data || return 1
    digest transferred "$(sum $data)"
    mkfifo $state/ask $state/answer || return 1
    count $(bell_address) <$state/ask >$state/answer &
    exec 3>$state/ask 4<$state/answer
    for name in ${chosen:-$transfers}; do
        transfer $name ${name%-*} ${name##*-} || { echo "$name failed"; return 1; }
    done
    exec 3>&- 4<&-
}

# The physical address of QEMU's pvpanic device, which stops the machine when it is written; 0 if the runner names none.
bell_address() {
    [ "$bell" ] || { echo 0; return; }
    # Memory space on: writes reach the device.
    echo 1 >/sys/bus/pci/devices/$bell/enable
    echo $(($(head -n 1 /sys/bus/pci/devices/$bell/resource | cut -d ' ' -f 1)))
}

transfer() { # NAME DEVICE VERB
    before_$3 $2 || return 1
    echo >&3
    read -r time user kernel hypervisor <&4
    do_$3 || return 1
    echo >&3
    read -r time_now user_now kernel_now hypervisor_now <&4
    after_$3 || { echo "other bytes arrived"; return 1; }
    report "fact transfer $1 $((time_now - time)) $((user_now - user)) $((kernel_now - kernel)) $((hypervisor_now - hypervisor))"
}

# Writes the data again and again, each time through to the disk.
before_write() { # DEVICE
    case $1 in
        nvme) file=$nvme/transferred ;;
        usb) file=/dev/$(usb_disk) ;;
        virtio-blk) file=/dev/$(disk_called vblk) ;;
    esac
    written=$state/written.$1
}
do_write() {
    for turn in $(seq $turns); do
        dd if=$data of=$file bs=64k conv=notrunc,fsync 2>/dev/null || return 1
    done
    : >$written
}
# The host looks into the image.
after_write() { :; }

# Reads from the disk and never from memory.
before_read() { # DEVICE
    before_write $1
    [ -e $written ] || do_write
}
do_read() {
    for turn in $(seq $turns); do
        echo 1 >/proc/sys/vm/drop_caches
        dd if=$file of=$back bs=64k 2>/dev/null || return 1
    done
}
after_read() { after_receive; }

before_receive() { # DEVICE
    case $1 in
        e1000e) host=10.0.2.2; connect e1000e 10.0.2 ;;
        virtio-net) host=10.0.3.2; connect virtio_net 10.0.3 ;;
    esac
}
do_receive() { wget -q -O $back http://$host:$port/data; }
after_receive() {
    cmp $data $back || return 1
    rm $back
}

# The server answers whether it got what it has itself. QEMU's e1000e drops a packet with a buffer that is scattered in memory.
before_send() { # DEVICE
    before_receive $1 || return 1
    [ $1 != e1000e ] || linear-packets $(interface_of e1000e)
}
do_send() { wget -q -O $back --post-file=$data http://$host:$port/data; }
after_send() { [ "$(cat $back)" = same ]; }
