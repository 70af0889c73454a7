"""The certificate of the program for one GPU: claims on made programs, and a small real one."""

import dataclasses
import types

import pytest

from configs import certificate as configured
from experiments.benchmarks import certificate as command
from flowjax import models, records
from flowjax.models.attention import fused_attention
from flowjax.parallel.analysis import costs, kernels, overlap

SMALL = dataclasses.replace(configured.get_config("quick"), batch=2, steps=4)


def made(products, stops, temporary, texts):
    """A `Program` whose text the patched readers take as (products, stops)."""
    memory = types.SimpleNamespace(
        temp_size_in_bytes=temporary, argument_size_in_bytes=1, output_size_in_bytes=1
    )
    compiled = types.SimpleNamespace(
        as_text=lambda: (products, stops), memory_analysis=lambda: memory
    )
    sizes = command.network(SMALL, "DiT-XL/2 256")
    return command.Program(sizes, dict(zip("abc", texts, strict=True)), compiled, 1.0)


@pytest.fixture
def verdicts(monkeypatch):
    """(products, stops, temporary, texts) -> {claim: whether it holds}."""
    monkeypatch.setattr(kernels, "products", lambda text: text[0])
    monkeypatch.setattr(kernels, "stops", lambda text: text[1])

    def of(*args):
        return {row["claim"]: row["holds"] for row in command.certificate(SMALL, made(*args))}

    return of


BIG = 10**12
FUSED = kernels.Product(kernels.FUSED_ATTENTION, ("bf16", "bf16"), BIG, 4 * 2)
GOOD = kernels.Product("cuBLAS", ("bf16", "bf16"), BIG, 8)
WIDE = kernels.Product("cuBLAS", ("f32", "f32"), BIG, 8)
TINY = WIDE._replace(operations=1)


def test_a_good_program_has_all_claims(verdicts):
    found = verdicts([FUSED, GOOD, TINY], {}, 2**20, "xxx")
    assert found == dict.fromkeys(command.CLAIMS, True)


@pytest.mark.parametrize(
    ("claim", "args"),
    [
        ("attention", ([GOOD], {}, 2**20, "xxx")),
        ("products", ([FUSED, GOOD, WIDE], {}, 2**20, "xxx")),
        ("host", ([FUSED, GOOD], {"conditional": 4}, 2**20, "xxx")),
        ("memory", ([FUSED, GOOD], {}, 2**34, "xxx")),
        ("plans", ([FUSED, GOOD], {}, 2**20, "xxy")),
    ],
)
def test_each_claim_fails_alone(verdicts, claim, args):
    found = verdicts(*args)
    assert [name for name, holds in found.items() if not holds] == [claim]


def test_large_is_a_fraction_of_a_layer_as_the_latency_model_counts_it():
    """The small products by design are below it, and a tenth of the layer's products above."""
    sizes = models.preset("SANA-1.6B/1024")
    work = costs.work(sizes)
    layer = sizes.tokens * work.token + work.sample
    sums = 2 * sizes.tokens * sizes.width * (sizes.width // sizes.heads + 1)
    queries = 2 * sizes.tokens * sizes.width**2
    assert sums < SMALL.large * layer < queries


def test_plans_have_one_length():
    assert {make(7).rows for make in command.PLANS.values()} == {7}


def test_the_table_says_what_was_found(tmp_path):
    kept = records.Records(tmp_path, SMALL)
    held = {
        "attention": {"found": 0, "wanted": None, "holds": None},
        "products": {
            "found": 3,
            "others": [WIDE._asdict()],
            "share": 0.5,
            "holds": False,
        },
        "host": {"found": {}, "holds": True},
        "memory": {"found": 10**9, "wanted": 2 * 10**9, "holds": True},
    }
    for claim, row in held.items():
        kept.add({"program": "p", "claim": claim}, **row, seconds=3.0)
    text = command.markdown(kept.rows, "the command")
    assert "| none: linear attention | **no**: 3 large, 1 of them f32xf32; 50.00% of" in text
    assert "yes: no transfer, no open loop | yes: 1.00 of 2.00 GB |" in text
    assert text.rstrip().endswith("`the command`")


def test_without_its_compiler_a_sentence_and_no_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(overlap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"install the extra.*cuda13"):
        command.run(SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="DiT-XXL/2"):
        command.check(dataclasses.replace(SMALL, programs=("DiT-XXL/2 256",)))


def test_a_control_has_the_network_of_its_program():
    sizes = [command.network(SMALL, f"DiT-XL/2 512{end}") for end in ("", command.PLAIN)]
    assert sizes[0] == sizes[1] and sizes[0].size == (64, 64)


def test_the_fused_kernel_refuses_what_it_does_not_take():
    import jax.numpy as jnp

    q = jnp.zeros((1, 4, 2, 12), jnp.bfloat16)
    with pytest.raises(ValueError, match="a multiple of 8"):
        fused_attention(q, q, q)


@pytest.mark.slow
def test_two_layers_compiled_for_a_card_hold_all_claims(tmp_path):
    """A quarter of a minute; the compiler comes with an extra."""
    pytest.importorskip("jax_cuda13_plugin", reason="the compiler for GPU comes with cuda13")
    import jax

    with jax.enable_x64(False):
        rows = command.run(SMALL, tmp_path)
    assert {row["claim"]: row["holds"] for row in rows} == dict.fromkeys(command.CLAIMS, True)
    (attention,) = (row for row in rows if row["claim"] == "attention")
    assert attention["found"] == SMALL.steps * SMALL.layers
