"""Timings of the samplers on the exact field of the digits: first call and steady time.

The scan over a plan stands beside a bare scan and beside Python loops, one compilation serves many
plans, and other libraries solve the same field where they are installed. Contenders take turns, and
ratios are reported.
"""

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from experiments.benchmarks.adaptive import (
    FIELDS,
    adaptive,
    converged,
    diffrax_evaluations,
    diffrax_solution,
    relative_error,
)
from experiments.cli.run import main
from experiments.lab.timing import interleaved
from flowjax import Linear, Plan, fields, grids, plans, records
from flowjax.errors import check_choice
from flowjax.types import PyTree

if TYPE_CHECKING:
    from configs.bench import Config

# The contenders to which the seconds of `overhead` and of `ablation` are relative.
BARE = "bare scan of the evaluations"
LOOP = "loop over the plans, one program"
BANDWIDTH = 0.1
# The keys of a row that `table` prints in columns of their own, or not at all.
COLUMNS = ("part", "contender", "config", "environment", "first", "steady")


def setup(config: "Config") -> tuple[fields.DataSet, jax.Array]:
    """(field on the device, noise (B, 8, 8, 1)) of the digits."""
    field = jax.device_put(fields.digits(Linear(), bandwidth=BANDWIDTH))
    noise = flowjax.draw_noise(jax.random.key(0), np.arange(config.batch), (8, 8, 1))
    return field, noise.astype(jnp.float32)


# -- the scan over a plan


def _sampler() -> Callable[[Any, jax.Array, Plan], jax.Array]:
    """A new jitted function (field, noise, plan) -> endpoints, so that its first call compiles."""

    @jax.jit
    def sampled(field, noise, plan):
        return flowjax.sample(field.velocity, noise, plan).x

    return sampled


@jax.jit
def _bare_scan(field: Any, noise: jax.Array, times: jax.Array) -> jax.Array:
    """Euler's steps of equal length: as many evaluations as `times` (N,), and nothing else."""

    def body(x, t):
        return x - field.velocity(x, t) / len(times), None

    return jax.lax.scan(body, noise, times)[0]


@jax.jit
def _one_row(
    field: Any, x: jax.Array, history: tuple[jax.Array, ...], row: Plan
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """One row of a multistep plan, (state, history) -> the next ones."""
    prediction = row.p * x + row.q * field.velocity(x, row.label_time)
    history = (prediction, *history[:-1])
    return row.a * x + sum(row.b[j] * past for j, past in enumerate(history)), history


def _python_loop(field: Any, noise: jax.Array, rows: list[Plan]) -> jax.Array:
    """The same plan by a Python loop over its rows, one dispatch each."""
    x = noise
    history = (jnp.zeros_like(noise),) * 4
    for row in rows:
        x, history = _one_row(field, x, history, row)
    return x


def overhead(config: "Config") -> list[dict]:
    """The scan over a plan, a bare scan of as many evaluations, a Python loop of jitted steps."""
    field, noise = setup(config)
    # All three evaluate the field as often.
    # On the device, as the other arguments are: 14 columns from the host take 0.1 ms a call.
    plan = jax.device_put(plans.dpm_solver_pp(Linear(), grids.uniform(config.steps), 3))
    times = jnp.asarray(plan.t, noise.dtype)
    rows = [
        jax.tree.map(lambda column, i=i: jnp.asarray(column[i], noise.dtype), plan)
        for i in range(plan.rows)
    ]
    sampled = _sampler()
    found = interleaved(
        {
            BARE: lambda: _bare_scan(field, noise, times),
            "flowjax.sample, DPM++ 3M": lambda: sampled(field, noise, plan),
            "Python loop of jitted steps": lambda: _python_loop(field, noise, rows),
        },
        config.repeats,
        config.processor_seconds,
    )
    return _relative_to(BARE, found, nfe=config.steps)


def _relative_to(base: str, found: dict[str, tuple[float, float]], **values: Any) -> list[dict]:
    """Rows of {name: (first, steady)} with their ratio to the steady time of `base`."""
    return [
        {
            "contender": name,
            "first": first,
            "steady": steady,
            "ratio": steady / found[base][1],
            **values,
        }
        for name, (first, steady) in found.items()
    ]


# -- many plans


def ablation(config: "Config") -> list[dict]:
    """Compilations over plans of one length; programs of all plans against a loop over them."""
    field, noise = setup(config)
    # Plans of one length that differ in shift and in order.
    many = [
        plans.dpm_solver_pp(Linear(), grids.uniform(config.steps, shift=1 + i / 4), 1 + i % 3)
        for i in range(config.plans)
    ]
    stacked = jax.tree.map(lambda *columns: jnp.asarray(np.stack(columns)), *many)
    traces = 0

    @jax.jit
    def one(field, noise, plan):
        nonlocal traces
        # Python runs this line once a trace, so it counts the compilations.
        traces += 1
        return flowjax.sample(field.velocity, noise, plan).x

    @jax.jit
    def in_turn(field, noise, stacked):
        return jax.lax.map(lambda plan: flowjax.sample(field.velocity, noise, plan).x, stacked)

    @jax.jit
    def together(field, noise, stacked):
        return jax.vmap(lambda plan: flowjax.sample(field.velocity, noise, plan).x)(stacked)

    found = interleaved(
        {
            LOOP: lambda: [one(field, noise, plan) for plan in many],
            "all plans by jax.lax.map": lambda: in_turn(field, noise, stacked),
            "all plans vmapped": lambda: together(field, noise, stacked),
        },
        max(config.repeats // 5, 2),
        config.processor_seconds,
    )
    rows = _relative_to(LOOP, found, plans=config.plans)
    for row in rows:
        row["compilations"] = traces if row["contender"] == LOOP else 1
    return rows


# -- other libraries


def peers(config: "Config") -> list[dict]:
    """The same field solved by diffrax and torchdiffeq, in fixed and in adaptive steps."""
    if importlib.util.find_spec("diffrax") is None:
        return []
    field, noise = setup(config)
    exact = converged(field, noise, 150, start=0.999)
    ours = _flowjax_calls(config, field, noise)
    # {name: call -> (endpoints, steps of each sample)}
    theirs = _diffrax_calls(config, field, noise)
    # Only the endpoints are timed.
    endpoints = ours | {name: (lambda call=call: call()[0]) for name, call in theirs.items()}
    found = interleaved(endpoints, max(config.repeats // 3, 2), config.processor_seconds)
    result = []
    for name, (first, steady) in found.items():
        nfe = config.steps
        if name in theirs:
            nfe = float(diffrax_evaluations(np.mean(np.asarray(theirs[name]()[1]))))
        error = relative_error(np.asarray(endpoints[name]()), exact)
        result.append(_peer(name, first, steady, nfe, error, config.batch))
    return result + _torch(config, np.asarray(noise), exact)


def _peer(name: str, first: float, steady: float, nfe: float, error: float, batch: int) -> dict:
    """The row of one solver of `peers`."""
    return {
        "contender": name,
        "first": first,
        "steady": steady,
        "nfe": nfe,
        "error": error,
        "evaluations_per_second": nfe * batch / steady,
    }


def _flowjax_calls(config: "Config", field: Any, noise: jax.Array) -> dict[str, Callable]:
    """{name: call -> endpoints} of the solvers with fixed steps, ours and diffrax's Euler."""
    grid = grids.uniform(config.steps)
    own = {
        "flowjax Euler": plans.euler(grid),
        "flowjax AB3": plans.adams_bashforth(grid, 3),
        "flowjax DPM++ 2M": plans.dpm_solver_pp(Linear(), grid, 2),
    }
    sampled = _sampler()
    calls = {name: (lambda plan=plan: sampled(field, noise, plan)) for name, plan in own.items()}
    euler = _diffrax_euler(config.steps)
    return calls | {"diffrax Euler": lambda: euler(field, noise)}


def _diffrax_euler(steps: int) -> Callable[[Any, jax.Array], jax.Array]:
    """diffrax's Euler on the whole batch at once, compiled."""
    import diffrax

    @jax.jit
    def solve(field, noise):
        solution = diffrax.diffeqsolve(
            # The batch is one state here, since its steps are the same for all.
            diffrax.ODETerm(lambda t, x, field: field.velocity(x, t)),
            diffrax.Euler(),
            1.0,
            0.0,
            None,
            noise,
            args=field,
            stepsize_controller=diffrax.StepTo(ts=jnp.linspace(1.0, 0.0, steps + 1)),
        )
        return solution.ys[-1]

    return solve


def _diffrax_calls(config: "Config", field: Any, noise: jax.Array) -> dict[str, Callable]:
    """{name: call -> (endpoints, steps)} of diffrax's adaptive pairs; samples step on their own."""
    import diffrax

    def call_of(solver):
        def one(field, x):
            solution = diffrax_solution(solver, field, x, config.rtol)
            return solution.ys[-1], solution.stats["num_steps"]

        run = jax.jit(jax.vmap(one, (None, 0)))
        return lambda: run(field, noise)

    return {
        "diffrax Tsit5, PID": call_of(diffrax.Tsit5()),
        "diffrax Dopri5, PID": call_of(diffrax.Dopri5()),
    }


class _TorchDigits:
    """The velocity of the digits in PyTorch, as `fields.DataSet` has it; it counts calls."""

    def __init__(self):
        import torch

        samples = np.asarray(fields.digits(Linear(), bandwidth=BANDWIDTH).samples)
        self.softmax = torch.softmax
        self.data = torch.tensor(samples.reshape(-1, 64), dtype=torch.float32)  # (samples, 64)
        self.count = 0

    def __call__(self, t, x):
        """dx/dt of x (B, 64) at the time t, on the linear path: alpha = 1 - t, sigma = t."""
        self.count += 1
        alpha, sigma = 1 - t, t
        spread = alpha * BANDWIDTH**2
        variance = alpha * spread + sigma**2
        # The posterior mean over the data set. |x|^2 is common to all logits and drops out.
        products = alpha * (x @ self.data.T) - alpha**2 * (self.data**2).sum(1) / 2
        mean = self.softmax(products / variance, 1) @ self.data
        return -mean + (sigma - spread) / variance * (x - alpha * mean)


def _torch(config: "Config", noise: np.ndarray, exact: np.ndarray) -> list[dict]:
    """torchdiffeq's Euler and dopri5 on the same field in PyTorch, where both are installed."""
    if importlib.util.find_spec("torchdiffeq") is None or importlib.util.find_spec("torch") is None:
        return []
    import torch

    ends = torch.tensor([1.0, 0.0])
    tolerances = {"rtol": config.rtol, "atol": config.rtol}
    solvers = {
        "torchdiffeq euler": {"method": "euler", "t": torch.linspace(1, 0, config.steps + 1)},
        "torchdiffeq dopri5": {"method": "dopri5", "t": ends, **tolerances},
    }
    # The first call is a number of its own, so that one more is timed.
    calls = max(config.repeats // 3, 2) + 1
    result = []
    for name, options in solvers.items():
        seconds, count, x = _torch_times(noise, options, calls)
        error = relative_error(x, exact.reshape(len(x), -1))
        steady = statistics.median(seconds[1:])
        result.append(_peer(name, seconds[0], steady, count, error, config.batch))
    return result


def _torch_times(
    noise: np.ndarray, options: dict[str, PyTree], calls: int
) -> tuple[list[float], int, np.ndarray]:
    """(seconds of each call, evaluations of a call, endpoints (B, 64)) of `torchdiffeq.odeint`."""
    import torch
    import torchdiffeq

    velocity = _TorchDigits()
    start = torch.tensor(noise.reshape(len(noise), -1))
    seconds = []
    for _ in range(calls):
        velocity.count = 0
        began = time.perf_counter()
        with torch.no_grad():
            x = torchdiffeq.odeint(velocity, start, **options)[-1].numpy()
        seconds.append(time.perf_counter() - began)
    return seconds, velocity.count, x


# -- the command

PARTS = {"overhead": overhead, "ablation": ablation, "peers": peers, "adaptive": adaptive}


def check(config: "Config") -> None:
    """Refuse a field that there is not, before anything is timed."""
    for name in config.adaptive_fields:
        check_choice("experiments.benchmarks.samplers", "adaptive_fields", name, tuple(FIELDS))


def run(config: "Config", workdir: str | os.PathLike) -> list[dict]:
    """Time what `workdir` does not hold yet and return all rows."""
    check(config)
    kept = records.Records(workdir, config)
    for part, measure in PARTS.items():
        # A part is measured in one go, because its ratios belong together.
        if any(row["part"] == part for row in kept.rows):
            continue
        for row in measure(config):
            key = {"part": part, "contender": row.pop("contender")}
            kept.add(key, device=jax.devices()[0].device_kind, **row)
    return kept.rows


def table(workdir: str | os.PathLike) -> list:
    """Print the rows; nothing is drawn."""
    for row in records.read(workdir):
        rest = {name: value for name, value in row.items() if name not in COLUMNS}
        # Every part has numbers of its own.
        numbers = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in rest.items()
        )
        print(
            f"{row['part']:9} {row['contender']:34} first {row['first']:7.3f} s, "
            f"steady {row['steady']:8.4f} s, {numbers}"
        )
    return []


if __name__ == "__main__":
    main(run, table, check=check)
