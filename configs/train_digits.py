"""Train a transformer on the 8 x 8 digits.

    python -m experiments.train --config=configs/train_digits.py --workdir=runs/digits           (20 min on two busy cores)
    python -m experiments.train --config=configs/train_digits.py:quick --workdir=runs/digits-quick    (a test that it works)

The dial of curvature: `--config.coupling=ot` pairs noise and images at the least cost, and `--config.coupling=reflow
--config.teacher=runs/digits/model` goes on from a trained model along the pairs that it makes.

Expect: the loss falls from 1.7 to 0.37 (0.21 with `ot`, whose paths cross less), and the digits of `samples.png`, one class
a column, can be read by step 1,000. Stop it as you like: the same command goes on from the last checkpoint, and ends with
the same numbers.
"""

import dataclasses

from configs.common import shrink


@dataclasses.dataclass
class Config:
    """A training run.

    Attributes:
      data: "digits", "emoji", an .npz file or a folder of images (see `flowjax.data.load`).
      size: pixels to which the images of a folder are resized; 0 for data with a size of their own.
      flip: mirror images at random.
      patch, width, depth, heads: sizes of the transformer (see `flowjax.models.DiTConfig`).
      dtype: what matrices are multiplied in; parameters are float32.
      schedule: path, "linear" or "cosine".
      prediction: what the network predicts.
      clock: what it is told as the time: "1000 t", or "1 - t", in which it is smooth (see `flowjax.models.Card`).
      times, time_mean, time_std, time_shift: at which times (see `flowjax.train.draw_times`).
      coupling: of noise and data (see `flowjax.data`).
      pool: batches paired together by coupling "ot".
      teacher: of coupling "reflow": a model's folder or name; the run begins with its parameters.
      pairs, pair_steps, pair_guidance: how many pairs it makes, in how many Runge-Kutta steps, with which guidance.
      label_dropout: probability of the null label.
      batch, microbatches: images a step, and in how many parts their gradients are computed.
      steps: of the run.
      learning_rate, warmup, weight_decay, clip: of AdamW (see `flowjax.train.adamw`).
      ema: decay of the running mean of the parameters.
      seed: of parameters, order and noise.
      devices: how many; 0 for all.
      log_every, save_every, sample_every: steps between rows, checkpoints and pictures.
      keep: checkpoints kept.
      sample_rows, sample_steps, guidance: of the pictures: rows of one image a class, evaluations, scale.
    """

    data: str = "digits"
    size: int = 0
    flip: bool = False
    patch: int = 1
    width: int = 96
    depth: int = 6
    heads: int = 8
    dtype: str = "float32"
    schedule: str = "linear"
    prediction: str = "velocity"
    clock: str = "1000 t"
    times: str = "logit-normal"
    time_mean: float = 0.0
    time_std: float = 1.0
    time_shift: float = 3.0
    coupling: str = "independent"
    pool: int = 16
    teacher: str = ""
    pairs: int = 4096
    pair_steps: int = 10
    pair_guidance: float = 1.0
    label_dropout: float = 0.1
    batch: int = 64
    microbatches: int = 1
    steps: int = 1200
    learning_rate: float = 1e-3
    warmup: int = 50
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.999
    seed: int = 0
    devices: int = 0
    log_every: int = 20
    save_every: int = 200
    sample_every: int = 200
    keep: int = 3
    sample_rows: int = 8
    sample_steps: int = 20
    guidance: float = 1.5


QUICK = {
    "width": 16, "depth": 2, "heads": 2, "batch": 16, "steps": 8, "warmup": 2, "pool": 2, "pairs": 32, "pair_steps": 2,
    "log_every": 2, "save_every": 4, "sample_every": 4, "sample_rows": 1, "sample_steps": 2,
}  # fmt: skip


def get_config(arg=""):
    """`arg` "quick" is a test that the command works; its pictures show noise."""
    return shrink(Config(), arg, quick=QUICK)
