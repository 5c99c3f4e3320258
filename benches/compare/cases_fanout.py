"""Many readers of a blob that no cache has yet."""

import dataclasses
import hashlib
import statistics
import time

import origin
import readers
from case import GB, MIB, Bar, Case, Impossible, Measure, get

RATE = 100_000_000
# Who fetches the blob for each reader anew takes long; so long it is waited for.
SECONDS_MAX = 60


def sha_pass_seconds(size):
    """CPU of one SHA-256 pass over so many bytes: the best of three."""
    data, best = origin.NOISE, 1e9
    for _ in range(3):
        made, before = hashlib.sha256(), time.process_time()
        for _ in range(size // len(data)):
            made.update(data)
        best = min(best, time.process_time() - before)
    return best


def know(peer, image):
    """The mirror has the image's manifest, as after the first request of a pull."""
    if peer.kind == "zot":
        raise Impossible("zot fetches an image as a whole when its manifest is asked for, not a blob when that is")
    get(peer.url + image.by_tag)


def variants(world):
    """The peers, and each roadstead once more with one connection for a blob."""
    found = list(world.specs)
    for spec in world.specs:
        if spec.kind == "roadstead":
            found.append(dataclasses.replace(spec, name=f"{spec.name}, parallel = 1", upstream_keys="parallel = 1"))
    return found


class FanOut(Case):
    """Readers at once on one cold blob."""

    rounds_max = 3
    measures = {
        "upstream_ratio": Measure("bytes from upstream, of the blob's", "×"),
        "first_byte_median_ms": Measure("first byte, median", "ms"),
        "first_byte_max_ms": Measure("first byte, last reader", "ms"),
        "first_byte_late_ms": Measure("median first byte after a direct download's", "ms"),
        "wall_ratio": Measure("time to the last byte, of one direct download's", "×"),
        "warm_wall_ratio": Measure("the same readers warm, of one direct download's time", "×"),
        "cpu_s_per_gb": Measure("CPU per GB served", "s/GB"),
        "cpu_of_bound": Measure("CPU, of twice the warm serving's and a SHA-256 pass", "×"),
        "complete": Measure(f"readers with the whole blob after {SECONDS_MAX} s at most", "", less=False),
    }
    drawn = ("first_byte_median_ms", "wall_ratio", "cpu_s_per_gb")
    one = "roadstead, parallel = 1"
    bars = (
        Bar("upstream_ratio", 1.0, "upstream bytes of the blob's", how="most"),
        Bar("first_byte_late_ms", 50, "ms of the median first byte after a direct download's"),
        Bar("wall_ratio", 1.1, "wall time of one direct download's, parallel fetch off", ours=one),
        Bar("cpu_of_bound", 1.0, "CPU of twice that of the same bytes warm and one SHA-256 pass"),
        Bar("cpu_of_bound", 1.0, "the same, parallel fetch off", ours=one),
    )

    def __init__(self, name, title, count, named):
        self.name, self.title, self.whole_count = name, title, count
        self.bars = tuple(dataclasses.replace(bar, named=named) for bar in self.bars)

    def sizes(self, world):
        self.count = self.whole_count // 5 if world.options.quick else self.whole_count
        self.size = (64 if world.options.quick else 256) * MIB

    def peers(self, world):
        return variants(world)

    def prepare(self, world):
        self.sizes(world)
        self.sha = sha_pass_seconds(self.size)
        self.text = (
            f"{self.count} readers at once on one cold blob of {self.size // MIB} MiB; the origin gives 100 MB/s to each "
            "connection. Readers drop the bytes in the kernel, but for one whose digest is checked. One SHA-256 pass over the "
            f"blob costs {self.sha:.2f} s here. For the wall time to be that of one direct download, this machine would have "
            f"to deliver {self.count * RATE / GB:.1f} GB/s; what it can do is in the line of the same readers warm.")
        self.image = origin.Image(self.name, [origin.Blob(1, self.size)])
        world.made.add(self.image)
        self.direct_round = None

    def read(self, url, connections, **more):
        blob = self.image.blobs[0]
        return readers.work(url, kind="bodies", connections=connections, path=blob.path, size=blob.size, keep="whole",
                            digest=blob.digest, deadline=SECONDS_MAX, **more)

    def direct(self, world, number):
        if self.direct_round != number:
            said = self.read(world.made.url, 1)
            self.direct_round, self.direct_wall = number, said["wall_s"]
            self.direct_first = said["first_byte_s"][0]

    def measure(self, world, spec, number):
        world.made.rate(RATE)
        self.direct(world, number)
        peer = world.spawn(spec, world.made.url)
        try:
            know(peer, self.image)
            world.made.reset()
            before = peer.settle()
            cold = self.read(peer.url, self.count, may_be_late=spec.kind != "roadstead")
            upstream = world.made.stats()
            cold_cpu = peer.settle() - before
            if cold["complete"] < self.count:
                # What it holds of the readers that were given up ends with it.
                peer.end()
                peer.start()
            self.read(peer.url, 1)
            before = peer.settle()
            warm = self.read(peer.url, self.count, may_be_late=spec.kind != "roadstead")
            warm_cpu = peer.settle() - before
        finally:
            world.drop(peer)
            world.made.rate(0)
        first = cold["first_byte_s"] or [float(SECONDS_MAX)]
        bound = 2 * warm_cpu * cold["bytes"] / warm["bytes"] + self.sha
        return {
            "upstream_ratio": round(upstream["bytes"] / self.size, 3),
            "first_byte_median_ms": round(statistics.median(first) * 1e3, 1),
            "first_byte_max_ms": round(first[-1] * 1e3, 1),
            "first_byte_late_ms": round((statistics.median(first) - self.direct_first) * 1e3, 1),
            "wall_ratio": round(cold["wall_s"] / self.direct_wall, 3),
            "warm_wall_ratio": round(warm["wall_s"] / self.direct_wall, 3),
            "cpu_s_per_gb": round(cold_cpu / (cold["bytes"] / GB), 4),
            "cpu_of_bound": round(cold_cpu / bound, 3),
            "complete": cold["complete"],
        }


class Curve(Case):
    """What a cold blob costs, by something that grows: for roadsteads."""

    rounds_max = 3
    measures = {"cpu_s": Measure("CPU", "s")}
    drawn = ("cpu_s",)

    def peers(self, world):
        return [spec for spec in world.specs if spec.kind == "roadstead"]

    def one(self, world, spec, image, connections):
        blob = image.blobs[0]
        peer = world.spawn(spec, world.made.url)
        try:
            know(peer, image)
            before = peer.settle()
            readers.work(peer.url, kind="bodies", connections=connections, path=blob.path, size=blob.size,
                         keep="whole", digest=blob.digest, deadline=SECONDS_MAX)
            return {"cpu_s": round(peer.settle() - before, 3)}
        finally:
            world.drop(peer)


class ByReaders(Curve):
    name = "scale-readers"
    title = "Fan-out by readers"
    x = "readers"
    bars = (Bar("cpu_s", 0.98, "R² of a straight line through the medians", at_least=True, how="line", named=False),)

    def prepare(self, world):
        self.counts = [1, 5, 10, 20] if world.options.quick else [1, 10, 50, 100, 200]
        size = (16 if world.options.quick else 64) * MIB
        self.text = f"A cold blob of {size // MIB} MiB, an origin without a limit, a fresh mirror for each point."
        self.image = origin.Image("by-readers", [origin.Blob(2, size)])
        world.made.add(self.image)

    def measure(self, world, spec, number):
        return [(count, self.one(world, spec, self.image, count)) for count in self.counts]


class ByBytes(Curve):
    name = "scale-bytes"
    title = "Fill by bytes"
    x = "size of the blob, MiB"
    bars = (Bar("cpu_s", 0.98, "R² of a straight line through the medians", at_least=True, how="line", named=False),)
    text = "One reader of a cold blob, an origin without a limit, a fresh mirror for each point."

    def prepare(self, world):
        self.sizes = [4, 16, 64] if world.options.quick else [16, 64, 256, 1024]
        self.images = {}
        for size in self.sizes:
            self.images[size] = origin.Image(f"by-bytes-{size}", [origin.Blob(3, size * MIB)])
        world.made.add(*self.images.values())

    def measure(self, world, spec, number):
        return [(size, self.one(world, spec, self.images[size], 1)) for size in self.sizes]


ALL = [FanOut("fan-out", "Cold fan-out, 100 readers", 100, True), FanOut("fan-out-20", "Cold fan-out, 20 readers", 20, False)]
CURVES = [ByReaders(), ByBytes()]
