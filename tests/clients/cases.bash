# shellcheck shell=bash
# The cases: those of the matrix, which every client goes through, and those that only one client can do.

# pull_whole CLIENT NAME PLATFORM BY: empties the client's store, pulls, hashes. BY is `tag` or `digest`.
pull_whole() {
    local client=$1 name=$2 platform=$3 expected="$work/expected/$2.json" upstream reference
    upstream=$(expectation "$name" .upstream)
    case $4 in
        tag) reference=$(expectation "$name" '.repository + ":" + .tag') ;;
        digest) reference=$(expectation "$name" '.repository + "@" + .digest') ;;
    esac
    "wipe_$client"
    "pull_$client" "$upstream" "$reference" "$platform"
    "whole_$client" "$upstream" "$reference" "$platform" "$expected"
}

# A pull of something that nobody has pulled: each of its blobs is fetched from upstream exactly once.
cold() {
    local log mark
    log=${upstream_log[$(expectation "$2" .upstream)]}
    mark=$(lines "$log")
    pull_whole "$1" "$2" "$3" tag
    python3 "$here/check.py" requests "$log" "$work/expected/$2.json" --platform "$3" --first-line "$mark"
}

# A pull of something that roadstead has: no blob is asked for upstream.
warm() {
    local log mark
    log=${upstream_log[$(expectation "$2" .upstream)]}
    mark=$(lines "$log")
    pull_whole "$@"
    python3 "$here/check.py" requests "$log" --first-line "$mark"
}

# With the upstreams stopped, all that was pulled before is pulled again.
offline() {
    local client=$1
    pull_whole "$client" "layers-$client" linux/amd64 tag
    pull_whole "$client" "layers-$client" linux/amd64 digest
    pull_whole "$client" "platforms-$client" linux/amd64 tag
    pull_whole "$client" "platforms-$client" linux/arm64 tag
    pull_whole "$client" "private-$client" linux/amd64 tag
    [[ $client == dockerd ]] || pull_whole "$client" "zstd-$client" linux/amd64 tag
}

online_cases() {
    local client=$1
    case_of "$client" cold cold "$client" "layers-$client" linux/amd64
    case_of "$client" again warm "$client" "layers-$client" linux/amd64 tag
    case_of "$client" digest warm "$client" "layers-$client" linux/amd64 digest
    case_of "$client" amd64 cold "$client" "platforms-$client" linux/amd64
    case_of "$client" arm64 cold "$client" "platforms-$client" linux/arm64
    if [[ $client == dockerd ]]; then
        not_applicable dockerd zstd "Debian's dockerd (20.10) cannot unpack zstd layers, with or without a mirror"
    else
        case_of "$client" zstd cold "$client" "zstd-$client" linux/amd64
    fi
    case_of "$client" private cold "$client" "private-$client" linux/amd64
}

# ---- what only one client does

mirror_url() { echo "http://${mirror_address[roadstead]}"; }

# answer METHOD PATH [CURL OPTIONS…]: the status; headers in $work/headers, body in $work/body.
answer() {
    local method=$1 path=$2 how=(-X "$1")
    [[ $method != HEAD ]] || how=(--head)
    shift 2
    curl -sS --max-time 30 "${how[@]}" -D "$work/headers" -o "$work/body" -w '%{http_code}\n' "$@" "$(mirror_url)$path"
}
has_header() { grep -iE "^$1: *$2"$'\r?$' "$work/headers"; }

contract_version() {
    [[ $(answer GET /v2/) == 200 ]]
    has_header Docker-Distribution-Api-Version registry/2.0
}

contract_unknown_upstream() {
    [[ $(answer GET '/v2/team/app/manifests/1?ns=unknown.example') == 404 ]]
    jq -e '.errors[0].code == "NAME_UNKNOWN"' "$work/body"
    # It says which upstreams exist.
    grep -F private.example "$work/body"
}

contract_no_push() {
    [[ $(answer POST /v2/team/app/blobs/uploads/) == 405 ]]
    jq -e '.errors[0].code == "UNSUPPORTED"' "$work/body"
}

# The headers of a pull, on an image that the skopeo cases have brought in.
contract_headers() {
    local accept='Accept: application/vnd.docker.distribution.manifest.v2+json' digest blob
    digest=$(expectation layers-skopeo .digest)
    blob=$(expectation layers-skopeo '.platforms["linux/amd64"].layers[0]')
    [[ $(answer HEAD '/v2/library/layers-skopeo/manifests/1?ns=docker.io' -H "$accept") == 200 ]]
    has_header Docker-Content-Digest "$digest"
    has_header Content-Length '[1-9][0-9]*'
    has_header OCI-Namespace docker.io
    has_header Cache-Status 'roadstead; .*'
    [[ $(answer GET "/v2/library/layers-skopeo/blobs/$blob") == 200 ]]
    has_header Docker-Content-Digest "$blob"
    has_header Cache-Status 'roadstead; hit.*'
    [[ sha256:$(sha256sum "$work/body" | cut -d ' ' -f 1) == "$blob" ]]
    mv "$work/body" "$work/whole"
    # docker.io by its path prefix, where a single remaining component gets library/.
    [[ $(answer GET "/v2/docker.io/layers-skopeo/blobs/$blob" -r 1000-1999) == 206 ]]
    has_header Content-Range 'bytes 1000-1999/[0-9]+'
    cmp "$work/body" <(tail -c +1001 "$work/whole" | head -c 1000)
}

contract_lists() {
    [[ $(answer GET /v2/private.example/secret/app-skopeo/tags/list) == 200 ]]
    jq -e '.tags == ["1"]' "$work/body"
    [[ $(answer GET /v2/_catalog) == 200 ]]
    jq -e '.repositories | length > 0' "$work/body"
}

# The password is configured, and shown to nobody.
contract_check() {
    bounded "$BINARY" check --config "$work/roadstead.toml" >"$work/effective"
    grep -F private.example "$work/effective"
    [[ $(grep -cF "$private_password" "$work/effective") == 0 ]]
    sed 's/^ttl = /tll = /' "$work/roadstead.toml" >"$work/wrong.toml"
    local rc=0
    bounded "$BINARY" check --config "$work/wrong.toml" >"$work/wrong" 2>&1 || rc=$?
    [[ $rc == 2 ]]
    grep -F tll "$work/wrong"
}

contract_metrics() {
    local url="http://${admin_address[roadstead]}"
    curl -sSf --max-time 10 "$url/healthz"
    curl -sSf --max-time 10 "$url/readyz"
    curl -sSf --max-time 10 "$url/metrics" >"$work/metrics"
    grep -E '^roadstead_requests_total\{[^}]*kind="blob"[^}]*\} [1-9]' "$work/metrics"
    grep -E '^roadstead_cache_bytes [1-9]' "$work/metrics"
}

# Distribution 2.8 has no referrers API, so this is the fallback to the tag schema.
artifact_referrers() {
    local subject
    subject=$(expectation artifact .digest)
    [[ $(answer GET "/v2/docker.io/team/artifact/referrers/$subject") == 200 ]]
    has_header Content-Type 'application/vnd.oci.image.index.v1\+json'
    jq -e --arg digest "$(expectation artifact .referrer)" '[.manifests[].digest] == [$digest]' "$work/body"
}

artifact_copy() {
    cold skopeo artifact linux/amd64
    # The artifact has a tag of its own, and the index of referrers names it by digest.
    cold skopeo artifact-signature linux/amd64
}

# Many clients want one fresh image at the same moment: each blob crosses once.
parallel_pulls() {
    local number mark log=${upstream_log[docker.io]} pids=() pid
    mark=$(lines "$log")
    for number in 1 2 3 4 5 6 7 8; do
        bounded skopeo copy --src-tls-verify=false \
            "docker://${mirror_address[roadstead]}/docker.io/team/parallel:1" "dir:$work/parallel-$number" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid"; done
    for number in 1 2 3 4 5 6 7 8; do
        python3 "$here/check.py" dir "$work/parallel-$number" "$work/expected/parallel.json"
        rm -rf "$work/parallel-$number"
    done
    python3 "$here/check.py" requests "$log" "$work/expected/parallel.json" --first-line "$mark"
}

# What is not cached, with upstream down: an error, and soon.
offline_unknown() {
    local from=$SECONDS status
    status=$(answer GET /v2/team/never-pulled/manifests/1)
    [[ $status == 502 || $status == 504 ]]
    jq -e '.errors | length > 0' "$work/body"
    ((SECONDS - from <= 12))
}

# SIGTERM has been answered by a clean end, and the same cache serves again without any upstream.
restarted() {
    [[ $1 == 0 ]]
    curl -sSf --max-time 10 "http://${admin_address[roadstead]}/readyz"
}

# ---- TLS: a second roadstead with a certificate of our own authority

make_certificates() {
    local directory=$work/tls
    mkdir -p "$directory"
    (
        cd "$directory" || exit
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=roadstead test authority' \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.crt
        openssl req -newkey rsa:2048 -nodes -subj '/CN=roadstead' -keyout tls.key -out tls.csr
        printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' >leaf.ext
        openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile leaf.ext -out tls.crt
    ) >>"$work/logs/openssl.log" 2>&1
}

tls_skopeo() {
    mkdir -p "$work/tls/skopeo"
    cp "$work/tls/ca.crt" "$work/tls/skopeo/ca.crt"
    wipe_skopeo
    bounded skopeo copy --src-cert-dir "$work/tls/skopeo" \
        "docker://${mirror_address[tls]}/docker.io/library/layers-skopeo:1" "dir:$work/skopeo"
    whole_skopeo docker.io layers-skopeo linux/amd64 "$work/expected/layers-skopeo.json"
}

tls_containerd() {
    local hosts_dir="$work/tls/certs.d"
    mkdir -p "$hosts_dir/_default"
    sed -e "s#http://${mirror_address[roadstead]}#https://${mirror_address[tls]}#" \
        -e "/^\[host\./a ca = \"$work/tls/ca.crt\"" \
        "$work/containerd/certs.d/_default/hosts.toml" >"$hosts_dir/_default/hosts.toml"
    pull_whole containerd layers-containerd linux/amd64 tag
    pull_whole containerd private-containerd linux/amd64 tag
}

tls_alpn() {
    local url="https://${mirror_address[tls]}/v2/" curl=(curl -sSf --max-time 10 --cacert "$work/tls/ca.crt" -o /dev/null -w '%{http_version}')
    [[ $("${curl[@]}" --http2 "$url") == 2 ]]
    [[ $("${curl[@]}" --http1.1 "$url") == 1.1 ]]
    # Without the authority there is no trust.
    if curl -sS --max-time 10 -o /dev/null "$url"; then return 1; fi
}

# ---- carrying images: out of the mirror, into another one that reaches no upstream

readonly carried=(docker.io/team/platforms-skopeo:1 docker.io/team/parallel:1 docker.io/team/artifact:1)

# write_far_config: a mirror whose upstreams are not there.
write_far_config() {
    write_mirror_config far
    sed -i 's#^endpoints = .*#endpoints = ["http://127.0.0.1:9"]#' "$work/far.toml"
}

# What roadstead exports, skopeo reads, from a directory and from an archive.
carry_export() {
    local target transport name
    for target in carried carried.tar; do
        bounded "$BINARY" export "${carried[@]}" --platform all -o "$work/$target" \
            --server "http://${mirror_address[roadstead]}"
        transport=oci
        [[ $target != *.tar ]] || transport=oci-archive
        for name in parallel artifact; do
            rm -rf "$work/skopeo"
            bounded skopeo copy "$transport:$work/$target:docker.io/team/$name:1" "dir:$work/skopeo"
            python3 "$here/check.py" dir "$work/skopeo" "$work/expected/$name.json" --platform linux/amd64
        done
        for name in amd64 arm64; do
            rm -rf "$work/skopeo"
            bounded skopeo --override-arch "$name" copy \
                "$transport:$work/$target:docker.io/team/platforms-skopeo:1" "dir:$work/skopeo"
            python3 "$here/check.py" dir "$work/skopeo" "$work/expected/platforms-skopeo.json" --platform "linux/$name"
        done
    done
    # An image of Docker's format, alone in its layout: skopeo takes no name for such a one.
    bounded "$BINARY" export layers-skopeo:1 -o "$work/docker.tar" --server "http://${mirror_address[roadstead]}"
    rm -rf "$work/skopeo"
    bounded skopeo copy "oci-archive:$work/docker.tar" "dir:$work/skopeo"
    python3 "$here/check.py" dir "$work/skopeo" "$work/expected/layers-skopeo.json" --platform linux/amd64
}

# far_has EXPECTED NAME PLATFORM: the image can be pulled from the mirror over there.
far_has() {
    rm -rf "$work/skopeo"
    bounded skopeo --override-arch "${3#*/}" copy --src-tls-verify=false \
        "docker://${mirror_address[far]}/$2" "dir:$work/skopeo"
    python3 "$here/check.py" dir "$work/skopeo" "$work/expected/$1.json" --platform "$3"
}

# What roadstead exports, another roadstead serves.
carry_import() {
    local admin="http://${admin_address[far]}"
    bounded "$BINARY" import "$work/carried.tar" --admin "$admin"
    bounded "$BINARY" import "$work/docker.tar" --admin "$admin"
    far_has parallel docker.io/team/parallel:1 linux/amd64
    far_has platforms-skopeo docker.io/team/platforms-skopeo:1 linux/amd64
    far_has platforms-skopeo docker.io/team/platforms-skopeo:1 linux/arm64
    far_has layers-skopeo docker.io/library/layers-skopeo:1 linux/amd64
    bounded "$BINARY" verify --admin "$admin"
}

# What skopeo writes, roadstead imports, under a name of its own or the one in the layout.
carry_skopeo() {
    local admin="http://${admin_address[far]}" from="docker://${mirror_address[roadstead]}/docker.io/team/parallel:1"
    bounded skopeo copy --src-tls-verify=false "$from" "oci:$work/written:own"
    bounded skopeo copy --src-tls-verify=false "$from" "oci-archive:$work/written.tar:private.example/moved/app:2"
    bounded "$BINARY" import "$work/written" private.example/given/app:1=own --admin "$admin"
    bounded "$BINARY" import "$work/written.tar" --admin "$admin"
    far_has parallel private.example/given/app:1 linux/amd64
    far_has parallel private.example/moved/app:2 linux/amd64
}
