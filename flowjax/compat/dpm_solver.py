"""Plans from the options of LuChengTHU/dpm-solver and of NVlabs/Sana, which use the same names."""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flowjax import grids, plans
from flowjax.errors import check_choice
from flowjax.plans import Plan
from flowjax.schedules import Linear, Schedule, VPDiscrete, VPLinear

SCHEDULES = ("discrete_flow", "discrete_linear", "discrete_cosine", "linear")
SKIP_TYPES = ("time_uniform", "time_quadratic", "logSNR", "time_uniform_flow", "linear_quadratic")
METHODS = ("multistep", "singlestep", "singlestep_fixed")
# One rule makes these grids from start to end, so they cannot be made anew inside each block.
FLOW_GRIDS = ("time_uniform_flow", "linear_quadratic")

DEFAULTS = {
    "algorithm": "dpmsolver++",
    "steps": 20,
    "order": 2,
    "skip_type": "time_uniform",
    "method": "multistep",
    "lower_order_final": True,
    "denoise_to_zero": False,
    "solver_type": "dpmsolver",
    "flow_shift": 1.0,
    "t_start": None,
    "t_end": None,
    "total_N": None,
}
# The values of the options with a closed set, besides the schedule and the skip type.
CHOICES = {
    "method": METHODS,
    "algorithm": ("dpmsolver++", "dpmsolver"),
    "solver_type": ("dpmsolver", "taylor"),
    "denoise_to_zero": (False, True, "peers"),
}
# Options that change no fixed-step solver: what the network predicts, whether the path is saved,
# and the tolerances of the adaptive method.
IGNORED = ("model_type", "return_intermediate", "atol", "rtol")
UPSTREAM_FEW_STEPS = 10  # below this number of steps LuChengTHU/dpm-solver lowers the last orders


@functools.cache
def dpm_solver_schedule(name: str, total_N: int | None = None) -> Schedule:
    """The schedule of this name, the same object at every call.

    Args:
      name: "discrete_flow" (the linear path), "discrete_linear" and "discrete_cosine" (discrete VP
        with 1000 betas, unless `total_N` gives another number) or "linear" (the continuous VP SDE).
      total_N: the number of nodes after the clip at log-SNR -5.1 (996 of 1000 for the cosine
        betas).

    Raises:
      ValueError: the name is not known, or no schedule of this name has `total_N` nodes.
    """
    check_choice("compat.dpm_solver_schedule", "schedule", name, SCHEDULES)
    if name == "discrete_flow":
        return Linear()
    if name == "linear":
        return VPLinear()
    make = VPDiscrete.linear if name == "discrete_linear" else VPDiscrete.cosine
    # `total_N` counts the nodes that remain after the clip, so 1000 betas come first: the clip may
    # leave just `total_N` of them.
    for betas in (1000, total_N):
        schedule = make(betas)
        if total_N in (None, schedule.steps):
            return schedule
    raise ValueError(
        f"compat.dpm_solver_schedule: no {name!r} schedule has total_N={total_N} nodes after the "
        f"clip (1000 betas leave {make(1000).steps}); pass a flowjax schedule, such as "
        "VPDiscrete(betas), as options['schedule']."
    )


def dpm_solver_grid(
    schedule: Schedule | None,
    skip_type: str,
    steps: int,
    *,
    start: float,
    end: float,
    shift: float = 1.0,
) -> np.ndarray:
    """The grid that a `skip_type` of these codes makes.

    Args:
      schedule: needed by "logSNR" only.
      skip_type: "time_uniform"; "time_quadratic" (sqrt(t) is uniform); "logSNR";
        "time_uniform_flow" (1 - t is uniform between the ends, so that the grid runs from 1 - end
        to 1 - start, and then it is shifted); "linear_quadratic" (from 1 - end to 0).
      steps: number of steps N.
      start: their t_T.
      end: their t_0. With start < end the grid inverts data to noise: the same times, increasing.
      shift: of "time_uniform_flow" only.

    Returns:
      (N+1,) float64.
    """
    check_choice("compat.dpm_solver_grid", "skip_type", skip_type, SKIP_TYPES)
    if start < end:
        decreasing = dpm_solver_grid(schedule, skip_type, steps, start=end, end=start, shift=shift)
        return decreasing[::-1]
    if skip_type == "time_uniform":
        return grids.uniform(steps, start=start, end=end)
    if skip_type == "time_quadratic":
        return grids.quadratic(steps, start=start, end=end)
    if skip_type == "logSNR":
        return grids.log_snr(schedule, steps, start=start, end=end)
    # The two flow grids measure their ends from the data, hence 1 - end and 1 - start.
    if skip_type == "time_uniform_flow":
        return grids.uniform(steps, shift=shift, start=1 - end, end=1 - start)
    return grids.linear_quadratic(steps, start=1 - end)


def singlestep_orders(steps: int, order: int) -> list[int]:
    """The orders of the blocks with which these codes use exactly `steps` evaluations.

    Args:
      steps: number of evaluations.
      order: of the blocks, 1, 2 or 3; the last ones may have a lower order.

    Returns:
      A list that sums to `steps`.
    """
    check_choice("compat.singlestep_orders", "order", order, (1, 2, 3))
    full_blocks, rest = divmod(steps, order)
    if order == 3 and rest == 0:
        # These codes never end with a block of three.
        return [3] * (full_blocks - 1) + [2, 1]
    orders = [order] * full_blocks
    if rest:
        orders.append(rest)
    return orders


def dpm_solver_plan(
    options: Mapping[str, Any], *, code: str = "sana", third_order: str = "published"
) -> Plan:
    """The plan of these options in NVlabs/Sana or in LuChengTHU/dpm-solver.

    denoise_to_zero adds one evaluation, the data prediction at the end of the grid. A grid that
    ends at t = 0 needs none and gets none. With denoise_to_zero="peers" it gets one there too: the
    network receives t = t_end although the state lies at 0.

    The singlestep methods place the evaluations inside each block by the same skip type. On the
    two flow grids these are times of the grid itself (there SANA takes 1 - t for t and drops the
    shift).

    Args:
      options: a dictionary with "schedule" or "noise_schedule" (a name of `SCHEDULES` or a flowjax
        schedule) and any of `DEFAULTS`: algorithm ("dpmsolver++" or "dpmsolver"), steps, order,
        skip_type, method ("multistep", "singlestep", "singlestep_fixed"), lower_order_final,
        denoise_to_zero (False, True or "peers"), solver_type ("dpmsolver" or "taylor"), flow_shift,
        t_start (None: 1), t_end (None: 1/total_N), total_N. With t_start < t_end the plan inverts
        data to noise. The names of `IGNORED` are accepted and change nothing: a plan has no
        tolerance and takes velocities.
      code: the code whose rule lower_order_final follows. In "sana" the k-th step from the end has
        order at most k; in "upstream" the same holds only below 10 steps. Without lowering, a step
        to t = 0 still has order 1, where the originals give NaN.
      third_order: of the multistep method. "published" is what both codes do (measured order 2),
        "exact" has order 3.

    Raises:
      ValueError: an option or value is not known here, or the method is adaptive.
    """
    name = "compat.dpm_solver_plan"

    # The options, with the names that `flowjax.plans` gives them.
    check_choice(name, "code", code, ("sana", "upstream"))
    given = _read(name, options)
    schedule = given["schedule"]
    start, end = _ends(given, schedule)
    make_grid = functools.partial(
        dpm_solver_grid, schedule, given["skip_type"], shift=given["flow_shift"]
    )
    solver_options = {
        "variant": "midpoint" if given["solver_type"] == "dpmsolver" else "taylor",
        "prediction": "data" if given["algorithm"] == "dpmsolver++" else "noise",
    }

    # The solver on its grid.
    if given["method"] == "multistep":
        few_steps = given["steps"] < UPSTREAM_FEW_STEPS
        lowers = given["lower_order_final"] and (code == "sana" or few_steps)
        plan = plans.dpm_solver_pp(
            schedule,
            make_grid(given["steps"], start=start, end=end),
            given["order"],
            third_order=third_order,
            final="sana" if lowers else "auto",
            **solver_options,
        )
    else:
        blocks = _blocks(make_grid, schedule, given, start, end)
        plan = plans.singlestep(schedule, blocks, **solver_options)

    # The data prediction at the end.
    denoise = given["denoise_to_zero"]
    last = plan.t_next[-1]
    if denoise and last > 0:
        return plans.concat(plan, plans.ddim(schedule, [last, 0.0]))
    if denoise == "peers":
        # The network receives t_end, but the state is at 0 already.
        denoising = plans.ddim(schedule, [end, 0.0])._replace(t=np.zeros(1))
        return plans.concat(plan, denoising)
    return plan


def _read(name, options):
    """All options with their values; "schedule" holds the schedule object."""
    for key in options:
        check_choice(name, "options key", key, (*DEFAULTS, *IGNORED, "schedule", "noise_schedule"))
    given = {**DEFAULTS, **options}
    if given["method"] == "adaptive":
        raise ValueError(
            f"{name}: method='adaptive' chooses its steps while it runs, so no plan can hold it; "
            "use flowjax.sample_adaptive with flowjax.Tolerance(atol, rtol), or method='multistep'."
        )
    for key, values in CHOICES.items():
        check_choice(name, key, given[key], values)
    schedule = given["schedule"] if "schedule" in given else given.get("noise_schedule")
    if not isinstance(schedule, Schedule):
        schedule = dpm_solver_schedule(schedule, given["total_N"])
    return {**given, "schedule": schedule}


def _ends(given, schedule):
    """The pair (t_T, t_0) of the grid."""
    start = given["t_start"]
    end = given["t_end"]
    if start is None:
        start = 1.0
    if end is None:
        # A continuous schedule has no number of nodes; these codes then take 1000.
        end = 1 / (given["total_N"] or getattr(schedule, "steps", 1000))
    return start, end


def _blocks(
    make_grid: Callable[..., np.ndarray],
    schedule: Schedule,
    given: dict[str, Any],
    start: float,
    end: float,
) -> list[tuple[float, ...]]:
    """Blocks of times for `plans.singlestep`: a list of (t0, times in between ..., t1)."""
    steps, order = given["steps"], given["order"]
    check_choice("compat.dpm_solver_plan", "order", order, (1, 2, 3))
    if steps < order:
        raise ValueError(
            f"compat.dpm_solver_plan: steps={steps} evaluations are too few for a block of order "
            f"{order}; take at least {order}, or order={steps}."
        )
    # The fixed method has blocks of one order only, and leaves the evaluations of a rest unused.
    is_fixed = given["method"] == "singlestep_fixed"
    orders = [order] * (steps // order) if is_fixed else singlestep_orders(steps, order)
    ends = np.append(0, np.cumsum(orders))

    if given["skip_type"] in FLOW_GRIDS:
        grid = make_grid(ends[-1], start=start, end=end)
        blocks = [tuple(grid[i : j + 1]) for i, j in itertools.pairwise(ends)]
    else:
        # These codes give all blocks one length in two cases, else a length by their order.
        if is_fixed or given["skip_type"] == "logSNR":
            block_ends = make_grid(len(orders), start=start, end=end)
        else:
            block_ends = make_grid(steps, start=start, end=end)[ends]
        blocks = []
        for k, (t0, t1) in zip(orders, itertools.pairwise(block_ends), strict=True):
            between = make_grid(k, start=t0, end=t1)[1:-1]
            blocks.append((t0, *between, t1))
    return [part for block in blocks for part in _with_finite_log_snr(schedule, block)]


def _with_finite_log_snr(schedule, block):
    """The block, or the blocks of a lower order that it becomes if log-SNR is infinite at an end.

    The step at that end has order 1; the number of evaluations stays.
    """
    finite = np.isfinite(schedule.log_snr(np.array(block)))
    if len(block) > 2 and not finite[0]:
        return [block[:2], *_with_finite_log_snr(schedule, block[1:])]
    if len(block) > 2 and not finite[-1]:
        return [block[:-1], block[-2:]]
    return [block]
