"""A peer as a process: started, measured by what the operating system says of it, ended."""

import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

START_SECONDS_MAX = 20
SETTLE_SECONDS_MAX = 15
SAMPLE_SECONDS = 0.2
TICKS = os.sysconf("SC_CLK_TCK")
MB = 1e6


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def family(pid):
    """A process and all that came from it."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(") ")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        left.extend(children.get(found[-1], []))
    return found


def cpu_seconds(pid):
    """What a process and its descendants have used so far, in user and kernel, as the operating system says."""
    total = 0
    for one in family(pid):
        try:
            fields = pathlib.Path(f"/proc/{one}/stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def memory(pids):
    """Anonymous and resident memory of processes, in MB, from /proc/PID/status: RssAnon and VmRSS, summed."""
    anonymous, resident = 0, 0
    for pid in pids:
        try:
            text = pathlib.Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith("RssAnon:"):
                anonymous += int(line.split()[1])
            elif line.startswith("VmRSS:"):
                resident += int(line.split()[1])
    return anonymous * 1024 / MB, resident * 1024 / MB


def sockets_mb():
    """What the kernel counts as taken by the TCP connections of the whole machine, clients' ends included."""
    for line in pathlib.Path("/proc/net/sockstat").read_text().splitlines():
        fields = line.split()
        if fields[0] == "TCP:":
            return int(fields[fields.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE") / MB
    raise SystemExit("/proc/net/sockstat says nothing of TCP")


class Peer:
    """A mirror that runs, or can be started again where it was."""

    def __init__(self, name, kind, url, command, log, directory, environment=None):
        self.name, self.kind, self.url, self.directory = name, kind, url, directory
        self.command, self.log, self.environment = command, log, environment
        self.port = int(url.rpartition(":")[2])
        self.start()

    def start(self):
        # Several roadsteads run at once, also of versions that know no key for it.
        environment = {**(self.environment or os.environ), "XDG_STATE_HOME": str(self.directory)}
        with open(self.log, "ab") as output:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            env=environment)
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.end()
                    said = pathlib.Path(self.log).read_text(errors="replace")[-2000:]
                    raise SystemExit(f"{self.name} does not start: {said}") from None
                time.sleep(0.02)

    def cpu(self):
        return cpu_seconds(self.process.pid)

    def settle(self):
        """Waits until it has no more to do of what it was asked, and returns the CPU until then."""
        deadline, before = time.monotonic() + SETTLE_SECONDS_MAX, self.cpu()
        while time.monotonic() < deadline:
            time.sleep(0.3)
            now = self.cpu()
            if now - before < 0.011:
                return now
            before = now
        return before

    def memory(self):
        return memory(family(self.process.pid))

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Sampler:
    """The memory of a peer over time."""

    def __init__(self, peer):
        self.peer, self.over, self.samples = peer, threading.Event(), []
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.began = time.monotonic()
        self.thread.start()
        return self

    def run(self):
        pids = family(self.peer.process.pid)
        while True:
            anonymous, resident = memory(pids)
            self.samples.append((round(time.monotonic() - self.began, 2), round(anonymous, 2), round(resident, 2)))
            if self.over.wait(SAMPLE_SECONDS):
                return

    def __exit__(self, *_):
        self.over.set()
        self.thread.join(5)

    def peak(self):
        return max(sample[1] for sample in self.samples)

    def growth(self):
        """The mean of the last quarter above that of the second: what memory that is not flat would show."""
        values = [sample[1] for sample in self.samples]
        quarter = len(values) // 4
        if quarter == 0:
            return 0.0
        second, last = values[quarter:2 * quarter], values[-quarter:]
        return sum(last) / quarter - sum(second) / quarter
