"""Train a transformer on 1906 Noto emoji, 32 x 32, by the nine groups of Unicode.

    python -m experiments.train --config=configs/train_emoji.py --workdir=runs/emoji             (86 min on two busy cores)
    python -m experiments.train --config=configs/train_emoji.py:quick --workdir=runs/emoji-quick      (a test that it works)

Not mirrored: clocks, flags and letters have a side.

Expect: a loss of 0.26 at step 275 and 0.135 at step 2,200; blotches at step 250, flags and the squares of symbols by 2,000,
faces last. The set is small, so a model trained for long remembers it: look at nearest neighbours before calling a sample new.
"""

import dataclasses

from configs.common import shrink
from configs.train_digits import QUICK
from configs.train_digits import Config as Digits


@dataclasses.dataclass
class Config(Digits):
    """As for the digits, with patches of 4 x 4."""

    data: str = "emoji"
    patch: int = 4
    width: int = 192
    steps: int = 3000
    warmup: int = 200
    log_every: int = 25
    save_every: int = 250
    sample_every: int = 250


def get_config(arg=""):
    """`arg` "quick" is a test that the command works; its pictures show noise."""
    return shrink(Config(), arg, quick=QUICK)
