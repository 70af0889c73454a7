"""Three optimizers on the same numbers of the same table, each with its curve of errors.

The cost is counted in evaluations of the network for one training start. A gradient of Adam takes
3 N of them: a run forward, and its reverse, which costs two. A derivative of Levenberg-Marquardt by
one number in one row counts as one, as `flowjax.tune` counts it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flowjax
from configs.tune import Config
from experiments.tune import tables, training, unseen
from experiments.tune.subject import Subject
from flowjax import Plan, tune
from flowjax.plans.table import DEPTH
from flowjax.tune import numbers as numbering
from flowjax.tune import truth
from flowjax.tune.row_by_row import fit, on_other_grids, table
from flowjax.tune.runner import Runner

ITERATIONS = 20  # of Levenberg-Marquardt at most
REVERSE = 3  # cost of a gradient by reverse derivatives, in runs
POINTS = 24  # of Adam's curve


class Problem(NamedTuple):
    """What all optimizers get.

    Attributes:
      made: the model.
      runner: runs it; its compiled programs serve all plans.
      make: grid -> Plan, the published solver.
      grid: (steps+1,).
      train, validation: `tune.Starts`.
      states: (steps+1, B, *D) converged states of the training starts at the grid's times.
    """

    made: Subject
    runner: Runner
    make: Callable[[np.ndarray], Plan]
    grid: np.ndarray
    train: tune.Starts
    validation: tune.Starts
    states: np.ndarray


class Curve(NamedTuple):
    """How the error fell.

    Attributes:
      spent: evaluations of one training start so far, a list.
      train, validation: RMS errors at these points.
      plan: the table of the least validation error.
    """

    spent: list[float]
    train: list[float]
    validation: list[float]
    plan: Plan


def problem(config: Config, made: Subject, steps: int) -> Problem:
    """The published plan that the tuned table began from, with the starts to tune it on."""
    found = tables.table_of(config, made, steps)
    make, grid = tables.start_of(found.facts["published"], steps, made.schedule)
    count = found.facts["starts"]
    noise, labels = made.starts(config.seed, count), made.labels(count)
    runner = Runner(made.velocity)
    states = truth.converged(runner, noise, grid, training.TOLERANCE, labels).states
    train, validation = training.split(noise, states[-1], labels)
    # Least squares fits the rows to the states in between, too.
    return Problem(made, runner, make, grid, train, validation, states[:, : len(train.noise)])


def levenberg_marquardt(task: Problem, make: Callable, spent: float = 0.0) -> Curve:
    """`tune.refine`, whose evaluations of validation starts count too."""
    # Without its bound on large rows, which Adam does not have either.
    found = tune.refine(
        task.made.velocity,
        make,
        task.grid,
        task.train,
        validation=task.validation,
        iterations=ITERATIONS,
        bound=None,
    )
    # The evaluations before the first iteration measured the start.
    count = len(task.train.noise)
    begun = found.history[0].evaluations
    return Curve(
        [spent + (iteration.evaluations - begun) / count for iteration in found.history],
        [iteration.train for iteration in found.history],
        [iteration.validation for iteration in found.history],
        found.plan,
    )


def least_squares(task: Problem) -> tuple[Callable[[np.ndarray], Plan], Curve]:
    """Each row in closed form on the published grid; also as a function of the grid."""
    runner = task.runner
    before = runner.evaluations
    weights = fit(runner, task.train.noise, task.grid, task.states, task.train.condition, DEPTH)
    schedule = task.made.schedule
    plan = table(task.grid, *weights, schedule)
    spent = (runner.evaluations - before) / len(task.train.noise)
    errors = [error_of(task, plan, starts) for starts in (task.train, task.validation)]
    make = on_other_grids(task.grid, plan, schedule)
    return make, Curve([spent], [errors[0]], [errors[1]], plan)


def adam(task: Problem, rate: float, iterations: int) -> Curve:
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) on the numbers of `tune.numbers`.

    The rate falls to nothing along a cosine. The gradient by the table comes from reverse
    derivatives of the run; the chain rule to the numbers is that of Levenberg-Marquardt.
    """
    free = tables.FREE
    numbers = numbering.numbers_of("experiments.tune", task.make, task.grid, free)
    slope = slope_of(task)
    steps = len(task.grid) - 1

    # Two groups of numbers, as in Levenberg-Marquardt: gaps move all times after them.
    point = {"gaps": numbering.gaps_of(task.grid), "corrections": np.zeros(numbers.count)}
    schedule = optax.cosine_decay_schedule(rate, iterations)
    optimizer = optax.adam(schedule)
    state = optimizer.init(point)
    curve = Curve([], [], [], task.make(task.grid))
    every = max(1, iterations // POINTS)
    for iteration in range(iterations + 1):
        grid = numbering.grid_of(np.asarray(point["gaps"]), numbers.span)
        corrections = np.asarray(point["corrections"])
        plan = _finite(numbers, grid, corrections)
        # A rate that is too large leaves the tables that can be run: the curve ends there.
        if plan is None:
            break
        if iteration % every == 0 or iteration == iterations:
            curve = _with_point(task, curve, plan, REVERSE * steps * iteration)
        if iteration < iterations:
            gradient = by_numbers(numbers, grid, corrections, slope(plan))
            updates, state = optimizer.update(gradient, state, point)
            point = optax.apply_updates(point, updates)
    return curve


def _finite(numbers: numbering.Numbers, grid: np.ndarray, corrections: np.ndarray) -> Plan | None:
    """The table of these numbers, or None where it has none that are finite."""
    if not np.all(np.diff(grid) < 0) or not np.all(np.isfinite(corrections)):
        return None
    try:
        plan = numbers.plan(grid, corrections)
    except ValueError:  # the theory has no finite weights there
        return None
    return plan if all(np.all(np.isfinite(column)) for column in plan) else None


def by_numbers(
    numbers: numbering.Numbers,
    grid: np.ndarray,
    corrections: np.ndarray,
    by_column: list[np.ndarray],
) -> dict[str, np.ndarray]:
    """The chain rule from the columns of a table to its numbers.

    Returns:
      {gaps: (steps,) by the logarithms of the gaps, corrections: (P,), zero for times}.
    """
    found = np.array(
        [
            sum(float(np.sum(a * b)) for a, b in zip(by_column, tangent, strict=True))
            for tangent in numbers.tangents(grid, corrections)
        ]
    )
    is_time = np.array([name == "t" for name in numbers.column])
    return {
        "gaps": numbering.grid_by_gaps(grid).T @ found[is_time],
        "corrections": np.where(is_time, 0.0, found),
    }


def slope_of(task: Problem) -> Callable[[Plan], list[np.ndarray]]:
    """The function plan -> derivatives of the mean square relative error by its columns."""
    made, train = task.made, task.train
    size = float(np.sum(np.square(train.exact)))

    @jax.jit
    def by_table(table: dict, rest: dict, noise: jax.Array, exact: jax.Array) -> dict:
        def loss(table: dict) -> jax.Array:
            def velocity(x: jax.Array, t: jax.Array) -> jax.Array:
                return made.velocity(x, t, train.condition)

            end = flowjax.sample(velocity, noise, Plan(**table, **rest)).x
            return jnp.sum(jnp.square(end - exact)) / size

        return jax.grad(loss)(table)

    def slope(plan: Plan) -> list[np.ndarray]:
        # Flags and numbers apart, since only numbers have derivatives.
        columns = plan._asdict()
        is_number = {name: np.asarray(c).dtype != bool for name, c in columns.items()}
        numbers = {name: jnp.asarray(c) for name, c in columns.items() if is_number[name]}
        rest = {name: c for name, c in columns.items() if not is_number[name]}
        found = by_table(numbers, rest, jnp.asarray(train.noise), jnp.asarray(train.exact))
        # Flags have no derivative.
        return [
            np.asarray(found[name], np.float64) if name in found else np.zeros(np.shape(column))
            for name, column in columns.items()
        ]

    return slope


def _with_point(task: Problem, curve: Curve, plan: Plan, spent: float) -> Curve:
    """The curve with one more point, and the better of its plan and this one."""
    train, validation = (error_of(task, plan, part) for part in (task.train, task.validation))
    # An optimizer returns the best table that it has seen on validation starts.
    best = min(curve.validation, default=np.inf)
    return Curve(
        [*curve.spent, spent],
        [*curve.train, train],
        [*curve.validation, validation],
        plan if validation < best else curve.plan,
    )


def error_of(task: Problem, plan: Plan, starts: tune.Starts) -> float:
    """RMS error of a plan on some starts; infinite where an endpoint is not finite."""
    ends = task.runner.run(plan, starts.noise, starts.condition)
    error = unseen.rms(truth.errors(ends, starts.exact))
    return error if np.isfinite(error) else np.inf
