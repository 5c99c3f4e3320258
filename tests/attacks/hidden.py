"""Names of private images cannot be told from names of nothing by the time that an answer takes."""

import asyncio
import base64
import json
import random
import statistics
import time

from lab import Mirror, Registry, digest, image

NAMES = 1000
# Requests for a name after the first one: what is remembered of a refusal is forgotten after 15 s.
WARM = 5
# The medians may differ by so much.
DIFFERENCE_MAX = 0.05
PUBLIC = "library/alpine"


class Private(Registry):
    """A registry where anybody may pull one repository. All else wants a login, whether or not it exists."""

    def plain(self, request, writer):
        method = request["method"]
        path = request["path"].split("?")[0]
        # `Basic robot:hub`; the header was put into lower case.
        known = request["headers"].get("authorization") == "basic cm9ib3q6ahvi"
        if known or path == "/v2/" or path.startswith(f"/v2/{PUBLIC}/"):
            return super().plain(request, writer)
        body = json.dumps({"errors": [{"code": "UNAUTHORIZED", "message": "no"}]}).encode()
        head = "HTTP/1.1 401 x\r\nwww-authenticate: Basic realm=\"x\"\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + (b"" if method == "HEAD" else body))
        return None


class Client:
    """Requests on one connection, so that a connection's beginning is not what is measured."""

    def __init__(self, port):
        self.port = port

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_):
        self.writer.close()

    async def get(self, path, authorization=""):
        """(seconds, status, body)"""
        extra = f"authorization: {authorization}\r\n" if authorization else ""
        began = time.perf_counter()
        self.writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n{extra}\r\n".encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(next(line for line in head.split("\r\n") if line.startswith("content-length:")).split(":")[1])
        body = await self.reader.readexactly(length)
        return time.perf_counter() - began, int(head.split(" ")[1]), body


def difference(times):
    """How far the medians are apart, as a part of the smaller one."""
    hidden, absent = (statistics.median(times[kind]) for kind in ("hidden", "absent"))
    return abs(hidden - absent) / min(hidden, absent), hidden, absent


def access(resource):
    """Anonymous clients may have this, and alice everything."""
    return f"""[access]
[[access.policy]]
name = "some"
[[access.policy.statement]]
effect = "allow"
actions = ["pull"]
resources = ["{resource}"]
[[access.attach]]
anonymous = true
policies = ["some"]
[[access.attach]]
user = "alice"
policies = ["read-only"]
"""


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def add_alice(binary, mirror):
    """She may see what is hidden, and so puts it into the cache."""
    command = [binary, "user", "add", "alice", "--password-stdin", "--admin", f"http://127.0.0.1:{mirror.admin}"]
    added = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL)
    await added.communicate(b"alice-password")
    return basic("alice", "alice-password")


async def measure(binary, visibility, rows):
    registry = Private()
    manifest, blobs = image(4096, b"private")
    names = [f"acme/{number:08x}" for number in random.Random(1).sample(range(1 << 32), 2 * NAMES)]
    hidden, absent = names[:NAMES], names[NAMES:]
    registry.add(PUBLIC, "v1", manifest, blobs)
    for name in hidden:
        registry.add(name, "v1", manifest, blobs)
    # In a process of its own, so that it is not slow when the client here is busy.
    registry.apart()
    extra = "" if visibility == "upstream" else access("mirror/a.test/*" if visibility == "public" else f"mirror/a.test/{PUBLIC}")
    extra += f'[upstream."a.test"]\nendpoints = ["http://127.0.0.1:{registry.port}"]\ndefault = true\n'
    extra += f'username = "robot"\npassword = "hub"\nvisibility = "{visibility}"\n'
    mirror = await asyncio.to_thread(Mirror, binary, {}, extra)
    try:
        path = f"manifests/{digest(manifest)}"
        known = basic("robot", "hub") if visibility == "upstream" else await add_alice(binary, mirror)
        async with Client(mirror.port) as client:
            statuses = {(await client.get(f"/v2/{name}/{path}", known))[1] for name in hidden}
        rows.append((f"{visibility}, whoever may see them", str(statuses), statuses == {200}))
        order = [("hidden", name) for name in hidden] + [("absent", name) for name in absent]
        random.Random(3).shuffle(order)
        answers = {"hidden": set(), "absent": set()}
        times = {round_: {"hidden": [], "absent": []} for round_ in ("cold", "warm")}
        async with Client(mirror.port) as client:
            await client.get(f"/v2/{PUBLIC}/{path}")
            for kind, name in order:
                cold, *warm = [await client.get(f"/v2/{name}/{path}") for _ in range(1 + WARM)]
                times["cold"][kind].append(cold[0])
                # The best of a few: what else the machine does is not what is measured.
                times["warm"][kind].append(min(took for took, _, _ in warm))
                for _, code, body in (cold, *warm):
                    answers[kind].add((code, body.replace(name.encode(), b"NAME")))
        for round_, of in times.items():
            apart, of_hidden, of_absent = difference(of)
            figures = f"{of_hidden * 1e6:.0f} us hidden, {of_absent * 1e6:.0f} us absent, {apart:.1%} apart"
            rows.append((f"{visibility}, {round_}, medians of {NAMES}", figures, apart <= DIFFERENCE_MAX))
        codes = sorted({code for code, _ in answers["hidden"]})
        same = answers["hidden"] == answers["absent"] and 200 not in codes
        rows.append((f"{visibility}, answers are the same", str(codes), same))
    finally:
        mirror.close()


async def hidden(binary):
    """1,000 private names and 1,000 that do not exist, in turns: the same answers in the same time."""
    rows = []
    for visibility in ("public", "upstream", "rules"):
        await measure(binary, visibility, rows)
    return rows


CASES = {"hidden": hidden}
