#!/bin/sh
# Gives a NIC to vfio-pci, so that DPDK can drive it, or back to its kernel driver.
# usage: bind.sh PCI-ADDRESS            e.g. bind.sh 0000:3b:00.0
#        bind.sh --release PCI-ADDRESS
#        bind.sh --show
set -eu

usage() { sed -n '3,5s/^# //p' "$0" >&2; exit 2; }
fail() { echo "bind.sh: $*" >&2; exit 1; }

devices=/sys/bus/pci/devices

driver_of() {
	if [ -e "$devices/$1/driver" ]; then basename "$(readlink -f "$devices/$1/driver")"; else echo none; fi
}

interfaces_of() {
	for entry in "$devices/$1"/net/* "$devices/$1"/virtio*/net/*; do
		if [ -d "$entry" ]; then basename "$entry"; fi
	done
}

if [ $# -eq 1 ] && [ "$1" = --show ]; then
	for dir in "$devices"/*; do
		# Class 02: network controllers.
		case $(cat "$dir/class" 2>/dev/null || echo none) in
		0x02*)
			address=$(basename "$dir")
			echo "$address driver=$(driver_of "$address") interfaces=$(interfaces_of "$address" | tr '\n' ' ')"
			;;
		esac
	done
	exit 0
fi

release=
if [ "${1:-}" = --release ]; then release=1; shift; fi
[ $# -eq 1 ] || usage
address=$1
case $address in
????:??:??.?) ;;
*) usage ;;
esac
[ -d "$devices/$address" ] || fail "there is no PCI device $address (bind.sh --show lists them)"
case $(cat "$devices/$address/class") in
0x02*) ;;
*) fail "$address is no network controller" ;;
esac
[ "$(id -u)" = 0 ] || fail "needs root"

unbind() {
	if [ -e "$devices/$address/driver" ]; then echo "$address" > "$devices/$address/driver/unbind"; fi
}

if [ -n "$release" ]; then
	unbind
	echo > "$devices/$address/driver_override"
	echo "$address" > /sys/bus/pci/drivers_probe
	echo "$address driver=$(driver_of "$address")"
	exit 0
fi

if [ "$(driver_of "$address")" = vfio-pci ]; then
	echo "$address driver=vfio-pci"
	exit 0
fi
# Whoever binds the interface that he is logged in through doesn't get to undo it.
for interface in $(interfaces_of "$address"); do
	for family in -4 -6; do
		if ip "$family" route show default | grep -q "dev $interface\\b"; then
			fail "$interface of $address carries the default route"
		fi
	done
done
if [ ! -e "$devices/$address/iommu_group" ]; then
	fail "$address is in no IOMMU group: turn the IOMMU on in the firmware and with intel_iommu=on (Intel) on the kernel's command line"
fi
modprobe vfio-pci
unbind
echo vfio-pci > "$devices/$address/driver_override"
echo "$address" > /sys/bus/pci/drivers_probe
[ "$(driver_of "$address")" = vfio-pci ] || fail "vfio-pci did not take $address; driver now: $(driver_of "$address")"
echo "$address driver=vfio-pci"
