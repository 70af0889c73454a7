"""The named table of solvers and grids, and one way to run many plans in few compiled programs.

A name is one of `SOLVERS`, or `module:name` for a plan of your own (see `own_solver`). Every grid
here starts at exactly t = 1 and ends at exactly t = 0.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import flowjax
from experiments.lab import own
from flowjax import Linear, Plan, grids, plans
from flowjax.errors import suggestion
from flowjax.schedules import Schedule

Build = Callable[[Schedule, np.ndarray], Plan]  # (schedule, grid) -> plan
MakeGrid = Callable[[int], np.ndarray]  # steps -> (steps+1,) decreasing times


class Solver(NamedTuple):
    """A named solver.

    Attributes:
      build: (schedule, grid) -> Plan.
      order: the order that its name claims; a grid needs at least as many steps.
      rows: steps -> rows of the plan, on a grid that ends at t = 0.
    """

    build: Build
    order: int
    rows: Callable[[int], int]


# ---- the table of solvers


def euler(schedule: Schedule, grid: np.ndarray) -> Plan:
    """Euler's method; it does not use the schedule."""
    return plans.euler(grid)


def heun(schedule: Schedule, grid: np.ndarray) -> Plan:
    """Heun's method; it does not use the schedule."""
    return plans.heun(grid)


def dpm(order: int, **options: Any) -> Build:
    """(schedule, grid) -> plan of DPM-Solver++, with the options of `plans.dpm_solver_pp`."""
    return lambda schedule, grid: plans.dpm_solver_pp(schedule, grid, order, **options)


def unipc(order: int) -> Build:
    """(schedule, grid) -> plan of UniPC with its corrector."""
    return lambda schedule, grid: plans.unipc(schedule, grid, order)


def deis(order: int) -> Build:
    """(schedule, grid) -> plan of DEIS."""
    return lambda schedule, grid: plans.deis(schedule, grid, order)


def adams_bashforth(order: int, **options: Any) -> Build:
    """(schedule, grid) -> plan of Adams-Bashforth, with the options of `plans.adams_bashforth`."""
    return lambda _, grid: plans.adams_bashforth(grid, order, **options)


def _one_row_a_step(steps: int) -> int:
    return steps


def _warm_rows(steps: int) -> int:
    """One row a step, and one more where there is a step between the jumps to start on."""
    return steps + 1 if steps > 2 else steps


# Singlestep blocks and Heun's method take one row on a step that touches t = 1 or t = 0.
SOLVERS = {
    "Euler": Solver(euler, 1, _one_row_a_step),
    "DPM++ 2M": Solver(dpm(2), 2, _one_row_a_step),
    "DPM++ 3M published": Solver(dpm(3, third_order="published"), 3, _one_row_a_step),
    # Cold: the first steps have orders 1 and 2, so the complete run has order 2.
    "DPM++ 3M exact": Solver(dpm(3), 3, _one_row_a_step),
    "DPM++ 3M exact, warm start": Solver(dpm(3, start="singlestep"), 3, _warm_rows),
    "DPM++ 2S": Solver(dpm(2, method="singlestep"), 2, lambda n: max(2 * n - 2, n)),
    "DPM++ 3S": Solver(
        dpm(3, method="singlestep", variant="taylor"), 3, lambda n: max(3 * n - 4, n)
    ),
    "AB2": Solver(adams_bashforth(2), 2, _one_row_a_step),
    "AB3": Solver(adams_bashforth(3), 3, _one_row_a_step),
    "UniPC2": Solver(unipc(2), 2, _one_row_a_step),
    "UniPC3": Solver(unipc(3), 3, _one_row_a_step),
    "DEIS3": Solver(deis(3), 3, _one_row_a_step),
    "Heun": Solver(heun, 2, lambda n: 2 * n - 1),
}


# ---- a plan of one's own


@functools.cache
def own_solver(name: str) -> Solver:
    """The solver that `module:name` means: `plan(grid) -> Plan` or `plan(schedule, grid) -> Plan`.

    Its module is imported from the current directory or the Python path. The plan must go from the
    first time of the grid to the last one, with at least one row for each step.

    Raises:
      ValueError: there is no such module or name, or it is no such function. When a plan is built:
        the function did not return a plan of that grid.
    """
    function = own.load(name, "a function plan(grid) or plan(schedule, grid) that returns a Plan")
    if not callable(function):
        raise ValueError(
            f"{name!r} is a {type(function).__name__}; wanted a function plan(grid) or "
            "plan(schedule, grid)."
        )
    takes_schedule = _required_arguments(name, function) == 2

    def build(schedule: Schedule, grid: np.ndarray) -> Plan:
        try:
            plan = function(schedule, grid) if takes_schedule else function(grid)
        except Exception as error:
            kind = type(error).__name__
            raise ValueError(
                f"{name!r} failed on a grid of {len(grid) - 1} steps with {kind}: {error}"
            ) from error
        return _checked(name, plan, grid)

    @functools.cache
    def rows(steps: int) -> int:
        return build(Linear(), grids.uniform(steps)).nfe

    # Its order is not known, so one step is enough.
    return Solver(build, 1, rows)


def _required_arguments(name: str, function: Callable) -> int:
    """How many arguments a plan's function takes without a default: 1 or 2."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return 1
    # Keyword-only arguments and those with a default are the function's own options.
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in parameters if p.kind in positional and p.default is p.empty]
    if len(required) not in (1, 2):
        raise ValueError(
            f"{name!r} takes {len(required)} arguments; wanted plan(grid) or plan(schedule, grid)."
        )
    return len(required)


def _checked(name: str, plan: Any, grid: np.ndarray) -> Plan:
    """The plan that a function of the user returned, or a ValueError that says why it is none."""
    # It must solve the problem that all other solvers get.
    steps = len(grid) - 1
    if not isinstance(plan, Plan):
        raise ValueError(
            f"{name!r} returned a {type(plan).__name__} for a grid of {steps} steps; wanted a "
            "flowjax.Plan."
        )
    if plan.nfe < steps:
        raise ValueError(
            f"{name!r} returned a plan of {plan.nfe} rows for a grid of {steps} steps; wanted at "
            "least one row a step."
        )
    start, end = float(plan.t[0]), float(plan.t_next[-1])
    if abs(start - grid[0]) > 1e-9 or abs(end - grid[-1]) > 1e-9:
        raise ValueError(
            f"{name!r} returned a plan from t = {start:g} to {end:g} for a grid from {grid[0]:g} "
            f"to {grid[-1]:g}; "
            "wanted the same two times."
        )
    return plan


def find(name: str) -> Solver:
    """The solver of a name: one of `SOLVERS`, or a plan of your own as `module:name`.

    Raises:
      ValueError: the name is neither.
    """
    if own.is_own(name):
        return own_solver(name)
    if name not in SOLVERS:
        raise ValueError(
            f"{name!r} is not known; {suggestion(name, SOLVERS)} A plan of your own is module:name."
        )
    return SOLVERS[name]


def check(
    option: str, names: Iterable[str], grids_of: Iterable[MakeGrid] = (), nfe: Sequence[int] = ()
) -> None:
    """Refuse a name that is no solver, and a plan of one's own that cannot be built.

    It is called before anything is measured, so that a mistake costs no rows.

    Args:
      option: the field of the configuration that has the names.
      names: the names.
      grids_of: the kinds of grid on which plans of one's own are tried.
      nfe: the numbers of evaluations for which they are tried.
    """
    for name in names:
        try:
            find(name)
            if own.is_own(name):
                _try_out(name, grids_of, nfe)
        except ValueError as error:
            raise ValueError(f"--config.{option}: {error}") from error


def _try_out(name: str, grids_of: Iterable[MakeGrid], nfe: Sequence[int]) -> None:
    """Build a plan of one's own for every grid and number of evaluations of a run."""
    for make_grid in grids_of:
        # A plan that fails on some grid fails here, and not after an hour.
        made = [plan_of(name, Linear(), make_grid, count) for count in nfe]
        if nfe and not any(made):
            raise ValueError(
                f"{name!r} takes {find(name).rows(1)} rows for a grid of one step; "
                f"wanted {max(nfe)} at most, the largest number of evaluations."
            )


# ---- grids


def shifted(shift: float) -> MakeGrid:
    """steps -> uniform grid with this shift, from 1 to 0."""
    return lambda steps: grids.uniform(steps, shift=shift)


def log_snr_with_ends(
    schedule: Schedule | None = None, *, start: float = 0.999, end: float = 0.005
) -> MakeGrid:
    """steps -> [1, times from `start` to `end` uniform in log-SNR, 0]: jumps at both ends."""

    def make(steps: int) -> np.ndarray:
        if steps <= 2:
            return grids.uniform(steps)
        # Two steps are the jumps, the others lie between `start` and `end`.
        inner = grids.log_snr(schedule or Linear(), max(steps - 2, 1), start=start, end=end)
        return np.concatenate([[1.0], inner, [0.0]])

    return make


# ---- plans by name, and their endpoints


def plan_of(name: str, schedule: Schedule, make_grid: MakeGrid, nfe: int) -> Plan | None:
    """The plan of a solver with the most steps that `nfe` evaluations allow.

    Args:
      name: of `SOLVERS`, or `module:name`.
      schedule: of the path.
      make_grid: steps -> grid that starts at t = 1 and ends at t = 0.
      nfe: evaluations at most.

    Returns:
      The plan, or None where its order needs more evaluations.
    """
    solver = find(name)
    # More rows come with more steps, so the first that fits is the most.
    steps = next((n for n in range(nfe, 0, -1) if solver.rows(n) <= nfe), 0)
    return solver.build(schedule, make_grid(steps)) if steps >= solver.order else None


def stacked(many: Iterable[Plan], rows: int) -> Plan:
    """Plans padded to `rows` rows and stacked on a new first axis, for `jax.lax.map`."""
    padded = [plans.pad(plan, rows) for plan in many]
    return jax.tree.map(lambda *columns: np.stack(columns), *padded)


@jax.jit
def solve(field: Any, noise: np.ndarray, plan: Plan) -> jax.Array:
    """Endpoint (B, *D) of one plan; one program for each number of rows."""
    return _endpoint(field, noise, plan)


@jax.jit
def _endpoints(field: Any, noise: np.ndarray, stack: Plan) -> jax.Array:
    """Endpoints (P, B, *D) of P stacked plans."""
    # A CPU is quicker with one plan after another, whose arrays stay in its cache: 0.66 to 0.86 of
    # the time on the fields of the order experiment. Other devices get all of them at once.
    together = None if jax.default_backend() == "cpu" else TOGETHER
    run = functools.partial(_endpoint, field, noise)
    return jax.lax.map(run, stack, batch_size=together)


def _endpoint(field, noise, plan):
    return flowjax.sample(field.velocity, noise, plan).x


# Padded lengths: one program for each of them, instead of one for each number of evaluations.
_LENGTHS = (8, 12, 16, 24, 32, 48, 64, 104)
TOGETHER = 8  # plans in one call


def run_plans(field: Any, noise: np.ndarray, many: Sequence[Plan]) -> np.ndarray:
    """Endpoints of many plans from one noise, with few compiled programs.

    Args:
      field: has `velocity(x, t)`; a pytree.
      noise: (B, *D).
      many: P plans of any lengths.

    Returns:
      (P, B, *D), in the order of the plans.
    """
    # Group the plans by padded length: {length: their places in `many`}.
    by_length = {}
    for i, plan in enumerate(many):
        length = next((n for n in _LENGTHS if n >= plan.rows), plan.rows)
        by_length.setdefault(length, []).append(i)

    results = [None] * len(many)
    for length, members in sorted(by_length.items()):
        for first in range(0, len(members), TOGETHER):
            group = members[first : first + TOGETHER]
            chosen = [many[i] for i in group]
            if len(members) > TOGETHER:
                # The last group repeats its last plan, so that it shares the full ones' program.
                chosen += [chosen[-1]] * (TOGETHER - len(group))
            ends = np.asarray(_endpoints(field, noise, stacked(chosen, length)))
            for i, x in zip(group, ends, strict=False):
                results[i] = x
    return np.stack(results)
