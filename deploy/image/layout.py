"""Writes an image for several architectures as an OCI layout, by what the Dockerfile beside this says, with no network and
no daemon.

    layout.py --out DIR --name NAME --label KEY=VALUE… --context amd64=DIR --sbom amd64=FILE --context arm64=DIR …

The Dockerfile is a list of files and settings, and only such instructions are understood; any other is an error. Each
image has its SBOM (SPDX) beside it as BuildKit attaches them: an attestation manifest, which `docker buildx imagetools
inspect`, Docker Scout and `crane` read. Times are SOURCE_DATE_EPOCH: the same content gives the same digests.
"""

import argparse
import datetime
import gzip
import hashlib
import io
import json
import os
import pathlib
import re
import tarfile

HERE = pathlib.Path(__file__).resolve().parent
EPOCH = int(os.environ["SOURCE_DATE_EPOCH"])
CREATED = datetime.datetime.fromtimestamp(EPOCH, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
IN_TOTO = "application/vnd.in-toto+json"
SPDX = "https://spdx.dev/Document"
NANOSECONDS = {"s": 10**9, "m": 60 * 10**9}


def instructions():
    """The instructions of the Dockerfile, one by one, with their continued lines."""
    text = (HERE / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        word, rest = line.split(None, 1)
        yield word, rest.strip()


def duration(text):
    return int(text[:-1]) * NANOSECONDS[text[-1]]


def healthcheck(rest):
    options, command = rest.split("CMD", 1)
    check = {"Test": ["CMD", *json.loads(command)]}
    keys = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod", "retries": "Retries"}
    for key, value in re.findall(r"--([a-z-]+)=(\S+)", options):
        check[keys[key]] = int(value) if key == "retries" else duration(value)
    return check


def read_dockerfile():
    """The image's settings, and its files: (owner, source, destination)."""
    settings, files = {}, []
    for word, rest in instructions():
        if word == "FROM" and rest == "scratch":
            continue
        elif word == "COPY":
            owner, source, destination = re.fullmatch(r"(?:--chown=(\d+:\d+) )?(\S+) (\S+)", rest).groups()
            files.append((tuple(map(int, (owner or "0:0").split(":"))), source, destination))
        elif word == "USER":
            settings["User"] = rest
        elif word == "EXPOSE":
            settings["ExposedPorts"] = {f"{port}/tcp": {} for port in rest.split()}
        elif word == "VOLUME":
            settings["Volumes"] = {path: {} for path in rest.split()}
        elif word == "STOPSIGNAL":
            settings["StopSignal"] = rest
        elif word == "HEALTHCHECK":
            settings["Healthcheck"] = healthcheck(rest)
        elif word in ("ENTRYPOINT", "CMD"):
            settings[word.capitalize()] = json.loads(rest)
        else:
            raise SystemExit(f"layout.py does not know this instruction of the Dockerfile: {word} {rest}")
    return settings, files


def entry(name, owner, mode):
    info = tarfile.TarInfo(name)
    info.uid, info.gid = owner
    info.mode, info.mtime = mode, EPOCH
    return info


def layer(context, files):
    """A tar of all files. Directories on the way to them are root's."""
    output, made = io.BytesIO(), set()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.GNU_FORMAT) as tar:

        def directory(path, owner=(0, 0), mode=0o755):
            if path not in made and path != pathlib.PurePosixPath("."):
                directory(path.parent)
                made.add(path)
                info = entry(f"{path}/", owner, mode)
                info.type = tarfile.DIRTYPE
                tar.addfile(info)

        for owner, source, destination in files:
            at, path = context / source, pathlib.PurePosixPath(destination.lstrip("/"))
            directory(path.parent)
            if at.is_dir():
                assert not any(at.iterdir()), f"{at} should be empty: only empty directories are understood"
                directory(path, owner, at.stat().st_mode & 0o777)
            else:
                info = entry(str(path), owner, at.stat().st_mode & 0o777)
                data = at.read_bytes()
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return output.getvalue()


def digest_of(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Layout:
    def __init__(self, out):
        self.blobs = out / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        (out / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self.index = out / "index.json"

    def put(self, media_type, data, **more):
        """Stores a blob, and returns its descriptor."""
        if not isinstance(data, bytes):
            data = json.dumps(data, separators=(",", ":")).encode()
        digest = digest_of(data)
        (self.blobs / digest.removeprefix("sha256:")).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data), **more}

    def image(self, architecture, content, settings):
        config = {
            "created": CREATED,
            "architecture": architecture,
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [digest_of(content)]},
            "history": [{"created": CREATED, "created_by": "deploy/image/build"}],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.put(CONFIG, config),
            "layers": [self.put(LAYER, gzip.compress(content, 9, mtime=0))],
            "annotations": settings["Labels"],
        }
        return self.put(MANIFEST, manifest, platform={"architecture": architecture, "os": "linux"})

    def attestation(self, image, name, sbom):
        """What BuildKit writes for `--attest type=sbom`."""
        platform = f"linux%2F{image['platform']['architecture']}"
        statement = {
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": SPDX,
            "subject": [
                {"name": f"pkg:docker/{name.replace(':', '@')}?platform={platform}", "digest": {"sha256": image["digest"][7:]}}
            ],
            "predicate": json.loads(sbom),
        }
        proof = self.put(IN_TOTO, statement, annotations={"in-toto.io/predicate-type": SPDX})
        nowhere = {"architecture": "unknown", "os": "unknown"}
        config = {**nowhere, "config": {}, "rootfs": {"type": "layers", "diff_ids": [proof["digest"]]}}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": self.put(CONFIG, config), "layers": [proof]}
        annotations = {
            "vnd.docker.reference.digest": image["digest"],
            "vnd.docker.reference.type": "attestation-manifest",
        }
        return self.put(MANIFEST, manifest, platform=nowhere, annotations=annotations)


def main():
    pairs = lambda text: tuple(text.split("=", 1))
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--label", type=pairs, action="append", default=[])
    parser.add_argument("--context", type=pairs, action="append", required=True)
    parser.add_argument("--sbom", type=pairs, action="append", required=True)
    options = parser.parse_args()
    settings, files = read_dockerfile()
    settings["Labels"] = dict(options.label)
    layout, sboms = Layout(options.out), dict(options.sbom)
    images, proofs = [], []
    for architecture, context in options.context:
        content = layer(pathlib.Path(context), files)
        image = layout.image(architecture, content, settings)
        images.append(image)
        proofs.append(layout.attestation(image, options.name, pathlib.Path(sboms[architecture]).read_text()))
    # Images first: a client that knows nothing of attestations takes the first that fits.
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": images + proofs, "annotations": settings["Labels"]}
    tag = options.name.rpartition(":")[2]
    top = layout.put(INDEX, index, annotations={"org.opencontainers.image.ref.name": tag})
    layout.index.write_text(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [top]}))
    print(top["digest"])


main()
