"""Whether some clients, or the disk, hold up the others."""

import pathlib

import origin
import readers
from case import GB, MIB, Bar, Case, Impossible, Measure, check, digest_of
from cases_fanout import know
from process import sockets_mb
from slowdisk import SlowDisk

SLOW_RATE = 100_000
THINK_SECONDS = 0.01
SMALL_CONNECTIONS = 8


def small(peer, image, seconds):
    """Latencies in ms of small answers to clients that take a rest between them: median, 99th of a hundred."""
    said = readers.work(peer.url, kind="small", connections=SMALL_CONNECTIONS, seconds=seconds, think=THINK_SECONDS,
                        paths=[image.by_digest, image.config_path], deadline=60)
    latencies = said["latency_s"]
    return [round(latencies[min(len(latencies) - 1, len(latencies) * part // 100)] * 1e3, 2) for part in (50, 99)]


def checked(peer, *paths):
    """Has each fetched, and every byte checked."""
    for path in paths:
        check(peer.url + path, digest_of(path))


class Fairness(Case):
    """A thousand slow readers, and one that is not."""

    name = "fairness"
    title = "Slow readers beside a fast one"
    rounds_max = 3
    measures = {
        "fast_alone_gb_per_s": Measure("fast reader, alone", "GB/s", less=False),
        "fast_beside_gb_per_s": Measure("fast reader, beside the slow ones", "GB/s", less=False),
        "fast_kept": Measure("of its throughput, kept", "×", less=False),
        "small_alone_p50_ms": Measure("small answers, median, alone", "ms"),
        "small_alone_p99_ms": Measure("small answers, p99, alone", "ms"),
        "small_beside_p50_ms": Measure("small answers, median, beside the slow ones", "ms"),
        "small_beside_p99_ms": Measure("small answers, p99, beside the slow ones", "ms"),
        "slow_got": Measure("of 100 KB/s each, what the slow ones got", "×", less=False),
        "kernel_mb": Measure("memory of all TCP connections", "MB"),
    }
    drawn = ("fast_kept", "small_alone_p99_ms", "small_beside_p99_ms")
    bars = (
        Bar("fast_kept", 0.9, "what the fast reader keeps of its throughput, of what it keeps with nginx",
            of_peer="nginx", at_least=True, named=False),
        Bar("small_beside_p99_ms", 1.1, "p99 of small answers beside the slow readers, of nginx's", of_peer="nginx",
            named=False),
    )

    def prepare(self, world):
        quick = world.options.quick
        self.count, self.repeats, self.seconds = (100, 2, 1) if quick else (1000, 4, 3)
        size = (64 if quick else 256) * MIB
        self.image = origin.Image("fairness", [origin.Blob(5, size), origin.Blob(6, size)])
        world.made.add(self.image)
        self.text = (
            f"{self.count} readers take 100 KB/s each of one cached blob. One fast reader takes another blob of "
            f"{size // MIB} MiB, {self.repeats} times; then {SMALL_CONNECTIONS} connections ask for a manifest and a config "
            "blob every 10 ms. The memory is what /proc/net/sockstat says then, both ends of each connection. The slow readers' "
            "client runs on the same cores and takes its part of them; so on few cores the fast one cannot keep all of its "
            "throughput, whatever the server.")

    def fast(self, peer):
        blob, seconds = self.image.blobs[1], 0.0
        for _ in range(self.repeats):
            seconds += readers.work(peer.url, kind="bodies", connections=1, path=blob.path, size=blob.size)["wall_s"]
        return self.repeats * blob.size / seconds / GB

    def measure(self, world, spec, number):
        peer = world.spawn(spec, world.made.url)
        slow = None
        try:
            know(peer, self.image)
            checked(peer, self.image.by_digest, self.image.config_path, *(blob.path for blob in self.image.blobs))
            peer.settle()
            self.fast(peer)
            alone, small_alone = self.fast(peer), small(peer, self.image, self.seconds)
            blob = self.image.blobs[0]
            slow = readers.Job(peer.url, kind="bodies", connections=self.count, path=blob.path, size=blob.size,
                               rate=SLOW_RATE, seconds=60).ready()
            beside, small_beside, kernel = self.fast(peer), small(peer, self.image, self.seconds), sockets_mb()
            if not slow.running():
                raise SystemExit(f"{peer.name}: the slow readers ended before their time: {''.join(slow.errors)[-500:]}")
            said = slow.finish()
        finally:
            if slow:
                slow.end()
            world.drop(peer)
        return {"fast_alone_gb_per_s": round(alone, 3), "fast_beside_gb_per_s": round(beside, 3),
                "fast_kept": round(beside / alone, 3),
                "small_alone_p50_ms": small_alone[0], "small_alone_p99_ms": small_alone[1],
                "small_beside_p50_ms": small_beside[0], "small_beside_p99_ms": small_beside[1],
                "kernel_mb": round(kernel),
                "slow_got": round(said["bytes"] / (self.count * SLOW_RATE * said["wall_s"]), 3)}


class SlowFiles(Case):
    """Blobs on a disk that does not answer, and small answers beside them."""

    name = "slow-disk"
    title = "Small answers beside a slow disk"
    rounds_max = 3
    measures = {
        "quiet_p50_ms": Measure("median, quiet", "ms"),
        "quiet_p99_ms": Measure("p99, quiet", "ms"),
        "stalled_p50_ms": Measure("median, blob readers stalled", "ms"),
        "stalled_p99_ms": Measure("p99, blob readers stalled", "ms"),
        "blob_mb_per_s": Measure("what the blob readers got", "MB/s", less=False),
    }
    drawn = ("quiet_p99_ms", "stalled_p99_ms")
    bars = (Bar("stalled_p99_ms", 20, "ms, p99 of small answers while blob readers stall", named=False),)
    readers, delay_ms = 8, 400

    def prepare(self, world):
        self.seconds = 2 if world.options.quick else 4
        size = 16 * MIB
        self.image = origin.Image("slow-disk", [origin.Blob(20 + number, size) for number in range(self.readers)])
        world.made.add(self.image)
        self.text = (
            f"{self.readers} cached blobs of {size // MIB} MiB, each under a FUSE file system that lets every read of up to "
            f"128 KiB wait {self.delay_ms} ms, with nothing of them in memory; a reader of each, while {SMALL_CONNECTIONS} "
            "connections ask for a manifest and a config blob every 10 ms (distribution asks upstream for the manifest). "
            "nginx reads with `sendfile` in its workers, without `aio threads`, which is its default.")

    def files(self, peer):
        """Where the peer keeps the big blobs, whatever it calls them."""
        found = [path for path in pathlib.Path(peer.directory).rglob("*")
                 if path.is_file() and not path.is_symlink() and path.stat().st_size >= self.image.blobs[0].size]
        return [path for path in found if path.suffix != ".redb"]

    def measure(self, world, spec, number):
        peer = world.spawn(spec, world.made.url)
        disk, jobs = None, []
        try:
            know(peer, self.image)
            checked(peer, self.image.by_digest, self.image.config_path, *(blob.path for blob in self.image.blobs))
            peer.settle()
            peer.end()
            files = self.files(peer)
            if len(files) != self.readers:
                raise SystemExit(f"slow-disk: {spec.name} has {len(files)} files for {self.readers} blobs")
            disk = SlowDisk(files, self.delay_ms)
            if disk.problem is not None:
                raise Impossible(f"no slow disk can be mounted here: {' '.join(disk.problem)}")
            peer.start()
            checked(peer, self.image.by_digest, self.image.config_path)
            quiet = small(peer, self.image, self.seconds)
            for blob in self.image.blobs:
                jobs.append(readers.Job(peer.url, kind="bodies", connections=1, path=blob.path, size=blob.size,
                                        seconds=self.seconds + 1).ready())
            stalled = small(peer, self.image, self.seconds)
            got = sum(job.result()["bytes"] for job in jobs)
        finally:
            for job in jobs:
                job.end()
            if disk:
                disk.end()
            world.drop(peer)
        return {"quiet_p50_ms": quiet[0], "quiet_p99_ms": quiet[1], "stalled_p50_ms": stalled[0],
                "stalled_p99_ms": stalled[1], "blob_mb_per_s": round(got / (self.seconds + 1) / 1e6, 2)}


ALL = [Fairness(), SlowFiles()]
