"""The image that is pulled: pushed to the origin with plain HTTP."""

import hashlib
import json
import random
import urllib.parse
import urllib.request

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
REPOSITORY = "library/big"
TAG = "v1"
MIB = 1024 * 1024
# More than roadstead keeps open.
MANY = 600


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def send(method, url, data, content_type):
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": content_type})
    return urllib.request.urlopen(request, timeout=120)


def push_blob(origin, data):
    start = f"{origin}/v2/{REPOSITORY}/blobs/uploads/"
    location = urllib.parse.urljoin(start, send("POST", start, b"", "application/octet-stream").headers["Location"])
    separator = "&" if "?" in location else "?"
    send("PUT", f"{location}{separator}digest={sha256(data)}", data, "application/octet-stream").close()


def push_many(origin):
    """Paths of small blobs."""
    paths = []
    for number in range(MANY):
        data = json.dumps({"architecture": "amd64", "os": "linux", "number": number, "filling": "x" * 3000}).encode()
        push_blob(origin, data)
        paths.append(f"/v2/{REPOSITORY}/blobs/{sha256(data)}")
    return paths


def push(origin, layer_mib):
    """Paths of what was pushed, by what it is; and the sizes."""
    chance = random.Random("roadstead")
    layer = b"".join(chance.randbytes(MIB) for _ in range(layer_mib))
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    for data in (config, layer):
        push_blob(origin, data)
    manifest = json.dumps({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": sha256(config), "size": len(config)},
        "layers": [{"mediaType": LAYER, "digest": sha256(layer), "size": len(layer)}],
    }).encode()
    base = f"/v2/{REPOSITORY}"
    send("PUT", f"{origin}{base}/manifests/{TAG}", manifest, MANIFEST).close()
    return {
        "ping": "/v2/",
        "tag": f"{base}/manifests/{TAG}",
        "manifest": f"{base}/manifests/{sha256(manifest)}",
        "config": f"{base}/blobs/{sha256(config)}",
        "layer": f"{base}/blobs/{sha256(layer)}",
        "layer_bytes": len(layer),
    }
