"""Plans from the options of LuChengTHU/dpm-solver and of NVlabs/Sana, which share one set of names."""

import functools

import numpy as np

from flowjax import grids, plans
from flowjax.errors import check_choice
from flowjax.schedules import Linear, Schedule, VPDiscrete, VPLinear

SCHEDULES = ("discrete_flow", "discrete_linear", "discrete_cosine", "linear")
SKIP_TYPES = ("time_uniform", "time_quadratic", "logSNR", "time_uniform_flow", "linear_quadratic")
METHODS = ("multistep", "singlestep", "singlestep_fixed")
FLOW_GRIDS = (
    "time_uniform_flow",
    "linear_quadratic",
)  # made by one rule for the whole span, and ending at t = 0

DEFAULTS = {
    "algorithm": "dpmsolver++", "steps": 20, "order": 2, "skip_type": "time_uniform", "method": "multistep",
    "lower_order_final": True, "denoise_to_zero": False, "solver_type": "dpmsolver", "flow_shift": 1.0, "t_start": None,
    "t_end": None, "total_N": None,
}  # fmt: skip
# Options that say nothing about a fixed-step solver: the network's own kind, saving of the path, adaptive control.
IGNORED = ("model_type", "return_intermediate", "atol", "rtol")


@functools.cache
def dpm_solver_schedule(name, total_N=None):
    """The schedule of this name, the same object at every call.

    Args:
      name: "discrete_flow" (the linear path), "discrete_linear" and "discrete_cosine" (discrete VP, 1000 betas unless
        `total_N` says otherwise) or "linear" (the continuous VP SDE).
      total_N: nodes left after the clip at log-SNR -5.1 (996 of 1000 for the cosine betas).
    """
    check_choice("compat.dpm_solver_schedule", "schedule", name, SCHEDULES)
    if name in ("discrete_flow", "linear"):
        return Linear() if name == "discrete_flow" else VPLinear()
    make = VPDiscrete.linear if name == "discrete_linear" else VPDiscrete.cosine
    for betas in (1000, total_N):
        schedule = make(betas)
        if total_N in (None, schedule.steps):
            return schedule
    raise ValueError(
        f"compat.dpm_solver_schedule: no {name!r} schedule keeps total_N={total_N} nodes (1000 betas keep "
        f"{make(1000).steps}); pass a flowjax schedule, such as VPDiscrete(betas), as options['schedule']."
    )


def dpm_solver_grid(schedule, skip_type, steps, *, start, end, shift=1.0):
    """The grid that a `skip_type` of these codes makes.

    Args:
      schedule: needed by "logSNR".
      skip_type: "time_uniform"; "time_quadratic" (sqrt(t) uniform); "logSNR"; "time_uniform_flow" (1 - t uniform between
        the ends, so that it runs from 1 - end to 1 - start, then shifted); "linear_quadratic" (from 1 - end to 0).
      steps: N.
      start, end: their t_T and t_0. start < end inverts: the same times, increasing.
      shift: of "time_uniform_flow" only.

    Returns:
      (N+1,) float64.
    """
    check_choice("compat.dpm_solver_grid", "skip_type", skip_type, SKIP_TYPES)
    if start < end:
        return dpm_solver_grid(schedule, skip_type, steps, start=end, end=start, shift=shift)[::-1]
    if skip_type == "time_uniform":
        return grids.uniform(steps, start=start, end=end)
    if skip_type == "time_quadratic":
        return grids.quadratic(steps, start=start, end=end)
    if skip_type == "logSNR":
        return grids.log_snr(schedule, steps, start=start, end=end)
    if skip_type == "time_uniform_flow":
        return grids.uniform(steps, shift=shift, start=1 - end, end=1 - start)
    return grids.linear_quadratic(steps, start=1 - end)


def singlestep_orders(steps, order):
    """Orders of the blocks with which these codes spend exactly `steps` evaluations: a list that sums to `steps`."""
    check_choice("compat.singlestep_orders", "order", order, (1, 2, 3))
    whole, rest = divmod(steps, order)
    if order == 3 and rest == 0:
        return [3] * (whole - 1) + [2, 1]  # the last block of three ends gently
    return [order] * whole + [rest] * (rest > 0)


def dpm_solver_plan(options, *, code="sana", third_order="published"):
    """The plan that these options stand for in NVlabs/Sana or in LuChengTHU/dpm-solver.

    Args:
      options: dictionary with "schedule" or "noise_schedule" (a name of `SCHEDULES` or a flowjax schedule) and any of
        `DEFAULTS`: algorithm ("dpmsolver++" or "dpmsolver"), steps, order, skip_type, method ("multistep", "singlestep",
        "singlestep_fixed"), lower_order_final, denoise_to_zero, solver_type ("dpmsolver" or "taylor"), flow_shift,
        t_start (None: 1), t_end (None: 1/total_N), total_N. t_start < t_end inverts data to noise. The names of
        `IGNORED` may be there and change nothing: a plan has no tolerance, and takes velocities.
      code: whose `lower_order_final` it is: "sana" (the k-th step from the end has order at most k) or "upstream" (the
        same, only below 10 steps). Without lowering, a step to t = 0 still has order 1; there the originals give NaN.
      third_order: "published" is what both codes do in the multistep method (measured order 2), "exact" is order 3.

    denoise_to_zero adds one evaluation, the data prediction at the end of the grid; a grid that ends at t = 0 is already
    there and gets none. denoise_to_zero="peers" adds it there too, made at t = t_end though the state lies at 0.

    The singlestep methods place evaluations by the same skip type inside each block. On the two flow grids these
    are the grid's own times (SANA takes the mirror image there, and drops the shift).
    """
    name = "compat.dpm_solver_plan"
    given = {**DEFAULTS, **options}
    schedule = (
        given.pop("noise_schedule", None) if "schedule" not in given else given.pop("schedule")
    )
    for key in given:
        check_choice(name, "options key", key, (*DEFAULTS, *IGNORED, "schedule", "noise_schedule"))
    if given["method"] == "adaptive":
        raise ValueError(
            f"{name}: method='adaptive' chooses its steps while it runs, so it is no plan; use flowjax.sample_adaptive with "
            "flowjax.Tolerance(atol, rtol), or method='multistep'."
        )
    check_choice(name, "method", given["method"], METHODS)
    check_choice(name, "algorithm", given["algorithm"], ("dpmsolver++", "dpmsolver"))
    check_choice(name, "solver_type", given["solver_type"], ("dpmsolver", "taylor"))
    check_choice(name, "code", code, ("sana", "upstream"))
    check_choice(name, "denoise_to_zero", given["denoise_to_zero"], (False, True, "peers"))
    total = given["total_N"]
    if not isinstance(schedule, Schedule):
        schedule = dpm_solver_schedule(schedule, total)
    total = total or getattr(schedule, "steps", 1000)
    start = 1.0 if given["t_start"] is None else given["t_start"]
    end = 1 / total if given["t_end"] is None else given["t_end"]
    make_grid = functools.partial(
        dpm_solver_grid, schedule, given["skip_type"], shift=given["flow_shift"]
    )
    common = {
        "variant": "midpoint" if given["solver_type"] == "dpmsolver" else "taylor",
        "prediction": "data" if given["algorithm"] == "dpmsolver++" else "noise",
    }
    if given["method"] == "multistep":
        grid = make_grid(given["steps"], start=start, end=end)
        lowered = given["lower_order_final"] and (code == "sana" or given["steps"] < 10)
        plan = plans.dpm_solver_pp(
            schedule,
            grid,
            given["order"],
            third_order=third_order,
            final="sana" if lowered else "auto",
            **common,
        )
    else:
        plan = plans.singlestep(schedule, _blocks(make_grid, schedule, given, start, end), **common)
    return (
        _denoised(plan, schedule, given["denoise_to_zero"], end)
        if given["denoise_to_zero"]
        else plan
    )


def _blocks(make_grid, schedule, given, start, end):
    """Blocks of times for `plans.singlestep`: a list of (t0, stages..., t1)."""
    steps, order, fixed = given["steps"], given["order"], given["method"] == "singlestep_fixed"
    check_choice("compat.dpm_solver_plan", "order", order, (1, 2, 3))
    if steps < order:
        raise ValueError(
            f"compat.dpm_solver_plan: steps={steps} evaluations are too few for a block of order {order}; take at least "
            f"{order}, or order={steps}."
        )
    orders = [order] * (steps // order) if fixed else singlestep_orders(steps, order)
    ends = np.append(0, np.cumsum(orders))
    if given["skip_type"] in FLOW_GRIDS:
        grid = make_grid(ends[-1], start=start, end=end)
        blocks = [tuple(grid[i : j + 1]) for i, j in zip(ends[:-1], ends[1:], strict=True)]
    else:
        even = fixed or given["skip_type"] == "logSNR"
        outer = (
            make_grid(len(orders), start=start, end=end)
            if even
            else make_grid(steps, start=start, end=end)[ends]
        )
        blocks = [
            (t0, *make_grid(k, start=t0, end=t1)[1:-1], t1)
            for k, t0, t1 in zip(orders, outer[:-1], outer[1:], strict=True)
        ]
    return [piece for block in blocks for piece in _settled(schedule, block)]


def _settled(schedule, block):
    """The block, or two that spend the same evaluations where one end has infinite log-SNR and is taken at order 1."""
    finite = np.isfinite(schedule.log_snr(np.array(block)))
    if len(block) > 2 and not finite[0]:
        return [block[:2], *_settled(schedule, block[1:])]
    if len(block) > 2 and not finite[-1]:
        return [block[:-1], block[-2:]]
    return [block]


def _denoised(plan, schedule, rule, t_end):
    """The plan and one data prediction at its end."""
    last = plan.t_next[-1]
    if last > 0:
        return plans.concat(plan, plans.ddim(schedule, [last, 0.0]))
    return (
        plans.concat(plan, plans.ddim(schedule, [t_end, 0.0])._replace(t=np.zeros(1)))
        if rule == "peers"
        else plan
    )
