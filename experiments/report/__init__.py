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

from experiments.report.draw import (
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
    bar_ledger,
    canvas,
    heatmap,
    log_log,
    median_band,
    roc,
    sig,
    style,
)  # fmt: skip
from experiments.report.page import (
    DEFINITIONS,
    Chapter,
    Picture,
    Section,
    book,
    image,
    origin,
    page,
    picture,
    write,
)  # fmt: skip

__all__ = [
    "AMBER", "BLUE", "DEFINITIONS", "GREEN", "GREY", "INK", "PINK", "RED", "RULE", "SKY", "SOLVERS", "Chapter", "Picture",
    "Section", "bar_ledger", "book", "canvas", "heatmap", "image", "log_log", "median_band", "origin", "page", "picture",
    "roc", "sig", "style", "write",
]  # fmt: skip
