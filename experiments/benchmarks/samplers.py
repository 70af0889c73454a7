"""Timings: first call and steady time, the scan against a bare scan and against Python loops, one compilation for many
plans, and other libraries on the same field where they are installed. Contenders are interleaved; ratios are reported."""

import importlib.util
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from experiments.benchmarks.adaptive import adaptive
from experiments.cli.run import main
from experiments.lab.timing import interleaved
from flowjax import Linear, fields, grids, plans, records


def setup(config, dtype=jnp.float32):
    """(field on the device, noise) of the digits."""
    field = jax.device_put(fields.digits(Linear(), bandwidth=0.1))
    noise = flowjax.draw_noise(jax.random.key(0), np.arange(config.batch), (8, 8, 1)).astype(dtype)
    return field, noise


def overhead(config):
    """The scan over a plan, a bare scan of the same evaluations, and a Python loop of jitted steps."""
    field, noise = setup(config)
    plan = plans.dpm_solver_pp(Linear(), grids.uniform(config.steps), 3)
    times = jnp.asarray(plan.t, noise.dtype)

    @jax.jit
    def ours(field, noise, plan):
        return flowjax.sample(field.velocity, noise, plan).x

    @jax.jit
    def bare(field, noise, times):
        def body(x, t):
            return x - field.velocity(x, t) / config.steps, None

        return jax.lax.scan(body, noise, times)[0]

    @jax.jit
    def step(field, x, history, row):
        m = row.p * x + row.q * field.velocity(x, row.label_time)
        history = (m, *history[:-1])
        return row.a * x + sum(row.b[j] * h for j, h in enumerate(history)), history

    rows = [
        jax.tree.map(lambda c, i=i: jnp.asarray(c[i], noise.dtype), plan) for i in range(plan.rows)
    ]

    def loop():
        x, history = noise, (jnp.zeros_like(noise),) * 4
        for row in rows:
            x, history = step(field, x, history, row)
        return x

    found = interleaved(
        {
            "bare scan of the evaluations": lambda: bare(field, noise, times),
            "flowjax.sample, DPM++ 3M": lambda: ours(field, noise, plan),
            "Python loop of jitted steps": loop,
        },
        config.repeats,
    )
    base = found["bare scan of the evaluations"][1]
    return [
        {
            "contender": name,
            "first": first,
            "steady": steady,
            "ratio": steady / base,
            "nfe": plan.nfe,
        }
        for name, (first, steady) in found.items()
    ]


def ablation(config):
    """Compilations over many plans of one length; one vmapped ablation against a loop over plans."""
    field, noise = setup(config)
    many = [
        plans.dpm_solver_pp(Linear(), grids.uniform(config.steps, shift=1 + i / 4), 1 + i % 3)
        for i in range(config.plans)
    ]
    traces = 0

    @jax.jit
    def one(field, noise, plan):
        nonlocal traces
        traces += 1
        return flowjax.sample(field.velocity, noise, plan).x

    @jax.jit
    def together(field, noise, stacked):
        return jax.vmap(lambda plan: flowjax.sample(field.velocity, noise, plan).x)(stacked)

    stacked = jax.tree.map(lambda *columns: jnp.asarray(np.stack(columns)), *many)
    found = interleaved(
        {
            "loop over the plans, one program": lambda: [one(field, noise, plan) for plan in many],
            "all plans vmapped": lambda: together(field, noise, stacked),
        },
        max(config.repeats // 5, 2),
    )
    base = found["loop over the plans, one program"][1]
    return [
        {"contender": name, "first": first, "steady": steady, "ratio": steady / base, "plans": config.plans,
         "compilations": traces if name.startswith("loop") else 1}
        for name, (first, steady) in found.items()
    ]  # fmt: skip


def peers(config):
    """The same field solved by diffrax: fixed Euler, and adaptive Tsit5 and Dopri5 per sample, with their errors."""
    if importlib.util.find_spec("diffrax") is None:
        return []
    import diffrax

    field, noise = setup(config)
    exact = _exact(field, noise)
    term = diffrax.ODETerm(lambda t, x, field: field.velocity(x[None], t)[0])

    def adaptive(solver):
        controller = diffrax.PIDController(rtol=config.rtol, atol=config.rtol)

        def solve(field, x):
            solution = diffrax.diffeqsolve(
                term,
                solver,
                1.0,
                0.0,
                -0.01,
                x,
                args=field,
                stepsize_controller=controller,
                max_steps=1000,
            )
            return solution.ys[-1], solution.stats["num_steps"]

        run = jax.jit(lambda field, noise: jax.vmap(solve, (None, 0))(field, noise))
        return lambda: run(field, noise)

    def fixed(field, noise):
        batch = diffrax.ODETerm(lambda t, x, field: field.velocity(x, t))
        at = diffrax.StepTo(ts=jnp.linspace(1.0, 0.0, config.steps + 1))
        solution = diffrax.diffeqsolve(
            batch, diffrax.Euler(), 1.0, 0.0, None, noise, args=field, stepsize_controller=at
        )
        return solution.ys[-1]

    run = jax.jit(lambda field, noise, plan: flowjax.sample(field.velocity, noise, plan).x)
    fixed = jax.jit(fixed)
    own = {
        "flowjax Euler": plans.euler(grids.uniform(config.steps)),
        "flowjax AB3": plans.adams_bashforth(grids.uniform(config.steps), 3),
        "flowjax DPM++ 2M": plans.dpm_solver_pp(Linear(), grids.uniform(config.steps), 2),
    }
    calls = {name: (lambda plan=plan: run(field, noise, plan)) for name, plan in own.items()}
    calls["diffrax Euler"] = lambda: fixed(field, noise)
    stages = {
        "diffrax Tsit5, PID": (diffrax.Tsit5(), 6),
        "diffrax Dopri5, PID": (diffrax.Dopri5(), 6),
    }
    solvers = {name: adaptive(solver) for name, (solver, _) in stages.items()}
    calls |= {name: (lambda call=call: call()[0]) for name, call in solvers.items()}
    found = interleaved(calls, max(config.repeats // 3, 2))
    result = []
    for name, (first, steady) in found.items():
        x = calls[name]()
        if name in stages:  # first same as last: one evaluation, then one a stage and attempt
            nfe = float(np.mean(np.asarray(solvers[name]()[1])) * stages[name][1] + 1)
        else:
            nfe = config.steps
        error = float(
            np.sqrt(
                np.mean(
                    np.sum((np.asarray(x) - exact) ** 2, (1, 2, 3))
                    / np.mean(np.sum(exact**2, (1, 2, 3)))
                )
            )
        )
        result.append(
            {"contender": name, "first": first, "steady": steady, "nfe": nfe, "error": error,
             "evaluations_per_second": nfe * config.batch / steady}
        )  # fmt: skip
    return result + _torch(config, np.asarray(noise), exact)


def _exact(field, noise):
    grid = np.concatenate([[1.0], grids.log_snr(Linear(), 150, start=0.999, end=1e-4), [0.0]])
    return np.asarray(flowjax.sample(field.velocity, noise, plans.rk4(grid)).x)


def _torch(config, noise, exact):
    """torchdiffeq's Euler and dopri5 on the same field in PyTorch, where both are installed."""
    if importlib.util.find_spec("torchdiffeq") is None or importlib.util.find_spec("torch") is None:
        return []
    import torch
    import torchdiffeq

    data = torch.tensor(
        np.asarray(fields.digits(Linear(), bandwidth=0.1).samples).reshape(-1, 64),
        dtype=torch.float32,
    )
    count = 0

    def velocity(t, x):
        nonlocal count
        count += 1
        a, s, b = 1 - t, t, 0.1
        variance = a * a * b * b + s * s
        logits = (a * (x @ data.T) - a * a * (data**2).sum(1) / 2) / variance
        mean = torch.softmax(logits, 1) @ data
        shrink = (s - a * b * b) / variance
        return -mean + shrink * (x - a * mean)

    start = torch.tensor(noise.reshape(len(noise), -1))
    result = []
    for name, options in {
        "torchdiffeq euler": {"method": "euler", "t": torch.linspace(1, 0, config.steps + 1)},
        "torchdiffeq dopri5": {
            "method": "dopri5",
            "rtol": config.rtol,
            "atol": config.rtol,
            "t": torch.tensor([1.0, 0.0]),
        },
    }.items():
        times = []
        for _ in range(max(config.repeats // 3, 2) + 1):
            count, began = 0, time.perf_counter()
            with torch.no_grad():
                x = torchdiffeq.odeint(velocity, start, **options)[-1].numpy()
            times.append(time.perf_counter() - began)
        off = x - exact.reshape(len(x), -1)
        error = float(
            np.sqrt(np.mean(np.sum(off**2, 1)) / np.mean(np.sum(exact.reshape(len(x), -1) ** 2, 1)))
        )
        steady = statistics.median(times[1:])
        result.append(
            {"contender": name, "first": times[0], "steady": steady, "nfe": count, "error": error,
             "evaluations_per_second": count * config.batch / steady}
        )  # fmt: skip
    return result


PARTS = {"overhead": overhead, "ablation": ablation, "peers": peers, "adaptive": adaptive}


def run(config, workdir):
    """Time what `workdir` does not hold yet and return all rows."""
    kept = records.Records(workdir, config)
    for part, measure in PARTS.items():
        if not any(row["part"] == part for row in kept.rows):
            for row in measure(config):
                kept.add(
                    {"part": part, "contender": row.pop("contender")},
                    device=jax.devices()[0].device_kind,
                    **row,
                )
    return kept.rows


def table(workdir):
    """Print the rows; nothing is drawn."""
    for row in records.read(workdir):
        rest = {
            k: v
            for k, v in row.items()
            if k not in ("part", "contender", "config", "environment", "first", "steady")
        }
        numbers = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rest.items()
        )
        print(
            f"{row['part']:9} {row['contender']:34} first {row['first']:7.3f} s, steady {row['steady']:8.4f} s, {numbers}"
        )
    return []


if __name__ == "__main__":
    main(run, table)
