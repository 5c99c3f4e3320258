#!/usr/bin/env python3
"""Many clients in one process: the readers that curl and wrk cannot be.

Run as a program it reads one JSON line of what to do, and prints one of what it saw. Two kinds of work:

    bodies   CONNECTIONS ask for one path at once; each takes RATE bytes a second, or what it gets; until all bodies are
             complete or SECONDS are over, or standard input ends. Bodies are dropped in the kernel (MSG_TRUNC), so that
             a hundred readers do not cost the machine a hundred copies, but for the first one's if it is KEPT and hashed.
    small    CONNECTIONS ask for small answers, one after the other, THINK seconds between; the latencies.

Every status and every length is checked. A wrong one ends the program with an error.
"""

import hashlib
import json
import queue
import resource
import select
import socket
import subprocess
import sys
import threading
import time

ACCEPT = "application/vnd.oci.image.manifest.v1+json"
PIECE = 1 << 20
HEAD_BYTES_MAX = 64 * 1024
# A reader with a rate has no bigger a window than this, so that what it did not take is still with the server.
PACED_BUFFER_BYTES = 128 * 1024
# How often it takes what it may: seldom for those who take little, so that this client costs the machine little.
TICK_SECONDS = 0.05
TICK_BYTES_MIN = 25_000


class Wrong(Exception):
    """An answer that is not what was asked for."""


class Job:
    """The program, run by whoever imports this."""

    def __init__(self, url, **what):
        self.deadline = what.setdefault("deadline", 120)
        what["port"] = int(url.rpartition(":")[2])
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        self.lines, self.errors = queue.Queue(), []
        for target in (self.listen, lambda: self.errors.append(self.process.stderr.read())):
            threading.Thread(target=target, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def line(self):
        """The next line it prints."""
        try:
            line = self.lines.get(timeout=self.deadline + 30)
        except queue.Empty:
            self.process.kill()
            raise SystemExit("the readers do not end") from None
        if line is None:
            self.process.wait()
            time.sleep(0.1)
            raise SystemExit(f"a wrong answer: {''.join(self.errors).strip()[-2000:]}")
        return line

    def ready(self):
        """Returns when all requests have been sent."""
        self.line()
        return self

    def running(self):
        return self.process.poll() is None

    def result(self):
        """Returns what it saw when it has seen all."""
        line = self.line()
        while line.strip() == "ready":
            line = self.line()
        self.process.wait()
        return json.loads(line)

    def finish(self):
        """Has it stop, and returns what it saw."""
        self.process.stdin.close()
        return self.result()

    def end(self):
        """Whatever it does, it is over."""
        if self.running():
            self.process.kill()
        self.process.wait()


def work(url, **what):
    """Does it, and returns what was seen."""
    job = Job(url, **what)
    try:
        return job.result()
    finally:
        job.end()


class Head:
    """Of a response, as it comes."""

    def __init__(self):
        self.data = b""

    def take(self, connection):
        """True once the head is whole; the body's bytes that came with it are in `rest`."""
        piece = connection.recv(16 * 1024)
        if not piece:
            raise Wrong(f"the connection ended in a head: {self.data[:200]!r}")
        self.data += piece
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            if len(self.data) > HEAD_BYTES_MAX:
                raise Wrong("a head without end")
            return False
        lines = self.data[:end].decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
        self.length = int(fields["content-length"]) if "content-length" in fields else None
        self.rest = self.data[end + 4:]
        return True


def request(path, method="GET"):
    return (f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: compare\r\nAccept: {ACCEPT}\r\n\r\n").encode()


def connect(port, buffer=None):
    connection = socket.socket()
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(10)
    connection.connect(("127.0.0.1", port))
    connection.setblocking(False)
    return connection


class Reader:
    """One body."""

    def __init__(self, port, what, kept):
        self.rate, self.size = what.get("rate"), what["size"]
        self.connection = connect(port, PACED_BUFFER_BYTES if self.rate else None)
        self.head, self.in_body = Head(), False
        self.bytes, self.first, self.last = 0, None, None
        self.kept = kept
        self.whole = bytearray(self.size) if kept == "whole" else None
        self.hash = hashlib.sha256() if kept == "stream" else None

    def begin(self, path):
        self.asked = time.monotonic()
        self.connection.send(request(path))

    def allowed(self, now):
        """How many bytes it may take by now."""
        left = self.size - self.bytes
        return min(left, int((now - self.asked) * self.rate) - self.bytes) if self.rate else left

    def step(self, buffer):
        """Takes what there is; true while there is more to come."""
        if not self.in_body:
            if not self.head.take(self.connection):
                return True
            if self.head.status != 200 or self.head.length != self.size:
                raise Wrong(f"status {self.head.status}, {self.head.length} bytes for {self.size}: {self.head.data[:600]!r}")
            self.in_body = True
            self.took(memoryview(self.head.rest), len(self.head.rest))
            return self.bytes < self.size
        most = min(PIECE, self.allowed(time.monotonic()))
        if most <= 0:
            return True
        if self.whole is not None:
            count = self.connection.recv_into(memoryview(self.whole)[self.bytes:self.bytes + most])
        elif self.hash:
            count = self.connection.recv_into(buffer, most)
        else:
            count = self.connection.recv_into(buffer, most, socket.MSG_TRUNC)
        if count == 0:
            raise Wrong(f"a body that ends after {self.bytes} of {self.size} bytes")
        self.took(buffer, count, placed=True)
        return self.bytes < self.size

    def took(self, data, count, placed=False):
        if count == 0:
            return
        if self.hash:
            self.hash.update(data[:count])
        if self.whole is not None and not placed:
            self.whole[:count] = data[:count]
        now = time.monotonic()
        self.first = self.first or now
        self.bytes += count
        if self.bytes == self.size:
            self.last = now

    def digest(self):
        made = self.hash or hashlib.sha256(self.whole)
        return "sha256:" + made.hexdigest()


def bodies(what):
    readers = [Reader(what["port"], what, what.get("keep") if number == 0 else None)
               for number in range(what["connections"])]
    began = time.monotonic()
    for reader in readers:
        reader.begin(what["path"])
    print("ready", flush=True)
    until = began + (what.get("seconds") or what["deadline"])
    buffer = memoryview(bytearray(PIECE))
    (paced if what.get("rate") else at_once)(readers, buffer, until)
    ended = time.monotonic()
    complete = [reader for reader in readers if reader.last]
    if not what.get("seconds") and len(complete) < len(readers) and not what.get("may_be_late"):
        raise Wrong(f"after {ended - began:.0f} s {len(readers) - len(complete)} of {len(readers)} readers are not done")
    said = {
        "first_byte_s": sorted(round(reader.first - reader.asked, 6) for reader in readers if reader.first),
        "complete": len(complete), "bytes": sum(reader.bytes for reader in readers),
        "wall_s": max(reader.last for reader in complete) - began if len(complete) == len(readers) else ended - began,
    }
    kept = readers[0]
    if kept.kept and kept.last:
        said["digest"] = kept.digest()
        if what.get("digest") and said["digest"] != what["digest"]:
            raise Wrong(f"a body with {said['digest']} for {what['digest']}")
    return said


def at_once(readers, buffer, until):
    poll = select.epoll()
    waiting = {}
    for reader in readers:
        waiting[reader.connection.fileno()] = reader
        poll.register(reader.connection, select.EPOLLIN)
    poll.register(sys.stdin, select.EPOLLIN)
    while waiting and time.monotonic() < until:
        for number, _ in poll.poll(0.5):
            reader = waiting.get(number)
            if reader is None:
                return
            try:
                more = reader.step(buffer)
            except BlockingIOError:
                continue
            if not more:
                poll.unregister(number)
                del waiting[number]


def paced(readers, buffer, until):
    waiting = readers
    tick = max(TICK_SECONDS, TICK_BYTES_MIN / readers[0].rate)
    while waiting:
        began = time.monotonic()
        if began > until or select.select([sys.stdin], [], [], 0)[0]:
            return
        waiting = [reader for reader in waiting if step_paced(reader, buffer)]
        time.sleep(max(0.005, tick - (time.monotonic() - began)))


def step_paced(reader, buffer):
    try:
        return reader.step(buffer)
    except BlockingIOError:
        return True


class Asker:
    """A connection that asks for small answers."""

    def __init__(self, port, path, method):
        self.connection = connect(port)
        self.request, self.method = request(path, method), method
        self.next, self.left, self.head, self.latencies = 0.0, None, None, []

    def begin(self):
        self.head, self.left = Head(), None
        self.asked = time.monotonic()
        self.connection.send(self.request)

    def step(self, buffer):
        """True when the answer is complete."""
        if self.left is None:
            if not self.head.take(self.connection):
                return False
            if self.head.status != 200 or self.head.length is None:
                raise Wrong(f"status {self.head.status} for a small answer: {self.head.data[:600]!r}")
            self.left = 0 if self.method == "HEAD" else self.head.length - len(self.head.rest)
        else:
            count = self.connection.recv_into(buffer, min(self.left, PIECE))
            if count == 0:
                raise Wrong("a small answer that ends early")
            self.left -= count
        if self.left:
            return False
        self.latencies.append(time.monotonic() - self.asked)
        return True


def small(what):
    paths, think = what["paths"], what.get("think", 0)
    askers = [Asker(what["port"], paths[number % len(paths)], what.get("method", "GET"))
              for number in range(what["connections"])]
    buffer, poll, by_number = memoryview(bytearray(PIECE)), select.epoll(), {}
    for number, asker in enumerate(askers):
        by_number[asker.connection.fileno()] = asker
        poll.register(asker.connection, select.EPOLLIN)
        asker.next = time.monotonic() + think * number / len(askers)
    print("ready", flush=True)
    resting, until = list(askers), time.monotonic() + what["seconds"]
    while (now := time.monotonic()) < until:
        for asker in [asker for asker in resting if asker.next <= now]:
            resting.remove(asker)
            asker.begin()
        soonest = min((asker.next for asker in resting), default=until)
        for number, _ in poll.poll(max(0.0, min(soonest, until) - now)):
            asker = by_number[number]
            try:
                done = asker.step(buffer)
            except BlockingIOError:
                continue
            if done and think:
                asker.next = max(asker.asked + think, time.monotonic())
                resting.append(asker)
            elif done:
                asker.begin()
    # Whoever still waits has waited at least so long: leaving these out would hide the worst.
    latencies = [latency for asker in askers for latency in asker.latencies]
    latencies += [until - asker.asked for asker in askers if asker not in resting and think]
    return {"requests": len(latencies), "latency_s": sorted(round(latency, 6) for latency in latencies)}


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    what = json.loads(sys.stdin.readline())
    try:
        said = {"bodies": bodies, "small": small}[what["kind"]](what)
    except (Wrong, OSError) as error:
        sys.exit(f"{what.get('path') or what.get('paths')}: {error!r}")
    used = resource.getrusage(resource.RUSAGE_SELF)
    said["client_cpu_s"] = round(used.ru_utime + used.ru_stime, 3)
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
