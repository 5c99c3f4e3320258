"""Plots, written by hand: bars with whiskers, and lines. They are readable on light and on dark pages."""

import html
import math

WIDTH = 760
LEFT, RIGHT = 190, 150
ROW, GAP, TITLE = 22, 16, 26
# A bar so many times as long as the next is cut off.
CUT_RATIO = 8
COLOURS = {"roadstead": "#2f7ed8", "nginx": "#2e9e5b", "distribution": "#e0812b", "zot": "#b5528c"}
MORE_COLOURS = ("#7a6bd1", "#c2a21f", "#4bb3b8", "#c75146")
STYLE = """<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600; font-size: 14px }
.axis { stroke: #8c959f; stroke-width: 1 }
.grid { stroke: #8c959f; stroke-width: 1; opacity: .3 }
.whisker { stroke: #24292f; stroke-width: 1.5; fill: none }
.quiet { fill: #57606a; font-size: 12px }
.page { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117 }
  text { fill: #e6edf3 } .quiet { fill: #9da7b1 } .whisker { stroke: #e6edf3 }
}
</style>"""


def colour(name, names):
    """A peer's: one of its own, or of those that are left."""
    if name in COLOURS:
        return COLOURS[name]
    others = [other for other in names if other not in COLOURS]
    return MORE_COLOURS[others.index(name) % len(MORE_COLOURS)]


def number(value):
    """With three digits that mean something."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def tick(value):
    return f"{value:,.6g}"


def round_steps(high):
    """From 0 to not above, four to ten of them."""
    power = 10 ** math.floor(math.log10(high))
    step = next(power * part for part in (0.1, 0.2, 0.5, 1, 2) if high / (power * part) <= 10)
    return [step * count for count in range(int(high / step) + 1)]


def text(x, y, said, anchor="start", kind=""):
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{html.escape(said)}</text>'


def line(x1, y1, x2, y2, kind):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def document(width, height, parts, title):
    """On a page of its own colour, for whoever shows it without asking for light or dark."""
    size = f'width="{width}" height="{height:.0f}"'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" {size} role="img">\n'
            f'<title>{html.escape(title)}</title>\n{STYLE}\n<rect {size} rx="6" class="page"/>\n'
            + "\n".join(parts) + "\n</svg>\n")


def bars(title, panels):
    """A panel for each (title with its unit, [(peer, median, least, most)])."""
    parts, y = [], 8
    names = list(dict.fromkeys(entry[0] for _, entries in panels for entry in entries))
    for heading, entries in panels:
        parts.append(text(8, y + 14, heading, kind="title"))
        y += TITLE
        scale = axis_max(shown_max([entry[3] for entry in entries]))
        reach = WIDTH - LEFT - RIGHT
        foot = y + ROW * len(entries)
        for step in range(5):
            x = LEFT + reach * step / 4
            parts.append(line(x, y, x, foot, "axis" if step == 0 else "grid"))
            parts.append(text(x, foot + 14, tick(scale * step / 4), "middle", "quiet"))
        for name, median, least, most in entries:
            parts.append(text(LEFT - 8, y + 15, name, "end"))
            ends = [LEFT + reach * min(1.04, value / scale) for value in (median, least, most)]
            parts.append(f'<rect x="{LEFT}" y="{y + 4}" width="{max(1, ends[0] - LEFT):.1f}" height="{ROW - 8}" '
                         f'fill="{colour(name, names)}"/>')
            if median > scale:
                parts.append(f'<path d="M{ends[0] - 14:.1f} {y + 2} l6 18 h4 l-6 -18 z" class="page"/>')
            elif most > least:
                parts.append(line(ends[1], y + 11, ends[2], y + 11, "whisker"))
                parts += [line(end, y + 7, end, y + 15, "whisker") for end in ends[1:]]
            parts.append(text(max(ends) + 8, y + 15, number(median)))
            y += ROW
        y += 18 + GAP
    foot = "Bars are medians of the rounds, whiskers the least and the most; a bar that is cut is too long for its axis."
    parts.append(text(8, y + 4, foot, kind="quiet"))
    return document(WIDTH, y + 14, parts, title)


def lines(title, x_title, y_title, series, x_log=False, zero=True, points=True):
    """A line for each name: [(x, median, least, most)]."""
    height, top, bottom, left = 380, 40, 56, 80
    right, names = WIDTH - 40, list(series)
    everything = [point for found in series.values() for point in found]
    place = math.log10 if x_log else float
    xs = sorted({point[0] for point in everything})
    low, high = (place(xs[0]), place(xs[-1])) if x_log or not zero else (0.0, float(xs[-1]))
    spread = (high - low) or 1
    top_value = axis_max(max(point[3] for point in everything))

    def at(x, y):
        return left + (right - left) * (place(x) - low) / spread, height - bottom - (height - bottom - top) * y / top_value

    parts = [text(8, 18, title, kind="title")]
    for step in range(5):
        value = top_value * step / 4
        y = at(xs[-1], value)[1]
        parts.append(line(left, y, right, y, "axis" if step == 0 else "grid"))
        parts.append(text(left - 8, y + 4, tick(value), "end", "quiet"))
    ticks = xs if len(xs) <= 8 else round_steps(high)
    last = -100
    for x in ticks:
        where = at(x, 0)[0]
        if where - last >= 44:
            parts.append(text(where, height - bottom + 18, tick(x), "middle", "quiet"))
            parts.append(line(where, height - bottom, where, height - bottom + 4, "axis"))
            last = where
    parts.append(text((left + right) / 2, height - 14, x_title, "middle"))
    parts.append(f'<text transform="translate(18 {(height - bottom + top) / 2:.0f}) rotate(-90)" '
                 f'text-anchor="middle">{html.escape(y_title)}</text>')
    legend = left + 8
    for name, found in series.items():
        chosen = colour(name, names)
        path = " ".join("{:.1f},{:.1f}".format(*at(x, median)) for x, median, _, _ in found)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{chosen}" stroke-width="2"/>')
        for x, median, least, most in found if points else ():
            if most > least:
                parts.append(line(*at(x, least), *at(x, most), "whisker"))
            where = at(x, median)
            parts.append(f'<circle cx="{where[0]:.1f}" cy="{where[1]:.1f}" r="4" fill="{chosen}"/>')
        parts.append(f'<rect x="{legend}" y="{top - 14}" width="12" height="12" fill="{chosen}"/>')
        parts.append(text(legend + 18, top - 3, name))
        legend += 40 + 8 * len(name)
    return document(WIDTH, height, parts, title)


def shown_max(values):
    """The most that an axis is made for: one that would dwarf all others is cut off."""
    ordered = sorted(values)
    while len(ordered) > 1 and ordered[-1] > CUT_RATIO * ordered[-2] > 0:
        ordered.pop()
    return ordered[-1]


def axis_max(value):
    """A round number not below."""
    if value <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10) if power * step >= value * 0.9999)
