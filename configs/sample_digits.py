r"""Draw handwritten digits, 8 x 8, with the model that comes with flowjax.

    python -m experiments.sample --config=configs/sample_digits.py
    python -m experiments.sample --config=configs/sample_digits.py --config.labels=3,8 \
        --workdir=runs/three-and-eight

Expect: runs/sample_digits/samples.png, a row of eight for each digit, after some seconds. Most of
them are spent on compiling.
"""

from configs.sample import Config


def get_config() -> Config:
    """Ten rows of eight."""
    return Config(model="digits", labels="0, 1, 2, 3, 4, 5, 6, 7, 8, 9", batch=80)
