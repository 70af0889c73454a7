"""The family of the original solvers' numbers whose steps follow a tolerance.

Each function takes (folder, case), as `tests.golden` describes, and returns our array; FAMILIES
names them. The counts of evaluations and steps must agree too.
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
        field.velocity,
        x,
        field.schedule,
        tolerance,
        order=order,
        span=span,
        max_evaluations=20_000,
        method=method,
        variant=variant,
        controller="peers",
    )


def adaptive(folder, case):
    options = case["options"]
    if any(options[key] != value for key, value in FIXED.items()):
        raise ValueError(f"constants other than {FIXED}")
    schedule = compat.dpm_solver_schedule(options["schedule"], options.get("total_N"))
    # Where a time is not given, the original runs from 1 to the first node.
    start, end = options["t_start"], options["t_end"]
    start = 1.0 if start is None else start
    end = 1 / options.get("total_N", 1000) if end is None else end
    solution = solve(
        folder.field(case["field"], schedule),
        jnp.asarray(folder.given(case, "xT")),
        flowjax.Tolerance(options["atol"], options["rtol"]),
        options["order"],
        METHODS[options["algorithm"]],
        VARIANTS[options["solver_type"]],
        (start, end),
    )
    # All samples of the original take the same steps.
    nfe, accepted, rejected = (int(np.unique(count).item()) for count in solution.stats[:3])
    ours = {
        "nfe": nfe,
        "accepted": accepted,
        "rejected": rejected,
        "attempts_count": accepted + rejected,
    }
    theirs = {key: case[key] for key in ours if case.get(key) is not None}
    differ = any(ours[key] != value for key, value in theirs.items())
    if np.any(solution.status) or differ:
        raise ValueError(f"{ours} (status {np.unique(solution.status)}), the original {theirs}")
    return np.asarray(solution.x)


FAMILIES = {"adaptive": adaptive}
