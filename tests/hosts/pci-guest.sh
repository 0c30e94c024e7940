#!/usr/bin/env bash
# DPDK's PCI drivers: boots a Debian kernel in QEMU with an IOMMU and pairs of NICs, gives those to vfio-pci, and lets a source and a
# destination replicate over them; the steps are those of tests/hosts/pci-steps.sh, once for each kind of NIC. The nodes and their client
# share one guest: what is tested is the way from ibid through DPDK, the IOMMU and a NIC's rings, and back.
#
# Takes: IBID         the binary                      [target/release/ibid]
#        IBID_CACHE   where the kernel is kept        [/var/cache/ibid-hosts]
#        IBID_NICS    which NICs, as QEMU names them  [virtio-net-pci e1000e]
#        IBID_GUEST_SECONDS  the guest's longest time [600]
# Gives: a line `PASS`, `FAIL` or `SKIPPED:` per step; exit status 1 if anything failed. What is missing is installed with apt (root).
#
# Without hardware virtualisation the guest is emulated: this tests what happens, never how fast.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/hosts/lib.sh
source "$here/lib.sh"
# shellcheck source=tests/hosts/guest.sh
source "$here/guest.sh"
guest_seconds=${IBID_GUEST_SECONDS:-600}
read -ra nics <<<"${IBID_NICS:-virtio-net-pci e1000e}"

skip() { echo "SKIPPED: PCI guest: $1"; exit 0; }

need_programs qemu-system-x86_64=qemu-system-x86 busybox=busybox-static mkfs.ext4=e2fsprogs cpio=cpio xz=xz-utils depmod=kmod cmp=diffutils
need_kernel
# Debian's DPDK loads its drivers from here.
drivers=$(echo /usr/lib/x86_64-linux-gnu/dpdk/pmds-*)
[[ -d $drivers ]] || skip "DPDK's drivers are not installed; make deps"

# --- the guest's only file system: ibid, DPDK's drivers, and a module tree of its own ----------------------------------------------------

work=$(mktemp -d /var/tmp/ibid-pci.XXXXXX)
make_initramfs() {
    local tree=$work/tree path driver name
    local modules=$tree/lib/modules/$version
    mkdir -p "$tree"/{bin,dev,etc,lib64,mnt,proc,run,sys,tmp} "$modules" "$tree$drivers"
    copy_programs "$tree" busybox mkfs.ext4 cmp "$ibid"
    mv -f "$tree/bin/$(basename "$ibid")" "$tree/bin/ibid" 2>/dev/null || true
    for path in "$drivers"/librte_{bus_pci,bus_vdev,mempool_ring,net_virtio,net_e1000,net_vmxnet3,net_igc}.so.*.*; do
        cp -L "$path" "$tree$drivers/"
        copy_libraries "$tree" "$path"
    done
    # They need one another, and one that is there twice is loaded twice.
    for path in "$tree$drivers"/*; do
        driver=$(basename "$path")
        for name in "$driver" "${driver%.*}"; do
            ln -sf "$drivers/$driver" "$tree/lib/x86_64-linux-gnu/$name"
        done
    done
    for path in $(module_files virtio_pci virtio_blk ext4 crc32c_generic crc32c_intel vfio-pci vfio_iommu_type1); do
        copy_module "$path" "$modules/$(basename "$path" .xz)"
    done
    cp "$kernel/lib/modules/$version"/modules.{order,builtin} "$modules/"
    depmod -b "$tree" "$version"
    cp "$here/pci-steps.sh" "$tree/steps"
    cp "$root/dpdk-config/bind.sh" "$tree/bin/bind.sh"
    ln -s /bin/busybox "$tree/bin/sh"
    ln -s /steps "$tree/init"
    chmod +x "$tree/steps"
    pack_initramfs "$tree" "$work/initramfs"
}
make_initramfs

# Two NICs of each kind on a hub of their own, at places that pci-steps.sh computes in the same way.
devices=() place=16
for ((kind = 0; kind < ${#nics[@]}; kind++)); do
    for end in a b; do
        options=''
        # The IOMMU translates for a virtio device only where it says so.
        [[ ${nics[kind]} != virtio-* ]] || options=,disable-legacy=on,iommu_platform=on
        devices+=(-netdev "hubport,id=net$kind$end,hubid=$kind"
            -device "${nics[kind]},netdev=net$kind$end,mac=52:54:00:00:0$kind:0$end,addr=$(printf %#x $place)$options")
        place=$((place + 1))
    done
done

status=0 results=$work/results console=$work/console
: >"$results"
truncate -s 1G "$work/disk"
timeout --kill-after=5 "$guest_seconds" qemu-system-x86_64 -machine q35,kernel-irqchip=split "${accelerator[@]}" -smp 2 -m 2560 -nodefaults -display none -no-reboot \
    -device intel-iommu,intremap=on,aw-bits=48 -drive "file=$work/disk,format=raw,if=none,id=disk,cache=unsafe" -device virtio-blk-pci,drive=disk \
    "${devices[@]}" -serial "file:$console" -serial "file:$results" -kernel "$image" -initrd "$work/initramfs" \
    -append "console=ttyS0 panic=-1 quiet mitigations=off intel_iommu=on hugepages=512 ibid.nics=$(IFS=,; echo "${nics[*]}")" >"$work/qemu.out" 2>&1 &
host_pid=$!
# Shown as they come, and counted at the end.
tail -n +1 -f --pid="$host_pid" "$results" | sed -u 's/\r$//; /^DONE/d' &
wait "$host_pid" || status=$?
host_pid=''
# The last lines are still on their way through `tail`, which looks once a second.
sleep 1.2
passes=$(grep -c '^PASS ' "$results" || true)
failures=$(grep -c '^FAIL ' "$results" || true)
if ! grep -q '^DONE' "$results"; then
    word="the guest reaches its end (exit status $status of QEMU)"
    [[ $status != 124 ]] || word="the guest reaches its end within $guest_seconds s"
    fail "$word"
    quote "$work/qemu.out"
    quote "$console" 40
fi
if ((failures)) && [[ -n ${IBID_CONSOLE:-} ]]; then cp "$console" "$IBID_CONSOLE"; fi
echo "PCI guest: $passes passed, $failures failed, $SECONDS s"
((failures == 0))
