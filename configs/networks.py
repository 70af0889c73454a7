"""Networks that differ in one thing: does a finding about solvers or staleness depend on it?

    python -m experiments.networks --config=configs/networks.py --workdir=results/networks
    python -m experiments.networks --config=configs/networks.py:quick --workdir=runs/networks-quick

The findings on networks rest on one network for each setting. This command trains the network of
the digits again: with other seeds, clocks, sizes, couplings and attention, and asks each the same
questions. All networks are trained here with one version of the code; only `digits-ot` and
`digits-reflow`, beside which their twins stand, are those that come with flowjax.

A network takes 20 minutes of training on two busy cores and about ten minutes of measurements, so
the full run is made for a GPU, where a training takes half a minute to a minute.
`--config.networks=smooth-seed0,smooth-seed1` takes some of the networks.
The quick run takes about a minute and only shows that the command works. A run that was interrupted
goes on from its rows, and an interrupted training from its last checkpoint.

Expect, from the pair of networks that was measured before: with the clock 1 - t Adams-Bashforth of
order 3 gains more than half an order over 1000 t with every seed, and 10 t is as smooth as 1 - t. A
larger network does not degrade less by stale attention: a deeper one forwards more errors.
"""

import dataclasses

from configs.common import shrink
from flowjax.records import unrecorded


@dataclasses.dataclass
class Config:
    """Which networks are trained, and the sizes of the measurements."""

    # Names of `experiments.networks.catalogue.NETWORKS`, in the order of training.
    networks: tuple[str, ...] = unrecorded(
        (
            "fast-seed0",
            "smooth-seed0",
            "fast-seed1",
            "smooth-seed1",
            "fast-seed2",
            "smooth-seed2",
            "fast-tenth",
            "fast-hundredth",
            "digits-ot",
            "digits-reflow",
            "smooth-ot",
            "smooth-reflow",
            "smooth-width48",
            "smooth-width192",
            "smooth-depth2",
            "smooth-depth3",
            "smooth-depth4",
            "smooth-depth12",
            "fast-sana",
            "smooth-sana",
            "fast-long",
            "smooth-long",
        )
    )
    # What is measured of each, by the names in their rows; () is all of them.
    questions: tuple[str, ...] = unrecorded(
        ("training", "order", "roughness", "staleness", "growth", "quality")
    )
    # The folder of the trained networks; WORKDIR/networks by default.
    folder: str = unrecorded("")

    # Training, where a network does not say otherwise (configs/train_digits.py).
    width: int = 96  # numbers a token
    depth: int = 6  # layers
    heads: int = 8  # of attention
    batch: int = 64  # images a step
    steps: int = 1200  # of the optimizer
    warmup: int = 50  # steps in which the learning rate grows
    pool: int = 16  # batches that coupling "ot" pairs together
    log_every: int = 20  # steps between rows
    save_every: int = 200  # steps between checkpoints

    # Errors of solvers: starts, evaluations, and steps of the converged solution. The starts are
    # those of staleness too. Orders are read between the two largest numbers of evaluations.
    network_starts: int = 24
    nfe: tuple[int, ...] = (5, 10, 20, 40)
    network_steps: int = 1024

    # Staleness: numbers of devices, and steps of DPM-Solver++ 2M of which the first is synchronous.
    devices: tuple[int, ...] = (4, 8)
    stale_steps: int = 20

    # Labels of samples: their number, the evaluations of a sample, and the scale of guidance.
    samples: int = 256
    sample_steps: int = 20
    guidance: float = 1.5


QUICK = {
    "networks": ("fast-seed0", "smooth-seed0"),
    "questions": ("training", "order", "roughness", "staleness", "quality"),
    "width": 16,
    "depth": 2,
    "heads": 2,
    "batch": 16,
    "steps": 8,
    "warmup": 2,
    "pool": 2,
    "log_every": 2,
    "save_every": 4,
    "network_starts": 4,
    "nfe": (4, 8),
    "network_steps": 16,
    "devices": (4,),
    "stale_steps": 8,
    "samples": 32,
    "sample_steps": 4,
}


def get_config(arg: str = "") -> Config:
    """The configuration of the full run; `arg` "quick" takes two tiny networks."""
    return shrink(Config(), arg, quick=QUICK)
