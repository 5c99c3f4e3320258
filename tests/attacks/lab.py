"""What the attacks share: registries that misbehave, a mirror, clients, and a witness who only wants its blobs.

Everything is on loopback. Clients take source addresses of their own (127.0.0.x), since shares go by address.
"""

import asyncio
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import urllib.request

# A client that is cut off in the middle of a flood is what the attacks are for, and no news.
logging.getLogger("asyncio").setLevel(logging.ERROR)

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image(layer_size=4096, seed=b"x", config=None):
    """A manifest with one config and one layer: (manifest bytes, {digest: bytes})."""
    layer = (hashlib.sha256(seed).digest() * (layer_size // 32 + 1))[:layer_size]
    config = config or json.dumps({"architecture": "amd64", "os": "linux", "x": seed.hex()}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config), "size": len(config)},
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(layer), "size": len(layer)}
        ],
    }
    return json.dumps(manifest).encode(), {digest(config): config, digest(layer): layer}


class Registry:
    """A scripted registry. `tags`: (repository, tag) -> manifest bytes; `blobs`: digest -> bytes, of every repository
    unless `only` says which. `hook(request, writer)` may answer itself and return True."""

    def __init__(self, delay=0.0):
        self.tags, self.manifests, self.blobs, self.only = {}, {}, {}, {}
        self.types, self.delay, self.hook = {}, delay, None
        self.any_tag = None  # what every other tag names
        self.log = []
        self.server = None

    def add(self, repository, tag, manifest, blobs):
        self.tags[repository, tag] = manifest
        self.manifests[digest(manifest)] = manifest
        self.blobs.update(blobs)
        for name in [digest(manifest), *blobs]:
            self.only.setdefault(name, set()).add(repository)

    async def start(self):
        self.server = await asyncio.start_server(self.connection, "127.0.0.1", 0, backlog=4096)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    def apart(self):
        """In a process of its own, with what it has now: it is not as slow as the attack that runs here."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port = listener.getsockname()[1]
        # Another process has no use for the loop that runs here.
        serve = multiprocessing.get_context("fork").Process(target=registry_main, args=(self, listener), daemon=True)
        serve.start()
        listener.close()
        return self

    def asked(self, word):
        return sum(word in line for line in self.log)

    async def connection(self, reader, writer):
        try:
            while await self.request(reader, writer):
                await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    async def request(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        self.log.append(f"{method} {path}")
        request = {"method": method, "path": path, "headers": headers}
        if self.hook and await self.hook(request, writer):
            return False
        if self.delay:
            await asyncio.sleep(self.delay)
        self.plain(request, writer)
        return True

    def plain(self, request, writer):
        path, method = request["path"].split("?")[0], request["method"]
        if path == "/v2/":
            return self.send(writer, method, 200, "application/json", b"{}")
        rest = path.removeprefix("/v2/")
        for word in ("manifests", "blobs", "tags", "referrers"):
            name, found, what = rest.rpartition(f"/{word}/")
            if found:
                break
        else:
            return self.send(writer, method, 404, "application/json", b"{}")
        if word == "tags":
            tags = sorted(tag for repository, tag in self.tags if repository == name)
            return self.send(writer, method, 200, "application/json", json.dumps({"name": name, "tags": tags}).encode())
        table = self.manifests if word == "manifests" else self.blobs
        body = self.tags.get((name, what)) or table.get(what)
        if body is None and word == "manifests" and ":" not in what:
            body = self.any_tag
        if body is None or name not in self.only.get(digest(body), {name}):
            code = "MANIFEST_UNKNOWN" if word == "manifests" else "BLOB_UNKNOWN"
            body = json.dumps({"errors": [{"code": code, "message": "unknown"}]}).encode()
            return self.send(writer, method, 404, "application/json", body)
        kind = self.types.get(digest(body), json.loads(body).get("mediaType", MANIFEST) if word == "manifests" else "application/octet-stream")
        return self.send(writer, method, 200, kind, body, request["headers"].get("range"), digest(body))

    def send(self, writer, method, status, kind, body, wanted=None, name=None):
        extra = f"docker-content-digest: {name}\r\n" if name else ""
        if wanted and status == 200 and wanted.startswith("bytes=") and "," not in wanted:
            first, _, last = wanted[6:].partition("-")
            first = int(first) if first else len(body) - int(last)
            last = min(int(last) if last and wanted[6] != "-" else len(body) - 1, len(body) - 1)
            extra += f"content-range: bytes {first}-{last}/{len(body)}\r\n"
            status, body = 206, body[first : last + 1]
        head = f"HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
        writer.write(head.encode() + (b"" if method == "HEAD" else body))


class Mirror:
    """A running roadstead."""

    def __init__(self, binary, upstreams, extra="", cache=None, stderr=None, tls=None):
        self.folder = tempfile.mkdtemp(prefix="attack-")
        self.cache = cache or os.path.join(self.folder, "cache")
        config = os.path.join(self.folder, "roadstead.toml")
        text = '[server]\nlisten = "127.0.0.1:0"\nadmin_listen = "127.0.0.1:0"\n'
        if tls:
            text += f'[server.tls]\ncert = "{tls[0]}"\nkey = "{tls[1]}"\n'
        text += f'[cache]\ndir = "{self.cache}"\n' + extra
        for name, port in upstreams.items():
            text += f'[upstream."{name}"]\nendpoints = ["http://127.0.0.1:{port}"]\n'
            text += "default = true\n" if name == next(iter(upstreams)) and len(upstreams) > 1 else ""
        with open(config, "w") as file:
            file.write(text)
        self.errors = stderr if stderr is not None else open(os.path.join(self.folder, "log"), "w")
        self.process = subprocess.Popen(
            [binary, "serve", "--config", config], stdout=subprocess.PIPE, stderr=self.errors, stdin=subprocess.DEVNULL,
            # A key would not do: versions before know none.
            env={**os.environ, "XDG_STATE_HOME": self.folder},
        )
        line = self.process.stdout.readline().decode()
        if "listening on" not in line:
            raise RuntimeError(f"not ready: {line!r} {self.tail()}")
        words = line.split()
        self.port = int(words[2].rsplit(":", 1)[1])
        self.admin = int(words[4].rstrip(")").rsplit(":", 1)[1])

    def tail(self):
        try:
            with open(os.path.join(self.folder, "log")) as file:
                return file.read()[-2000:]
        except OSError:
            return ""

    def rss(self):
        with open(f"/proc/{self.process.pid}/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def read_bytes(self):
        with open(f"/proc/{self.process.pid}/io") as file:
            return int(next(line.split()[1] for line in file if line.startswith("rchar")))

    def cpu(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def metric(self, start):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(start))

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, wait=60):
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(wait)
        except subprocess.TimeoutExpired:
            self.kill()
        return time.monotonic() - started

    def close(self):
        if self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


async def get(port, path, headers=None, method="GET", source="127.0.0.1", timeout=60):
    """One request on a connection of its own: (status, headers, body, clean ending)."""
    return await asyncio.wait_for(one(port, path, headers or {}, method, source), timeout)


async def one(port, path, headers, method, source):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0), limit=1 << 20)
    try:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{lines}\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        parts = []
        clean = True
        try:
            while chunk := await reader.read(1 << 20):
                parts.append(chunk)
        except OSError:
            clean = False
        body = b"".join(parts)
        length = fields.get("content-length")
        if method != "HEAD" and length is not None and len(body) != int(length):
            clean = False
        return int(head[0].split()[1]), fields, body, clean
    finally:
        writer.close()


def registry_main(registry, listener):
    async def serve():
        server = await asyncio.start_server(registry.connection, sock=listener)
        await server.serve_forever()

    asyncio.events._set_running_loop(None)
    asyncio.run(serve())


def witness_main(port, paths, source, seconds, pipe):
    """Another client: asks for what it knows, over one connection, and notes how long each answer takes."""
    times, failures = [], []
    end = time.monotonic() + seconds
    connection = None
    number = 0
    while time.monotonic() < end:
        path = paths[number % len(paths)]
        number += 1
        started = time.monotonic()
        try:
            if connection is None:
                connection = socket.create_connection(("127.0.0.1", port), 5, (source, 0))
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(10)
            connection.sendall(f"GET {path.format(number)} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            data = b""
            while b"\r\n\r\n" not in data:
                more = connection.recv(65536)
                if not more:
                    raise OSError("closed")
                data += more
            head, _, body = data.partition(b"\r\n\r\n")
            status = int(head.split()[1])
            length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            while len(body) < length:
                body += connection.recv(1 << 20) or (_ for _ in ()).throw(OSError("cut"))
            times.append(time.monotonic() - started)
            if status not in (200, 206):
                failures.append(str(status))
        except (OSError, ValueError, StopIteration, IndexError) as error:
            failures.append(type(error).__name__ + " " + str(error)[:40])
            times.append(time.monotonic() - started)
            connection = None
        time.sleep(0.005)
    pipe.send((times, failures))


class Witness:
    """Runs beside an attack, in a process of its own."""

    def __init__(self, port, paths, seconds, source="127.0.0.77"):
        self.pipe, child = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=witness_main, args=(port, paths, source, seconds, child), daemon=True)
        self.process.start()

    async def result(self):
        times, failures = await asyncio.to_thread(self.pipe.recv)
        self.process.join()
        times.sort()
        return {
            "asked": len(times),
            "failed": len(failures),
            "why": sorted(set(failures))[:3],
            "p50": times[len(times) // 2] * 1000 if times else 0,
            "p99": times[int(len(times) * 0.99)] * 1000 if times else 0,
        }


class Http2:
    """HTTP/2 in the raw: no library would let one be this rude."""

    def __init__(self, window=65535, source="127.0.0.1"):
        self.window, self.source, self.next = window, source, 1
        self.answered, self.reset, self.gone, self.statuses = 0, 0, False, {}

    async def open(self, port, tls=None):
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=(self.source, 0), ssl=tls, server_hostname="localhost" if tls else None
        )
        self.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(4, 0, 0, struct.pack(">HI", 4, self.window)))
        self.task = asyncio.create_task(self.read())
        return self

    @staticmethod
    def frame(kind, flags, stream, payload=b""):
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    @staticmethod
    def text(value):
        data = value.encode()
        if len(data) < 127:
            return bytes([len(data)]) + data
        size, out = len(data) - 127, b"\x7f"
        while size >= 128:
            out, size = out + bytes([size % 128 + 128]), size // 128
        return out + bytes([size]) + data

    def get(self, path, method="GET", headers=()):
        stream, self.next = self.next, self.next + 2
        fields = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "x"), *headers]
        block = b"".join(b"\x00" + self.text(name) + self.text(value) for name, value in fields)
        self.writer.write(self.frame(1, 5, stream, block))
        return stream

    def cancel(self, stream):
        self.writer.write(self.frame(3, 0, stream, struct.pack(">I", 8)))

    async def read(self):
        try:
            while True:
                head = await self.reader.readexactly(9)
                size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                stream = int.from_bytes(head[5:], "big")
                payload = await self.reader.readexactly(size)
                if kind == 4 and not flags & 1:
                    self.writer.write(self.frame(4, 1, 0))
                elif kind == 6 and not flags & 1:
                    self.writer.write(self.frame(6, 1, 0, payload))
                elif kind == 1:
                    self.answered += 1
                    self.statuses[stream] = payload[:1]
                elif kind == 3:
                    self.reset += 1
                elif kind == 7:
                    self.gone = True
        except (OSError, EOFError):
            self.gone = True

    def close(self):
        self.task.cancel()
        self.writer.close()
