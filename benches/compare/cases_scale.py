"""What a hit costs a store that has very many blobs."""

import dataclasses
import hashlib
import http.client
import os
import re
import shutil
import struct
import time
import urllib.request

import origin
from case import Bar, Case, Measure, check, digest_of
from cases_fanout import know
from cases_warm import in_turn, wrk

SAMPLE = 2000
SCAN_SECONDS_MAX = 300
CONNECTIONS = 64


def fabricated(number):
    """The digest of a blob that is only said to be there: spread like real ones."""
    noise = hashlib.blake2b(struct.pack("<Q", number), digest_size=27).hexdigest()
    return noise + origin.FABRICATED_END


class Hits(Case):
    """Hits, by how much is stored."""

    name = "scale-hits"
    title = "Hits by stored blobs"
    rounds_max = 3
    x, x_log = "stored blobs", True
    measures = {"manifest_cpu_us": Measure("manifest by digest", "µs of CPU"),
                "blob_cpu_us": Measure(f"blobs of 1 KiB by digest, any of {SAMPLE}", "µs of CPU")}
    drawn = ("manifest_cpu_us", "blob_cpu_us")
    bars = (Bar("manifest_cpu_us", 1.2, "a manifest: the dearest point, of the cheapest", how="spread", named=False),
            Bar("blob_cpu_us", 1.2, "a blob: the dearest point, of the cheapest", how="spread", named=False))

    def peers(self, world):
        return [spec for spec in world.specs if spec.kind == "roadstead"]

    def prepare(self, world):
        self.counts = world.options.blobs
        self.seconds = 1 if world.options.quick else 3
        self.rounds_each = min(self.rounds_max, world.options.rounds)
        self.image = origin.Image("scale", [origin.Blob(9, 1 << 20)])
        world.made.add(self.image)
        self.store, self.stored, self.peer_of = None, 0, {}
        self.text = (
            "64 kept connections, wrk. The store is made of empty files of 1 KiB under digests, which roadstead takes into "
            f"its index at the start; {SAMPLE} of them, any, are asked for in turn, so that no single one is hot (roadstead "
            "keeps fewer files open). Only roadstead: what the others' hits cost is above.")

    def grow(self, count):
        """Adds blobs to the store, up to so many."""
        base = self.store / "cache" / "blobs" / "sha256"
        for shard in range(256):
            (base / f"{shard:02x}").mkdir(parents=True, exist_ok=True)
        for number in range(self.stored, count):
            name = fabricated(number)
            file = os.open(base / name[:2] / name, os.O_CREAT | os.O_WRONLY, 0o644)
            os.ftruncate(file, origin.FABRICATED_BYTES)
            os.close(file)
        self.stored = count

    def started(self, world, spec, count):
        """A roadstead on the store, when it knows all of it."""
        spec = dataclasses.replace(spec, cache_keys="scrub = 'off'\nmin_free = '0'")
        peer = world.spawn(spec, world.made.url, max_gb=100_000, directory=self.store)
        deadline = time.monotonic() + SCAN_SECONDS_MAX
        admin = (self.store / "admin").read_text()
        while time.monotonic() < deadline:
            text = urllib.request.urlopen(f"{admin}/metrics", timeout=30).read().decode()
            known = float(re.search(r"^roadstead_cache_blobs (\S+)$", text, re.M)[1])
            if known >= count:
                return peer
            time.sleep(0.2)
        raise SystemExit(f"scale-hits: after {SCAN_SECONDS_MAX} s {spec.name} knows {known:.0f} of {count} blobs")

    def linked(self, peer, count):
        """Has the blobs of the sample asked for once; their paths."""
        step = max(1, count // SAMPLE)
        paths = [f"/v2/{origin.REPOSITORY}/blobs/sha256:{fabricated(number)}" for number in range(0, count, step)][:SAMPLE]
        connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=60)
        for path in paths:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != 200 or len(answer.read()) != origin.FABRICATED_BYTES:
                raise SystemExit(f"scale-hits: a wrong answer to {path}: {answer.status}")
        connection.close()
        return paths

    def measure(self, world, spec, number):
        """All counts and rounds at once, because a store takes long to make."""
        if number:
            return []
        self.store = world.work / f"scale-{spec.name}"
        (self.store / "cache").mkdir(parents=True)
        (self.store / "cache" / "VERSION").write_text("1\n")
        self.stored, points = 0, []
        script = self.store / "any.lua"
        try:
            for count in self.counts:
                self.grow(count)
                (self.store / "cache" / "index.redb").unlink(missing_ok=True)
                peer = self.started(world, spec, count)
                points += [(count, figures) for figures in self.point(world, peer, count, script)]
                peer.end()
                world.running.remove(peer)
        finally:
            if peer in world.running:
                peer.end()
            shutil.rmtree(self.store, ignore_errors=True)
        return points

    def point(self, world, peer, count, script):
        know(peer, self.image)
        check(peer.url + self.image.by_digest, digest_of(self.image.by_digest))
        paths = self.linked(peer, count)
        in_turn(script, paths)
        peer.settle()
        for _ in range(self.rounds_each):
            figures = {}
            for name, path, more in (("manifest_cpu_us", self.image.by_digest, ()),
                                     ("blob_cpu_us", paths[0], ("-s", str(script)))):
                before = peer.cpu()
                requests = wrk(peer, self.seconds, CONNECTIONS, path, *more)
                figures[name] = round((peer.cpu() - before) / requests * 1e6, 2)
            yield figures


ALL = [Hits()]
