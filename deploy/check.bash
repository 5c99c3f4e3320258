# shellcheck shell=bash
# What the checks of deploy/{deb,rpm,image,systemd} share: steps that are counted, processes that are ended, an upstream
# registry with an image on loopback, and pulls through a roadstead.
# Sourced after deploy/package.bash, by root, with $work, an empty directory that `finish` deletes.

# Loopback needs a second; these are for slow machines.
readonly wait_seconds_max=120
readonly command_seconds_max=300
readonly test_image=library/hello
passed=0
failed=0
skipped=0
declare -A pids=()

((EUID == 0)) || die "this installs packages into a directory of its own, for which it must be root"
export LC_ALL=C.UTF-8 NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost

# step WHAT FUNCTION ARGUMENTS…: runs it in a subshell that ends at the first command that fails, and counts it. What a step
# starts for others is started outside of one.
step() {
    local what=$1 log="$work/step.log" rc=0 started=$SECONDS
    shift
    (
        BASH_XTRACEFD=9
        set -euxo pipefail
        "$@"
    ) >"$log" 2>&1 9>&1 </dev/null &
    wait $! || rc=$?
    if ((rc == 0)); then
        passed=$((passed + 1))
        printf 'ok    %s (%d s)\n' "$what" "$((SECONDS - started))"
    else
        failed=$((failed + 1))
        printf 'FAIL  %s (exit code %d); the end of what it did:\n' "$what" "$rc"
        tail -n 30 "$log" | cut -c 1-300 | sed 's/^/      /'
    fi
}

# skip WHAT WHY: said and counted, never silent.
skip() {
    skipped=$((skipped + 1))
    printf 'skip  %s: %s\n' "$1" "$2"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# wait_for WHAT COMMAND…: until it succeeds.
wait_for() {
    local what=$1 deadline=$((SECONDS + wait_seconds_max))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || { echo "waited $wait_seconds_max s in vain for $what" >&2 && return 1; }
        sleep 0.1
    done
}

# spawn NAME COMMAND…: a process whose output goes to $work/NAME.log.
spawn() {
    local name=$1
    shift
    "$@" >>"$work/$name.log" 2>&1 </dev/null &
    pids[$name]=$!
}

# stop NAME: SIGTERM, and SIGKILL for what does not end.
stop() {
    local pid=${pids[$1]:-} deadline=$((SECONDS + 60))
    [[ -n $pid ]] || return 0
    unset "pids[$1]"
    kill -TERM "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

# The last line and the exit code; ends and removes everything.
finish() {
    local rc=$? name at
    set +e
    for name in "${!pids[@]}"; do stop "$name"; done
    # Those of dockerd as well.
    grep -F " $work/" /proc/mounts | cut -d ' ' -f 2 | sort -r | while read -r at; do umount -l "$at"; done
    [[ -n ${KEEP:-} ]] || rm -rf --one-file-system "$work"
    if ((rc != 0)); then
        echo "$me: ended early, with $rc" >&2
        exit "$rc"
    fi
    printf '\n%d passed, %d failed%s\n' "$passed" "$failed" "$( ((skipped > 0)) && echo ", $skipped skipped")"
    ((failed == 0)) || exit 1
    exit 0
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# debian_archive NAME PACKAGE…: prints the path of a tar with a minimal Debian 12 and these packages. It is kept, since making
# one takes minutes.
debian_archive() {
    local cache="${XDG_CACHE_HOME:-$HOME/.cache}/roadstead-deploy" packages made
    packages=$(IFS=, && echo "${*:2}")
    local archive="$cache/bookworm-$1-$(dpkg --print-architecture).tar"
    if [[ ! -s $archive ]]; then
        mkdir -p "$cache"
        install_packages debootstrap
        say "debootstrap: a minimal Debian${packages:+ with $packages}"
        made=$(mktemp -d "$work/debootstrap.XXXXXX")
        debootstrap --variant=minbase ${packages:+--include="$packages"} bookworm "$made" >"$work/debootstrap.log" 2>&1 ||
            { tail -n 20 "$work/debootstrap.log" >&2 && die "debootstrap failed"; }
        tar --create --numeric-owner --one-file-system --directory "$made" --file "$archive.new" .
        mv "$archive.new" "$archive"
        rm -rf --one-file-system "$made"
    fi
    echo "$archive"
}

# debian_root DIRECTORY NAME PACKAGE…: one in a directory.
debian_root() {
    local archive
    archive=$(debian_archive "${@:2}")
    mkdir -p "$1"
    tar --extract --numeric-owner --directory "$1" --file "$archive"
    chmod 755 "$1"
    # Names and proxies of this machine, for apt.
    cp /etc/resolv.conf "$1/etc/resolv.conf"
    find /etc/apt/apt.conf.d -name '*proxy*' -exec cp {} "$1/etc/apt/apt.conf.d/" \;
}

# start_upstream: a registry of Debian's docker-registry with one image of some layers; sets $upstream_port.
start_upstream() {
    install_packages docker-registry skopeo python3 curl
    upstream_port=$(free_port)
    cat >"$work/registry.yml" <<YAML
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:$upstream_port"}
YAML
    spawn registry docker-registry serve "$work/registry.yml"
    wait_for "the upstream registry" curl -sSf --max-time 5 "http://127.0.0.1:$upstream_port/v2/"
    python3 "$root/deploy/image_of_noise.py" "$work/noise" >/dev/null
    skopeo_copy "oci:$work/noise" "docker://127.0.0.1:$upstream_port/$test_image:1" >/dev/null
}

skopeo_copy() {
    HOME="$work" REGISTRY_AUTH_FILE="$work/auth.json" timeout "$command_seconds_max" \
        skopeo copy --src-tls-verify=false --dest-tls-verify=false --insecure-policy "$@"
}

# pull_through HOST:PORT: a whole image, whose parts are what was pushed.
pull_through() {
    rm -rf "$work/pulled"
    skopeo_copy "docker://$1/docker.io/$test_image:1" "oci:$work/pulled"
    diff <(cd "$work/noise/blobs/sha256" && sha256sum ./* | sort) <(cd "$work/pulled/blobs/sha256" && sha256sum ./* | sort)
}

# is_hit HOST:PORT: the image's tag is served from the cache.
is_hit() {
    curl -sSf --max-time 30 -I -H 'Accept: application/vnd.oci.image.manifest.v1+json' \
        "http://$1/v2/$test_image/manifests/1?ns=docker.io" | tr -d '\r' | grep -ix 'cache-status: roadstead; hit.*'
}

# configure FILE PORT ADMIN_PORT: edits a package's configuration as an operator would.
configure() {
    sed -i -e "s#^listen = .*#listen = \"127.0.0.1:$2\"#" -e "s#^admin_listen = .*#admin_listen = \"127.0.0.1:$3\"#" \
        -e 's#^max_size = .*#max_size = "1GB"#' "$1"
    cat >>"$1" <<TOML
# An edit that must outlive upgrades.
[tags]
ttl = "1h"
[upstream."docker.io"]
endpoints = ["http://127.0.0.1:$upstream_port"]
default = true
TOML
}
