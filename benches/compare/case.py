"""What all cases have in common: their peers, their measures, their bars."""

import dataclasses
import hashlib
import subprocess

import images

CURL_SECONDS_MAX = 300
GB = 1e9
MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Measure:
    """A figure that is taken: its name in a table, its unit, and whether less is better."""

    title: str
    unit: str
    less: bool = True


@dataclasses.dataclass(frozen=True)
class Bar:
    """What a measure has to reach.

    Of another peer, or of another case or measure of our own: the ratio; of nothing: the figure itself. `how` says
    which of the rounds counts: the median, or the most. `ours` is the roadstead that it is about.
    """

    measure: str
    limit: float
    text: str
    of_peer: str = ""
    of_case: str = ""
    at_least: bool = False
    how: str = "median"
    ours: str = "roadstead"
    # The issue names it; else it is our reading of what the issue says in words.
    named: bool = True


class Case:
    """One comparison. `measure` returns a dictionary of figures, or a list of (x, dictionary) for a curve."""

    name = ""
    title = ""
    text = ""
    rounds_max = 99
    measures = {}
    bars = ()
    # Of a curve: what x is, and whether its axis is logarithmic.
    x = None
    x_log = False
    # The measures that are drawn.
    drawn = ()
    # Whether the mirrors of the warm cases are used.
    standing = False

    def peers(self, world):
        return world.specs

    def prepare(self, world):
        """Before the first round."""

    def measure(self, world, peer, number):
        raise NotImplementedError

    def finish(self, world):
        """After the last round."""


class Impossible(Exception):
    """This peer, or this machine, cannot do this; it is said in the report."""


def curl(url, *more):
    command = ["curl", "--silent", "--show-error", "--insecure", "--noproxy", "*", "--max-time", str(CURL_SECONDS_MAX),
               "--output", "/dev/null", "--header", f"Accept: {images.MANIFEST}",
               "--write-out", "%{http_code} %{size_download} %{time_starttransfer} %{time_total}\\n", *more, url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process, size=None):
    said = process.communicate(timeout=CURL_SECONDS_MAX + 10)[0].split()
    if process.returncode != 0 or said[0] != "200" or (size is not None and int(said[1]) != size):
        raise SystemExit(f"a wrong answer: {said}, curl ended with {process.returncode}")
    return float(said[2]), float(said[3])


def get(url, *more):
    """Has it fetched, and the status checked."""
    return finish(curl(url, *more))


def check(url, digest, *more):
    """Has it fetched, and every byte checked."""
    command = ["curl", "--silent", "--show-error", "--fail", "--insecure", "--noproxy", "*", "--max-time",
               str(CURL_SECONDS_MAX), "--header", f"Accept: {images.MANIFEST}", *more, url]
    made = hashlib.sha256()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while piece := process.stdout.read(MIB):
            made.update(piece)
    if process.returncode != 0 or "sha256:" + made.hexdigest() != digest:
        raise SystemExit(f"{url}: curl ended with {process.returncode}, and the bytes are sha256:{made.hexdigest()}")


def digest_of(path):
    return path.rpartition("/")[2]
