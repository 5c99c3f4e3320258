"""What is measured."""

import re
import subprocess
import time

import images

CURL_SECONDS_MAX = 300


def curl(url, *more):
    command = ["curl", "--silent", "--show-error", "--insecure", "--noproxy", "*", "--max-time", str(CURL_SECONDS_MAX),
               "--output", "/dev/null", "--header", f"Accept: {images.MANIFEST}",
               "--write-out", "%{http_code} %{size_download} %{time_starttransfer} %{time_total}\\n", *more, url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process, size=None):
    said = process.communicate()[0].split()
    if process.returncode != 0 or said[0] != "200" or (size is not None and int(said[1]) != size):
        raise SystemExit(f"a wrong answer: {said}, curl ended with {process.returncode}")
    return float(said[2]), float(said[3])


def is_warm(world, peers):
    """Everything is in every cache, and in the operating system's."""
    image = world.image
    for peer in peers:
        for what in ("tag", "manifest", "config", "layer"):
            for _ in range(3):
                finish(curl(peer.url + image[what]))


class Warm:
    """Clients that read a cached blob at once, again and again."""

    def __init__(self, name, secure=False, clients=8, repeats=2, flags=()):
        self.name, self.secure, self.clients, self.repeats, self.flags = name, secure, clients, repeats, flags

    def prepare(self, world):
        is_warm(world, world.secure if self.secure else world.plain)

    def measure(self, world, peer):
        size = world.image["layer_bytes"]
        url = peer.url + world.image["layer"]
        before, began = peer.cpu(), time.monotonic()
        for _ in range(self.repeats):
            running = [curl(url, *self.flags) for _ in range(self.clients)]
            for process in running:
                finish(process, size)
        seconds, cpu = time.monotonic() - began, peer.cpu() - before
        gigabytes = self.repeats * self.clients * size / 1e9
        return {"cpu_s_per_gb": round(cpu / gigabytes, 4), "gb_per_s": round(gigabytes / seconds, 3)}


class Small:
    """Connections that ask for something small, one request after the other."""

    secure = False

    def __init__(self, what, connections=64, seconds=4):
        self.name = f"small-{what}"
        self.what, self.connections, self.seconds = what, connections, seconds

    def prepare(self, world):
        is_warm(world, world.plain)

    def measure(self, world, peer):
        command = ["wrk", "-t1", f"-c{self.connections}", f"-d{self.seconds}s",
                   "-H", f"Accept: {images.MANIFEST}", peer.url + world.image[self.what]]
        before = peer.cpu()
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        cpu = peer.cpu() - before
        requests = int(re.search(r"(\d+) requests in", said)[1])
        if "Non-2xx" in said:
            raise SystemExit(f"wrong answers of {peer.name}: {said}")
        return {"cpu_us_per_request": round(cpu / requests * 1e6, 2), "requests_per_s": round(requests / self.seconds)}


AES = ("--tls13-ciphers", "TLS_AES_128_GCM_SHA256")
ALL = [
    Warm("warm"),
    Warm("warm-tls", secure=True, repeats=1, flags=("--http1.1", *AES)),
    Warm("warm-h2", secure=True, repeats=1, flags=("--http2", *AES)),
    *[Small(what) for what in ("ping", "tag", "manifest", "config")],
]
