"""Train a transformer on 1906 Noto emoji, 32 x 32, by the nine groups of Unicode.

    python -m experiments.train --config=configs/train_emoji.py --workdir=runs/emoji
    python -m experiments.train --config=configs/train_emoji.py:quick --workdir=runs/emoji-quick

86 minutes on two busy cores; the second command only tests that it works. Images are not mirrored:
clocks, flags and letters have a left and a right side.

Expect: a loss of 0.26 at step 275 and 0.135 at step 2,200; blotches at step 250, flags and the
squares of symbols by step 2,000, faces last. The set is small, so a model that is trained for long
remembers it: look at nearest neighbours before you call a sample new.
"""

import dataclasses

from configs.common import shrink
from configs.train_digits import QUICK
from configs.train_digits import Config as Digits


@dataclasses.dataclass
class Config(Digits):
    """As for the digits, with patches of 4 x 4 and a wider network."""

    # The data and the network.
    data: str = "emoji"
    patch: int = 4
    width: int = 192

    # More steps, and pictures and checkpoints less often.
    steps: int = 3000
    warmup: int = 200
    log_every: int = 25
    save_every: int = 250
    sample_every: int = 250


def get_config(arg: str = "") -> Config:
    """`arg` "quick" is a test that the command works; its pictures show noise."""
    return shrink(Config(), arg, quick=QUICK)
