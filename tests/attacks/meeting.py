"""Two upstreams that meet: nothing of B that is unverified reaches A's clients."""

import asyncio
import json

from lab import INDEX, MANIFEST, Mirror, Registry, digest, get, image


async def two(binary, layer_size=4 << 20, extra=""):
    """A good registry, a bad one, and a mirror of both; A's image has the layer that B will lie about."""
    good, bad = await Registry().start(), await Registry().start()
    manifest, blobs = image(layer_size)
    good.add("team/app", "1", manifest, blobs)
    layer = max(blobs.items(), key=lambda it: len(it[1]))
    bad.add("evil/app", "1", manifest, blobs)
    mirror = await asyncio.to_thread(Mirror, binary, {"a.test": good.port, "b.test": bad.port}, extra)
    return good, bad, mirror, layer


def lying(bad, name, answer):
    """B answers what `answer` writes when its blob `name` is fetched."""

    async def hook(request, writer):
        if f"/blobs/{name}" in request["path"] and request["method"] == "GET":
            await answer(request, writer)
            return True
        return False

    bad.hook = hook


def head(length, status="200 OK", extra=""):
    size = "" if length is None else f"content-length: {length}\r\n"
    return f"HTTP/1.1 {status}\r\ncontent-type: application/octet-stream\r\n{size}{extra}\r\n".encode()


async def a1(binary):
    """Fills of one digest from two upstreams."""
    rows = []
    forms = {}

    async def wrong_slow(request, writer):
        writer.write(head(4 << 20) + b"W" * (1 << 20))
        await writer.drain()
        await asyncio.sleep(20)

    async def wrong_size(request, writer):
        writer.write(head(10) + b"W" * 5)
        await writer.drain()
        await asyncio.sleep(20)

    async def drip(request, writer):
        writer.write(head(4 << 20))
        for _ in range(400):
            writer.write(b"W" * 1000)
            await writer.drain()
            await asyncio.sleep(0.05)

    async def silent(request, writer):
        await asyncio.sleep(30)

    async def endless(request, writer):
        writer.write(head(None))
        for _ in range(300):
            writer.write(b"W" * 65536)
            await writer.drain()
            await asyncio.sleep(0.05)

    async def wrong_fast(request, writer):
        writer.write(head(4 << 20) + b"W" * (4 << 20))
        await writer.drain()

    async def partial_liar(request, writer):
        wanted = request["headers"].get("range", "bytes=0-").removeprefix("bytes=").split("-")
        first = int(wanted[0] or 0)
        writer.write(head((8 << 20) - first, "206 Partial Content", f"content-range: bytes {first}-{(8 << 20) - 1}/{8 << 20}\r\n"))
        writer.write(b"W" * (1 << 20))
        await writer.drain()
        await asyncio.sleep(20)

    forms = dict(wrong_slow=wrong_slow, wrong_size=wrong_size, drip=drip, silent=silent, endless=endless, wrong_fast=wrong_fast, partial_liar=partial_liar)
    for name, answer in forms.items():
        for ranged in (False, True):
            good, bad, mirror, (layer, data) = await two(binary)
            try:
                lying(bad, layer, answer)
                path = f"/v2/b.test/evil/app/blobs/{layer}"
                wanted = {"range": "bytes=1000000-1000099"} if name == "partial_liar" else {}
                hostile = asyncio.create_task(swallow(get(mirror.port, path, wanted, timeout=25)))
                await asyncio.sleep(0.5)
                ours = f"/v2/a.test/team/app/blobs/{layer}"
                started = asyncio.get_running_loop().time()
                asked = {"range": "bytes=100-199"} if ranged else {}
                try:
                    said, fields, _, _ = await get(mirror.port, ours, method="HEAD", timeout=10)
                    size = fields.get("content-length")
                except Exception as error:
                    said, size = type(error).__name__, None
                try:
                    status, _, body, clean = await get(mirror.port, ours, asked, timeout=10)
                except Exception as error:
                    status, body, clean = type(error).__name__, b"", False
                took = asyncio.get_running_loop().time() - started
                right = body == (data[100:200] if ranged else data)
                ok = right and clean and size == str(len(data)) and took < 4
                rows.append((f"B {name}, A {'range' if ranged else 'whole'}", f"HEAD {said} size {size}, GET {status} right={right} {took:.1f} s", ok))
                hostile.cancel()
            finally:
                mirror.close()
    rows.append(await left_over(binary, wrong_slow))
    return rows


async def left_over(binary, answer):
    """What B left in the cache directory when the mirror stopped is nothing to A."""
    good, bad, mirror, (layer, data) = await two(binary)
    try:
        lying(bad, layer, answer)
        hostile = asyncio.create_task(swallow(get(mirror.port, f"/v2/b.test/evil/app/blobs/{layer}", timeout=25)))
        await asyncio.sleep(1)
        await asyncio.to_thread(mirror.stop)
        hostile.cancel()
        bad.hook = None
        again = await asyncio.to_thread(Mirror, binary, {"a.test": good.port, "b.test": bad.port}, "", mirror.cache)
        status, _, body, clean = await get(again.port, f"/v2/a.test/team/app/blobs/{layer}", {"range": "bytes=100-199"}, timeout=10)
        again.close()
        return ("B's part left by a stop, A range", f"GET {status} right={body == data[100:200]}", body == data[100:200])
    finally:
        mirror.close()


async def swallow(work):
    try:
        return await work
    except Exception:
        return None


async def a2(binary):
    """A manifest's type is what its bytes say, whatever any header said."""
    rows = []
    config = b'{"architecture":"amd64","os":"linux"}'
    child = {"mediaType": MANIFEST, "digest": "sha256:" + "1" * 64, "size": 2}
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(b"{}"), "size": 2}
    conf = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config), "size": len(config)}
    bodies = {
        "image": (MANIFEST, {"schemaVersion": 2, "config": conf, "layers": [layer]}),
        "index": (INDEX, {"schemaVersion": 2, "manifests": [child]}),
    }
    for name, (right, content) in bodies.items():
        body = json.dumps(content).encode()
        lies = ("text/html", INDEX if name == "image" else MANIFEST, "application/vnd.docker.distribution.manifest.v1+prettyjws", "application/vnd.evil+json")
        for lie, turn in ((lie, turn) for lie in lies for turn in ("A first", "B first")):
            good, bad = await Registry().start(), await Registry().start()
            good.add("team/app", "1", body, {})
            good.types[digest(body)] = right
            bad.add("evil/app", "1", body, {})
            bad.types[digest(body)] = lie
            mirror = await asyncio.to_thread(Mirror, binary, {"a.test": good.port, "b.test": bad.port})
            try:
                seen = []
                ours = ("a.test/team/app/manifests/1", f"a.test/team/app/manifests/{digest(body)}")
                theirs = ("b.test/evil/app/manifests/1", f"b.test/evil/app/manifests/{digest(body)}")
                for path in (*(ours if turn == "A first" else ()), *theirs, *ours):
                    _, fields, _, _ = await get(mirror.port, "/v2/" + path, {"accept": "*/*"})
                    if path in ours:
                        seen.append(fields.get("content-type"))
                await asyncio.to_thread(mirror.stop)
                again = await asyncio.to_thread(Mirror, binary, {"a.test": good.port, "b.test": bad.port}, "", mirror.cache)
                _, fields, _, _ = await get(again.port, f"/v2/a.test/team/app/manifests/{digest(body)}")
                seen.append(fields.get("content-type"))
                again.close()
                ok = all(it == right for it in seen)
                rows.append((f"{turn}: {name} that B calls {lie}", f"A hears {sorted(set(map(str, seen)))}", ok))
            finally:
                mirror.close()
    return rows


async def a3(binary):
    """A private layer, cached, is not served in a repository that never had it."""
    rows = []
    for form in ("layer", "config", "index child", "subject", "tag HEAD", "same upstream"):
        good, bad = await Registry().start(), await Registry().start()
        manifest, blobs = image(8192, b"private")
        good.add("team/private", "1", manifest, blobs)
        layer, data = max(blobs.items(), key=lambda it: len(it[1]))
        secret, kind = (digest(manifest), "manifests") if form in ("index child", "subject", "tag HEAD") else (layer, "blobs")
        size = len(manifest) if kind == "manifests" else len(data)
        named = {"mediaType": MANIFEST if kind == "manifests" else "application/octet-stream", "digest": secret, "size": size}
        own = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(b"{}"), "size": 2}
        naming = {
            "index child": {"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]},
            "subject": {"schemaVersion": 2, "mediaType": MANIFEST, "config": own, "layers": [own], "subject": named},
            "config": {"schemaVersion": 2, "mediaType": MANIFEST, "config": named, "layers": [own]},
        }.get(form, {"schemaVersion": 2, "mediaType": MANIFEST, "config": own, "layers": [named]})
        body = json.dumps(naming).encode()
        where = good if form == "same upstream" else bad
        upstream, repository = ("a.test", "other/app") if form == "same upstream" else ("b.test", "evil/app")
        where.add(repository, "1", body, {digest(b"{}"): b"{}"})
        for name in (digest(manifest), *blobs):
            good.only[name] = {"team/private"}
        if form == "tag HEAD":

            async def hook(request, writer):
                if request["path"].endswith("/manifests/lie") and request["method"] == "HEAD":
                    writer.write(head(size, "200 OK", f"docker-content-digest: {secret}\r\n").replace(b"application/octet-stream", MANIFEST.encode()))
                    await writer.drain()
                    return True
                return False

            bad.hook = hook
        mirror = await asyncio.to_thread(Mirror, binary, {"a.test": good.port, "b.test": bad.port})
        try:
            for path in ("manifests/1", f"blobs/{layer}", f"manifests/{digest(manifest)}"):
                await get(mirror.port, f"/v2/a.test/team/private/{path}")
            for path in ("manifests/1", f"manifests/{digest(body)}"):
                await get(mirror.port, f"/v2/{upstream}/{repository}/{path}")
            for method in ("HEAD", "GET", "HEAD") if form == "tag HEAD" else ():
                await get(mirror.port, f"/v2/{upstream}/{repository}/manifests/lie", method=method)
            before = len(where.log)
            status, _, got, _ = await get(mirror.port, f"/v2/{upstream}/{repository}/{kind}/{secret}")
            said, _, _, _ = await get(mirror.port, f"/v2/{upstream}/{repository}/{kind}/{secret}", method="HEAD")
            leaked = got in (data, manifest)
            # Within one upstream a manifest that upstream itself sent is its word.
            ok = form == "same upstream" or not leaked and status != 200 and said != 200
            rows.append((f"named by {form}", f"GET {status}, HEAD {said}, leaked={leaked}, upstream asked {len(where.log) - before} times", ok))
        finally:
            mirror.close()
    return rows


CASES = {"A1": a1, "A2": a2, "A3": a3}
