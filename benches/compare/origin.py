#!/usr/bin/env python3
"""A registry that makes its blobs up, paces each connection, and counts what it gave.

Run as a program it prints its port, and serves until its standard input ends. The content of a blob is given by its
seed and its size: blocks of noise, each with the seed and its own number in front, so that any two blocks differ and
no disk is read. `/_stats` says what was served since `/_reset`; `/_rate?N` limits each connection to N bytes a second,
0 to what the machine can do.
"""

import functools
import hashlib
import http.client
import http.server
import json
import pathlib
import random
import re
import struct
import subprocess
import sys
import threading
import time

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REPOSITORY = "library/made"
MIB = 1 << 20
BLOCK = MIB
PIECE = 256 * 1024
# No client of a benchmark may keep a thread longer than this without taking a byte.
SOCKET_SECONDS_MAX = 120
# Blobs that a store is said to have, and nobody fetches: a digest with this end exists and has this size.
FABRICATED_END = "fab1ed0000"
FABRICATED_BYTES = 1024

NOISE = random.Random("roadstead").randbytes(BLOCK)


def block(seed, number, size=BLOCK):
    return struct.pack("<QQ", seed, number) + NOISE[16:size]


# Those that take long to hash; a mirror that checks digests refuses them if they are wrong.
BIG_SEED = 7
KNOWN = {
    (BIG_SEED, 1 << 30): "a4fa88115412959838bfaae8ebaefcddaa02cf056e45be4391be23cf20dd1a7d",
    (BIG_SEED, 4 << 30): "ac9ea2470e375c5f9a71a60b1ecfda649ed7f8ee7bfe38d2475170e15de6ada4",
    (BIG_SEED, 20 << 30): "c5751d6b6c0e753043a8cd989b29c541dabdf6293c306b9bcdcd1c2b6d009aa0",
}


@functools.cache
def digest(seed, size):
    known = KNOWN.get((seed, size))
    if known:
        return "sha256:" + known
    made = hashlib.sha256()
    for at in range(0, size, BLOCK):
        made.update(block(seed, at // BLOCK, min(BLOCK, size - at)))
    return "sha256:" + made.hexdigest()


class Blob:
    """Made-up content, and where a registry has it."""

    def __init__(self, seed, size):
        self.seed, self.size = seed, size
        self.digest = digest(seed, size)
        self.path = f"/v2/{REPOSITORY}/blobs/{self.digest}"


class Image:
    """A tag with these blobs as its layers."""

    def __init__(self, tag, blobs):
        self.tag, self.blobs = tag, blobs
        self.config = json.dumps({"architecture": "amd64", "os": "linux", "tag": tag,
                                  "rootfs": {"type": "layers", "diff_ids": []}}).encode()
        self.manifest = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha256(self.config),
                       "size": len(self.config)},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": blob.digest,
                        "size": blob.size} for blob in blobs],
        }).encode()
        base = f"/v2/{REPOSITORY}"
        self.by_tag = f"{base}/manifests/{tag}"
        self.by_digest = f"{base}/manifests/{sha256(self.manifest)}"
        self.config_path = f"{base}/blobs/{sha256(self.config)}"


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Origin:
    """The program, run by whoever imports this."""

    def __init__(self, work):
        self.log = open(pathlib.Path(work) / "made-origin.log", "wb")
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log, text=True)
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def ask(self, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET" if body is None else "POST", path, body=body)
            answer = connection.getresponse()
            if answer.status != 200:
                raise SystemExit(f"the origin answers {answer.status} to {path}")
            return answer.read()
        finally:
            connection.close()

    def add(self, *images):
        for image in images:
            self.ask("/_add", json.dumps({"tag": image.tag, "blobs": [[b.seed, b.size, b.digest] for b in image.blobs]}))

    def rate(self, bytes_per_second):
        self.ask(f"/_rate?{bytes_per_second}")

    def reset(self):
        self.ask("/_reset")

    def stats(self):
        return json.loads(self.ask("/_stats"))

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()


class Served:
    """What the program has, and has given."""

    def __init__(self):
        self.lock = threading.Lock()
        self.rate = 0
        self.made, self.small = {}, {}
        self.reset()

    def reset(self):
        with self.lock:
            self.bytes, self.blob_requests, self.requests = 0, 0, 0

    def add(self, tag, blobs):
        for seed, size, name in blobs:
            KNOWN[(seed, size)] = name.removeprefix("sha256:")
            self.made[name] = (seed, size)
        image = Image(tag, [Blob(seed, size) for seed, size, _ in blobs])
        self.small[sha256(image.config)] = image.config
        self.small[sha256(image.manifest)] = image.manifest
        self.small[tag] = image.manifest


SERVED = Served()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = SOCKET_SECONDS_MAX
    wbufsize = 0

    def log_message(self, *_):
        pass

    def head(self, status, length, **headers):
        lines = [f"HTTP/1.1 {status} Ok", f"Content-Length: {length}", "Docker-Distribution-Api-Version: registry/2.0"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode())

    def answer(self, body, status=200, **headers):
        self.head(status, len(body), **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        SERVED.add(body["tag"], body["blobs"])
        self.answer(b"")

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/_stats":
            with SERVED.lock:
                said = {"bytes": SERVED.bytes, "blob_requests": SERVED.blob_requests, "requests": SERVED.requests}
            return self.answer(json.dumps(said).encode())
        if path == "/_reset":
            SERVED.reset()
            return self.answer(b"")
        if path == "/_rate":
            SERVED.rate = int(query)
            return self.answer(b"")
        with SERVED.lock:
            SERVED.requests += 1
        if path == "/v2/":
            return self.answer(b"{}", Content_Type="application/json")
        kind, _, reference = path.rpartition("/")
        kind = kind.rpartition("/")[2]
        if kind == "manifests" and reference in SERVED.small:
            body = SERVED.small[reference]
            return self.answer(body, Content_Type=MANIFEST, Docker_Content_Digest=sha256(body))
        if kind == "blobs":
            return self.blob(reference)
        return self.missing("MANIFEST_UNKNOWN")

    def missing(self, code):
        self.answer(json.dumps({"errors": [{"code": code}]}).encode(), 404, Content_Type="application/json")

    def blob(self, name):
        headers = {"Content_Type": "application/octet-stream", "Docker_Content_Digest": name}
        if name in SERVED.small:
            return self.answer(SERVED.small[name], **headers)
        if name.endswith(FABRICATED_END) and self.command == "HEAD":
            return self.head(200, FABRICATED_BYTES, **headers)
        if name not in SERVED.made:
            return self.missing("BLOB_UNKNOWN")
        seed, size = SERVED.made[name]
        start, end, status = 0, size, 200
        headers["Accept_Ranges"] = "bytes"
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            start, end, status = int(asked[1]), min(int(asked[2]) + 1, size) if asked[2] else size, 206
            headers["Content_Range"] = f"bytes {start}-{end - 1}/{size}"
        self.head(status, end - start, **headers)
        if self.command != "HEAD":
            with SERVED.lock:
                SERVED.blob_requests += 1
            self.body(seed, start, end)

    def body(self, seed, start, end):
        """Sends these bytes, not faster than the rate."""
        noise = memoryview(NOISE)
        at, began = start, time.monotonic()
        while at < end:
            inside = at % BLOCK
            size = min(PIECE - inside % PIECE, end - at)
            if inside < 16:
                piece = memoryview(struct.pack("<QQ", seed, at // BLOCK))[inside:16]
                piece = bytes(piece[:size]) + noise[16:16 + max(0, size - len(piece))]
            else:
                piece = noise[inside:inside + size]
            try:
                self.connection.sendall(piece)
            except OSError:
                self.close_connection = True
                return
            at += size
            with SERVED.lock:
                SERVED.bytes += size
            if SERVED.rate:
                ahead = (at - start) / SERVED.rate - (time.monotonic() - began)
                if ahead > 0.001:
                    time.sleep(ahead)


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 2048
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that left is nothing to say."""


def main():
    threading.stack_size(256 * 1024)
    sys.setswitchinterval(0.001)
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
