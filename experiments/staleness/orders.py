"""(a) What order is left of a solver when its keys and values are one step old, and does a forecast give it back?"""

import jax
import numpy as np

from experiments import report
from experiments.order import lab as order_lab
from experiments.staleness import draw, lab
from flowjax import Linear, grids, plans
from flowjax.parallel.emulation.field import emulate_field
from flowjax.parallel.emulation.network import exchange

QUESTION = "orders"
SPAN = {"start": 0.9, "end": 0.2}
BANDWIDTH = 0.5  # wide enough that 32 steps are many: at 0.1 whole samples change their datum, and no order shows
STARTS, DEVICES = 12, 8
SOLVERS = {
    "Euler": (plans.euler, 1),
    "DPM++ 2M": (lambda grid: plans.dpm_solver_pp(Linear(), grid, 2), 2),
    "DPM++ 3M exact": (lambda grid: plans.dpm_solver_pp(Linear(), grid, 3, start="singlestep"), 3),
}
# What others see, and the order q + 1 that a forecast of degree q leaves; synchronously nothing bounds it.
MODES = {
    "synchronous": ({"devices": 1}, np.inf),
    "stale": ({"devices": DEVICES}, 1),
    "linear": ({"devices": DEVICES, "forecast": 1}, 2),
    # A step that holds costs O(h^2) by itself: to show order 3 a parabola must have its three points from the start.
    "quadratic": ({"devices": DEVICES, "forecast": 2, "warmup": 3}, 3),
}


def cells(config):
    """One cell a solver, number of steps and mode."""
    return [
        {"question": QUESTION, "solver": solver, "steps": steps, "mode": mode}
        for steps in config.claim_steps
        for solver in SOLVERS
        for mode in MODES
    ]


def measure(config, todo):
    """Yield (key, values): the RMS error at t = 0.2 from exact states at t = 0.9, on the digits smoothed by 0.5."""
    field = order_lab.make_field("digits").subset(3)
    field = type(field)(field.samples, BANDWIDTH, field.schedule)
    noise = np.asarray(field.draw_at(jax.random.key(0), STARTS, SPAN["start"]))
    program = jax.jit(lambda plan, told: emulate_field(field, noise, plan, told).x)
    fine = plans.rk4(grids.uniform(2 * max(config.claim_steps), **SPAN))
    exact = np.asarray(order_lab.solve(field, noise, fine))
    for key in todo:
        (build, claimed), (options, _) = SOLVERS[key["solver"]], MODES[key["mode"]]
        plan = build(grids.uniform(key["steps"], **SPAN))
        end = np.asarray(program(plan, _told(plan, options)))
        rms = float(
            np.sqrt(np.mean(order_lab.row_norms(end - exact) ** 2)) / order_lab.scale_of(exact)
        )
        yield key, {"error": rms, "claimed": claimed, "devices": options["devices"]}


def _told(plan, options):
    """The `Exchange`, its forecast with weights for three rows, so that one program serves them all."""
    told = exchange(plan, lab.TOKENS, slots=DEVICES, **options)
    forecast = told.rows.forecast
    weights = forecast.weights
    weights = np.pad(weights, ((0, 0), (0, 3 - weights.shape[1])))
    rows = told.rows._replace(forecast=forecast._replace(weights=weights))
    return told._replace(rows=rows)


def slopes(rows):
    """[{solver, claimed, and of each mode its order}]: minus the slope of log error on log steps over the last pair of steps."""
    table = []
    for solver in dict.fromkeys(r["solver"] for r in rows):
        found = {"solver": solver, "claimed": SOLVERS[solver][1]}
        for mode in MODES:
            own = sorted(
                (r for r in rows if (r["solver"], r["mode"]) == (solver, mode)),
                key=lambda r: r["steps"],
            )
            if len(own) > 1:
                before, last = own[-2:]
                found[mode] = float(
                    np.log(before["error"] / last["error"]) / np.log(last["steps"] / before["steps"])
                )  # fmt: skip
        table.append(found)
    return table


def barrier(rows):
    """[(measured, min(p, q + 1))] of every solver of order p in every mode."""
    return [
        (found[mode], min(found["claimed"], bound))
        for found in slopes(rows)
        for mode, (_, bound) in MODES.items()
        if mode in found
    ]


def section(rows, command):
    """The section of the page."""
    table, steps = slopes(rows), sorted({r["steps"] for r in rows})
    fig, axes = report.canvas(len(table), 1, height=2.6 * len(table))
    for ax, found in zip(np.atleast_1d(axes), table, strict=True):
        draw.lines(
            ax,
            [r for r in rows if r["solver"] == found["solver"]],
            x="steps",
            y="error",
            by="mode",
            band=False,
        )
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="steps",
            ylabel="error at t = 0.2",
            title=found["solver"],
        )
        draw.ticks(ax, steps)
        ax.legend()
    modes = [mode for mode in MODES if mode in table[0]]
    said = "; ".join(
        f"{r['solver']} {', '.join(report.sig(r[mode], 3) for mode in modes)}" for r in table
    )
    worst = max(abs(slope - wanted) for slope, wanted in barrier(rows))
    return report.Section(
        question="What order does a solver keep when keys and values are one step old?",
        expected="min(p, q + 1) for a solver of order p and a forecast of degree q. What a device sees of the others is x(t - h), so its velocity is "
        "wrong by O(h), and a solver of any order adds that up to O(h): order 1. Extrapolated linearly it is wrong by O(h^2), quadratically by O(h^3).",
        answer=f"Orders measured {', '.join(modes)}, {DEVICES} devices where stale: {said}. The largest distance from min(p, q + 1) is "
        f"**{report.sig(worst)}**.",
        figures=(
            report.picture(
                fig,
                "Error against steps for three solvers: held keys and values fall with slope 1, forecasts with 2 and 3 up to the solver's own order.",
                f"The digits 3 smoothed by {BANDWIDTH}, t = 0.9 to 0.2, uniform steps, float64, {DEVICES} devices; one "
                "synchronous step, before the quadratic forecast three.",
            ),
        ),
        table=[*table, *({k: r[k] for k in ("solver", "steps", "mode", "error")} for r in rows)],
        caveat="An order speaks of small steps. At 10 or 20 steps the constant decides, which the next section measures; and this field is smooth and "
        "answers little to what it is told, so that plain extrapolation is stable on it, which on networks it is not.",
        command=command,
    )
