"""The recipe: from a model and starts to a table that is better than the published ones.

1. Split the starts by a key: half train, a quarter validates, a quarter tests.
2. Choose the best published plan and grid on the validation starts.
3. Integrate all starts to converged endpoints.
4. Refine from that plan, and side by side from least squares on its grid, on a part of the training
   starts; where the velocity is rough in time, more plans take part. The best of them on the
   validation starts goes on with all training starts.
5. Accept the table only if it is better on the test starts, which nothing before has seen.
"""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import grids, plans
from flowjax.distances import Ratio, paired_ratio, rms
from flowjax.errors import check_choice, check_number, check_whole
from flowjax.plans.table import DEPTH, Plan
from flowjax.schedules import Linear, Schedule
from flowjax.tune import numbers as numbering
from flowjax.tune.levenberg_marquardt import Iteration, Search, Starts, error_of
from flowjax.tune.row_by_row import fit, on_other_grids, table
from flowjax.tune.runner import DERIVATIVES, Runner, at_least_float32, check_batch
from flowjax.tune.truth import converged, errors
from flowjax.types import Array, PyTree

SHIFTS = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0)  # of the uniform grids that are compared
FIRST_TOLERANCE = 5e-3  # of the reference that ranks the published plans
PART = 1 / 20  # tolerance of the final reference, as a part of the best published error
FLOORS = {"float64": 1e-6, "float32": 1e-5}  # the least tolerance that a type can reach
LEAST_STARTS = 8  # two of them test, which is the least for an interval
FEW = 8  # validation starts on which all published plans are compared
FINALISTS = 8  # of them are compared on all validation starts
HEAT = 2  # iterations of a refinement before the next one has its turn
SMOOTH = 3.0  # second differences in time fall 4 times at half the step where they are smooth
ROUGH_RESTARTS = 3  # published plans that are refined where they are not
RACE_PART = 4  # the race of several refinements is run on this part of the training starts
RACE_EQUATIONS = 6  # and on so many equations for each number at least


class Errors(NamedTuple):
    """Root mean square errors of a plan, relative to the size of the converged endpoints."""

    train: float
    validation: float
    test: float


class Tuned(NamedTuple):
    """What `tune` found.

    Attributes:
      plan: the tuned table if it was accepted, else the published plan.
      start: the best published plan.
      name: of that plan and its grid.
      before: errors of `start`.
      after: errors of the tuned table, also if it was not accepted.
      ratio: of the errors on the test starts, tuned over published, with a 95 % interval.
      accepted: whether the upper end of that interval lies below 1.
      history: the iterations of the refinement that was kept.
      evaluations: of the network for one sample each, over all starts and everything that ran.
      sentence: the result in words.
    """

    plan: Plan
    start: Plan
    name: str
    before: Errors
    after: Errors
    ratio: Ratio
    accepted: bool
    history: list[Iteration]
    evaluations: int
    sentence: str


class _Published(NamedTuple):
    """A published solver on a grid."""

    name: str
    make: Callable[[np.ndarray], Plan]
    grid: np.ndarray


def tune(
    model: Callable,
    noise: Array,
    steps: int,
    *,
    condition: PyTree = None,
    schedule: Schedule | None = None,
    start: Callable[[np.ndarray], Plan] | None = None,
    iterations: int = 8,
    restarts: int | None = None,
    key: jax.Array | None = None,
    depth: int = DEPTH,
    free: tuple[str, ...] = ("times", "state", "outputs"),
    bound: float | None = 20.0,
    tolerance: float | None = None,
    derivatives: str = "jvp",
    at_once: int | None = None,
    seconds: float | None = None,
    progress: Callable[[Iteration], None] | None = None,
) -> Tuned:
    """Find a table of `steps` steps that is better for `model` than the published plans.

    Args:
      model: (x, t) -> velocity (B, *D); with a condition, (x, t, condition) -> velocity.
      noise: (B, *D) starts at t = 1, drawn as they are when the model samples; those of half
        precision are taken in float32.
      steps: of the grid; one evaluation each for the published plans that are compared.
      condition: a pytree with leading axis B, such as labels; each start keeps its own.
      schedule: the path of the model; linear by default.
      start: grid -> Plan, a solver to begin from instead of the published ones.
      iterations: Jacobians at most: half of them for each starting table on a part of the
        training starts, and the other half for the best of them on all.
      restarts: how many published plans, the best ones on different grids, are refined side by
        side. None: 1, or 3 where the velocity is rough in time at the step of the grid (see
        `roughness`), since the error then has many minima in the times.
      key: splits the starts; jax.random.key(0) by default.
      depth, free, bound, derivatives, at_once, progress: as in `refine`.
      seconds: after this time the refinements go no further, and the best table so far is tested.
      tolerance: of the converged endpoints; by default a twentieth of the error of the best
        published plan.

    Raises:
      ValueError: the starts are too few, the condition has another length, the model is not finite
        on the way, its ODE does not converge to the tolerance, or an option is not known.
    """
    # Refuse first what would only fail after minutes.
    check_whole("tune.tune", "steps", steps, 1)
    check_whole("tune.tune", "iterations", iterations, 0)
    if restarts is not None:
        check_whole("tune.tune", "restarts", restarts, 1)
    check_choice("tune.tune", "derivatives", derivatives, DERIVATIVES)
    if seconds is not None:
        check_number("tune.tune", "seconds", seconds, 0, above=True)
    begun = time.monotonic()
    schedule = schedule or Linear()
    noise = np.asarray(noise) if derivatives == "differences" else jnp.asarray(noise)
    noise = at_least_float32(noise)
    check_batch("tune.tune", noise, condition)
    candidates = _candidates(steps, schedule, start)
    _check_starts(candidates, noise, free, depth)

    # The best published plan, and the endpoints to measure against.
    runner = Runner(model, derivatives)
    train, validation, test = split(len(noise), jax.random.key(0) if key is None else key)
    ranked, best_error = _ranked(runner, candidates, noise, condition, validation, tolerance)
    best = ranked[0]
    if not np.isfinite(best_error):
        raise ValueError(
            f"tune.tune: the model is not finite on the way of every published plan of {steps} "
            "steps; look at its output there."
        )
    if tolerance is None:
        tolerance = max(PART * best_error, FLOORS.get(str(noise.dtype), 1e-5))
    # At the times of its grid, since least squares wants the states there.
    states = converged(runner, noise, best.grid, tolerance, condition).states
    parts = [_part(noise, states[-1], condition, which) for which in (train, validation, test)]

    # Refine, from the published weights and from fitted ones: neither is always the better start.
    if restarts is None:
        is_rough = (
            steps > 1 and roughness(runner, noise[:8], _part_of(condition, 8), steps) < SMOOTH
        )
        restarts = ROUGH_RESTARTS if is_rough else 1
    begins = [(published.make, published.grid) for published in _on_different_grids(ranked)]
    begins = begins[:restarts]
    if {"state", "outputs"} <= set(free):
        of_train = parts[0].condition
        weights = fit(runner, parts[0].noise, best.grid, states[:, train], of_train, depth)
        fitted = table(best.grid, *weights, schedule)
        begins.append((on_other_grids(best.grid, fitted, schedule), best.grid))
    searches = [
        _search(runner, make, grid, parts, free, depth, bound, at_once, progress)
        for make, grid in begins
    ]
    end = np.inf if seconds is None else begun + seconds
    kept = _best_search([search for search in searches if search], parts[0], iterations, end)

    # Accept it on the starts that nothing has seen.
    published = best.make(best.grid)
    # Both on the same starts, with the same reference.
    before = Errors(*(error_of(runner, published, part) for part in parts))
    tuned = kept.best[0]
    after = Errors(*(error_of(runner, tuned, part) for part in parts))
    ratio = _ratio_on(runner, tuned, published, parts[2])
    accepted = bool(ratio.high < 1)
    return Tuned(
        plan=tuned if accepted else published,
        start=published,
        name=best.name,
        before=before,
        after=after,
        ratio=ratio,
        accepted=accepted,
        history=kept.history,
        evaluations=runner.evaluations,
        sentence=_sentence(accepted, ratio, best.name, published.rows, len(test)),
    )


def published_solvers(steps: int, schedule: Schedule) -> dict[str, Callable[[np.ndarray], Plan]]:
    """The published solvers of one evaluation a step whose order `steps` steps can reach."""
    multistep = functools.partial(plans.dpm_solver_pp, schedule)
    solvers = {
        "Adams-Bashforth 2": (2, functools.partial(plans.adams_bashforth, order=2)),
        "Adams-Bashforth 3": (3, functools.partial(plans.adams_bashforth, order=3)),
        "DPM-Solver++ 2M": (2, functools.partial(multistep, order=2)),
        "DPM-Solver++ 3M": (3, functools.partial(multistep, order=3, third_order="exact")),
        "UniPC 3": (3, functools.partial(plans.unipc, schedule, order=3)),
        "DEIS 3": (3, functools.partial(plans.deis, schedule, order=3)),
    }
    reached = {name: make for name, (order, make) in solvers.items() if order <= steps}
    return reached or {"Euler": plans.euler}


def split(count: int, key: jax.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the training, validation and test starts: 1/2, 1/4 and 1/4 of `count`."""
    # What remains of the division by four trains.
    mixed = np.asarray(jax.random.permutation(key, count))
    quarter = count // 4
    return mixed[2 * quarter :], mixed[:quarter], mixed[quarter : 2 * quarter]


def _candidates(steps: int, schedule: Schedule, start: Callable | None) -> list[_Published]:
    """All solvers on all grids."""
    solvers = published_solvers(steps, schedule)
    if start is not None:
        solvers = {getattr(start, "__name__", "the given start"): start}
    return [
        _Published(f"{name} on the uniform grid of shift {shift:g}", make, grid)
        for shift in SHIFTS
        for grid in [grids.uniform(steps, shift=shift)]
        for name, make in solvers.items()
    ]


def _check_starts(
    candidates: list[_Published], noise: Array, free: tuple[str, ...], depth: int
) -> None:
    """Refuse starts whose training half does not determine the numbers of every candidate."""
    # Solvers with a corrector have more numbers than others.
    most = 0
    for candidate in candidates:
        numbers = numbering.numbers_of("tune.tune", candidate.make, candidate.grid, free, depth)
        most = max(most, numbers.count)
    each = int(np.prod(np.shape(noise)[1:]))
    # Three equations for each number, as in `refine`, from half of the starts
    wanted = max(LEAST_STARTS, 2 * -(-3 * most // each))
    if len(noise) < wanted:
        raise ValueError(
            f"tune.tune: {len(noise)} start(s) of {each} numbers for up to {most} free numbers of "
            f"the table, and half of the starts train; give at least {wanted} starts, or free "
            "fewer numbers."
        )


def _part(noise: Array, exact: np.ndarray, condition: PyTree, which: np.ndarray) -> Starts:
    """The starts `which` with their endpoints and conditions."""
    of_part = jax.tree.map(lambda leaf: leaf[which], condition)
    return Starts(noise[which], exact[which], of_part)


def roughness(runner: Runner, noise: Array, condition: PyTree, steps: int) -> float:
    """How much smaller second differences of the velocity in time become at half the step.

    The state is held, so that only the dependence on the time counts. A velocity that is smooth at
    the step 1/steps gives 4, and one that is rough there gives about 1.
    """
    sizes, velocities = [], []
    for h in (0.5 / steps, 0.25 / steps):
        middles = np.linspace(0.25, 0.75, 5)
        total = 0.0
        for t in middles:
            before, here, after = (
                np.asarray(runner.velocity(noise, t + k * h, condition), np.float64)
                for k in (-1, 0, 1)
            )
            total += float(np.mean(np.square(before - 2 * here + after)))
            velocities.append(float(np.sqrt(np.mean(np.square(here)))))
        sizes.append(np.sqrt(total / len(middles)))
    # A velocity that hardly depends on the time has differences of rounding errors only.
    if sizes[0] <= 1e-5 * max(velocities):
        return 4.0
    return sizes[0] / sizes[1]


def _part_of(condition: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[:count], condition)


def _ranked(
    runner: Runner,
    candidates: list[_Published],
    noise: Array,
    condition: PyTree,
    validation: np.ndarray,
    tolerance: float | None,
) -> tuple[list[_Published], float]:
    """The candidates, that of the least error on the validation starts first; and that error."""
    starts = _part(noise, noise, condition, validation)
    rough = tolerance or FIRST_TOLERANCE
    ends = converged(runner, starts.noise, [1.0, 0.0], rough, starts.condition).states[-1]
    starts = starts._replace(exact=ends)
    # All on a few starts, then the better ones on all of them.
    few = _part(starts.noise, ends, starts.condition, np.arange(min(FEW, len(validation))))
    ranked, _ = _sorted_by_error(runner, candidates, few)
    better, errors_of_better = _sorted_by_error(runner, ranked[:FINALISTS], starts)
    return better + ranked[FINALISTS:], errors_of_better[0]


def _sorted_by_error(
    runner: Runner, candidates: list[_Published], starts: Starts
) -> tuple[list[_Published], list[float]]:
    """The candidates with their errors on some starts, the least first."""
    # All plans of one length run in one compiled program.
    found = [error_of(runner, candidate.make(candidate.grid), starts) for candidate in candidates]
    # A plan whose samples are not finite is never the best.
    found = [error if np.isfinite(error) else np.inf for error in found]
    order = np.argsort(found, kind="stable")
    return [candidates[i] for i in order], [found[i] for i in order]


def _on_different_grids(ranked: list[_Published]) -> list[_Published]:
    """The best plan of each grid, in order of their errors."""
    found: dict[bytes, _Published] = {}
    for candidate in ranked:
        found.setdefault(candidate.grid.tobytes(), candidate)
    return list(found.values())


def _search(
    runner: Runner,
    make: Callable[[np.ndarray], Plan],
    grid: np.ndarray,
    parts: list[Starts],
    free: tuple[str, ...],
    depth: int,
    bound: float | None,
    at_once: int | None,
    progress: Callable[[Iteration], None] | None,
) -> Search | None:
    """A refinement on a part of the training starts, which the validation starts stop early.

    It is None where the endpoints of the starting table are not finite.
    """
    numbers = numbering.numbers_of("tune.tune", make, grid, free, depth)
    train, validation, _ = parts
    each = int(np.prod(train.noise.shape[1:]))
    count = max(len(train.noise) // RACE_PART, -(-RACE_EQUATIONS * numbers.count // each))
    few = _part(train.noise, train.exact, train.condition, slice(max(count, LEAST_STARTS)))
    # As much at once as with all training starts.
    at_once = len(train.noise) if at_once is None else at_once
    try:
        return Search(runner, numbers, grid, few, validation, bound, at_once, progress)
    except ValueError:
        return None


def _best_search(searches: list[Search], train: Starts, iterations: int, end: float) -> Search:
    """The best of several refinements, each with at most `iterations` Jacobians.

    They run side by side on a part of the starts for half of the iterations, and one that cannot
    go on ends: least squares leads at first, and often stays where it is. Then the best one on the
    validation starts goes on with all training starts. All ends when the clock `time.monotonic`
    shows `end`.
    """
    race = iterations // 2
    running = searches
    while running and race > 0:
        for search in running:
            if time.monotonic() > end:
                break
            search.go(min(HEAT, race))
        race -= HEAT
        running = [search for search in running if search.stopped == "iterations"]
    best = min(searches, key=lambda search: search.best[1])
    best.on(train)
    left = iterations - iterations // 2
    while left > 0 and time.monotonic() < end and best.go(1).stopped == "iterations":
        left -= 1
    return best


def _ratio_on(runner: Runner, plan: Plan, published: Plan, test: Starts) -> Ratio:
    """Errors of `plan` over those of `published`, start by start."""
    tuned, baseline = (
        errors(runner.run(table, test.noise, test.condition), test.exact)
        for table in (plan, published)
    )
    return paired_ratio(tuned, baseline, rms, seed=0)


def _sentence(accepted: bool, ratio: Ratio, name: str, rows: int, count: int) -> str:
    """The result in words."""
    measured = (
        f"on {count} unseen starts its error is {ratio.ratio:.2g} times that of {name}, with a "
        f"95 % interval from {ratio.low:.2g} to {ratio.high:.2g}, at {rows} evaluations"
    )
    if accepted:
        return f"The tuned table is accepted: {measured}."
    return (
        f"The tuned table is not accepted, and the published plan is returned: {measured}. More "
        "starts or iterations may help."
    )
