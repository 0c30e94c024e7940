#!/bin/sh
# The guest's part of pci-guest.sh: its init, and every step as a function. Runs under busybox, alone in a machine that ends with it.
# Takes ibid.nics from the kernel's command line; writes `PASS name` or `FAIL name` per step to the second serial port, `DONE` at the end.

export PATH=/bin
arg() { sed -n "s/.*ibid\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
SINK=/dev/ttyS1
NODES=/mnt/nodes
PAIR=5a1c6a0e-7c5a-4f0e-9d51-3b1d0c1f7a01
NQN=nqn.2014-08.org.nvmexpress:uuid:$PAIR

# The PCI address of an end: 0 the source's, 1 the destination's.
address() { printf '0000:00:%02x.0' $((16 + 2 * KIND + $1)); }
# Waits for a command to succeed, as long as both nodes run.
wait_for() {
    for _ in $(seq 200); do
        if "$@"; then return 0; fi
        for pid in $NODES/*/pid; do ! gone "$(cat "$pid")" || break 2; done
        sleep 0.3
    done
    echo "waited for: $*"
    tail -n 12 $NODES/*/out
    return 1
}
in_sync() { ibid status --json --config $NODES/source/node.toml 2>/dev/null | grep -q '"state": *"in-sync"'; }

configure() {
    role=$1 end=$2 own=$((1 + end)) other=$((2 - end))
    mkdir -p $NODES/"$role"
    [ -e $NODES/link.key ] || ibid keygen $NODES/link.key
    cat >$NODES/"$role"/node.toml <<END
[node]
name = "$role"
role = "$role"
pair = "$PAIR"
control = "$NODES/$role/control.sock"
read_memory = "16MiB"
[log]
device = "$NODES/$role/log"
segment_size = "16MiB"
[peer]
timeout = "10s"
[link]
device = "pci"
address = "$(address "$end")"
local = "192.0.2.$own:4791"
peer = "192.0.2.$other:4791"
mtu = $MTU
key = "$NODES/link.key"
[target]
listen = "127.0.0.1:$((4420 + end))"
hosts = "any"
[[volume]]
name = "v"
device = "$NODES/$role/volume.img"
size = "64MiB"
lba = 4096
uuid = "5a1c6a0e-7c5a-4f0e-9d51-3b1d0c1f7a02"
END
}
start() {
    ibid run --config $NODES/"$1"/node.toml >>$NODES/"$1"/out 2>&1 &
    echo $! >$NODES/"$1"/pid
}
stop() {
    pid=$(cat $NODES/"$1"/pid)
    kill -TERM "$pid"
    for _ in $(seq 200); do
        ! gone "$pid" || break
        sleep 0.3
    done
    gone "$pid"
    tail -n 3 $NODES/"$1"/out
}
gone() { ! kill -0 "$1" 2>/dev/null; }
write_for() { ibid bench --connect 127.0.0.1:4420 --nqn $NQN --depth 8 --seconds "$1" --region 16MiB; }

# --- the steps, in their order ---------------------------------------------------------------------------------------------------------

do_bind() {
    for end in 0 1; do bind.sh "$(address $end)"; done
    bind.sh --show
    bind.sh --show | grep -c 'driver=vfio-pci' | grep -qE '^[2-9]'
}
do_in_sync() {
    rm -rf $NODES
    configure source 0
    configure destination 1
    start destination
    start source
    wait_for in_sync
    grep -h . $NODES/*/out | head -n 12
}
do_write() {
    write_for 5
    ibid cp --config $NODES/source/node.toml
    ibid status --config $NODES/source/node.toml
}
# A NIC whose driver was killed is given to the next process as it is left.
do_destination_killed() {
    kill -KILL "$(cat $NODES/destination/pid)"
    sleep 1
    start destination
    sleep 1
    wait_for in_sync
    write_for 3
}
do_source_killed() {
    kill -KILL "$(cat $NODES/source/pid)"
    sleep 1
    start source
    wait_for in_sync
    write_for 3
}
do_verify() { ibid verify --config $NODES/source/node.toml v; }
do_stop() {
    stop source
    stop destination
    cmp $NODES/source/volume.img $NODES/destination/volume.img
}
do_release() {
    for end in 0 1; do
        bind.sh --release "$(address $end)"
        [ "$(basename "$(readlink -f /sys/bus/pci/devices/"$(address $end)"/driver)")" != vfio-pci ]
    done
}
do_not_bound() {
    rm -rf $NODES
    configure source 0
    if ibid run --config $NODES/source/node.toml >/tmp/refused 2>&1; then return 1; fi
    cat /tmp/refused
    grep -q "is it bound to vfio-pci" /tmp/refused
}
STEPS='bind in_sync write destination_killed source_killed verify stop release not_bound'

# --- init ----------------------------------------------------------------------------------------------------------------------------

if [ $$ = 1 ]; then
    /bin/busybox --install -s /bin 2>/dev/null
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mount -t devtmpfs dev /dev
    mount -t tmpfs tmp /tmp
    for module in virtio_pci virtio_blk ext4 vfio_iommu_type1; do modprobe $module; done
    ip link set lo up
    mkfs.ext4 -q -F /dev/vda && mount /dev/vda /mnt
    kind=0
    for nic in $(arg nics | tr ',' ' '); do
        for mtu in 9000 1500; do
            for step in $STEPS; do
                start=$(cut -d ' ' -f 1 /proc/uptime)
                echo "step $nic $mtu $step"
                # A new shell per step: only there does `-e` end a function at its first failure.
                if KIND=$kind MTU=$mtu sh -e /steps "$step" >/tmp/said.step 2>&1; then verdict=PASS; else verdict=FAIL; fi
                cat /tmp/said.step
                {
                    echo "$verdict $nic, MTU $mtu: $step ($(awk -v start="$start" '{ printf "%.1f", $1 - start }' /proc/uptime) s)"
                    if [ $verdict = FAIL ]; then
                        tail -n 25 /tmp/said.step | sed 's/^/     | /'
                        dmesg | tail -n 5 | sed 's/^/     ] /'
                    fi
                } >$SINK
                [ $verdict = PASS ] || break
            done
            killall -9 ibid 2>/dev/null
        done
        kind=$((kind + 1))
    done
    echo DONE >$SINK
    sleep 0.2
    poweroff -f
fi
"do_$1"
