"""One style for all figures: colours, the look of each solver, figures at phone size, numbers.

Importing this module sets matplotlib's style (rcParams).
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

# These two become the page's own text and rule colours when a figure is put into a page.
INK = "#1b1f24"
RULE = "#d3d8de"
# Okabe and Ito's colours: distinct with any colour vision, and visible on white and on black.
BLUE = "#0072b2"
RED = "#d55e00"
GREEN = "#009e73"
PINK = "#cc79a7"
SKY = "#56b4e9"
AMBER = "#e69f00"
GREY = "#8a8f98"
DOTTED = (0, (1, 3))  # the line style of guides
TEXT = 9  # points, of every text in a figure
PIXELS = 1.4  # of a page, for each point of a figure: text has 12.6 pixels

# One colour a solver, the same on every page. Colours of one family are near each other and the
# marker is the order; a dashed line with hollow markers is a published form beside our exact one.
SOLVERS = {
    "Euler": (INK, "o", "-"),
    "DDIM": (INK, "o", ":"),
    "Heun": (AMBER, "s", "-"),
    "RK4": ("#8c6300", "D", "-"),
    "AB2": ("#7fc97f", "s", "-"),
    "AB3": ("#00734f", "^", "-"),
    "DPM++ 2M": (BLUE, "s", "-"),
    "DPM++ 3M exact": (RED, "^", "-"),
    "DPM++ 3M exact, warm": ("#8f2d00", "D", "-"),
    "DPM++ 3M published": ("#ee8866", "v", "--"),
    "DPM++ 2S": (PINK, "s", "-"),
    "DPM++ 3S": ("#8e4585", "^", "-"),
    "UniPC2": (SKY, "s", "-"),
    "UniPC3": ("#2f6f8f", "^", "-"),
    "DEIS2": ("#b3b8bf", "s", "-."),
    "DEIS3": ("#6b7078", "^", "-."),
}
UNKNOWN = (GREY, "x", "-")
DASHES = ("-", "--", ":", "-.")

matplotlib.rcParams.update(
    {
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "axes.prop_cycle": matplotlib.cycler(color=[BLUE, RED, GREEN, PINK, SKY, AMBER, GREY]),
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.titlelocation": "left",
        # One size of text in all figures.
        "font.size": TEXT,
        "axes.titlesize": TEXT,
        "axes.labelsize": TEXT,
        "xtick.labelsize": TEXT,
        "ytick.labelsize": TEXT,
        "legend.fontsize": TEXT,
        "grid.color": RULE,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.6,
        "lines.markersize": 5,
        "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
        "svg.hashsalt": "flowjax",  # the same rows give the same bytes
    }
)


def sig(x: Any, digits: int = 2) -> str:
    """`x` with so many significant digits: 0.012, 3.1, 12000, 1.2e-5, inf.

    Args:
      x: a number. An int keeps all its digits, a text is unchanged, None is a dash.
      digits: how many.
    """
    if x is None:
        return "–"
    is_number = isinstance(x, numbers.Number) and not isinstance(x, (bool, np.bool_))
    if not is_number:
        return str(x)
    if isinstance(x, numbers.Integral):
        return f"{x:d}"
    if not math.isfinite(x) or x == 0:
        return f"{x:g}".replace("-0", "0")

    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    if -4 < int(exponent) < 5:
        # Rounded first: 9.96 has the exponent 0, and is 10 with two digits.
        rounded = float(f"{mantissa}e{exponent}")
        return f"{rounded:.{max(digits - 1 - int(exponent), 0)}f}"
    return f"{mantissa}e{int(exponent)}"


def canvas(
    rows: int = 1, columns: int = 1, *, width: float = 4.6, height: float = 3.4
) -> tuple[Figure, Any]:
    """(figure, axes), in inches.

    A page shows an inch as 100 pixels: 4.6 inches fit a phone, and 11 a page of 1200 pixels.
    """
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(rows, columns)


def known_solver(name: Any) -> str | None:
    """The longest name in SOLVERS with which `name` begins, or None."""
    beginnings = [known for known in SOLVERS if str(name).startswith(known)]
    return max(beginnings, key=len, default=None)


def rank(name: Any) -> tuple[int, str]:
    """A sort key: solvers in the order of SOLVERS, then all others by name.

    A variant stands behind its solver.
    """
    known = known_solver(name)
    place = list(SOLVERS).index(known) if known else len(SOLVERS)
    return (place, str(name))


def style(name: Any, beside: Sequence[dict] = ()) -> dict[str, str]:
    """Line2D options of a solver, fixed by its name.

    Args:
      name: a name in SOLVERS, or one that begins with such a name; any other is grey.
      beside: the options of lines that are drawn already. A variant ("DPM++ 2M, shift 3") that
        would look like one of them gets another dash.
    """
    colour, marker, line = SOLVERS.get(known_solver(name), UNKNOWN)
    same = [look for look in beside if (look["color"], look["marker"]) == (colour, marker)]
    taken = [look["linestyle"] for look in same]
    line = next((dash for dash in (line, *DASHES) if dash not in taken), line)
    look = {"color": colour, "marker": marker, "linestyle": line}
    if line == "--":
        look["markerfacecolor"] = "none"
    return look
