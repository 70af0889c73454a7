"""Error control beside diffrax's at equal error: each solver with the loosest tolerance that reaches it, in float32.

A contender maps (field, noise, tolerance) to (endpoints, evaluations of each sample). One compiled program serves all
tolerances, and every library chooses the steps of each sample on its own.
"""

import dataclasses
import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from experiments.lab.timing import clock, interleaved
from flowjax import Linear, fields, grids, plans

LADDER = tuple(
    float(10 ** (-power / 3)) for power in range(1, 18)
)  # atol = rtol, from 0.46 down to 2e-6
GOAL = 1e-3  # relative RMS error
FIELDS = {"ring": (fields.ring, {}, (2,)), "digits": (fields.digits, {"bandwidth": 0.1}, (8, 8, 1))}
OURS = {
    "flowjax order 2": ("dpm_solver_pp", 2),
    "flowjax order 3": ("dpm_solver_pp", 3),
    "flowjax Runge-Kutta 5": ("runge_kutta", 5),
}
THEIRS = {"diffrax Tsit5": "Tsit5", "diffrax Dopri5": "Dopri5", "diffrax Kvaerno5": "Kvaerno5"}
LARGEST = {"digits": 64}  # batch; larger ones say nothing new and an implicit solver takes minutes


def _ours(method, order):
    def solve(field, noise, tolerance):
        solution = flowjax.sample_adaptive(
            field.velocity, noise, field.schedule, flowjax.Tolerance(tolerance, tolerance), order=order,
            span=(1.0, 0.0), max_evaluations=4000, method=method,
        )  # fmt: skip
        return solution.x, solution.stats.nfe

    return jax.jit(solve)


def _theirs(name):
    import diffrax

    term = diffrax.ODETerm(lambda t, x, field: field.velocity(x[None], t)[0])
    solver = getattr(diffrax, name)()

    def solve(field, noise, tolerance):
        controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)

        def one(x):
            solution = diffrax.diffeqsolve(
                term,
                solver,
                1.0,
                0.0,
                -0.01,
                x,
                args=field,
                stepsize_controller=controller,
                max_steps=1000,
            )
            return solution.ys[-1], solution.stats["num_steps"]

        x, steps = jax.vmap(one)(noise)
        return (
            x,
            6 * steps + 1,
        )  # first same as last: one evaluation, then six a step tried; not so for an implicit solver

    return jax.jit(solve)


_COUNTED = []  # one entry an evaluation; of the module, since jax may keep a traced callback


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counted:
    """A field that counts the evaluations of its velocity while a program runs."""

    field: Any

    def velocity(self, x, t):
        """The field's velocity."""
        jax.debug.callback(lambda: _COUNTED.append(1))
        return self.field.velocity(x, t)


def evaluations(solve, field, noise, tolerance):
    """Mean evaluations of the velocity in `solve` on single samples: those in Newton's iterations, a Jacobian as one."""
    _COUNTED.clear()
    for start in noise:
        jax.block_until_ready(solve(Counted(field), start[None], tolerance))
        jax.effects_barrier()
    return len(_COUNTED) / len(noise)


def calibrate(solve, field, noise, exact):
    """(tolerance, error, evaluations, seconds of the first call): the loosest of LADDER below GOAL, or the best there is."""
    first = clock(functools.partial(solve, field, noise, jnp.asarray(LADDER[0], noise.dtype)))
    found = []
    for tolerance in LADDER:
        x, counts = (
            np.asarray(a) for a in solve(field, noise, jnp.asarray(tolerance, noise.dtype))
        )
        off = np.sum((x - exact).reshape(len(x), -1) ** 2, 1)
        error = float(np.sqrt(np.mean(off) / np.mean(np.sum(exact.reshape(len(x), -1) ** 2, 1))))
        found.append((tolerance, error, float(counts.mean()), first))
        if error < GOAL:
            return found[-1]
    return min(found, key=lambda each: each[1])


def adaptive(config):
    """Adaptive solvers at equal error: tolerance, error reached, evaluations and seconds, by field and batch."""
    contenders = {name: _ours(*options) for name, options in OURS.items()}
    if importlib.util.find_spec("diffrax") is not None:
        contenders |= {name: _theirs(solver) for name, solver in THEIRS.items()}
    result = []
    for field_name in config.adaptive_fields:
        build, options, shape = FIELDS[field_name]
        field = jax.device_put(build(Linear(), **options))
        for batch in (b for b in config.adaptive_batches if b <= LARGEST.get(field_name, b)):
            noise = flowjax.draw_noise(jax.random.key(0), np.arange(batch), shape).astype(
                jnp.float32
            )
            grid = np.concatenate(
                [[1.0], grids.log_snr(Linear(), 300, start=0.9999, end=1e-4), [0.0]]
            )
            exact = np.asarray(flowjax.sample(field.velocity, noise, plans.rk4(grid)).x)
            chosen = {
                name: calibrate(solve, field, noise, exact) for name, solve in contenders.items()
            }
            calls = {
                name: functools.partial(solve, field, noise, jnp.float32(chosen[name][0]))
                for name, solve in contenders.items()
            }
            timed = interleaved(calls, max(config.repeats // 3, 2))
            base = timed["flowjax order 3"][1]
            for name, (tolerance, error, count, first) in chosen.items():
                if name == "diffrax Kvaerno5":
                    count = evaluations(contenders[name], field, noise[:4], jnp.float32(tolerance))
                result.append({
                    "contender": f"{name}, {field_name}, batch {batch}", "first": first, "steady": timed[name][1],
                    "ratio": timed[name][1] / base, "nfe": count, "error": error, "tolerance": tolerance,
                    "reached": error < GOAL,
                })  # fmt: skip
    return result
