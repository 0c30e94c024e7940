#!/bin/sh
# Reserves huge pages and mounts hugetlbfs, or gives both back. May be run again at any time: it sets numbers, it doesn't add.
# usage: reserve.sh [--size 2M|1G] [--node N | --near INTERFACE] [--mount DIR | --no-mount] PAGES
#        reserve.sh --release [--size 2M|1G] [--node N | --near INTERFACE] [--mount DIR | --no-mount]
#        reserve.sh --show
# Without --node or --near the kernel spreads the pages over the NUMA nodes; --near takes the node where a NIC is. Ends with an error when
# fewer pages could be had, or when they could not be had on that node.
set -eu

usage() { sed -n '3,5s/^# //p' "$0" >&2; exit 2; }
fail() { echo "reserve.sh: $*" >&2; exit 1; }

# Where sysfs is; the tests put a folder of their own there, and mount nothing.
sys=${IBID_SYSFS:-/sys}
size=2M node= near= mount_dir=/dev/hugepages no_mount=${IBID_SYSFS:+1} release= pages= show=
while [ $# -gt 0 ]; do
	case $1 in
	--size) [ $# -ge 2 ] || usage; size=$2; shift ;;
	--node) [ $# -ge 2 ] || usage; node=$2; shift ;;
	--near) [ $# -ge 2 ] || usage; near=$2; shift ;;
	--mount) [ $# -ge 2 ] || usage; mount_dir=$2; shift ;;
	--no-mount) no_mount=1 ;;
	--release) release=1 ;;
	--show) show=1 ;;
	-*) usage ;;
	*) [ -z "$pages" ] || usage; pages=$1 ;;
	esac
	shift
done

case $size in
# The second word is how the kernel writes the size in /proc/mounts.
2M) pool=hugepages-2048kB mounted=2M ;;
1G) pool=hugepages-1048576kB mounted=1024M ;;
*) fail "page size $size: 2M or 1G" ;;
esac

base=$sys/kernel/mm/hugepages
nodes=$sys/devices/system/node

if [ -n "$show" ]; then
	for dir in "$base"/hugepages-* "$nodes"/node*/hugepages/hugepages-*; do
		[ -d "$dir" ] || continue
		echo "$dir total=$(cat "$dir/nr_hugepages") free=$(cat "$dir/free_hugepages")"
	done
	exit 0
fi

# The NUMA node of a NIC; a virtual device lies in the folder of the one that knows it.
node_of() {
	[ -e "$sys/class/net/$1" ] || fail "there is no interface $1"
	[ -e "$sys/class/net/$1/device" ] || fail "$1 is no device of a bus: it is on no NUMA node"
	at=$(readlink -f "$sys/class/net/$1/device")
	for up in . .. ../.. ../../..; do
		if [ -e "$at/$up/numa_node" ]; then
			found=$(cat "$at/$up/numa_node")
			# -1: the firmware doesn't say, as on machines with one node.
			[ "$found" -ge 0 ] || found=0
			echo "$found"
			return
		fi
	done
	echo 0
}
if [ -n "$near" ]; then
	[ -z "$node" ] || usage
	node=$(node_of "$near")
fi

if [ -n "$node" ]; then
	dir=$nodes/node$node/hugepages/$pool
else
	dir=$base/$pool
fi
[ -d "$dir" ] || fail "$dir does not exist: this kernel, CPU or NUMA node has no pages of $size"
[ -w "$dir/nr_hugepages" ] || fail "needs root"

if [ -n "$release" ]; then
	# A number of pages may stand there, so that a unit can give the same words for both; all of them are given back.
	# Pages in use stay until their process ends; the kernel takes them back then.
	echo 0 > "$dir/nr_hugepages"
	if [ "$(cat "$dir/nr_hugepages")" != 0 ]; then
		echo "reserve.sh: $(cat "$dir/nr_hugepages") pages of $size are still in use" >&2
	fi
	# Only a mount of this size, and only when nobody uses it.
	if [ -z "$no_mount" ] && grep -q "^[^ ]* $mount_dir hugetlbfs .*pagesize=$mounted" /proc/mounts; then
		umount "$mount_dir" 2>/dev/null || echo "reserve.sh: $mount_dir is in use and stays mounted" >&2
	fi
	exit 0
fi

case $pages in
'' | *[!0-9]*) usage ;;
esac

# Memory that is scattered can be joined; the kernel does so only when asked.
if [ "$(cat "$dir/free_hugepages")" -lt "$pages" ] && [ -w /proc/sys/vm/compact_memory ]; then
	echo 1 > /proc/sys/vm/compact_memory
fi
echo "$pages" > "$dir/nr_hugepages"
have=$(cat "$dir/nr_hugepages")

where=
if [ -z "$no_mount" ]; then
	if ! grep -q "^[^ ]* $mount_dir hugetlbfs " /proc/mounts; then
		mkdir -p "$mount_dir"
		mount -t hugetlbfs -o "pagesize=$size" hugetlbfs "$mount_dir"
	fi
	where=", hugetlbfs on $mount_dir"
fi

if [ "$have" -lt "$pages" ]; then
	on=; [ -z "$node" ] || on=" on NUMA node $node"
	kernel="hugepagesz=$size hugepages=$pages"; [ -z "$node" ] || kernel="hugepagesz=$size hugepages=$node:$pages"
	fail "only $have of $pages pages of $size could be had$on: reserve earlier after boot, or on the kernel's command line ($kernel)"
fi
echo "$have pages of $size in $dir$where"
