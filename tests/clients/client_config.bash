# shellcheck shell=bash
# The files that `client-config --write` makes: dockerd, containerd, podman and skopeo pull with them, and those of other
# clients are read by their grammar.

# written CLIENT [ARGUMENTS…]: writes the files of a client for the mirror below $work/written/CLIENT.
written() {
    local client=$1 directory="$work/written/$1"
    shift
    mkdir -p "$directory"
    bounded "$BINARY" client-config "$client" --config "$work/roadstead.toml" \
        --server "http://${mirror_address[roadstead]}" --root "$directory" "$@"
}

# written_once CLIENT: a second write has nothing to change, and neither has a diff.
written_once() {
    if written "$1" --diff; then return 1; fi
    written "$1" --write
    written "$1" --write | grep -F 'nothing to change'
    written "$1" --diff
}

# A file of the user's own is merged, dockerd takes what comes of it, and the user has it back.
written_dockerd() {
    local file="$work/written/docker/etc/docker/daemon.json" at="$work/written/dockerd"
    mkdir -p "${file%/*}" "$at"
    printf '{\n    "max-concurrent-downloads": 2,\n    "registry-mirrors": ["http://127.0.0.1:9"]\n}\n' >"$file"
    cp "$file" "$at/before.json"
    written_once docker
    trap 'stop written' EXIT
    start_dockerd written "$file" "$at"
    bounded docker -H "unix://$at/docker.sock" info -f '{{index .RegistryConfig.Mirrors 0}}' |
        grep -F "${mirror_address[roadstead]}"
    bounded docker -H "unix://$at/docker.sock" pull layers-dockerd:1
    bounded docker -H "unix://$at/docker.sock" pull "${mirror_address[roadstead]}/private.example/secret/app-dockerd:1"
    written docker --undo
    cmp "$file" "$at/before.json"
}

# The hosts.toml of each registry by ctr, and config_path in the file that Debian installs.
written_containerd() {
    local at="$work/written/containerd/etc/containerd" hosts_dir
    mkdir -p "$at"
    [[ ! -e /etc/containerd/config.toml ]] || cp /etc/containerd/config.toml "$at/"
    written_once containerd
    hosts_dir="$at/certs.d"
    [[ -e $hosts_dir/docker.io/hosts.toml && -e $hosts_dir/private.example/hosts.toml ]]
    pull_whole containerd layers-containerd linux/amd64 tag
    pull_whole containerd private-containerd linux/amd64 tag
    bounded containerd --config "$at/config.toml" config dump | grep -F 'config_path = "/etc/containerd/certs.d"'
    written containerd --undo
    [[ ! -e $hosts_dir ]]
}

# HTTPS with an authority of its own, in the directory that the client looks into.
written_tls() {
    local at="$work/written/tls/etc/containerd/certs.d" hosts_dir
    mkdir -p "$work/written/tls"
    bounded "$BINARY" client-config containerd --config "$work/tls.toml" --server "https://${mirror_address[tls]}" \
        --ca "$work/tls/ca.crt" --root "$work/written/tls" --write
    cmp "$at/roadstead-ca.crt" "$work/tls/ca.crt"
    # The file has the authority's path as the node sees it.
    sed -i "s#\"/etc/containerd/certs.d/#\"$at/#" "$at"/*/hosts.toml
    hosts_dir=$at
    pull_whole containerd layers-containerd linux/amd64 tag
    bounded "$BINARY" client-config podman --config "$work/tls.toml" --server "https://${mirror_address[tls]}" \
        --ca "$work/tls/ca.crt" --root "$work/written/tls" --write
    local registries_conf="$work/written/tls/etc/containers/registries.conf.d/50-roadstead.conf"
    wipe_skopeo
    bounded skopeo --registries-conf "$registries_conf" copy \
        --src-cert-dir "$work/written/tls/etc/containers/certs.d/${mirror_address[tls]}" \
        docker://docker.io/library/layers-skopeo:1 "dir:$work/skopeo"
    whole_skopeo docker.io layers-skopeo linux/amd64 "$work/expected/layers-skopeo.json"
}

written_podman() {
    local registries_conf="$work/written/podman/etc/containers/registries.conf.d/50-roadstead.conf"
    written_once podman
    pull_whole podman layers-podman linux/amd64 tag
    pull_whole podman private-podman linux/amd64 tag
}

written_skopeo() {
    local registries_conf="$work/written/crio/etc/containers/registries.conf.d/50-roadstead.conf"
    written_once crio
    pull_whole skopeo layers-skopeo linux/amd64 tag
    pull_whole skopeo private-skopeo linux/amd64 tag
}

# Files of clients that are not installed here.
written_grammar() {
    local client
    for client in docker-desktop nerdctl k3s rke2 buildkit kind talos github-runner gitlab-runner; do
        written_once "$client"
    done
    python3 - "$work/written" "http://${mirror_address[roadstead]}" <<'PYTHON'
import json
import pathlib
import sys
import tomllib

import yaml

root, url = pathlib.Path(sys.argv[1]), sys.argv[2]
address = url.removeprefix("http://")


def only(client, name):
    (path,) = (root / client).rglob(name)
    return path.read_text()


for name in ["k3s", "rke2"]:
    mirrors = yaml.safe_load(only(name, "registries.yaml"))["mirrors"]
    assert mirrors["private.example"]["endpoint"] == [url], mirrors
for name in ["buildkit", "github-runner"]:
    registries = tomllib.loads(only(name, "buildkitd.toml"))["registry"]
    assert registries["docker.io"]["mirrors"] == [address + "/docker.io"], registries
    assert registries[address]["http"] is True, registries
for name in ["docker-desktop", "github-runner", "gitlab-runner"]:
    assert json.loads(only(name, "daemon.json"))["registry-mirrors"] == [url]
kind = yaml.safe_load(only("kind", "roadstead-kind.yaml"))
assert kind["kind"] == "Cluster" and len(kind["nodes"]) == 2, kind
tomllib.loads(kind["containerdConfigPatches"][0])
talos = yaml.safe_load(only("talos", "roadstead-talos.yaml"))
assert talos["machine"]["registries"]["mirrors"]["docker.io"]["endpoints"] == [url], talos
for path in root.rglob("hosts.toml"):
    (host,) = tomllib.loads(path.read_text())["host"].values()
    assert host["capabilities"] == ["pull", "resolve"], path
PYTHON
}

client_config_cases() {
    case_of dockerd client-config written_dockerd
    case_of containerd client-config written_containerd
    case_of podman client-config written_podman
    case_of skopeo client-config written_skopeo
    case_of roadstead client-config written_grammar
    if start_mirror tls "$BINARY" serve --config "$work/tls.toml"; then
        case_of containerd client-config-tls written_tls
        stop tls
    else
        record roadstead client-config-tls FAIL
    fi
}
