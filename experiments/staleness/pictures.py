"""What does it look like? The same starts, synchronous and stale, side by side."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib.figure
import numpy as np

from experiments import report
from experiments.staleness import draw, subjects

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "pictures"
check = subjects.check_survey
SOLVER, DEVICES = "DPM++ 2M", (1, 2, 4, 8)
# Pixels of a side, and with the white line between two images.
SIDE = 8
PITCH = SIDE + 1


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a subject of digits: its images at the fewest steps, where staleness is largest."""
    return [
        {"question": QUESTION, "subject": subject}
        for subject in config.subjects
        # A picture here has one channel; those in colour stand in the question gallery.
        if subject not in subjects.EMOJI
    ]


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): bytes of the first images of a synchronous and of stale runs."""
    steps = min(config.steps)
    plan = subjects.plan_of(SOLVER, steps)
    for key in todo:
        subject = subjects.subject(subjects.surveyed(config, key["subject"]))
        images = {}
        for devices in (n for n in DEVICES if n <= max(config.devices)):
            name = "synchronous" if devices == 1 else f"{devices} devices"
            images[name] = subject.end(plan, subject.exchange(plan, devices)).x
        images["converged"] = subject.exact
        levels = {name: _levels(x[: config.pictures]) for name, x in images.items()}
        yield key, {"images": levels, "steps": steps, "solver": SOLVER}


def _levels(x: np.ndarray) -> np.ndarray:
    """(B, H, W, 1) in [-1, 1] to (B, H, W) integers from 0 to 255."""
    return np.rint(np.clip((x + 1) / 2, 0, 1) * 255).astype(int)[..., 0]


# -- numbers


def most_stale(row: dict) -> str:
    """The name of the images on the most devices: the last but the converged ones."""
    return list(row["images"])[-2]


def change(row: dict) -> float:
    """Mean change of a pixel, in levels, from synchronous to the most devices."""
    stale = np.array(row["images"][most_stale(row)], float)
    return np.abs(stale - np.array(row["images"]["synchronous"], float)).mean()


# -- figures


def _figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """A panel for each subject, a line of images for each run."""
    fig, shown = draw.panels(rows, height=3.1)
    for ax, _, (row,) in shown:
        names = list(row["images"])
        ax.imshow(_sheet(row["images"].values()), cmap="gray", vmin=0, vmax=255)
        ax.set_yticks(np.arange(len(names)) * PITCH + (SIDE - 1) / 2, names)
        ax.set_xticks([])
        ax.grid(False)
    return fig


def _sheet(lines: Iterable[list]) -> np.ndarray:
    """Lines of images (B, H, W), one below the other, with white lines between the images."""
    padded = [
        np.pad(np.array(images), ((0, 0), (0, 1), (0, 1)), constant_values=255) for images in lines
    ]
    return np.concatenate([np.concatenate(list(images), axis=1) for images in padded])


# -- words


def _moved(rows: list[dict]) -> str:
    """The mean change of a pixel on each subject."""
    return "; ".join(
        f"**{report.sig(change(row))}** of 255 levels on {subjects.NAMES[row['subject']]}"
        for row in rows
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    picture = report.picture(
        _figure(rows),
        "Rows of digits from the same noise: synchronous, stale on two, four and eight devices, "
        "converged.",
        f"{rows[0]['solver']}, {rows[0]['steps']} steps, one synchronous step; the last line is "
        "the converged run.",
        title=f"The same digits with other strokes: {_moved(rows)}".replace("**", ""),
    )
    return report.Section(
        question="What does it look like?",
        expected=(
            "The same digits with other strokes: staleness moves a sample along what the data "
            "allow; a blur, or torn edges between the devices' shards, would be a bug or far too "
            "few steps."
        ),
        answer=(
            f"Mean change of a pixel from synchronous to {most_stale(rows[-1])}: {_moved(rows)}."
        ),
        figures=(picture,),
        command=command,
    )
