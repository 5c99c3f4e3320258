"""What is in the cache, served to clients that take it as fast as they get it."""

import re
import subprocess
import time
import urllib.request

import images
import readers
from case import GB, MIB, Bar, Case, Measure, check, curl, digest_of, finish, get


def is_warm(world, peers, *flags):
    """Everything is in every cache, and in the operating system's; and the right bytes."""
    image = world.image
    for peer in peers:
        for what in ("tag", "manifest", "config", "layer"):
            for _ in range(2):
                get(peer.url + image[what])
            if what != "tag":
                check(peer.url + image[what], digest_of(image[what]), *flags)


class Warm(Case):
    """Clients that read a cached blob at once, again and again."""

    standing = True
    measures = {"cpu_s_per_gb": Measure("CPU per GB served", "s/GB"),
                "gb_per_s": Measure("throughput", "GB/s", less=False)}
    drawn = ("cpu_s_per_gb", "gb_per_s")

    def __init__(self, name, title, text, bars, secure=False, clients=8, repeats=2, flags=()):
        self.name, self.title, self.text, self.bars = name, title, text, bars
        self.secure, self.clients, self.repeats, self.flags = secure, clients, repeats, flags

    def peers(self, world):
        return world.secure if self.secure else world.plain

    def prepare(self, world):
        is_warm(world, self.peers(world), *self.flags)

    def measure(self, world, peer, number):
        size = world.image["layer_bytes"]
        url = peer.url + world.image["layer"]
        before, began = peer.cpu(), time.monotonic()
        for _ in range(self.repeats):
            running = [curl(url, *self.flags) for _ in range(self.clients)]
            for process in running:
                finish(process, size)
        seconds, cpu = time.monotonic() - began, peer.cpu() - before
        gigabytes = self.repeats * self.clients * size / GB
        return {"cpu_s_per_gb": round(cpu / gigabytes, 4), "gb_per_s": round(gigabytes / seconds, 3)}


class Small(Case):
    """Connections that ask for something small, one request after the other."""

    standing = True
    measures = {"cpu_us_per_request": Measure("CPU per request", "µs"),
                "requests_per_s": Measure("requests", "1/s", less=False)}
    drawn = ("cpu_us_per_request",)
    bars = (Bar("cpu_us_per_request", 0.85, "CPU per request of nginx's", of_peer="nginx"),)
    connections = 64

    def __init__(self, what, title, method="GET"):
        self.what, self.method = what, method
        self.name = f"small-{what}" if method == "GET" else f"small-{method.lower()}"
        self.title = title
        client = "wrk, one thread" if method == "GET" else "the Python client"
        self.text = f"{self.connections} kept connections, one request after the other ({client})."

    def peers(self, world):
        return world.plain

    def prepare(self, world):
        is_warm(world, world.plain)

    def measure(self, world, peer, number):
        seconds = 1 if world.options.quick else 2
        before = peer.cpu()
        if self.method == "GET":
            requests = wrk(peer, seconds, self.connections, world.image[self.what])
        else:
            requests = readers.work(peer.url, kind="small", connections=self.connections, seconds=seconds,
                                    paths=[world.image[self.what]], method=self.method, deadline=60)["requests"]
        cpu = peer.cpu() - before
        return {"cpu_us_per_request": round(cpu / requests * 1e6, 2), "requests_per_s": round(requests / seconds)}


class Many(Small):
    """So many that hardly any is the one just asked for."""

    measures, drawn, bars = Small.measures, Small.drawn, (
        Bar("cpu_us_per_request", 0.85, "CPU per request of nginx's", of_peer="nginx", named=False),)
    connections = 64

    def __init__(self, name, title):
        self.name, self.title = name, title
        self.text = f"{self.connections} kept connections ask for one after another (wrk, one thread)."

    def prepare(self, world):
        super().prepare(world)
        self.paths = world.many
        self.script = world.work / "many.lua"
        in_turn(self.script, self.paths)
        for peer in world.plain:
            for path in self.paths:
                fetched(peer, path)

    def measure(self, world, peer, number):
        seconds = 1 if world.options.quick else 2
        before = peer.cpu()
        requests = wrk(peer, seconds, self.connections, "/", "-s", str(self.script))
        cpu = peer.cpu() - before
        return {"cpu_us_per_request": round(cpu / requests * 1e6, 2), "requests_per_s": round(requests / seconds)}


def fetched(peer, path):
    """One small blob, every byte checked."""
    with urllib.request.urlopen(peer.url + path, timeout=60) as answer:
        if images.sha256(answer.read(MIB)) != digest_of(path):
            raise SystemExit(f"{peer.name}: wrong bytes for {path}")


def in_turn(script, paths):
    """Writes a script for wrk that asks for one after the other."""
    lines = ",\n".join(f'"{path}"' for path in paths)
    script.write_text(f"local paths = {{\n{lines}\n}}\nlocal at = 0\n"
                      "request = function()\n  at = at % #paths + 1\n  return wrk.format('GET', paths[at])\nend\n")


def wrk(peer, seconds, connections, path, *more):
    """Requests that were answered."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s",
               "-H", f"Accept: {images.MANIFEST}", *more, peer.url + path]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        raise SystemExit(f"wrong answers of {peer.name}: {said}")
    return max(1, int(re.search(r"(\d+) requests in", said)[1]))


AES = ("--tls13-ciphers", "TLS_AES_128_GCM_SHA256")
ALL = [
    Warm("warm", "Warm blob, HTTP/1.1", "8 curls at once read a cached blob of 256 MiB, twice.",
         (Bar("cpu_s_per_gb", 0.65, "CPU per GB of nginx's (sendfile)", of_peer="nginx"),
          Bar("gb_per_s", 1.0, "throughput of nginx's", of_peer="nginx", at_least=True))),
    Warm("warm-tls", "Warm blob, HTTPS with HTTP/1.1", "8 curls, TLS 1.3 with AES-128-GCM, the same P-256 certificate.",
         (Bar("cpu_s_per_gb", 1.0, "CPU per GB of nginx's", of_peer="nginx"),),
         secure=True, repeats=1, flags=("--http1.1", *AES)),
    Warm("warm-h2", "Warm blob, HTTPS with HTTP/2", "8 curls, the same with HTTP/2.",
         (Bar("cpu_s_per_gb", 1.3, "CPU per GB of our own over HTTP/1.1", of_case="warm-tls"),),
         secure=True, repeats=1, flags=("--http2", *AES)),
    Small("ping", "GET /v2/"),
    Small("tag", "Manifest by a fresh tag"),
    Small("manifest", "Manifest by digest"),
    Small("config", "Config blob by digest"),
    Many("small-many", f"Config blobs, any of {images.MANY:,}"),
    Small("manifest", "HEAD of a manifest by digest", "HEAD"),
]
