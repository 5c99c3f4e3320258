"""The mirrors that are compared, and the registry that they mirror."""

import os
import pathlib
import random
import signal
import socket
import subprocess
import time
import urllib.request

import images

START_SECONDS_MAX = 20
TICKS = os.sysconf("SC_CLK_TCK")


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


class Peer:
    """A mirror that runs."""

    def __init__(self, name, url, command, log, environment=None):
        self.name = name
        self.url = url
        with open(log, "wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        deadline = time.monotonic() + START_SECONDS_MAX
        port = int(url.rpartition(":")[2])
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{name} does not start: {pathlib.Path(log).read_text()[-2000:]}") from None
                time.sleep(0.02)

    def cpu(self):
        return cpu_seconds(self.process.pid)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class World:
    """The registry with its images, and the mirrors of it."""

    def __init__(self, work, program):
        self.work = work
        self.program = program
        self.running = []
        self.origin = self.registry("origin", None)
        self.image = images.push(self.origin.url)
        self.certificate()
        self.plain = [self.roadstead(False), self.nginx(False), self.registry("distribution", self.origin.url)]
        self.secure = [self.roadstead(True), self.nginx(True)]

    def turn(self, number, secure):
        """The peers in the order of a round: another one begins each time."""
        peers = self.secure if secure else self.plain
        at = number % len(peers)
        return peers[at:] + peers[:at]

    def end(self):
        for peer in reversed(self.running):
            peer.end()

    def start(self, *arguments, **more):
        peer = Peer(*arguments, **more)
        self.running.append(peer)
        return peer

    def certificate(self):
        self.cert, self.key = self.work / "cert.pem", self.work / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-keyout", self.key, "-out", self.cert],
            check=True, capture_output=True)

    def registry(self, name, remote):
        port = free_port()
        config = self.work / f"{name}.yml"
        proxy = f"proxy: {{remoteurl: '{remote}'}}\n" if remote else ""
        config.write_text(
            f"version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.work / name}}}, cache: {{blobdescriptor: inmemory}}}}\n"
            f"http: {{addr: '127.0.0.1:{port}', secret: x}}\n{proxy}")
        url = f"http://127.0.0.1:{port}"
        return self.start(name, url, ["docker-registry", "serve", config], self.work / f"{name}.log")

    def roadstead(self, secure):
        port, admin = free_port(), free_port()
        name = "roadstead-tls" if secure else "roadstead"
        tls = f"[server.tls]\ncert = '{self.cert}'\nkey = '{self.key}'\n" if secure else ""
        config = self.work / f"{name}.toml"
        config.write_text(
            f"[server]\nlisten = '127.0.0.1:{port}'\nadmin_listen = '127.0.0.1:{admin}'\n{tls}"
            f"[cache]\ndir = '{self.work / name}'\nmax_size = '4GB'\n[tags]\nttl = '1h'\n"
            f"[upstream.'docker.io']\nendpoints = ['{self.origin.url}']\n")
        scheme = "https" if secure else "http"
        command = [self.program, "serve", "--config", config]
        return self.start("roadstead", f"{scheme}://127.0.0.1:{port}", command, self.work / f"{name}.log")

    def nginx(self, secure):
        port = free_port()
        name = "nginx-tls" if secure else "nginx"
        root = self.work / name
        root.mkdir()
        user = "user root;" if os.geteuid() == 0 else ""
        tls = (f"ssl_certificate {self.cert}; ssl_certificate_key {self.key}; ssl_protocols TLSv1.3; ssl_session_cache off;"
               if secure else "")
        listen = f"127.0.0.1:{port} ssl http2" if secure else f"127.0.0.1:{port}"
        temporary = "".join(f"{kind}_temp_path {root}/{kind};" for kind in ("client_body", "fastcgi", "uwsgi", "scgi"))
        (root / "nginx.conf").write_text(f"""
{user} daemon off; worker_processes auto; pid {root}/pid; error_log {root}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    {temporary} proxy_temp_path {root}/proxy;
    access_log {root}/access.log; sendfile on; tcp_nopush on; keepalive_requests 100000000;
    proxy_cache_path {root}/cache levels=1:2 keys_zone=all:10m max_size=4g inactive=1d use_temp_path=off;
    server {{
        listen {listen}; {tls}
        location / {{
            proxy_pass {self.origin.url}; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_cache all; proxy_cache_key $uri; proxy_cache_valid 200 1d; proxy_cache_lock on;
        }}
    }}
}}
""")
        scheme = "https" if secure else "http"
        command = ["nginx", "-p", root, "-e", root / "start.log", "-c", root / "nginx.conf"]
        return self.start("nginx", f"{scheme}://127.0.0.1:{port}", command, root / "out.log")
