"""(g) What an evaluation costs beside the solver: wall time of jitted samplers against a bare scan of evaluations."""

import math
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from experiments import report
from experiments.order import lab
from flowjax import plans

QUESTION = "cost"
SOLVERS = ("Euler", "DPM++ 2M", "DPM++ 3M exact", "UniPC2", "DPM++ 3S")
NFE, BATCH = 20, 64
LEAST = 0.01  # seconds that one timing covers, by as many calls as it takes
BARE = "bare evaluations"
FIELDS = ("digits", "ring")  # one where an evaluation costs, and the cheapest there is


def cells(config):
    """One cell a field: its solvers are timed in turn."""
    return [{"question": QUESTION, "field": field, "nfe": NFE} for field in FIELDS]


def _bare(field, noise, times):
    """NFE evaluations in a scan, each with the one addition that keeps it from being dropped or hoisted."""
    return jax.lax.scan(lambda x, t: (x + 0.05 * field.velocity(x, t), None), noise, times)[0]


def _sampled(field, noise, plan):
    return flowjax.sample(field.velocity, noise, plan).x


def _seconds(run, *arguments, calls=1):
    """Seconds of one call, the mean of `calls` in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(run(*arguments))
    return (time.perf_counter() - start) / calls


def measure(config, todo):
    """Yield (key, values): seconds of every solver and of the bare scan, taken in turn, 3 `config.repeats` rounds."""
    for key in todo:
        field = jax.device_put(lab.make_field(key["field"]))
        shape = field.means.shape[1:] if hasattr(field, "means") else field.samples.shape[1:]
        noise = flowjax.draw_noise(jax.random.key(0), np.arange(BATCH), shape)
        bare, sampled = jax.jit(_bare), jax.jit(_sampled)
        tables = {
            name: lab.plan_of(name, field.schedule, lab.shifted(1.0), key["nfe"])
            for name in SOLVERS
        }
        work = {BARE: (bare, field, noise, jnp.linspace(1.0, 0.0, key["nfe"], dtype=noise.dtype))}
        work |= {
            n: (sampled, field, noise, jax.device_put(plans.pad(p, key["nfe"])))
            for n, p in tables.items()
        }
        first = {name: _seconds(*call) for name, call in work.items()}
        calls = math.ceil(LEAST / min(_seconds(*work[BARE]) for _ in range(3)))
        taken = {name: [] for name in work}
        for _ in range(3 * config.repeats):
            for name, call in work.items():
                taken[name].append(_seconds(*call, calls=calls))
        # ratios within a round: a machine that is slow for a while is slow for both
        ratios = {n: np.array(s) / np.array(taken[BARE]) for n, s in taken.items()}
        yield key, {
            "batch": BATCH, "device": _device(), "dtype": str(noise.dtype), "shape": list(shape), "calls": calls,
            "solvers": [
                {"solver": n, "seconds": statistics.median(taken[n]), "first": first[n],
                 **dict(zip(("low", "ratio", "high"), np.quantile(ratios[n], [0.25, 0.5, 0.75]).tolist(), strict=True))}
                for n in work
            ],
        }  # fmt: skip


def _device():
    device = jax.devices()[0]
    return f"{os.cpu_count()} processors" if device.platform == "cpu" else device.device_kind


def section(rows, command):
    """The section of the page."""
    table = [{"field": r["field"], "nfe": r["nfe"], **s} for r in rows for s in r["solvers"]]
    solvers = [t for t in table if t["solver"] != BARE]
    said = []
    for r in rows:
        own = [t for t in solvers if t["field"] == r["field"]]
        bare = next(t for t in table if t["field"] == r["field"] and t["solver"] == BARE)
        ratio = statistics.median(t["ratio"] for t in own)
        most = max(own, key=lambda t: t["ratio"])
        told = any(t["low"] > 1 for t in own)
        said.append(
            f"On {r['field']} ({report.sig(1e3 * bare['seconds'] / r['nfe'])} ms an evaluation) a solver takes **{report.sig(ratio, 3)}** times a bare scan of "
            f"as many evaluations (median of {len(own)}), so its own share is {max(0.0, 1 - 1 / ratio):.0%}; {most['solver']} takes most, {report.sig(most['ratio'], 3)} "
            f"(middle half of the rounds {report.sig(most['low'], 3)} to {report.sig(most['high'], 3)}). {'' if told else 'No solver is told from the bare scan. '}"
        )
    r, own = rows[0], [t for t in solvers if t["field"] == rows[0]["field"]]
    later = max(t["first"] for t in own[1:])
    fig, axes = report.canvas(1, len(rows), width=3.2 * len(rows) + 0.6, height=3.0)
    for ax, row in zip(np.atleast_1d(axes), rows, strict=True):
        report.bar_ledger(
            ax, row["solvers"], label="solver", value="ratio", low="low", high="high", xlabel="time over bare evaluations",
            text=lambda x: report.sig(x, 3),
        )  # fmt: skip
        ax.set_title(row["field"])
    return report.Section(
        question="Does a better solver cost time?",
        expected="Where an evaluation costs something, every solver takes the time of its evaluations: a row adds a few sums of arrays. On a "
        "field of two numbers the solver shows. One program serves all plans of one length, so only the first call compiles.",
        answer="".join(said) + f"The first call on {r['field']}, which compiles, took {report.sig(own[0]['first'])} s; the first call of every other "
        f"solver at most {report.sig(later)} s: {'none compiled again' if later < 0.5 * own[0]['first'] else 'some compiled again'}.",
        figures=(report.picture(fig, "Time over that of the bare evaluations, one bar a solver, one panel a field.",
                                f"Batch {r['batch']}, {r['dtype']}, {r['nfe']} rows, {r['device']}; median of rounds taken in turn, lines over the middle half of them."),),
        table=table,
        caveat=f"Device: {r['device']}. Plans with fewer rows are padded to {r['nfe']}, and padding is evaluated. With a network, an evaluation costs more "
        "and the solver's share is smaller still.",
        command=command,
    )  # fmt: skip
