"""Train a transformer on the 8 x 8 digits.

    python -m experiments.train --config=configs/train_digits.py --workdir=runs/digits
    python -m experiments.train --config=configs/train_digits.py:quick --workdir=runs/digits-quick

20 minutes on two busy cores; the second command only tests that it works.

Two couplings of noise and data make straighter paths. `--config.coupling=ot` pairs noise and images
at the least cost. `--config.coupling=reflow --config.teacher=runs/digits/model` goes on from a
trained model along the pairs that it makes.

Expect: the loss falls from 1.7 to 0.37 (0.21 with `ot`, whose paths cross less). The digits of
`samples.png`, one class a column, can be read from step 1,000 on. The run may be stopped at any
time: the same command goes on from the last checkpoint, and ends with the same numbers.
"""

import dataclasses

from configs.common import shrink


@dataclasses.dataclass
class Config:
    """A training run."""

    # The data.
    data: str = "digits"  # "digits", "emoji", an .npz file or a folder (see docs/training.md)
    size: int = 0  # pixels of the images of a folder; 0 for data with a size of their own
    flip: bool = False  # mirror images at random

    # The transformer (see `flowjax.models.DiTConfig` and `SanaConfig`).
    network: str = "dit"  # or "sana", whose attention is linear
    patch: int = 1  # side in pixels of the square that becomes a token; it divides the image
    width: int = 96  # numbers a token; a multiple of heads and of 4
    depth: int = 6  # layers
    heads: int = 8  # of attention
    dtype: str = "float32"  # of matrix products; parameters are float32

    # The path, and what the network sees and predicts (see `flowjax.models.Card`).
    schedule: str = "linear"  # or "cosine"
    prediction: str = "velocity"  # or "noise", "data", "v", "score"
    clock: str = "1000 t"  # or "1 - t", in which the network is smooth
    clock_scale: float = 1.0  # the factor of that number

    # The times of the loss (see `flowjax.train.draw_times`).
    times: str = "logit-normal"  # or "uniform", "shifted"
    time_mean: float = 0.0  # of logit-normal times
    time_std: float = 1.0  # of logit-normal times
    time_shift: float = 3.0  # of shifted times, towards noise

    # The coupling of noise and data (see `flowjax.data`).
    coupling: str = "independent"  # or "ot", "reflow"
    pool: int = 16  # batches that coupling "ot" pairs together
    # Coupling "reflow": a model's folder or name; the run begins with its parameters.
    teacher: str = ""
    pairs: int = 4096  # pairs of noise and image that the teacher makes
    pair_steps: int = 10  # steps of the Runge-Kutta method in which it makes them
    pair_guidance: float = 1.0  # scale of its guidance

    # The steps.
    label_dropout: float = 0.1  # probability of the null label
    batch: int = 64  # images a step
    microbatches: int = 1  # parts of a batch, whose gradients are computed one after the other
    steps: int = 1200  # of the optimizer
    seed: int = 0  # of parameters, order and noise
    devices: int = 0  # 0 for all there are

    # AdamW (see `flowjax.train.adamw`).
    learning_rate: float = 1e-3  # its largest value; it falls to 0 at the end of the run
    warmup: int = 50  # steps in which it grows, at the start
    weight_decay: float = 0.0
    clip: float = 1.0  # largest norm of a gradient
    ema: float = 0.999  # decay of the running mean of the parameters

    # What is written: steps between rows, checkpoints and pictures.
    log_every: int = 20  # steps between rows
    save_every: int = 200  # steps between checkpoints
    sample_every: int = 200  # steps between pictures
    keep: int = 3  # the newest checkpoints, which stay

    # The pictures.
    sample_rows: int = 8  # rows of one image a class
    sample_steps: int = 20  # evaluations
    guidance: float = 1.5  # scale of classifier-free guidance


QUICK = {
    # A small network, for a few steps,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "batch": 16,
    "steps": 8,
    "warmup": 2,
    # with few pairs,
    "pool": 2,
    "pairs": 32,
    "pair_steps": 2,
    # that writes each of its files.
    "log_every": 2,
    "save_every": 4,
    "sample_every": 4,
    "sample_rows": 1,
    "sample_steps": 2,
}


def get_config(arg: str = "") -> Config:
    """`arg` "quick" is a test that the command works; its pictures show noise."""
    return shrink(Config(), arg, quick=QUICK)
