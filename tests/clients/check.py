"""Checks what a client has stored, and what an upstream was asked, against the expectations of `images.py`.

Each check hashes the bytes themselves; what a client says about them is never enough. Standard library only.
"""

import argparse
import collections
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import time

CHUNK_BYTES = 1024 * 1024
# The upstream writes its access line when a request has ended, which may be just after the client was done.
LOG_SETTLE_SECONDS = 0.4
BLOB_GET = re.compile(r'"GET /v2/\S+/blobs/(sha256:[0-9a-f]{64})[? ]')


def hash_stream(stream):
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
    return "sha256:" + digest.hexdigest()


def hash_file(path):
    with open(path, "rb") as stream:
        return hash_stream(stream)


def fail(message):
    sys.exit(f"check failed: {message}")


def same(what, found, wanted):
    if found != wanted:
        fail(f"{what}: found {found}, wanted {wanted}")
    print(f"{what}: {wanted}")


def load(path, platform):
    return json.loads(path.read_text())["platforms"][platform]


def check_dir(options):
    """The `dir:` layout of skopeo: manifest.json, and each blob under its hex digest."""
    image = load(options.expected, options.platform)
    same("manifest", hash_file(options.path / "manifest.json"), image["manifest"])
    for digest in [image["config"], *image["layers"]]:
        same("blob", hash_file(options.path / digest.removeprefix("sha256:")), digest)


def check_store(options):
    """A directory of blobs named by their hex digests: containerd's content store."""
    value = json.loads(options.expected.read_text())
    image = value["platforms"][options.platform]
    for digest in dict.fromkeys([value["digest"], image["manifest"], image["config"], *image["layers"]]):
        same("blob", hash_file(options.path / digest.removeprefix("sha256:")), digest)


def check_archive(options):
    """What `docker save` and `podman save` write: the configuration and the uncompressed layers."""
    image = load(options.expected, options.platform)
    with tarfile.open(options.path) as tar:
        entry = json.load(tar.extractfile("manifest.json"))[0]
        same("config", hash_stream(tar.extractfile(entry["Config"])), image["config"])
        same("layers", [hash_stream(tar.extractfile(name)) for name in entry["Layers"]], image["diff_ids"])


def check_rootfs(options):
    """A mounted image: the files of all its layers."""
    for name, digest in load(options.expected, options.platform)["files"].items():
        same(name, hash_file(options.path / name), digest)


def blob_requests(log, first_line):
    lines = log.read_text(errors="replace").splitlines()[first_line:]
    return collections.Counter(match[1] for line in lines if (match := BLOB_GET.search(line)))


def check_requests(options):
    """How often an upstream was asked for blobs since `first_line` of its access log."""
    time.sleep(LOG_SETTLE_SECONDS)
    found = blob_requests(options.path, options.first_line)
    wanted = {}
    if options.expected is not None:
        image = load(options.expected, options.platform)
        wanted = dict.fromkeys([image["config"], *image["layers"]], 1)
    same("blob requests upstream", dict(sorted(found.items())), dict(sorted(wanted.items())))


def check_inspect(options):
    """The JSON of `docker image inspect` or `podman image inspect`."""
    image = load(options.expected, options.platform)
    value = json.loads(options.path.read_text())[0]
    same("id", value["Id"].removeprefix("sha256:"), image["config"].removeprefix("sha256:"))
    same("diff_ids", value["RootFS"]["Layers"], image["diff_ids"])
    same("architecture", "linux/" + value["Architecture"], options.platform)


def syscall_sets():
    """The sets that this systemd knows, each with its direct members, which may be sets again."""
    listing = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter"], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    ).stdout
    sets, members = {}, []
    for line in re.sub("\x1b[^m]*m", "", listing).splitlines():
        if line.startswith("@"):
            members = sets.setdefault(line.strip(), [])
        elif line.startswith(" ") and not line.strip().startswith("#"):
            members.append(line.strip())
    return sets


def expand(name, sets):
    return set().union(*(expand(member, sets) for member in sets[name])) if name.startswith("@") else {name}


# What is tried first and done without where it is refused: cachestat, newer than strace and systemd of Debian 12, and
# fchown, by which SQLite gives its files the owner of the database when root runs it, as here. That they can be done
# without is shown by a run in which they are refused (confine.py).
DISPENSABLE = {"cachestat", "syscall_0x1c3", "fchown"}


def allowed_syscalls(unit):
    """What a unit's SystemCallFilter lets through."""
    sets, allowed = syscall_sets(), set()
    for line in unit.read_text().splitlines():
        if line.startswith("SystemCallFilter="):
            value = line.removeprefix("SystemCallFilter=")
            named = set().union(*(expand(name, sets) for name in value.lstrip("~").split()))
            allowed = allowed - named if value.startswith("~") else allowed | named
    return allowed


def check_syscalls(options):
    """An strace of roadstead against a unit: SystemCallFilter and MemoryDenyWriteExecute."""
    trace = options.path.read_text(errors="replace")
    used = set(re.findall(r"^\d+ +(\w+)\(", trace, re.MULTILINE))
    if "execve" not in used or "accept4" not in used:
        fail(f"the trace is not that of a server: {sorted(used)}")
    forbidden = used - allowed_syscalls(options.expected) - DISPENSABLE
    same("system calls that the unit forbids", sorted(forbidden), [])
    same("memory both writable and executable", re.findall(r".*PROT_WRITE\|PROT_EXEC.*", trace), [])
    same("memory made executable", re.findall(r".*mprotect\(.*PROT_EXEC.*", trace), [])


def main():
    checks = {
        "archive": check_archive,
        "dir": check_dir,
        "inspect": check_inspect,
        "requests": check_requests,
        "rootfs": check_rootfs,
        "store": check_store,
        "syscalls": check_syscalls,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=checks)
    parser.add_argument("path", type=pathlib.Path)
    parser.add_argument("expected", type=pathlib.Path, nargs="?", help="an expectation (for `syscalls` a unit; for `requests` may be left out: no request)")
    parser.add_argument("--platform", default="linux/amd64")
    parser.add_argument("--first-line", type=int, default=0)
    options = parser.parse_args()
    if options.expected is None and options.check != "requests":
        parser.error("the expectations are missing")
    try:
        checks[options.check](options)
    except (OSError, KeyError, IndexError, ValueError, tarfile.TarError) as error:
        fail(repr(error))


if __name__ == "__main__":
    main()
