"""traffic.py REGISTRY MIRROR: puts two new images into the registry, and pulls them and others through the mirror; pushes one to it."""

import concurrent.futures
import hashlib
import http.client
import json
import os
import sys

REGISTRY, MIRROR = sys.argv[1:3]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def request(host, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request(method, path, body=body, headers={"Accept": MANIFEST, **(headers or {})})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), content


def push_blob(repository, content, registry=REGISTRY):
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    status, headers, _ = request(registry, "POST", f"/v2/{repository}/blobs/uploads/")
    assert status == 202, status
    place = {name.lower(): value for name, value in headers.items()}["location"].split(registry, 1)[-1]
    separator = "&" if "?" in place else "?"
    status, _, text = request(
        registry, "PUT", f"{place}{separator}digest={digest}", content, {"Content-Type": "application/octet-stream"}
    )
    assert status == 201, text
    return {"digest": digest, "size": len(content)}


def push_image(repository, tag, registry=REGISTRY):
    config = push_blob(repository, json.dumps({"architecture": "amd64", "os": "linux", "tag": tag}).encode(), registry)
    layers = [push_blob(repository, os.urandom(400_000), registry) for _ in range(3)]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **layer} for layer in layers],
    }
    path = f"/v2/{repository}/manifests/{tag}"
    status, _, text = request(registry, "PUT", path, json.dumps(manifest).encode(), {"Content-Type": MANIFEST})
    assert status == 201, text


def pull(repository, tag):
    status, _, text = request(MIRROR, "GET", f"/v2/{repository}/manifests/{tag}")
    assert status == 200, text
    manifest = json.loads(text)
    for blob in [manifest["config"], *manifest["layers"]]:
        status, _, content = request(MIRROR, "GET", f"/v2/{repository}/blobs/{blob['digest']}")
        assert status == 200 and "sha256:" + hashlib.sha256(content).hexdigest() == blob["digest"], status


tag = os.urandom(4).hex()
images = [("library/one", tag), ("team/two", tag)]
for image in images:
    push_image(*image)
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    # Four clients at once, and then again: misses, joined transfers and hits.
    for _ in range(2):
        list(pool.map(lambda image: pull(*image), images * 4))
push_image("pushed/app", tag, MIRROR)
pull("pushed/app", tag)
# An upload that nobody goes on with.
assert request(MIRROR, "POST", "/v2/pushed/app/blobs/uploads/")[0] == 202
statuses = [request(MIRROR, "GET", path)[0] for path in (
    "/v2/library/one/manifests/missing",
    "/v2/x/manifests/1?ns=unknown.example",
    "/v2/x/manifests/NOT%20VALID",
    *["/v2/down.example/x/manifests/1"] * 6,
)]
print(f"pulled {len(images)} images 8 times, pushed one; other answers: {statuses}")
