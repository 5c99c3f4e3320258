# shellcheck shell=bash
# The clients. Each has four functions, named for it:
#   prepare_X                     starts its daemon, with the sample of deploy/clients as its configuration
#   wipe_X                        empties its store
#   pull_X UPSTREAM NAME PLATFORM pulls `repository:tag` or `repository@digest` of that upstream
#   whole_X UPSTREAM NAME PLATFORM EXPECTED  hashes what it stored
# and what it cannot do is said in run.

# with_address SAMPLE FILE: a sample of deploy/ with our mirror's address in place of its example address.
with_address() {
    mkdir -p "$(dirname "$2")"
    sed -e "s#roadstead\.internal:5000#${mirror_address[roadstead]}#g" \
        -e 's#ghcr\.io#private.example#g' "$root/deploy/clients/$1" >"$2"
    grep -q "${mirror_address[roadstead]}" "$2" || die "deploy/clients/$1 does not name roadstead.internal:5000"
}

# ---- dockerd: registry-mirrors, for docker.io only

docker_cli() { bounded docker -H "unix://$work/dockerd/docker.sock" "$@"; }

# start_dockerd NAME CONFIG_FILE DIRECTORY [VARIABLE=VALUE…]: a dockerd with everything of its own in the directory.
start_dockerd() {
    spawn "$1" env "${client_environment[@]}" "${@:4}" dockerd --config-file="$2" \
        --storage-driver=vfs --iptables=false --bridge=none --data-root="$3/data" --exec-root="$3/exec" \
        --pidfile="$3/pid" -H "unix://$3/docker.sock"
    started "$1" docker -H "unix://$3/docker.sock" info
}

prepare_dockerd() {
    with_address daemon.json "$work/dockerd/daemon.json"
    start_dockerd dockerd "$work/dockerd/daemon.json" "$work/dockerd"
}

# registry-mirrors serve docker.io alone; images of other upstreams are named through the mirror's own address.
docker_reference() {
    if [[ $1 == docker.io ]]; then echo "docker.io/$2"; else echo "${docker_address:-${mirror_address[roadstead]}}/$1/$2"; fi
}

wipe_dockerd() { docker_cli image prune --all --force; }

pull_dockerd() { docker_cli pull --platform "$3" "$(docker_reference "$1" "$2")"; }

whole_dockerd() {
    local reference
    reference=$(docker_reference "$1" "$2")
    docker_cli image inspect "$reference" >"$work/inspect.json"
    python3 "$here/check.py" inspect "$work/inspect.json" "$4" --platform "$3"
    # The digest that it was pulled by is the one that the upstream's tag names.
    jq -er '.[0].RepoDigests[]' "$work/inspect.json" | grep -F "@$(jq -er .digest "$4")"
    docker_cli save -o "$work/saved.tar" "$reference"
    python3 "$here/check.py" archive "$work/saved.tar" "$4" --platform "$3"
    rm -f "$work/saved.tar"
}

# ---- containerd: hosts.toml, with `ns`

ctr_cli() { bounded ctr --address "$work/containerd/containerd.sock" "$@"; }

prepare_containerd() {
    # One file serves every registry, as `_default`; docker.io is also tried under its own name.
    with_address hosts.toml "$work/containerd/certs.d/_default/hosts.toml"
    with_address hosts.toml "$work/containerd/certs.d/docker.io/hosts.toml"
    cat >"$work/containerd/config.toml" <<TOML
version = 2
root = "$work/containerd/root"
state = "$work/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$work/containerd/containerd.sock"
TOML
    spawn containerd env "${client_environment[@]}" containerd --config "$work/containerd/config.toml"
    started containerd ctr --address "$work/containerd/containerd.sock" version
}

wipe_containerd() {
    local -a images
    mapfile -t images < <(ctr_cli images ls -q)
    ((${#images[@]} == 0)) || ctr_cli images rm --sync "${images[@]}"
    # Nothing may be left that would make the next pull a smaller one.
    [[ -z $(find "$work/containerd/root/io.containerd.content.v1.content" -path '*/blobs/*' -type f) ]]
}

pull_containerd() {
    ctr_cli images pull --snapshotter native --hosts-dir "${hosts_dir:-$work/containerd/certs.d}" --platform "$3" "$1/$2"
}

whole_containerd() {
    python3 "$here/check.py" store "$work/containerd/root/io.containerd.content.v1.content/blobs/sha256" "$4" --platform "$3"
}

# ---- podman: registries.conf, mirrors with a path prefix

podman_cli() {
    bounded env CONTAINERS_REGISTRIES_CONF="${registries_conf:-$work/registries.conf}" podman --storage-driver vfs \
        --root "$work/podman/root" --runroot "$work/podman/runroot" --tmpdir "$work/podman/tmp" \
        --events-backend none --cgroup-manager cgroupfs "$@"
}

prepare_podman() {
    with_address registries.conf "$work/registries.conf"
    podman_cli info >"$work/logs/podman.log" 2>&1
}

wipe_podman() { podman_cli rmi --all --force; }

pull_podman() { podman_cli pull --platform "$3" "$1/$2"; }

whole_podman() {
    podman_cli image inspect "$1/$2" >"$work/inspect.json"
    python3 "$here/check.py" inspect "$work/inspect.json" "$4" --platform "$3"
    same_digest "$(jq -er '.[0].Digest' "$work/inspect.json")" "$3" "$4"
    local mounted
    mounted=$(podman_cli image mount "$1/$2")
    python3 "$here/check.py" rootfs "$mounted" "$4" --platform "$3"
    podman_cli image unmount --force "$1/$2"
    # It cannot save an image with zstd layers; then the files are all that can be hashed.
    [[ $2 != *zstd* ]] || return 0
    rm -f "$work/saved.tar"
    podman_cli save --format docker-archive -o "$work/saved.tar" "$1/$2"
    python3 "$here/check.py" archive "$work/saved.tar" "$4" --platform "$3"
    rm -f "$work/saved.tar"
}

# podman names an image by the digest of the platform's manifest, or of the index that it came from.
same_digest() {
    [[ $1 == "$(jq -er .digest "$3")" || $1 == "$(jq -er --arg p "$2" '.platforms[$p].manifest' "$3")" ]]
}

# ---- skopeo, to a directory: through registries.conf, and by the mirror's own path

prepare_skopeo() { with_address registries.conf "$work/registries.conf"; }
wipe_skopeo() { rm -rf "$work/skopeo"; }
pull_skopeo() {
    bounded skopeo --registries-conf "${registries_conf:-$work/registries.conf}" --override-arch "${3#*/}" \
        copy "docker://$1/$2" "dir:$work/skopeo"
}
whole_skopeo() { python3 "$here/check.py" dir "$work/skopeo" "$4" --platform "$3"; }

prepare_skopeo-path() { :; }
wipe_skopeo-path() { wipe_skopeo; }
pull_skopeo-path() {
    bounded skopeo --override-arch "${3#*/}" copy --src-tls-verify=false \
        "docker://${mirror_address[roadstead]}/$1/$2" "dir:$work/skopeo"
}
whole_skopeo-path() { whole_skopeo "$@"; }
