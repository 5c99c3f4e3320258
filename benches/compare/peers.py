"""The mirrors that are compared: how each kind is configured, and the registry that they mirror."""

import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import time

import images
import origin
from process import Peer, free_port

# Clients, upstream connections and files of a thousand readers.
DESCRIPTORS_MAX = 16384
# A name is of the kind that it begins with.
PREFIXES = {"roadstead": "roadstead", "old": "roadstead", "new": "roadstead", "distribution": "distribution",
            "registry": "distribution", "nginx": "nginx", "zot": "zot"}


@dataclasses.dataclass(frozen=True)
class Spec:
    """A mirror that can be started."""

    name: str
    kind: str
    program: str
    # Keys of roadstead's upstream, in TOML.
    upstream_keys: str = ""
    # And of its cache.
    cache_keys: str = ""

    def version(self):
        argument = {"nginx": "-v"}.get(self.kind, "--version")
        ran = subprocess.run([self.program, argument], capture_output=True, text=True, timeout=20)
        said = (ran.stdout + ran.stderr).strip().splitlines()
        return re.sub(r"^\S*/(?=docker-registry|registry|zot)", "", said[0]) if said else "unknown"


def named(text):
    """A peer from NAME=PATH."""
    name, _, path = text.partition("=")
    kind = next((PREFIXES[prefix] for prefix in PREFIXES if name.startswith(prefix)), None)
    if not kind:
        raise SystemExit(f"--peer {text}: the name says what it is by its beginning: {', '.join(PREFIXES)}")
    if name in ("roadstead", "nginx", "distribution"):
        raise SystemExit(f"--peer {text}: there is a peer {name} already; call it {name}-2 or so")
    program = shutil.which(path)
    if not program:
        raise SystemExit(f"--peer {text}: there is no program {path}")
    return Spec(name, kind, str(pathlib.Path(program).resolve()))


class World:
    """The registries with their images, and the mirrors of them."""

    def __init__(self, work, program, more, options):
        self.work, self.options, self.began = work, options, time.monotonic()
        self.running, self.numbers, self.series = [], 0, {}
        self.specs = [Spec("roadstead", "roadstead", str(program)), Spec("nginx", "nginx", "nginx"),
                      Spec("distribution", "distribution", "docker-registry"), *more]
        self.certificate()
        self._registry = self._plain = self._secure = self._made = None

    @property
    def registry(self):
        """A docker-registry with the image of the warm cases."""
        if not self._registry:
            self._registry = self.spawn(Spec("origin", "distribution", "docker-registry"), None)
            self.image = images.push(self._registry.url, 32 if self.options.quick else 256)
        return self._registry

    @functools.cached_property
    def many(self):
        """Paths of many small blobs there."""
        return images.push_many(self.registry.url)

    @property
    def made(self):
        """A registry of made-up blobs at a measured pace."""
        if not self._made:
            self._made = origin.Origin(self.work)
        return self._made

    @property
    def plain(self):
        if not self._plain:
            self._plain = [self.spawn(spec, self.registry.url) for spec in self.specs]
        return self._plain

    @property
    def secure(self):
        if not self._secure:
            kinds = ("roadstead", "nginx")
            self._secure = [self.spawn(spec, self.registry.url, True) for spec in self.specs if spec.kind in kinds]
        return self._secure

    def end(self):
        for peer in reversed(self.running):
            peer.end()
        if self._made:
            self._made.end()

    def end_standing(self):
        """Ends the mirrors of the warm cases, so that they are not beside what is measured next."""
        for peer in (self._plain or []) + (self._secure or []):
            self.drop(peer)
        self._plain = self._secure = None

    def drop(self, peer):
        """Ends a mirror and removes its cache."""
        peer.end()
        if peer in self.running:
            self.running.remove(peer)
        shutil.rmtree(peer.directory, ignore_errors=True)

    def certificate(self):
        self.cert, self.key = self.work / "cert.pem", self.work / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-keyout", self.key, "-out", self.cert],
            check=True, capture_output=True, timeout=60)

    def spawn(self, spec, remote, secure=False, max_gb=4, directory=None):
        """Starts a mirror with a cache of its own, or on the directory that another one left."""
        self.numbers += 1
        if directory is None:
            directory = self.work / f"{self.numbers}-{spec.name.replace(' ', '-')}"
            directory.mkdir()
        configure = {"roadstead": self.roadstead, "nginx": self.nginx, "distribution": self.distribution, "zot": self.zot}
        port = free_port()
        command = configure[spec.kind](spec, directory, port, remote, secure, max_gb)
        url = f"{'https' if secure else 'http'}://127.0.0.1:{port}"
        peer = Peer(spec.name, spec.kind, url, command, directory / "out.log", directory)
        peer.spec = spec
        self.running.append(peer)
        return peer

    def distribution(self, spec, directory, port, remote, _secure, _max_gb):
        config = directory / "config.yml"
        proxy = f"proxy: {{remoteurl: '{remote}'}}\n" if remote else ""
        config.write_text(
            f"version: 0.1\nlog: {{level: info, accesslog: {{disabled: false}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {directory / 'cache'}}}, cache: {{blobdescriptor: inmemory}}}}\n"
            f"http: {{addr: '127.0.0.1:{port}', secret: x}}\n{proxy}")
        return [spec.program, "serve", config]

    def roadstead(self, spec, directory, port, remote, secure, max_gb):
        tls = f"[server.tls]\ncert = '{self.cert}'\nkey = '{self.key}'\n" if secure else ""
        config = directory / "config.toml"
        admin = free_port()
        (directory / "admin").write_text(f"http://127.0.0.1:{admin}")
        config.write_text(
            f"[server]\nlisten = '127.0.0.1:{port}'\nadmin_listen = '127.0.0.1:{admin}'\n{tls}"
            f"[cache]\ndir = '{directory / 'cache'}'\nmax_size = '{max_gb}GB'\n{spec.cache_keys}\n[tags]\nttl = '1h'\n"
            f"[upstream.'docker.io']\nendpoints = ['{remote}']\n{spec.upstream_keys}\n")
        return [spec.program, "serve", "--config", config]

    def zot(self, spec, directory, port, remote, _secure, _max_gb):
        config = directory / "config.json"
        config.write_text(json.dumps({
            "distSpecVersion": "1.1.0",
            "storage": {"rootDirectory": str(directory / "cache"), "gc": False},
            "http": {"address": "127.0.0.1", "port": str(port)},
            "log": {"level": "info"},
            "extensions": {"sync": {"enable": True, "registries": [
                {"urls": [remote], "onDemand": True, "tlsVerify": False, "content": [{"prefix": "**"}]}]}},
        }))
        return [spec.program, "serve", config]

    def nginx(self, spec, root, port, remote, secure, max_gb):
        user = "user root;" if os.geteuid() == 0 else ""
        tls = (f"ssl_certificate {self.cert}; ssl_certificate_key {self.key}; ssl_protocols TLSv1.3; ssl_session_cache off;"
               if secure else "")
        listen = f"127.0.0.1:{port} ssl http2" if secure else f"127.0.0.1:{port}"
        temporary = "".join(f"{kind}_temp_path {root}/{kind};" for kind in ("client_body", "fastcgi", "uwsgi", "scgi"))
        (root / "nginx.conf").write_text(f"""
{user} daemon off; worker_processes auto; pid {root}/pid; error_log {root}/error.log warn;
worker_rlimit_nofile {DESCRIPTORS_MAX};
events {{ worker_connections 4096; }}
http {{
    {temporary} proxy_temp_path {root}/proxy;
    access_log {root}/access.log; sendfile on; tcp_nopush on; keepalive_requests 100000000;
    proxy_cache_path {root}/cache levels=1:2 keys_zone=all:10m max_size={max_gb}g inactive=1d use_temp_path=off;
    server {{
        listen {listen}; {tls}
        location / {{
            proxy_pass {remote}; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_cache all; proxy_cache_key $uri; proxy_cache_valid 200 1d; proxy_cache_lock on;
        }}
    }}
}}
""")
        return [spec.program, "-p", root, "-e", root / "start.log", "-c", root / "nginx.conf"]
