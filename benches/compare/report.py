"""docs/benchmarks.md and its plots, out of the rows of a run: all of the text is made here."""

import statistics

import svg

HEAD = """# roadstead beside other mirrors

<!-- Written by `benches/compare/run`: the next run overwrites changes made by hand. -->
"""
HOW = """## How it was measured

One command repeats all of this; it installs what it needs on Debian:

    benches/compare/run
    benches/compare/run --case warm --rounds 9 --out /tmp/out
    BINARY=./target/release/roadstead benches/compare/run --peer old=./roadstead-before

Everything runs on one machine, over loopback: the origin, the mirrors, and their clients, all on the same cores.
Peers are measured in turn, another one first in each round, with the same bytes, the same clients and the same
certificate; each has its access log on, into a file. All are configured as anybody would: nginx with `worker_processes
auto`, `sendfile`, `proxy_cache` and `proxy_cache_lock`; distribution as a pull-through cache; roadstead on its defaults.
CPU is user and kernel time of all processes of the peer, as the operating system counts it. A wrong status or length of
any answer ends the run, and in each case at least one body of each peer is hashed (but for `/v2/`, and the made-up store
of `scale-hits`).

A *ratio* is roadstead's figure divided by the peer's of the same round: median (least to most). Where less is better,
below 1 is ahead. The bars are those of the project's plan; those in *italics* are our reading of what it says in words.
"""


class Rows:
    """The figures of a run, by what they are of."""

    def __init__(self, results, cases):
        self.rows = [row for row in results["rows"] if "measures" in row]
        self.impossible = [row for row in results["rows"] if "impossible" in row]
        self.cases = [case for case in cases if case.name in results["cases"]]

    def peers(self, case):
        return list(dict.fromkeys(row["peer"] for row in sorted(
            (row for row in self.rows if row["case"] == case), key=lambda row: rank(row["peer"]))))

    def values(self, case, peer, measure):
        """By round."""
        return {row["round"]: row["measures"][measure] for row in self.rows
                if row["case"] == case and row["peer"] == peer and "x" not in row and measure in row["measures"]}

    def ratios(self, ours, theirs):
        return [ours[number] / theirs[number] for number in ours if theirs.get(number)]

    def by_point(self, case):
        """The rows of a curve, by peer and x."""
        found = {}
        for row in self.rows:
            if row["case"] == case:
                found.setdefault((row["peer"], row["x"]), []).append(row)
        return found.values()

    def curve(self, case, peer, measure):
        """[(x, median, least, most)]"""
        found = {}
        for row in self.rows:
            if row["case"] == case and row["peer"] == peer and "x" in row:
                found.setdefault(row["x"], []).append(row["measures"][measure])
        return [(x, statistics.median(values), min(values), max(values)) for x, values in sorted(found.items())]


def rank(name):
    order = ("roadstead", "roadstead, parallel = 1", "nginx", "distribution")
    return (order.index(name) if name in order else len(order), name)


def spread(values, unit=""):
    """Median (least to most)."""
    values = list(values)
    said = svg.number(statistics.median(values))
    if len(values) > 1:
        said += f" ({svg.number(min(values))} to {svg.number(max(values))})"
    return f"{said} {unit}".strip()


def straightness(points):
    """R² of the line through (x, median)."""
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    if len(xs) < 3 or len(set(ys)) < 2:
        return 1.0
    return statistics.correlation(xs, ys) ** 2


def judge(rows, case, bar):
    """What was reached: the figure that counts, and how to say it; or nothing."""
    if bar.how in ("line", "spread"):
        points = rows.curve(case.name, bar.ours, bar.measure)
        if not points:
            return None
        medians = [point[1] for point in points]
        figure = straightness(points) if bar.how == "line" else max(medians) / min(medians)
        return figure, f"{figure:.4f}" if bar.how == "line" else svg.number(figure)
    values = rows.values(case.name, bar.ours, bar.measure)
    if bar.of_peer or bar.of_case:
        peer, other = bar.of_peer or bar.ours, bar.of_case or case.name
        values = dict(enumerate(rows.ratios(values, rows.values(other, peer, bar.measure))))
    if not values:
        return None
    figure = max(values.values()) if bar.how == "most" else statistics.median(values.values())
    return figure, spread(values.values())


def met(bar, figure):
    # As many digits as are printed.
    return round(figure, 4) >= bar.limit if bar.at_least else round(figure, 3) <= bar.limit


def table(head, lines):
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head),
                      *("| " + " | ".join(line) + " |" for line in lines)])


def bars_text(rows):
    lines, missed = [], 0
    for case in rows.cases:
        for bar in case.bars:
            judged = judge(rows, case, bar)
            if judged is None:
                lines.append([case.title, bar.text, "", "not measured", ""])
                continue
            good = met(bar, judged[0])
            missed += not good
            sign = "≥" if bar.at_least else "≤"
            said = bar.text if bar.named else f"*{bar.text}*"
            lines.append([case.title, said, f"{sign} {bar.limit:g}", judged[1], "met" if good else "**missed**"])
    count = len([line for line in lines if line[4]])
    head = f"{count - missed} of {count} bars are met." if missed else f"All {count} bars are met."
    return f"## The bars\n\n{head}\n\n" + table(["case", "bar", "limit", "figure", ""], lines)


def losses(rows):
    """Wherever a peer is better, in the median of the ratios."""
    lines = []
    for case in rows.cases:
        for name, measure in case.measures.items():
            ours = rows.values(case.name, "roadstead", name)
            for peer in rows.peers(case.name):
                ratios = rows.ratios(ours, rows.values(case.name, peer, name))
                if peer.startswith("roadstead") or not ratios:
                    continue
                ratio = statistics.median(ratios)
                if ratio > 1.02 if measure.less else ratio < 0.98:
                    lines.append([case.title, unit_of(measure), peer, spread(ratios)])
    said = table(["case", "measure", "ahead of roadstead", "ratio"], lines) if lines else "In no figure of this run."
    return f"## Where roadstead is behind\n\nEvery figure by which another mirror is better by more than 2 %.\n\n{said}"


def unit_of(measure):
    return f"{measure.title} ({measure.unit})" if measure.unit else measure.title


def case_table(rows, case):
    lines = []
    for name, measure in case.measures.items():
        ours = rows.values(case.name, "roadstead", name)
        first = True
        for peer in rows.peers(case.name):
            values = rows.values(case.name, peer, name)
            if not values:
                continue
            ratios = [] if peer == "roadstead" else rows.ratios(ours, values)
            lines.append([unit_of(measure) if first else "", peer, spread(values.values()), spread(ratios) if ratios else ""])
            first = False
    head = ["measure", "peer", "median (least to most)", "roadstead's, as a ratio"]
    return table(head, lines) if lines else "Nothing was measured."


def curve_table(rows, case):
    lines = []
    for peer in rows.peers(case.name):
        for name, measure in case.measures.items():
            for x, *values in rows.curve(case.name, peer, name):
                lines.append([peer, unit_of(measure), f"{x:,}", spread(values)])
    return table(["peer", "measure", case.x, "median (least to most)"], lines)


def panels(rows, case):
    found = []
    for name in case.drawn:
        entries = []
        for peer in rows.peers(case.name):
            values = list(rows.values(case.name, peer, name).values())
            if values:
                entries.append((peer, statistics.median(values), min(values), max(values)))
        if entries and max(entry[3] for entry in entries) > 0:
            found.append((f"{case.title}: {unit_of(case.measures[name])}", entries))
    return found


def plots(rows, series, directory):
    """Writes them; the files by the case in whose section they stand."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("*.svg"):
        old.unlink()
    shown, grouped = {}, {}
    for case in rows.cases:
        if case.x:
            drawn = {}
            for name in case.drawn:
                for peer in rows.peers(case.name):
                    label = peer if len(case.drawn) == 1 else f"{peer}: {case.measures[name].title}"
                    drawn[label] = rows.curve(case.name, peer, name)
            if drawn:
                unit = case.measures[case.drawn[0]].unit
                kind = "CPU, s" if unit == "s" else unit
                save(directory, shown, case, case.name, svg.lines(case.title, case.x, kind, drawn, case.x_log))
        else:
            group = case.name.split("-")[0] if case.standing else case.name
            grouped.setdefault(group, []).append(case)
    for group, members in grouped.items():
        found = [panel for case in members for panel in panels(rows, case)]
        if found:
            save(directory, shown, members[0], group, svg.bars(members[0].title, found))
    for case in rows.cases:
        if series.get(case.name):
            drawn = {peer: [(x, y, y, y) for x, y in samples] for peer, samples in
                     sorted(series[case.name].items(), key=lambda item: rank(item[0]))}
            save(directory, shown, case, f"{case.name}-time",
                 svg.lines(f"{case.title}: anonymous memory", "seconds", "MB", drawn, points=False))
    return shown


def save(directory, shown, case, name, drawn):
    (directory / f"{name}.svg").write_text(drawn)
    shown.setdefault(case.name, []).append(name)


def count_of(rounds):
    return "one round" if rounds == 1 else f"{rounds} rounds"


def case_text(rows, case, text, shown):
    rounds = max((row["round"] for row in rows.rows if row["case"] == case.name), default=0)
    if case.x:
        rounds = max(len(group) for group in rows.by_point(case.name)) if rounds else 0
    parts = [f"### {case.title} (`{case.name}`)", f"{text} {count_of(rounds).capitalize()}."]
    parts.append(curve_table(rows, case) if case.x else case_table(rows, case))
    for row in rows.impossible:
        if row["case"] == case.name:
            parts.append(f"{row['peer']}: not possible. {row['impossible']}.")
    parts += [f"![{case.title}](benchmarks/{name}.svg)" for name in shown]
    return "\n\n".join(parts)


def write(results, cases, out):
    """DIR/benchmarks.md and DIR/benchmarks/*.svg."""
    rows = Rows(results, cases)
    out.mkdir(parents=True, exist_ok=True)
    shown = plots(rows, results["series"], out / "benchmarks")
    facts = [[name, value] for name, value in (results["machine"] | results["versions"]).items()]
    parts = [HEAD.rstrip("\n")]
    if results["quick"]:
        parts.append("**This is of a `--quick` run: small and short, to try the command. No figure in it means anything.**")
    parts += [bars_text(rows), losses(rows), "## Machine and versions\n\n" + table(["what", "which"], facts),
              HOW.rstrip("\n") + f"\n\nThis run: {count_of(results['rounds'])}, fewer where a case "
              f"takes long; {results['minutes']} minutes.", "## The cases"]
    parts += [case_text(rows, case, results["texts"][case.name], shown.get(case.name, [])) for case in rows.cases]
    (out / "benchmarks.md").write_text("\n\n".join(parts) + "\n")
