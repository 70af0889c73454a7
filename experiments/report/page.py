"""The page: sections of question, answer, figures and table, in chapters, in one file without scripts or addresses."""

import base64
import html
import io
import json
import numbers
import pathlib
import re
import zlib
from typing import NamedTuple

from experiments.report.draw import INK, RULE, sig
from flowjax import records

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


class Picture(NamedTuple):
    """A figure ready for the page: its markup and its caption."""

    markup: str
    caption: str = ""


class Section(NamedTuple):
    """One question and its answer, a sentence that holds the number in **bold**; several lines make a list.

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
        return image(file.getvalue(), alt, caption)
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->| xmlns(:xlink)?=\"[^\"]*\"",
        "",
        svg,
        flags=re.S,
    )
    # ids must be unique in the page: keep those something refers to, under a name of this figure's own
    used = set(re.findall(r"(?:url\(|href=\")#([^\")]+)", svg))
    mark = f"f{zlib.crc32((svg + alt).encode()):x}"
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{mark}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r"(url\(|href=\")#", rf"\1#{mark}-", svg).replace("xlink:href", "href")
    svg = svg.replace(INK, "currentColor").replace(RULE, "var(--rule)")
    svg = re.sub(r'<svg width="([\d.]+)pt" height="[\d.]+pt"', '<svg role="img"', svg, count=1)
    return Picture(svg.replace("<svg ", f'<svg aria-label="{html.escape(alt)}" ', 1), caption)


def image(png, alt, caption=""):
    """A PNG, given as its bytes."""
    data = base64.b64encode(png).decode()
    return Picture(f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">', caption)


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


def _answer(text):
    """A paragraph, or of several lines a list."""
    lines = [_inline(line) for line in text.splitlines()]
    if len(lines) == 1:
        return f"<p class=answer>{lines[0]}</p>"
    return "<ul class=answer>" + "".join(f"<li>{line}</li>" for line in lines) + "</ul>"


def _figure(shown):
    caption = f"<figcaption>{_inline(shown.caption)}</figcaption>" if shown.caption else ""
    return f"<figure>{shown.markup}{caption}</figure>"


def _section(name, section):
    parts = [f"<section id={name}><h2>{_inline(section.question)}</h2>"]
    if section.expected:
        parts.append(f"<p class=aside>Expected: {_inline(section.expected)}</p>")
    parts.append(_answer(section.answer))
    parts += map(_figure, section.figures)
    if section.table:
        count = f"{len(section.table)} row{'s' * (len(section.table) != 1)}"
        parts.append(
            f"<details><summary>The numbers ({count})</summary>{_table(section.table)}</details>"
        )
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
article{border-top:4px solid var(--rule);margin-top:3rem;padding-top:1rem}
section{border-top:1px solid var(--rule);margin-top:2.2rem;padding-top:1.4rem}
a{color:var(--link)}
.lead{font-size:1.1rem}
nav ol{padding-left:1.4rem}
.answer{border-left:4px solid #0072b2;background:var(--tint);padding:.6rem .9rem;margin:.8rem 0;font-size:1.05rem}
ul.answer{padding-left:2rem}
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


class Chapter(NamedTuple):
    """What one experiment has to say.

    `lead` is the verdict, a text or a list of them, one a paragraph; `sections` are Sections in reading order; `origin` says
    where the numbers come from (see `origin`); `definitions` are names in DEFINITIONS, or a dict {name: text}.
    """

    title: str
    lead: str | list
    sections: list
    origin: dict
    definitions: tuple | dict = tuple(DEFINITIONS)


def page(title, lead, sections, *, definitions=tuple(DEFINITIONS), **origin):
    """The page of one experiment as text: a `Chapter` by itself, its `origin` as keywords."""
    chapter = Chapter(title, lead, sections, origin, definitions)
    main = f"<main>{_sections(chapter, 's')}</main><section id=origin>{_sources(chapter)}</section>"
    return _document(
        title,
        f"<header><h1>{_inline(title)}</h1>{_lead(lead)}</header>{_contents(chapter, 's')}{main}",
    )


def book(title, lead, figures, chapters):
    """Several chapters on one page, as text.

    Args:
      title: of the whole.
      lead: a text, or a list of them.
      figures: Pictures that stand before the chapters.
      chapters: `Chapter`s, in reading order.
    """
    parts = [f"<header><h1>{_inline(title)}</h1>{_lead(lead)}</header>"]
    links = "".join(
        f"<li><a href=#c{i}>{_inline(c.title)}</a></li>" for i, c in enumerate(chapters, 1)
    )
    parts += [f"<nav aria-label=Chapters><ol>{links}</ol></nav>", *map(_figure, figures)]
    for i, chapter in enumerate(chapters, 1):
        prefix = f"c{i}s"
        head = f"<h1 id=c{i}>{_inline(chapter.title)}</h1>{_lead(chapter.lead)}{_contents(chapter, prefix)}"
        sources = f"<section>{_sources(chapter)}</section>"
        parts.append(f"<article>{head}{_sections(chapter, prefix)}{sources}</article>")
    return _document(title, "\n".join(parts))


def _document(title, body):
    return f"""<!doctype html>
<html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width,initial-scale=1">
<title>{html.escape(title)}</title><style>{CSS}</style></head><body>
{body}</body></html>
"""


def _lead(lead):
    return "".join(
        f"<p class=lead>{_inline(text)}</p>" for text in ([lead] if isinstance(lead, str) else lead)
    )


def _contents(chapter, prefix):
    links = (
        f"<li><a href=#{prefix}{i}>{_inline(s.question)}</a></li>"
        for i, s in enumerate(chapter.sections, 1)
    )
    return f"<nav aria-label=Contents><ol>{''.join(links)}</ol></nav>\n"


def _sections(chapter, prefix):
    return "".join(
        _section(f"{prefix}{i}", section) for i, section in enumerate(chapter.sections, 1)
    )


def _sources(chapter):
    """Where a chapter's numbers come from: rows, command, words, configuration, environments."""
    origin, terms = chapter.origin, chapter.definitions
    terms = terms if isinstance(terms, dict) else {name: DEFINITIONS[name] for name in terms}
    took = f" It took {sig(origin['seconds'], 3)} s." if origin.get("seconds") else ""
    again = f"Every number and figure here is drawn from {_inline('`' + origin['rows_path'] + '`')}.{took} To make them again:"
    where = "\n".join(
        f"<h3>Environment {html.escape(name)}</h3>{_list({k: v for k, v in found.items() if v is not None})}"
        for name, found in origin["environments"].items()
    )
    settings = {name: json.dumps(value) for name, value in records.flat(origin["config"]).items()}
    return f"""<h2>Where the numbers come from</h2><p>{again}</p>{_pre(origin["command"]) if origin.get("command") else ""}
<h3>Words</h3>{_list(terms, "words")}
<h3>Configuration</h3>{_list(settings)}
{where}"""


def write(path, text, *, largest=2_000_000):
    """Write the page in one move and return its path; a page that a phone would not open is refused."""
    if len(text.encode()) > largest:
        raise ValueError(f"report.write: {path} would hold {len(text.encode()) / 1e6:.1f} MB of at most "
                         f"{largest / 1e6:g}; draw fewer points, or put fewer rows into tables.")  # fmt: skip
    records.write_text(path, text)
    return str(path)
