"""(f) What does it look like? The same starts, synchronous and stale, side by side."""

import numpy as np

from experiments import report
from experiments.staleness import lab

QUESTION = "pictures"
SOLVER, DEVICES = "DPM++ 2M", (1, 2, 4, 8)


def cells(config):
    """One cell a subject: its images at the fewest steps, where staleness is largest."""
    return [{"question": QUESTION, "subject": subject} for subject in config.subjects]


def measure(config, todo):
    """Yield (key, values): bytes of the first images of a synchronous and of stale runs."""
    steps = min(config.steps)
    plan = lab.plan_of(SOLVER, steps)
    for key in todo:
        subject, images = lab.of(config, key["subject"]), {}
        for devices in (n for n in DEVICES if n <= max(config.devices)):
            name = "synchronous" if devices == 1 else f"{devices} devices"
            images[name] = _bytes(
                subject.end(plan, subject.told(plan, devices)).x[: config.pictures]
            )
        images["converged"] = _bytes(subject.exact[: config.pictures])
        yield key, {"images": images, "steps": steps, "solver": SOLVER}


def _bytes(x):
    return np.rint(np.clip((x + 1) / 2, 0, 1) * 255).astype(int)[..., 0]


def section(rows, command):
    """The section of the page."""
    fig, axes = report.canvas(len(rows), 1, width=6.4, height=3.1 * len(rows))
    moved = []
    for ax, row in zip(np.atleast_1d(axes), rows, strict=True):
        names = list(row["images"])
        lines = [
            np.pad(np.array(row["images"][name]), ((0, 0), (0, 1), (0, 1)), constant_values=255)
            for name in names
        ]
        ax.imshow(
            np.concatenate([np.concatenate(list(line), axis=1) for line in lines]),
            cmap="gray",
            vmin=0,
            vmax=255,
        )
        ax.set_yticks(np.arange(len(names)) * 9 + 3.5, names)
        ax.set_xticks([])
        ax.grid(False)
        ax.set_title(lab.NAMES[row["subject"]])
        change = np.abs(
            np.array(row["images"][names[-2]], float)
            - np.array(row["images"]["synchronous"], float)
        ).mean()
        moved.append(f"{lab.NAMES[row['subject']]}: **{report.sig(change)}** of 255 levels")
    return report.Section(
        question="What does it look like?",
        expected="The same digits with other strokes: staleness moves a sample along what the data allow; a blur, or torn edges between the devices' "
        "parts, would be a bug or far too few steps.",
        answer=f"Mean change of a pixel from synchronous to {names[-2]}: {'; '.join(moved)}.",
        figures=(
            report.picture(
                fig,
                "Rows of digits from the same noise: synchronous, stale on two, four and eight devices, converged.",
                f"{rows[0]['solver']}, {rows[0]['steps']} steps, one synchronous step; the last line is the converged run.",
            ),
        ),
        command=command,
    )
