#!/usr/bin/env bash
# A real Linux as the host: boots a Debian kernel in QEMU and lets its NVMe/TCP initiator use ibid through the steps of
# tests/hosts/guest-steps.sh. Rounds: `512` and `4096` against `ibid demo --serve`, one per logical block size; `nodes` against two
# `ibid run`, to which it authenticates, and that are killed and started again under its load. After each, both nodes stop, and the mirror must be identical.
#
# Takes: IBID         the binary                      [target/release/ibid]
#        IBID_CACHE   where the kernel is kept        [/var/cache/ibid-hosts]
#        IBID_LINK    memif or af_packet              [memif in the round 4096, af_packet in the others where root]
#        IBID_ROUNDS  which rounds                    [512 4096 nodes]
#        IBID_GUEST_SECONDS  a guest's longest time   [240]
# Gives: a line `PASS`, `FAIL` or `SKIPPED:` per step; exit status 1 if anything failed. What is missing is installed with apt (root).
#
# Without hardware virtualisation the guest is emulated: this tests what happens, never how fast.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/hosts/lib.sh
source "$here/lib.sh"
# shellcheck source=tests/hosts/guest.sh
source "$here/guest.sh"
guest_seconds=${IBID_GUEST_SECONDS:-240}

skip() { echo "SKIPPED: Linux guest: $1"; exit 0; }

# --- what is needed ----------------------------------------------------------------------------------------------------------------

need_programs qemu-system-x86_64=qemu-system-x86 nvme=nvme-cli fio=fio busybox=busybox-static mkfs.ext4=e2fsprogs blkdiscard=util-linux \
    cpio=cpio xz=xz-utils depmod=kmod cmp=diffutils
need_kernel

# --- the guest's only file system: programs of this machine with their libraries, and a few modules -------------------------------------

work=$(mktemp -d /var/tmp/ibid-guest.XXXXXX)
make_initramfs() {
    local tree=$work/tree path number=10
    mkdir -p "$tree"/{bin,dev,etc,lib64,mnt,modules,proc,sys,tmp}
    copy_programs "$tree" busybox nvme fio mkfs.ext4 e2fsck blkdiscard fstrim dd cmp sha256sum
    for path in $(module_files virtio_pci virtio_net crc32c_generic crc32c_intel ext4 nvme_tcp); do
        number=$((number + 1))
        copy_module "$path" "$tree/modules/$number-$(basename "$path" .xz)"
    done
    cp "$here/guest-steps.sh" "$tree/steps"
    ln -s /bin/busybox "$tree/bin/sh"
    ln -s /steps "$tree/init"
    chmod +x "$tree/steps"
    pack_initramfs "$tree" "$work/initramfs"
}
make_initramfs

# --- a guest -----------------------------------------------------------------------------------------------------------------------

# Boots a guest, shows what it says and counts it: name of the round, more of the kernel's command line. A line `ASK word` calls the
# function of this script that has that word in its name, and is answered.
guest() {
    local round=$1 status=0 asked=0 word results=$work/results console=$work/console
    shift
    : >"$results"
    rm -f "$work"/answers.*
    mkfifo "$work/answers.in" "$work/answers.out"
    timeout --kill-after=5 "$guest_seconds" qemu-system-x86_64 -machine q35 "${accelerator[@]}" -smp 2 -m 1024 -nodefaults -display none \
        -no-reboot -nic user,model=virtio-net-pci -serial "file:$console" -serial "file:$results" -serial "pipe:$work/answers" \
        -kernel "$image" -initrd "$work/initramfs" \
        -append "console=ttyS0 panic=-1 quiet mitigations=off ibid.round=$round $*" >"$work/qemu.out" 2>&1 &
    host_pid=$!
    # Shown as they come, and counted at the end.
    tail -n +1 -f --pid="$host_pid" "$results" | sed -u "s/\r$//; /^DONE/d; /^ASK/d; /^ /!s/ / $round: /" &
    while ! gone "$host_pid"; do
        word=$(sed -n 's/^ASK \([a-z0-9_]*\)\r*$/\1/p' "$results" | sed -n "$((asked + 1))p")
        if [[ -n $word ]]; then
            asked=$((asked + 1))
            # Opened both ways, or it would wait for a QEMU that has ended meanwhile.
            if "asked_to_$word"; then
                echo 'done' 1<>"$work/answers.in"
            else
                fail "$round: $word, on this side"
                echo 'failed' 1<>"$work/answers.in"
            fi
        fi
        sleep 0.2
    done
    wait "$host_pid" || status=$?
    host_pid=''
    # The last lines are still on their way through `tail`, which looks once a second.
    sleep 1.2
    passes=$((passes + $(grep -c '^PASS ' "$results" || true)))
    failures=$((failures + $(grep -c '^FAIL ' "$results" || true)))
    if ! grep -q '^DONE' "$results"; then
        word="the guest reaches its end (exit status $status of QEMU)"
        [[ $status != 124 ]] || word="the guest reaches its end within $guest_seconds s"
        fail "$round: $word"
        quote "$work/qemu.out"
        quote "$console" 25
    fi
}

# The guest's last act is a file system; the mirror is an ordinary image of it.
check_mirror() {
    if e2fsck -fn "$2" >"$work/e2fsck" 2>&1; then
        pass "$1: the guest's file system is whole on the mirror"
    else
        fail "$1: the guest's file system is whole on the mirror"
        quote "$work/e2fsck"
    fi
}

# --- the rounds ----------------------------------------------------------------------------------------------------------------------

round_of_demo() {
    echo "--- Linux ${version}, $1-byte blocks, link $2"
    start_demo "$1" "$1" "$2" || return 0
    guest "$1" "ibid.port=$port ibid.other_port=$other_port ibid.nqn=$nqn ibid.lba=$1 ibid.mib=$size_mib"
    stop_demo "$1"
    check_mirror "$1" "$work/pair/destination/volume.img"
}

# Asked for by the guest. Linux must notice before the node is back.
asked_to_kill_source() { kill_and_restart source; }
asked_to_kill_destination() { kill_and_restart destination; }

# Another group is all that its configuration allows from now on.
restart_source_with() {
    kill -TERM "$source_pid"
    end_of "$source_pid" || return 1
    sed -i "s/^groups = .*/groups = [\"$1\"]/" "$work/nodes/source/node.toml"
    start_source
    until_true "$ready_seconds" is_in_sync
}
asked_to_group_ffdhe2048() { restart_source_with ffdhe2048; }
asked_to_group_null() { restart_source_with null; }

round_of_nodes() {
    echo "--- Linux ${version}, two nodes that are killed under load, link $1"
    start_nodes nodes "$1" || return 0
    guest nodes "ibid.port=$port ibid.other_port=$other_port ibid.nqn=$nqn ibid.lba=4096 ibid.mib=$size_mib" "ibid.secret=$(<"$work/nodes/secret")" \
        "ibid.controller_secret=$(<"$work/nodes/controller_secret")" "ibid.wrong_secret=$(new_secret)"
    stop_nodes nodes
    check_mirror nodes "$work/nodes/destination/volume.img"
}

default_link=memif
[[ $(id -u) != 0 ]] || default_link=af_packet
for round in ${IBID_ROUNDS:-512 4096 nodes}; do
    case $round in
        512) round_of_demo 512 "${IBID_LINK:-$default_link}" ;;
        4096) round_of_demo 4096 "${IBID_LINK:-memif}" ;;
        nodes) round_of_nodes "${IBID_LINK:-$default_link}" ;;
        *) fail "$round is no round: 512, 4096, nodes" ;;
    esac
done
echo "Linux guest: $passes passed, $failures failed, $SECONDS s"
((failures == 0))
