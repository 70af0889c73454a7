"""The family of the original solvers' numbers whose steps follow a tolerance.

Each function takes (folder, case), as `tests.golden` describes, and returns our array; FAMILIES names them. The counts of
evaluations and steps must agree too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from flowjax import compat

METHODS = {"dpmsolver++": "dpm_solver_pp", "dpmsolver": "dpm_solver"}
VARIANTS = {"dpmsolver": "midpoint", "taylor": "taylor"}
FIXED = {"h_init": 0.05, "theta": 0.9, "t_err": 1e-5}  # what controller="peers" has built in


@functools.partial(jax.jit, static_argnames=("order", "method", "variant", "span"))
def solve(field, x, tolerance, order, method, variant, span):
    return flowjax.sample_adaptive(
        field.velocity, x, field.schedule, tolerance, order=order, span=span, max_evaluations=20_000, method=method,
        variant=variant, controller="peers",
    )  # fmt: skip


def adaptive(folder, case):
    options = case["options"]
    if any(options[key] != value for key, value in FIXED.items()):
        raise ValueError(f"constants other than {FIXED}")
    nodes = options.get("total_N", 1000)
    schedule = compat.dpm_solver_schedule(options["schedule"], options.get("total_N"))
    start, end = (options[key] for key in ("t_start", "t_end"))
    span = (1.0 if start is None else start, 1 / nodes if end is None else end)
    field = folder.field(case["field"], schedule)
    solution = solve(
        field, jnp.asarray(folder.given(case, "xT")), flowjax.adaptive.Tolerance(options["atol"], options["rtol"]),
        options["order"], METHODS[options["algorithm"]], VARIANTS[options["solver_type"]], span,
    )  # fmt: skip
    nfe, accepted, rejected = (int(np.unique(count).item()) for count in solution.stats[:3])
    ours = {
        "nfe": nfe,
        "accepted": accepted,
        "rejected": rejected,
        "attempts_count": accepted + rejected,
    }
    theirs = {key: case[key] for key in ours if case.get(key) is not None}
    if np.any(solution.status) or any(ours[key] != value for key, value in theirs.items()):
        raise ValueError(f"{ours} (status {np.unique(solution.status)}), the original {theirs}")
    return np.asarray(solution.x)


FAMILIES = {"adaptive": adaptive}
