"""A cache directory that goes from one version to another and back."""

import asyncio
import os
import signal

from lab import Mirror, Registry, digest, get, image
from meeting import head, swallow


async def pull(mirror, name, tag, manifest, blobs):
    """How each part of an image was found; wrong bytes are said so."""
    found = []
    wanted = {f"manifests/{tag}": manifest, f"manifests/{digest(manifest)}": manifest, **{f"blobs/{name}": data for name, data in blobs.items()}}
    for path, content in wanted.items():
        status, fields, body, clean = await get(mirror.port, f"/v2/{name}/{path}", timeout=15)
        right = status == 200 and clean and body == content
        found.append(fields.get("cache-status", "").removeprefix("roadstead; ") if right else f"{status}, wrong")
    return found


async def there_and_back(old, new, end):
    rows = []
    good, other = await Registry().start(), await Registry().start()
    images = {tag: image(100_000, tag.encode()) for tag in ("old", "new", "again")}
    for tag, (manifest, blobs) in images.items():
        good.add("team/app", tag, manifest, blobs)
        other.add("copy/app", tag, manifest, blobs)
    big, blobs = image(80 << 20, b"big")
    good.add("team/app", "big", big, blobs)
    layer = max(blobs.items(), key=lambda it: len(it[1]))[0]

    async def slow(request, writer):
        if f"/blobs/{layer}" not in request["path"] or request["method"] == "HEAD":
            return False
        data = blobs[layer]
        writer.write(head(len(data)) + data[: 70 << 20])
        await writer.drain()
        await asyncio.sleep(20)
        return True

    good.hook = slow
    cache, mirrors = None, []

    async def start(binary):
        nonlocal cache
        mirror = await asyncio.to_thread(Mirror, binary, {"a.test": good.port, "b.test": other.port}, "", cache)
        cache = mirror.cache
        mirrors.append(mirror)
        return mirror

    async def ended(mirror):
        mirror.process.send_signal(end)
        await asyncio.to_thread(mirror.process.wait)

    async def offline(mirror, tags, what):
        """With upstreams that answer nothing, all that was pulled is there."""
        hook, good.hook, other.hook = good.hook, dead, dead
        for tag in tags:
            found = await pull(mirror, "a.test/team/app", tag, *images[tag])
            rows.append((f"{end.name}, {what}: {tag}", ", ".join(found), all(it in ("hit", "fwd=stale") for it in found)))
        good.hook, other.hook = hook, None

    async def dead(request, writer):
        writer.transport.abort()
        return True

    try:
        first = await start(old)
        await pull(first, "a.test/team/app", "old", *images["old"])
        await get(first.port, "/v2/a.test/team/app/manifests/big")
        cut = asyncio.create_task(swallow(get(first.port, f"/v2/a.test/team/app/blobs/{layer}", timeout=60)))
        await asyncio.sleep(4)
        await ended(first)
        cut.cancel()
        second = await start(new)
        await offline(second, ["old"], "opened by the new one")
        await pull(second, "a.test/team/app", "new", *images["new"])
        found = await pull(second, "b.test/copy/app", "old", *images["old"])
        rows.append((f"{end.name}, another upstream's copy, by the new one", ", ".join(found), not any("wrong" in it for it in found)))
        good.hook = None
        status, _, body, _ = await get(second.port, f"/v2/a.test/team/app/blobs/{layer}", timeout=60)
        rows.append((f"{end.name}, a fill that the old one left, by the new one", f"{status}, right={body == blobs[layer]}", body == blobs[layer]))
        good.hook = slow
        await asyncio.sleep(1)
        await ended(second)
        third = await start(old)
        await offline(third, ["old", "new"], "back to the old one")
        await pull(third, "a.test/team/app", "again", *images["again"])
        await asyncio.sleep(1)
        await ended(third)
        fourth = await start(new)
        await offline(fourth, ["old", "new", "again"], "and to the new one again")
        leftovers = [name for folder in ("fills", "damaged") for _, _, names in os.walk(os.path.join(cache, folder)) for name in names]
        rows.append((f"{end.name}, files of fills left", str(leftovers), not leftovers))
    finally:
        for mirror in mirrors[1:]:
            mirror.close()
        for mirror in mirrors[:1]:
            mirror.close()
    return rows


async def versions(binary):
    """A cache directory of the version before (OLD=PATH) is opened, used, and gone back from."""
    old = os.environ.get("OLD")
    if not old:
        return [("no OLD=PATH to another version's binary", "left out", True)]
    return await there_and_back(old, binary, signal.SIGTERM) + await there_and_back(old, binary, signal.SIGKILL)


CASES = {"versions": versions}
