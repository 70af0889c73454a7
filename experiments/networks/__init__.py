"""Networks that differ in one thing: what do findings on solvers and staleness depend on?

    python -m experiments.networks --config=configs/networks.py --workdir=results/networks

`catalogue` lists the networks. Each is trained by `experiments.train` in a folder of its own, and
each of these modules measures one row of it:

    training    the final loss
    order       errors of solvers to the network's own converged endpoints
    roughness   second differences of the velocity in time alone and in state alone
    staleness   distances of stale runs to the synchronous one
    growth      the push from which an error of copies grows from row to row
    quality     whether samples have the label that they were drawn for

The page compares the networks: `numbers` reads quantities from rows, `comparisons` has the rule by
which networks are held against each other, and `topics` what is expected of which networks.
"""

import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING

from experiments.cli.run import ask
from experiments.networks import growth, order, quality, roughness, staleness, training
from experiments.networks.page import findings, make_report

if TYPE_CHECKING:
    from configs.networks import Config

__all__ = ["QUESTIONS", "findings", "make_report", "run"]

QUESTIONS = (training, order, roughness, staleness, growth, quality)


def run(config: "Config", workdir: str | os.PathLike) -> list[dict]:
    """Train and measure what `workdir` does not hold yet, and return all rows."""
    # The rows do not depend on where the networks lie, so the folder is no recorded field.
    folder = config.folder or str(pathlib.Path(workdir) / "networks")
    return ask(dataclasses.replace(config, folder=folder), workdir, QUESTIONS)
