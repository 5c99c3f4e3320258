# shellcheck shell=bash
# From `docker-registry` in proxy mode to roadstead, as docs/migrate/registry-proxy.md says: what the old mirror has is
# prefetched from it, and the registry behind it gives no layer a second time.

# An old mirror of docker.io, and a roadstead that asks it first.
write_migrate_configs() {
    cat >"$work/old-mirror.yml" <<YAML
version: 0.1
log:
  level: warn
storage:
  filesystem:
    rootdirectory: $work/old-mirror
http:
  addr: 127.0.0.1:$1
proxy:
  remoteurl: http://127.0.0.1:${upstream_port[docker.io]}
YAML
    cat >"$work/migrate.toml" <<TOML
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
[state]
dir = "$work/state-migrate"
[cache]
dir = "$work/cache-migrate"
[upstream."docker.io"]
endpoints = [
  { url = "http://127.0.0.1:$1", credentials = [] },
  "http://127.0.0.1:${upstream_port[docker.io]}",
]
default = true
TOML
}

# layers_fetched: how many GETs of blobs the registry behind has answered.
layers_fetched() { grep -cE '"GET /v2/[^ ]*/blobs/' "${upstream_log[docker.io]}" || true; }

migrated() {
    local before after from=layers-skopeo
    bounded skopeo copy --src-tls-verify=false "docker://127.0.0.1:$1/library/$from:1" "dir:$work/migrated-before"
    before=$(layers_fetched)
    bounded "$BINARY" warm --platform linux/amd64 --server "http://${mirror_address[migrate]}" "docker.io/library/$from:1"
    after=$(layers_fetched)
    # The old mirror is gone, and roadstead has all of it.
    stop old-mirror
    rm -rf "$work/skopeo"
    bounded skopeo copy --src-tls-verify=false "docker://${mirror_address[migrate]}/library/$from:1" "dir:$work/skopeo"
    diff -r "$work/migrated-before" "$work/skopeo"
    # Of this platform nothing came from behind the old mirror.
    ((after == before))
}

migrate_cases() {
    local port
    port=$(free_port)
    write_migrate_configs "$port"
    spawn old-mirror docker-registry serve "$work/old-mirror.yml"
    if started old-mirror curl -sSf --max-time 5 "http://127.0.0.1:$port/v2/" &&
        start_mirror migrate "$BINARY" serve --config "$work/migrate.toml"; then
        case_of skopeo migrate migrated "$port"
        stop migrate
    else
        record skopeo migrate FAIL
    fi
    stop old-mirror
}
