"""Error control beside diffrax's at equal error, in float32.

Each solver gets the loosest tolerance of `LADDER` whose error is below `GOAL`; then the solvers are
timed. A contender maps (field, noise, tolerance) to (endpoints, evaluations of each sample). One
compiled program serves all tolerances, and every library chooses the steps of each sample on its
own.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from experiments.lab.timing import clock, interleaved
from flowjax import Linear, fields, grids, plans
from flowjax.types import Scalar

if TYPE_CHECKING:
    from configs.bench import Config

# (field, noise (B, *D), tolerance) -> (endpoints (B, *D), evaluations (B,)).
Solve = Callable[[Any, jax.Array, Scalar], tuple[jax.Array, jax.Array]]

# The tolerances to choose from, atol = rtol: from 0.46 down to 2e-6, three a decade.
LADDER = tuple(float(10 ** (-power / 3)) for power in range(1, 18))
# The relative RMS error that every solver has to reach.
GOAL = 1e-3
# {name: (constructor, its options, shape of a sample)}
FIELDS = {"ring": (fields.ring, {}, (2,)), "digits": (fields.digits, {"bandwidth": 0.1}, (8, 8, 1))}
# {name: (method, order) of `flowjax.sample_adaptive`}
OURS = {
    "flowjax order 2": ("dpm_solver_pp", 2),
    "flowjax order 3": ("dpm_solver_pp", 3),
    "flowjax Runge-Kutta 5": ("runge_kutta", 5),
}
# {name: the class in diffrax}
THEIRS = {"diffrax Tsit5": "Tsit5", "diffrax Dopri5": "Dopri5", "diffrax Kvaerno5": "Kvaerno5"}
# All seconds are relative to this contender's.
BASE = "flowjax order 3"
# Implicit solvers: they evaluate in Newton's iterations, which their statistics do not count.
IMPLICIT = ("diffrax Kvaerno5",)
# {field: its largest batch}. Larger ones show nothing new, and an implicit solver takes minutes.
LARGEST = {"digits": 64}


def _ours(method: str, order: int) -> Solve:
    """The contender `flowjax.sample_adaptive` with one method."""

    def solve(field, noise, tolerance):
        solution = flowjax.sample_adaptive(
            field.velocity,
            noise,
            field.schedule,
            flowjax.Tolerance(tolerance, tolerance),
            order=order,
            span=(1.0, 0.0),
            max_evaluations=4000,
            method=method,
        )
        return solution.x, solution.stats.nfe

    return jax.jit(solve)


def diffrax_solution(solver: Any, field: Any, x: jax.Array, tolerance: Scalar) -> Any:
    """What diffrax returns for one sample `x` (*D,) with its PID controller, from t = 1 to t = 0.

    Args:
      solver: an adaptive solver of diffrax.
      field: has `velocity(x, t)`.
      x: the noise.
      tolerance: atol = rtol.
    """
    import diffrax

    # Our fields take a batch; diffrax integrates one sample and is vmapped by the caller.
    term = diffrax.ODETerm(lambda t, x, field: field.velocity(x[None], t)[0])
    return diffrax.diffeqsolve(
        term,
        solver,
        1.0,
        0.0,
        -0.01,
        x,
        args=field,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=1000,
    )


def diffrax_evaluations(steps: Any) -> Any:
    """Evaluations of an explicit pair of six new stages a step.

    Tsit5 and Dopri5 reuse their last stage as the first of the next step ("first same as last"):
    one evaluation at the start, then six for each step that is tried. An implicit solver needs
    `evaluations` instead.
    """
    return 6 * steps + 1


def _theirs(name: str) -> Solve:
    """The contender `name` of diffrax, vmapped over the samples."""
    import diffrax

    solver = getattr(diffrax, name)()

    def solve(field, noise, tolerance):
        def one(x):
            solution = diffrax_solution(solver, field, x, tolerance)
            return solution.ys[-1], solution.stats["num_steps"]

        x, steps = jax.vmap(one)(noise)
        return x, diffrax_evaluations(steps)

    return jax.jit(solve)


# One entry an evaluation. It belongs to the module because jax may reuse a traced callback.
_COUNTED = []


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counted:
    """A field that counts the evaluations of its velocity while a program runs."""

    field: Any

    def velocity(self, x: jax.Array, t: Scalar) -> jax.Array:
        """The field's velocity."""
        jax.debug.callback(lambda: _COUNTED.append(1))
        return self.field.velocity(x, t)


def evaluations(solve: Solve, field: Any, noise: jax.Array, tolerance: Scalar) -> float:
    """Mean evaluations of the velocity when `solve` gets one sample at a time.

    Those in Newton's iterations count, and a Jacobian counts as one.
    """
    _COUNTED.clear()
    for start in noise:
        jax.block_until_ready(solve(Counted(field), start[None], tolerance))
        # The callbacks run on a thread of their own; wait for the last of them.
        jax.effects_barrier()
    return len(_COUNTED) / len(noise)


def relative_error(x: np.ndarray, exact: np.ndarray) -> float:
    """RMS distance of the samples `x` to `exact` (B, ...), relative to the RMS norm of `exact`."""
    off = (x - exact).reshape(len(x), -1)  # (B, D)
    norm = exact.reshape(len(exact), -1)
    return float(np.sqrt(np.mean(np.sum(off**2, 1)) / np.mean(np.sum(norm**2, 1))))


class Calibration(NamedTuple):
    """What `calibrate` found.

    Attributes:
      tolerance: the chosen one, atol = rtol.
      error: relative RMS error with it.
      evaluations: mean over the samples.
      first: seconds of the first call, which compiles.
    """

    tolerance: float
    error: float
    evaluations: float
    first: float


def calibrate(solve: Solve, field: Any, noise: jax.Array, exact: np.ndarray) -> Calibration:
    """The loosest tolerance of LADDER whose error is below GOAL, else the one of least error.

    Args:
      solve: the contender.
      field, noise: what it is called with.
      exact: the converged endpoints (B, ...).
    """
    first = clock(functools.partial(solve, field, noise, jnp.asarray(LADDER[0], noise.dtype)))
    found = []
    for tolerance in LADDER:
        x, counts = solve(field, noise, jnp.asarray(tolerance, noise.dtype))
        error = relative_error(np.asarray(x), exact)
        found.append(Calibration(tolerance, error, float(np.asarray(counts).mean()), first))
        if error < GOAL:
            return found[-1]
    return min(found, key=lambda each: each.error)


def converged(field: Any, noise: jax.Array, steps: int, start: float) -> np.ndarray:
    """Endpoints of RK4: `steps` steps in log-SNR from `start` to 1e-4, one step at either end."""
    inner = grids.log_snr(Linear(), steps, start=start, end=1e-4)
    grid = np.concatenate([[1.0], inner, [0.0]])
    return np.asarray(flowjax.sample(field.velocity, noise, plans.rk4(grid)).x)


def contenders() -> dict[str, Solve]:
    """Every contender that is installed, by name."""
    found = {name: _ours(*options) for name, options in OURS.items()}
    if importlib.util.find_spec("diffrax") is not None:
        found |= {name: _theirs(solver) for name, solver in THEIRS.items()}
    return found


def adaptive(config: "Config") -> list[dict]:
    """Adaptive solvers at equal error: tolerance, error, evaluations and seconds of each."""
    solvers = contenders()
    result = []
    for field_name in config.adaptive_fields:
        for batch in config.adaptive_batches:
            if batch <= LARGEST.get(field_name, batch):
                result += _at_equal_error(config, solvers, field_name, batch)
    return result


def _at_equal_error(
    config: "Config", solvers: dict[str, Solve], field_name: str, batch: int
) -> list[dict]:
    """The rows of one field and batch."""
    build, options, shape = FIELDS[field_name]
    field = jax.device_put(build(Linear(), **options))
    noise = flowjax.draw_noise(jax.random.key(0), np.arange(batch), shape).astype(jnp.float32)
    exact = converged(field, noise, 300, start=0.9999)

    # Choose each solver's tolerance, then let them take turns.
    chosen = {name: calibrate(solve, field, noise, exact) for name, solve in solvers.items()}
    calls = {
        name: functools.partial(solve, field, noise, jnp.float32(chosen[name].tolerance))
        for name, solve in solvers.items()
    }
    timed = interleaved(calls, max(config.repeats // 3, 2), config.processor_seconds)

    result = []
    for name, found in chosen.items():
        steady = timed[name][1]
        nfe = found.evaluations
        if name in IMPLICIT:
            nfe = evaluations(solvers[name], field, noise[:4], jnp.float32(found.tolerance))
        result.append(
            {
                "contender": f"{name}, {field_name}, batch {batch}",
                "first": found.first,
                "steady": steady,
                "ratio": steady / timed[BASE][1],
                "nfe": nfe,
                "error": found.error,
                "tolerance": found.tolerance,
                "reached": found.error < GOAL,
            }
        )
    return result
