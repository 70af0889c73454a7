"""What order does a solver keep with stale keys and values, and does a forecast restore it?"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import matplotlib.figure
import numpy as np

from experiments import report
from experiments.lab.solvers import solve
from experiments.lab.statistics import row_norms, scale_of
from experiments.lab.subjects import make_field
from experiments.staleness import draw, subjects
from flowjax import Linear, Plan, grids, plans
from flowjax.parallel.emulation.field import emulate_field
from flowjax.parallel.emulation.network import Exchange, exchange

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "orders"
SPAN = {"start": 0.9, "end": 0.2}
# Wide enough that 32 steps are many: at 0.1 samples change their datum, and no order shows.
BANDWIDTH = 0.5
STARTS = 12
DEVICES = 8
# The rows that the longest forecast uses.
MEMORY = 3


class Solver(NamedTuple):
    """A solver of this question: grid -> plan, and the order p that its name claims."""

    build: Callable[[np.ndarray], Plan]
    order: int


class Mode(NamedTuple):
    """An exchange: its options, and the order q + 1 that it allows."""

    options: dict[str, Any]
    bound: float


SOLVERS = {
    "Euler": Solver(plans.euler, 1),
    "DPM++ 2M": Solver(lambda grid: plans.dpm_solver_pp(Linear(), grid, 2), 2),
    "DPM++ 3M exact": Solver(
        lambda grid: plans.dpm_solver_pp(Linear(), grid, 3, start="singlestep"), 3
    ),
}
MODES = {
    "synchronous": Mode({"devices": 1}, np.inf),
    "stale": Mode({"devices": DEVICES}, 1),
    "linear": Mode({"devices": DEVICES, "forecast": 1}, 2),
    # A step that holds costs O(h^2) by itself: to show order 3 a parabola must have its three
    # points from the start.
    "quadratic": Mode({"devices": DEVICES, "forecast": 2, "warmup": 3}, 3),
}
# {mode: how its copies are made, as figures and tables name it}
NAMES = {
    "synchronous": "synchronous",
    "stale": "held",
    "linear": "linear",
    "quadratic": "quadratic",
}


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a solver, number of steps and mode."""
    return [
        {"question": QUESTION, "solver": solver, "steps": steps, "mode": mode}
        for steps in config.order_steps
        for solver in SOLVERS
        for mode in MODES
    ]


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the RMS error at t = 0.2 from exact states at t = 0.9.

    The field is that of the digits 3, smoothed.
    """
    field = make_field("digits").subset(3)
    field = type(field)(field.samples, BANDWIDTH, field.schedule)
    noise = np.asarray(field.draw_at(jax.random.key(0), STARTS, SPAN["start"]))

    @jax.jit
    def end(plan, exchange):
        return emulate_field(field, noise, plan, exchange).x

    # Twice the finest grid by a method of order 4: its error does not show.
    fine = plans.rk4(grids.uniform(2 * max(config.order_steps), **SPAN))
    exact = np.asarray(solve(field, noise, fine))
    for key in todo:
        solver, mode = SOLVERS[key["solver"]], MODES[key["mode"]]
        plan = solver.build(grids.uniform(key["steps"], **SPAN))
        found = np.asarray(end(plan, _exchange(plan, mode.options)))
        rms = np.sqrt(np.mean(row_norms(found - exact) ** 2)) / scale_of(exact)
        yield (
            key,
            {
                "error": float(rms),
                "claimed": solver.order,
                "devices": mode.options["devices"],
            },
        )


def _exchange(plan: Plan, options: dict[str, Any]) -> Exchange:
    """The `Exchange`, its forecast padded to three rows, so that one program serves all modes."""
    found = exchange(plan, subjects.TOKENS, slots=DEVICES, **options)
    forecast = found.rows.forecast
    lacking = MEMORY - forecast.weights.shape[1]
    weights = np.pad(forecast.weights, ((0, 0), (0, lacking)))
    rows = found.rows._replace(forecast=forecast._replace(weights=weights))
    return found._replace(rows=rows)


# -- numbers


def slopes(rows: list[dict]) -> list[dict]:
    """[{solver, nominal order, and of each mode its order}] over the last two numbers of steps.

    An order is minus the slope of the logarithm of the error on that of the steps.
    """
    table = []
    for solver in dict.fromkeys(row["solver"] for row in rows):
        found = {"solver": solver, "nominal order": SOLVERS[solver].order}
        for mode in MODES:
            own = [row for row in rows if (row["solver"], row["mode"]) == (solver, mode)]
            # A single number of steps has no slope.
            own.sort(key=lambda row: row["steps"])
            if len(own) > 1:
                before, last = own[-2:]
                fallen = np.log(before["error"] / last["error"])
                found[mode] = float(fallen / np.log(last["steps"] / before["steps"]))
        table.append(found)
    return table


def barrier(rows: list[dict]) -> list[tuple[float, float]]:
    """[(measured, min(p, q + 1))] of every solver of order p in every mode."""
    return [
        (found[name], min(found["nominal order"], mode.bound))
        for found in slopes(rows)
        for name, mode in MODES.items()
        if name in found
    ]


# -- figures


def _figure(rows: list[dict], solvers: list[str]) -> matplotlib.figure.Figure:
    """Error against steps: a panel for each solver, a curve for each mode."""
    fig, axes = draw.side_by_side(solvers, sharey=True)
    for ax, solver in zip(axes, solvers, strict=True):
        own = [row | {"copies": NAMES[row["mode"]]} for row in rows if row["solver"] == solver]
        draw.lines(ax, own, x="steps", y="error", by="copies", band=False, colours=draw.COPIES)
        ax.set(xscale="log", yscale="log", xlabel="steps")
        draw.ticks(ax, [row["steps"] for row in rows])
    axes[0].set_ylabel("relative RMS error at t = 0.2")
    draw.decades(axes[0])
    draw.legend(fig)
    return fig


# -- words


def _where() -> str:
    """The field of the orders, in words."""
    return (
        f"the exact field of the digits 3, smoothed by {BANDWIDTH}, from t = {SPAN['start']} to "
        f"{SPAN['end']}"
    )


def _answer(table: list[dict], modes: list[str]) -> list[str]:
    """The measured orders of each solver, a sentence a solver, and how far they are from theory."""
    return [
        f"{row['solver']}: order "
        + ", ".join(f"**{report.sig(row[mode], 3)}** {NAMES[mode]}" for mode in modes)
        + "."
        for row in table
    ]


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    table = slopes(rows)
    modes = [mode for mode in MODES if mode in table[0]]
    worst = max((abs(slope - wanted) for slope, wanted in barrier(rows)), default=0.0)
    steepest = table[-1]
    title = ""
    if "stale" in steepest:
        title = (
            f"Held copies leave {steepest['solver']} the order {report.sig(steepest['stale'], 2)}"
        )
    picture = report.picture(
        _figure(rows, [row["solver"] for row in table]),
        "Error against steps for three solvers: held keys and values fall with slope 1, "
        "forecasts with 2 and 3 up to the solver's own order.",
        f"On {_where()}, uniform steps, float64, {DEVICES} devices; one synchronous step, before "
        "the quadratic forecast three.",
        title=title,
    )
    named = [
        {"solver": row["solver"], "nominal order": row["nominal order"]}
        | {NAMES[mode]: row[mode] for mode in modes}
        for row in table
    ]
    errors = [
        {"solver": row["solver"], "steps": row["steps"], "copies": NAMES[row["mode"]]}
        | {"error": row["error"]}
        for row in rows
    ]
    return report.Section(
        question="What order does a solver keep when keys and values are one step old?",
        expected=(
            "min(p, q + 1) for a solver of order p and a forecast of degree q. What a device sees "
            "of the others is x(t - h), so its velocity is wrong by O(h), and a solver of any "
            "order adds that up to O(h): order 1. Extrapolated linearly it is wrong by O(h^2), "
            "quadratically by O(h^3)."
        ),
        answer="\n".join(
            [
                *_answer(table, modes),
                f"The largest distance from min(p, q + 1) is **{report.sig(worst)}**.",
            ]
        ),
        figures=(picture,),
        table={f"Orders on {_where()}": named, f"Errors on {_where()}": errors},
        caveat=(
            "An order describes small steps. At 10 or 20 steps the constant decides, which the "
            "next section measures. This field is smooth and a token depends little on the others, "
            "so plain extrapolation is stable on it; on networks it is not."
        ),
        command=command,
    )
