# shellcheck shell=bash
# What the scripts need that boot a Linux in QEMU: packages, a kernel, pieces of an initramfs, the accelerator. To be sourced after lib.sh;
# the caller defines `skip`.
#
# Takes: IBID_CACHE   where the kernel is kept        [/var/cache/ibid-hosts]

cache=${IBID_CACHE:-/var/cache/ibid-hosts}

# Without a network this ends soon.
patience=(-o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20)

# Installs what is missing, or skips: pairs `program=package`.
need_programs() {
    local pair missing=()
    [[ $(uname -m) == x86_64 ]] || skip "only x86-64 is prepared"
    [[ -x $ibid ]] || skip "$ibid is not there; make build"
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
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
            apt-get "${patience[@]}" update
            DEBIAN_FRONTEND=noninteractive apt-get "${patience[@]}" install -y --no-install-recommends "${missing[@]}"
        } >/dev/null 2>&1 || skip "apt-get could not install ${missing[*]}"
    fi
}

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
    local options=("${patience[@]}" -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt")
    apt-get "${options[@]}" update >/dev/null 2>&1 && fetch_kernel "${options[@]}"
}

# Gives `kernel` (a folder with boot/ and lib/modules/), `version` and `image`, or skips.
need_kernel() {
    mkdir -p "$cache" 2>/dev/null || skip "$cache cannot be made; name another with IBID_CACHE"
    kernel=$(cached_kernel)
    if [[ -z $kernel ]]; then
        echo "fetching a kernel into $cache"
        fetch_backport || fetch_kernel "${patience[@]}" || skip "no kernel could be fetched"
        kernel=$(cached_kernel)
    fi
    version=$(ls "$kernel/lib/modules")
    image=$kernel/boot/vmlinuz-$version
    [[ -f $image ]] || skip "no kernel image in $kernel"
    [[ -f $kernel/lib/modules/$version/modules.dep ]] || depmod -b "$kernel" "$version"
}

# --- pieces of an initramfs -----------------------------------------------------------------------------------------------------------

# Copies programs of this machine with the libraries they name: folder, names or paths.
copy_programs() {
    local tree=$1 tool path
    shift
    mkdir -p "$tree/bin"
    for tool in "$@"; do
        path=$(command -v "$tool")
        cp -L "$path" "$tree/bin/$(basename "$tool")"
        copy_libraries "$tree" "$path"
    done
}
# Copies the libraries that a program or a library names, to where they lie here.
copy_libraries() {
    local library
    for library in $(ldd "$2" 2>/dev/null | grep -o '/[^ ]*' || true); do
        mkdir -p "$1$(dirname "$library")"
        cp -Lu "$library" "$1$library"
    done
}
# Gives the files of modules and of all that they need, in the order in which they must be loaded; what is built in is not listed.
module_files() {
    modprobe -d "$kernel" -S "$version" -aq --show-depends "$@" | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}
# Copies a module, unpacked: file, destination without `.xz`.
copy_module() {
    case $1 in
        *.xz) xz -dc "$1" >"$2" ;;
        *) cp "$1" "$2" ;;
    esac
}
# Packs a folder: folder, file. The folder is gone afterwards.
pack_initramfs() {
    (cd "$1" && find . | cpio -o -H newc --quiet) >"$2"
    rm -rf "$1"
}

# An ordinary kernel under a virtualisation that is itself nested without support hangs early: emulate then. QEMU 7.2 emulates
# cmpxchg16b wrongly, and five-level page tables slowly.
accelerator=(-accel tcg,thread=multi -cpu max,la57=off,cx16=off)
if grep -qwE 'vmx|svm' /proc/cpuinfo && [[ -w /dev/kvm ]]; then
    accelerator=(-accel kvm -cpu host)
fi
