"""The laboratory of the order experiment: named solvers, fields, exact endpoints, and one way to run many plans.

Every sampler starts at exactly t = 1 from noise that all solvers of a cell share, and ends at exactly t = 0; an error is
|x - exact| of a sample over the root mean square norm of the exact endpoints.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from flowjax import Linear, distances, fields, grids, plans


class Solver(NamedTuple):
    """A named solver: how to build it, its order by its name, its rows for a number of steps."""

    build: callable  # (schedule, grid) -> Plan
    order: int
    rows: callable  # steps -> rows, on a grid that ends at t = 0


def _dpm(order, **options):
    return lambda schedule, grid: plans.dpm_solver_pp(schedule, grid, order, **options)


def _same(steps):
    return steps


SOLVERS = {
    "Euler": Solver(lambda s, g: plans.euler(g), 1, _same),
    "DPM++ 2M": Solver(_dpm(2), 2, _same),
    "DPM++ 3M published": Solver(_dpm(3, third_order="published"), 3, _same),
    "DPM++ 3M exact": Solver(_dpm(3), 3, _same),
    "DPM++ 2S": Solver(_dpm(2, method="singlestep"), 2, lambda n: max(2 * n - 2, n)),
    "DPM++ 3S": Solver(
        _dpm(3, method="singlestep", variant="taylor"), 3, lambda n: max(3 * n - 4, n)
    ),
    "AB2": Solver(lambda s, g: plans.adams_bashforth(g, 2), 2, _same),
    "AB3": Solver(lambda s, g: plans.adams_bashforth(g, 3), 3, _same),
    "UniPC2": Solver(lambda s, g: plans.unipc(s, g, 2), 2, _same),
    "UniPC3": Solver(lambda s, g: plans.unipc(s, g, 3), 3, _same),
    "DEIS3": Solver(lambda s, g: plans.deis(s, g, 3), 3, _same),
    "Heun": Solver(lambda s, g: plans.heun(g), 2, lambda n: 2 * n - 1),
}


def plan_of(name, schedule, make_grid, nfe):
    """The plan of solver `name` with the most steps that `nfe` evaluations allow, or None if its order needs more.

    Args:
      make_grid: steps -> grid that starts at t = 1 and ends at t = 0.
    """
    solver = SOLVERS[name]
    steps = max((n for n in range(1, nfe + 1) if solver.rows(n) <= nfe), default=0)
    return solver.build(schedule, make_grid(steps)) if steps >= solver.order else None


def make_field(name, schedule=None, **options):
    """A field by its name in the tables: ring, two points, mixture-D, power law, digits, emoji."""
    schedule = schedule or Linear()
    kind, _, dim = name.partition("-")
    if kind == "mixture":
        return fields.random_mixture(0, schedule, dim=int(dim), **options)
    made = {
        "ring": fields.ring,
        "two points": functools.partial(fields.two_points, distance=4.0, std=0.1),
        "power law": functools.partial(fields.power_law, dim=64, exponent=2.0),
        "digits": functools.partial(fields.digits, bandwidth=0.1),
        "emoji": functools.partial(fields.emoji, bandwidth=0.1, chunk=512),
    }
    if kind not in made:
        raise ValueError(
            f"experiments.order: field {name!r} is not known; wanted mixture-D or one of {', '.join(made)}."
        )
    return made[kind](schedule, **options)


@functools.partial(jax.jit, static_argnames="save_path")
def _endpoints(field, noise, stacked, save_path=False):
    def run(plan):
        solution = flowjax.sample(field.velocity, noise, plan, save_path=save_path)
        return solution.path if save_path else solution.x

    return jax.vmap(run)(stacked)


_LADDER = (
    8,
    12,
    16,
    24,
    32,
    48,
    64,
    104,
)  # padded lengths: a program for each, instead of one for each NFE
_TOGETHER = 8  # plans run side by side
RESAMPLES = 400  # of each bootstrap interval


def run_plans(field, noise, many):
    """Endpoints of many plans from one noise: (P, B, *D), one compiled program for each length of the ladder."""
    results, lengths = [None] * len(many), {}
    for i, plan in enumerate(many):
        length = next((n for n in _LADDER if n >= plan.rows), plan.rows)
        lengths.setdefault(length, []).append(i)
    for length, members in sorted(lengths.items()):
        for start in range(0, len(members), _TOGETHER):
            group = members[start : start + _TOGETHER]
            padded = [plans.pad(many[i], length) for i in group]
            padded += [padded[-1]] * (_TOGETHER - len(group) if len(members) > _TOGETHER else 0)
            stacked = jax.tree.map(lambda *columns: np.stack(columns), *padded)
            for i, x in zip(group, np.asarray(_endpoints(field, noise, stacked)), strict=False):
                results[i] = x
    return np.stack(results)


def fine_grid(schedule, steps, *, start=1.0, end=0.0, low=-7.0, high=9.0):
    """Times uniform in log-SNR from `low` to `high`, between exactly `start` and `end`: where the reference steps."""
    inner = schedule.time_of_log_snr(np.linspace(low, high, steps - 1))
    inner = inner[(inner < start - 1e-9) & (inner > end + 1e-9)]
    return np.concatenate([[start], inner, [end]])


class Reference(NamedTuple):
    """Exact endpoints (B, *D) by RK4 with fine steps in log-SNR, and how much doubling the steps moved them (RMS, relative)."""

    x: np.ndarray
    doubling: float


@jax.jit
def solve(field, noise, plan):
    """Endpoint (B, *D) of one plan; one program for each number of rows."""
    return flowjax.sample(field.velocity, noise, plan).x


def reference(field, noise, steps=200, start=1.0):
    """`Reference` of the probability-flow ODE from `noise` at time `start` to t = 0."""
    coarse, fine = (
        np.asarray(solve(field, noise, plans.rk4(fine_grid(field.schedule, n, start=start))))
        for n in (steps // 2, steps)
    )
    return Reference(fine, float(np.sqrt(np.mean(row_norms(coarse - fine) ** 2)) / scale_of(fine)))


def row_norms(x):
    """L2 norm of each sample: (..., B) from (..., B, *D) with one batch axis in front of the sample, or two."""
    return np.linalg.norm(x.reshape(x.shape[0], -1), axis=1)


def scale_of(x):
    """Root mean square norm of the samples."""
    return float(np.sqrt(np.mean(row_norms(x) ** 2)))


class Cell(NamedTuple):
    """A field with the noise of all seeds, its exact endpoints, and the sample's seed (B,)."""

    field: object
    noise: np.ndarray
    exact: np.ndarray
    seed: np.ndarray
    doubling: float

    def errors(self, endpoints):
        """Relative errors (P, B) of endpoints (P, B, *D)."""
        return np.stack([row_norms(x - self.exact) for x in endpoints]) / scale_of(self.exact)

    def misrouted(self, endpoints):
        """Share (P,) of samples whose nearest mode or datum is not the exact solution's."""
        true = np.asarray(self.field.nearest(jnp.asarray(self.exact)))
        return np.array(
            [np.mean(np.asarray(self.field.nearest(jnp.asarray(x))) != true) for x in endpoints]
        )


def make_cell(field, seeds, samples, *, steps=200):
    """Noise of `seeds` times `samples` starts, seed by seed, and the exact endpoints."""
    shape = field.means.shape[1:] if hasattr(field, "means") else field.samples.shape[1:]
    noise = np.concatenate(
        [
            flowjax.draw_noise(jax.random.key(seed), np.arange(samples), shape)
            for seed in range(seeds)
        ]
    ).astype(np.float64)
    solved = reference(field, noise, steps)
    return Cell(field, noise, solved.x, np.repeat(np.arange(seeds), samples), solved.doubling)


def shifted(shift):
    """steps -> uniform grid with this shift, from 1 to 0."""
    return lambda steps: grids.uniform(steps, shift=shift)


def log_snr_with_ends(schedule=None, *, start=0.999, end=0.005):
    """steps -> [1, log-SNR-uniform times from `start` to `end`, 0]: first-order jumps at both ends."""

    def make(steps):
        inner = grids.log_snr(schedule or Linear(), max(steps - 2, 1), start=start, end=end)
        return np.concatenate([[1.0], inner, [0.0]]) if steps > 2 else grids.uniform(steps)

    return make


def summary(errors, seed):
    """RMS with its 95 % interval (over seeds, then starts), median and 95th percentile of errors (B,)."""
    low, high = distances.bootstrap(errors, distances.rms, seed=0, groups=seed, resamples=RESAMPLES)
    return {
        "rms": float(distances.rms(errors)), "rms_low": low, "rms_high": high,
        "median": float(np.median(errors)), "tail": float(np.quantile(errors, 0.95)),
    }  # fmt: skip


def paired(errors_a, errors_b, seed, tie=0.02):
    """Ratios of a's RMS and median error to b's on shared noise, 95 % intervals, and a verdict on a for each.

    A verdict is "better" or "worse" when the whole interval lies beyond a factor 1 + `tie`, else "tie": what 95 %
    confidence cannot tell apart counts as a tie.
    """
    result = {}
    for name, statistic in (("rms", distances.rms), ("median", np.median)):
        options = {"seed": 0, "groups": seed, "band": tie, "resamples": RESAMPLES}
        found = distances.paired_ratio(errors_a, errors_b, statistic, **options)
        verdict = {"win": "better", "loss": "worse"}.get(found.verdict, "tie")
        result |= {
            f"{name}_ratio": found.ratio, f"{name}_low": found.low, f"{name}_high": found.high, f"{name}_verdict": verdict,
        }  # fmt: skip
    return result
