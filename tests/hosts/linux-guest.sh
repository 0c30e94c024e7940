#!/usr/bin/env bash
# A real Linux as the host: boots a Debian kernel in QEMU, lets its NVMe/TCP initiator use `ibid demo --serve` through every step of
# tests/hosts/guest-steps.sh, once per logical block size, then stops the demo and asks whether the mirror is identical.
#
# Takes: IBID        the binary                      [target/release/ibid]
#        IBID_CACHE  where the kernel is kept        [/var/cache/ibid-hosts]
#        IBID_LINK   memif or af_packet              [512-byte blocks over the one, 4096 over the other where root]
#        IBID_LBA    block sizes to try              [512 4096]
#        IBID_GUEST_SECONDS  a guest's longest time  [170]
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
export PATH=$PATH:/usr/sbin:/sbin

failures=0
passes=0
pass() { echo "PASS $1"; passes=$((passes + 1)); }
fail() { echo "FAIL $1"; failures=$((failures + 1)); }
skip() { echo "SKIPPED: Linux guest: $1"; exit 0; }

# What runs must end with us, whatever happens.
demo_pid='' guest_pid='' work=''
finish() {
    for pid in $guest_pid $demo_pid; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
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

# --- one block size ----------------------------------------------------------------------------------------------------------------

try() {
    local lba=$1 link=$2 ready='' nqn port name status results=$work/results console=$work/console
    echo "--- Linux ${version}, ${lba}-byte blocks, link ${link}"
    rm -rf "$work/pair"
    : >"$work/demo.out"
    "$ibid" demo --serve --listen 127.0.0.1:0 --size "${size_mib}MiB" --lba "$lba" --link "$link" --keep "$work/pair" \
        >"$work/demo.out" 2>"$work/demo.err" &
    demo_pid=$!
    for ((i = 0; i < ready_seconds * 10; i++)); do
        ready=$(grep '^ready ' "$work/demo.out" || true)
        if [[ -n $ready ]] || ! kill -0 "$demo_pid" 2>/dev/null; then break; fi
        sleep 0.1
    done
    if [[ -z $ready ]]; then
        fail "$lba: the demo gets ready"
        tail -n 15 "$work/demo.err" | sed 's/^/     | /'
        return
    fi
    nqn=$(sed 's/.* nqn=\([^ ]*\).*/\1/; s/^ready nqn=//; s/ .*//' <<<"$ready")
    port=$(sed 's/.* trsvcid=\([0-9]*\).*/\1/' <<<"$ready")

    : >"$results"
    timeout --kill-after=5 "$guest_seconds" qemu-system-x86_64 -machine q35 "${accelerator[@]}" -smp 2 -m 1024 -nodefaults -display none \
        -no-reboot -nic user,model=virtio-net-pci -serial "file:$console" -serial "file:$results" \
        -kernel "$image" -initrd "$work/initramfs" \
        -append "console=ttyS0 panic=-1 quiet mitigations=off ibid.port=$port ibid.nqn=$nqn ibid.lba=$lba ibid.mib=$size_mib" \
        >"$work/qemu.out" 2>&1 &
    guest_pid=$!
    # Shown as they come, and counted at the end.
    tail -n +1 -f --pid="$guest_pid" "$results" | sed -u "s/\r$//; /^ /!s/ / $lba: /"
    status=0
    wait "$guest_pid" || status=$?
    guest_pid=''
    passes=$((passes + $(grep -c '^PASS ' "$results" || true)))
    failures=$((failures + $(grep -c '^FAIL ' "$results" || true)))
    if ! grep -q '^DONE' "$results"; then
        name="the guest reaches its end (exit status $status of QEMU)"
        [[ $status != 124 ]] || name="the guest reaches its end within $guest_seconds s"
        fail "$lba: $name"
        cat "$work/qemu.out" <(tail -n 25 "$console") | tr -d '\r' | sed 's/^/     | /'
    fi

    kill -INT "$demo_pid"
    for ((i = 0; i < stop_seconds * 10; i++)); do
        kill -0 "$demo_pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$demo_pid" 2>/dev/null || true
    status=0
    wait "$demo_pid" || status=$?
    demo_pid=''
    if [[ $status == 0 ]] && grep -qx 'mirror identical: yes' "$work/demo.out"; then
        pass "$lba: mirror identical: yes"
    else
        fail "$lba: mirror identical (exit status $status of the demo)"
        cat "$work/demo.out" "$work/demo.err" | tail -n 15 | sed 's/^/     | /'
    fi
    # The guest's last act is a file system; the mirror is an ordinary image of it.
    if e2fsck -fn "$work/pair/destination/volume.img" >"$work/e2fsck" 2>&1; then
        pass "$lba: the guest's file system is whole on the mirror"
    else
        fail "$lba: the guest's file system is whole on the mirror"
        sed 's/^/     | /' "$work/e2fsck"
    fi
}

links=(memif memif)
[[ $(id -u) != 0 ]] || links=(af_packet memif)
index=0
for lba in ${IBID_LBA:-512 4096}; do
    try "$lba" "${IBID_LINK:-${links[index % 2]}}"
    index=$((index + 1))
done
echo "Linux guest: $passes passed, $failures failed, $SECONDS s"
((failures == 0))
