"""Builds the test images and pushes them to the upstream registries.

Everything is made here from bytes (tar layers, configurations, manifests) and pushed with plain HTTP,
so that the digests a client must end up with are known before any client has run. For each image a
JSON file says what is expected of it; `check.py` reads these files.

Standard library only, but for the `zstd` program: Python 3.11 has no zstd of its own.
"""

import argparse
import base64
import gzip
import hashlib
import io
import json
import pathlib
import random
import subprocess
import tarfile
import urllib.error
import urllib.parse
import urllib.request

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
ARTIFACT_TYPE = "application/vnd.example.signature.v1+json"

MIB = 1024 * 1024
# One request takes milliseconds on loopback; a minute means that the registry hangs.
REQUEST_SECONDS_MAX = 60
CREATED = "2024-01-01T00:00:00Z"


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def canonical(value):
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def descriptor(media_type, data, **more):
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}


class Registry:
    """A registry that images are pushed to: monolithic uploads and manifest PUTs, nothing more."""

    def __init__(self, base, user=None, password=None):
        self.base = base
        self.headers = {}
        if user is not None:
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            self.headers["Authorization"] = "Basic " + token

    def request(self, method, url, body, headers):
        request = urllib.request.Request(url, data=body, method=method, headers={**self.headers, **headers})
        try:
            return urllib.request.urlopen(request, timeout=REQUEST_SECONDS_MAX)
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{method} {url}: {error.code} {error.read(2000)!r}") from error

    def push_blob(self, repository, data):
        start = f"{self.base}/v2/{repository}/blobs/uploads/"
        location = self.request("POST", start, b"", {}).headers["Location"]
        location = urllib.parse.urljoin(start, location)
        separator = "&" if "?" in location else "?"
        url = f"{location}{separator}digest={urllib.parse.quote(sha256(data))}"
        self.request("PUT", url, data, {"Content-Type": "application/octet-stream"}).close()

    def push_manifest(self, repository, reference, media_type, data):
        url = f"{self.base}/v2/{repository}/manifests/{reference}"
        answer = self.request("PUT", url, data, {"Content-Type": media_type})
        if answer.headers["Docker-Content-Digest"] != sha256(data):
            raise SystemExit(f"{url}: the registry computed another digest")


def layer_tar(index, files):
    """A layer: one directory and the given files, with fixed times and owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        directory = tarfile.TarInfo(f"layer-{index}")
        directory.type = tarfile.DIRTYPE
        directory.mode = 0o755
        tar.addfile(directory)
        for name, data in files.items():
            entry = tarfile.TarInfo(f"layer-{index}/{name}")
            entry.size = len(data)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def compress(tar, how):
    if how == "zstd":
        return subprocess.run(["zstd", "-q", "-3", "-c"], input=tar, stdout=subprocess.PIPE, check=True, timeout=60).stdout
    # Level 1: the bulk of every layer is random and would not become smaller anyway.
    return gzip.compress(tar, compresslevel=1, mtime=0)


class Image:
    """One platform's image: its blobs, its manifest, and what a client must find."""

    def __init__(self, seed, kind, architecture="amd64", layer_bytes=(2 * MIB, 64 * 1024, 900)):
        chance = random.Random(f"{seed}/{architecture}")
        randoms = [chance.randbytes(size) for size in layer_bytes]
        tars = [
            layer_tar(index, {"random": data, "name": f"{seed} {architecture} {index}\n".encode()})
            for index, data in enumerate(randoms)
        ]
        self.files = {
            f"layer-{index}/random": sha256(data) for index, data in enumerate(randoms)
        }
        layer_type = {"docker": DOCKER_LAYER, "oci": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}[kind]
        self.media_type = DOCKER_MANIFEST if kind == "docker" else OCI_MANIFEST
        config_type = DOCKER_CONFIG if kind == "docker" else OCI_CONFIG
        layers = [compress(tar, "zstd" if kind == "zstd" else "gzip") for tar in tars]
        self.diff_ids = [sha256(tar) for tar in tars]
        variant = {"variant": "v8"} if architecture == "arm64" else {}
        self.platform = {"architecture": architecture, "os": "linux", **variant}
        config = canonical({
            **self.platform,
            "created": CREATED,
            "config": {"Cmd": ["/none"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            "history": [{"created": CREATED, "created_by": f"layer {index}"} for index in range(len(tars))],
        })
        self.blobs = [config, *layers]
        self.config = descriptor(config_type, config)
        self.layers = [descriptor(layer_type, layer) for layer in layers]
        self.manifest = canonical({
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": self.config,
            "layers": self.layers,
        })

    def push(self, registry, repository, reference=None):
        for blob in self.blobs:
            registry.push_blob(repository, blob)
        registry.push_manifest(repository, reference or sha256(self.manifest), self.media_type, self.manifest)

    def expected(self):
        return {
            "manifest": sha256(self.manifest),
            "config": self.config["digest"],
            "layers": [layer["digest"] for layer in self.layers],
            "diff_ids": self.diff_ids,
            "files": self.files,
        }


class Pusher:
    def __init__(self, upstreams, out):
        self.upstreams = upstreams
        self.out = out

    def expect(self, name, upstream, repository, top, platforms, tag="1", **more):
        """Says what `name` is; `top` is the digest that the tag names."""
        value = {"upstream": upstream, "repository": repository, "tag": tag, "digest": top, "platforms": platforms, **more}
        (self.out / f"{name}.json").write_text(json.dumps(value, indent=1))

    def single(self, name, upstream, repository, kind, layer_bytes=(2 * MIB, 64 * 1024, 900)):
        image = Image(name, kind, layer_bytes=layer_bytes)
        image.push(self.upstreams[upstream], repository, "1")
        self.expect(name, upstream, repository, sha256(image.manifest), {"linux/amd64": image.expected()})
        return image

    def platforms(self, name, upstream, repository):
        images = [Image(name, "oci", architecture) for architecture in ("amd64", "arm64")]
        for image in images:
            image.push(self.upstreams[upstream], repository)
        index = canonical({
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [descriptor(image.media_type, image.manifest, platform=image.platform) for image in images],
        })
        self.upstreams[upstream].push_manifest(repository, "1", OCI_INDEX, index)
        platforms = {f"linux/{image.platform['architecture']}": image.expected() for image in images}
        self.expect(name, upstream, repository, sha256(index), platforms)

    def artifact(self, name, upstream, repository):
        """An image and a signature-like artifact that refers to it.

        Distribution 2.8 has no referrers API, so the list of referrers is pushed as an index under the
        tag `sha256-<hex>`, as clients do (distribution-spec, "Referrers Tag Schema").
        """
        registry = self.upstreams[upstream]
        image = Image(name, "oci")
        image.push(registry, repository, "1")
        empty, payload = b"{}", canonical({"signed": sha256(image.manifest)})
        manifest = canonical({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": ARTIFACT_TYPE,
            "config": descriptor(OCI_EMPTY, empty),
            "layers": [descriptor("application/json", payload)],
            "subject": descriptor(image.media_type, image.manifest),
        })
        registry.push_blob(repository, empty)
        registry.push_blob(repository, payload)
        registry.push_manifest(repository, "signature", OCI_MANIFEST, manifest)
        index = canonical({
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [descriptor(OCI_MANIFEST, manifest, artifactType=ARTIFACT_TYPE)],
        })
        fallback = sha256(image.manifest).replace(":", "-")
        registry.push_manifest(repository, fallback, OCI_INDEX, index)
        self.expect(name, upstream, repository, sha256(image.manifest), {"linux/amd64": image.expected()}, referrer=sha256(manifest))
        signature = {"manifest": sha256(manifest), "config": sha256(empty), "layers": [sha256(payload)], "diff_ids": []}
        self.expect(f"{name}-signature", upstream, repository, sha256(manifest), {"linux/amd64": signature}, tag="signature")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--anonymous", required=True, help="base URL of the anonymous registry")
    parser.add_argument("--private", required=True, help="base URL of the registry that wants credentials")
    parser.add_argument("--user", required=True)
    parser.add_argument("--password-file", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where the expectations are written")
    parser.add_argument("clients", nargs="+", help="each client gets images of its own, so that its first pull is cold")
    options = parser.parse_args()
    password = options.password_file.read_text().strip()
    upstreams = {
        "docker.io": Registry(options.anonymous),
        "private.example": Registry(options.private, options.user, password),
    }
    pusher = Pusher(upstreams, options.out)
    for client in options.clients:
        sizes = (6 * MIB, 300 * 1024, 64 * 1024, 700)
        pusher.single(f"layers-{client}", "docker.io", f"library/layers-{client}", "docker", sizes)
        pusher.platforms(f"platforms-{client}", "docker.io", f"team/platforms-{client}")
        pusher.single(f"zstd-{client}", "docker.io", f"team/zstd-{client}", "zstd")
        pusher.single(f"private-{client}", "private.example", f"secret/app-{client}", "oci")
    # What only those that have logged in may pull.
    pusher.single("login", "private.example", "secret/login", "oci")
    pusher.single("parallel", "docker.io", "team/parallel", "oci", (64 * MIB, 8 * MIB, 8 * MIB, 1000))
    pusher.artifact("artifact", "docker.io", "team/artifact")


if __name__ == "__main__":
    main()
