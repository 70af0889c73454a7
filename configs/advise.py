"""Ask it about your own model: which solver, why, and what on several devices.

    python -m experiments.advise --config=configs/advise.py --workdir=runs/advise
    python -m experiments.advise --config=configs/advise.py --workdir=runs/advise-mine \
        --config.model=FOLDER --config.steps=8,20 --config.guidance=4.0 --config.devices=1,4,8 \
        --config.link=pcie4 --config.budget=20min

The model is a network: one that comes with flowjax, a SiT or DiT, your own training, or a SANA with
`--config.embeddings=FILE`. An exact field such as "ring" works too, without the questions
on devices.

Expect: it says at the start what the budget can afford, shows progress, and ends with a table on
the terminal and report.html in the work directory. A killed run goes on with the same command. The
best published plans and the tuned tables lie as files in plans/ of the work directory.
"""

import dataclasses

from flowjax.records import unrecorded


@dataclasses.dataclass
class Config:
    """The model, the settings that are possible, and the budget."""

    model: str = "digits"  # what flowjax.models.load takes, or an exact field
    embeddings: str = ""  # of a network that draws for texts: a file of experiments.embed
    steps: tuple[int, ...] = (8, 20)  # numbers of evaluations that you can afford
    guidance: float = 1.0  # the scale; 1 is none
    # Numbers of devices that may share one image; 1 needs no question.
    devices: tuple[int, ...] = (1, 4, 8)
    # What joins them: "pcie4", "nvlink3", "nvlink4" or "tpu-v5e", with the devices that have it.
    link: str = "pcie4"
    budget: str = "8min"  # of measuring, such as "90s", "8min" or "1h"
    # Times the solver's own error, which staleness may add up to.
    factor: float = 1.1
    seed: int = 0  # of all starts

    # Published solvers, each on the uniform grid with these shifts.
    solvers: tuple[str, ...] = ("Euler", "DPM++ 2M", "DPM++ 3M exact", "UniPC2", "AB2", "AB3")
    shifts: tuple[float, ...] = (1.0, 0.7, 0.5, 1.5, 2.0, 3.0, 6.0)
    most_starts: int = 64  # more are not drawn, whatever the budget
    tune: bool = True  # whether tables are tuned, where the budget allows it

    # By the names in their rows; () is all of them.
    questions: tuple[str, ...] = unrecorded(())
    sizes: dict | None = unrecorded(None)  # what the budget affords; found by the run itself
    plans: str = unrecorded("")  # the folder of plan files; WORKDIR/plans by default


def get_config() -> Config:
    """The questions about the digits network."""
    return Config()
