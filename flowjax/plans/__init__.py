"""Every fixed-step solver as a table of numbers (a Plan), computed once on the host in float64.

table.py        what a row is; pad, concat, labels; the checks
moments.py      weights of one step from the moments of its kernel
velocity.py     Euler, Heun, RK4, Adams-Bashforth: polynomials of the velocity in t
exponential.py  DDIM, DPM-Solver(++) and SDE forms, UniPC, DEIS: polynomials of the prediction in log-SNR, t or rho
"""

from flowjax.plans.exponential import ddim, deis, dpm_solver_pp, dpm_solver_sde, singlestep, unipc
from flowjax.plans.table import Plan, concat, pad, snap_labels, with_labels, with_path
from flowjax.plans.velocity import adams_bashforth, euler, heun, rk4

__all__ = [
    "Plan", "adams_bashforth", "concat", "ddim", "deis", "dpm_solver_pp", "dpm_solver_sde", "euler", "heun", "pad",
    "rk4", "singlestep", "snap_labels", "unipc", "with_labels", "with_path",
]  # fmt: skip
