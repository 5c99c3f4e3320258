"""What the figures were taken on, and of."""

import os
import pathlib
import platform
import re
import subprocess


def first_line(*command):
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except OSError:
        return "missing"
    lines = (ran.stdout + ran.stderr).strip().splitlines()
    return lines[0].strip() if lines else "unknown"


def facts():
    """CPU, memory and kernel, by what they are called."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.+)$", cpuinfo, re.M)
    flags = re.search(r"^flags\s*: (.+)$", cpuinfo, re.M)
    memory = re.search(r"^MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text(), re.M)
    return {
        "CPU": model[1] if model else platform.machine(),
        "cores": str(os.cpu_count()),
        "SHA instructions": "yes" if flags and "sha_ni" in flags[1].split() else "no",
        "memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "unknown",
        "kernel": f"{platform.system()} {platform.release()}",
    }


def versions(specs):
    """Of the peers, and of the clients."""
    said = {spec.name: spec.version().removeprefix("nginx version: ") for spec in specs}
    said["wrk"] = re.sub(r"\s*(\[.*|Copyright.*)$", "", first_line("wrk", "-v"))
    said["curl"] = " ".join(first_line("curl", "--version").split()[:2])
    said["OpenSSL"] = first_line("openssl", "version").partition(" (")[0]
    said["Python"] = platform.python_version()
    return said
