"""The defects: for each one, how a plan is built with it and without it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.lab import solvers
from experiments.order.ledger import thousandths
from flowjax import Linear, Plan, grids, plans
from flowjax.plans import Builder
from flowjax.schedules import Schedule

NO_CUT = ""  # labels that are not cut
HALF = 0.5  # where the wrong inverse first returns times inside [0, 1]


class Case(NamedTuple):
    """One comparison.

    Attributes:
      defect, whose, solver, nfe: as they stand in the rows.
      build: (schedule, evaluations, option) -> Plan.
      before, after: the option with the defect, and without it.
    """

    defect: str
    whose: str
    solver: str
    nfe: int
    build: Callable[..., Plan]
    before: bool | str
    after: bool | str


# ---- a wrong inverse of log-SNR


class WrongInverse(Linear):
    """The linear path with the inverse of log-SNR that NVlabs/Sana's flow schedule has."""

    def time_of_log_snr(self, log_snr: np.ndarray) -> np.ndarray:
        """exp(-log_snr), which is sigma/alpha = t/(1-t) and passes 1 in the noisy half."""
        return np.exp(-log_snr)


def second_singlestep(schedule: Schedule, times: Sequence[float]) -> Plan:
    """DPM-Solver++ 2S with the middle of each step where `schedule` says it is, unchecked.

    The public codes trust the inverse: state, network and weights of the middle are those of the
    time that it returns, while the weights of the last update are those of a middle at half the
    step (arXiv:2211.01095, algorithm 1).
    """
    rows = Builder("defects.second_singlestep")
    for t0, t1 in zip(times[:-1], times[1:], strict=True):
        # All times of the step from the true path; only the middle comes from `schedule`.
        start, end = Linear().log_snr(np.array([t0, t1]))
        middle = float(schedule.time_of_log_snr((start + end) / 2))
        first = len(rows)
        h = end - start
        to_middle = -(1 - middle) * np.expm1(-h / 2)
        to_end = -(1 - t1) * np.expm1(-h)
        rows.row(t0, middle, kind="data", c=middle / t0, d={first: to_middle}, ends_step=False)
        rows.row(middle, t1, kind="data", a=t1 / t0, b={first + 1: to_end})
    return rows.build(check=False)  # a wrong inverse places the middle wrongly


def _wrong_inverse(schedule: Schedule, nfe: int, wrong: bool) -> Plan:
    used = WrongInverse() if wrong else schedule
    return plans.dpm_solver_pp(used, grids.uniform(nfe // 2 + 1), 2, method="singlestep")


def _wrong_inverse_from_half(schedule: Schedule, nfe: int, wrong: bool) -> Plan:
    times = grids.log_snr(schedule, (nfe - 1) // 2, start=HALF, end=0.01)
    # A last jump, as the other cases have it.
    head = second_singlestep(WrongInverse() if wrong else schedule, times)
    return plans.concat(head, plans.euler([0.01, 0.0]))


# ---- the last step


def _not_counted(plan: Plan) -> Plan:
    return plan._replace(counted=np.zeros(plan.rows, bool))


def _with_jump(plan: Plan) -> Plan:
    """The plan, and a first-order jump from where it ends to t = 0, which is not counted."""
    if plan.t_next[-1] == 0:
        return plan
    return plans.concat(plan, _not_counted(plans.euler([plan.t_next[-1], 0.0])))


def _not_lowered(order: int, end: float) -> Callable[..., Plan]:
    """Order 2 or 3 up to the last time, which is moved to `end`."""

    def build(schedule: Schedule, steps: int, final: str) -> Plan:
        # Where log-SNR is infinite, the plan is refused; close to it, the update is huge.
        grid = grids.uniform(steps, shift=3.0)
        grid[-1] = end
        return _with_jump(
            plans.dpm_solver_pp(schedule, grid, order, third_order="published", final=final)
        )

    return build


def _final_rule(schedule: Schedule, steps: int, rule: str) -> Plan:
    grid = grids.uniform(steps)
    return plans.dpm_solver_pp(schedule, grid, 3, third_order="published", final=rule)


# ---- singlestep blocks, weights and labels


def uneven_blocks(times: Sequence[float]) -> list[tuple[float, ...]]:
    """Blocks of singlestep order 3 with inner times uniform in t, as a time_uniform skip has them.

    A block that touches t = 0 or t = 1 is one step.
    """
    # Two inner times at thirds of the step in t; the update needs them at thirds in log-SNR.
    blocks = [
        (t0, *np.linspace(t0, t1, 4)[1:3], t1) for t0, t1 in zip(times[:-1], times[1:], strict=True)
    ]
    return [b if 0 < b[-1] and b[0] < 1 else (b[0], b[-1]) for b in blocks]


def _inner_times(schedule: Schedule, nfe: int, uneven: bool) -> Plan:
    """Blocks from 1 to 0.001, the end that dpm-solver takes, and the jump."""
    # The first block touches t = 1, so it is one row.
    times = grids.uniform((nfe + 2) // 3, end=0.001)
    if uneven:
        return _with_jump(plans.singlestep(schedule, uneven_blocks(times)))
    return _with_jump(plans.dpm_solver_pp(schedule, times, 3, method="singlestep"))


def _half_weight(make_grid: solvers.MakeGrid) -> Callable[..., Plan]:
    def build(schedule: Schedule, steps: int, third_order: str) -> Plan:
        grid = make_grid(steps - 1)
        return plans.dpm_solver_pp(schedule, grid, 3, third_order=third_order, start="singlestep")

    return build


def _cut_labels(order: int) -> Callable[..., Plan]:
    """As diffusers: 0.999 is the first time; a first-order jump of 0.001 takes x there."""

    def build(schedule: Schedule, steps: int, cut: str) -> Plan:
        grid = grids.uniform(steps, start=0.999)
        plan = plans.dpm_solver_pp(schedule, grid, order, third_order="published")
        if cut != NO_CUT:
            plan = plans.with_labels(plan, thousandths(plan.t, cut))
        return plans.concat(_not_counted(plans.euler([1.0, 0.999])), plan)

    return build


# ---- a least sigma that is shifted twice


def twice_shifted(steps: int, shift: float, last: float = 0.001, times: int = 2) -> np.ndarray:
    """FlowMatchEuler's grid in diffusers.

    It is uniform from 1 to a least sigma that is shifted already, shifted again, and then 0.
    """
    # t' = s t / (1 + (s - 1) t), once for each time that the code shifts it.
    for _ in range(times - 1):
        last = float(grids.shifted(last, shift))
    return np.append(grids.uniform(steps - 1, shift=shift, end=last), 0.0)


def _twice_or_once(schedule: Schedule, steps: int, twice: bool) -> Plan:
    return plans.euler(twice_shifted(steps, 3.0, times=2 if twice else 1))


def _twice_or_to_zero(schedule: Schedule, steps: int, twice: bool) -> Plan:
    return plans.euler(twice_shifted(steps, 3.0) if twice else grids.uniform(steps, shift=3.0))


# ---- all cases


def _cases() -> list[Case]:
    # Whose code has the defect.
    sana, diffusers = "NVlabs/Sana", "diffusers"
    cases = [
        Case("wrong inverse", sana, "DPM++ 2S", 20, _wrong_inverse, True, False),
        Case(
            f"wrong inverse, from t = {HALF:g}",
            sana,
            "DPM++ 2S",
            20,
            _wrong_inverse_from_half,
            True,
            False,
        ),
    ]
    for end in (0, 1e-7, 1e-3):
        for order in (2, 3):
            name, build = f"not lowered, end {end:g}", _not_lowered(order, end)
            cases.append(Case(name, sana, f"DPM++ {order}M", 20, build, "none", "sana"))
    for nfe in (19, 100):
        name = "stages uniform in t"
        cases.append(Case(name, "dpm-solver", "DPM++ 3S", nfe, _inner_times, True, False))
    # On two grids, since the effect of the half weight depends on the steps.
    grids_of = {"uniform": solvers.shifted(1.0), "log-SNR": solvers.log_snr_with_ends()}
    for grid, make_grid in grids_of.items():
        for steps in (20, 100):
            name, build = f"half weight, {grid}", _half_weight(make_grid)
            cases.append(Case(name, "all", "DPM++ 3M", steps, build, "published", "exact"))
    for steps in (20, 100):
        for order in (1, 2, 3):
            solver = f"DPM++ {order}M" if order > 1 else "Euler"
            build = _cut_labels(order)
            cases.append(Case("labels cut", diffusers, solver, steps, build, "floor", NO_CUT))
    for name, build in (
        ("sigma shifted twice, or once", _twice_or_once),
        ("sigma shifted twice, or to 0", _twice_or_to_zero),
    ):
        cases.append(Case(name, diffusers, "Euler", 20, build, True, False))
    for steps in (20, 100):
        name = "order 3 before the jump"
        cases.append(Case(name, diffusers, "DPM++ 3M", steps, _final_rule, "diffusers", "sana"))
    return cases


CASES = _cases()
