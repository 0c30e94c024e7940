#!/bin/sh
# The guest's part of linux-guest.sh: its init, and every step as a function. Runs under busybox, alone in a machine that ends with it.
# Takes ibid.round, ibid.port, ibid.nqn, ibid.lba, ibid.mib and what else a round needs from the kernel's command line; writes `PASS name` or `FAIL name` per
# step to the second serial port, `DONE` at the end; `ASK word` where the other side has to do something, which says `done` on the third.

export PATH=/bin
arg() { sed -n "s/.*ibid\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
# The machine QEMU runs on. Its loopback address is taken for what it is there, not here: so the addresses that a discovery log names
# are the right ones. See `init`.
HOST=127.0.0.1
HOSTNQN=nqn.2014-08.org.nvmexpress:uuid:5f1d7a52-8d3f-4a86-9c0e-0c3c6f1e2b01
HOSTID=5f1d7a52-8d3f-4a86-9c0e-0c3c6f1e2b01
# Another name of the same machine: the one that has to authenticate. Linux wants another identifier with it.
SECRET_HOSTNQN=nqn.2014-08.org.nvmexpress:uuid:5f1d7a52-8d3f-4a86-9c0e-0c3c6f1e2b02
SECRET_HOSTID=5f1d7a52-8d3f-4a86-9c0e-0c3c6f1e2b02
SINK=/dev/ttyS1
ANSWERS=/dev/ttyS2
TRACE=/sys/kernel/tracing

if [ $$ != 1 ]; then
    PORT=$(arg port) OTHER_PORT=$(arg other_port) NQN=$(arg nqn) LBA=$(arg lba) MIB=$(arg mib) ROUND=$(arg round)
    # Other names than the first after a reconnect are the kernel's good right.
    dev() { ls /dev/nvme[0-9]*n1 2>/dev/null | head -n 1; }
    # The controller of the source, the one of the destination, or one of any kind.
    ctrl_at() { grep -lE "trsvcid=$1(,|\$)" /sys/class/nvme/nvme*/address 2>/dev/null | head -n 1 | xargs -r dirname; }
    ctrl() { ctrl_at "$PORT"; }
    other() { ctrl_at "$OTHER_PORT"; }
    any() { ls /sys/class/nvme 2>/dev/null | head -n 1; }
    DEV=$(dev)
    NAME=${DEV#/dev/}
fi

# --- tools ---------------------------------------------------------------------------------------------------------------------------

# busybox's shell takes its own applets before any program of the same name; these are wanted whole.
for tool in blkdiscard cmp dd fstrim sha256sum; do eval "$tool() { /bin/$tool \"\$@\"; }"; done

connect() {
    case " $* " in
        *" -q "*) ;;
        *) set -- -q $HOSTNQN -I $HOSTID "$@" ;;
    esac
    nvme connect -t tcp -a $HOST -s "$PORT" -n "$NQN" "$@" || return 1
    for _ in $(seq 100); do
        DEV=$(dev)
        [ -z "$DEV" ] || break
        sleep 0.1
    done
    NAME=${DEV#/dev/}
    [ -b "$DEV" ]
}
# The other side does something; opened first, or the answer would be lost.
ask() {
    exec 3<>$ANSWERS
    echo "ASK $1" >$SINK
    read -r -t 60 answer <&3
    exec 3<&-
    [ "$answer" = 'done' ]
}
disconnect() {
    case " $* " in
        *" -q "*) ;;
        *) set -- -q $HOSTNQN -I $HOSTID "$@" ;;
    esac
    nvme disconnect -n "$NQN"
    for _ in $(seq 100); do
        [ -n "$(dev)" ] || [ -n "$(any)" ] || return 0
        sleep 0.1
    done
    echo "still there: $(dev) $(any)"
    return 1
}
queues() { [ "$(cat "$(ctrl)/queue_count")" = $(($1 + 1)) ]; }
# Reads go past the page cache, or they would prove nothing.
read_at() { dd if="$DEV" bs=256k iflag=direct,skip_bytes,count_bytes skip="$1" count="$2" status=none; }
write_at() { dd of="$DEV" bs=256k iflag=fullblock oflag=direct,seek_bytes seek="$1" conv=notrunc status=none; }
sum_of() { read_at "$1" "$2" | sha256sum; }
is_zero() { [ "$(sum_of "$1" "$2")" = "$(dd if=/dev/zero bs=4096 count=$(($2 / 4096)) status=none | sha256sum)" ]; }
random() { dd if=/dev/urandom bs=64k iflag=count_bytes,fullblock count="$1" status=none; }
# Did the kernel really send this opcode while the command ran?
sends() {
    opcode=$1
    shift
    echo >$TRACE/trace
    echo 1 >$TRACE/events/nvme/nvme_setup_cmd/enable
    "$@"
    echo 0 >$TRACE/events/nvme/nvme_setup_cmd/enable
    grep -q "$opcode" $TRACE/trace || { echo "no $opcode was sent"; return 1; }
}
# Writes every place of a region once in an order of chance, then reads it back and compares: block size, MiB, more.
verified() {
    block=$1 mib=$2
    shift 2
    fio --name=verify --filename="$DEV" --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --blocksize_range="$block" \
        --size="${mib}m" --verify=crc32c --verify_fatal=1 --do_verify=1 --output-format=terse "$@" >/tmp/fio 2>&1 ||
        { tail -n 20 /tmp/fio; return 1; }
}

# --- the steps, in their order ---------------------------------------------------------------------------------------------------------

do_discover() {
    nvme discover -t tcp -a $HOST -s "$PORT" -q $HOSTNQN -I $HOSTID >/tmp/discovery
    cat /tmp/discovery
    grep -q "^subnqn: *$NQN *$" /tmp/discovery
    grep -q "^trsvcid: *$PORT *$" /tmp/discovery
    grep -q '^subtype: *nvme subsystem' /tmp/discovery
}
do_connect_1_queue() {
    connect --nr-io-queues=1 --keep-alive-tmo=4
    queues 1
}
do_list() {
    nvme list >/tmp/list
    cat /tmp/list
    grep -q "^$DEV " /tmp/list
    nvme list-subsys
    [ "$(nvme list-ns "$DEV" | wc -l)" = 1 ]
}
do_id_ctrl() {
    nvme id-ctrl "$DEV" >/tmp/ctrl
    cat /tmp/ctrl
    grep -q "^subnqn *: *$NQN" /tmp/ctrl
    grep -q '^vwc *: *0' /tmp/ctrl
    grep -q '^mdts *: *8$' /tmp/ctrl
    [ "$(cat "/sys/block/$NAME/queue/write_cache")" = 'write through' ]
}
do_id_ns() {
    nvme id-ns -H "$DEV" >/tmp/ns
    cat /tmp/ns
    grep -q "Data Size: *$LBA *bytes.*(in use)" /tmp/ns
    [ "$(cat "/sys/block/$NAME/queue/logical_block_size")" = "$LBA" ]
    [ "$(cat "/sys/block/$NAME/size")" = $((MIB * 2048)) ]
    nvme ns-descs "$DEV"
    cat "/sys/block/$NAME/uuid" "/sys/block/$NAME/nguid"
}
do_logs() {
    nvme smart-log "$DEV" >/tmp/smart
    cat /tmp/smart
    grep -q '^critical_warning[[:space:]]*: *0' /tmp/smart
    grep -q '^available_spare[[:space:]]*: *100%' /tmp/smart
    nvme fw-log "$DEV"
    nvme error-log "$DEV" -e 1
    nvme effects-log "$DEV"
    # Not show-regs: nvme-cli 2.3 prints what lay in its memory once a property is refused.
    nvme get-property "/dev/$(basename "$(ctrl)")" -o 0x1c >/tmp/csts
    cat /tmp/csts
    grep -q 'value: 1$' /tmp/csts
    nvme get-feature "$DEV" -f 7
    nvme get-feature "$DEV" -f 0xf
}
do_fio_lba() { verified "$LBA-$LBA" 1; }
do_fio_4k() { verified 4k-4k 2; }
do_fio_64k() { verified 64k-64k 16; }
do_fio_1m() { verified 1m-1m 32; }
# Everything else that can be asked.
do_pages() {
    nvme supported-log-pages "$DEV" >/tmp/pages
    cat /tmp/pages
    grep -q '0xc' /tmp/pages
    nvme changed-ns-list-log "$DEV"
    nvme fid-support-effects-log "$DEV"
    nvme mi-cmd-support-effects-log "$DEV"
    nvme list-ns "$DEV" --all
    nvme list-ctrl "$DEV"
    nvme list-ctrl "$DEV" -n 1
    nvme id-ns "$DEV" -n 1 --force
    nvme id-iocs "$DEV"
    nvme cmdset-ind-id-ns "$DEV" -n 1
    nvme nvm-id-ctrl "$DEV"
    nvme nvm-id-ns "$DEV" -n 1
    for feature in 1 2 4 5 7 0xa 0xb 0xf; do
        for select in 0 1 2 3; do nvme get-feature "$DEV" -f $feature -s $select; done
    done
    nvme get-feature "$DEV" -f 0x81 -l 16 --cdw11=1
    nvme set-feature "/dev/$(basename "$(ctrl)")" -f 0xb --value=0x100
    # What is not there says so.
    if nvme get-feature "$DEV" -f 6 >/tmp/said 2>&1; then echo 'a write cache?'; return 1; fi
    grep -qi 'invalid field' /tmp/said
    if nvme get-log "$DEV" --log-id=0xd --log-len=512 >/tmp/said 2>&1; then echo 'a persistent event log?'; return 1; fi
    grep -qi 'invalid log page' /tmp/said
}
do_refusals() {
    dd if=/dev/zero of=/tmp/block bs="$LBA" count=1 status=none
    past=$((MIB * 1048576 / LBA))
    if nvme read "$DEV" -s $past -c 0 -z "$LBA" -d /tmp/out >/tmp/said 2>&1; then echo 'read past the end'; return 1; fi
    cat /tmp/said
    grep -qi 'LBA Out of Range\|LBA_RANGE\|LBA Range\|exceeds the size' /tmp/said
    # A vendor's opcode, which nobody has.
    if nvme io-passthru "$DEV" -n 1 -o 0x99 >/tmp/said 2>&1; then echo 'did something'; return 1; fi
    cat /tmp/said
    grep -qi 'opcode' /tmp/said
}
do_passthrough() {
    random 4096 >/tmp/block
    count=$((4096 / LBA - 1))
    nvme write "$DEV" -s 64 -c $count -z 4096 -d /tmp/block --force-unit-access
    nvme read "$DEV" -s 64 -c $count -z 4096 -d /tmp/out
    cmp /tmp/block /tmp/out
}
# Equal, different in the last byte, another length; then nothing is left of it: the next write and read work.
do_compare() {
    count=$((65536 / LBA - 1))
    random 65536 >/tmp/block
    nvme write "$DEV" -s 64 -c $count -z 65536 -d /tmp/block
    nvme compare "$DEV" -s 64 -c $count -z 65536 -d /tmp/block
    nvme compare "$DEV" -s 64 -c 0 -z "$LBA" -d /tmp/block
    cp /tmp/block /tmp/other
    dd if=/dev/zero of=/tmp/other bs=1 seek=65535 count=1 conv=notrunc status=none
    if cmp -s /tmp/block /tmp/other; then printf '\1' | dd of=/tmp/other bs=1 seek=65535 conv=notrunc status=none; fi
    if nvme compare "$DEV" -s 64 -c $count -z 65536 -d /tmp/other >/tmp/said 2>&1; then echo 'equal?'; return 1; fi
    cat /tmp/said
    grep -qi 'compare.*fail' /tmp/said
    grep -qi '285' /tmp/said
    nvme read "$DEV" -s 64 -c $count -z 65536 -d /tmp/out
    cmp /tmp/block /tmp/out
}
do_verify() {
    nvme verify "$DEV" -n 1 -s 64 -c $((65536 / LBA - 1))
    if nvme verify "$DEV" -n 1 -s $((MIB * 1048576 / LBA)) -c 0 >/tmp/said 2>&1; then echo 'verified past the end'; return 1; fi
    cat /tmp/said
}
do_flush() { sends nvme_cmd_flush nvme flush "$DEV" -n 1; }
do_discard() {
    random 4194304 | write_at 8388608
    before=$(sum_of 8388608 1048576) after=$(sum_of 11534336 1048576)
    sends nvme_cmd_dsm blkdiscard -o 9437184 -l 2097152 "$DEV"
    is_zero 9437184 2097152
    [ "$(sum_of 8388608 1048576)" = "$before" ]
    [ "$(sum_of 11534336 1048576)" = "$after" ]
}
do_dsm_ranges() {
    random 1048576 | write_at 8388608
    unit=$((4096 / LBA)) first=$((8388608 / LBA))
    kept=$(sum_of 8392704 4096)
    nvme dsm "$DEV" -n 1 -d -s $first,$((first + 2 * unit)) -b $unit,$unit
    is_zero 8388608 4096
    is_zero 8396800 4096
    [ "$(sum_of 8392704 4096)" = "$kept" ]
}
do_write_zeroes() {
    random 4194304 | write_at 8388608
    before=$(sum_of 8388608 1048576) after=$(sum_of 11534336 1048576)
    [ "$(cat "/sys/block/$NAME/queue/write_zeroes_max_bytes")" -gt 0 ]
    sends nvme_cmd_write_zeroes blkdiscard -z -o 9437184 -l 2097152 "$DEV"
    is_zero 9437184 2097152
    [ "$(sum_of 8388608 1048576)" = "$before" ]
    [ "$(sum_of 11534336 1048576)" = "$after" ]
}
do_discard_all() {
    blkdiscard "$DEV"
    is_zero 0 1048576
    is_zero $((MIB * 1048576 - 1048576)) 1048576
}
# Two timeouts and more without I/O: only keep-alives tell the target that the host lives.
do_keep_alive() {
    random 65536 | write_at 65536
    before=$(sum_of 65536 65536) lines=$(dmesg | wc -l)
    sleep 10
    [ "$(cat "$(ctrl)/state")" = live ]
    [ "$(sum_of 65536 65536)" = "$before" ]
    if dmesg | tail -n +$((lines + 1)) | grep -i nvme; then return 1; fi
}
do_reset() {
    nvme reset "/dev/$(basename "$(ctrl)")"
    for _ in $(seq 100); do
        [ "$(cat "$(ctrl)/state")" != live ] || break
        sleep 0.1
    done
    verified 4k-4k 2
}
# --- two nodes, one subsystem

other_path() { nvme connect -t tcp -a $HOST -s "$OTHER_PORT" -n "$NQN" "$@"; }
states() { cat /sys/class/nvme/nvme*/nvme*c*n1/ana_state 2>/dev/null | sort | tr '\n' ' '; }
two_paths() {
    for _ in $(seq 100); do
        [ "$(states)" != 'inaccessible optimized ' ] || break
        sleep 0.1
    done
    echo "paths: $(states)"
    [ "$(states)" = 'inaccessible optimized ' ]
    [ "$(ls /dev/nvme*n1 | wc -l)" = 1 ]
    [ "$(cat "$(ctrl)"/nvme*c*n1/ana_state)" = optimized ]
}
# Commands that were given to the destination's path.
strays() { awk '{ sum += $1 + $5 + $12 } END { print sum }' "$(other)"/nvme*c*n1/stat; }
do_paths() {
    other_path -q $HOSTNQN -I $HOSTID --nr-io-queues=1
    two_paths
    nvme list-subsys "$DEV" >/tmp/subsystems
    cat /tmp/subsystems
    grep -q 'live *optimized' /tmp/subsystems
    grep -q 'live *inaccessible' /tmp/subsystems
    nvme ana-log "$DEV" >/tmp/ana
    cat /tmp/ana
    nvme ana-log "/dev/$(basename "$(other)")" >/tmp/ana
    cat /tmp/ana
    grep -qi 'inaccessible' /tmp/ana
    # Both nodes describe the same volume.
    for node in "$(ctrl)" "$(other)"; do nvme id-ns "/dev/$(basename "$node")" -n 1 | grep -vi '^NVME Identify'; done >/tmp/both
    half=$(($(wc -l </tmp/both) / 2))
    head -n $half /tmp/both >/tmp/one
    tail -n $half /tmp/both >/tmp/two
    cmp /tmp/one /tmp/two
    verified 4k-64k 8
    [ "$(strays)" = 0 ]
}
# Past the multipath, by the destination's controller itself.
do_destination_refuses() {
    for opcode in 0 2; do
        if nvme io-passthru "/dev/$(basename "$(other)")" -n 1 -o $opcode -l "$LBA" -r >/tmp/said 2>&1; then
            cat /tmp/said
            echo 'the destination served a command'
            return 1
        fi
        cat /tmp/said
        grep -qiE 'asymmetric|0x302' /tmp/said
    done
}
# The source's path is taken away under load and comes back: what was written waits for it.
do_path_away() {
    verified 4k-64k 24 --rate=6m &
    load=$!
    sleep 1
    nvme disconnect -d "$(basename "$(ctrl)")"
    sleep 2
    kill -0 $load
    connect --nr-io-queues=1 --keep-alive-tmo=4
    wait $load
    two_paths
    [ "$(strays)" = 0 ]
    nvme disconnect -d "$(basename "$(other)")"
}

do_disconnect() {
    random 4194304 >/tmp/kept
    write_at 104857600 </tmp/kept
    disconnect
}
do_digests_1_queue() {
    connect --nr-io-queues=1 --hdr-digest --data-digest
    queues 1
    read_at 104857600 4194304 | cmp - /tmp/kept
    verified "$LBA-1m" 8
    disconnect
}
do_header_digest() {
    connect --nr-io-queues=1 --hdr-digest --disable-sqflow
    verified "$LBA-256k" 4
    disconnect
}
do_data_digest() {
    connect --nr-io-queues=1 --data-digest
    verified "$LBA-256k" 4
    disconnect
}
# Queues of their own for reads and for writes: four with two CPUs.
do_connect_4_queues() {
    connect --nr-io-queues=2 --nr-write-queues=2
    queues 4
    verified "$LBA-1m" 8 --numjobs=2 --offset_increment=32m
    verified 4k-64k 6 --numjobs=2 --offset_increment=32m --iodepth=64
    disconnect
}
do_digests_4_queues() {
    connect --nr-io-queues=2 --nr-write-queues=2 --hdr-digest --data-digest
    queues 4
    verified "$LBA-1m" 8 --numjobs=2 --offset_increment=32m
}
do_mkfs() {
    mkfs.ext4 -F -q "$DEV"
    mount -t ext4 "$DEV" /mnt
    cp -r /bin /modules /mnt
    mkdir /mnt/small
    for number in $(seq 300); do echo "$number" >"/mnt/small/$number"; done
    (cd /mnt && find . -type f -exec sha256sum {} + >/tmp/sums)
    umount /mnt
    e2fsck -fn "$DEV"
}
do_files() {
    echo 3 >/proc/sys/vm/drop_caches
    mount -t ext4 "$DEV" /mnt
    (cd /mnt && sha256sum -c /tmp/sums >/tmp/checked) || { grep -v ': OK' /tmp/checked; return 1; }
    rm -r /mnt/modules
    sends nvme_cmd_dsm fstrim -v /mnt
    sed -i '/ \.\/modules\//d' /tmp/sums
    umount /mnt
    e2fsck -fn "$DEV"
    mount -t ext4 -o ro "$DEV" /mnt
    (cd /mnt && sha256sum -c /tmp/sums >/tmp/checked) || { grep -v ': OK' /tmp/checked; return 1; }
    umount /mnt
}
do_last_disconnect() { disconnect; }

# --- discovery, with a referral to the other node

DISCOVERY=nqn.2014-08.org.nvmexpress.discovery
do_referrals() {
    for port in "$PORT" "$OTHER_PORT"; do
        nvme discover -t tcp -a $HOST -s "$port" -q $HOSTNQN -I $HOSTID >/tmp/discovery
        cat /tmp/discovery
        grep -q '^subtype: *current discovery' /tmp/discovery
        grep -q "^subnqn: *$NQN *$" /tmp/discovery
        for there in "$PORT" "$OTHER_PORT"; do grep -q "^trsvcid: *$there *$" /tmp/discovery; done
    done
}
do_connect_all() {
    nvme connect-all -t tcp -a $HOST -s "$PORT" -q $HOSTNQN -I $HOSTID --nr-io-queues=1
    DEV=$(dev)
    two_paths
    verified 4k-64k 4
    disconnect
}
# A connection that stays: longer than its keep-alive timeout.
do_persistent_discovery() {
    nvme discover -t tcp -a $HOST -s "$PORT" -q $HOSTNQN -I $HOSTID --persistent --keep-alive-tmo=3 >/tmp/discovery
    grep -q "^subnqn: *$NQN *$" /tmp/discovery
    sleep 7
    [ "$(cat "$(ctrl)/state")" = live ]
    [ "$(cat "$(ctrl)/subsysnqn")" = $DISCOVERY ]
    # The same connection is asked again.
    nvme discover -d "$(basename "$(ctrl)")" -t tcp -a $HOST -s "$PORT" >/tmp/discovery
    grep -q "^subnqn: *$NQN *$" /tmp/discovery
    nvme disconnect -n $DISCOVERY
    [ -z "$(ctrl)" ]
}

# --- authentication: the kernel says in its log what was agreed on

authenticate() {
    dmesg -c >/dev/null
    # Once more than the target's own pause after a failure.
    connect -q $SECRET_HOSTNQN -I $SECRET_HOSTID "$@"
    dmesg | grep -i 'qid' || true
}
agreed_hash() { dmesg | grep -q 'qid 0: selected hash hmac(sha512)'; }
agreed() { agreed_hash && dmesg | grep -q "qid 0: selected DH group $1"; }
agreed_without() { agreed_hash && ! dmesg | grep -q 'qid 0: selected DH group'; }
refused() {
    if connect -q $SECRET_HOSTNQN -I $SECRET_HOSTID "$@" >/tmp/said 2>&1; then echo 'connected'; return 1; fi
    cat /tmp/said
    [ -z "$(dev)" ]
}
do_auth() {
    authenticate -S "$(arg secret)" --nr-io-queues=1
    agreed ffdhe3072
    verified 4k-64k 4
    disconnect
}
do_auth_wrong_secret() { refused -S "$(arg wrong_secret)" --nr-io-queues=1; }
do_auth_no_secret() { refused --nr-io-queues=1; }
# Here it is the host that refuses.
do_auth_wrong_controller() { refused -S "$(arg secret)" -C "$(arg wrong_secret)" --nr-io-queues=1; }
do_auth_2048_mutual() {
    ask group_ffdhe2048
    authenticate -S "$(arg secret)" -C "$(arg controller_secret)" --nr-io-queues=2 --hdr-digest --data-digest
    agreed ffdhe2048
    verified 4k-64k 4
    disconnect
}
do_auth_no_group_mutual() {
    ask group_null
    authenticate -S "$(arg secret)" -C "$(arg controller_secret)" --nr-io-queues=2
    agreed_without
    verified 4k-64k 4
    disconnect
}
# The others are not asked for anything.
do_auth_others() {
    connect --nr-io-queues=1
    verified 4k-64k 4
    disconnect
}

# Random writes and their verification, slow enough for what happens meanwhile; nobody but the kernel's own reconnecting helps.
under_load() {
    lines=$(dmesg | wc -l)
    verified 4k-64k 36 --rate=3m --numjobs=2 --offset_increment=64m --group_reporting &
    load=$!
    sleep 4
    ask "$1"
    kill -0 $load
    wait $load
    for node in "$(ctrl)" "$(other)"; do [ "$(cat "$node/state")" = live ]; done
    two_paths
    [ "$(strays)" = 0 ]
    dmesg | tail -n +$((lines + 1)) >/tmp/dmesg
    cat /tmp/dmesg
    if grep -iE 'I/O error|removing|Call Trace|BUG:' /tmp/dmesg; then return 1; fi
}
do_connect_to_be_killed() {
    set -- -S "$(arg secret)" -C "$(arg controller_secret)" --keep-alive-tmo=4 --reconnect-delay=1 --ctrl-loss-tmo=60
    authenticate --nr-io-queues=2 "$@"
    queues 2
    other_path -q $SECRET_HOSTNQN -I $SECRET_HOSTID --nr-io-queues=1 "$@"
    two_paths
}
do_source_killed() {
    under_load kill_source
    grep -q 'uccessfully reconnected' /tmp/dmesg
}
do_destination_killed() { under_load kill_destination; }
do_kernel_log() {
    # Refused on purpose above: by passthrough, which Linux logs in its own words.
    if dmesg | grep -iE 'nvme.*(error|timeout|timed out|fail|invalid|unexpected|mismatch|reconnect)|I/O error|ext4.*error|Call Trace|BUG:' |
        grep -vE 'cmd_flags|Compare|Verify|opcode 0x(5|c|99)|LBA Out of Range'; then return 1; fi
}

STEPS='discover connect_1_queue list id_ctrl id_ns logs pages fio_lba fio_4k fio_64k fio_1m refusals passthrough compare verify flush discard dsm_ranges
    write_zeroes discard_all keep_alive reset paths destination_refuses path_away disconnect digests_1_queue header_digest data_digest connect_4_queues digests_4_queues
    mkfs files last_disconnect kernel_log'
STEPS_NODES='referrals connect_all persistent_discovery auth auth_wrong_secret auth_no_secret auth_wrong_controller auth_2048_mutual auth_no_group_mutual auth_others
    connect_to_be_killed source_killed destination_killed mkfs files last_disconnect'

# --- init ----------------------------------------------------------------------------------------------------------------------------

if [ $$ = 1 ]; then
    /bin/busybox --install -s /bin 2>/dev/null
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mount -t devtmpfs dev /dev
    mount -t tmpfs tmp /tmp
    mount -t tracefs trace $TRACE
    mount -t debugfs debug /sys/kernel/debug
    echo 'file drivers/nvme/host/auth.c +p' >/sys/kernel/debug/dynamic_debug/control
    for module in /modules/*; do insmod "$module"; done
    # No loopback here: 127.0.0.1 is reached over the network, whose other end takes it for its own.
    ip link set eth0 up
    ip address add 10.0.2.15/24 dev eth0
    echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet
    ip route add 127.0.0.0/8 via 10.0.2.2 src 10.0.2.15
    # A new shell per step: only there does `-e` end a function at its first failure.
    case $(arg round) in
        nodes) steps=$STEPS_NODES ;;
        *) steps=$STEPS ;;
    esac
    for step in $steps; do
        start=$(cut -d ' ' -f 1 /proc/uptime)
        echo "step $step"
        if sh -e /steps "$step" >/tmp/said.step 2>&1; then
            verdict=PASS
        else
            verdict=FAIL
        fi
        cat /tmp/said.step
        {
            echo "$verdict $step ($(awk -v start="$start" '{ printf "%.1f", $1 - start }' /proc/uptime) s)"
            if [ $verdict = FAIL ]; then
                tail -n 15 /tmp/said.step | sed 's/^/     | /'
                dmesg | tail -n 5 | sed 's/^/     ] /'
            fi
        } >$SINK
    done
    echo DONE >$SINK
    sleep 0.2
    poweroff -f
fi
"do_$1"
