"""(l) Why does order stop paying on networks? What a step sees: another state, or another time.

A velocity v(x, t) changes along a path since the state moves and since the time that the network is told moves. A multistep
solver extrapolates the sum. Here both are moved alone: the second difference, |v(+h) - 2 v + v(-h)| over |v|, falls by 4 when
h is halved where v is smooth, and not at all where it jumps.
"""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import NullLocator

import flowjax
from experiments import report
from experiments.order import lab, learned
from flowjax import distances, grids, plans

QUESTION = "clock"
FINE = 320  # steps of the path
STEPS = (20, 40, 80, 160)  # h = 1/steps
AT = np.arange(32, 289, 16)  # places on the path, from t = 0.9 to 0.1
STARTS = 4
STEP = 1 / 80  # at which the answer is given
EXACT = "digits"  # the exact field that networks stand beside
MOVED = {"path": (1, 1), "time alone": (0, 1), "state alone": (1, 0)}  # how far (state, time) move
COLOURS = {"path": report.INK, "time alone": report.RED, "state alone": report.BLUE}


def cells(config):
    """One cell an exact field and a network."""
    fields = (
        [{"question": QUESTION, "kind": "exact field", "field": EXACT}]
        if EXACT in config.fields
        else []
    )
    return [
        *fields,
        *({"question": QUESTION, "kind": "network", "field": name} for name in config.networks),
    ]


@jax.jit
def _velocities(field, states, times):
    return jax.lax.map(lambda at: field.velocity(*at), (states, times))


def second_differences(field, noise):
    """[{h, path, time alone, state alone}]: RMS second differences of the velocity over its RMS, along AB2's path from `noise`."""
    plan = plans.adams_bashforth(grids.uniform(FINE), 2)
    path = learned.run(field, noise, plan)[0]

    def velocity(state, time):
        times = jnp.asarray(1 - (AT + time) / FINE, noise.dtype)
        return np.asarray(_velocities(field, path[AT + state], times), np.float64)

    middle, found = velocity(0, 0), []
    for steps in STEPS:
        k, line = FINE // steps, {"h": 1 / steps}
        for name, (state, time) in MOVED.items():
            both = velocity(state * k, time * k) + velocity(-state * k, -time * k)
            line[name] = float(distances.rms(both - 2 * middle) / distances.rms(middle))
        found.append(line)
    return found


def measure(config, todo):
    """Yield (key, values): the second differences of each field."""
    for key in todo:
        if key["kind"] == "network":
            size = learned.load(key["field"]).card.config
            field, shape, dtype = (
                learned.make(key["field"], 1.0, STARTS),
                (*size.size, size.channels),
                np.float32,
            )
        else:
            field = lab.make_field(key["field"])
            shape, dtype = field.samples.shape[1:], np.float64
        noise = np.asarray(flowjax.draw_noise(jax.random.key(0), np.arange(STARTS), shape), dtype)
        yield key, {"differences": second_differences(field, noise)}


def shrinkage(row, step=STEP):
    """{moved: how many times smaller the second difference is at half of `step`}: 4 where the velocity is smooth."""
    of = {line["h"]: line for line in row["differences"]}
    return {name: of[step][name] / of[step / 2][name] for name in MOVED}


def _name(row):
    return f"{row['field']}, {row['kind']}"


def _draw(rows):
    columns = min(len(rows), 3)
    lines = -(-len(rows) // columns)
    fig, axes = report.canvas(lines, columns, width=6.4, height=2.6 * lines + 0.4)
    axes = np.atleast_1d(axes).ravel()
    for ax in axes[len(rows) :]:
        ax.set_axis_off()
    axes = axes[: len(rows)]
    for ax, row in zip(axes, rows, strict=True):
        for name, colour in COLOURS.items():
            points = [(line["h"], line[name]) for line in row["differences"]]
            ax.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3.5, label=name)
        ax.set(xscale="log", yscale="log", xlabel="step h")
        ax.set_xticks([1 / n for n in STEPS], [f"1/{n}" for n in STEPS])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_title(_name(row))
    low, high = zip(*(ax.get_ylim() for ax in axes), strict=True)
    for ax in axes:
        ax.set_ylim(min(low), max(high))
    for ax in axes[::columns]:
        ax.set_ylabel("second difference over velocity")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return report.picture(
        fig,
        "Second differences of the velocity against the step: along the path, with the time moved alone, with the state moved alone.",
        "A smooth velocity falls by 4 as the step is halved; a flat line is a jump from evaluation to evaluation.",
    )


def verdict(rows):
    """In how many networks the time is what is rough, as a sentence."""
    networks = [shrinkage(row) for row in rows if row["kind"] == "network"]
    rough = sum(fall["time alone"] < 2 < fall["state alone"] for fall in networks)
    return f"In {rough} of {len(networks)} networks the velocity is smooth in the state and **rough in the time it is told**."


def section(rows, command):
    """The section of the page."""
    clauses = []
    for row in rows:
        line, fall = next(d for d in row["differences"] if d["h"] == STEP), shrinkage(row)
        numbers = ", ".join(
            f"{name} {line[name]:.2%} (÷ {report.sig(fall[name])})" for name in MOVED
        )
        clauses.append(f"{_name(row)}: {numbers}")
    return report.Section(
        question="Why does order stop paying on networks?",
        expected="A network is as smooth as the field it learned, in the state and in time.",
        answer=f"{verdict(rows)} Second differences at a step of 1/80 over the velocity, "
        f"and how many times smaller they are at 1/160 (4 where smooth): {'; '.join(clauses)}.",
        figures=(_draw(rows),),
        table=[{"field": row["field"], "kind": row["kind"], **line} for row in rows for line in row["differences"]],
        caveat=f"{STARTS} starts, {len(AT)} times between 0.9 and 0.1, no guidance. The networks are told 1000 t through 128 frequencies from 1 down to 1e-4, as DiT is: a step of 1/80 turns the "
        "fastest by 12.5 radians, so that what they make of it is new at every evaluation, and training draws each time alone. Longer training, or a slower clock, was not tried.",
        command=command,
    )  # fmt: skip
