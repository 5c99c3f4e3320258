# shellcheck shell=bash
# What the builds of deploy/{binary,deb,rpm,image} share: names, the version, and files that are the same each time.
# Sourced with $root, the repository, and $me, the name of the script in messages.

die() {
    printf '%s: %s\n' "$me" "$*" >&2
    exit 1
}
say() { printf '%s: %s\n' "$me" "$*" >&2; }

# usage SCRIPT: its first comment, as its help.
usage() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "$1" >&2
    exit 2
}

# The package's version, as Cargo.toml has it.
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
readonly version

# The commit that is packaged, and its time: files of the same commit are the same whenever they are made.
BUILD_COMMIT=${BUILD_COMMIT:-$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || echo unknown)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || stat -c %Y "$root/Cargo.toml")}
# The program's build script reads it, and the scripts that these call.
export SOURCE_DATE_EPOCH BUILD_COMMIT
readonly commit=$BUILD_COMMIT

# architectures WORD: `x86_64`, `aarch64`, or both for `all`; the names of other systems are taken, too.
architectures() {
    case $1 in
        x86_64 | amd64) echo x86_64 ;;
        aarch64 | arm64) echo aarch64 ;;
        all) echo x86_64 aarch64 ;;
        *) die "--target is x86_64, aarch64 or all, and not $1" ;;
    esac
}

# go_name ARCHITECTURE: the name that Debian's packages and images have for it.
go_name() {
    case $1 in
        x86_64) echo amd64 ;;
        aarch64) echo arm64 ;;
    esac
}

archive_name() { echo "roadstead-$version-linux-$1"; }

# runner ARCHITECTURE: the command before a program of that architecture, on this machine; nothing if it runs by itself.
runner() {
    [[ $1 == "$(uname -m)" ]] && return 0
    command -v "qemu-$1-static" || die "programs for $1 need qemu-$1-static here (package qemu-user-static)"
}

# pack DIRECTORY FILE: a tar.gz of a directory, without anything of this machine or the time in it.
pack() {
    tar --create --sort=name --format=gnu --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        --mode='u+rw,go+r-w,a+X' --directory "$(dirname "$1")" "$(basename "$1")" | gzip -9 --no-name >"$2"
}

# archive_of ARCHITECTURE FILE DIRECTORY: the content of an archive of deploy/binary/build in the directory; without a
# file it is built.
archive_of() {
    local archive=$2
    if [[ -z $archive ]]; then
        "$root/deploy/binary/build" --target "$1" --out "$root/target/dist"
        archive="$root/target/dist/$(archive_name "$1").tar.gz"
    fi
    mkdir -p "$3"
    tar --extract --gzip --file "$archive" --strip-components=1 --directory "$3"
    [[ $(program_architecture "$3/roadstead") == "$1" ]] || die "$archive is not for $1"
}

# archive_for ARCHITECTURE FILE…: the one of these archives that has the architecture in its name, if any.
archive_for() {
    local file
    for file in "${@:2}"; do
        [[ $file == *"-linux-$1.tar.gz" ]] && echo "$file" && return 0
    done
    (($# == 1)) || die "none of the archives is for $1: ${*:2}"
}

# units_into ARCHIVE_DIRECTORY DIRECTORY: the units as packages have them. The program is the distribution's, and the user
# has a name that files can be given to: systemd 239 of RHEL 8 has no LoadCredential, so that secrets must be readable
# for somebody.
units_into() {
    mkdir -p "$2"
    sed -e 's#/usr/local/bin/#/usr/bin/#' -e 's#^DynamicUser=yes$#User=roadstead\nGroup=roadstead#' \
        "$1/systemd/roadstead.service" >"$2/roadstead.service"
    cp "$1/systemd/roadstead.socket" "$2/roadstead.socket"
    grep -q '^User=roadstead$' "$2/roadstead.service" || die "the unit has no DynamicUser=yes any more"
    grep -q '^ExecStart=/usr/bin/roadstead ' "$2/roadstead.service" || die "the unit's program is not /usr/local/bin/roadstead"
}

program_architecture() {
    local kind
    kind=$(LC_ALL=C readelf --file-header "$1" | sed -n 's/^ *Machine: *//p')
    case $kind in
        *X86-64) echo x86_64 ;;
        AArch64) echo aarch64 ;;
        *) die "$1 is for a machine of another kind: $kind" ;;
    esac
}

must_be_static() {
    if LC_ALL=C readelf --program-headers "$1" | grep -q INTERP; then
        die "$1 is not static: it would need a loader and libraries of one distribution"
    fi
}

# install_packages PACKAGE…: what is missing of Debian's, without starting any of its daemons.
install_packages() {
    local package
    local -a missing=()
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    ((${#missing[@]} > 0)) || return 0
    ((EUID == 0)) || die "missing: ${missing[*]}; only root can install them"
    say "installing ${missing[*]}"
    local policy=/usr/sbin/policy-rc.d ours=false rc=0
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        ours=true
    fi
    {
        export DEBIAN_FRONTEND=noninteractive
        apt-get -o DPkg::Lock::Timeout=600 update -q &&
            apt-get -o DPkg::Lock::Timeout=600 install -q -y --no-install-recommends "${missing[@]}"
    } </dev/null >&2 || rc=$?
    ! $ours || rm -f "$policy"
    ((rc == 0)) || die "apt-get failed"
}
