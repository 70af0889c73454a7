r"""Draw emoji, 32 x 32, with the model that comes with flowjax.

    python -m experiments.sample --config=configs/sample_emoji.py
    python -m experiments.sample --config=configs/sample_emoji.py --config.labels=flags \
        --config.guidance=3

Labels: the groups of Unicode, by name or number. 0 activities, 1 animals & nature, 2 flags, 3 food
& drink, 4 objects, 5 people & body, 6 smileys & emotion, 7 symbols, 8 travel & places.

Expect: runs/sample_emoji/samples.png, a row of eight for each group. The model is small: colours
and shapes are better than details.
"""

from configs.sample import Config


def get_config() -> Config:
    """Nine rows of eight."""
    return Config(model="emoji", labels="0, 1, 2, 3, 4, 5, 6, 7, 8", batch=36, guidance=2.0)
