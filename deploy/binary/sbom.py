"""Writes what a program is made of, as SPDX 2.3 in JSON: every crate that is linked into it, by Cargo.lock, and the C
library.

    sbom.py ARCHITECTURE GLIBC

GLIBC is its version, or nothing where that is not known.

Crates for tests, for building alone, and for other machines are not in it. The same sources give the same text: its time
is SOURCE_DATE_EPOCH, its name in the world a hash of its content. Standard library only.
"""

import datetime
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
NONE = "NOASSERTION"


def metadata(architecture):
    command = ["cargo", "metadata", "--format-version=1", "--locked", f"--filter-platform={architecture}-unknown-linux-gnu"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def checksums():
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    return {(it["name"], it["version"]): it["checksum"] for it in lock["package"] if "checksum" in it}


def linked(graph):
    """The packages that normal dependencies lead to, and the pairs that depend on each other."""
    nodes = {node["id"]: node for node in graph["resolve"]["nodes"]}
    found, left, pairs = set(), [graph["resolve"]["root"]], set()
    while left:
        at = left.pop()
        if at in found:
            continue
        found.add(at)
        for dependency in nodes[at]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                pairs.add((at, dependency["pkg"]))
                left.append(dependency["pkg"])
    return found, pairs


def reference(name, version):
    return "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", f"{name}-{version}")


def crate(package, hashes):
    name, version = package["name"], package["version"]
    described = {
        "SPDXID": reference(name, version),
        "name": name,
        "versionInfo": version,
        "downloadLocation": NONE,
        "filesAnalyzed": False,
        "licenseConcluded": NONE,
        # Old crates write MIT/Apache-2.0.
        "licenseDeclared": " ".join((package["license"] or NONE).replace("/", " OR ").split()),
        "copyrightText": NONE,
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": f"pkg:cargo/{name}@{version}",
            }
        ],
    }
    if (name, version) in hashes:
        described["checksums"] = [{"algorithm": "SHA256", "checksumValue": hashes[name, version]}]
    return described


def c_library(version):
    """It is in the program, too, and no crate."""
    return {
        "SPDXID": reference("glibc", version),
        "name": "glibc",
        "versionInfo": version,
        "downloadLocation": NONE,
        "filesAnalyzed": False,
        "licenseConcluded": NONE,
        "licenseDeclared": "LGPL-2.1-or-later",
        "copyrightText": NONE,
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": f"pkg:generic/glibc@{version}",
            }
        ],
    }


def main(architecture, glibc):
    graph, hashes = metadata(architecture), checksums()
    found, pairs = linked(graph)
    by_id = {package["id"]: package for package in graph["packages"]}
    root = by_id[graph["resolve"]["root"]]
    spdx_of = lambda it: reference(by_id[it]["name"], by_id[it]["version"])
    packages = sorted((crate(by_id[it], hashes) for it in found), key=lambda it: it["SPDXID"])
    own = next(it for it in packages if it["name"] == root["name"])
    own["primaryPackagePurpose"] = "APPLICATION"
    libraries = [c_library(glibc)] if glibc else []
    related = sorted((spdx_of(one), spdx_of(other)) for one, other in pairs)
    related += [(own["SPDXID"], it["SPDXID"]) for it in libraries]
    relationships = [("SPDXRef-DOCUMENT", "DESCRIBES", own["SPDXID"])]
    relationships += [(one, "DEPENDS_ON", other) for one, other in related]
    created = datetime.datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), datetime.timezone.utc)
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{root['name']}-{root['version']}-linux-{architecture}",
        "creationInfo": {"created": created.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": ["Tool: deploy/binary/sbom.py"]},
        "packages": packages + libraries,
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other} for one, kind, other in relationships
        ],
    }
    content = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    document["documentNamespace"] = uuid.uuid5(uuid.NAMESPACE_OID, content).urn
    json.dump(document, sys.stdout, indent=1)
    print()


main(*sys.argv[1:])
