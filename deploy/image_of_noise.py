"""Writes an OCI layout with an image of a few layers of noise, for checks that pull it.

    image_of_noise.py DIRECTORY

The noise is the same each time. Standard library only.
"""

import gzip
import hashlib
import io
import json
import pathlib
import random
import sys
import tarfile

out = pathlib.Path(sys.argv[1])
blobs = out / "blobs" / "sha256"
blobs.mkdir(parents=True)


def put(kind, data):
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}


layers, plain = [], []
for number, size in enumerate((100, 200_000, 32_000_000)):
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        info = tarfile.TarInfo(f"noise-{number}")
        info.size = size
        tar.addfile(info, io.BytesIO(random.Random(number).randbytes(size)))
    plain.append("sha256:" + hashlib.sha256(output.getvalue()).hexdigest())
    layers.append(put("layer.v1.tar+gzip", gzip.compress(output.getvalue(), 1, mtime=0)))
config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": plain}}
manifest = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": put("config.v1+json", json.dumps(config).encode()),
    "layers": layers,
}
top = put("manifest.v1+json", json.dumps(manifest).encode())
(out / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
(out / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
print(top["digest"])
