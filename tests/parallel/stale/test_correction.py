"""The correction by the receiver, on a mesh and emulated: its formula, and where it is exact.

That runs on a mesh with a correction are as emulated is tested in `test_exchange` and
`pipeline.test_stage`.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from flowjax.models.dit import softmax_attention
from flowjax.parallel.attention import corrected
from flowjax.parallel.emulation.field import emulate_field
from flowjax.parallel.emulation.network import exchange, mixed_attention
from tests.parallel.cases import DATA, PLAN, TOKENS
from tests.parallel.cases import SQUARE_NOISE as NOISE

LENGTHS = (5, 3, 4)  # tokens of three devices


def attention_of_all(seed=0, parts=LENGTHS):
    """Queries, keys, values, copies of keys and of values, and which tokens are together.

    The arrays are (2, L, 3, 4) each, and the last one is (L, L) bool.
    """
    draw = np.random.default_rng(seed).standard_normal
    q, k, v, copy_k, copy_v = draw((5, 2, sum(parts), 3, 4))
    part = np.repeat(np.arange(len(parts)), parts)
    return q, k, v, copy_k, copy_v, part[:, None] == part


def one_by_one(q, k, v, copy_k, copy_v, fraction, parts=LENGTHS):
    """`corrected` on each device in turn, as a mesh calls it, joined."""
    out, first = [], 0
    for count in parts:
        own = slice(first, first + count)
        # Its own keys and values, and copies of those of the others.
        seen_k, seen_v = copy_k.copy(), copy_v.copy()
        seen_k[:, own], seen_v[:, own] = k[:, own], v[:, own]
        seen = jnp.stack([seen_k, seen_v])
        fresh = np.isin(np.arange(sum(parts)), np.arange(own.start, own.stop))
        missed = v[:, own] - copy_v[:, own]
        out.append(corrected(q[:, own], seen, k[:, own], missed, fresh, fraction))
        first += count
    return np.concatenate(out, axis=1)


def emulated_attention(q, k, v, copy_k, copy_v, own, fraction):
    """The same by `mixed_attention`, of a network of one layer."""
    copy = copy_k[None], copy_v[None]
    attend = mixed_attention(copy, jnp.asarray(own)[None, None], own[None, None], fraction)
    carry = tuple(map(jnp.zeros_like, copy))
    out, _ = attend(*map(jnp.asarray, (q, k, v)), 0, carry)
    return np.asarray(out)


def test_correction_is_the_formula_query_by_query():
    q, k, v, copy_k, copy_v, own = attention_of_all()
    fraction = 0.37
    wanted = np.zeros_like(v)
    for b, i, head in np.ndindex(*q.shape[:3]):
        keys, values = (
            np.where(own[i][:, None], new[b, :, head], old[b, :, head])
            for new, old in ((k, copy_k), (v, copy_v))
        )
        weights = np.exp(keys @ q[b, i, head] / 2)  # sqrt(d) = 2
        weights /= weights.sum()
        missed = weights[own[i]] @ (v - copy_v)[b, own[i], head] / weights[own[i]].sum()
        wanted[b, i, head] = weights @ values + fraction * weights[~own[i]].sum() * missed
    emulated = emulated_attention(q, k, v, copy_k, copy_v, own, fraction)
    on_devices = one_by_one(q, k, v, copy_k, copy_v, fraction)
    np.testing.assert_allclose(emulated, wanted, rtol=0, atol=1e-13)
    np.testing.assert_allclose(on_devices, wanted, rtol=0, atol=1e-13)


def test_correction_is_exact_where_all_values_missed_the_same():
    """With right copies of the keys, a fraction of 1 gives the output of synchronous attention."""
    q, k, v, _, _, own = attention_of_all()
    one_miss = np.random.default_rng(1).standard_normal((2, 1, 3, 4))  # for each sample and head
    copy_v = v - one_miss
    exact = softmax_attention(*map(jnp.asarray, (q, k, v)))[0]
    emulated = emulated_attention(q, k, v, k, copy_v, own, 1.0)
    np.testing.assert_allclose(emulated, exact, rtol=0, atol=1e-13)
    np.testing.assert_allclose(one_by_one(q, k, v, k, copy_v, 1.0), exact, rtol=0, atol=1e-13)
    assert np.abs(one_by_one(q, k, v, k, copy_v, 0.5) - exact).max() > 0.1


def test_a_device_of_padding_alone_corrects_to_something_finite():
    q, k, v, *_ = attention_of_all()
    # A device with two tokens of padding.
    own = k[:, :2]
    fresh = np.zeros(12, bool)
    none_valid = np.zeros(2, bool)
    found = corrected(q[:, :2], jnp.stack([k, v]), own, own, fresh, 1.0, none_valid)
    wanted = softmax_attention(*map(jnp.asarray, (q[:, :2], k, v)))[0]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("options", [{"correction": 0.5}, {"forecast": "tuned"}])
def test_a_field_has_no_values_to_correct(options):
    with pytest.raises(ValueError, match="make the exchange with correction=0"):
        emulate_field(DATA, NOISE, PLAN, exchange(PLAN, TOKENS, 2, **options))
    assert exchange(PLAN, TOKENS, 2, correction=0).rows.correction is None
