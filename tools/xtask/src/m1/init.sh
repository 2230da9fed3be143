# A stock kernel on the simulated M1: what it sees, and whether its DMA is right.
#
# Prints lines: `guest: NAME ok`, `guest: NAME FAILED: why`, `guest: N cases, M failed`, and `trace: DIGITS`.
# What every init script begins with (mounts, tools, load_modules) stands before this.

devices="port0 port1 audio usb"
cases=0
failed=0

# On the serial port and on the screen.
report() {
    echo "guest: $*"
    echo "guest: $*" >/dev/tty0
}

report_each() {
    while read -r line; do report "$line"; done
}

# case_of NAME COMMAND...: the command's status counts, and its last line is the reason.
case_of() {
    name=$1
    shift
    cases=$((cases + 1))
    if reason=$("$@" 2>&1); then
        report "linux: $name ok"
    else
        failed=$((failed + 1))
        report "linux: $name FAILED: $(echo "$reason" | tail -n 1)"
    fi
}

is_number() {
    [ "$1" = "$2" ] || { echo "$1 instead of $2"; return 1; }
}

log_counts() {
    is_number "$(dmesg | grep -c "$1")" "$2"
}

is_bound() {
    ls -d /sys/bus/platform/drivers/board-dma/*."$1" >/dev/null || { dmesg | grep "\.$1: .*FAILED"; return 1; }
}

suspend_and_resume() {
    echo platform >/sys/power/pm_test
    echo freeze >/sys/power/state || return 1
    log_counts "after resume ok" 4
}

# The trace of this boot, from the port that Oche plays; it is printed in hexadecimal, on the serial port alone.
read_trace() {
    mkdir -p /dev/virtio-ports
    for entry in /sys/class/virtio-ports/*; do
        ln -s ../${entry##*/} /dev/virtio-ports/"$(cat $entry/name)"
    done
    [ -e /dev/virtio-ports/org.oche.trace ] || { echo "there is no port"; return 1; }
    exec 3<>/dev/virtio-ports/org.oche.trace
    timeout 120 cat <&3 >/tmp/trace.oche &
    echo end >&3
    wait $!
    exec 3>&-
    [ -s /tmp/trace.oche ] || { echo "nothing came from the port"; return 1; }
}

tell_trace() {
    gzip -c /tmp/trace.oche | xxd -p -c 64 | sed 's/^/trace: /'
}

# The interrupt is handled after the access: on a busy machine it may come a while later.
fault_is_reported() {
    addresses=$(dmesg | sed -n 's/.*board-dma .*: refused at 0x0*\([0-9a-f]*\) or .*/\1/p')
    for _ in $(seq 60); do
        for address in $addresses 10000000; do
            dmesg | grep -q "apple-dart.*translation fault.* at 0x$address\$" && return
        done
        sleep 1
    done
    echo "no translation fault at any of: $addresses 10000000"
    return 1
}

screen_is_there() {
    is_number "$(cat /sys/class/graphics/fb0/name)" simple
}

echo 4 >/proc/sys/kernel/printk
report "$(uname -r), $(getconf PAGESIZE) bytes a page, $(grep -c ^processor /proc/cpuinfo) CPUs"
case_of "pages of 4096 bytes" is_number "$(getconf PAGESIZE)" 4096
case_of "both CPUs" is_number "$(grep -c ^processor /proc/cpuinfo)" 2
case_of "the screen is its own" screen_is_there
load_modules
dmesg | grep -o "apple-dart.*DART \[pagesize.*" | report_each
case_of "five DARTs with 4K pages" log_counts "DART \[pagesize 1000, 16 streams, bypass support: 0" 5
case_of "the locked one is left alone" log_counts "DART is locked down until reboot" 1
for device in $devices; do
    case_of "$device: DMA both ways" is_bound "$device"
done
dmesg | grep -o "board-dma [^ ]* .*bytes in .*" | report_each
case_of "faults are reported by the DART's interrupt" fault_is_reported
dmesg | grep -o "apple-dart.*translation fault.*" | head -n 1 | report_each
case_of "the trace comes from the port" read_trace
tell_trace
case_of "suspend, power off, resume" suspend_and_resume
dmesg -r | grep '^<[0-3]>' | grep -v -e "translation fault" -e "locked down until reboot" | sed 's/^/log: /' | report_each
report "$cases cases, $failed failed"
poweroff -f
