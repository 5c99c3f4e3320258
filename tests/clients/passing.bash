# shellcheck shell=bash
# A roadstead without a login, whose clients have credentials of their own for the private upstream: a registry of
# Debian's with htpasswd, by the host name `localhost`, which is that upstream's own here.

write_passing_config() {
    write_mirror_config passing
    # Its table is the last one.
    sed -i '/^username = /d; /^password_file = /d' "$work/passing.toml"
    cat >>"$work/passing.toml" <<TOML
visibility = "upstream"
hosts = ["localhost"]
[log]
level = "debug"
TOML
}

# The address of the private upstream at the mirror.
passing_address() { printf 'localhost:%s' "${mirror_address[passing]##*:}"; }

passing_skopeo() {
    local image creds
    image="docker://$(passing_address)/secret/app-skopeo:1"
    for creds in '' "$private_user:wrong"; do
        if bounded skopeo inspect --tls-verify=false ${creds:+--creds "$creds"} "$image"; then return 1; fi
    done
    rm -rf "$work/skopeo"
    bounded skopeo copy --src-tls-verify=false --src-creds "$private_user:$private_password" "$image" "dir:$work/skopeo"
    python3 "$here/check.py" dir "$work/skopeo" "$work/expected/private-skopeo.json" --platform linux/amd64
    # All of it is here now, and nobody else gets it.
    for creds in '' "$private_user:wrong"; do
        if bounded skopeo copy --src-tls-verify=false ${creds:+--src-creds "$creds"} "$image" "dir:$work/skopeo-other"; then
            return 1
        fi
    done
}

passing_podman() {
    local image
    image="$(passing_address)/secret/app-podman:1"
    local -a podman=(bounded podman --root "$work/passing-podman" --runroot "$work/passing-podman-run" --storage-driver vfs)
    if "${podman[@]}" pull --tls-verify=false "$image"; then return 1; fi
    if printf wrong | bounded podman login --tls-verify=false --authfile "$work/passing-auth.json" \
        --username "$private_user" --password-stdin "$(passing_address)"; then
        return 1
    fi
    printf '%s' "$private_password" | bounded podman login --tls-verify=false --authfile "$work/passing-auth.json" \
        --username "$private_user" --password-stdin "$(passing_address)"
    "${podman[@]}" pull --tls-verify=false --authfile "$work/passing-auth.json" "$image"
}

passing_containerd() {
    local image
    image="$(passing_address)/secret/app-containerd:1"
    if ctr_cli images pull --snapshotter native --plain-http "$image"; then return 1; fi
    if ctr_cli images pull --snapshotter native --plain-http --user "$private_user:wrong" "$image"; then return 1; fi
    ctr_cli images pull --snapshotter native --plain-http --user "$private_user:$private_password" "$image"
}

passing_docker() {
    local image
    image="$(passing_address)/secret/app-dockerd:1"
    local -a docker=(bounded env DOCKER_CONFIG="$work/passing-docker" docker -H "unix://$work/dockerd/docker.sock")
    if "${docker[@]}" pull "$image"; then return 1; fi
    printf '%s' "$private_password" | "${docker[@]}" login --username "$private_user" --password-stdin "$(passing_address)"
    "${docker[@]}" pull "$image"
    "${docker[@]}" image rm "$image"
    "${docker[@]}" logout "$(passing_address)"
    if "${docker[@]}" pull "$image"; then return 1; fi
}

# Whoever asks for what is public needs nothing, and no log has a credential.
passing_keeps_quiet() {
    local encoded
    bounded skopeo inspect --tls-verify=false "docker://${mirror_address[passing]}/library/layers-skopeo:1"
    encoded=$(printf '%s' "$private_user:$private_password" | base64)
    grep -q 'secret/app' "$work/logs/passing.log"
    if grep -F -e "$private_password" -e "$encoded" "$work/logs/passing.log"; then return 1; fi
}

passing_cases() {
    write_passing_config
    if ! start_mirror passing "$BINARY" serve --config "$work/passing.toml"; then
        record roadstead passing FAIL
        return
    fi
    case_of skopeo upstream-login passing_skopeo
    case_of podman upstream-login passing_podman
    case_of containerd upstream-login passing_containerd
    case_of dockerd upstream-login passing_docker
    case_of roadstead upstream-login passing_keeps_quiet
    stop passing
}
