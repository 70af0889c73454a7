"""Why does order stop paying on networks? What a step sees: another state, or another time.

A velocity v(x, t) changes along a path because the state moves and because the time moves. A
multistep solver extrapolates the sum. Here both are moved alone: the second difference

    |v(+h) - 2 v + v(-h)| / |v|

falls by 4 when h is halved where v is smooth, and not at all where v jumps.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import NullLocator

import flowjax
from configs.order import Config
from experiments import report
from experiments.lab import subjects
from experiments.order import drawing, learned
from flowjax import distances, grids, plans

# ---- numbers

# The places AT are far enough from both ends that all second differences fit on the path.
QUESTION = "clock"
FINE = 320  # steps of the path
STEPS = (20, 40, 80, 160)  # h = 1/steps
AT = np.arange(32, 289, 16)  # places on the path, from t = 0.9 to 0.1
STARTS = 4
STEP = 1 / 80  # at which the answer is given
EXACT = "digits"  # the exact field that networks stand beside
MOVED = {"path": (1, 1), "time alone": (0, 1), "state alone": (1, 0)}  # how far (state, time) move


def check(config: Config) -> None:
    """Refuse a network that is not there."""
    subjects.check_networks("networks", config.networks)


def cells(config: Config) -> list[dict]:
    """One cell an exact field and a network."""
    keys = [{"kind": "exact field", "field": EXACT}] if EXACT in config.fields else []
    keys += [{"kind": "network", "field": name} for name in config.networks]
    return [{"question": QUESTION, **key} for key in keys]


@jax.jit
def _velocities(field: Any, states: jax.Array, times: jax.Array) -> jax.Array:
    return jax.lax.map(lambda at: field.velocity(*at), (states, times))


def second_differences(field: Any, noise: np.ndarray) -> list[dict]:
    """[{h, path, time alone, state alone}]: RMS second differences of the velocity over its RMS.

    The path is the run of AB2 with `FINE` steps from `noise` (B, *D).
    """
    plan = plans.adams_bashforth(grids.uniform(FINE), 2)
    path = learned.run(field, noise, plan)[0]  # (FINE+1, B, *D)

    def velocity(state: int, time: int) -> np.ndarray:
        """Velocities at the places AT, with the state and the time moved by so many fine steps."""
        times = jnp.asarray(1 - (AT + time) / FINE, noise.dtype)
        return np.asarray(_velocities(field, path[AT + state], times), np.float64)

    # |v(+h) - 2 v + v(-h)| / |v|, with the state, the time or both moved by h.
    middle = velocity(0, 0)
    table = []
    for steps in STEPS:
        # A step h is k steps of the path.
        k = FINE // steps
        line = {"h": 1 / steps}
        for name, (state, time) in MOVED.items():
            both = velocity(state * k, time * k) + velocity(-state * k, -time * k)
            line[name] = float(distances.rms(both - 2 * middle) / distances.rms(middle))
        table.append(line)
    return table


def network_differences(name: str) -> list[dict]:
    """`second_differences` of a network without guidance, in float32."""
    shape = subjects.image_shape(name)
    noise = flowjax.draw_noise(jax.random.key(0), np.arange(STARTS), shape)
    field = subjects.make_network(name, 1.0, STARTS)
    return second_differences(field, np.asarray(noise, np.float32))


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the second differences of each field."""
    for key in todo:
        if key["kind"] == "network":
            found = network_differences(key["field"])
        else:
            field = subjects.make_field(key["field"])
            shape = subjects.sample_shape(field)
            noise = flowjax.draw_noise(jax.random.key(0), np.arange(STARTS), shape)
            found = second_differences(field, np.asarray(noise, np.float64))
        yield key, {"differences": found}


def shrinkage(row: dict, step: float = STEP) -> dict[str, float]:
    """{moved: how many times smaller the second difference is at half of `step`}; 4 is smooth."""
    # Halving h divides the second difference of a smooth function by 4.
    by_step = {line["h"]: line for line in row["differences"]}
    return {name: by_step[step][name] / by_step[step / 2][name] for name in MOVED}


# ---- figures

COLOURS = {"path": report.INK, "time alone": report.RED, "state alone": report.BLUE}


def _draw(rows: list[dict]) -> report.Picture:
    # One panel a field, in rows of three.
    columns = min(len(rows), 3)
    lines = -(-len(rows) // columns)
    fig, axes = report.canvas(lines, columns, width=6.4, height=2.6 * lines + 0.4)
    axes = np.atleast_1d(axes).ravel()
    for unused in axes[len(rows) :]:
        unused.set_axis_off()
    axes = axes[: len(rows)]
    for ax, row in zip(axes, rows, strict=True):
        for name, colour in COLOURS.items():
            points = [(line["h"], line[name]) for line in row["differences"]]
            ax.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3.5, label=name)
        ax.set(xscale="log", yscale="log", xlabel="step h")
        # Ticks at the steps that were measured.
        ax.set_xticks([1 / n for n in STEPS], [f"1/{n}" for n in STEPS])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_title(_name(row))
    # The panels are compared by eye, so they have one scale.
    drawing.same_height(axes)
    for ax in axes[::columns]:
        ax.set_ylabel("second difference over velocity")
    drawing.legend_below(fig, axes[0], 3)
    return report.picture(
        fig,
        "Second differences of the velocity against the step: along the path, with the time moved "
        "alone, with the state moved alone.",
        "A smooth velocity falls by 4 as the step is halved; a flat line is a jump from "
        "evaluation to evaluation.",
    )


# ---- words


def _name(row: dict) -> str:
    return f"{row['field']}, {row['kind']}"


def answer(rows: list[dict]) -> str:
    """In how many networks the time is what is rough, as a sentence."""
    # Rough means: halving the step helps less than half of what it does where v is smooth.
    networks = [shrinkage(row) for row in rows if row["kind"] == "network"]
    rough = sum(fall["time alone"] < 2 < fall["state alone"] for fall in networks)
    return (
        f"In {rough} of {len(networks)} networks the velocity is smooth in the state and "
        "**rough in the time it is told**."
    )


def _clause(row: dict) -> str:
    """The second differences of one field at `STEP`, and how they shrink."""
    line = next(line for line in row["differences"] if line["h"] == STEP)
    fall = shrinkage(row)
    numbers = [f"{name} {line[name]:.2%} (÷ {report.sig(fall[name])})" for name in MOVED]
    return f"{_name(row)}: {', '.join(numbers)}"


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    # A clause for each field, exact ones first.
    clauses = "; ".join(map(_clause, rows))
    return report.Section(
        question="Why does order stop paying on networks?",
        expected="A network is as smooth as the field it learned, in the state and in time.",
        answer=f"{answer(rows)} Second differences at a step of 1/80 over the velocity, "
        f"and how many times smaller they are at 1/160 (4 where smooth): {clauses}.",
        figures=(_draw(rows),),
        table=[
            {"field": row["field"], "kind": row["kind"], **line}
            for row in rows
            for line in row["differences"]
        ],
        caveat=f"{STARTS} starts, {len(AT)} times between 0.9 and 0.1, no guidance. The networks "
        "are told 1000 t through 128 frequencies from 1 down to 1e-4, as DiT is: a step of "
        "1/80 turns the "
        "fastest by 12.5 radians, so that what they make of it is new at every evaluation, and "
        "training draws each time alone. Longer training, or a slower clock, was not tried.",
        command=command,
    )
