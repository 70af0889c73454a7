"""The page: sections of question, answer, figures and table, in one file that fetches nothing.

Its HTML stands in page.html, a Jinja template, and its style in page.css.
"""

import base64
import functools
import html
import io
import json
import numbers
import os
import pathlib
import re
import textwrap
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.text import Text

from experiments.report.theme import INK, PIXELS, RULE, TEXT, sig
from flowjax import files, records

FOLDER = pathlib.Path(__file__).parent
LINES = 7  # of a page's summary at most
COLUMN = 552  # pixels of one of two columns, where the page has 1200
LONG_COMMAND = 60  # characters: a longer one is broken before its flags
DEFINITIONS = {
    "NFE": "Network evaluations for one sample. A step of a multistep solver costs one, of Heun "
    "two, of RK4 four.",
    "order": "The power p in error ~ h^p as the step h shrinks: minus the slope on these log-log "
    "axes.",
    "shift": "Moves a grid's times to t' = s t / (1 + (s - 1) t): log-SNR falls by log(s), so more "
    "steps lie near noise.",
    "log-SNR": "log(alpha / sigma) of the path x_t = alpha data + sigma noise; minus infinity at "
    "t = 1 (noise), plus infinity at t = 0 (data).",
    "misrouted": "A sample that ends in another component of the data than the exact path from the "
    "same noise.",
    "staleness": "How far the keys and values in use are from those of the present step.",
    "band": "95% interval of the median, by resampling the seeds (bootstrap).",
}


# ---- what stands on a page


class Picture(NamedTuple):
    """A figure ready for the page.

    Attributes:
      markup: HTML.
      caption: a text with **bold** and `code`, as all texts of a page.
      title: what the figure shows, as a claim; it stands above the figure.
    """

    markup: str
    caption: str = ""
    title: str = ""


class Section(NamedTuple):
    """One question and its answer.

    Attributes:
      question: the heading.
      answer: a sentence that holds the number in **bold**; several lines make a list.
      figures: `Picture`s.
      table: the rows behind the figures, dicts with the same names; or {title: such rows}, a
        table for each kind of row.
      caveat: what the answer does not cover.
      command: the command that makes the rows.
      expected: what was expected before the run.
      badge: a few words beside the heading, where the rows are not those of the page's own run.
    """

    question: str
    answer: str
    figures: Sequence[Picture] = ()
    table: Sequence[dict] | Mapping[str, Sequence[dict]] | None = None
    caveat: str = ""
    command: str = ""
    expected: str = ""
    badge: str = ""


class Chapter(NamedTuple):
    """The results of one experiment.

    Attributes:
      title: the heading.
      lead: the verdict, a text or a list of at most `LINES`, each one claim with one number.
      sections: in reading order.
      origin: where the numbers come from, see `origin`.
      definitions: names in DEFINITIONS, or a dict {name: text}.
    """

    title: str
    lead: str | list[str]
    sections: Sequence[Section]
    origin: dict
    definitions: Sequence[str] | dict[str, str] = tuple(DEFINITIONS)


# ---- figures


def picture(
    fig: Figure, alt: str, caption: str = "", *, title: str = "", largest: int = 300_000
) -> Picture:
    """A matplotlib figure as inline SVG, or as PNG on white where the SVG would be too large.

    All its texts get one size, and a label that is longer than its axis is broken.

    Args:
      fig: the figure.
      alt: what a reader who does not see the figure must know; it may not be empty.
      caption: the text below it.
      title: what the figure shows, as a claim.
      largest: characters of an SVG.
    """
    if not alt.strip():
        raise ValueError("report.picture: alt is empty; say in a sentence what the figure shows.")
    _fit_texts(fig)
    width = round(72 * PIXELS * fig.get_figwidth())
    file = io.StringIO()
    fig.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    if len(svg) > largest:
        file = io.BytesIO()
        # The pixels of a PNG, in half as many bytes.
        lossless = {"lossless": True, "quality": 100, "method": 6}
        fig.savefig(file, format="webp", dpi=200, facecolor="white", pil_kwargs=lossless)
        return image(file.getvalue(), alt, caption, title=title, width=width)
    return Picture(_inline_svg(svg, alt, width), caption, title)


def _fit_texts(fig: Figure) -> None:
    """Give all texts one size, and break labels of axes and titles that are too long."""
    for text in fig.findobj(Text):
        text.set_fontsize(TEXT)
    for ax in fig.axes:
        # Of colour bars too, which have no place in the grid of panels.
        place = ax.get_subplotspec()
        columns, rows = (
            (place.get_gridspec().ncols, place.get_gridspec().nrows) if place else (1, 1)
        )
        across = _characters(0.85 * fig.get_figwidth() / columns)
        down = _characters(0.85 * fig.get_figheight() / rows)
        ax.set_xlabel(textwrap.fill(ax.get_xlabel(), across))
        ax.set_ylabel(textwrap.fill(ax.get_ylabel(), down))
        ax.set_title(textwrap.fill(ax.get_title("left"), across))


def _characters(inches: float) -> int:
    """How many characters of a mean width have room, 10 at least."""
    return max(10, int(72 * inches / (0.52 * TEXT)))


def _inline_svg(svg: str, alt: str, width: int) -> str:
    """The SVG file of matplotlib as an element of a page, in the colours of the page."""
    # The XML declaration, metadata and namespaces belong to a file of its own.
    svg = svg[svg.index("<svg") :]
    foreign = r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->| xmlns(:xlink)?=\"[^\"]*\""
    svg = re.sub(foreign, "", svg, flags=re.S)

    # Ids must be unique in the page: keep those that something refers to, with a prefix of this
    # figure's own.
    used = set(re.findall(r"(?:url\(|href=\")#([^\")]+)", svg))
    mark = f"f{zlib.crc32((svg + alt).encode()):x}"

    def rename(match: re.Match) -> str:
        return f' id="{mark}-{match[1]}"' if match[1] in used else ""

    svg = re.sub(r' id="([^"]*)"', rename, svg)
    svg = re.sub(r"(url\(|href=\")#", rf"\1#{mark}-", svg).replace("xlink:href", "href")

    # Text and axes follow the page, light or dark. One scale for all figures, so that their texts
    # have one size; a narrow screen shrinks them.
    shown = f'<svg role="img" style="width:{width}px"'
    svg = svg.replace(INK, "currentColor").replace(RULE, "var(--rule)")
    svg = re.sub(r'<svg width="([\d.]+)pt" height="[\d.]+pt"', shown, svg, count=1)
    return svg.replace("<svg ", f'<svg aria-label="{html.escape(alt)}" ', 1)


def image(
    content: bytes, alt: str, caption: str = "", *, title: str = "", width: int | None = None
) -> Picture:
    """A PNG or WebP, given as its bytes; `width` is in pixels of the page."""
    data = base64.b64encode(content).decode()
    kind = "webp" if content[8:12] == b"WEBP" else "png"
    size = f' style="width:{width}px"' if width else ""
    markup = f'<img alt="{html.escape(alt)}"{size} src="data:image/{kind};base64,{data}">'
    return Picture(markup, caption, title)


# ---- filters of the template


def _rich(text: Any) -> Markup:
    """Escaped text with **bold** and `code`."""
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(str(text)))
    return Markup(re.sub(r"`(.+?)`", r"<code>\1</code>", text))


def _broken(command: str) -> str:
    """A command, broken before its flags when it is long: a browser would break within `--`."""
    return command.replace(" --", " \\\n    --") if len(command) > LONG_COMMAND else command


def _columns(rows: Sequence[dict]) -> list[str]:
    """The names of all rows, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _values(row: dict, names: Sequence[str]) -> list:
    return [row.get(name) for name in names]


def _is_measured(value: Any) -> bool:
    """Whether `value` is a number, which a table sets flush right."""
    return isinstance(value, numbers.Number) and not isinstance(value, bool)


def _terms(definitions: Sequence[str] | dict[str, str]) -> dict[str, str]:
    if isinstance(definitions, dict):
        return definitions
    return {name: DEFINITIONS[name] for name in definitions}


def _texts(lead: str | list[str]) -> list[str]:
    return [lead] if isinstance(lead, str) else lead


def _is_wide(shown: Picture) -> bool:
    """Whether a figure is wider than one of two columns."""
    width = re.search(r'style="width:(\d+)px"', shown.markup)
    return bool(width) and int(width[1]) > COLUMN


def _commands(found: Sequence[str], own: str) -> list[str]:
    """The commands of kept sections, each line once, without that of the page's own run."""
    lines = [line for text in found for line in text.splitlines()]
    return [line for line in dict.fromkeys(lines) if line and line != own]


def _tables(
    table: Sequence[dict] | Mapping[str, Sequence[dict]] | None,
) -> dict[str, Sequence[dict]]:
    """{title: rows} of a section's tables, without those that have no rows."""
    named = table if isinstance(table, Mapping) else {"": table or ()}
    return {title: rows for title, rows in named.items() if rows}


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "broken": _broken,
        "columns": _columns,
        "commands": _commands,
        "digits": functools.partial(sig, digits=3),
        "flat": records.flat,
        "json": json.dumps,
        "rich": _rich,
        "tables": _tables,
        "terms": _terms,
        "texts": _texts,
        "values": _values,
    }
    environment.tests |= {"measured": _is_measured, "wide": _is_wide}
    return environment.get_template("page.html")


def _render(**context: Any) -> str:
    css = (FOLDER / "page.css").read_text(encoding="utf-8")
    return _template().render(css=css.strip(), **context).strip() + "\n"


# ---- pages


def origin(workdir: str | os.PathLike) -> dict:
    """Where the numbers of a page come from, as `Chapter` and `page` take it."""
    summary = records.read_summary(workdir) or {}
    return {
        "rows_path": str(pathlib.Path(workdir) / "rows.jsonl"),
        "config": records.read_config(workdir),
        "environments": records.read_environments(workdir),
        "command": summary.get("command", ""),
        "seconds": summary.get("seconds"),
    }


def page(
    title: str,
    lead: str | list[str],
    sections: Sequence[Section],
    *,
    definitions: Sequence[str] | Mapping[str, str] = tuple(DEFINITIONS),
    **origin: Any,
) -> str:
    """The page of one experiment as text: a `Chapter` by itself, its `origin` as keywords."""
    chapter = Chapter(title, lead, sections, origin, definitions)
    return _render(title=title, lead=_texts(lead), figures=(), chapters=[chapter], is_book=False)


def book(
    title: str,
    lead: str | list[str],
    figures: Sequence[Picture],
    chapters: Sequence[tuple[Chapter, str]],
) -> str:
    """One figure of each question of several chapters, with links to their full pages, as text.

    Args:
      title: of the page.
      lead: a text, or a list of lines.
      figures: those that stand before the chapters.
      chapters: pairs of a chapter and the address of its full page, in reading order.
    """
    return _render(title=title, lead=_texts(lead), figures=figures, chapters=chapters, is_book=True)


def write(path: str | os.PathLike, text: str, *, largest: int = 2_000_000) -> str:
    """Write the page and return its path; a reader finds the old page or all of the new one.

    Raises:
      ValueError: the page has more than `largest` bytes, and a phone would not open it.
    """
    size = len(text.encode())
    if size > largest:
        raise ValueError(
            f"report.write: {path} would hold {size / 1e6:.1f} MB of at most {largest / 1e6:g}; "
            "draw fewer points, or put fewer rows into tables."
        )
    files.write_text(path, text)
    return str(path)
