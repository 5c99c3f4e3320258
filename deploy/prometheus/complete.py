"""complete.py ROOT: what promtool does not look at: texts, runbooks, tests and names of metrics of the rules."""

import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(sys.argv[1])
HERE = ROOT / "deploy/prometheus"
SEVERITIES = {"critical", "warning", "info"}
TEXTS = {"summary", "description", "runbook_url"}
# Of Prometheus itself, of every process, and of the blackbox exporter.
FOREIGN = {"up", "process_start_time_seconds", "probe_success", "probe_ssl_earliest_cert_expiry"}
# Metrics of a version that is being built: to be taken out here when docs/reference/metrics.md has them.
AWAITED = set()
NAME = re.compile(r"(?<![\w:\"])(?:roadstead|process|probe|up)(?:[_:][\w:]*)?(?![\w\"])")

faults = []


def rules_of(file):
    groups = yaml.safe_load((HERE / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def documented():
    return set(re.findall(r"\broadstead_\w+", (ROOT / "docs/reference/metrics.md").read_text()))


def check_texts(alert):
    name = alert["alert"]
    if alert.get("labels", {}).get("severity") not in SEVERITIES:
        faults.append(f"{name}: no severity of {sorted(SEVERITIES)}")
    annotations = alert.get("annotations", {})
    if set(annotations) != TEXTS:
        faults.append(f"{name}: annotations are {sorted(annotations)}, not {sorted(TEXTS)}")
        return
    page = pathlib.PurePosixPath(annotations["runbook_url"]).stem
    if page != name or not (ROOT / f"docs/runbooks/{name}.md").is_file():
        faults.append(f"{name}: its runbook is not docs/runbooks/{name}.md")
        return
    text = " ".join((ROOT / f"docs/runbooks/{name}.md").read_text().split())
    if " ".join(alert["expr"].split()) not in text or f"Severity: {alert['labels']['severity']}." not in text:
        faults.append(f"docs/runbooks/{name}.md: has another expression or severity than the alert")
    if f"](runbooks/{name}.md)" not in (ROOT / "docs/SUMMARY.md").read_text():
        faults.append(f"{name}: docs/SUMMARY.md does not list its runbook")


def check_tests(names):
    fires, quiet = set(), set()
    for file in sorted((HERE / "tests").glob("*.yml")):
        for test in yaml.safe_load(file.read_text())["tests"]:
            for case in test["promql_expr_test"]:
                (fires if case["exp_samples"] else quiet).add(test["name"])
    for name in names:
        if name not in fires & quiet:
            faults.append(f"{name}: needs a test in which it fires and one in which it does not")
    for name in (fires | quiet) - set(names):
        faults.append(f"{name}: tested, and no alert")


def check_metrics(rules, known):
    for rule in rules:
        # Labels and their values are no metrics.
        expression = re.sub(r"\{[^}]*\}", "", rule["expr"])
        for name in NAME.findall(expression):
            plain = re.sub(r"_(bucket|sum|count)$", "", name)
            if name not in known and plain not in known:
                faults.append(f"{rule.get('alert', rule.get('record'))}: no metric {name}")


alerts, records = rules_of("alerts.yml"), rules_of("recording.yml")
for alert in alerts:
    check_texts(alert)
check_tests([alert["alert"] for alert in alerts])
check_metrics(alerts + records, documented() | FOREIGN | AWAITED | {rule["record"] for rule in records})
pages = {path.stem for path in (ROOT / "docs/runbooks").glob("Roadstead*.md")}
for page in sorted(pages - {alert["alert"] for alert in alerts}):
    faults.append(f"docs/runbooks/{page}.md: no alert has it")
for fault in faults:
    print(f"complete.py: {fault}", file=sys.stderr)
for name in sorted(AWAITED & documented()):
    print(f"complete.py: {name} is documented now: take it out of AWAITED")
print(f"{len(alerts)} alerts, {len(records)} recorded series: {len(faults)} faults")
sys.exit(1 if faults else 0)
