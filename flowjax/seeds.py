"""Seeds of 64 bits: one rule for every command and function that takes one.

`jax.random.key` of a Python integer takes the lowest 32 bits unless float64 is enabled, so 2**32
would silently draw the numbers of 0. Here every seed from 0 to 2**64 - 1 has a key of its own, and
a seed below 2**32 has the key that `jax.random.key` gives it.
"""

from typing import Any

import jax
import numpy as np

from flowjax.errors import check_whole

MOST = 2**64 - 1  # the largest seed
WORD = 2**32  # a seed is two words of 32 bits


def check_seed(name: str, seed: Any) -> None:
    """Check that `seed` is a whole number from 0 to 2**64 - 1.

    Args:
      name: the public function or command that the error speaks for.
      seed: what the caller gave.

    Raises:
      ValueError: it is something else.
    """
    check_whole(name, "seed", seed, 0, MOST)


def key(seed: int) -> jax.Array:
    """The JAX key of a seed: another one for each whole number from 0 to 2**64 - 1.

    Below 2**32 it is `jax.random.key(seed)`, bit for bit.

    Raises:
      ValueError: the seed is no such number.
    """
    check_seed("seeds.key", seed)
    # The upper word is dropped where integers have 32 bits.
    with jax.enable_x64(True):
        return jax.random.key(np.uint64(seed))


def generator(stream: int, seed: int, number: int) -> np.random.Generator:
    """numpy's generator of one of the streams of random numbers that belong to a seed.

    Args:
      stream: the number of the purpose.
      seed: from 0 to 2**64 - 1; below 2**32 this is `default_rng((stream, seed, number))`.
      number: of the step or of the epoch.
    """
    high, low = divmod(int(seed), WORD)
    # In the entropy itself a word more could not be told from the number that follows it.
    spawn_key = (high,) if high else ()
    return np.random.default_rng(
        np.random.SeedSequence((stream, low, int(number)), spawn_key=spawn_key)
    )
