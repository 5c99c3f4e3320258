"""What an upstream or a client can make roadstead keep: memory, index, room on the disk, reads of the disk."""

import asyncio
import json
import os

from flood import unread
from lab import MANIFEST, Mirror, Registry, digest, get, image
from meeting import head, swallow

CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(b"{}"), "size": 2}


async def one(binary, extra="", registry=None):
    good = registry or await Registry().start()
    mirror = await asyncio.to_thread(Mirror, binary, {"a.test": good.port}, extra)
    return good, mirror


async def b6(binary):
    """Memory and index, bounded in bytes."""
    return [await lists(binary), await types(binary), await index(binary), await challenges(binary), await names(binary), await manifests_unread(binary)]


async def lists(binary):
    good = await Registry().start()
    tags = json.dumps({"name": "x", "tags": ["t" * 100 + str(number) for number in range(65000)]}).encode()

    async def hook(request, writer):
        if "/tags/list" in request["path"]:
            good.send(writer, request["method"], 200, "application/json", tags.replace(b'"x"', json.dumps(request["path"].split("/")[2]).encode()))
            await writer.drain()
            return True
        return False

    good.hook = hook
    good, mirror = await one(binary, registry=good)
    try:
        rss = mirror.rss()
        writers = []
        for number in range(40):
            writers += await unread(mirror.port, f"/v2/r{number}/tags/list?n=100000", 1)
        await asyncio.sleep(5)
        grown = (mirror.rss() - rss) / 1e6
        for writer in writers:
            writer.close()
        # What docs/operations.md says: 64 MiB unread, 32 MiB being read, 32 MiB of lists that were seen; and the allocator.
        return (f"40 lists of {len(tags) / 1e6:.1f} MB that nobody reads", f"RSS +{grown:.0f} MB", grown < 160)
    finally:
        mirror.close()


def typed(number, size):
    return json.dumps({"schemaVersion": 2, "mediaType": f"application/vnd.{number}." + "x" * size, "config": CONFIG, "layers": []}).encode()


async def types(binary):
    good, mirror = await one(binary)
    try:
        for number in range(50):
            body = typed(number, 4_000_000)
            good.add("team/app", f"t{number}", body, {})
            good.types[digest(body)] = "application/json"
        rss = mirror.rss()
        for number in range(50):
            await swallow(get(mirror.port, f"/v2/team/app/manifests/t{number}"))
        grown = (mirror.rss() - rss) / 1e6
        return ("50 manifests with a media type of 4 MB", f"RSS +{grown:.0f} MB", grown < 120)
    finally:
        mirror.close()


async def index(binary):
    good, mirror = await one(binary, 'max_size = "150MB"\n')
    try:
        for number in range(24):
            body = typed(number, 4_000_000)
            good.add("team/app", f"t{number}", body, {})
            good.types[digest(body)] = "application/json"
        manifest, blobs = image(2 << 20)
        good.add("team/app", "good", manifest, blobs)
        for number in range(24):
            await swallow(get(mirror.port, f"/v2/team/app/manifests/t{number}"))
        await asyncio.sleep(2)
        size = os.path.getsize(os.path.join(mirror.cache, "index.redb")) / 1e6
        await asyncio.to_thread(mirror.stop)
        again = await asyncio.to_thread(Mirror, binary, {"a.test": good.port}, 'max_size = "150MB"\n', mirror.cache)
        await get(again.port, "/v2/team/app/manifests/good")
        layer = max(blobs.items(), key=lambda it: len(it[1]))[0]
        said = []
        for _ in range(2):
            _, fields, _, _ = await get(again.port, f"/v2/team/app/blobs/{layer}")
            said.append(fields.get("cache-status", "").removeprefix("roadstead; "))
            await asyncio.sleep(1)
        ready = (await get(again.admin, "/readyz"))[2].decode().strip()
        again.close()
        return ("24 of them in a cache of 150 MB", f"index {size:.0f} MB; after a restart a blob is {said}, /readyz {ready!r}", size < 60 and said[-1] == "hit")
    finally:
        mirror.close()


async def challenges(binary):
    good = await Registry().start()

    async def hook(request, writer):
        if request["path"].startswith("/token"):
            body = json.dumps({"token": "t" * 50000, "expires_in": 3600}).encode()
            good.send(writer, "GET", 200, "application/json", body)
            await writer.drain()
            return True
        if "authorization" not in request["headers"]:
            name = request["path"].split("/")[2]
            scope = f"repository:{name}:pull" + " x" * 3000
            writer.write(
                f'HTTP/1.1 401 x\r\nwww-authenticate: Bearer realm="http://127.0.0.1:{good.port}/token",service="{"s" * 3000}",scope="{scope}"\r\ncontent-length: 0\r\n\r\n'.encode()
            )
            await writer.drain()
            return True
        return False

    good.hook = hook
    good, mirror = await one(binary, registry=good)
    try:
        await get(mirror.port, "/v2/warm/manifests/x")
        rss = mirror.rss()

        async def ask(worker):
            for number in range(worker, 1500, 8):
                await swallow(get(mirror.port, f"/v2/r{number}/manifests/x"))

        await asyncio.gather(*(ask(worker) for worker in range(8)))
        grown = (mirror.rss() - rss) / 1e6
        return ("1500 repositories with tokens of 50 kB and challenges of 9 kB", f"RSS +{grown:.0f} MB", grown < 60)
    finally:
        mirror.close()


async def names(binary):
    good, mirror = await one(binary)
    try:
        await get(mirror.port, "/v2/warm/manifests/x")
        rss, long = mirror.rss(), "n" * 200

        async def ask(worker):
            for number in range(worker, 12000, 16):
                await swallow(get(mirror.port, f"/v2/{long}{number}/manifests/{'t' * 120}{number}"))

        await asyncio.gather(*(ask(worker) for worker in range(16)))
        grown = (mirror.rss() - rss) / 1e6
        return ("12000 missing tags with long names", f"RSS +{grown:.0f} MB", grown < 40)
    finally:
        mirror.close()


async def manifests_unread(binary):
    good, mirror = await one(binary)
    try:
        for number in range(60):
            body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": CONFIG, "layers": [], "annotations": {"x": "y" * 4_000_000, "n": str(number)}}).encode()
            good.add("team/app", f"t{number}", body, {})
        rss = mirror.rss()
        writers = []
        for number in range(60):
            writers += await unread(mirror.port, f"/v2/team/app/manifests/t{number}", 1)
        await asyncio.sleep(5)
        grown = (mirror.rss() - rss) / 1e6
        for writer in writers:
            writer.close()
        return ("60 manifests of 4 MB that nobody reads", f"RSS +{grown:.0f} MB", grown < 200)
    finally:
        mirror.close()


async def b7(binary):
    """A size that is only claimed evicts nothing."""
    rows = []
    for form in ("manifest's size, silence", "Content-Length, silence", "manifest's size, 1 MB and silence", "endless blob", "endless blob of a known size", "8 claims at once"):
        good = await Registry().start()
        stored = {}
        for number in range(15):
            manifest, blobs = image(5 << 20, str(number).encode())
            good.add("team/app", f"s{number}", manifest, blobs)
            stored[number] = max(blobs.items(), key=lambda it: len(it[1]))[0]
        claims = [digest(f"{form}{number}".encode()) for number in range(8 if form.startswith("8") else 1)]
        size = 85_000_000
        layers = [{"mediaType": "application/octet-stream", "digest": claim, "size": size} for claim in claims]
        good.add("team/app", "evil", json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": CONFIG, "layers": layers}).encode(), {digest(b"{}"): b"{}"})

        async def hook(request, writer):
            if not any(claim in request["path"] for claim in claims) or request["method"] == "HEAD":
                return False
            if form.startswith("endless"):
                writer.write(head(size if "known" in form else None))
                for _ in range(1000):
                    writer.write(b"E" * 300_000)
                    await writer.drain()
                return True
            writer.write(head(size) if "silence" in form or form.startswith("8") else b"")
            writer.write(b"W" * 1_000_000 if "1 MB" in form else b"")
            await writer.drain()
            await asyncio.sleep(20)
            return True

        good.hook = hook
        _, mirror = await one(binary, 'max_size = "100MB"\n', good)
        try:
            for number, layer in stored.items():
                await get(mirror.port, f"/v2/team/app/manifests/s{number}")
                await get(mirror.port, f"/v2/team/app/blobs/{layer}")
            before = mirror.metric("roadstead_cache_blobs")
            if "manifest" in form or "known" in form or form.startswith("8"):
                await get(mirror.port, "/v2/team/app/manifests/evil")
            attacks = [asyncio.create_task(swallow(get(mirror.port, f"/v2/team/app/blobs/{claim}", timeout=15))) for claim in claims]
            await asyncio.sleep(6)
            for attack in attacks:
                attack.cancel()
            files = {name for _, _, names in os.walk(os.path.join(mirror.cache, "blobs")) for name in names}
            lost = sum(layer.removeprefix("sha256:") not in files for layer in stored.values())
            after = mirror.metric("roadstead_cache_blobs")
            rows.append((form, f"{15 - lost} of 15 blobs left ({before:.0f} -> {after:.0f} with manifests)", lost <= (8 if form.startswith("endless") else 0)))
        finally:
            mirror.close()
    return rows


async def b8(binary):
    """A wrong size in a manifest costs no reads of the stored blob."""
    rows = []
    for form, change, method in (
        ("one byte more", 1, "GET"),
        ("half", -(32 << 20), "GET"),
        ("one byte more, HEAD", 1, "HEAD"),
        ("one byte more, known after a restart", 1, "GET"),
        ("one byte more, in another repository", 1, "GET"),
    ):
        good = await Registry().start()
        manifest, blobs = image(64 << 20)
        good.add("team/app", "1", manifest, blobs)
        layer, data = max(blobs.items(), key=lambda it: len(it[1]))
        wrong = json.loads(manifest)
        wrong["layers"][0]["size"] = len(data) + change
        repository = "other/app" if "another" in form else "team/app"
        good.add(repository, "wrong", json.dumps(wrong).encode(), {layer: data})
        _, mirror = await one(binary, "", good)
        try:
            await get(mirror.port, "/v2/team/app/manifests/1")
            await get(mirror.port, f"/v2/team/app/blobs/{layer}")
            await get(mirror.port, f"/v2/{repository}/manifests/wrong")
            if "restart" in form:
                await asyncio.sleep(1)
                await asyncio.to_thread(mirror.stop)
                folder, cache = mirror.folder, mirror.cache
                mirror = await asyncio.to_thread(Mirror, binary, {"a.test": good.port}, "", cache)
            read, cpu, right = mirror.read_bytes(), mirror.cpu(), 0
            for number in range(4):
                await get(mirror.port, f"/v2/{repository}/manifests/wrong")
                at = range(number * 4, number * 4 + 4)
                path = f"/v2/{repository}/blobs/{layer}"
                answers = await asyncio.gather(*(get(mirror.port, path, {"range": f"bytes={it}-{it}"}, method) for it in at))
                for it, (_, fields, body, _) in zip(at, answers):
                    right += body == data[it : it + 1] if method == "GET" else fields.get("content-length") in (str(len(data)), "1")
            read, cpu = (mirror.read_bytes() - read) / 1e6, mirror.cpu() - cpu
            rows.append((form, f"16 requests: {read:.0f} MB read, {cpu:.2f} CPU-s, {right} right", read < 10 and cpu < 0.3 and right == 16))
        finally:
            mirror.close()
    return rows


CASES = {"B6": b6, "B7": b7, "B8": b8}
