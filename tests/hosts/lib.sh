# shellcheck shell=bash
# What the scripts of this folder share: counting, waiting, and the two ways to run a pair: `ibid demo --serve`, and two `ibid run` as an
# operator has them. To be sourced, with `set -euo pipefail` in force.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
ibid=${IBID:-${CARGO_TARGET_DIR:-$root/target}/release/ibid}
readonly size_mib=256 ready_seconds=40 stop_seconds=60
readonly pair_uuid=5a1c6a0e-7c5a-4f0e-9d51-3b1d0c1f7a01 volume_uuid=5a1c6a0e-7c5a-4f0e-9d51-3b1d0c1f7a02
# Who the hosts say they are; see guest-steps.sh.
hostnqn=$(sed -n 's/^HOSTNQN=//p' "$root/tests/hosts/guest-steps.sh")
secret_hostnqn=$(sed -n 's/^SECRET_HOSTNQN=//p' "$root/tests/hosts/guest-steps.sh")
export PATH=$PATH:/usr/sbin:/sbin

failures=0
passes=0
pass() { echo "PASS $1"; passes=$((passes + 1)); }
fail() { echo "FAIL $1"; failures=$((failures + 1)); }

# What runs must end with us, whatever happens. `host_pid` is the caller's.
host_pid='' demo_pid='' source_pid='' destination_pid='' cable='' second_cable='' work=''
finish() {
    local pid
    for pid in $host_pid $demo_pid $source_pid $destination_pid; do
        kill "$pid" 2>/dev/null || true
        end_of "$pid" 2>/dev/null || true
    done
    unplug
    [[ -z $work ]] || rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Waits until a command succeeds: seconds, command.
until_true() {
    local tries=$(($1 * 10))
    shift
    for ((i = 0; i < tries; i++)); do
        if "$@"; then return 0; fi
        sleep 0.1
    done
    return 1
}
gone() { ! kill -0 "$1" 2>/dev/null; }
# Waits for a process that was asked to stop, kills it if it does not, and gives its exit status.
end_of() {
    local status=0
    until_true "$stop_seconds" gone "$1" || kill -KILL "$1" 2>/dev/null || true
    wait "$1" || status=$?
    return "$status"
}
# The last lines of a file, to be read below a `FAIL`.
quote() { tail -n "${2:-15}" "$1" | tr -d '\r' | sed 's/^/     | /'; }

# --- `ibid demo --serve` ---------------------------------------------------------------------------------------------------------------

is_ready() { grep -q '^ready ' "$work/demo.out" || gone "$demo_pid"; }

# Starts it: name of the round, block size, link. Gives `nqn`, `port` of the source, `other_port` of the destination.
start_demo() {
    rm -rf "$work/pair"
    : >"$work/demo.out"
    "$ibid" demo --serve --listen 127.0.0.1:0 --size "${size_mib}MiB" --lba "$2" --link "$3" --keep "$work/pair" \
        >"$work/demo.out" 2>"$work/demo.err" &
    demo_pid=$!
    if ! until_true "$ready_seconds" is_ready || gone "$demo_pid"; then
        fail "$1: the demo gets ready"
        quote "$work/demo.err"
        kill "$demo_pid" 2>/dev/null || true
        end_of "$demo_pid" || true
        demo_pid=''
        return 1
    fi
    nqn=$(sed -n 's/^ready nqn=\([^ ]*\) .*/\1/p' "$work/demo.out")
    port=$(sed -n 's/^ready .* trsvcid=\([0-9]*\) .*/\1/p' "$work/demo.out")
    # The second of its lines for `nvme connect`.
    other_port=$(sed -n 's/^nvme connect .* -s \([0-9]*\) .*/\1/p' "$work/demo.out" | tail -n 1)
}
# Stops it; both volumes must be equal.
stop_demo() {
    local status=0
    kill -INT "$demo_pid"
    end_of "$demo_pid" || status=$?
    demo_pid=''
    if [[ $status == 0 ]] && grep -qx 'mirror identical: yes' "$work/demo.out"; then
        pass "$1: mirror identical: yes"
    else
        fail "$1: mirror identical (exit status $status of the demo)"
        cat "$work/demo.out" "$work/demo.err" >"$work/demo.both"
        quote "$work/demo.both"
    fi
}

# --- two `ibid run` --------------------------------------------------------------------------------------------------------------------

# A port on which nobody listens, below those that the kernel gives to connections.
free_port() {
    local port
    while port=$((20000 + RANDOM % 12000)); do
        (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
}
# A node's configuration: role, its port and its peer's, lines for [link].
configure() {
    local role=$1 own=$work/nodes/$1 local_end=192.0.2.1:4791 peer_end=192.0.2.2:4791
    [[ $role == source ]] || { local_end=192.0.2.2:4791 peer_end=192.0.2.1:4791; }
    mkdir -p "$own"
    [[ -e $work/nodes/link.key ]] || "$ibid" keygen "$work/nodes/link.key"
    cat >"$own/node.toml" <<END
[node]
name = "$role"
role = "$role"
pair = "$pair_uuid"
control = "$own/control.sock"
read_memory = "16MiB"
[log]
device = "$own/log"
segment_size = "32MiB"
[link]
$4
local = "$local_end"
peer = "$peer_end"
key = "$work/nodes/link.key"
[[volume]]
name = "hosts"
device = "$own/volume.img"
size = "${size_mib}MiB"
lba = 4096
uuid = "$volume_uuid"
END
    cat >>"$own/node.toml" <<END
[target]
listen = "127.0.0.1:$2"
referrals = ["127.0.0.1:$3"]
hosts = ["$hostnqn", "$secret_hostnqn"]
[auth]
groups = ["ffdhe3072"]
[[host]]
nqn = "$secret_hostnqn"
secret = "$work/nodes/secret"
controller_secret = "$work/nodes/controller_secret"
END
}
# A secret of 32 bytes as `nvme gen-dhchap-key` makes one: for SHA-256, with its CRC-32 behind it, least significant byte first.
new_secret() {
    local bytes=$work/secret-bytes
    head -c 32 /dev/urandom >"$bytes"
    # The trailer of gzip is CRC-32 and length.
    gzip -c "$bytes" | tail -c 8 | head -c 4 >>"$bytes"
    echo "DHHC-1:01:$(base64 -w 0 "$bytes"):"
    rm -f "$bytes"
}
start_source() {
    "$ibid" run --config "$work/nodes/source/node.toml" >>"$work/nodes/source/out" 2>&1 &
    source_pid=$!
}
start_destination() {
    "$ibid" run --config "$work/nodes/destination/node.toml" >>"$work/nodes/destination/out" 2>&1 &
    destination_pid=$!
}
# Kills a node and starts it two seconds later; again where it ends, as a service manager does: a flush that was on its way when it
# was killed keeps its files locked until the disk has answered, and on a busy one that is longer than a start waits.
kill_and_restart() {
    local pid=$1_pid tries
    kill -KILL "${!pid}"
    wait "${!pid}" 2>/dev/null || true
    sleep 2
    for tries in 1 2 3 4 5; do
        "start_$1"
        until_true 3 gone "${!pid}" || return 0
        echo "the $1 ended at start $tries: $(tail -n 1 "$work/nodes/$1/out")"
    done
    return 1
}
# Whether the source says that both nodes hold everything.
is_in_sync() {
    "$ibid" status --json --config "$work/nodes/source/node.toml" >"$work/nodes/status" 2>/dev/null &&
        grep -q '"state": *"in-sync"' "$work/nodes/status"
}

# A cable between two kernel interfaces: their names, their MTU.
plug_veth() {
    # Numbers of interfaces that differ in a high bit: DPDK makes fanout groups of them and of the process's number, which must differ.
    local index=$((1 << 20 | $$ & 0x7fff)) end
    ip link add "$1" index "$index" type veth peer name "$2" index "$((index | 1 << 15))"
    cable=$1
    for end in "$1" "$2"; do
        # Nobody else speaks on the link, and nothing on it is forwarded.
        echo 0 >"/proc/sys/net/ipv4/conf/$end/forwarding"
        ip link set "$end" addrgenmode none
        ip link set "$end" mtu "$3" up
    done
}
# A cable between two TAPs: what one node sends comes in at its own, and is sent out of the other's. A bridge would keep it, for DPDK's
# station has the interface's address.
plug_taps() {
    local end other=$2
    cable=$1 second_cable=$2
    for end in "$1" "$2"; do ip tuntap add dev "$end" mode tap multi_queue; done
    for end in "$1" "$2"; do
        ip link set "$end" addrgenmode none
        ip link set "$end" up
        tc qdisc add dev "$end" ingress
        tc filter add dev "$end" parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev "$other"
        other=$1
    done
}
unplug() {
    # A far end goes with the near one, but for a TAP's.
    [[ -z $cable ]] || ip link delete "$cable" 2>/dev/null || true
    [[ -z $second_cable ]] || ip link delete "$second_cable" 2>/dev/null || true
    cable='' second_cable=''
}

# Makes link and configurations, starts both nodes: name of the round, link. Gives `nqn`, `port` of the source, `other_port` of the destination.
start_nodes() {
    local links=() ends=("ih$$a" "ih$$b")
    rm -rf "$work/nodes"
    case $2 in
        af_packet)
            plug_veth "${ends[@]}" 9000
            links=("device = \"af_packet\"
interface = \"${ends[0]}\"" "device = \"af_packet\"
interface = \"${ends[1]}\"")
            ;;
        af_xdp)
            # A frame must fit a chunk of its memory, one page of it, less what the driver keeps.
            plug_veth "${ends[@]}" 3300
            links=("device = \"vdev\"
vdev = \"net_af_xdp0,iface=${ends[0]}\"
mtu = 3300" "device = \"vdev\"
vdev = \"net_af_xdp0,iface=${ends[1]}\"
mtu = 3300")
            ;;
        tap)
            plug_taps "${ends[@]}"
            links=("device = \"vdev\"
vdev = \"net_tap0,iface=${ends[0]}\"
mtu = 1500" "device = \"vdev\"
vdev = \"net_tap0,iface=${ends[1]}\"
mtu = 1500")
            ;;
        *)
            links=("device = \"memif\"
socket = \"$work/nodes/memif.sock\"
memif_role = \"client\"" "device = \"memif\"
socket = \"$work/nodes/memif.sock\"
memif_role = \"server\"")
            ;;
    esac
    mkdir -p "$work/nodes"
    (umask 077 && new_secret >"$work/nodes/secret" && new_secret >"$work/nodes/controller_secret")
    port=$(free_port)
    other_port=$(free_port)
    configure source "$port" "$other_port" "${links[0]}"
    configure destination "$other_port" "$port" "${links[1]}"
    start_destination
    start_source
    if ! until_true "$ready_seconds" is_in_sync; then
        fail "$1: the pair gets in sync"
        quote "$work/nodes/source/out"
        quote "$work/nodes/destination/out"
        stop_nodes "$1"
        return 1
    fi
    nqn=nqn.2014-08.org.nvmexpress:uuid:$pair_uuid
}
# Stops both, source first; both volumes must be equal.
stop_nodes() {
    local role pid status
    for role in source destination; do
        pid=${role}_pid
        status=0
        kill -TERM "${!pid}" 2>/dev/null || true
        end_of "${!pid}" || status=$?
        printf -v "$pid" ''
        if [[ $status == 0 ]]; then
            pass "$1: the $role stops cleanly"
        else
            fail "$1: the $role stops cleanly (exit status $status)"
            quote "$work/nodes/$role/out"
        fi
    done
    if cmp "$work/nodes/source/volume.img" "$work/nodes/destination/volume.img"; then
        pass "$1: mirror identical"
    else
        fail "$1: mirror identical"
    fi
    unplug
}
