# shellcheck shell=bash
# What deploy/ holds, used: the samples for the clients are in clients.bash, the rest is here.

deploy_cases() {
    case_of systemd unit deploy_unit
    case_of systemd syscalls deploy_syscalls
    case_of systemd confined deploy_confined
    case_of compose valid deploy_compose
    if prepare_prometheus; then
        case_of prometheus scrape deploy_prometheus
        stop prometheus
    else
        record prometheus scrape FAIL
    fi
    image_cases
}

# systemd's own reading of the unit, and its score of what the service could do; 20 is 2.0 of 10, "OK".
deploy_unit() {
    local unit="$work/roadstead.service"
    sed "s#^ExecStart=/usr/local/bin/roadstead #ExecStart=$BINARY #" "$root/deploy/systemd/roadstead.service" >"$unit"
    grep -F "ExecStart=$BINARY serve" "$unit"
    # A warning (an unknown key, a missing file) is printed with exit code 0.
    bounded systemd-analyze verify --man=no "$unit" 2>&1 | tee "$work/verify"
    [[ $(grep -cF roadstead.service "$work/verify") == 0 ]]
    bounded systemd-analyze security --no-pager --offline=true --threshold=20 "$unit"
}

# Where systemd does not run, as in a container, the service cannot be started; but its filter of system calls can be
# held against what roadstead calls, from its start over a pull to its end.
deploy_syscalls() {
    write_mirror_config traced
    trap 'stop traced' EXIT
    # -D: roadstead is our child, and strace its companion, so that SIGTERM reaches roadstead.
    start_mirror traced strace -D -f -qq -o "$work/trace" "$BINARY" serve --config "$work/traced.toml"
    pull_through "${mirror_address[traced]}"
    pull_through "${mirror_address[traced]}"
    stop traced
    [[ $stop_status == 0 ]]
    python3 "$here/check.py" syscalls "$work/trace" "$root/deploy/systemd/roadstead.service"
}

# The other way about: what the unit forbids is refused to it, and it serves all the same. By Debian's own Python, for
# which Debian's package is.
deploy_confined() {
    write_mirror_config confined
    trap 'stop confined' EXIT
    start_mirror confined /usr/bin/python3 "$here/confine.py" "$root/deploy/systemd/roadstead.service" \
        "$BINARY" serve --config "$work/confined.toml"
    # It is under a filter (proc(5), `Seccomp`).
    grep -E '^Seccomp:[[:space:]]+2$' "/proc/${pids[confined]}/status"
    pull_through "${mirror_address[confined]}"
    pull_through "${mirror_address[confined]}"
    # A change of the catalogue is durable, and nothing is degraded.
    bounded "$BINARY" pin docker.io/library/layers-podman:1 --admin "${admin_address[confined]}"
    [[ $(curl -sSf --max-time 10 "http://${admin_address[confined]}/readyz") == ok ]]
    stop confined
    [[ $stop_status == 0 ]]
}

deploy_compose() {
    python3 - "$root/deploy/compose/compose.yaml" <<'PYTHON'
import sys
import yaml

services = yaml.safe_load(open(sys.argv[1]))["services"]
assert set(services) == {"roadstead", "prometheus"}, services
# The admin listener is for Prometheus alone: it must not be published.
assert services["roadstead"]["ports"] == ["5000:5000"], services["roadstead"]["ports"]
assert services["roadstead"]["image"] == "roadstead:latest"
PYTHON
    # Compose itself, where some form of it is installed, knows more than a YAML parser.
    if docker compose version; then
        bounded docker compose -f "$root/deploy/compose/compose.yaml" config
    elif command -v docker-compose; then
        bounded docker-compose -f "$root/deploy/compose/compose.yaml" config
    fi
}

prepare_prometheus() {
    prometheus_port=$(free_port)
    # Scraped each second, so that the test need not wait for the sample's fifteen.
    sed -e "s#roadstead:5001#${admin_address[roadstead]}#" -e 's/scrape_interval: 15s/scrape_interval: 1s/' -e "s#\.\./prometheus/#$root/deploy/prometheus/#" \
        "$root/deploy/compose/prometheus.yml" >"$work/prometheus.yml"
    spawn prometheus prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/prometheus" \
        --web.listen-address="127.0.0.1:$prometheus_port"
    started prometheus curl -sSf --max-time 5 "http://127.0.0.1:$prometheus_port/-/ready"
}

# prometheus_value QUERY EXPRESSION: the query's result, as Prometheus's HTTP API gives it, satisfies the expression.
prometheus_value() {
    curl -sSf --max-time 5 --data-urlencode "query=$1" "http://127.0.0.1:$prometheus_port/api/v1/query" |
        jq -e ".data.result | $2"
}

deploy_prometheus() {
    promtool check config "$root/deploy/compose/prometheus.yml"
    grep -F "${admin_address[roadstead]}" "$work/prometheus.yml"
    wait_for "a scrape" prometheus_value 'up{job="roadstead"}' 'length == 1 and .[0].value[1] == "1"'
    prometheus_value 'up{job="roadstead"}' '.[0].value[1] == "1"'
    prometheus_value 'sum(roadstead_requests_total{kind="blob"})' '(.[0].value[1] | tonumber) > 0'
}

# ---- the container image

image_cases() {
    if ! $with_image; then
        not_applicable image build "left out by --no-image"
        return
    fi
    if ! running dockerd; then
        record image build FAIL
        return
    fi
    case_of image build image_build
    [[ ${results["image build"]} == ok ]] || return 0
    case_of image extract image_extract
    case_of image chroot image_chroot
    case_of image container image_container
}

image_build() {
    local -a binary=()
    [[ -z ${STATIC_BINARY:-} ]] || binary=(--binary "$STATIC_BINARY")
    # Not a client's time limit and environment: this may be a whole release build, with the caller's cargo.
    env PATH="$(dirname "${cargo:-/usr/bin/cargo}"):$PATH" DOCKER_CONFIG="$work/home/.docker" \
        DOCKER_HOST="unix://$work/dockerd/docker.sock" timeout --kill-after=10 "$build_seconds_max" "$root/deploy/image/build" --tag roadstead:test "${binary[@]}"
    docker_cli image inspect roadstead:test >"$work/image.json"
    # One user without a name, volumes for state and cache, one program.
    jq -e '.[0].Config | .User == "65532:65532" and .Entrypoint == ["/roadstead"]
        and (.Volumes | has("/var/lib/roadstead") and has("/var/cache/roadstead")) and (.ExposedPorts | has("5000/tcp"))' "$work/image.json"
}

# The image's files, as a directory; `docker export` needs no running container.
image_extract() {
    local container
    container=$(docker_cli create roadstead:test)
    mkdir -p "$work/image"
    docker_cli export "$container" | tar -x -C "$work/image" --numeric-owner
    docker_cli rm "$container"
    [[ -x $work/image/roadstead && -s $work/image/etc/ssl/certs/ca-certificates.crt ]]
    # State and cache belong to the image's user: fresh volumes take that over.
    [[ $(stat -c %u:%g "$work/image/var/lib/roadstead") == 65532:65532 ]]
    [[ $(stat -c %u:%g "$work/image/var/cache/roadstead") == 65532:65532 ]]
}

# pull_through ADDRESS: pulls a whole image that this roadstead has never seen.
pull_through() {
    wipe_skopeo
    bounded skopeo copy --src-tls-verify=false "docker://$1/docker.io/library/layers-podman:1" "dir:$work/skopeo"
    whole_skopeo docker.io layers-podman linux/amd64 "$work/expected/layers-podman.json"
}

# An upstream by a name that only /etc/hosts knows, so that the static resolver is tried too.
readonly image_upstream=upstream.test

# In a root directory with nothing but the image's files, as the image's user.
image_chroot() {
    printf '127.0.0.1 %s\n' "$image_upstream" >"$work/image/etc/hosts"
    trap 'stop chroot' EXIT
    start_mirror chroot chroot --userspec=65532:65532 "$work/image" /roadstead serve \
        --config /etc/roadstead/config.toml --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 \
        --upstream "docker.io=http://$image_upstream:${upstream_port[docker.io]}" --default-upstream docker.io
    pull_through "${mirror_address[chroot]}"
}

# As a container of the dockerd that is being tested, on the host's network (this dockerd has no bridge).
image_container() {
    local output rc=0
    output=$(docker_cli run --rm --network host --read-only --cap-drop ALL --security-opt no-new-privileges \
        roadstead:test check --config /etc/roadstead/config.toml 2>&1) || rc=$?
    # 125 to 127 are docker's and runc's own failures, before our program has run.
    if ((rc >= 125 && rc <= 127)); then give_up "no container runs on this machine: ${output:0:300}"; fi
    ((rc == 0))
    # The file names no upstreams, so the built-in ones are there.
    grep -F registry-1.docker.io <<<"$output"
    trap 'docker_cli stop "$(cat "$work/container")"; stop container' EXIT
    start_mirror container env DOCKER_CONFIG="$work/home/.docker" docker -H "unix://$work/dockerd/docker.sock" run --rm --cidfile "$work/container" \
        --network host --add-host "$image_upstream:127.0.0.1" --read-only --cap-drop ALL \
        --security-opt no-new-privileges roadstead:test serve --config /etc/roadstead/config.toml \
        --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 \
        --upstream "docker.io=http://$image_upstream:${upstream_port[docker.io]}" --default-upstream docker.io
    pull_through "${mirror_address[container]}"
}
