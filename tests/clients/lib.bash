# shellcheck shell=bash
# What the parts of tests/clients/run share: processes, waiting, cases and the table.
# Sourced with $work (the temporary directory) and $here (tests/clients) set.

# How long a daemon may take to start, and one pull to end. Loopback needs a few seconds; these are for slow machines.
readonly start_seconds_max=60
readonly command_seconds_max=180
readonly stop_seconds_max=30
# A release build with every dependency, on two slow cores.
readonly build_seconds_max=1800

declare -A pids=()      # name -> pid of each process that this script has started
declare -A results=()   # "client case" -> ok | FAIL | n/a
declare -a order=()     # the keys of `results`, as they came
declare -a notes=()     # why something is n/a
stop_status=0           # how the process that `stop` stopped last has ended

say() { printf '%s %s\n' "$(date +%T)" "$*"; }
die() {
    printf 'tests/clients/run: %s\n' "$*" >&2
    exit 1
}

# Every command of a client runs under this: none can hang the run, and none sees the user's own set-up.
bounded() { timeout --kill-after=10 "$command_seconds_max" env "${client_environment[@]}" "$@"; }

# A port that nothing listens on: the kernel picks it.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# spawn NAME COMMAND…: starts a process; its output goes to $work/logs/NAME.log, after what is there already.
spawn() {
    local name=$1
    shift
    "$@" >>"$work/logs/$name.log" 2>&1 </dev/null &
    pids[$name]=$!
}

running() { [[ -n ${pids[$1]:-} ]] && kill -0 "${pids[$1]}" 2>/dev/null; }

# stop NAME: asks a process of ours to end, and makes it after a bound. Its exit code is in $stop_status.
stop() {
    local name=$1 pid=${pids[$1]:-}
    [[ -n $pid ]] || return 0
    unset "pids[$name]"
    stop_status=0
    kill -TERM "$pid" 2>/dev/null || true
    local deadline=$((SECONDS + stop_seconds_max))
    while kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)); do sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || stop_status=$?
}

# wait_for WHAT COMMAND…: until the command succeeds, within $start_seconds_max.
wait_for() {
    local what=$1 deadline=$((SECONDS + start_seconds_max))
    shift
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= deadline)); then
            echo "waited ${start_seconds_max}s in vain for $what" >&2
            return 1
        fi
        sleep 0.1
    done
}

# started NAME COMMAND…: as wait_for, but gives up at once when the process has ended.
started() {
    local name=$1
    shift
    wait_for "$name" started_or_gone "$name" "$@" && running "$name" && return 0
    echo "$name did not start:" >&2
    tail -n 20 "$work/logs/$name.log" >&2
    return 1
}
started_or_gone() {
    running "$1" || return 0
    "${@:2}"
}

lines() { if [[ -e $1 ]]; then wc -l <"$1"; else echo 0; fi; }

record() {
    local key="$1 $2"
    [[ -n ${results[$key]:-} ]] || order+=("$key")
    results[$key]=$3
    say "$(printf '%-12s %-14s %s' "$1" "$2" "$3")"
}

# not_applicable CLIENT CASE REASON
not_applicable() {
    record "$1" "$2" "n/a"
    notes+=("$1 $2: $3")
}

# case_of CLIENT CASE FUNCTION ARGUMENTS…: runs a case in a subshell that ends at its first failing command. The
# trace goes to a log whose end is shown when the case fails. Exit code 77 means n/a, for the reason in the file
# that $reason_file names. What --only leaves out is neither run nor counted.
case_of() {
    local client=$1 name=$2 log="$work/logs/case-$1-$2.log" rc=0
    [[ "$client $name" =~ ${only:-} ]] || return 0
    shift 2
    export reason_file="$work/reason"
    rm -f "$reason_file"
    # In the background and waited for, because errexit is off inside anything that `||` or `if` looks at.
    # The trace has a descriptor of its own, so that it is never taken for a command's own messages.
    (
        BASH_XTRACEFD=9
        set -euxo pipefail
        "$@"
    ) >"$log" 2>&1 9>&1 </dev/null &
    pids[case]=$!
    wait "${pids[case]}" || rc=$?
    unset "pids[case]"
    if ((rc == 0)); then
        record "$client" "$name" ok
    elif ((rc == 77)); then
        not_applicable "$client" "$name" "$(cat "$reason_file")"
    else
        record "$client" "$name" FAIL
        echo "--- $log (exit code $rc), its end:"
        tail -n 40 "$log" | cut -c 1-400
        echo "--- roadstead's log, its end:"
        tail -n 15 "$work/logs/roadstead.log" | cut -c 1-400
        echo "---"
    fi
}

# Inside a case: gives it up as not applicable here.
give_up() {
    echo "$*" >"$reason_file"
    exit 77
}

# The table: one row for each client of the matrix, then what only one client does.
table() {
    local -a columns=(cold again digest amd64 arm64 zstd private offline)
    local client column key
    printf '\n%-14s' client
    printf '%-9s' "${columns[@]}"
    echo
    for client in "$@"; do
        printf '%-14s' "$client"
        for column in "${columns[@]}"; do printf '%-9s' "${results["$client $column"]:--}"; done
        echo
    done
    echo
    for key in "${order[@]}"; do
        client=${key% *} column=${key#* }
        [[ " ${columns[*]} " == *" $column "* ]] || printf '%-14s%-22s%s\n' "$client" "$column" "${results[$key]}"
    done
    if ((${#notes[@]} > 0)); then
        echo
        printf 'n/a: %s\n' "${notes[@]}"
    fi
}

# The last line, and the exit code.
summary() {
    local passed=0 failed=0 skipped=0 key
    for key in "${order[@]}"; do
        case ${results[$key]} in
            ok) passed=$((passed + 1)) ;;
            FAIL) failed=$((failed + 1)) ;;
            *) skipped=$((skipped + 1)) ;;
        esac
    done
    echo
    if ((skipped > 0)); then
        echo "$passed passed, $failed failed, $skipped skipped"
    else
        echo "$passed passed, $failed failed"
    fi
    ((failed == 0))
}
