"""sense.py CONFIG MANIFEST…: what a schema does not know of manifests with a roadstead in them.

Fails where one is broken. Writes the configuration of the (last) ConfigMap to CONFIG, and the variables that the
StatefulSet sets, a line each, to CONFIG.env.
"""

import re
import sys

import yaml

CONFIG, FILES = sys.argv[1], sys.argv[2:]
faults = []


def need(condition, what):
    if not condition:
        faults.append(what)


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def documents():
    for file in FILES:
        stream = sys.stdin if file == "-" else open(file)
        yield from (document for document in yaml.safe_load_all(stream) if document)


def check_container(where, container):
    context = container.get("securityContext", {})
    need(context.get("allowPrivilegeEscalation") is False, f"{where}: may escalate privileges")
    need(context.get("readOnlyRootFilesystem") is True, f"{where}: root file system is writable")
    need(context.get("capabilities", {}).get("drop") == ["ALL"], f"{where}: has capabilities")
    need("requests" in container.get("resources", {}), f"{where}: no resources are requested")
    need(not container["image"].endswith(":latest") and ":" in container["image"], f"{where}: its image has no version")


def check_mirror(stateful, config):
    pod = stateful["spec"]["template"]["spec"]
    container = pod["containers"][0]
    environment = {it["name"]: it["value"] for it in container.get("env", []) if "value" in it}
    with open(CONFIG + ".env", "w") as file:
        file.writelines(f"{name}={value}\n" for name, value in environment.items())

    def setting(table, key):
        """The environment beats the file. In the file, the keys of interest are in one table each."""
        found = re.search(rf'^\s*{key} = "([^"]*)"', config.partition(f"[{table}]")[2].partition("\n[")[0], re.M)
        return environment.get(f"ROADSTEAD_{table}__{key}".upper(), found and found[1])

    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe, path in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        asked = container[probe]["httpGet"]
        need(asked["path"] == path and asked["port"] == "admin", f"{probe}: does not ask {path} of the admin listener")
    for key, port in (("listen", "registry"), ("admin_listen", "admin")):
        need(setting("server", key) == f"0.0.0.0:{ports[port]}", f"server.{key} is not the port {port}")
    drain = seconds(setting("server", "drain_timeout") or "30s")
    grace = pod["terminationGracePeriodSeconds"]
    need(grace >= drain + 15, f"terminationGracePeriodSeconds {grace} is not 15 more than drain_timeout {drain}")
    # The Service roadstead-admin would set ROADSTEAD_ADMIN_PORT and more, which are no keys.
    need(pod.get("enableServiceLinks") is False, "variables of Services are taken for keys")
    context = pod["securityContext"]
    need(context["runAsNonRoot"] is True and context["runAsUser"] == context["fsGroup"] == 65532, "not the image's user")
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    for table in ("cache", "state"):
        need(setting(table, "dir") in mounts, f"{table}.dir is not on a volume")
    claims = {claim["metadata"]["name"] for claim in stateful["spec"].get("volumeClaimTemplates", [])}
    volumes = {volume["name"] for volume in pod.get("volumes", [])} | claims
    need({mount["name"] for mount in container["volumeMounts"]} <= volumes, "a mount has no volume")


found = list(documents())
config = ""
for document in found:
    if document["kind"] == "ConfigMap" and "config.toml" in document["data"]:
        config = document["data"]["config.toml"]
        open(CONFIG, "w").write(config)
kinds = {}
for document in found:
    kinds[document["kind"]] = kinds.get(document["kind"], 0) + 1
    if document["kind"] in ("StatefulSet", "DaemonSet"):
        pod = document["spec"]["template"]
        labels = document["spec"]["selector"]["matchLabels"].items()
        need(labels <= pod["metadata"]["labels"].items(), f"{document['metadata']['name']}: selects other pods")
        need(pod["spec"].get("automountServiceAccountToken") is False, f"{document['metadata']['name']}: has a token")
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            check_container(f"{document['metadata']['name']}/{container['name']}", container)
    if document["kind"] == "StatefulSet":
        check_mirror(document, config)
        services = {it["metadata"]["name"]: it for it in found if it["kind"] == "Service"}
        need(document["spec"]["serviceName"] in services, "the StatefulSet's Service is missing")
        for service in services.values():
            need(service["spec"]["selector"].items() <= document["spec"]["template"]["metadata"]["labels"].items(),
                 f"Service {service['metadata']['name']} selects no pod")
for fault in faults:
    print(f"sense.py: {fault}", file=sys.stderr)
print(", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) + f": {len(faults)} faults")
sys.exit(1 if faults else 0)
