# shellcheck shell=bash
# `doctor --from-client`: the real dockerd, containerd and podman pull an image, and it says whether that came through the
# mirror. The programs that it finds on the PATH are told here where the daemons of this run have their sockets.

# A program in front of the real one, with more arguments.
shim() {
    mkdir -p "$work/shims"
    printf '#!/bin/bash\n%s\n' "$2" >"$work/shims/$1"
    chmod 0755 "$work/shims/$1"
}

make_shims() {
    shim docker "exec /usr/bin/docker -H unix://$work/doctor/dockerd/docker.sock \"\$@\""
    # It is given the node's directory, which is below another root here.
    shim ctr "arguments=(\"\${@/#\\/etc\\/containerd/$work/doctor/containerd/etc/containerd}\")
exec /usr/bin/ctr --address $work/containerd/containerd.sock \"\${arguments[@]}\" --snapshotter native"
    shim podman "export CONTAINERS_REGISTRIES_CONF=\${DOCTOR_CONF:?}
exec /usr/bin/podman --storage-driver vfs --root $work/podman/root --runroot $work/podman/runroot \\
    --tmpdir $work/podman/tmp --events-backend none --cgroup-manager cgroupfs \"\$@\""
}

# asks CLIENT IMAGE: the findings, in $work/doctor/CLIENT.json. That one failed is no failure of the command.
asks() {
    local rc=0
    bounded env PATH="$work/shims:$PATH" DOCTOR_CONF="${DOCTOR_CONF:-}" "$BINARY" doctor --from-client --json \
        --server "http://${mirror_address[roadstead]}" --admin "http://${admin_address[roadstead]}" \
        --client "$1" --image "$2" --root "$work/doctor/$1" >"$work/doctor/$1.json" || rc=$?
    cat "$work/doctor/$1.json"
    ((rc <= 1))
}

# found CLIENT CHECK STATUS WORDS: the check has this status and says this.
found() {
    jq -er --arg id "$1:$2" '.checks[] | select(.id == $id)' "$work/doctor/$1.json" >"$work/doctor/check.json"
    jq -e --arg status "$3" '.status == $status' "$work/doctor/check.json"
    jq -r '.summary, .advice // empty' "$work/doctor/check.json" | grep -F "$4"
}

configured() {
    mkdir -p "$work/doctor/$1"
    bounded "$BINARY" client-config "$1" --config "$work/roadstead.toml" \
        --server "http://${mirror_address[roadstead]}" --root "$work/doctor/$1" --write
}

doctored_dockerd() {
    local at="$work/doctor/dockerd"
    mkdir -p "$at"
    configured docker
    trap 'stop doctored' EXIT
    start_dockerd doctored "$work/doctor/docker/etc/docker/daemon.json" "$at"
    asks docker layers-dockerd:1
    found docker configuration ok registry-mirrors
    found docker pull ok 'came through the mirror'
    # An image that the mirror cannot give: the client's own failure is told, with the mirror's answer.
    asks docker absent:1
    found docker pull fail 'the mirror answers 404'
}

doctored_containerd() {
    mkdir -p "$work/doctor/containerd/etc/containerd"
    configured containerd
    wipe_containerd
    asks containerd docker.io/library/layers-containerd:1
    found containerd pull ok 'came through the mirror'
    # A name that is not the mirror's.
    sed -i 's#http://#https://#' "$work/doctor/containerd/etc/containerd/certs.d/docker.io/hosts.toml"
    asks containerd docker.io/library/layers-containerd:1
    found containerd configuration fail hosts.toml
    # It pulls into the namespace of Kubernetes; the next case finds an empty store.
    local -a images
    mapfile -t images < <(ctr_cli --namespace k8s.io images ls -q)
    ctr_cli --namespace k8s.io images rm --sync "${images[@]}"
    wipe_containerd
}

# A registries.conf that leads to the registry itself: the pull succeeds, and the mirror sees nothing of it.
doctored_podman() {
    local DOCTOR_CONF="$work/doctor/podman/etc/containers/registries.conf.d/50-roadstead.conf"
    configured podman
    wipe_podman
    asks podman docker.io/library/layers-podman:1
    found podman pull ok 'came through the mirror'
    wipe_podman
    cat >"$DOCTOR_CONF" <<TOML
[[registry]]
prefix = "docker.io"
location = "127.0.0.1:${upstream_port[docker.io]}"
insecure = true
TOML
    asks podman docker.io/library/layers-podman:1
    found podman pull fail 'went past the mirror'
}

doctor_cases() {
    make_shims
    case_of dockerd doctor doctored_dockerd
    case_of containerd doctor doctored_containerd
    case_of podman doctor doctored_podman
}
