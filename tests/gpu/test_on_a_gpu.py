"""What only a GPU can show; `make gpu` runs it, and everywhere else it is skipped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowjax
from flowjax import grids, models, plans
from flowjax.models.attention import has_fused_kernel, softmax_attention

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def gpu():
    """Skip without a GPU."""
    if jax.default_backend() != "gpu":
        pytest.skip("there is no GPU here; make gpu runs these tests on one")


def test_the_fused_kernel_gives_the_numbers_of_plain_attention():
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 256, 16, 72)), jnp.bfloat16) for _ in range(3))
    assert has_fused_kernel(q, k, v)
    fused = np.asarray(jax.jit(softmax_attention)(q, k, v)[0], np.float64)
    wide = [x.astype(jnp.float32) for x in (q, k, v)]
    with jax.default_matmul_precision("highest"):
        plain = np.asarray(jax.jit(softmax_attention)(*wide)[0], np.float64)
    # bfloat16 keeps eight bits.
    assert np.max(np.abs(fused - plain)) < 2e-2 * np.max(np.abs(plain))


@pytest.mark.parametrize("name", ["digits-smooth", "emoji-smooth"])
def test_a_gpu_samples_what_a_cpu_samples(name):
    model = models.load(name)
    sizes = model.card.config
    noise = flowjax.draw_noise(jax.random.key(0), np.arange(4), (*sizes.size, sizes.channels))
    label = np.arange(4)
    plan = plans.adams_bashforth(grids.uniform(10), 2)

    @jax.jit
    def run(params, noise, label):
        return flowjax.sample(lambda x, t: model.apply(params, x, t, label), noise, plan).x

    ends = []
    for device in (jax.devices("gpu")[0], jax.devices("cpu")[0]):
        placed = jax.device_put((model.params, np.float32(noise), label), device)
        with jax.default_matmul_precision("highest"):
            ends.append(np.asarray(run(*placed), np.float64))
    assert np.max(np.abs(ends[0] - ends[1])) < 1e-3 * np.max(np.abs(ends[1]))


def test_a_sampler_sends_nothing_to_the_host():
    sizes = models.preset("DiT-S/2", size=(32, 32), dtype="bfloat16")
    card = models.Card("untrained", sizes)
    params = models.network(sizes).shapes()
    plan = plans.dpm_solver_pp(flowjax.Linear(), grids.uniform(10), 2)

    def run(params, x, label):
        return flowjax.sample(lambda x, t: card.velocity(params, x, t, label), x, plan).x

    x = jax.ShapeDtypeStruct((8, 32, 32, 4), jnp.float32)
    label = jax.ShapeDtypeStruct((8,), jnp.int32)
    text = jax.jit(run).lower(params, x, label).compile().as_text()
    for transfer in ("infeed", "outfeed", "xla_python_gpu_callback", "xla_ffi_python"):
        assert transfer not in text
    assert "fmha" in text
