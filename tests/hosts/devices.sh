#!/usr/bin/env bash
# The link over each of DPDK's virtual devices that dpdk-config has a profile for: two `ibid run` on this machine get in sync, are written to, lose
# either node to kill -9 and get it back, and stop with identical volumes. A device that kernel or DPDK has not got here is skipped.
#
# Takes: IBID          the binary          [target/release/ibid]
#        IBID_DEVICES  which devices       [memif af_packet tap af_xdp]
# Gives: a line `PASS`, `FAIL` or `SKIPPED:` per step; exit status 1 if anything failed. Wants root; installs nothing.
set -euo pipefail

# shellcheck source=tests/hosts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

skip() { echo "SKIPPED: devices: $1"; exit 0; }
[[ -x $ibid ]] || skip "$ibid is not there; make build"
[[ $(id -u) == 0 ]] || skip "not root: interfaces are made"
work=$(mktemp -d /var/tmp/ibid-devices.XXXXXX)

# Why a device is not to be had here; nothing where it is.
lacks() {
    [[ $1 == memif ]] || command -v ip >/dev/null || { echo "no iproute2"; return; }
    case $1 in
        af_packet | af_xdp)
            cable=ih$$a
            ip link add "$cable" type veth peer name "ih$$b" 2>/dev/null || echo "no veth pair can be made"
            unplug
            ;;
        tap)
            [[ -c /dev/net/tun ]] || echo "no /dev/net/tun"
            command -v tc >/dev/null || echo "no tc"
            ;;
    esac
    [[ $1 != af_xdp ]] || grep -q '^XDP ' /proc/net/protocols || echo "this kernel has no XDP sockets"
    [[ -n $(find /usr/lib /usr/local/lib -name "librte_net_$1.so*" -print -quit 2>/dev/null) ]] || echo "DPDK has no net_$1"
}
# Everything with one device.
round() {
    local device=$1 missing
    echo "--- $device"
    missing=$(lacks "$device")
    if [[ -n $missing ]]; then
        echo "SKIPPED: devices: $device: ${missing//$'\n'/, }"
        return
    fi
    start_nodes "$device" "$device" || return 0
    pass "$device: in sync"
    if "$ibid" bench --connect "127.0.0.1:$port" --nqn "$nqn" --host-nqn "$hostnqn" --depth 8 --seconds 3 >"$work/bench" 2>&1; then
        pass "$device: written to"
        sed 's/^/     | /' "$work/bench"
    else
        fail "$device: written to"
        quote "$work/bench"
    fi
    for role in destination source; do
        if kill_and_restart "$role" && until_true "$ready_seconds" is_in_sync; then
            pass "$device: in sync again after its $role was killed"
        else
            fail "$device: in sync again after its $role was killed"
            quote "$work/nodes/$role/out"
        fi
    done
    stop_nodes "$device"
}

for device in ${IBID_DEVICES:-memif af_packet tap af_xdp}; do
    round "$device"
done
echo "devices: $passes passed, $failures failed, $SECONDS s"
((failures == 0))
