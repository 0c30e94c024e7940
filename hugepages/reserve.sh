#!/bin/sh
# Reserves huge pages and mounts hugetlbfs, or gives both back. May be run again at any time: it sets numbers, it doesn't add.
# usage: reserve.sh [--size 2M|1G] [--node N] [--mount DIR] PAGES
#        reserve.sh --release [--size 2M|1G] [--node N] [--mount DIR]
#        reserve.sh --show
# Without --node the kernel spreads the pages over the NUMA nodes. Ends with an error when fewer pages could be had.
set -eu

usage() { sed -n '3,5s/^# //p' "$0" >&2; exit 2; }
fail() { echo "reserve.sh: $*" >&2; exit 1; }

size=2M node= mount_dir=/dev/hugepages release= pages= show=
while [ $# -gt 0 ]; do
	case $1 in
	--size) [ $# -ge 2 ] || usage; size=$2; shift ;;
	--node) [ $# -ge 2 ] || usage; node=$2; shift ;;
	--mount) [ $# -ge 2 ] || usage; mount_dir=$2; shift ;;
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

base=/sys/kernel/mm/hugepages
nodes=/sys/devices/system/node

if [ -n "$show" ]; then
	for dir in "$base"/hugepages-* "$nodes"/node*/hugepages/hugepages-*; do
		[ -d "$dir" ] || continue
		echo "$dir total=$(cat "$dir/nr_hugepages") free=$(cat "$dir/free_hugepages")"
	done
	exit 0
fi

if [ -n "$node" ]; then
	dir=$nodes/node$node/hugepages/$pool
else
	dir=$base/$pool
fi
[ -d "$dir" ] || fail "$dir does not exist: this kernel, CPU or NUMA node has no pages of $size"
[ -w "$dir/nr_hugepages" ] || fail "needs root"

if [ -n "$release" ]; then
	[ -z "$pages" ] || usage
	# Pages in use stay until their process ends; the kernel takes them back then.
	echo 0 > "$dir/nr_hugepages"
	if [ "$(cat "$dir/nr_hugepages")" != 0 ]; then
		echo "reserve.sh: $(cat "$dir/nr_hugepages") pages of $size are still in use" >&2
	fi
	# Only a mount of this size, and only when nobody uses it.
	if grep -q "^[^ ]* $mount_dir hugetlbfs .*pagesize=$mounted" /proc/mounts; then
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

if ! grep -q "^[^ ]* $mount_dir hugetlbfs " /proc/mounts; then
	mkdir -p "$mount_dir"
	mount -t hugetlbfs -o "pagesize=$size" hugetlbfs "$mount_dir"
fi

[ "$have" -ge "$pages" ] || fail "only $have of $pages pages of $size could be had: reserve earlier after boot, or on the kernel's command line"
echo "$have pages of $size in $dir, hugetlbfs on $mount_dir"
