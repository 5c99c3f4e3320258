# shellcheck shell=bash
# Every client with every credential: refused before it logs in and with a wrong one, then a whole pull of an image
# that only those that have logged in may pull, and refused again when it has logged out.
#
# Each client has four functions, named for it; those that it shares with clients.bash are there:
#   enter_X USER SECRET  logs in
#   fetch_X              pulls $login_image, by the credentials that are there
#   leave_X              logs out
#   checked_X            hashes what it stored
#   emptied_X            empties its store

readonly credentials=(password token temporary robot jwt)
declare -A login_user=() login_secret=() # credential -> what is typed
declare -A login_who=()                  # credential -> who it is, in roadstead's log
forged_jwt=''                            # as the `jwt`, signed by a key that the issuer does not publish
login_image='' login_expected=''         # at the gate, and what it must be

prepare_logins() {
    login_image="${mirror_address[gate]}/private.example/secret/login:1"
    login_expected="$work/expected/login.json"
    login_user=([password]=alice [token]=whoever [temporary]=alice [robot]=ci [jwt]=job)
    login_who=([password]=alice [token]=alice [temporary]=alice [robot]=robot:ci [jwt]=workload:jobs)
    login_secret[password]=$gate_password
    login_secret[token]=$(gate token create --user alice --ttl 1h) || return 1
    login_secret[robot]=$(gate token create --robot ci --policy read-only) || return 1
    login_secret[temporary]=$(gate token temp --user alice --ttl 1h | sed -nE 's/.* --password=([^ ]+) .*/\1/p')
    login_secret[jwt]=$(workload_token) && forged_jwt=$(workload_token '&key=other') || return 1
    [[ ${login_secret[token]} == rst_* && ${login_secret[robot]} == rst_* && -n ${login_secret[temporary]} ]] || return 1
    mkdir -p "$work/login"
}

workload_token() {
    curl -sSf --max-time 30 --noproxy '*' "$issuer/token?audience=roadstead&sub=repo:acme/app${1:-}"
}

# refused COMMAND…: it fails, and says that credentials are the reason.
refused() {
    if "$@" >"$work/refusal" 2>&1; then return 1; fi
    cat "$work/refusal"
    grep -qiE '\b401\b|unauthorized|authentication required|authorization failed|credential|username' "$work/refusal"
}

enters_and_fetches() { "enter_$1" "$2" "$3" && "fetch_$1"; }

login_refused() {
    "emptied_$1"
    refused "fetch_$1"
    refused enters_and_fetches "$1" alice wrong
    refused enters_and_fetches "$1" "job-of-$1" "$forged_jwt"
    forgiven
}

# Ten failures in a row would have alice wait: a login that is right ends the row.
forgiven() { curl -sSf --max-time 30 -o /dev/null -u "alice:$gate_password" "http://${mirror_address[gate]}/token"; }

login_accepted() {
    local mark
    mark=$(lines "$work/logs/gate.log")
    "emptied_$1"
    "enter_$1" "${login_user[$2]}" "${login_secret[$2]}"
    "fetch_$1"
    "checked_$1"
    wait_for "four blobs in the log" pulled_as "${login_who[$2]}" "$mark"
    "leave_$1"
    refused "fetch_$1"
}

# pulled_as WHO LINE: since that line of the log, the configuration and the three layers went to nobody else.
pulled_as() {
    local blobs
    blobs=$(tail -n "+$(($2 + 1))" "$work/logs/gate.log" | grep 'path="/v2/private.example/secret/login/blobs/')
    (($(grep -cF "user=\"$1\"" <<<"$blobs") == 4 && $(wc -l <<<"$blobs") == 4))
}

login_cases() {
    local credential
    case_of "$1" refused login_refused "$1"
    for credential in "${credentials[@]}"; do
        case_of "$1" "$credential" login_accepted "$1" "$credential"
    done
}

# ---- dockerd

# docker_gate ARGUMENTS…: docker with a configuration of its own.
docker_gate() {
    bounded env DOCKER_CONFIG="$work/gate-docker" docker -H "unix://$work/dockerd/docker.sock" "$@"
}
new_gate_docker() {
    rm -rf "$work/gate-docker"
    mkdir -p "$work/gate-docker"
}
enter_dockerd() { printf '%s' "$2" | docker_gate login --username "$1" --password-stdin "${mirror_address[gate]}"; }
fetch_dockerd() { docker_gate pull "$login_image"; }
leave_dockerd() { docker_gate logout "${mirror_address[gate]}"; }
emptied_dockerd() { wipe_dockerd; }
checked_dockerd() {
    local docker_address=${mirror_address[gate]}
    whole_dockerd private.example secret/login:1 linux/amd64 "$login_expected"
}

# ---- containerd: each pull has its credentials

containerd_credentials=()
enter_containerd() { containerd_credentials=(--user "$1:$2"); }
fetch_containerd() { ctr_cli images pull --snapshotter native --plain-http "${containerd_credentials[@]}" "$login_image"; }
leave_containerd() { containerd_credentials=(); }
emptied_containerd() { wipe_containerd; }
checked_containerd() { whole_containerd private.example secret/login:1 linux/amd64 "$login_expected"; }

# ---- podman

enter_podman() {
    printf '%s' "$2" | podman_cli login --tls-verify=false --authfile "$work/login/podman.json" \
        --username "$1" --password-stdin "${mirror_address[gate]}"
}
fetch_podman() {
    # A file that is named must be there.
    [[ -e $work/login/podman.json ]] || echo '{}' >"$work/login/podman.json"
    podman_cli pull --tls-verify=false --authfile "$work/login/podman.json" "$login_image"
}
leave_podman() { podman_cli logout --authfile "$work/login/podman.json" "${mirror_address[gate]}"; }
emptied_podman() { wipe_podman; }
checked_podman() {
    whole_podman "${mirror_address[gate]}/private.example" secret/login:1 linux/amd64 "$login_expected"
}

# ---- skopeo

enter_skopeo() {
    printf '%s' "$2" | bounded skopeo login --tls-verify=false --authfile "$work/login/skopeo.json" \
        --username "$1" --password-stdin "${mirror_address[gate]}"
}
fetch_skopeo() {
    [[ -e $work/login/skopeo.json ]] || echo '{}' >"$work/login/skopeo.json"
    bounded skopeo copy --src-tls-verify=false --authfile "$work/login/skopeo.json" "docker://$login_image" "dir:$work/skopeo"
}
leave_skopeo() { bounded skopeo logout --authfile "$work/login/skopeo.json" "${mirror_address[gate]}"; }
emptied_skopeo() { wipe_skopeo; }
checked_skopeo() { whole_skopeo private.example secret/login:1 linux/amd64 "$login_expected"; }

# ---- crane, oras and regctl: each into a layout of its own

layout_of() { echo "$work/login/$1-layout"; }
empty_layout() { rm -rf "$(layout_of "$1")"; }
check_layout() { python3 "$here/check.py" store "$(layout_of "$1")/blobs/sha256" "$login_expected"; }

crane_cli() { bounded env DOCKER_CONFIG="$work/login/crane" crane "$@"; }
# It keeps what it is told, and asks nobody about it.
enter_crane() { printf '%s' "$2" | crane_cli auth login "${mirror_address[gate]}" --username "$1" --password-stdin; }
fetch_crane() { crane_cli pull --insecure --format oci "$login_image" "$(layout_of crane)"; }
leave_crane() { crane_cli auth logout "${mirror_address[gate]}"; }
emptied_crane() { empty_layout crane; }
checked_crane() { check_layout crane; }

enter_oras() {
    printf '%s' "$2" | bounded oras login --plain-http --registry-config "$work/login/oras.json" \
        --username "$1" --password-stdin "${mirror_address[gate]}"
}
fetch_oras() {
    bounded oras copy --from-plain-http --from-registry-config "$work/login/oras.json" \
        --to-oci-layout "$login_image" "$(layout_of oras):1"
}
leave_oras() { bounded oras logout --registry-config "$work/login/oras.json" "${mirror_address[gate]}"; }
emptied_oras() { empty_layout oras; }
checked_oras() { check_layout oras; }

regctl_cli() { bounded env REGCTL_CONFIG="$work/login/regctl.json" regctl "$@"; }
enter_regctl() {
    regctl_cli registry set --skip-check --tls disabled "${mirror_address[gate]}"
    printf '%s' "$2" | regctl_cli registry login --user "$1" --pass-stdin "${mirror_address[gate]}"
}
fetch_regctl() {
    regctl_cli --host "reg=${mirror_address[gate]},tls=disabled" image copy "$login_image" "ocidir://$(layout_of regctl):1"
}
leave_regctl() { regctl_cli registry logout "${mirror_address[gate]}"; }
emptied_regctl() { empty_layout regctl; }
checked_regctl() { check_layout regctl; }

# ---- BuildKit: builds from the image, with the credentials of a `docker login`

buildctl_cli() {
    bounded env DOCKER_CONFIG="$work/gate-docker" buildctl --addr "unix://$work/buildkit/buildkitd.sock" "$@"
}

# Its configuration is that of the page about it, and the gate, which is named by its own address.
prepare_buildkit() {
    local page="$root/docs/clients/buildkit.md"
    mkdir -p "$work/buildkit"
    cat >"$work/buildkit/buildkitd.toml" <<TOML
root = "$work/buildkit/root"
[grpc]
address = ["unix://$work/buildkit/buildkitd.sock"]
[worker.containerd]
enabled = false
[worker.oci]
snapshotter = "native"
networkMode = "host"
binary = "runc"
[registry."${mirror_address[gate]}"]
http = true
$(sed -n -e "s#roadstead\.internal:5000#${mirror_address[roadstead]}#g" -e '/over plain HTTP:$/I,/^Over HTTPS/s/^    //p' "$page")
TOML
    grep -qF "mirrors = [\"${mirror_address[roadstead]}/docker.io\"]" "$work/buildkit/buildkitd.toml" || return 1
    spawn buildkit env "${client_environment[@]}" buildkitd --config "$work/buildkit/buildkitd.toml"
    started buildkit buildctl --addr "unix://$work/buildkit/buildkitd.sock" debug workers
}

# buildkit_build IMAGE: its files, in $work/buildkit/out.
buildkit_build() {
    mkdir -p "$work/buildkit/context"
    printf 'FROM %s\n' "$1" >"$work/buildkit/context/Dockerfile"
    buildctl_cli build --progress plain --no-cache --frontend dockerfile.v0 --local context="$work/buildkit/context" \
        --local dockerfile="$work/buildkit/context" --output "type=local,dest=$work/buildkit/out"
}

# buildkitd keeps the token that it got for a directory of credentials (by a seed in it), whatever they are later.
enter_buildkit() {
    new_gate_docker
    enter_dockerd "$@"
}
fetch_buildkit() { buildkit_build "$login_image"; }
leave_buildkit() { leave_dockerd; }
emptied_buildkit() {
    buildctl_cli prune --all
    rm -rf "$work/buildkit/out"
}
checked_buildkit() { python3 "$here/check.py" rootfs "$work/buildkit/out" "$login_expected"; }

# `docker login` keeps no wrong password: BuildKit itself is to be refused.
buildkit_wrong() {
    emptied_buildkit
    new_gate_docker
    printf '{"auths": {"%s": {"auth": "%s"}}}' "${mirror_address[gate]}" "$(printf alice:wrong | base64)" \
        >"$work/gate-docker/config.json"
    refused fetch_buildkit
    new_gate_docker
    forgiven
}

# An image of Docker Hub comes through its mirror, and by nothing else.
buildkit_mirror() {
    emptied_buildkit
    buildkit_build layers-skopeo:1
    python3 "$here/check.py" rootfs "$work/buildkit/out" "$work/expected/layers-skopeo.json"
}

# ---- the clients that are built here

# build_client NAME VERSION PACKAGE…: its programs of one Go module, first in PATH. They stay in $go_tools for the next run.
build_client() {
    local name=$1 version=$2 folder="$go_tools/$1-$2" package
    shift 2
    for package in "$@"; do
        [[ -x $folder/${package##*/} ]] && continue
        say "building $name $version"
        (build_programs "$@") >"$work/logs/go-$name.log" 2>&1 </dev/null || return 1
        break
    done
    PATH="$folder:$PATH"
}

# In a module of its own: `go install` refuses modules that exclude versions, as BuildKit does.
build_programs() {
    local module="$work/go/$name"
    local -a go_command=(env CGO_ENABLED=0 GOFLAGS=-mod=mod timeout --kill-after=10 "$build_seconds_max" "$go")
    mkdir -p "$module" "$folder" &&
        cd "$module" &&
        "${go_command[@]}" mod init test &&
        "${go_command[@]}" get "${@/%/@$version}" &&
        "${go_command[@]}" build -trimpath -ldflags=-s -o "$folder/" "$@"
}

build_go_client() {
    case $1 in
        crane) build_client crane v0.22.1 github.com/google/go-containerregistry/cmd/crane ;;
        oras) build_client oras v1.3.6 oras.land/oras/cmd/oras ;;
        regctl) build_client regctl v0.11.7 github.com/regclient/regclient/cmd/regctl ;;
        buildkit) build_client buildkit v0.34.2 github.com/moby/buildkit/cmd/buildkitd github.com/moby/buildkit/cmd/buildctl ;;
    esac
}

readonly go_clients=(crane oras regctl buildkit)
go_ready=() # those that were built

# Before anything else: credentials would end while it lasts.
build_go_clients() {
    local client
    for client in "${go_clients[@]}"; do
        if ! $with_go_clients; then
            not_applicable "$client" logins "built from its sources, with --go-clients alone"
        elif [[ -z $go ]]; then
            not_applicable "$client" logins "there is no go, which it is built with"
        elif build_go_client "$client"; then
            go_ready+=("$client")
        else
            record "$client" built FAIL
            tail -n 20 "$work/logs/go-$client.log"
        fi
    done
}

go_cases() {
    local client
    for client in "${go_ready[@]}"; do
        if [[ $client == buildkit ]] && ! prepare_buildkit; then
            record buildkit starts FAIL
        else
            login_cases "$client"
        fi
    done
    if running buildkit; then
        case_of buildkit wrong buildkit_wrong
        case_of buildkit mirror buildkit_mirror
        stop buildkit
    fi
}

# ---- what docker does after its login

# It keeps a refresh token in the place of the password, and gets a token with that for each of three pulls.
docker_refresh() {
    local port spied="$work/refresh-spied" number mark kept
    port=$(free_port)
    trap 'stop refresh' EXIT
    spawn refresh python3 "$here/spy.py" "$port" "${mirror_address[gate]}" "$spied"
    started refresh curl -sS --max-time 5 "http://127.0.0.1:$port/v2/"
    new_gate_docker
    printf '%s' "$gate_password" | docker_gate login --username alice --password-stdin "127.0.0.1:$port"
    kept=$(jq -c --arg at "127.0.0.1:$port" '.auths[$at]' "$work/gate-docker/config.json")
    jq -e '.identitytoken | length > 0' <<<"$kept"
    # A name, and no password.
    [[ $(jq -r '.auth | @base64d' <<<"$kept") == alice: ]]
    : >"$spied"
    mark=$(lines "$work/logs/gate.log")
    for number in 1 2 3; do
        emptied_dockerd
        docker_gate pull "127.0.0.1:$port/private.example/secret/login:1"
        say "pull $number after one login"
    done
    (($(grep -a -c 'grant_type=refresh_token' "$spied") == 3))
    (($(tail -n "+$((mark + 1))" "$work/logs/gate.log" | grep -c 'method=POST path="/token" status=200 .*user_agent="docker/') == 3))
    # The password is not sent again.
    if grep -a -i -e '^authorization: basic' -e "$gate_password" "$spied"; then return 1; fi
}

# Refresh tokens are for credentials that have no end of their own; docker keeps the others as they were typed.
docker_keeps() {
    local credential refreshes
    for credential in "${credentials[@]}"; do
        new_gate_docker
        enter_dockerd "${login_user[$credential]}" "${login_secret[$credential]}"
        refreshes=$(jq '[.auths[] | has("identitytoken")] | any' "$work/gate-docker/config.json")
        case $credential in
            password | robot) [[ $refreshes == true ]] ;;
            *) [[ $refreshes == false ]] ;;
        esac
    done
}
