"""(a) What order is left of a solver when its keys and values are one step old?"""

import jax
import numpy as np

from experiments import report
from experiments.order import lab as order_lab
from experiments.staleness import lab
from flowjax import Linear, grids, plans
from flowjax.parallel.emulate import exchange
from flowjax.parallel.emulate_field import emulate_field

QUESTION = "orders"
SPAN = {"start": 0.9, "end": 0.2}
BANDWIDTH = 0.5  # wide enough that 32 steps are many: at 0.1 whole samples change their datum, and no order shows
STARTS, DEVICES = 12, 8
SOLVERS = {
    "Euler": (plans.euler, 1),
    "DPM++ 2M": (lambda grid: plans.dpm_solver_pp(Linear(), grid, 2), 2),
    "DPM++ 3M exact": (lambda grid: plans.dpm_solver_pp(Linear(), grid, 3, start="singlestep"), 3),
}
MODES = {"synchronous": 1, "stale": DEVICES}


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
        build, claimed = SOLVERS[key["solver"]]
        plan = build(grids.uniform(key["steps"], **SPAN))
        end = np.asarray(program(plan, exchange(plan, lab.TOKENS, MODES[key["mode"]], slots=DEVICES)))
        rms = float(np.sqrt(np.mean(order_lab.row_norms(end - exact) ** 2)) / order_lab.scale_of(exact))
        yield key, {"error": rms, "claimed": claimed, "devices": MODES[key["mode"]]}


def slopes(rows):
    """[{solver, claimed, synchronous, stale}]: minus the slope of log error on log steps over the last pair of steps."""
    table = []
    for solver in dict.fromkeys(r["solver"] for r in rows):
        found = {"solver": solver, "claimed": SOLVERS[solver][1]}
        for mode in MODES:
            own = sorted((r for r in rows if (r["solver"], r["mode"]) == (solver, mode)), key=lambda r: r["steps"])
            if len(own) > 1:
                before, last = own[-2:]
                found[mode] = float(
                    np.log(before["error"] / last["error"]) / np.log(last["steps"] / before["steps"])
                )  # fmt: skip
        table.append(found)
    return table


def section(rows, command):
    """The section of the page."""
    table = slopes(rows)
    fig, ax = report.canvas(height=4.2)
    shown = [dict(r, run=r["solver"] + (", stale" if r["mode"] == "stale" else "")) for r in rows]
    report.log_log(
        ax,
        shown,
        x="steps",
        y="error",
        by="run",
        xlabel="steps",
        ylabel="relative RMS error at t = 0.2",
        guides=(1, 2, 3),
    )
    said = "; ".join(
        f"{r['solver']} {report.sig(r['synchronous'], 3)} to **{report.sig(r['stale'], 3)}**" for r in table
    )
    return report.Section(
        question="What order does a solver keep when keys and values are one step old?",
        expected="Order 1 for all of them. What a device sees of the others is x(t - h), so its velocity is wrong by O(h), and a solver of any order "
        "adds that up to O(h).",
        answer=f"From synchronous to stale on {DEVICES} devices: {said}.",
        figures=(
            report.picture(
                fig,
                "Error against steps: three synchronous lines with slopes 1, 2, 3; three stale lines with slope 1.",
                f"The digits 3 smoothed by {BANDWIDTH}, t = 0.9 to 0.2, uniform steps, float64, {DEVICES} devices.",
            ),
        ),
        table=[*table, *({k: r[k] for k in ("solver", "steps", "mode", "error")} for r in rows)],
        caveat="An order speaks of small steps. At 10 or 20 steps the constant decides, which the next section measures.",
        command=command,
    )
