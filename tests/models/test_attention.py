"""Softmax attention: in pieces it is what it is at once, and a GPU gets its fused kernel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax.models import attention
from flowjax.models.attention import by_queries, has_fused_kernel, softmax_attention


def qkv(length, heads=3, width=8, batch=2, keys=None):
    rng = np.random.default_rng(0)
    lengths = (length, keys or length, keys or length)
    return [jnp.asarray(rng.normal(size=(batch, n, heads, width))) for n in lengths]


def in_pieces(most, q, k, v):
    return by_queries(lambda some: attention._plain(some, k, v), q, k.shape[1], most)


@pytest.mark.parametrize("queries", [1, 3, 7, 20])
def test_pieces_of_any_size_give_the_same_numbers(queries):
    q, k, v = qkv(20, keys=17)
    most = queries * 2 * 3 * 17  # scores of so many queries
    np.testing.assert_allclose(
        in_pieces(most, q, k, v), attention._plain(q, k, v), rtol=0, atol=1e-15
    )


def test_pieces_have_the_same_gradient():
    q, k, v = qkv(12)

    def size(function, *arrays):
        return jnp.sum(function(*arrays) ** 2)

    found = jax.grad(functools.partial(size, functools.partial(in_pieces, 500)), (0, 1, 2))(q, k, v)
    wanted = jax.grad(functools.partial(size, attention._plain), (0, 1, 2))(q, k, v)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


def test_the_memory_of_4096_tokens_is_linear_in_their_number():
    def temporary(length):
        q = jax.ShapeDtypeStruct((1, length, 8, 32), jnp.float32)
        program = jax.jit(lambda q, k, v: softmax_attention(q, k, v)[0])
        return program.lower(q, q, q).compile().memory_analysis().temp_size_in_bytes

    # All scores of 4096 tokens are 512 MiB.
    assert temporary(4096) < 160 * 2**20
    # Twice the tokens have four times as many scores.
    assert temporary(8192) < 2.2 * temporary(4096)


def test_small_attention_stays_one_product():
    q = jax.ShapeDtypeStruct((8, 256, 6, 64), jnp.float32)
    program = jax.jit(lambda q, k, v: softmax_attention(q, k, v)[0])
    assert "while" not in program.lower(q, q, q).as_text()


def test_a_gpu_in_half_precision_gets_one_call_of_cudnn(monkeypatch):
    """Heads 72 wide, as DiT-XL has."""
    library = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    # jax asks for the driver, which is not here.
    monkeypatch.setattr(library, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(library, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "_is_cuda", lambda: True)
    q = jax.ShapeDtypeStruct((2, 256, 16, 72), jnp.bfloat16)
    program = jax.jit(lambda q, k, v: softmax_attention(q, k, v)[0])
    allowed = jax.export.DisabledSafetyCheck.custom_call("__cudnn$fmhaSoftmax")
    exported = jax.export.export(program, platforms=["cuda"], disabled_checks=[allowed])(q, q, q)
    assert "__cudnn$fmhaSoftmax" in exported.mlir_module()
    assert exported.out_avals[0].shape == q.shape


def test_what_cudnn_has_no_kernel_for_stays_plain(monkeypatch):
    half = [x.astype(jnp.bfloat16) for x in qkv(4)]
    assert not has_fused_kernel(*half)  # on a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "_is_cuda", lambda: True)
    assert has_fused_kernel(*half)
    assert not has_fused_kernel(*qkv(4))  # in full precision
    assert not has_fused_kernel(*(x.astype(jnp.bfloat16) for x in qkv(4, width=9)))
    assert not has_fused_kernel(*(x.astype(jnp.bfloat16) for x in qkv(4, width=136)))
