"""Does a larger picture bear staleness better, when an equal fraction of it is stale?"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib.figure

from experiments import report
from experiments.cli.run import check_names
from experiments.staleness import comparison, draw, subjects, words

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "resolution"
DEVICES = 4
GRIDS = ("uniform", "shifted")
# {column: its name}, of the figure.
STATISTICS = {"sync_rms": "RMS", "sync_median": "median"}


# -- the measurement


def check(config: "Config") -> None:
    """Refuse sizes and solvers that there are not."""
    check_names("pixels", map(str, config.pixels), map(str, subjects.PIXELS))
    check_names("one_solver", config.one_solver, subjects.ONE_ROW_SOLVERS)


def cells(config: "Config") -> list[dict]:
    """One cell a size and grid."""
    return [
        {"question": QUESTION, "subject": f"{pixels} pixels", "grid": grid}
        for grid in GRIDS
        for pixels in config.pixels
    ]


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values); ratios are to the smallest size on its grid.

    A shift of s multiplies sigma/alpha by s. The mean over a block of s x s pixels is then as noisy
    as a pixel of the smallest size is in the same step.
    """
    least = min(config.pixels, default=1)

    def setup(key):
        shift = side_of(key["subject"]) / least if key["grid"] == "shifted" else 1.0
        return {"devices": DEVICES, "shift": shift}

    def base(key):
        return key | {"subject": f"{least} pixels"}

    return comparison.measured(config, todo, setup, base)


# -- numbers


def side_of(subject: str) -> int:
    """8 of "8 pixels"."""
    return int(subject.split()[0])


# -- figures


def _figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """Distance to the synchronous run against pixels of a side, a curve for each grid."""
    fig, axes = report.canvas(1, len(STATISTICS), width=draw.PAGE * 0.8)
    for ax, (column, name) in zip(axes, STATISTICS.items(), strict=True):
        # The interval of a median is not kept.
        draw.lines(ax, rows, x="pixels", y=column, by="grid", band=column == "sync_rms")
        ax.set(
            xscale="log",
            xlabel="pixels of a side",
            ylabel=f"{name} distance",
            ylim=(0, None),
        )
        draw.ticks(ax, [row["pixels"] for row in rows])
    draw.legend(fig)
    return fig


# -- words


def _answer(rows: list[dict], grid: str) -> str:
    """The ratios of one grid to the smallest size."""
    own = [row for row in rows if row["grid"] == grid]
    first, *larger = sorted(own, key=lambda row: row["pixels"])
    by_rms = ", ".join(f"{words.ratio(row)} at {row['pixels']}" for row in larger)
    by_median = ", ".join(f"{words.ratio(row, 'median')} at {row['pixels']}" for row in larger)
    return (
        f"On the {grid} grid the error over that of {first['pixels']} pixels is {by_rms} "
        f"by the RMS, and by the median {by_median}."
    )


def _disagrees(rows: list[dict]) -> bool:
    """Whether on some grid RMS and median of the largest size do not lie on one side of 1."""
    largest = max(rows, key=lambda row: side_of(row["subject"]))["subject"]
    own = [row for row in rows if row["subject"] == largest]
    sides = [
        {(row[f"{kind}_low"] > 1) - (row[f"{kind}_high"] < 1) for kind in ("rms", "median")}
        for row in own
    ]
    return any(len(side) > 1 for side in sides)


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    sized = [{**row, "pixels": side_of(row["subject"])} for row in rows]
    picture = report.picture(
        _figure(sized),
        "Distance to the synchronous run against pixels of a side, on the uniform and on the "
        "shifted grid.",
        "The exact field of 1906 emoji averaged to each size, the same noise, float64; "
        f"{words.common(rows)}, {DEVICES} devices; the band is the 95 % interval.",
        title="RMS and median disagree on whether a larger picture bears staleness better"
        if _disagrees(rows)
        else "RMS and median agree on larger pictures",
    )
    return report.Section(
        question="Does a larger picture bear staleness better, at an equal stale fraction?",
        expected=(
            "Theory does not say so. A network has more tokens in a larger picture, but the "
            "fraction that is stale is the same. A larger picture decides earlier, when noise "
            "hides less of it; a grid that is shifted by the ratio of sides follows it."
        ),
        answer="\n".join(_answer(sized, grid) for grid in dict.fromkeys(r["grid"] for r in rows)),
        figures=(picture,),
        table={"Errors by size": words.columns(rows, ("subject", "grid"))},
        caveat=(
            "The same pictures and the same starts, but no network: one that was trained at one "
            "size is another network at another, and two networks, as those of digits and emoji "
            "in the sections around, differ in more than size. "
            f"{words.converged(rows)}"
        ),
        command=command,
    )
