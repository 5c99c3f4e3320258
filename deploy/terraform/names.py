"""names.py FOLDER: the names that the Terraform files use are declared there, and the user data is a cloud-config."""

import base64
import pathlib
import re
import sys

import yaml

FOLDER = pathlib.Path(sys.argv[1])
# ECS takes 16 KB of user data.
USER_DATA_BYTES_MAX = 16 * 1024
text = "\n".join(re.sub(r"(?m)^\s*#.*$", "", path.read_text()) for path in sorted(FOLDER.glob("*.tf")))
faults = []

variables = set(re.findall(r'(?m)^variable "(\w+)"', text))
used = set(re.findall(r"\bvar\.(\w+)", text))
faults += [f"var.{name} is not declared" for name in used - variables]
faults += [f"variable {name} is not used" for name in variables - used]
for block in re.findall(r'(?ms)^(?:variable|output) "\w+" \{.*?^\}', text):
    if "description" not in block:
        faults.append(f"no description: {block.splitlines()[0]}")
resources = {f"{kind}.{name}" for kind, name in re.findall(r'(?m)^resource "(\w+)" "(\w+)"', text)}
sources = {f"{kind}.{name}" for kind, name in re.findall(r'(?m)^data "(\w+)" "(\w+)"', text)}
for data, kind, name in re.findall(r"(data\.)?\b(alicloud_\w+)\.(\w+)", text):
    if f"{kind}.{name}" not in (sources if data else resources):
        faults.append(f"{data}{kind}.{name} is not declared")
locals_block = re.search(r"(?ms)^locals \{(.*?)^\}", text)[1]
for name in set(re.findall(r"\blocal\.(\w+)", text)):
    if not re.search(rf"(?m)^\s*{name}\s*=", locals_block):
        faults.append(f"local.{name} is not declared")

template = (FOLDER / "user-data.yaml.tftpl").read_text()
given = set(re.findall(r"(?m)^\s*(\w+)\s*=", re.search(r"templatefile\([^{]*\{.*?, \{(.*?)\}\)", text, re.S)[1]))
wanted = set(re.findall(r"\$\{(\w+)\}", template))
if given != wanted:
    faults.append(f"the template is given {sorted(given)} and uses {sorted(wanted)}")
files = {"unit": FOLDER / "../systemd/roadstead.service", "setup": FOLDER / "setup.sh"}


def filled(match):
    name = match[1]
    if name in files:
        return base64.b64encode(files[name].read_bytes()).decode()
    return base64.b64encode(b"x" * 2000).decode() if name == "config" else "x" * 100


user_data = re.sub(r"\$\{(\w+)\}", filled, template)
document = yaml.safe_load(user_data)
if not user_data.startswith("#cloud-config\n") or set(document) != {"write_files", "runcmd"}:
    faults.append("the user data is no cloud-config as it was meant")
paths = {file["path"] for file in document["write_files"]}
if document["runcmd"] != [["/usr/local/sbin/roadstead-setup"]] or "/usr/local/sbin/roadstead-setup" not in paths:
    faults.append("the user data does not run what it writes")
if len(user_data) > USER_DATA_BYTES_MAX:
    faults.append(f"the user data has {len(user_data)} bytes, at most {USER_DATA_BYTES_MAX}")
for fault in faults:
    print(f"names.py: {fault}", file=sys.stderr)
print(f"{len(resources)} resources, {len(variables)} variables, {len(user_data)} bytes of user data: {len(faults)} faults")
sys.exit(1 if faults else 0)
