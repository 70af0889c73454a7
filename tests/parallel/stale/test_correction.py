"""The correction by the receiver: on a mesh and emulated, against the formula query by query, and where it is exact.

That whole runs on a mesh are as emulated stands in tests.test_parallel_told and tests.test_pipe.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from flowjax.models.dit import softmax_attention
from flowjax.parallel.attention import corrected
from flowjax.parallel.emulation.field import emulate_field
from flowjax.parallel.emulation.network import exchange, mixed_attention
from tests.parallel.emulation.test_network import DATA, NOISE, PLAN, TOKENS

LENGTHS = (5, 3, 4)  # tokens of three devices


def attention_of_all(seed=0, parts=LENGTHS):
    """(q, k, v, what was told of k, of v; which tokens are together (L, L)): (2, L, 3, 4) each."""
    draw = np.random.default_rng(seed).standard_normal
    q, k, v, told_k, told_v = draw((5, 2, sum(parts), 3, 4))
    part = np.repeat(np.arange(len(parts)), parts)
    return q, k, v, told_k, told_v, part[:, None] == part


def one_by_one(q, k, v, told_k, told_v, share, parts=LENGTHS):
    """`corrected` on each device in turn, as a mesh calls it, joined."""
    out, first = [], 0
    for count in parts:
        own = slice(first, first + count)
        seen_k, seen_v = told_k.copy(), told_v.copy()
        seen_k[:, own], seen_v[:, own] = k[:, own], v[:, own]
        fresh = np.isin(np.arange(sum(parts)), np.arange(own.start, own.stop))
        missed = v[:, own] - told_v[:, own]
        out.append(
            corrected(q[:, own], jnp.stack([seen_k, seen_v]), k[:, own], missed, fresh, share)
        )
        first += count
    return np.concatenate(out, axis=1)


def emulated_attention(q, k, v, told_k, told_v, own, share):
    """The same by `mixed_attention`, of a network of one layer."""
    copy = told_k[None], told_v[None]
    attend = mixed_attention(copy, jnp.asarray(own)[None, None], own[None, None], share)
    return np.asarray(attend(*map(jnp.asarray, (q, k, v)), 0, tuple(map(jnp.zeros_like, copy)))[0])


def test_correction_is_the_formula_query_by_query():
    q, k, v, told_k, told_v, own = attention_of_all()
    share, wanted = 0.37, np.zeros_like(v)
    for b, i, head in np.ndindex(*q.shape[:3]):
        keys, values = (
            np.where(own[i][:, None], new[b, :, head], old[b, :, head])
            for new, old in ((k, told_k), (v, told_v))
        )
        weights = np.exp(keys @ q[b, i, head] / 2)
        weights /= weights.sum()
        missed = weights[own[i]] @ (v - told_v)[b, own[i], head] / weights[own[i]].sum()
        wanted[b, i, head] = weights @ values + share * weights[~own[i]].sum() * missed
    np.testing.assert_allclose(
        emulated_attention(q, k, v, told_k, told_v, own, share), wanted, rtol=0, atol=1e-13
    )
    np.testing.assert_allclose(
        one_by_one(q, k, v, told_k, told_v, share), wanted, rtol=0, atol=1e-13
    )


def test_correction_is_exact_where_all_values_missed_the_same():
    """One vector a head and sample, and the keys as told: a share of 1 gives what synchronous attention gives."""
    q, k, v, _, _, own = attention_of_all()
    told_v = v - np.random.default_rng(1).standard_normal((2, 1, 3, 4))
    exact = softmax_attention(*map(jnp.asarray, (q, k, v)))[0]
    for found in (
        emulated_attention(q, k, v, k, told_v, own, 1.0),
        one_by_one(q, k, v, k, told_v, 1.0),
    ):
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-13)
    assert np.abs(one_by_one(q, k, v, k, told_v, 0.5) - exact).max() > 0.1


def test_a_device_of_padding_alone_corrects_to_something_finite():
    q, k, v, *_ = attention_of_all()
    own, fresh = k[:, :2], np.zeros(12, bool)
    found = corrected(q[:, :2], jnp.stack([k, v]), own, own, fresh, 1.0, np.zeros(2, bool))
    np.testing.assert_allclose(
        found, softmax_attention(*map(jnp.asarray, (q[:, :2], k, v)))[0], rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("options", [{"correction": 0.5}, {"forecast": "tuned"}])
def test_a_field_has_no_values_to_correct(options):
    with pytest.raises(ValueError, match="make the exchange with correction=0"):
        emulate_field(DATA, NOISE, PLAN, exchange(PLAN, TOKENS, 2, **options))
    assert exchange(PLAN, TOKENS, 2, correction=0).rows.correction is None
