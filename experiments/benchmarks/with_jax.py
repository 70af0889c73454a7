"""The contenders in JAX, and the float64 reference: functions from a `Case` to (call, memory).

`call()` starts from the noise and returns x (batch, H, W, C), which may still be computed.
`memory()` is the device's peak in bytes, or None where it is the process's own memory.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from experiments.benchmarks import export as exported
from experiments.benchmarks.case import NULL_LABEL, PAIRS, REPEATS, Case
from experiments.lab.timing import clock
from flowjax import Linear, Plan, grids, guidance, models, plans
from flowjax.models.card import CLOCKS_TOWARDS_DATA
from flowjax.parallel.analysis import latency
from flowjax.types import PyTree

# The columns of a plan that a deterministic solver without state of its own needs.
COLUMNS = ("label_time", "p", "q", "a", "b", "c", "d")
# The images of the largest call: so many noises are written.
MOST = 64

Built = tuple[Callable[[], jax.Array], Callable[[], int | None]]  # (call, memory)


def configuration(case: Case) -> models.DiTConfig:
    """The `DiTConfig` of a case: DiT's own with diffusers' frequencies."""
    return models.DiTConfig(
        (case.size, case.size),
        channels=4,
        patch=2,
        width=case.width,
        depth=case.depth,
        heads=case.heads,
        classes=NULL_LABEL,
        out_channels=8,
        frequency_shift=1,
        dtype=case.dtype if case.dtype == "bfloat16" else None,
    )


@functools.lru_cache(maxsize=1)
def weights(config: models.DiTConfig, dtype: str) -> PyTree:
    """Random parameters, the same in every process; none is zero, so every part of it acts."""

    def make(key):
        leaves, tree = jax.tree.flatten(models.network(config).init(key))
        keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
        # DiT starts its last projections at zero; this moves them away from it.
        moved = [
            leaf + 0.02 * jax.random.normal(k, leaf.shape, leaf.dtype)
            for leaf, k in zip(leaves, keys, strict=True)
        ]
        return jax.tree.unflatten(tree, [leaf.astype(dtype) for leaf in moved])

    with jax.enable_x64(False):  # the reference must have the others' weights
        return jax.jit(make)(jax.random.key(0))


def network_of(case: Case) -> tuple[models.Card, PyTree]:
    """The network of a case: its card and its parameters."""
    if case.model:
        loaded = models.load(case.model)
        return loaded.card, loaded.params
    config = configuration(case)
    # The parameters depend on no size of the latents, so that all sizes share one set.
    dtype = "float32" if case.dtype == "float64" else case.dtype
    params = weights(dataclasses.replace(config, size=(32, 32)), dtype)
    return models.Card("DiT", config), params


def plan_of(case: Case) -> Plan:
    """The plan of a case: that of its file, or DPM-Solver++ 2M on the uniform grid."""
    if case.plan:
        return plans.load(case.plan)
    return plans.dpm_solver_pp(Linear(), grids.uniform(case.steps), 2)


def columns(card: models.Card, plan: Plan) -> dict[str, np.ndarray]:
    """The plan's columns for a loop that calls the network itself, without the card.

    In the place of `label_time` stands `clock`, the number that the network receives, and `q` has
    the sign of the network's velocity: m = p x + q output.
    """
    found = {name: np.asarray(getattr(plan, name)) for name in COLUMNS}
    sign = -1 if card.clock in CLOCKS_TOWARDS_DATA else 1
    return found | {"clock": card.clock_at(found.pop("label_time")), "q": sign * found["q"]}


# -- the contenders


class _Setup(NamedTuple):
    """What a case is called with."""

    card: models.Card
    params: PyTree
    labels: jax.Array
    noise: jax.Array
    plan: Plan


def _setup(case: Case) -> _Setup:
    card, params = network_of(case)
    noise, labels = case.noise_and_labels()
    dtype = jnp.float64 if case.dtype == "float64" else jnp.float32
    return _Setup(
        card,
        params,
        jnp.asarray(labels),
        jnp.asarray(noise, dtype),
        plan_of(case),
    )


def build_scan(case: Case) -> Built:
    """One jitted `flowjax.sample`, as the README says to use it."""
    card, *arguments = _setup(case)

    @jax.jit
    def run(params, labels, noise, plan):
        def network(x, t, label):
            return card.velocity(params, x, t, label)

        if case.guidance == 1:
            # One evaluation a row: there is no null branch.
            return flowjax.sample(lambda x, t: network(x, t, labels), noise, plan).x
        null = jnp.asarray(card.null_label)
        model = guidance.classifier_free(network, labels, null, case.guidance)
        return flowjax.sample(model, noise, plan).x

    program = _compiled(case, run, *arguments)
    return lambda: program(*arguments), functools.partial(_needs, program)


def build_loop(case: Case) -> Built:
    """What one would write first: a jitted step of the solver, called in a Python loop."""
    card, params, labels, noise, plan = _setup(case)
    both = jnp.concatenate([labels, jnp.full_like(labels, card.null_label)])  # (2 B,)
    rows = [
        {name: jnp.asarray(getattr(plan, name)[i], noise.dtype) for name in COLUMNS}
        for i in range(plan.rows)
    ]

    def combined(factors, history):
        return sum(factors[j] * past for j, past in enumerate(history))

    @jax.jit
    def step(params, both, x, base, history, row):
        # Both branches of guidance in one batch.
        out = card.velocity(params, jnp.concatenate([x, x]), row["label_time"], both)
        conditional, null = jnp.split(out, 2)
        velocity = null + case.guidance * (conditional - null)
        # The plan's row: m, base', x'.
        history = (row["p"] * x + row["q"] * velocity, *history[:-1])
        base = row["a"] * base + combined(row["b"], history)
        return row["c"] * base + combined(row["d"], history), base, history

    nothing = (jnp.zeros_like(noise),) * len(plan.b[0])
    program = _compiled(case, step, params, both, noise, noise, nothing, rows[0])

    def call():
        x, base, history = noise, noise, nothing
        for row in rows:
            x, base, history = program(params, both, x, base, history, row)
        return x

    return call, functools.partial(_needs, program)


def _compiled(case: Case, function: Callable, *arguments: PyTree) -> jax.stages.Compiled:
    """The program; float32 is float32 on a GPU too, as in PyTorch, and not TF32."""
    with jax.default_matmul_precision("default" if case.dtype == "bfloat16" else "highest"):
        return function.lower(*arguments).compile()


def _needs(program: jax.stages.Compiled) -> int | None:
    """Bytes that a program holds on a GPU: arguments, outputs, intermediates."""
    if jax.default_backend() != "gpu":
        return None
    sizes = program.memory_analysis()
    return sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes


# -- the reference


def prepare(case: Case, export: bool) -> None:
    """Write what the contenders share: the inputs with the reference's result, and the weights.

    Args:
      case: the reference's, with the largest batch that is to be compared.
      export: whether to write the weights.
    """
    folder = pathlib.Path(case.folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(case.size)
    card, _ = network_of(case)
    shared = columns(card, plan_of(case))
    shape = (MOST, case.size, case.size, 4)
    shared["noise"] = rng.standard_normal(shape, dtype=np.float32)
    shared["labels"] = rng.integers(0, NULL_LABEL, MOST).astype(np.int32)
    # Twice: the reference reads its noise from the file to which its result is added.
    np.savez(case.inputs, **shared)
    call, _ = build_scan(case)
    np.savez(case.inputs, x=np.asarray(call()), **shared)
    if export:
        exported.write(folder, weights(card.config, "float32"), card.config)


def operations(case: Case) -> float:
    """Operations of the matrix products of one call of a case with random parameters."""
    network = configuration(case)
    evaluations = case.steps * case.batch * (1 if case.guidance == 1 else 2)
    return evaluations * latency.work(network).operations(network.tokens)


def matmul_peak(rows: int, width: int, hidden: int, dtype: str) -> float:
    """Operations a second of matrix products (rows, width) x (width, hidden) and back."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (rows, width), (width, hidden), (hidden, width)
    # Values keep their size from product to product.
    arrays = [
        (jax.random.normal(key, shape) * scale).astype(dtype)
        for key, shape, scale in zip(keys, shapes, (1, width**-0.5, hidden**-0.5), strict=True)
    ]

    @jax.jit
    def chain(x, up, down):
        # Each product needs the last one's result, so that none can be left out.
        def body(_, x):
            for kernel in (up, down):
                x = jnp.matmul(x, kernel, preferred_element_type=jnp.float32).astype(x.dtype)
            return x

        return jax.lax.fori_loop(0, PAIRS, body, x)

    with jax.default_matmul_precision("default" if dtype == "bfloat16" else "highest"):
        clock(lambda: chain(*arrays))  # compiles
        seconds = min(clock(lambda: chain(*arrays)) for _ in range(REPEATS))
    return 4 * PAIRS * rows * width * hidden / seconds


BUILD = {"flowjax": build_scan, "JAX loop": build_loop}
wait = jax.block_until_ready
