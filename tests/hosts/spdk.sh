#!/usr/bin/env bash
# SPDK's initiator as the host, if there is an SPDK: identify, perf, bdevperf with verification, bdevio. Two rounds: `512` against
# `ibid demo --serve`, `4096` against two `ibid run` of which the source is killed and started again under load. After each, both nodes
# stop, and the mirror must be identical.
#
# Takes: IBID       the binary                                                    [target/release/ibid]
#        IBID_SPDK  a folder with SPDK's programs, or one in which SPDK was built [what pkg-config says of spdk_nvme]
#        IBID_LINK  memif or af_packet                                            [memif in the round 512, af_packet in the other where root]
# Gives: a line `PASS`, `FAIL` or `SKIPPED:` per step; exit status 1 if anything failed. Installs nothing and needs no huge pages.
set -euo pipefail

# shellcheck source=tests/hosts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

skip() { echo "SKIPPED: SPDK: $1"; exit 0; }

[[ -x $ibid ]] || skip "$ibid is not there; make build"
spdk=${IBID_SPDK:-$(pkg-config --variable=prefix spdk_nvme 2>/dev/null || true)}
[[ -n $spdk ]] || skip "neither IBID_SPDK nor pkg-config says where one is"
# Gives the path of one of its programs, installed or where it was built.
program() {
    local folder
    for folder in "$spdk" "$spdk"/{bin,build/bin,build/examples,test/bdev/bdevio}; do
        if [[ -x $folder/$1 && ! -d $folder/$1 ]]; then
            echo "$folder/$1"
            return
        fi
    done
    return 1
}
program spdk_nvme_identify >/dev/null || skip "no spdk_nvme_identify in $spdk"
for folder in "$spdk"/{lib,build/lib,../lib}; do
    [[ ! -d $folder ]] || export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
work=$(mktemp -d /var/tmp/ibid-spdk.XXXXXX)

# MiB of ordinary memory: what the programs want at least, with pools as small as in `attach`.
readonly small_mib=256 bdev_mib=512
readonly step_seconds=60 run_seconds=2

# --- one step ------------------------------------------------------------------------------------------------------------------------

# Runs a program: name of the step, program, its arguments. Its output is in $work/out; passes if it ends well and `check` agrees.
step() {
    local name=$1 path status=0
    if ! path=$(program "$2"); then
        echo "SKIPPED: SPDK: $name: no $2 in $spdk"
        return 0
    fi
    shift 2
    timeout --kill-after=5 "$step_seconds" "$path" --no-huge "$@" >"$work/out" 2>&1 &
    host_pid=$!
    wait "$host_pid" || status=$?
    host_pid=''
    verdict "$name" "$status"
}
verdict() {
    if [[ $2 == 0 ]] && check "$work/out"; then
        pass "$1"
    else
        fail "$1 (exit status $2)"
        quote "$work/out"
    fi
}
# What a program has to have said. Redefined by the steps.
check() { true; }

# Where to connect, for programs that take that as an argument.
address() { echo "trtype:tcp adrfam:ipv4 traddr:127.0.0.1 trsvcid:$port subnqn:$nqn hostnqn:$hostnqn"; }

# The configuration of a program that works on block devices, with pools that fit into `bdev_mib`: more parameters of the attachment, each
# behind a comma; methods before it, each with a comma behind. The keys `host` and `controller` are the secrets of the host that has one.
attach() {
    cat >"$work/bdev.json" <<END
{"subsystems": [
  {"subsystem": "iobuf", "config": [
    {"method": "iobuf_set_options", "params": {"small_pool_count": 1024, "large_pool_count": 128}}]},
  {"subsystem": "keyring", "config": [$keys]},
  {"subsystem": "bdev", "config": [
    {"method": "bdev_set_options", "params": {"bdev_io_pool_size": 4096, "bdev_io_cache_size": 64,
      "iobuf_small_cache_size": 16, "iobuf_large_cache_size": 8}},
    ${2:-}
    {"method": "bdev_nvme_attach_controller", "params": {"name": "Ibid", "trtype": "tcp", "adrfam": "ipv4", "traddr": "127.0.0.1",
      "trsvcid": "$port", "subnqn": "$nqn", "hostnqn": "$who"${1:-}}}]}]}
END
}

who=$hostnqn keys=''
# From here on as the host with the secret.
authenticate() {
    who=$secret_hostnqn
    keys="{\"method\": \"keyring_file_add_key\", \"params\": {\"name\": \"host\", \"path\": \"$work/nodes/secret\"}},
      {\"method\": \"keyring_file_add_key\", \"params\": {\"name\": \"controller\", \"path\": \"$work/nodes/controller_secret\"}},
      {\"method\": \"keyring_file_add_key\", \"params\": {\"name\": \"wrong\", \"path\": \"$work/wrong_secret\"}}"
    (umask 077 && new_secret >"$work/wrong_secret")
}
# A connection that has to fail with this in its log: name of the step, pattern, parameters of the attachment.
refused() {
    local path status=0
    path=$(program bdevperf) || return 0
    attach "$3"
    timeout --kill-after=5 "$step_seconds" "$path" --no-huge -s "$bdev_mib" --json "$work/bdev.json" -w verify -o 4096 -q 1 -t 1 \
        >"$work/out" 2>&1 || status=$?
    check() { [[ $status != 0 ]] && grep -qE "$pattern" "$1"; }
    local pattern=$2
    verdict "$1" 0
}

# Some I/O was done and none failed: the columns IOPS, MiB/s, Fail/s, TO/s of bdevperf's last table.
check_bdevperf() {
    awk '/^\r? *Total *:/ { found = $(NF - 6) > 0 && $(NF - 4) == 0 && $(NF - 3) == 0 } END { exit !found }' "$1" &&
        ! grep -qE 'mismatch|Skipping' "$1"
}
bdevperf() {
    check() { check_bdevperf "$1"; }
    step "$1" bdevperf -s "$bdev_mib" --json "$work/bdev.json" -w "$2" -o "$3" -q "$4" -t "${5:-$run_seconds}"
}

# Any host may: it gives a name of its own.
identify() {
    check() { grep -q "^Max Number of Namespaces: *1$" "$1" && grep -q "^Model Number: *ibid" "$1" && ! grep -q 'ERROR' "$1"; }
    step "$1: identify" spdk_nvme_identify -s "$small_mib" -r "$(address)"
    check() { grep -q "Transport Service Identifier: *$port" "$1" && grep -q "NVM Subsystem Qualified Name: *$nqn" "$1" && ! grep -q 'ERROR' "$1"; }
    step "$1: identify, discovery" spdk_nvme_identify -s "$small_mib" \
        -r "trtype:tcp adrfam:ipv4 traddr:127.0.0.1 trsvcid:$port subnqn:nqn.2014-08.org.nvmexpress.discovery"
}
# A host that is not on the list: 1/84h.
stranger() {
    local path status=0
    path=$(program spdk_nvme_perf) || return 0
    timeout --kill-after=5 "$step_seconds" "$path" --no-huge -s "$small_mib" -q 1 -o 4096 -w randread -t 1 \
        -r "$(address | sed 's/hostnqn:.*/hostnqn:nqn.2014-08.org.example:stranger/')" >"$work/out" 2>&1 || status=$?
    check() { grep -q 'sct 1, sc 132' "$1" && grep -q 'No valid NVMe controllers' "$1"; }
    verdict "4096: a host that is not on the list is refused" "$status"
}
# It verifies nothing (that needs metadata): what counts is that no I/O fails.
perf() {
    local name=$1
    shift
    check() { awk '/^Total *:/ { found = $3 > 0 } END { exit !found }' "$1" && ! grep -qE 'errors occurred|completed with error' "$1"; }
    step "$name" spdk_nvme_perf -s "$small_mib" -r "$(address)" -t "$run_seconds" "$@"
}
# Wants three CPUs. Of its tests one can't pass: it takes 7Fh for an opcode that nobody knows, which is that of fabrics commands; what it
# sends is a Connect on a connected queue, and that is a sequence error (Fabrics 3.3).
bdevio() {
    (($(nproc) >= 3)) || return 0
    local path status=0
    path=$(program bdevio) || { echo "SKIPPED: SPDK: $1: no bdevio in $spdk"; return 0; }
    timeout --kill-after=5 "$step_seconds" "$path" --no-huge -s "$bdev_mib" --json "$work/bdev.json" >"$work/out" 2>&1 || status=$?
    check() { awk '/^ *tests / { ran = $3; failed = $5 } END { exit !(ran > 20 && failed <= 1) }' "$1" &&
        ! grep -E '^ *[0-9]+\. bdevio\.c' "$1" | grep -qv 'SPDK_NVME_SC_INVALID_OPCODE'; }
    # Its exit status only counts failures.
    [[ $status -gt 1 ]] || status=0
    verdict "$1" "$status"
}

# --- the rounds ----------------------------------------------------------------------------------------------------------------------

round_of_512() {
    echo "--- SPDK, 512-byte blocks, link $1"
    start_demo 512 512 "$1" || return 0
    identify 512
    perf "512: perf, 512 B randwrite" -q 32 -o 512 -w randwrite
    perf "512: perf, 4 KiB randrw, two queues" -q 32 -o 4096 -w randrw -M 50 -P 2
    perf "512: perf, 4 KiB randrw, both digests" -q 1 -o 4096 -w randrw -M 50 -H -I
    perf "512: perf, 1 MiB write" -q 4 -o 1048576 -w write
    attach
    bdevperf "512: bdevperf verify, 512 B" verify 512 32
    bdevio "512: bdevio"
    attach ', "hdgst": true, "ddgst": true'
    bdevperf "512: bdevperf verify, 1 MiB, both digests" verify 1048576 4
    bdevio "512: bdevio, both digests"
    stop_demo 512
}

# bdevperf verifies while the source is killed and comes back; it has to reconnect by itself and to lose nothing.
source_killed() {
    local path status=0
    path=$(program bdevperf) || return 0
    attach ', "ctrlr_loss_timeout_sec": 60, "reconnect_delay_sec": 1' \
        '{"method": "bdev_nvme_set_options", "params": {"bdev_retry_count": -1}},'
    timeout --kill-after=5 "$step_seconds" "$path" --no-huge -s "$bdev_mib" --json "$work/bdev.json" -w verify -o 16384 -q 16 -t 12 \
        >"$work/out" 2>&1 &
    host_pid=$!
    sleep 4
    kill_and_restart source || true
    wait "$host_pid" || status=$?
    host_pid=''
    check() { check_bdevperf "$1" && grep -q 'Resetting controller successful' "$1"; }
    verdict "4096: bdevperf verify while the source is killed and started again" "$status"
}

round_of_4096() {
    local digests
    echo "--- SPDK, 4096-byte blocks, two nodes, link $1"
    start_nodes 4096 "$1" || return 0
    stranger
    for digests in none hdgst ddgst both; do
        case $digests in
            none) attach ;;
            both) attach ', "hdgst": true, "ddgst": true' ;;
            *) attach ", \"$digests\": true" ;;
        esac
        bdevperf "4096: bdevperf verify, 4 KiB, digests: $digests" verify 4096 128
    done
    attach
    bdevperf "4096: bdevperf verify, 128 KiB" verify 131072 16
    bdevperf "4096: bdevperf verify, 1 MiB" verify 1048576 4
    bdevperf "4096: bdevperf unmap" unmap 65536 16
    bdevperf "4096: bdevperf write_zeroes" write_zeroes 65536 16
    bdevio "4096: bdevio"
    source_killed
    authenticate
    attach ', "dhchap_key": "host"'
    bdevperf "4096: DH-HMAC-CHAP, the host" verify 4096 16
    attach ', "dhchap_key": "host", "dhchap_ctrlr_key": "controller", "hdgst": true, "ddgst": true'
    bdevperf "4096: DH-HMAC-CHAP, both, both digests" verify 65536 16
    refused "4096: DH-HMAC-CHAP, wrong secret" 'AUTHENTICATING' ', "dhchap_key": "wrong"'
    refused "4096: DH-HMAC-CHAP, no secret" 'sct 1, sc 145|[Aa]uth' ''
    refused "4096: DH-HMAC-CHAP, wrong secret of the controller" 'controller challenge mismatch' ', "dhchap_key": "host", "dhchap_ctrlr_key": "wrong"'
    stop_nodes 4096
}

(($(nproc) >= 3)) || echo "SKIPPED: SPDK: bdevio, which wants three CPUs"
default_link=memif
[[ $(id -u) != 0 ]] || default_link=af_packet
round_of_512 "${IBID_LINK:-memif}"
round_of_4096 "${IBID_LINK:-$default_link}"
echo "SPDK: $passes passed, $failures failed, $SECONDS s"
((failures == 0))
