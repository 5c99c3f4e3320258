# shellcheck shell=bash
# The two upstream registries, and roadstead itself.

# The private upstream's credentials: roadstead knows them, no client does.
readonly private_user=robot
readonly private_password=f0r-roadstead-only

declare -A upstream_port=() # upstream -> port of its registry
declare -A upstream_log=()  # upstream -> file with its access log
declare -A mirror_address=() # name of a roadstead process -> ADDR:PORT
declare -A admin_address=()

# registry_config NAME PORT [AUTH LINES] : distribution 2.8, in memory but for its blobs.
write_registry_config() {
    local name=$1 port=$2
    cat >"$work/$name.yml" <<YAML
version: 0.1
log:
  accesslog:
    disabled: false
  level: warn
storage:
  filesystem:
    rootdirectory: $work/registry-$name
http:
  addr: 127.0.0.1:$port
YAML
    if [[ $name == private ]]; then
        # bcrypt is the only hash that distribution takes.
        htpasswd -Bbn "$private_user" "$private_password" >"$work/htpasswd"
        cat >>"$work/$name.yml" <<YAML
auth:
  htpasswd:
    realm: test
    path: $work/htpasswd
YAML
    fi
}

prepare_upstreams() {
    upstream_port=([docker.io]=$(free_port) [private.example]=$(free_port))
    upstream_log=([docker.io]="$work/logs/anonymous.log" [private.example]="$work/logs/private.log")
    write_registry_config anonymous "${upstream_port[docker.io]}"
    write_registry_config private "${upstream_port[private.example]}"
    (umask 077 && printf '%s\n' "$private_password" >"$work/password")
}

start_upstreams() {
    spawn anonymous docker-registry serve "$work/anonymous.yml"
    spawn private docker-registry serve "$work/private.yml"
    started anonymous curl -sSf --max-time 5 "http://127.0.0.1:${upstream_port[docker.io]}/v2/"
    started private curl -sSf --max-time 5 -u "$private_user:$private_password" \
        "http://127.0.0.1:${upstream_port[private.example]}/v2/"
}

stop_upstreams() {
    stop anonymous
    stop private
}

# write_mirror_config NAME [TLS CERT, TLS KEY]: every listener on a port that the kernel picks.
write_mirror_config() {
    local name=$1 file="$work/$1.toml"
    cat >"$file" <<TOML
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
TOML
    if (($# == 3)); then
        cat >>"$file" <<TOML
[server.tls]
cert = "$2"
key = "$3"
TOML
    fi
    # Tags are fresh for one second only, so that later pulls revalidate, and pulls without upstream serve stale.
    # One connection a blob, so that requests upstream can be counted.
    cat >>"$file" <<TOML
[state]
dir = "$work/state-$name"
[cache]
dir = "$work/cache-$name"
max_size = "4GB"
[tags]
ttl = "1s"
stale_if_error = "1d"
[upstream."docker.io"]
endpoints = ["http://127.0.0.1:${upstream_port[docker.io]}"]
default = true
parallel = 1
[upstream."private.example"]
endpoints = ["http://127.0.0.1:${upstream_port[private.example]}"]
username = "$private_user"
password_file = "$work/password"
parallel = 1
TOML
}

# The ready line says where it listens: `listening on http://ADDR (admin http://ADDR)`.
readonly ready_line='^listening on https?://([^ ]+) \(admin https?://([^ )]+)\)$'

# start_mirror NAME COMMAND…: starts a roadstead and learns its addresses.
start_mirror() {
    local name=$1
    shift
    : >"$work/logs/$name.log"
    spawn "$name" "$@"
    started "$name" grep -qE "$ready_line" "$work/logs/$name.log" || return 1
    mirror_address[$name]=$(sed -nE "s#$ready_line#\\1#p" "$work/logs/$name.log" | head -n 1)
    admin_address[$name]=$(sed -nE "s#$ready_line#\\2#p" "$work/logs/$name.log" | head -n 1)
    say "$name listens on ${mirror_address[$name]}, admin ${admin_address[$name]}"
}

expectation() { jq -er "$2" "$work/expected/$1.json"; }
