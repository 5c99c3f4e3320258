"""Clients that take more than their share: of upstream's time, of connections, of memory that they never read, of logs."""

import asyncio
import os
import socket
import ssl
import subprocess
import tempfile
import time

from lab import Http2, Mirror, Registry, Witness, digest, get, image

# A client beside an attack may wait twice as long as without it; below this many milliseconds the two cores that all
# of this shares are what is measured.
P99_FLOOR_MS = 50
GREEDY = "127.0.0.5"


def beside(alone, during):
    ok = during["failed"] == 0 and during["p99"] <= max(2 * alone["p99"], P99_FLOOR_MS)
    why = f" {during['why']}" if during["failed"] else ""
    return f"p99 {alone['p99']:.1f} -> {during['p99']:.1f} ms, {during['failed']} of {during['asked']} failed{why}", ok


async def good_and_slow(binary, delay, extra="", cold=0):
    """A registry that is well, in a process of its own, with `cold` blobs that no mirror has yet, and one that is slow."""
    good, slow = Registry(), await Registry(delay).start()
    manifest, blobs = image(20000)
    good.add("team/app", "1", manifest, blobs)
    slow.add("team/app", "1", manifest, blobs)
    good.any_tag = slow.any_tag = manifest
    cold = [f"/v2/a.test/team/app/blobs/{name}" for name in unheard(good, cold)]
    good.apart()
    mirror = await asyncio.to_thread(Mirror, binary, {"a.test": good.port, "b.test": slow.port}, extra)
    known = ["/v2/", "/v2/a.test/team/app/manifests/1", *(f"/v2/a.test/team/app/blobs/{name}" for name in blobs)]
    for path in known:
        await get(mirror.port, path)
    return slow, mirror, known, cold


def unheard(registry, count):
    """Small blobs that no mirror has yet."""
    for number in range(count):
        data = f"{number} of {id(registry)}".encode() * 20
        registry.blobs[digest(data)] = data
        registry.only[digest(data)] = {"team/app"}
        yield digest(data)


def mixed(paths, cold):
    return [path for blob in cold for path in (*paths, blob)]


async def reset_flood(mirror, paths, seconds, source=GREEDY, connections=1):
    """Asks and resets, as fast as one may."""
    clients = [await Http2(source=source).open(mirror.port) for _ in range(connections)]
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for at, client in enumerate(clients):
            if client.gone:
                client.close()
                clients[at] = client = await Http2(source=source).open(mirror.port)
            # Reset when they are under way: what is reset at once is never begun.
            streams = []
            for _ in range(100):
                number += 1
                streams.append(client.get(paths[number % len(paths)].format(number)))
            await asyncio.sleep(0.03)
            for stream in streams:
                client.cancel(stream)
        await asyncio.sleep(0.002)
    for client in clients:
        client.close()
    return number


async def get_flood(mirror, path, count, source=GREEDY):
    """GETs that wait, each on a connection of its own, all of one address."""

    async def one(number):
        try:
            return (await get(mirror.port, path.format(number), source=source, timeout=15))[0]
        except (asyncio.TimeoutError, OSError, EOFError) as error:
            return type(error).__name__

    return await asyncio.gather(*(one(number) for number in range(count)))


async def a4(binary):
    """One client asks for more of upstream than there is: the others notice nothing."""
    rows = []
    floods = {
        "HTTP/2 tags, reset": (30, lambda m: reset_flood(m, ["/v2/b.test/team/app/manifests/x{0}"], 6)),
        "HTTP/2 tags, reset, healthy upstream of 200 ms": (0.2, lambda m: reset_flood(m, ["/v2/b.test/team/app/manifests/x{0}"], 12)),
        "HTTP/2 lists and referrers, reset": (30, lambda m: reset_flood(m, ["/v2/b.test/r{0}/tags/list", "/v2/b.test/team/app/referrers/sha256:{0:064x}"], 6)),
        "HTTP/2 blobs, HEAD of blobs, reset": (30, lambda m: reset_flood(m, ["/v2/b.test/team/app/blobs/sha256:{0:064x}"], 6)),
        "HTTP/2 tags, reset, 20 connections": (30, lambda m: reset_flood(m, ["/v2/b.test/team/app/manifests/x{0}"], 6, connections=20)),
        "600 GETs of blobs": (30, lambda m: get_flood(m, "/v2/b.test/team/app/blobs/sha256:{0:064x}", 600)),
        "5000 GETs of tags": (30, lambda m: get_flood(m, "/v2/b.test/team/app/manifests/y{0}", 5000)),
    }
    for name, (delay, flood) in floods.items():
        slow, mirror, known, cold = await good_and_slow(binary, delay, cold=600)
        try:
            # Hits, and things that a.test must be asked for: tags, and blobs that nobody has had.
            paths = [*known, "/v2/a.test/team/app/manifests/w{0}", "/v2/a.test/team/app/manifests/v{0}"]
            alone = await Witness(mirror.port, mixed(paths, cold[:200]), 2).result()
            rss = mirror.rss()
            attack = asyncio.create_task(flood(mirror))
            await asyncio.sleep(2)
            paths = [path.replace("/w{0}", "/u{0}").replace("/v{0}", "/t{0}") for path in paths]
            during = await Witness(mirror.port, mixed(paths, cold[200:]), 4).result()
            value, ok = beside(alone, during)
            await attack
            grown = (mirror.rss() - rss) / 1e6
            rows.append((name, f"{value}; b.test asked {len(slow.log)} times; RSS +{grown:.0f} MB, {mirror.descriptors()} descriptors", ok))
        finally:
            mirror.close()
    rows.append(await same_upstream(binary))
    return rows


async def same_upstream(binary):
    """Another address of the same upstream has its turn."""
    _, mirror, _, _ = await good_and_slow(binary, 0.2)
    try:
        attack = asyncio.create_task(get_flood(mirror, "/v2/b.test/team/app/manifests/z{0}", 3000))
        await asyncio.sleep(1)
        during = await Witness(mirror.port, ["/v2/b.test/team/app/manifests/q{0}"], 5).result()
        attack.cancel()
        ok = during["failed"] == 0 and during["p99"] < 2000
        return ("3000 GETs of tags of one upstream (200 ms), another address asks it too", f"p50 {during['p50']:.0f} ms, p99 {during['p99']:.0f} ms, {during['failed']} of {during['asked']} failed {during['why']}", ok)
    finally:
        mirror.close()


def certificate():
    folder = tempfile.mkdtemp(prefix="attack-tls-")
    cert, key = os.path.join(folder, "crt"), os.path.join(folder, "key")
    command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {key} -out {cert}"
    subprocess.run(command.split(), check=True, capture_output=True)
    return cert, key


async def b5(binary):
    """HTTP/2 streams that nobody reads: memory, and another client."""
    rows = []
    for name, window, method, what in (
        ("window 0", 0, "GET", "blob"),
        ("no WINDOW_UPDATE", 65535, "GET", "blob"),
        ("window 0, manifests", 0, "GET", "manifest"),
        ("window 1 MiB, connection's window never raised", 1 << 20, "GET", "blob"),
        ("TLS, window 0", 0, "GET", "blob"),
    ):
        good = await Registry().start()
        manifest, blobs = image(8 << 20)
        good.add("team/app", "1", manifest, blobs)
        tls = certificate() if name.startswith("TLS") else None
        mirror = await asyncio.to_thread(Mirror, binary, {"a.test": good.port}, "", None, None, tls)
        context = None
        if tls:
            context = ssl.create_default_context(cafile=tls[0])
            context.set_alpn_protocols(["h2"])
        try:
            layer = max(blobs.items(), key=lambda it: len(it[1]))[0]
            path = f"/v2/a.test/team/app/blobs/{layer}" if what == "blob" else "/v2/a.test/team/app/manifests/1"
            if not tls:
                await get(mirror.port, path)
            rss, clients = mirror.rss(), []
            for _ in range(12):
                client = await Http2(window, GREEDY).open(mirror.port, context)
                for _ in range(128):
                    client.get(path, method)
                await client.writer.drain()
                clients.append(client)
            await asyncio.sleep(4)
            grown, files = (mirror.rss() - rss) / 1e6, mirror.descriptors()
            answered = sum(client.answered for client in clients)
            note = ""
            if not tls:
                alone = {"p99": 10}
                during = await Witness(mirror.port, ["/v2/", path if what == "manifest" else "/v2/a.test/team/app/manifests/1"], 2).result()
                note = "; beside: " + beside(alone, during)[0]
            # 26 KB a stream: one frame of 16 KiB, and the request.
            ok = grown < 48
            rows.append((f"12 connections x 128 streams, {name}", f"RSS +{grown:.0f} MB, {files} descriptors, {answered} answered{note}", ok))
            for client in clients:
                client.close()
        finally:
            mirror.close()
    rows.append(await b5_plain(binary))
    rows.append(await b5_tls(binary))
    rows.append(await b5_ends(binary))
    return rows


async def unread(port, path, count, context=None):
    """HTTP/1.1 clients that ask and never read."""
    writers = []
    for _ in range(count):
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.bind((GREEDY, 0))
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=raw, ssl=context, server_hostname="localhost" if context else None, limit=1024)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        writer.transport.pause_reading()
        writers.append(writer)
    return writers


async def b5_plain(binary):
    good = await Registry().start()
    manifest, blobs = image(8 << 20)
    good.add("team/app", "1", manifest, blobs)
    mirror = await asyncio.to_thread(Mirror, binary, {"a.test": good.port})
    try:
        layer = max(blobs.items(), key=lambda it: len(it[1]))[0]
        path = f"/v2/a.test/team/app/blobs/{layer}"
        await get(mirror.port, path)
        rss = mirror.rss()
        writers = await unread(mirror.port, path, 1000)
        await asyncio.sleep(2)
        grown = (mirror.rss() - rss) / 1e6
        for writer in writers:
            writer.close()
        return ("1000 HTTP/1.1 readers that read nothing", f"RSS +{grown:.0f} MB", grown < 60)
    finally:
        mirror.close()


async def b5_tls(binary):
    good = await Registry().start()
    manifest, blobs = image(8 << 20)
    good.add("team/app", "1", manifest, blobs)
    tls = certificate()
    mirror = await asyncio.to_thread(Mirror, binary, {"a.test": good.port}, "", None, None, tls)
    try:
        context = ssl.create_default_context(cafile=tls[0])
        layer = max(blobs.items(), key=lambda it: len(it[1]))[0]
        rss = mirror.rss()
        writers = await unread(mirror.port, f"/v2/a.test/team/app/blobs/{layer}", 300, context)
        await asyncio.sleep(3)
        grown = (mirror.rss() - rss) / 1e6
        for writer in writers:
            writer.close()
        return ("300 TLS readers that read nothing", f"RSS +{grown:.0f} MB: {grown * 1000 / 300:.0f} KB each", grown * 1000 / 300 < 150)
    finally:
        mirror.close()


async def b5_ends(binary):
    """With a short limit: a stream that stalls ends, the connection that is idle too."""
    good = await Registry().start()
    manifest, blobs = image(8 << 20)
    good.add("team/app", "1", manifest, blobs)
    folder = tempfile.mkdtemp()
    config = os.path.join(folder, "c.toml")
    with open(config, "w") as file:
        file.write('[server]\nbody_stall_timeout = "3s"\nidle_timeout = "3s"\n[upstream."a.test"]\nendpoints = ["http://127.0.0.1:1"]\n')
    if subprocess.run([binary, "check", "--config", config], capture_output=True).returncode:
        return ("stalled streams and idle connections end", "no such keys", False)
    environment = {"ROADSTEAD_SERVER__BODY_STALL_TIMEOUT": "3s", "ROADSTEAD_SERVER__IDLE_TIMEOUT": "3s"}
    os.environ.update(environment)
    try:
        mirror = await asyncio.to_thread(Mirror, binary, {"a.test": good.port})
    finally:
        for name in environment:
            del os.environ[name]
    try:
        layer = max(blobs.items(), key=lambda it: len(it[1]))[0]
        path = f"/v2/a.test/team/app/blobs/{layer}"
        await get(mirror.port, path)
        stalled, idle = await Http2(0, GREEDY).open(mirror.port), await Http2(source=GREEDY).open(mirror.port)
        for _ in range(10):
            stalled.get(path)
        await stalled.writer.drain()
        await asyncio.sleep(15)
        readers = mirror.metric("roadstead_readers_in_flight")
        ok = readers == 0 and idle.gone and (stalled.reset == 10 or stalled.gone)
        return ("stalled streams and idle connections end (limits of 3 s)", f"{stalled.reset} reset, gone={stalled.gone}, idle gone={idle.gone}, readers {readers:.0f}", ok)
    finally:
        mirror.close()


async def half(port, count, bytes_sent, source):
    made = []
    for _ in range(count):
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0)), 5)
        except (OSError, asyncio.TimeoutError):
            break
        writer.write(bytes_sent)
        made.append((reader, writer))
    return made


async def b9(binary):
    """One address takes all connections; 200 that say nothing to the admin listener."""
    rows = []
    forms = {
        "half heads": b"GET /v2/ HTTP/1.1\r\nhost: x\r\n",
        "nothing sent": b"",
        "idle after an answer": b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n",
        "an HTTP/2 preface and silence": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    }
    for name, sent in forms.items():
        _, mirror, known, _ = await good_and_slow(binary, 0)
        try:
            made = await half(mirror.port, 8400, sent, GREEDY)
            await asyncio.sleep(1)
            answered, slowest = 0, 0.0
            for number in range(20):
                started = time.monotonic()
                try:
                    status, _, _, _ = await get(mirror.port, known[number % len(known)], source=f"127.0.0.{20 + number}", timeout=5)
                    answered += status == 200
                except (OSError, EOFError, asyncio.TimeoutError):
                    pass
                slowest = max(slowest, time.monotonic() - started)
            rows.append((f"{len(made)} of one address: {name}", f"{answered} of 20 others answered, slowest {slowest * 1000:.0f} ms; {mirror.descriptors()} descriptors, RSS {mirror.rss() / 1e6:.0f} MB", answered == 20 and slowest < 1))
            for _, writer in made:
                writer.close()
            probes = await half(mirror.admin, 200, sent, "127.0.0.1")
            answered, slowest = 0, 0.0
            for path in ("/healthz", "/readyz", "/metrics") * 3:
                started = time.monotonic()
                try:
                    status, _, _, _ = await get(mirror.admin, path, timeout=3)
                    answered += status == 200
                except (OSError, EOFError, asyncio.TimeoutError):
                    pass
                slowest = max(slowest, time.monotonic() - started)
            rows.append((f"admin, {len(probes)} connections: {name}", f"{answered} of 9 probes answered, slowest {slowest * 1000:.0f} ms", answered == 9 and slowest < 1))
        finally:
            mirror.close()
    return rows


async def b10(binary):
    """Standard error that nobody reads."""
    rows = []
    for form in ("text", "json", "errors"):
        good = await Registry().start()
        manifest, blobs = image(20000)
        good.add("team/app", "1", manifest, blobs)
        reading, writing = os.pipe()
        extra = '[log]\nformat = "json"\n' if form == "json" else ""
        mirror = await asyncio.to_thread(Mirror, binary, {"a.test": good.port, "b.test": 9}, extra, None, writing)
        os.close(writing)
        try:
            path = "/v2/b.test/a/manifests/x" if form == "errors" else "/v2/a.test/team/app/manifests/1"
            answered = 0
            for number in range(2000):
                try:
                    await get(mirror.port, f"{path}{number if form == 'errors' else ''}", timeout=5)
                    answered += 1
                except (OSError, EOFError, asyncio.TimeoutError):
                    break
            try:
                health = (await get(mirror.admin, "/healthz", timeout=3))[0]
            except (OSError, EOFError, asyncio.TimeoutError) as error:
                health = type(error).__name__
            ended = await asyncio.to_thread(mirror.stop)
            rows.append((f"a pipe that nobody reads, {form}", f"{answered} of 2000 answered, /healthz {health}, SIGTERM took {ended:.1f} s", answered == 2000 and health == 200 and ended < 35))
        finally:
            mirror.close()
            os.close(reading)
    return rows


CASES = {"A4": a4, "B5": b5, "B9": b9, "B10": b10}
