"""What a solver costs beside its evaluations: wall time of jitted samplers over a bare scan."""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from configs.order import Config
from experiments import report
from experiments.lab import solvers, subjects
from flowjax import Plan, plans

# ---- numbers

QUESTION = "cost"
SOLVERS = ("Euler", "DPM++ 2M", "DPM++ 3M exact", "UniPC2", "DPM++ 3S")
NFE = 20
BATCH = 64
LEAST = 0.01  # seconds that one timing covers, by as many calls as it takes
BARE = "bare evaluations"
FIELDS = ("digits", "ring")  # one where an evaluation costs, and the cheapest there is


def cells(config: Config) -> list[dict]:
    """One cell a field: its solvers are timed in turn."""
    return [{"question": QUESTION, "field": field, "nfe": NFE} for field in FIELDS]


def _bare(field: Any, noise: jax.Array, times: jax.Array) -> jax.Array:
    """NFE evaluations in a scan, each with the one addition that keeps XLA from dropping it."""
    return jax.lax.scan(lambda x, t: (x + 0.05 * field.velocity(x, t), None), noise, times)[0]


def _sampled(field: Any, noise: jax.Array, plan: Plan) -> jax.Array:
    return flowjax.sample(field.velocity, noise, plan).x


def _seconds(run: Callable, *arguments: Any, calls: int = 1) -> float:
    """Seconds of one call, the mean of `calls` in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(run(*arguments))
    return (time.perf_counter() - start) / calls


def _work(field: Any, noise: jax.Array, nfe: int) -> dict[str, tuple]:
    """{name: (jitted function, its arguments)} of the bare scan and of every solver."""
    # One compiled program serves all solvers: their plans have one length.
    bare, sampled = jax.jit(_bare), jax.jit(_sampled)
    # The bare scan has as many evaluations, and no solver.
    work = {BARE: (bare, field, noise, jnp.linspace(1.0, 0.0, nfe, dtype=noise.dtype))}
    for name in SOLVERS:
        plan = solvers.plan_of(name, field.schedule, solvers.shifted(1.0), nfe)
        work[name] = (sampled, field, noise, jax.device_put(plans.pad(plan, nfe)))
    return work


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): seconds of every solver and of the bare scan.

    They take turns, in 3 `config.repeats` rounds.
    """
    for key in todo:
        field = jax.device_put(subjects.make_field(key["field"]))
        shape = subjects.sample_shape(field)
        noise = flowjax.draw_noise(jax.random.key(0), np.arange(BATCH), shape)
        work = _work(field, noise, key["nfe"])

        # The first call compiles.
        first = {name: _seconds(*call) for name, call in work.items()}
        # One timing covers several calls where a call is too short for the clock.
        calls = math.ceil(LEAST / min(_seconds(*work[BARE]) for _ in range(3)))
        taken = {name: [] for name in work}
        for _ in range(3 * config.repeats):
            for name, call in work.items():
                taken[name].append(_seconds(*call, calls=calls))

        # Ratios within a round: a machine that is slow for a while is slow for both.
        found = []
        for name, seconds in taken.items():
            ratios = np.array(seconds) / np.array(taken[BARE])
            # The middle half of the rounds is the spread that is drawn.
            low, ratio, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
            line = {"solver": name, "seconds": statistics.median(seconds), "first": first[name]}
            found.append(line | {"low": low, "ratio": ratio, "high": high})
        yield (
            key,
            {
                "batch": BATCH,
                "device": _device(),
                "dtype": str(noise.dtype),
                "shape": list(shape),
                "calls": calls,
                "solvers": found,
            },
        )


def _device() -> str:
    device = jax.devices()[0]
    return f"{os.cpu_count()} processors" if device.platform == "cpu" else device.device_kind


# ---- figures


def _draw(rows: list[dict]) -> report.Picture:
    fig, axes = report.canvas(1, len(rows), width=4.8 * len(rows), height=3.0)
    # One panel a field.
    for ax, row in zip(np.atleast_1d(axes), rows, strict=True):
        report.bar_ledger(
            ax,
            row["solvers"],
            label="solver",
            value="ratio",
            low="low",
            high="high",
            xlabel="time over bare evaluations",
            text=lambda ratio: report.sig(ratio, 3),
            start=1.0,
        )
        ax.set_title(row["field"])
    first = rows[0]
    return report.picture(
        fig,
        "Time over that of the bare evaluations, one bar a solver, one panel a field.",
        f"Batch {first['batch']}, {first['dtype']}, {first['nfe']} rows, {first['device']}; "
        "median of rounds taken in turn, lines over the middle half of them.",
        title=_claim(first),
    )


def _claim(row: dict) -> str:
    """What the dearest solver takes over the bare evaluations, as a claim."""
    own = [line for line in row["solvers"] if line["solver"] != BARE]
    most = max(own, key=lambda line: line["ratio"])
    return (
        f"On {row['field']} the slowest solver takes {report.sig(most['ratio'], 3)} times as long "
        "as its bare evaluations"
    )


# ---- words


def _says(row: dict) -> str:
    """What the solvers take on one field, as sentences."""
    own = [line for line in row["solvers"] if line["solver"] != BARE]
    bare = next(line for line in row["solvers"] if line["solver"] == BARE)
    ratio = statistics.median(line["ratio"] for line in own)
    most = max(own, key=lambda line: line["ratio"])
    # Whether any solver is slower than the bare scan in the middle half of the rounds.
    seen = any(line["low"] > 1 for line in own)
    return (
        f"On {row['field']} ({report.sig(1e3 * bare['seconds'] / row['nfe'])} ms an evaluation) a "
        f"solver takes **{report.sig(ratio, 3)}** times a bare scan of "
        f"as many evaluations (median of {len(own)}), so its own part is "
        f"{max(0.0, 1 - 1 / ratio):.0%}; {most['solver']} takes most, "
        f"{report.sig(most['ratio'], 3)} "
        f"(middle half of the rounds {report.sig(most['low'], 3)} to "
        f"{report.sig(most['high'], 3)}). "
        f"{'' if seen else 'No solver differs from the bare scan beyond that spread. '}"
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    table = [
        {"field": row["field"], "nfe": row["nfe"], **line}
        for row in rows
        for line in row["solvers"]
    ]
    # The first field is the dear one.
    row = rows[0]
    own = [line for line in row["solvers"] if line["solver"] != BARE]
    # A first call that compiled again would take as long as the first of all.
    later = max(line["first"] for line in own[1:])
    compiled = "none compiled again" if later < 0.5 * own[0]["first"] else "some compiled again"
    return report.Section(
        question="Does a better solver cost time?",
        expected="Where an evaluation costs something, every solver takes the time of its "
        "evaluations: a row adds a few sums of arrays. On a "
        "field of two numbers the solver shows. One program serves all plans of one length, so "
        "only the first call compiles.",
        answer="".join(map(_says, rows))
        + f"The first call on {row['field']}, which compiles, took {report.sig(own[0]['first'])} "
        "s; the first call of every other "
        f"solver at most {report.sig(later)} s: {compiled}.",
        figures=(_draw(rows),),
        table=table,
        caveat=f"Device: {row['device']}. Plans with fewer rows are padded to {row['nfe']}, and "
        "padding is evaluated. With a network, an evaluation costs more "
        "and the solver's part is smaller still.",
        command=command,
    )
