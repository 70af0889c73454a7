"""Rows drawn into one HTML page that needs nothing else: no script, no font, no address is fetched.

An experiment's `report(workdir)` reads rows, draws figures with these helpers and writes one page:

    rows = records.read(workdir)
    fig, ax = canvas()
    points = log_log(ax, rows, x="nfe", y="error", guides=(1, 2, 3))
    shown = picture(fig, "Error against NFE; 3M exact is lowest from 16 on.", "Median of 8 seeds.")
    answer = f"3M exact falls with order **{sig(slope)}**."
    section = Section("How steep is each solver?", answer, [shown], points)
    text = page("Order", "The verdict.", [section], **origin(workdir))
    return write(f"{workdir}/report.html", text)

Texts are plain: they are escaped, then **bold** and `code` are marked up. A figure's text and axes
have the colours of the page around it, light or dark. Importing this module sets matplotlib's style
(rcParams), for notebooks too.
"""

from experiments.report.draw import (
    bar_ledger,
    decade_ticks,
    heatmap,
    log_log,
    measured_ticks,
    median_band,
    plain,
    roc,
)
from experiments.report.pages import (
    DEFINITIONS,
    LINES,
    Chapter,
    Picture,
    Section,
    book,
    image,
    origin,
    page,
    picture,
    write,
)
from experiments.report.theme import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    INK,
    PINK,
    RED,
    RULE,
    SKY,
    SOLVERS,
    canvas,
    sig,
    style,
)

__all__ = [
    "AMBER",
    "BLUE",
    "DEFINITIONS",
    "GREEN",
    "GREY",
    "INK",
    "LINES",
    "PINK",
    "RED",
    "RULE",
    "SKY",
    "SOLVERS",
    "Chapter",
    "Picture",
    "Section",
    "bar_ledger",
    "book",
    "canvas",
    "decade_ticks",
    "heatmap",
    "image",
    "log_log",
    "measured_ticks",
    "median_band",
    "origin",
    "page",
    "picture",
    "plain",
    "roc",
    "sig",
    "style",
    "write",
]
