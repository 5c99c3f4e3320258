"""What the mirrors keep in memory: idle, with a thousand readers, and while something big streams through."""

import shutil
import time

import origin
import readers
from case import MIB, Bar, Case, Measure
from cases_fanout import RATE, know
from process import Sampler

HOW = ("Anonymous memory is `RssAnon` of `/proc/PID/status`, summed over the peer's processes and sampled every 0.2 s: "
       "mapped file pages and shared zones are not in it. Resident is `VmRSS`, everything.")
READER_RATE = 1_000_000
BIG_SECONDS_MAX = 240


class Memory(Case):
    """Idle, and a thousand readers."""

    name = "memory"
    title = "Memory"
    rounds_max = 1
    measures = {
        "idle_resident_mb": Measure("resident after the start", "MB"),
        "pulled_resident_mb": Measure("resident after one warm pull", "MB"),
        "pulled_anonymous_mb": Measure("anonymous after one warm pull", "MB"),
        "cold_anonymous_mb": Measure("peak anonymous, cold readers", "MB"),
        "cold_mb_per_s": Measure("what all cold readers got", "MB/s", less=False),
        "warm_anonymous_mb": Measure("peak anonymous, warm readers", "MB"),
        "warm_mb_per_s": Measure("what all warm readers got", "MB/s", less=False),
    }
    drawn = ("idle_resident_mb", "cold_anonymous_mb", "warm_anonymous_mb")
    bars = (
        Bar("idle_resident_mb", 20, "MB resident, idle", how="most"),
        Bar("cold_anonymous_mb", 100, "MB anonymous, readers of a cold blob", how="most"),
        Bar("warm_anonymous_mb", 100, "MB anonymous, readers of a warm blob", how="most"),
    )

    def prepare(self, world):
        quick = world.options.quick
        self.count, self.seconds = (100, 3) if quick else (1000, 15)
        size = (64 if quick else 256) * MIB
        self.image = origin.Image("memory", [origin.Blob(4, size)])
        world.made.add(self.image)
        self.text = (
            f"{self.count} readers at once, each at 1 MB/s for {self.seconds} s, of one blob of {size // MIB} MiB, first cold "
            f"(the origin gives 100 MB/s to each connection), then warm. {HOW}")

    def crowd(self, peer):
        blob = self.image.blobs[0]
        with Sampler(peer) as sampler:
            said = readers.work(peer.url, kind="bodies", connections=self.count, path=blob.path, size=blob.size,
                                rate=READER_RATE, seconds=self.seconds)
        return round(sampler.peak(), 1), round(said["bytes"] / self.seconds / 1e6, 1)

    def measure(self, world, spec, number):
        peer = world.spawn(spec, world.made.url)
        blob = self.image.blobs[0]
        world.made.rate(RATE)
        try:
            peer.settle()
            idle = peer.memory()[1]
            know(peer, self.image)
            peer.settle()
            cold, cold_rate = self.crowd(peer)
            # Whoever is still fetching for readers that left is let go.
            peer.end()
            world.made.rate(0)
            peer.start()
            for _ in range(2):
                readers.work(peer.url, kind="bodies", connections=1, path=blob.path, size=blob.size, keep="whole",
                             digest=blob.digest, deadline=60)
            peer.end()
            peer.start()
            readers.work(peer.url, kind="bodies", connections=1, path=blob.path, size=blob.size)
            peer.settle()
            pulled_anonymous, pulled = peer.memory()
            warm, warm_rate = self.crowd(peer)
        finally:
            world.made.rate(0)
            world.drop(peer)
        return {"idle_resident_mb": round(idle, 1), "pulled_resident_mb": round(pulled, 1),
                "pulled_anonymous_mb": round(pulled_anonymous, 1), "cold_anonymous_mb": cold,
                "cold_mb_per_s": cold_rate, "warm_anonymous_mb": warm, "warm_mb_per_s": warm_rate}


class Big(Case):
    """A blob bigger than memory ought to notice."""

    name = "memory-big"
    title = "A big blob streams through"
    rounds_max = 1
    measures = {
        "anonymous_mb": Measure("peak anonymous", "MB"),
        "growth_mb": Measure("anonymous, last quarter above the second", "MB"),
        "wall_s": Measure("time", "s"),
        "cpu_s": Measure("CPU", "s"),
    }
    drawn = ("anonymous_mb",)
    bars = (
        Bar("anonymous_mb", 100, "MB anonymous", how="most", named=False),
        Bar("growth_mb", 8, "MB of growth from the second quarter to the last", how="most", named=False),
    )

    def prepare(self, world):
        size = world.options.big_gb << 30
        free = shutil.disk_usage(world.work).free
        if size * 5 // 4 > free:
            raise SystemExit(f"memory-big: {world.options.big_gb} GiB do not fit the disk, where {free >> 30} GiB are "
                             "free; a smaller one: --big-gb")
        self.image = origin.Image("big", [origin.Blob(origin.BIG_SEED, size)])
        world.made.add(self.image)
        self.text = (
            f"One reader, one cold blob of {world.options.big_gb} GiB, an origin without a limit; every byte that the reader "
            f"gets is hashed, as all mirrors but nginx do too. {HOW}")

    def measure(self, world, spec, number):
        blob = self.image.blobs[0]
        peer = world.spawn(spec, world.made.url, max_gb=blob.size * 5 // 4 // 10**9 + 1)
        try:
            know(peer, self.image)
            before, began = peer.settle(), time.monotonic()
            with Sampler(peer) as sampler:
                readers.work(peer.url, kind="bodies", connections=1, path=blob.path, size=blob.size, keep="stream",
                             digest=blob.digest, deadline=max(BIG_SECONDS_MAX, 30 * world.options.big_gb))
            wall = time.monotonic() - began
            cpu = peer.cpu() - before
        finally:
            world.drop(peer)
        world.series.setdefault(self.name, {})[spec.name] = [sample[:2] for sample in sampler.samples]
        return {"anonymous_mb": round(sampler.peak(), 1), "growth_mb": round(sampler.growth(), 1),
                "wall_s": round(wall, 1), "cpu_s": round(cpu, 2)}


ALL = [Memory(), Big()]
