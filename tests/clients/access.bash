# shellcheck shell=bash
# Logins: a third roadstead that asks who its clients are, and lets some of them pull what is private.

readonly gate_password=correct-horse
gate_token='' gate_robot=''

# write_gate_config: one listener that asks, and one for dockerd's registry-mirrors that asks nobody.
write_gate_config() {
    local open=$1
    write_mirror_config gate
    htpasswd -Bbn bob "$gate_password" >"$work/gate.htpasswd"
    sed -i '/^listen = /d' "$work/gate.toml"
    cat >>"$work/gate.toml" <<TOML
[[server.listener]]
address = "127.0.0.1:0"
access = "rules"
[[server.listener]]
address = "127.0.0.1:$open"
access = "open"
[access]
htpasswd = "$work/gate.htpasswd"
[[access.policy]]
name = "hub"
[[access.policy.statement]]
effect = "allow"
actions = ["pull"]
resources = ["mirror/docker.io/*"]
[[access.attach]]
anonymous = true
policies = ["hub"]
[[access.attach]]
group = "dev"
policies = ["read-only"]
TOML
}

gate() { bounded "$BINARY" "$@" --admin "http://${admin_address[gate]}"; }

# Somebody who may pull everything, her token, and a robot.
gate_people() {
    printf '%s' "$gate_password" | gate user add alice --group dev --password-stdin
    gate_token=$(gate token create --user alice --ttl 1h)
    gate_robot=$(gate token create --robot ci --policy read-only)
    [[ $gate_token == rst_* && $gate_robot == rst_* ]]
}

# docker_gate ARGUMENTS…: docker with a configuration of its own.
docker_gate() {
    bounded env DOCKER_CONFIG="$work/gate-docker" docker -H "unix://$work/dockerd/docker.sock" "$@"
}

# docker_pulls PASSWORD USER: one login, three pulls, of an image that only alice and the robot may pull.
docker_pulls() {
    local image="${mirror_address[gate]}/private.example/secret/app-dockerd:1" number
    rm -rf "$work/gate-docker"
    if docker_gate pull "$image"; then return 1; fi
    printf '%s' "$1" | docker_gate login --username "$2" --password-stdin "${mirror_address[gate]}"
    for number in 1 2 3; do
        docker_gate pull "$image"
        docker_gate image rm "$image"
        say "pull $number after one login"
    done
    docker_gate logout "${mirror_address[gate]}"
    if docker_gate pull "$image"; then return 1; fi
}

docker_password() { docker_pulls "$gate_password" alice; }
docker_token() { docker_pulls "$gate_token" whoever; }
docker_robot() { docker_pulls "$gate_robot" ci; }

# The line that roadstead prints for a temporary password is typed as it stands.
docker_temporary() {
    local line
    line=$(gate token temp --user alice --ttl 5m --host "${mirror_address[gate]}")
    rm -rf "$work/gate-docker"
    # shellcheck disable=SC2086 # its words
    docker_gate ${line#docker }
    docker_gate pull "${mirror_address[gate]}/private.example/secret/app-dockerd:1"
    # A wrong password is told as one.
    if printf wrong | docker_gate login --username alice --password-stdin "${mirror_address[gate]}" 2>"$work/wrong"; then
        return 1
    fi
    grep -i -E 'unauthorized|incorrect' "$work/wrong"
}

# Users without the right to it hear which statement decides.
denied_is_told() {
    if bounded skopeo inspect --tls-verify=false --creds "bob:$gate_password" \
        "docker://${mirror_address[gate]}/private.example/secret/app-skopeo:1" 2>"$work/denied"; then
        return 1
    fi
    grep -F 'user bob may not pull mirror/private.example/secret/app-skopeo' "$work/denied"
}

skopeo_login() {
    local image="docker://${mirror_address[gate]}/private.example/secret/app-skopeo:1" creds
    if bounded skopeo inspect --tls-verify=false "$image"; then return 1; fi
    for creds in "alice:$gate_password" "x:$gate_token" "ci:$gate_robot"; do
        bounded skopeo inspect --tls-verify=false --creds "$creds" "$image"
    done
    # Without credentials: what everybody may.
    bounded skopeo inspect --tls-verify=false "docker://${mirror_address[gate]}/library/layers-skopeo:1"
    denied_is_told
}

podman_login() {
    local image="${mirror_address[gate]}/private.example/secret/app-podman:1"
    printf '%s' "$gate_password" | bounded podman login --tls-verify=false --authfile "$work/gate-auth.json" \
        --username alice --password-stdin "${mirror_address[gate]}"
    bounded podman --root "$work/gate-podman" --runroot "$work/gate-podman-run" --storage-driver vfs \
        pull --tls-verify=false --authfile "$work/gate-auth.json" "$image"
}

containerd_login() {
    local image="${mirror_address[gate]}/private.example/secret/app-containerd:1"
    if ctr_cli images pull --snapshotter native --plain-http "$image"; then return 1; fi
    ctr_cli images pull --snapshotter native --plain-http --user "alice:$gate_password" "$image"
    ctr_cli images rm --sync "$image"
    ctr_cli images pull --snapshotter native --plain-http --user "x:$gate_token" "$image"
}

# A dockerd that is logged in to Docker Hub pulls through the listener that asks nobody, which hears no credential.
hub_login_stays_home() {
    local open=$1 spied="$work/spied" port hub
    port=$(free_port)
    spawn spy python3 "$here/spy.py" "$port" "127.0.0.1:$open" "$spied"
    started spy curl -sS --max-time 5 "http://127.0.0.1:$port/v2/"
    mkdir -p "$work/hub" "$work/gate-hub"
    hub=$(printf 'hub-user:hub-password' | base64)
    printf '{"auths": {"https://index.docker.io/v1/": {"auth": "%s"}}}' "$hub" >"$work/gate-hub/config.json"
    printf '{"registry-mirrors": ["http://127.0.0.1:%s"]}' "$port" >"$work/hub/daemon.json"
    spawn hub env "${client_environment[@]}" dockerd --config-file="$work/hub/daemon.json" \
        --storage-driver=vfs --iptables=false --bridge=none --data-root="$work/hub/data" \
        --exec-root="$work/hub/exec" --pidfile="$work/hub/pid" -H "unix://$work/hub/docker.sock"
    started hub docker -H "unix://$work/hub/docker.sock" info
    bounded env DOCKER_CONFIG="$work/gate-hub" docker -H "unix://$work/hub/docker.sock" \
        pull docker.io/library/layers-dockerd:1
    grep -a -F 'GET /v2/library/layers-dockerd/' "$spied"
    if grep -a -i '^authorization:' "$spied"; then return 1; fi
    stop hub
    stop spy
}

access_cases() {
    local open
    open=$(free_port)
    write_gate_config "$open"
    if ! start_mirror gate "$BINARY" serve --config "$work/gate.toml"; then
        record roadstead gate FAIL
        return
    fi
    case_of roadstead people gate_people
    # What a case sets is gone with it.
    gate_token=$(gate token create --user alice --ttl 1h)
    gate_robot=$(gate token create --robot ci2 --policy read-only)
    case_of dockerd login docker_password
    case_of dockerd token docker_token
    case_of dockerd robot docker_robot
    case_of dockerd temporary docker_temporary
    case_of dockerd hub-login hub_login_stays_home "$open"
    case_of skopeo login skopeo_login
    case_of podman login podman_login
    case_of containerd login containerd_login
    stop gate
}
