"""panels.py DASHBOARD PROMETHEUS METRICS.md: asks each panel's expressions, and looks at what else a panel needs."""

import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

DASHBOARD, PROMETHEUS, METRICS = sys.argv[1:4]
# Empty until something is wrong, or for as long as nobody logs in.
QUIET = {"Failed operations of the disk", "Denials", "Logins", "Limits met"}
# Absent until a first round through the store is complete.
LATER = {"Age of the last complete scrub"}
# Metrics of a version that is being built: to be taken out here when docs/reference/metrics.md has them.
AWAITED = set()
TYPES = {"stat", "timeseries", "state-timeline", "table"}
VARIABLES = {"$__rate_interval": "15s", "$__range": "1m", "$__interval": "15s", "$instance": ".*"}

faults = []


def ask(path, **parameters):
    url = f"{PROMETHEUS}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as error:
        raise ValueError(json.load(error).get("error", str(error))) from error


def plain(expression):
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def series_of(panel, scraped, documented):
    found = 0
    for target in panel["targets"]:
        names = set(re.findall(r"\broadstead_\w+", target["expr"]))
        for name in names - documented - AWAITED:
            if re.sub(r"_(bucket|sum|count)$", "", name) not in documented:
                faults.append(f"{panel['title']}: docs/reference/metrics.md does not have {name}")
        try:
            found_here = len(ask("query", query=plain(target["expr"]))["result"])
        except ValueError as error:
            faults.append(f"{panel['title']}: {error}")
            continue
        found += found_here
        absent = names & AWAITED - scraped
        if found_here == 0 and not absent and panel["title"] not in QUIET | LATER:
            faults.append(f"{panel['title']}: no series for {target['expr']}")
    return found


def note_of(panel, found, scraped):
    """The reason why a panel may be empty."""
    if found > 0:
        return ""
    if panel["title"] in QUIET:
        return "  (empty until something is wrong)"
    if panel["title"] in LATER:
        return "  (empty until a round is complete)"
    names = {name for target in panel["targets"] for name in re.findall(r"\broadstead_\w+", target["expr"])}
    return "  (not in this version)" if names & AWAITED - scraped else "  MISSING"


def check_form(panels):
    for panel in panels:
        if panel["type"] == "row":
            continue
        title = panel.get("title", "")
        if not title or not panel.get("description") or not panel["fieldConfig"]["defaults"].get("unit"):
            faults.append(f"panel {panel['id']} ({title}): title, description or unit is missing")
        if panel["type"] not in TYPES:
            faults.append(f"{title}: no panel of Grafana is a {panel['type']}")
        for part in [panel, *panel["targets"]]:
            if part["datasource"]["uid"] != "${datasource}":
                faults.append(f"{title}: has a data source of its own")
        for target in panel["targets"]:
            if "$instance" not in target["expr"]:
                faults.append(f"{title}: passes over the variable instance")
    if len({panel["id"] for panel in panels}) != len(panels):
        faults.append("two panels have one id")
    taken = {}
    for panel in panels:
        grid = panel["gridPos"]
        cells = [(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])]
        if any(cell in taken for cell in cells) or grid["x"] + grid["w"] > 24:
            faults.append(f"{panel['title']}: lies on another panel, or outside")
        taken.update(dict.fromkeys(cells, panel["id"]))


text = open(DASHBOARD).read()
dashboard = json.loads(text)
panels = dashboard["panels"]
check_form(panels)
# Colours by name and palette follow the theme; a fixed one is made for one of them. Grafana's own annotation has one.
if len(re.findall(r"#[0-9a-fA-F]{6}\b|rgba?\(", text)) > 1:
    faults.append("a colour is fixed, and will not do for both themes")
documented = set(re.findall(r"\broadstead_\w+", open(METRICS).read()))
scraped = set(ask("label/__name__/values"))
count = 0
for panel in panels:
    if panel["type"] != "row":
        found = series_of(panel, scraped, documented)
        count += 1
        print(f"{found:4} series  {panel['title']}{note_of(panel, found, scraped)}")
for annotation in dashboard["annotations"]["list"]:
    if "expr" in annotation:
        ask("query", query=plain(annotation["expr"]))
for group in ask("rules")["groups"]:
    for rule in group["rules"]:
        if rule["health"] != "ok":
            faults.append(f"rule {rule['name']}: {rule['health']}: {rule.get('lastError')}")
firing = sorted({alert["labels"]["alertname"] for alert in ask("alerts")["alerts"]})
print(f"alerts pending or firing: {', '.join(firing) or 'none'}")
for name in sorted(AWAITED & documented):
    print(f"panels.py: {name} is documented now: take it out of AWAITED")
for fault in faults:
    print(f"panels.py: {fault}", file=sys.stderr)
print(f"{count} panels: {len(faults)} faults")
sys.exit(1 if faults else 0)
