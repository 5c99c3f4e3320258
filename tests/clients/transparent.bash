# shellcheck shell=bash
# Transparent mode: clients without any configuration, but for a name that leads to roadstead and an authority that
# they trust.

# An address of this machine at which nobody else listens: names in /etc/hosts have no port.
readonly override_address=127.7.7.7

write_transparent_config() {
    write_mirror_config transparent
    sed -i "s/^listen = .*/listen = \"$override_address:443\"/" "$work/transparent.toml"
    printf '[server.transparent]\n' >>"$work/transparent.toml"
    bounded "$BINARY" ca init --config "$work/transparent.toml" >"$work/logs/ca.log"
    {
        cat /etc/hosts
        echo "$override_address docker.io registry-1.docker.io index.docker.io private.example"
    } >"$work/hosts"
}

# What a client gets for this: another /etc/hosts, for it alone, and the authority in place of all others. The proxy that
# keeps clients from the real registries is left out: the names lead here.
# shellcheck disable=SC2016 # the inner shell expands them
overriding=(
    unshare --mount --propagation private bash -c 'mount --bind "$0" /etc/hosts && exec "$@"' "$work/hosts"
    env NO_PROXY='*' no_proxy='*' SSL_CERT_FILE="$work/state-transparent/ca.crt"
)

overridden() { bounded "${overriding[@]}" "$@"; }

transparent_skopeo() {
    rm -rf "$work/transparent-skopeo"
    overridden skopeo --override-arch amd64 copy docker://docker.io/library/layers-skopeo:1 \
        "dir:$work/transparent-skopeo"
    python3 "$here/check.py" dir "$work/transparent-skopeo" "$work/expected/layers-skopeo.json" --platform linux/amd64
    overridden skopeo inspect docker://private.example/secret/app-skopeo:1
    # A name that is overridden and not configured has no certificate.
    if overridden skopeo inspect "docker://$override_address/library/layers-skopeo:1"; then return 1; fi
}

# A push hears why it is refused.
transparent_push() {
    if overridden skopeo copy "dir:$work/transparent-skopeo" docker://docker.io/library/pushed:1 2>"$work/pushed"; then
        return 1
    fi
    grep -F 'read-only mirror of docker.io here (transparent mode)' "$work/pushed"
}

transparent_podman() {
    overridden podman --root "$work/clear-podman" --runroot "$work/clear-run" --tmpdir "$work/clear-tmp" \
        --storage-driver vfs --events-backend none pull docker.io/library/layers-podman:1
}

transparent_containerd() {
    overridden ctr --address "$work/containerd/containerd.sock" images pull --snapshotter native \
        docker.io/library/layers-containerd:1
}

transparent_dockerd() {
    mkdir -p "$work/clear"
    echo '{}' >"$work/clear/daemon.json"
    start_dockerd clear "$work/clear/daemon.json" "$work/clear" "${overriding[@]}"
    bounded docker -H "unix://$work/clear/docker.sock" pull layers-dockerd:1
    stop clear
}

transparent_cases() {
    if ! write_transparent_config || ! start_mirror transparent "$BINARY" serve --config "$work/transparent.toml"; then
        record roadstead transparent FAIL
        return
    fi
    case_of skopeo transparent transparent_skopeo
    case_of skopeo transparent-push transparent_push
    case_of podman transparent transparent_podman
    case_of containerd transparent transparent_containerd
    case_of dockerd transparent transparent_dockerd
    stop transparent
}
