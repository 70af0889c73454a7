"""Does it matter which tokens are on one device, when each device has equally many?"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib.figure
import numpy as np

from experiments import report
from experiments.staleness import comparison, draw, subjects, words

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "partition"
check = subjects.check_comparison
# An image of 8 x 8 tokens over four devices: each has 16.
DEVICES, SIDE = 4, 8


def _rows(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    return row // 2


def _columns(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    return column // 2


def _blocks(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    return row // 4 * 2 + column // 4


def _scattered(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    return row % 2 * 2 + column % 2


# {partition: (row, column) -> device}
PARTITIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "rows": _rows,
    "columns": _columns,
    "blocks": _blocks,
    "scattered": _scattered,
}
# The partition that the others are compared with.
BASE = "rows"


def shards(name: str) -> np.ndarray:
    """(64,) the device of each token."""
    # Tokens are numbered row by row.
    row, column = np.divmod(np.arange(SIDE * SIDE), SIDE)
    return PARTITIONS[name](row, column)


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a subject and partition of its tokens."""
    return [
        {"question": QUESTION, "subject": subject, "part": name}
        for subject in config.compared_subjects
        for name in PARTITIONS
    ]


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values); ratios are to rows."""

    def setup(key):
        return {"devices": DEVICES, "shards": shards(key["part"])}

    def base(key):
        return key | {"part": BASE}

    return comparison.measured(config, todo, setup, base)


# -- figures


def _figure(others: list[dict]) -> matplotlib.figure.Figure:
    """Bars of the ratio to rows: a panel for each subject."""
    fig, shown = draw.panels(others, height=2.0)
    for ax, _, own in shown:
        draw.ratio_bars(ax, own, label="part", xlabel="RMS error over that of rows")
    return fig


# -- words


def _answer(own: list[dict], subject: str) -> str:
    """The ratios of one subject."""
    ratios = ", ".join(f"{row['part']} {words.ratio(row)}" for row in own)
    return f"On {subjects.NAMES[subject]}, error over that of rows: {ratios}."


def _title(others: list[dict]) -> str:
    """How many partitions are told from rows, as the claim of the figure."""
    apart = [row for row in others if row["rms_low"] > 1 or row["rms_high"] < 1]
    return f"{len(apart)} of {len(others)} partitions differ from rows beyond their interval"


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    others = [row for row in rows if row["part"] != BASE]
    picture = report.picture(
        _figure(others),
        "Bars: distance to the synchronous run for columns, blocks and scattered tokens over that "
        "for rows.",
        f"{words.common(rows)}, {DEVICES} devices with 16 of 64 tokens each: two rows, two "
        "columns, a quarter, or every second of every second row.",
        title=_title(others),
    )
    return report.Section(
        question="Does it matter which tokens a device has, when it has as many?",
        expected=(
            "The stale fraction is 3/4 in each case, so a theory of fractions says no. If a token "
            "attends to its neighbours, shards that keep neighbours together (blocks) bear it "
            "better than those that part them all (scattered)."
        ),
        answer="\n".join(_answer(own, subject) for subject, own in draw.by_subject(others).items()),
        figures=(picture,),
        table={"Errors by partition": words.columns(rows, ("subject", "part"))},
        caveat=words.converged(rows),
        command=command,
    )
