"""Every fixed-step solver as a table of numbers (a Plan), computed once on the host in float64.

A plan of your own is collected row by row with a `Builder`, which checks it. Here Euler's method:

    rows = plans.Builder("my_euler")
    for t0, t1 in itertools.pairwise(grids.uniform(20)):
        rows.row(t0, t1, b={len(rows): t1 - t0})
    plan = rows.build()

A grid that decreases samples, and one that increases inverts data to noise: all plans here but the
stochastic ones accept both.

table.py                what a row is; pad, concat, tail
builder.py              from rows to a plan
consistency.py          the checks of a plan of one's own
labels.py               plans whose network receives other times; the path of a data correction
paths.py                the same solver for the same network on another path
moments.py              weights of one step from the moments of its kernel
velocity.py             Euler, Heun, RK4, Adams-Bashforth: polynomials of the velocity in t
exponential.py          one step of a method that solves the linear part exactly
final.py                the order of each step: the final rules, and infinite log-SNR
dpm_solver.py           DPM-Solver and DPM-Solver++: polynomials of the prediction in log-SNR
sde.py                  plans that draw noise in their steps: DDIM with eta, SDE-DPM-Solver
predictor_corrector.py  UniPC
rho.py                  DEIS: polynomials of the noise prediction in t or rho = sigma/alpha
storage.py              a plan as a file: save, load
"""

from flowjax.plans.builder import Builder
from flowjax.plans.dpm_solver import dpm_solver_pp, singlestep
from flowjax.plans.labels import snap_labels, with_labels, with_path
from flowjax.plans.paths import on_path
from flowjax.plans.predictor_corrector import unipc
from flowjax.plans.rho import deis
from flowjax.plans.sde import ddim, dpm_solver_sde
from flowjax.plans.storage import load, load_with_facts, save
from flowjax.plans.table import Plan, concat, pad, tail
from flowjax.plans.velocity import adams_bashforth, euler, heun, rk4

__all__ = [
    "Builder",
    "Plan",
    "adams_bashforth",
    "concat",
    "ddim",
    "deis",
    "dpm_solver_pp",
    "dpm_solver_sde",
    "euler",
    "heun",
    "load",
    "load_with_facts",
    "on_path",
    "pad",
    "rk4",
    "save",
    "singlestep",
    "snap_labels",
    "tail",
    "unipc",
    "with_labels",
    "with_path",
]
