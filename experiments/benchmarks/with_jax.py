"""The contenders in JAX, and the reference that all are held to. Each `build` maps a `Case` to (call, memory).

`call()` starts from the noise and returns x (batch, H, W, C), which may still be computed. `memory()` is the device's
peak in bytes, or None where it is the process's own memory.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from experiments.benchmarks.case import NULL_LABEL
from experiments.benchmarks.export import state_dict
from flowjax import Linear, grids, guidance, models, plans

COLUMNS = ("label_time", "p", "q", "a", "b", "c", "d")


def configuration(case):
    """The `DiTConfig` of a case: that of DiT's table with diffusers' frequencies."""
    return models.DiTConfig(
        (case.size, case.size), channels=4, patch=2, width=case.width, depth=case.depth, heads=case.heads,
        classes=NULL_LABEL, out_channels=8, frequency_shift=1, dtype=case.dtype if case.dtype == "bfloat16" else None,
    )  # fmt: skip


@functools.lru_cache(maxsize=1)
def weights(config, dtype):
    """Random parameters, the same in every process; none is zero, so every part of the network acts."""

    def make(key):
        leaves, tree = jax.tree.flatten(models.network(config).init(key))
        keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
        moved = [
            a + 0.02 * jax.random.normal(k, a.shape, a.dtype)
            for a, k in zip(leaves, keys, strict=True)
        ]
        return jax.tree.unflatten(tree, [a.astype(dtype) for a in moved])

    with jax.enable_x64(False):  # the reference must have the others' weights
        return jax.jit(make)(jax.random.key(0))


def fused_attention(q, k, v, layer=None, carry=None):
    """Attention by cuDNN's fused kernel, which never stores the scores: for half precision on an NVIDIA GPU."""
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn"), carry


def attention(case):
    """cuDNN's kernel where it applies (half precision, head width a multiple of 8 up to 128), else the plain form."""
    width = case.width // case.heads
    fits = case.dtype == "bfloat16" and width % 8 == 0 and width <= 128
    return fused_attention if fits and jax.default_backend() == "gpu" else models.softmax_attention


def _setup(case):
    """(apply with this attention, parameters, labels, noise, plan)."""
    config = configuration(case)
    params = weights(
        dataclasses.replace(config, size=(32, 32)),
        "float32" if case.dtype == "float64" else case.dtype,
    )
    apply = functools.partial(models.Card("DiT", config).velocity, attention=attention(case))
    noise, labels = case.noise_and_labels()
    plan = plans.dpm_solver_pp(Linear(), grids.uniform(case.steps), 2)
    dtype = jnp.float64 if case.dtype == "float64" else jnp.float32
    return apply, params, jnp.asarray(labels), jnp.asarray(noise, dtype), plan


def build_scan(case):
    """flowjax as its README says to use it: one jitted `flowjax.sample`."""
    apply, *arguments = _setup(case)

    @jax.jit
    def run(params, labels, noise, plan):
        model = guidance.classifier_free(
            lambda x, t, label: apply(params, x, t, label),
            labels,
            jnp.asarray(NULL_LABEL),
            case.guidance,
        )
        return flowjax.sample(model, noise, plan).x

    program = _compiled(case, run, *arguments)
    return lambda: program(*arguments), functools.partial(_needs, program)


def build_loop(case):
    """What one would write first: a jitted step of network, guidance and update, called in a Python loop."""
    apply, params, labels, noise, plan = _setup(case)
    both = jnp.concatenate([labels, jnp.full_like(labels, NULL_LABEL)])
    rows = [
        {name: jnp.asarray(getattr(plan, name)[i], noise.dtype) for name in COLUMNS}
        for i in range(plan.rows)
    ]

    @jax.jit
    def step(params, both, x, base, history, row):
        conditional, null = jnp.split(
            apply(params, jnp.concatenate([x, x]), row["label_time"], both), 2
        )
        velocity = null + case.guidance * (conditional - null)
        history = (row["p"] * x + row["q"] * velocity, *history[:-1])
        base = row["a"] * base + sum(row["b"][j] * m for j, m in enumerate(history))
        return row["c"] * base + sum(row["d"][j] * m for j, m in enumerate(history)), base, history

    start = (noise, noise, (jnp.zeros_like(noise),) * len(plan.b[0]), rows[0])
    program = _compiled(case, step, params, both, *start)

    def call():
        x, base, history, _ = start
        for row in rows:
            x, base, history = program(params, both, x, base, history, row)
        return x

    return call, functools.partial(_needs, program)


def _compiled(case, function, *arguments):
    """The program; float32 is float32 on a GPU too, as in PyTorch, and not TF32."""
    with jax.default_matmul_precision("default" if case.dtype == "bfloat16" else "highest"):
        return function.lower(*arguments).compile()


def _needs(program):
    """Bytes that a program holds on a GPU: arguments, outputs, intermediates."""
    if jax.default_backend() != "gpu":
        return None
    sizes = program.memory_analysis()
    return sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes


def prepare(case, export):
    """Write what the contenders share: the inputs with the reference's result, and the weights where `export` is true."""
    folder = pathlib.Path(case.folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(case.size)
    plan = plans.dpm_solver_pp(Linear(), grids.uniform(case.steps), 2)
    shared = {name: np.asarray(getattr(plan, name)) for name in COLUMNS}
    most = 64  # images of the largest call
    shared["noise"] = rng.standard_normal((most, case.size, case.size, 4), dtype=np.float32)
    shared["labels"] = rng.integers(0, NULL_LABEL, most).astype(np.int32)
    np.savez(case.inputs, **shared)
    np.savez(case.inputs, x=np.asarray(build_scan(case)[0]()), **shared)
    if export:
        from safetensors.numpy import save_file

        config = configuration(case)
        save_file(state_dict(weights(config, "float32"), config), folder / "weights.safetensors")


def matmul_peak(n=8192, repeats=8):
    """Operations a second of bfloat16 matrix products n x n, the best of a few: what the card can really do."""
    from experiments.lab.timing import clock

    key = jax.random.key(0)
    a, b = (jax.random.normal(k, (n, n), jnp.bfloat16) for k in jax.random.split(key))

    @jax.jit
    def chain(a, b):
        body = lambda _, x: jnp.matmul(x, b, preferred_element_type=jnp.float32).astype(x.dtype)
        return jax.lax.fori_loop(0, 10, body, a)

    clock(lambda: chain(a, b))
    return 10 * 2 * n**3 / min(clock(lambda: chain(a, b)) for _ in range(repeats))


BUILD = {"flowjax": build_scan, "JAX loop": build_loop}
wait = jax.block_until_ready
