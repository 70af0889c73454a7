"""Rows drawn into one HTML page that needs nothing else: no script, no font, no address is fetched.

An experiment's `report(workdir)` reads rows, draws figures with the helpers below and writes one page:

    rows = records.read(workdir)
    fig, ax = canvas()
    points = log_log(ax, rows, x="nfe", y="error", guides=(1, 2, 3))
    section = Section("How steep is each solver?", f"3M exact falls with order **{sig(slope)}**.",
                      [picture(fig, "Error against NFE; 3M exact is lowest from 16 on.", "Median of 8 seeds.")], points)
    return write(f"{workdir}/report.html", page("Order", "The verdict.", [section], **origin(workdir)))

Texts are plain: they are escaped, then **bold** and `code` are marked up. A figure's text and axes take the colour of
the page around it, light or dark. Importing this module sets matplotlib's style (rcParams), for notebooks too.
"""

import base64
import html
import io
import itertools
import json
import math
import numbers
import pathlib
import re
import zlib
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from flowjax import records

INK, RULE = "#1b1f24", "#d3d8de"  # become the page's own text and rule colours when a figure is put into it
# Okabe and Ito's colours: told apart with any colour vision, and visible on white and on black.
BLUE, RED, GREEN, PINK, SKY, AMBER, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8a8f98"

# Colour is the family, the marker is the order; dashed and hollow is a published form beside our exact one.
SOLVERS = {
    "Euler": (INK, "o", "-"),
    "DDIM": (INK, "o", ":"),
    "Heun": (AMBER, "s", "-"),
    "RK4": (AMBER, "D", "-"),
    "AB2": (GREEN, "s", "-"),
    "AB3": (GREEN, "^", "-"),
    "DPM++ 2M": (BLUE, "s", "-"),
    "DPM++ 3M exact": (RED, "^", "-"),
    "DPM++ 3M published": (RED, "v", "--"),
    "DPM++ 2S": (PINK, "s", "-"),
    "DPM++ 3S": (PINK, "^", "-"),
    "UniPC2": (SKY, "s", "-"),
    "UniPC3": (SKY, "^", "-"),
    "DEIS2": (GREY, "s", "-."),
    "DEIS3": (GREY, "^", "-."),
}

DEFINITIONS = {
    "NFE": "Network evaluations for one sample. A step of a multistep solver costs one, of Heun two, of RK4 four.",
    "order": "The power p in error ~ h^p as the step h shrinks: minus the slope on these log-log axes.",
    "shift": "Moves a grid's times to t' = s t / (1 + (s - 1) t): log-SNR falls by log(s), so more steps lie near noise.",
    "log-SNR": "log(alpha / sigma) of the path x_t = alpha data + sigma noise; minus infinity at t = 1 (noise), plus "
    "infinity at t = 0 (data).",
    "misrouted": "A sample that ends in another component of the data than the exact path from the same noise.",
    "staleness": "How far the keys and values in use are from those of the present step.",
    "band": "95% interval of the median, by resampling the seeds (bootstrap).",
}

matplotlib.rcParams.update(
    {
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
        "axes.prop_cycle": matplotlib.cycler(color=[BLUE, RED, GREEN, PINK, SKY, AMBER, GREY]),
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.titlelocation": "left",
        "axes.titlesize": 9,
        "font.size": 9,
        "legend.fontsize": 8,
        "grid.color": RULE,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.6,
        "lines.markersize": 5,
        "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
        "svg.hashsalt": "flowjax",  # the same rows give the same bytes
    }
)


def sig(x, digits=2):
    """`x` with so many significant digits: 0.012, 3.1, 12000, 1.2e-5, inf; an int as it is, a text unchanged."""
    if isinstance(x, (bool, np.bool_)) or not isinstance(x, numbers.Number):
        return "–" if x is None else str(x)
    if isinstance(x, numbers.Integral) or not math.isfinite(x) or x == 0:
        return f"{x:d}" if isinstance(x, numbers.Integral) else f"{x:g}".replace("-0", "0")
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    if -4 < int(exponent) < 5:
        return f"{float(f'{mantissa}e{exponent}'):.{max(digits - 1 - int(exponent), 0)}f}"
    return f"{mantissa}e{int(exponent)}"


# ---- drawing


def canvas(rows=1, columns=1, *, width=4.6, height=3.4):
    """(figure, axes) at phone size: 9 point text on 4.6 inch is read at 400 pixels, and is not huge at 600."""
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(rows, columns)


def _known(name):
    """The longest name in SOLVERS that `name` begins with, or None."""
    return max((known for known in SOLVERS if str(name).startswith(known)), key=len, default=None)


def style(name, beside=()):
    """Line2D options of a solver: by its name in SOLVERS, or by the longest one it begins with; else grey.

    Colour and marker are fixed. `beside` holds the options of lines drawn already: a variant ("DPM++ 2M, shift 3") that
    would look like one of them gets another dash.
    """
    colour, marker, line = SOLVERS.get(_known(name), (GREY, "x", "-"))
    taken = [look["linestyle"] for look in beside if (look["color"], look["marker"]) == (colour, marker)]
    line = next((dash for dash in (line, "-", "--", ":", "-.") if dash not in taken), line)
    fill = {"markerfacecolor": "none"} if line == "--" else {}
    return {"color": colour, "marker": marker, "linestyle": line, **fill}


def median_band(values, *, resamples=1000, seed=0):
    """(median, low, high): the 95% bootstrap interval of the median; a single value is its own interval.

    Infinite values take part (a solver that diverges on most seeds has an infinite median); NaN makes all three NaN.
    """
    values = np.asarray(values, np.float64)
    if np.isnan(values).any():
        return math.nan, math.nan, math.nan
    pick = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    ordered = np.sort(values)
    # an order statistic instead of np.median: no inf - inf, and the interval's ends are measured values
    middle = ordered[np.sort(pick, axis=1)[:, (len(values) - 1) // 2]]
    low, high = np.sort(middle)[[int(0.025 * resamples), int(0.975 * resamples) - 1]]
    upper, lower = ordered[len(values) // 2], ordered[(len(values) - 1) // 2]
    return float(lower if upper == lower else (lower + upper) / 2), float(low), float(high)


def log_log(ax, rows, *, x, y, by="solver", xlabel=None, ylabel=None, guides=()):
    """Median of `y` against `x` for each value of `by`, with its bootstrap band over the rows that share a point.

    What a logarithm cannot show (inf, NaN, 0) is a cross on the upper edge. `guides` are thin lines of slope -p.

    Returns:
      the points drawn, a list of dicts {by, x, median, low, high, rows}: the table behind the figure.
    """
    points = []
    for (name, at), values in sorted(
        records.table(rows, (by, x), y).items(), key=lambda item: (_rank(item[0][0]), item[0][1])
    ):
        median, low, high = median_band(values)
        points.append({by: name, x: at, "median": median, "low": low, "high": high, "rows": len(values)})
    looks = []
    for name, group in itertools.groupby(points, key=lambda point: point[by]):
        group = list(group)
        shown = [p for p in group if 0 < p["median"] < math.inf]
        lost = [p[x] for p in group if p not in shown]
        looks.append(look := style(name, looks))
        at = [p[x] for p in shown]
        ax.plot(at, [p["median"] for p in shown], label=str(name), **look)
        if any(p["rows"] > 1 for p in shown):
            low, high = ([p[end] if 0 < p[end] < math.inf else p["median"] for p in shown] for end in ("low", "high"))
            ax.fill_between(at, low, high, color=look["color"], alpha=0.18, linewidth=0)
        if lost:  # an empty line that is not clipped upsets the layout
            ax.plot(
                lost, [0.99] * len(lost), "x", color=look["color"], transform=ax.get_xaxis_transform(), clip_on=False
            )
    ax.set(xscale="log", yscale="log", xlabel=xlabel or x, ylabel=ylabel or y)
    places = sorted({p[x] for p in points})
    if len(places) <= 10:
        ax.set_xticks(places, [sig(place) for place in places])
        ax.xaxis.set_minor_locator(NullLocator())
    seen = [p for p in points if 0 < p["median"] < math.inf]
    if seen and len(places) > 1:
        _draw_guides(ax, guides, places[0], places[-1], max(p["median"] for p in seen))
    _share_legend(ax.figure)
    return points


def _share_legend(fig):
    """One legend below the whole figure, in place of an earlier one: panels share their solvers."""
    for earlier in list(fig.legends):
        earlier.remove()
    lines = {label: line for ax in fig.axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    names = sorted(lines, key=_rank)
    columns = 2 if max(map(len, names)) > 18 and fig.get_figwidth() < 7 else 3  # what the figure's width holds
    fig.legend([lines[name] for name in names], names, loc="outside lower center", ncols=columns)


def _rank(name):
    """Solvers in the order of SOLVERS, variants after their solver, all others after them by name."""
    known = _known(name)
    return (list(SOLVERS).index(known) if known else len(SOLVERS), str(name))


def _draw_guides(ax, orders, first, last, top):
    limits = ax.get_ylim()
    for order in orders:
        at = np.asarray([first, last], float)
        ax.plot(at, top * (at / first) ** -order, color=GREY, linewidth=0.8, linestyle=(0, (1, 3)), zorder=1)
        end = min(last, first * (top / limits[0]) ** (1 / order))  # where the guide leaves the frame
        place = {"xytext": (7, 0), "textcoords": "offset points", "ha": "left", "va": "center"}
        ax.annotate(f"slope {order}", (end, top * (end / first) ** -order), color=GREY, fontsize=7, **place)
    ax.set_ylim(limits)


def _levels(values):
    """The distinct values: in order when they are numbers, else as they come."""
    levels = list(dict.fromkeys(values))
    return sorted(levels) if all(isinstance(v, numbers.Number) for v in levels) else levels


def heatmap(ax, rows, *, x, y, value, log=False, label=None, text=sig):
    """Median of `value` as a coloured cell with its number, `x` across and `y` down; no colour where nothing finite is.

    Returns:
      the cells, a list of dicts {y, x, value}.
    """
    across, down = _levels(row[x] for row in rows), _levels(row[y] for row in rows)
    cells = {cell: median_band(values)[0] for cell, values in records.table(rows, (y, x), value).items()}
    grid = np.asarray([[cells.get((j, i), math.nan) for i in across] for j in down], float)
    drawn = np.ma.masked_where(~np.isfinite(grid) | (log & (grid <= 0)), grid)
    mesh = ax.pcolormesh(drawn, cmap="cividis", norm="log" if log else "linear", edgecolors="none")
    for (j, i), number in np.ndenumerate(grid):
        hidden = np.ma.getmaskarray(drawn)[j, i]
        dark = not hidden and np.dot(mesh.cmap(mesh.norm(number))[:3], (0.3, 0.6, 0.1)) < 0.5
        colour = INK if hidden else "white" if dark else "black"
        shown = text(float(number)) if (down[j], across[i]) in cells else "–"
        ax.text(i + 0.5, j + 0.5, shown, ha="center", va="center", fontsize=7, color=colour)
    ax.set_xticks(np.arange(len(across)) + 0.5, [sig(v) for v in across])
    ax.set_yticks(np.arange(len(down)) + 0.5, [sig(v) for v in down])
    ax.set(xlabel=x, ylabel=y)
    ax.invert_yaxis()
    ax.grid(False)
    ax.figure.colorbar(mesh, ax=ax, label=label or value).outline.set_visible(False)
    return [{y: j, x: i, value: number} for (j, i), number in cells.items()]


def roc(ax, rows, *, score, truth, by):
    """How well a `score` tells the rows where `truth` holds: true against false positives, for each value of `by`.

    Returns:
      list of dicts {by, auc, positives, negatives}; auc is nan where one of the two kinds is missing.
    """
    found = []
    for name, pairs in records.table([{**row, "pair": (row[score], row[truth])} for row in rows], by, "pair").items():
        scores, truths = (np.asarray(column) for column in zip(*pairs, strict=True))
        truths = truths.astype(bool)
        if np.isnan(scores.astype(float)).any():
            raise ValueError(f"report.roc: a {score!r} of {name!r} is NaN, which ranks nowhere; leave those rows out.")
        # one point a distinct score: rows of equal score are told apart by nobody
        cuts = np.unique(scores)[::-1]
        hit = np.asarray([0, *(np.sum(scores[truths] >= cut) for cut in cuts)], float)
        false = np.asarray([0, *(np.sum(scores[~truths] >= cut) for cut in cuts)], float)
        auc = math.nan
        if hit[-1] and false[-1]:
            hit, false = hit / hit[-1], false / false[-1]
            auc = float(np.trapezoid(hit, false))
            ax.plot(false, hit, label=f"{name} (AUC {sig(auc)})")
        found.append({by: name, "auc": auc, "positives": int(truths.sum()), "negatives": int((~truths).sum())})
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (1, 3)))
    ax.set(xlabel="false positives", ylabel="true positives", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    ax.legend(*ax.get_legend_handles_labels(), loc="lower right")
    return found


def bar_ledger(ax, rows, *, label, value, low=None, high=None, xlabel=None, text=sig):
    """One horizontal bar a row, in the order given, with its number at its end; `low`, `high` name an interval's ends."""
    places, values = np.arange(len(rows)), [row[value] for row in rows]
    finite = [v if math.isfinite(v) else 0 for v in values]
    ax.barh(places, finite, color=[BLUE if v >= 0 else RED for v in finite], height=0.62)
    ends = list(finite)
    if low and high:
        ax.hlines(places, [row[low] for row in rows], [row[high] for row in rows], color=INK, linewidth=1)
        ends = [max(row[high], 0) if v >= 0 else min(row[low], 0) for row, v in zip(rows, finite, strict=True)]
    for place, end, number in zip(places, ends, values, strict=True):
        side = 1 if end >= 0 else -1
        at = {
            "xytext": (4 * side, 0),
            "textcoords": "offset points",
            "va": "center",
            "ha": "left" if side > 0 else "right",
        }
        ax.annotate(text(number), (end, place), fontsize=8, **at)
    ax.set_yticks(places, [str(row[label]) for row in rows])
    ax.set(xlabel=xlabel or value)
    ax.margins(x=0.16)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.grid(False, axis="y")
    ax.invert_yaxis()


# ---- the page


class Picture(NamedTuple):
    """A figure ready for the page: its markup and its caption."""

    markup: str
    caption: str = ""


class Section(NamedTuple):
    """One question and its answer, a sentence that holds the number in **bold**.

    `figures` are Pictures, `table` the rows behind them (dicts with the same names), `expected` what was expected before
    the run, `caveat` what the answer does not cover, `command` what makes it.
    """

    question: str
    answer: str
    figures: tuple = ()
    table: list = None
    caveat: str = ""
    command: str = ""
    expected: str = ""


def picture(fig, alt, caption="", *, largest=300_000):
    """A matplotlib figure as inline SVG, or as PNG on white where the SVG would be larger than `largest` characters.

    Args:
      alt: what a reader who does not see the figure must know; it may not be empty.
    """
    if not alt.strip():
        raise ValueError("report.picture: alt is empty; say in a sentence what the figure shows.")
    file = io.StringIO()
    fig.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    if len(svg) > largest:
        file = io.BytesIO()
        fig.savefig(file, format="png", dpi=200, facecolor="white")
        data = base64.b64encode(file.getvalue()).decode()
        return Picture(f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">', caption)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->| xmlns(:xlink)?=\"[^\"]*\"", "", svg, flags=re.S
    )
    # ids must be unique in the page: keep those something refers to, under a name of this figure's own
    used = set(re.findall(r"(?:url\(|href=\")#([^\")]+)", svg))
    mark = f"f{zlib.crc32((svg + alt).encode()):x}"
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{mark}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"(url\(|href=\")#", rf"\1#{mark}-", svg).replace("xlink:href", "href")
    svg = svg.replace(INK, "currentColor").replace(RULE, "var(--rule)")
    svg = re.sub(r'<svg width="([\d.]+)pt" height="[\d.]+pt"', '<svg role="img"', svg, count=1)
    return Picture(svg.replace("<svg ", f'<svg aria-label="{html.escape(alt)}" ', 1), caption)


def _inline(text):
    """Escaped text with **bold** and `code`."""
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(str(text)))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", text)


def _table(rows, digits=3):
    names = list(dict.fromkeys(name for row in rows for name in row))

    def cell(value):
        number = isinstance(value, numbers.Number) and not isinstance(value, bool)
        return f"<td{' class=n' if number else ''}>{html.escape(sig(value, digits))}</td>"

    head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(cell(row.get(name)) for name in names)}</tr>\n" for row in rows)
    return f"<div class=wide><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"


def _pre(command):
    """A command, broken before its flags when it is long: a browser would break within `--`."""
    lines = command.replace(" --", " \\\n    --") if len(command) > 60 else command
    return f"<pre>{html.escape(lines)}</pre>"


def _list(items, kind=""):
    return (
        f"<dl class='{kind}'>"
        + "".join(f"<dt>{html.escape(k)}</dt><dd>{_inline(v)}</dd>\n" for k, v in items.items())
        + "</dl>"
    )


def _section(number, section):
    parts = [f"<section id=s{number}><h2>{_inline(section.question)}</h2>"]
    if section.expected:
        parts.append(f"<p class=aside>Expected: {_inline(section.expected)}</p>")
    parts.append(f"<p class=answer>{_inline(section.answer)}</p>")
    for shown in section.figures:
        caption = f"<figcaption>{_inline(shown.caption)}</figcaption>" if shown.caption else ""
        parts.append(f"<figure>{shown.markup}{caption}</figure>")
    if section.table:
        count = f"{len(section.table)} row{'s' * (len(section.table) != 1)}"
        parts.append(f"<details><summary>The numbers ({count})</summary>{_table(section.table)}</details>")
    if section.caveat:
        parts.append(f"<p class=aside>But: {_inline(section.caveat)}</p>")
    if section.command:
        parts.append(_pre(section.command))
    return "\n".join([*parts, "</section>"])


CSS = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--paper:#fff;--rule:#d3d8de;--tint:#f4f6f8;--link:#0b5cad}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7ea;--soft:#a0a8b1;--paper:#15181c;--rule:#363c44;--tint:#1e2329;
--link:#7db8f0}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:46rem;background:var(--paper);color:var(--ink);
font:1rem/1.55 system-ui,sans-serif;overflow-wrap:break-word}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0 1rem}
h2{font-size:1.2rem;line-height:1.3;margin:0 0 .6rem}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
section{border-top:1px solid var(--rule);margin-top:2.2rem;padding-top:1.4rem}
a{color:var(--link)}
.lead{font-size:1.1rem}
nav ol{padding-left:1.4rem}
.answer{border-left:4px solid #0072b2;background:var(--tint);padding:.6rem .9rem;margin:.8rem 0;font-size:1.05rem}
.aside,figcaption,summary,dt{color:var(--soft)}
.aside,figcaption,summary,table,dl{font-size:.88rem}
figure{margin:1.2rem 0}
figure svg,figure img{display:block;width:100%;height:auto;max-width:38rem;margin:0 auto}
figure svg *{stroke-linejoin:round;stroke-linecap:butt}
figure svg text{font-family:system-ui,sans-serif!important}
summary{cursor:pointer}
.wide{overflow-x:auto}
table{border-collapse:collapse;margin:.5rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.15rem .8rem .15rem 0;text-align:left;border-bottom:1px solid var(--rule);white-space:nowrap}
td.n{text-align:right}
pre,code{font:.9em/1.5 ui-monospace,monospace}
pre{font-size:.85rem;background:var(--tint);padding:.6rem .8rem;white-space:pre-wrap;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:fit-content(45%) 1fr;gap:.2rem 1rem}
dt{overflow-wrap:anywhere}
dd{margin:0;overflow-wrap:anywhere}
@media(max-width:30rem){.words{grid-template-columns:1fr}.words dd{margin:0 0 .5rem}}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--paper:#fff;--rule:#ccc;--tint:#fff;--link:#000}
body{max-width:none;padding:0;font-size:9.5pt}figure,.answer,pre,tr{break-inside:avoid}h2{break-after:avoid}
figure svg,figure img{max-width:13cm}a{text-decoration:none}.answer{break-after:avoid}}
"""


def origin(workdir):
    """What `page` says of where its numbers come from, read from a work directory."""
    summary = records.read_summary(workdir) or {}
    return {
        "rows_path": str(pathlib.Path(workdir) / "rows.jsonl"),
        "config": records.read_config(workdir),
        "environments": records.read_environments(workdir),
        "command": summary.get("command", ""),
        "seconds": summary.get("seconds"),
    }


def page(
    title, lead, sections, *, rows_path, config, environments, command="", seconds=None, definitions=tuple(DEFINITIONS)
):
    """The whole page as text.

    Args:
      lead: the verdict: a text, or a list of them, one a paragraph.
      sections: Sections, in reading order.
      rows_path, config, environments, command, seconds: as `origin(workdir)` gives them.
      definitions: names in DEFINITIONS, or a dict {name: text}.
    """
    lead = [lead] if isinstance(lead, str) else lead
    terms = definitions if isinstance(definitions, dict) else {name: DEFINITIONS[name] for name in definitions}
    settings = {name: json.dumps(value) for name, value in records.flat(config).items()}
    took = f" It took {sig(seconds, 3)} s." if seconds else ""
    again = f"<p>Every number and figure here is drawn from {_inline(f'`{rows_path}`')}.{took} To make them again:</p>"
    links = "\n".join(f"<li><a href=#s{i}>{_inline(s.question)}</a></li>" for i, s in enumerate(sections, 1))
    where = "\n".join(
        f"<h3>Environment {html.escape(name)}</h3>{_list({k: v for k, v in found.items() if v is not None})}"
        for name, found in environments.items()
    )
    return f"""<!doctype html>
<html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1">
<title>{html.escape(title)}</title><style>{CSS}</style></head><body>
<header><h1>{_inline(title)}</h1>{"".join(f"<p class=lead>{_inline(text)}</p>" for text in lead)}</header>
<nav aria-label=Contents><ol>{links}</ol></nav>
<main>{"".join(_section(i, section) for i, section in enumerate(sections, 1))}</main>
<section id=origin><h2>Where the numbers come from</h2>{again}{_pre(command) if command else ""}
<h3>Words</h3>{_list(terms, "words")}
<h3>Configuration</h3>{_list(settings)}
{where}</section></body></html>
"""


def write(path, text, *, largest=2_000_000):
    """Write the page in one move and return its path; a page that a phone would not open is refused."""
    if len(text.encode()) > largest:
        raise ValueError(f"report.write: {path} would hold {len(text.encode()) / 1e6:.1f} MB of at most "
                         f"{largest / 1e6:g}; draw fewer points, or put fewer rows into tables.")  # fmt: skip
    records.write_text(path, text)
    return str(path)
