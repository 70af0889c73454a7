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
STEP = 1 / 20  # at which the answer is given: where `learned` reads its slopes
FINEST = STEPS[-2]  # steps at which roughness is read at its finest
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
    fig, axes = report.canvas(lines, columns, width=3.4 * columns + 0.4, height=2.6 * lines + 0.5)
    axes = np.atleast_1d(axes).ravel()
    for unused in axes[len(rows) :]:
        unused.set_axis_off()
    axes = axes[: len(rows)]
    for ax, row in zip(axes, rows, strict=True):
        for name, colour in COLOURS.items():
            points = [(line["h"], line[name]) for line in row["differences"]]
            ax.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3.5, label=name)
        ax.set(xscale="log", yscale="log", ylabel="")
        # Ticks at the steps that were measured.
        ax.set_xticks([1 / n for n in STEPS], [f"1/{n}" for n in STEPS])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_title(_name(row))
    # The panels are compared by eye, so they have one scale.
    drawing.same_height(axes)
    for ax in axes[::columns]:
        ax.set_ylabel("second difference over velocity")
    for ax in axes:
        ax.set_xlabel("step h in t")
    drawing.legend_below(fig, axes[0], 3)
    return report.picture(
        fig,
        "Second differences of the velocity against the step: along the path, with the time moved "
        "alone, with the state moved alone.",
        "A smooth velocity falls by 4 as the step is halved; a flat line is a jump from "
        "evaluation to evaluation.",
        title=claim(rows),
    )


# ---- words


def _name(row: dict) -> str:
    return f"{row['field']}, {row['kind']}"


def _span(values: list[float]) -> str:
    """The least and the greatest value as words; one number where they agree."""
    least, most = report.sig(min(values)), report.sig(max(values))
    return least if least == most else f"{least} to {most}"


def falls(rows: list[dict], step: float = STEP) -> dict[str, list[float]]:
    """{moved: how much halving `step` divides each network's second difference}."""
    networks = [shrinkage(row, step) for row in rows if row["kind"] == "network"]
    return {name: [fall[name] for fall in networks] for name in MOVED}


def answer(rows: list[dict]) -> str:
    """How smooth networks are in time and in state where slopes are read, and at finer steps."""
    networks = [row for row in rows if row["kind"] == "network"]
    if not networks:
        return ""
    coarse, fine = falls(rows), falls(rows, 1 / FINEST)
    count = f"{len(networks)} network{'s' if len(networks) > 1 else ''}"
    return (
        f"At a step of 1/{round(1 / STEP)}, where the slopes above are read, halving the step "
        f"divides the second difference of {count} by **{_span(coarse['time alone'])}** when the "
        f"time moves alone and by {_span(coarse['state alone'])} when the state moves alone; 4 is "
        f"smooth. At 1/{FINEST} it divides it by {_span(fine['time alone'])} and by "
        f"{_span(fine['state alone'])}: the finer the step, the more the time is what is rough."
    )


def claim(rows: list[dict]) -> str:
    """The claim of the figure."""
    fine = falls(rows, 1 / FINEST)
    if not fine["path"]:
        return "The exact field is smooth in time and in state"
    return (
        f"At a step of 1/{FINEST} halving it divides networks' second differences in time by "
        f"{_span(fine['time alone'])}, not by 4"
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    # The exact field beside the networks, where it was measured.
    exact = next((shrinkage(row) for row in rows if row["kind"] != "network"), None)
    beside = (
        f" The exact field of the digits: {report.sig(exact['time alone'])} and "
        f"{report.sig(exact['state alone'])} at 1/{round(1 / STEP)}."
        if exact
        else ""
    )
    return report.Section(
        question="Why does order stop paying on networks?",
        expected="A network is as smooth as the field it learned, in the state and in time.",
        answer=f"{answer(rows)}{beside}".strip(),
        figures=(_draw(rows),),
        table=[
            {"field": row["field"], "kind": row["kind"], **line}
            for row in rows
            for line in row["differences"]
        ],
        caveat=f"{STARTS} starts, {len(AT)} times between 0.9 and 0.1, no guidance, one training "
        "seed a network. The networks receive 1000 t through 128 frequencies from 1 down to 1e-4, "
        "as DiT does: a step of 1/80 turns the fastest by 12.5 radians. Longer training was not "
        "tried; a slower clock is the question `smooth` of the full run.",
        command=command,
    )
