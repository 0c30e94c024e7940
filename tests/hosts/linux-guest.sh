#!/usr/bin/env bash
# A real Linux as the host: boots a Debian kernel in QEMU and lets its NVMe/TCP initiator use ibid through the steps of
# tests/hosts/guest-steps.sh. Rounds: `512` and `4096` against `ibid demo --serve`, one per logical block size; `killed` against two
# `ibid run` that are killed and started again under its load. After each, both nodes stop, and the mirror must be identical.
#
# Takes: IBID         the binary                      [target/release/ibid]
#        IBID_CACHE   where the kernel is kept        [/var/cache/ibid-hosts]
#        IBID_LINK    memif or af_packet              [memif in the round 4096, af_packet in the others where root]
#        IBID_ROUNDS  which rounds                    [512 4096 killed]
#        IBID_GUEST_SECONDS  a guest's longest time   [170]
# Gives: a line `PASS`, `FAIL` or `SKIPPED:` per step; exit status 1 if anything failed. What is missing is installed with apt (root).
#
# Without hardware virtualisation the guest is emulated: this tests what happens, never how fast.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
ibid=${IBID:-${CARGO_TARGET_DIR:-$root/target}/release/ibid}
cache=${IBID_CACHE:-/var/cache/ibid-hosts}
guest_seconds=${IBID_GUEST_SECONDS:-170}
readonly size_mib=256 ready_seconds=40 stop_seconds=60
# Who the guest says it is, see guest-steps.sh.
hostnqn=$(sed -n 's/^HOSTNQN=//p' "$here/guest-steps.sh")
export PATH=$PATH:/usr/sbin:/sbin

failures=0
passes=0
pass() { echo "PASS $1"; passes=$((passes + 1)); }
fail() { echo "FAIL $1"; failures=$((failures + 1)); }
skip() { echo "SKIPPED: Linux guest: $1"; exit 0; }

# What runs must end with us, whatever happens.
demo_pid='' source_pid='' destination_pid='' guest_pid='' space='' work=''
finish() {
    for pid in $guest_pid $demo_pid $source_pid $destination_pid; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    [[ -z $space ]] || ip netns delete "$space" 2>/dev/null || true
    [[ -z $work ]] || rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# --- what is needed ----------------------------------------------------------------------------------------------------------------

[[ $(uname -m) == x86_64 ]] || skip "only x86-64 is prepared"
[[ -x $ibid ]] || skip "$ibid is not there; make build"
declare -A packages=(
    [qemu-system-x86_64]=qemu-system-x86 [nvme]=nvme-cli [fio]=fio [busybox]=busybox-static [mkfs.ext4]=e2fsprogs
    [blkdiscard]=util-linux [cpio]=cpio [xz]=xz-utils [depmod]=kmod [cmp]=diffutils
)
missing=()
for tool in "${!packages[@]}"; do
    command -v "$tool" >/dev/null || missing+=("${packages[$tool]}")
done
# A busybox that needs libraries would start no guest.
if command -v busybox >/dev/null && ldd "$(command -v busybox)" >/dev/null 2>&1; then
    missing+=(busybox-static)
fi
if ((${#missing[@]})); then
    command -v apt-get >/dev/null || skip "no apt-get here; install: ${missing[*]}"
    [[ $(id -u) == 0 ]] || skip "not root; install: ${missing[*]}"
    echo "installing: ${missing[*]}"
    {
        apt-get update
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
    } >/dev/null 2>&1 || skip "apt-get could not install ${missing[*]}"
fi

# --- the kernel: backports' 6.12 where it can be had, else what this Debian brings ---------------------------------------------------

# Gives the folder with boot/ and lib/modules/ of the newest kernel in the cache, if there is one.
cached_kernel() { find "$cache" -maxdepth 1 -name "kernel-*" | sort -V | tail -n 1; }

# Takes options of apt that say where from.
fetch_kernel() {
    local package folder
    package=$(apt-cache "$@" depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
    [[ -n $package ]] || return 1
    folder=$(mktemp -d "$cache/fetch.XXXXXX")
    if (cd "$folder" && apt-get "$@" -o APT::Sandbox::User=root download "$package" >/dev/null 2>&1 && dpkg -x ./*.deb files); then
        mv "$folder/files" "$cache/kernel-${package#linux-image-}"
    fi
    rm -rf "$folder"
    [[ -d $cache/kernel-${package#linux-image-} ]]
}

fetch_backport() {
    local apt=$cache/apt
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    [[ -f $keyring ]] || return 1
    # The mirror that this machine takes its own packages from.
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' | head -n 1)
    [[ -n $mirror ]] || return 1
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    echo "deb [signed-by=$keyring] $mirror bookworm-backports main" >"$apt/sources.list"
    # Lists of our own: the machine's sources stay as they are.
    local options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt")
    apt-get "${options[@]}" update >/dev/null 2>&1 && fetch_kernel "${options[@]}"
}

mkdir -p "$cache" 2>/dev/null || skip "$cache cannot be made; name another with IBID_CACHE"
kernel=$(cached_kernel)
if [[ -z $kernel ]]; then
    echo "fetching a kernel into $cache"
    fetch_backport || fetch_kernel || skip "no kernel could be fetched"
    kernel=$(cached_kernel)
fi
version=$(ls "$kernel/lib/modules")
image=$kernel/boot/vmlinuz-$version
[[ -f $image ]] || skip "no kernel image in $kernel"

# --- the guest's only file system: programs of this machine with their libraries, and a few modules -------------------------------------

work=$(mktemp -d /var/tmp/ibid-guest.XXXXXX)
make_initramfs() {
    local tree=$work/tree tool path library number=10
    mkdir -p "$tree"/{bin,dev,etc,lib64,mnt,modules,proc,sys,tmp}
    for tool in busybox nvme fio mkfs.ext4 e2fsck blkdiscard fstrim dd cmp sha256sum; do
        path=$(command -v "$tool")
        cp -L "$path" "$tree/bin/$tool"
        for library in $(ldd "$path" 2>/dev/null | grep -o '/[^ ]*' || true); do
            mkdir -p "$tree$(dirname "$library")"
            cp -Lu "$library" "$tree$library"
        done
    done
    [[ -f $kernel/lib/modules/$version/modules.dep ]] || depmod -b "$kernel" "$version"
    # In the order in which they must be loaded; what is built in is not listed.
    for path in $(modprobe -d "$kernel" -S "$version" -aq --show-depends \
        virtio_pci virtio_net crc32c_generic crc32c_intel ext4 nvme_tcp | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'); do
        number=$((number + 1))
        case $path in
            *.xz) xz -dc "$path" >"$tree/modules/$number-$(basename "$path" .xz)" ;;
            *) cp "$path" "$tree/modules/$number-$(basename "$path")" ;;
        esac
    done
    cp "$here/guest-steps.sh" "$tree/steps"
    ln -s /bin/busybox "$tree/bin/sh"
    ln -s /steps "$tree/init"
    chmod +x "$tree/steps"
    (cd "$tree" && find . | cpio -o -H newc --quiet) >"$work/initramfs"
    rm -rf "$tree"
}
make_initramfs

# An ordinary kernel under a virtualisation that is itself nested without support hangs early: emulate then. QEMU 7.2 emulates
# cmpxchg16b wrongly, and five-level page tables slowly.
accelerator=(-accel tcg,thread=multi -cpu max,la57=off,cx16=off)
if grep -qwE 'vmx|svm' /proc/cpuinfo && [[ -w /dev/kvm ]]; then
    accelerator=(-accel kvm -cpu host)
fi

# --- a guest -----------------------------------------------------------------------------------------------------------------------

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
quote() { tail -n "${2:-15}" "$1" | tr -d '\r' | sed 's/^/     | /'; }

# Boots a guest, shows what it says and counts it: name of the round, more of the kernel's command line. A line `ASK word` calls the
# function of this script that has that word in its name.
guest() {
    local round=$1 status=0 asked=0 word results=$work/results console=$work/console
    shift
    : >"$results"
    timeout --kill-after=5 "$guest_seconds" qemu-system-x86_64 -machine q35 "${accelerator[@]}" -smp 2 -m 1024 -nodefaults -display none \
        -no-reboot -nic user,model=virtio-net-pci -serial "file:$console" -serial "file:$results" \
        -kernel "$image" -initrd "$work/initramfs" \
        -append "console=ttyS0 panic=-1 quiet mitigations=off ibid.round=$round $*" >"$work/qemu.out" 2>&1 &
    guest_pid=$!
    # Shown as they come, and counted at the end.
    tail -n +1 -f --pid="$guest_pid" "$results" | sed -u "s/\r$//; /^DONE/d; /^ASK/d; /^ /!s/ / $round: /" &
    while ! gone "$guest_pid"; do
        word=$(sed -n 's/^ASK \([a-z_]*\)\r*$/\1/p' "$results" | sed -n "$((asked + 1))p")
        if [[ -n $word ]]; then
            asked=$((asked + 1))
            "asked_to_$word" || fail "$round: $word, on this side"
        fi
        sleep 0.2
    done
    wait "$guest_pid" || status=$?
    guest_pid=''
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

# --- a round against `ibid demo --serve` ---------------------------------------------------------------------------------------------

is_ready() { grep -q '^ready ' "$work/demo.out" || gone "$demo_pid"; }

round_of_demo() {
    local lba=$1 link=$2 nqn port status=0
    echo "--- Linux ${version}, ${lba}-byte blocks, link ${link}"
    rm -rf "$work/pair"
    : >"$work/demo.out"
    "$ibid" demo --serve --listen 127.0.0.1:0 --size "${size_mib}MiB" --lba "$lba" --link "$link" --keep "$work/pair" \
        >"$work/demo.out" 2>"$work/demo.err" &
    demo_pid=$!
    if ! until_true "$ready_seconds" is_ready || gone "$demo_pid"; then
        fail "$lba: the demo gets ready"
        quote "$work/demo.err"
        return
    fi
    nqn=$(sed -n 's/^ready nqn=\([^ ]*\) .*/\1/p' "$work/demo.out")
    port=$(sed -n 's/^ready .* trsvcid=\([0-9]*\) .*/\1/p' "$work/demo.out")
    guest "$lba" "ibid.port=$port ibid.nqn=$nqn ibid.lba=$lba ibid.mib=$size_mib"
    kill -INT "$demo_pid"
    end_of "$demo_pid" || status=$?
    demo_pid=''
    if [[ $status == 0 ]] && grep -qx 'mirror identical: yes' "$work/demo.out"; then
        pass "$lba: mirror identical: yes"
    else
        fail "$lba: mirror identical (exit status $status of the demo)"
        cat "$work/demo.out" "$work/demo.err" >"$work/demo.both"
        quote "$work/demo.both"
    fi
    check_mirror "$lba" "$work/pair/destination/volume.img"
}

# --- the round `killed`: two nodes as an operator runs them ----------------------------------------------------------------------------

# A node's configuration: role, where clients connect, lines for [link].
configure() {
    local role=$1 listen=$2 own=$work/nodes/$1 local_end=192.0.2.1:4791 peer_end=192.0.2.2:4791
    [[ $role == source ]] || { local_end=192.0.2.2:4791 peer_end=192.0.2.1:4791; }
    mkdir -p "$own"
    cat >"$own/node.toml" <<END
[node]
name = "$role"
role = "$role"
pair = "5a1c6a0e-7c5a-4f0e-9d51-3b1d0c1f7a01"
control = "$own/control.sock"
read_memory = "16MiB"
[log]
device = "$own/log"
segment_size = "32MiB"
[link]
$3
local = "$local_end"
peer = "$peer_end"
[[volume]]
name = "killed"
device = "$own/volume.img"
size = "${size_mib}MiB"
lba = 4096
uuid = "5a1c6a0e-7c5a-4f0e-9d51-3b1d0c1f7a02"
END
    [[ -z $listen ]] || printf '[target]\nlisten = "%s"\nhosts = ["%s"]\n' "$listen" "$hostnqn" >>"$own/node.toml"
}
start_source() {
    "$ibid" run --config "$work/nodes/source/node.toml" >>"$work/nodes/source/out" 2>&1 &
    source_pid=$!
}
start_destination() {
    local inside=()
    [[ -z $space ]] || inside=(ip netns exec "$space")
    "${inside[@]}" "$ibid" run --config "$work/nodes/destination/node.toml" >>"$work/nodes/destination/out" 2>&1 &
    destination_pid=$!
}
# Whether the source says that both nodes hold everything.
is_in_sync() {
    "$ibid" status --json --config "$work/nodes/source/node.toml" >"$work/nodes/status" 2>/dev/null &&
        grep -q '"state": *"in-sync"' "$work/nodes/status"
}
asked_to_kill_source() {
    kill -KILL "$source_pid"
    wait "$source_pid" 2>/dev/null || true
    sleep 2
    start_source
}
asked_to_kill_destination() {
    kill -KILL "$destination_pid"
    wait "$destination_pid" 2>/dev/null || true
    sleep 2
    start_destination
}

round_of_kills() {
    local link=$1 port status role pid links=()
    echo "--- Linux ${version}, two nodes that are killed under load, link ${link}"
    rm -rf "$work/nodes"
    if [[ $link == af_packet ]]; then
        space=ibid-hosts-$$
        ip netns add "$space"
        ip link add "ih$$a" mtu 9000 type veth peer name "ih$$b" mtu 9000 netns "$space"
        ip link set "ih$$a" up
        ip -n "$space" link set "ih$$b" up
        links=("device = \"af_packet\"
interface = \"ih$$a\"" "device = \"af_packet\"
interface = \"ih$$b\"")
    else
        links=("device = \"memif\"
socket = \"$work/nodes/memif.sock\"
memif_role = \"client\"" "device = \"memif\"
socket = \"$work/nodes/memif.sock\"
memif_role = \"server\"")
    fi
    configure source 127.0.0.1:0 "${links[0]}"
    configure destination '' "${links[1]}"
    start_destination
    start_source
    if ! until_true "$ready_seconds" is_in_sync; then
        fail "killed: the pair gets in sync"
        quote "$work/nodes/source/out"
        quote "$work/nodes/destination/out"
        return
    fi
    # The kernel has chosen a port; the next start has to take the same.
    port=$(sed -n 's/.*"listen": *"127.0.0.1:\([0-9]*\)".*/\1/p' "$work/nodes/status")
    sed -i "s/127.0.0.1:0/127.0.0.1:$port/" "$work/nodes/source/node.toml"
    guest killed "ibid.port=$port ibid.nqn=nqn.2014-08.org.nvmexpress:uuid:5a1c6a0e-7c5a-4f0e-9d51-3b1d0c1f7a01 ibid.lba=4096 ibid.mib=$size_mib"
    for role in source destination; do
        pid=${role}_pid
        status=0
        kill -TERM "${!pid}" 2>/dev/null || true
        end_of "${!pid}" || status=$?
        printf -v "$pid" ''
        if [[ $status == 0 ]]; then
            pass "killed: the $role stops cleanly"
        else
            fail "killed: the $role stops cleanly (exit status $status)"
            quote "$work/nodes/$role/out"
        fi
    done
    if cmp "$work/nodes/source/volume.img" "$work/nodes/destination/volume.img"; then
        pass "killed: mirror identical"
    else
        fail "killed: mirror identical"
    fi
    check_mirror killed "$work/nodes/destination/volume.img"
    # Its end of the cable goes with it.
    [[ -z $space ]] || ip netns delete "$space"
    space=''
}

# --- all of it ------------------------------------------------------------------------------------------------------------------------

cable=memif
[[ $(id -u) != 0 ]] || cable=af_packet
for round in ${IBID_ROUNDS:-512 4096 killed}; do
    case $round in
        512) round_of_demo 512 "${IBID_LINK:-$cable}" ;;
        4096) round_of_demo 4096 "${IBID_LINK:-memif}" ;;
        killed) round_of_kills "${IBID_LINK:-$cable}" ;;
        *) fail "$round is no round: 512, 4096, killed" ;;
    esac
done
echo "Linux guest: $passes passed, $failures failed, $SECONDS s"
((failures == 0))
