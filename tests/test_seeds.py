"""Seeds of 64 bits: those below 2**32 as ever, all others with numbers of their own."""

import itertools

import jax
import numpy as np
import pytest

import flowjax
from flowjax import data, seeds

LARGE = [2**32, 2**32 + 5, 2**33, 2**63, 2**64 - 1]


def words(seed):
    """The two words of a key."""
    return tuple(np.asarray(jax.random.key_data(seeds.key(seed))).tolist())


@pytest.mark.parametrize("x64", [False, True])
def test_a_seed_below_two_to_the_32_has_the_key_of_jax(x64):
    with jax.enable_x64(x64):
        for seed in (0, 5, 2**31 - 1, 2**31, 2**32 - 1):
            found, wanted = seeds.key(seed), jax.random.key(seed)
            assert found.dtype == wanted.dtype
            assert words(seed) == tuple(np.asarray(jax.random.key_data(wanted)).tolist())
            assert float(jax.random.normal(found)) == float(jax.random.normal(wanted))


@pytest.mark.parametrize("x64", [False, True])
def test_every_seed_of_64_bits_has_a_key_of_its_own(x64):
    with jax.enable_x64(x64):
        every = [words(seed) for seed in (0, 1, 5, 2**32 - 1, *LARGE)]
    assert len(set(every)) == len(every)
    # The two words of the key are those of the seed, so no two seeds can share one.
    assert every[-1] == (2**32 - 1, 2**32 - 1) and every[-4] == (1, 5)


@pytest.mark.parametrize("seed", [-1, 2**64, 10**24, 1.0, True, "0", None])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed=.*; wanted a whole number from 0 to"):
        seeds.key(seed)
    held = data.Data("toy", np.zeros((2, 1, 1, 1)), np.zeros(2, np.int32), (0,))
    with pytest.raises(ValueError, match="data.Batches: seed="):
        data.Batches(held, 2, seed)


@pytest.mark.parametrize("ids", [[-1, 0], [2**32]])
def test_numbers_of_samples_that_would_share_noise_are_refused(ids):
    with pytest.raises(ValueError, match="wanted numbers from 0 to 2.*32 - 1"):
        flowjax.draw_noise(seeds.key(0), np.array(ids), (2,))
    assert flowjax.draw_noise(seeds.key(0), np.array([0, 2**32 - 1]), (2,)).shape == (2, 2)


def test_a_generator_below_two_to_the_32_is_that_of_numpy():
    for seed, number in itertools.product((0, 7, 2**32 - 1), (0, 3)):
        wanted = np.random.default_rng((1, seed, number)).standard_normal(4)
        assert np.array_equal(seeds.generator(1, seed, number).standard_normal(4), wanted)


def test_generators_of_large_seeds_are_those_of_no_other_seed_and_number():
    pairs = itertools.product((0, 1, 5, *LARGE), range(3))
    drawn = [seeds.generator(0, seed, number).standard_normal(2) for seed, number in pairs]
    assert len(np.unique(drawn, axis=0)) == len(drawn)
