# shellcheck shell=bash
# A third roadstead, which asks who its clients are, and lets some of them pull what is private. What each client does
# there is in logins.bash.

readonly gate_password=correct-horse
issuer='' # the URL of the workloads' identity provider

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
[[access.oidc]]
name = "jobs"
issuer = "$issuer"
audience = ["roadstead"]
claims = { sub = "repo:acme/*" }
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
[[access.attach]]
robot = "jobs"
policies = ["read-only"]
TOML
}

gate() { bounded "$BINARY" "$@" --admin "http://${admin_address[gate]}"; }

start_issuer() {
    spawn issuer python3 "$here/issuer.py" "$work/issuer"
    started issuer grep -q '^issuer ' "$work/logs/issuer.log" || return 1
    issuer=$(sed -n 's/^issuer //p' "$work/logs/issuer.log")
}

# Somebody who may pull everything.
gate_people() { printf '%s' "$gate_password" | gate user add alice --group dev --password-stdin; }

# The line that roadstead prints for a temporary password is typed as it stands.
docker_typed() {
    local line
    line=$(gate token temp --user alice --ttl 5m --host "${mirror_address[gate]}")
    rm -rf "$work/gate-docker"
    # shellcheck disable=SC2086 # its words
    docker_gate ${line#docker }
    fetch_dockerd
}

# Users without the right to it hear which statement decides.
denied_is_told() {
    if bounded skopeo inspect --tls-verify=false --creds "bob:$gate_password" \
        "docker://${mirror_address[gate]}/private.example/secret/app-skopeo:1" 2>"$work/denied"; then
        return 1
    fi
    grep -F 'user bob may not pull mirror/private.example/secret/app-skopeo' "$work/denied"
}

# Without credentials: what everybody may.
skopeo_anonymous() {
    bounded skopeo inspect --tls-verify=false "docker://${mirror_address[gate]}/library/layers-skopeo:1"
    denied_is_told
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
    start_dockerd hub "$work/hub/daemon.json" "$work/hub"
    bounded env DOCKER_CONFIG="$work/gate-hub" docker -H "unix://$work/hub/docker.sock" \
        pull docker.io/library/layers-dockerd:1
    grep -a -F 'GET /v2/library/layers-dockerd/' "$spied"
    if grep -a -i '^authorization:' "$spied"; then return 1; fi
    stop hub
    stop spy
}

access_cases() {
    local open client
    open=$(free_port)
    start_issuer || true
    write_gate_config "$open"
    if ! start_mirror gate "$BINARY" serve --config "$work/gate.toml" || ! gate_people || ! prepare_logins; then
        record roadstead gate FAIL
        return
    fi
    for client in dockerd containerd podman skopeo; do login_cases "$client"; done
    go_cases
    case_of dockerd refresh docker_refresh
    case_of dockerd keeps docker_keeps
    case_of dockerd typed docker_typed
    case_of dockerd hub-login hub_login_stays_home "$open"
    case_of skopeo anonymous skopeo_anonymous
    stop gate
    stop issuer
}
