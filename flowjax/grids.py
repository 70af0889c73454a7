"""Grids: the decreasing times t_0 > t_1 > ... > t_N of a sampler's N steps, as (N+1,) float64 numpy arrays.

t = 1 is noise and t = 0 is data. Reverse a grid (`grid[::-1]`) to go from data to noise. Nothing here is needed by a
plan: any strictly monotone array of times in [0, 1] is a grid.
"""

import numpy as np
from scipy import stats

from flowjax.schedules import Linear


def check(grid, name, *, decreasing=None):
    """`grid` as float64, or a ValueError in the name of `name` if it is not strictly monotone times in [0, 1]."""
    grid = np.asarray(grid, np.float64)
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(
            f"{name}: the grid has shape {grid.shape}; wanted a vector of two or more times, for example "
            "grids.uniform(20)."
        )
    if not np.all((grid >= 0) & (grid <= 1)):
        worst = grid[~((grid >= 0) & (grid <= 1))][0]
        raise ValueError(
            f"{name}: the grid holds the time {worst:g}, outside [0, 1]; t = 1 is noise and t = 0 is data: divide "
            "labels such as 0..1000 by their scale first."
        )
    steps = np.diff(grid)
    if not (np.all(steps < 0) or np.all(steps > 0)):
        i = int(np.argmax(steps * np.sign(steps[0]) <= 0))
        raise ValueError(
            f"{name}: the grid is not strictly monotone: times {i} and {i + 1} are {grid[i]:.6g} and {grid[i + 1]:.6g}; "
            "a decreasing grid samples, an increasing one inverts data to noise."
        )
    if decreasing and steps[0] > 0:
        raise ValueError(
            f"{name}: the grid increases from {grid[0]:g} to {grid[-1]:g}; this method only samples: pass grid[::-1]."
        )
    return grid


def _steps(steps, name, least=1):
    if int(steps) != steps or steps < least:
        raise ValueError(
            f"grids.{name}: steps={steps!r}; wanted a whole number of at least {least}."
        )
    return int(steps)


def _ends(start, end, name):
    if not 0 <= end < start <= 1:
        raise ValueError(
            f"grids.{name}: start={start!r}, end={end!r}; wanted 0 <= end < start <= 1 (t = 1 is noise)."
        )


def shifted(grid, shift):
    """Times moved towards noise: t' = shift t / (1 + (shift - 1) t) (SD3, arXiv:2403.03206, eq. 23).

    On the linear path this is exactly a translation of log-SNR by -log(shift); step sizes in log-SNR do not change.
    """
    if not 0 < shift < np.inf:
        raise ValueError(
            f"grids.shifted: shift={shift!r}; wanted a positive number (1 changes nothing)."
        )
    grid = np.asarray(grid, np.float64)
    return shift * grid / (shift * grid + (1 - grid))  # in this form exactly 1 stays exactly 1


def dynamic_shift(tokens, *, base=256, most=4096, shift_base=0.5, shift_most=1.15):
    """The shift that FLUX takes for a number of image tokens: exp of a linear function of `tokens`.

    The defaults are the published ones of FLUX.1: exp(0.5) at 256 tokens and exp(1.15) at 4096.
    """
    slope = (shift_most - shift_base) / (most - base)
    return float(np.exp(shift_base + slope * (tokens - base)))


def stretched(grid, last):
    """Stretch a grid that ends at 0 so that the last time before 0 becomes `last` (LTX-Video's terminal stretch).

    1 - t' = (1 - t) (1 - last)/(1 - t_{N-1}); the final 0 stays.
    """
    grid = np.asarray(grid, np.float64)
    if len(grid) < 3 or grid[-1] != 0 or not 0 < last < 1:
        raise ValueError(
            f"grids.stretched: last={last!r}, the grid of {len(grid)} times ends at {grid[-1]:g}; wanted 0 < last < 1 and a "
            "grid of two or more steps that ends at 0."
        )
    return np.append(1 - (1 - grid[:-1]) * (1 - last) / (1 - grid[-2]), 0.0)


def uniform(steps, *, shift=1.0, start=1.0, end=0.0):
    """Uniform times, then shifted; `start` and `end` are times before the shift.

    Args:
      steps: number of steps N.
      shift: see `shifted`; 1 leaves the grid uniform.
      start, end: 1 >= start > end >= 0. start < 1 begins in the middle (image to image).

    Returns:
      (N+1,) float64, decreasing.
    """
    steps = _steps(steps, "uniform")
    _ends(start, end, "uniform")
    return shifted(np.linspace(start, end, steps + 1), shift)


def log_snr(schedule, steps, *, start, end, jump=False):
    """Times uniform in log-SNR from `start` to `end`.

    Args:
      schedule: supplies log_snr and its inverse.
      steps: number of steps N.
      start, end: 1 > start > end > 0: log-SNR must be finite at both (a schedule that is finite at t = 1 may start there).
      jump: take N - 1 such steps and then one step to t = 0, which every solver takes with order 1.

    Returns:
      (N+1,) float64, decreasing.
    """
    return _respaced(
        "log_snr",
        lambda u, high, low: high + u * (low - high),
        np.log,
        np.exp,
        schedule,
        steps,
        start,
        end,
        jump,
    )


def exponential(schedule, steps, *, start, end, jump=False):
    """Uniform in log(sigma/alpha), which is `log_snr` under its other name."""
    return log_snr(schedule, steps, start=start, end=end, jump=jump)


def karras(schedule, steps, *, start, end, rho=7.0, jump=False):
    """(sigma/alpha)^(1/rho) uniform (EDM, arXiv:2206.00364, eq. 5). Arguments as in `log_snr`."""
    if not rho > 0:
        raise ValueError(f"grids.karras: rho={rho!r}; wanted a positive number (7 in the paper).")
    return _respaced(
        "karras", lambda u, high, low: high + u * (low - high), lambda r: r ** (1 / rho), lambda y: y**rho,
        schedule, steps, start, end, jump,
    )  # fmt: skip


def beta(schedule, steps, *, start, end, alpha=0.6, beta=0.6, jump=False):
    """sigma/alpha at the quantiles of a Beta(alpha, beta) law (Lee et al. 2024, arXiv:2407.12173). Arguments as in `log_snr`."""
    if not (alpha > 0 and beta > 0):
        raise ValueError(
            f"grids.beta: alpha={alpha!r}, beta={beta!r}; wanted two positive numbers (0.6 in the paper)."
        )

    def quantiles(u, high, low):
        return low + stats.beta.ppf(1 - u, alpha, beta) * (high - low)

    return _respaced("beta", quantiles, lambda r: r, lambda y: y, schedule, steps, start, end, jump)


def _respaced(name, space, warp, unwarp, schedule, steps, start, end, jump):
    """Times whose noise-to-signal ratio r = sigma/alpha follows `space` between the ends in the variable warp(r)."""
    steps = _steps(steps, name, least=2 if jump else 1) - bool(jump)
    _ends(start, end, name)
    ends = schedule.log_snr(np.array([start, end]))
    if not np.all(np.isfinite(ends)):
        where = start if not np.isfinite(ends[0]) else end
        raise ValueError(
            f"grids.{name}: log-SNR is infinite at t = {where:g}; give finite ends such as start=0.999, end=0.001, and "
            "jump=True for a last step to t = 0."
        )
    high, low = warp(np.exp(-ends))
    ratio = unwarp(space(np.linspace(0, 1, steps + 1), high, low))
    grid = schedule.time_of_log_snr(-np.log(ratio))
    grid[0], grid[-1] = (
        start,
        end,
    )  # the ends are what was asked for, not their round trip through log-SNR
    return np.append(grid, 0.0) if jump else grid


def quadratic(steps, *, start=1.0, end=0.0):
    """sqrt(t) uniform: small steps near the data."""
    steps = _steps(steps, "quadratic")
    _ends(start, end, "quadratic")
    return np.linspace(np.sqrt(start), np.sqrt(end), steps + 1) ** 2


def linear_quadratic(steps, *, start=1.0, fine=1000):
    """Half of the steps at the start of a `fine` uniform grid, the rest quadratic to 0 (Movie Gen, arXiv:2410.13720).

    With N+1 times, the first (N+1)//2 are those of a uniform grid of `fine` times, so the sampler first moves by only
    1/(fine-1) a step; the remaining n lie at (1 - (k/n)^2) of the next one, k = 1..n. All are multiplied by `start`.
    """
    steps = _steps(steps, "linear_quadratic", least=2)
    _ends(start, 0.0, "linear_quadratic")
    if fine < steps + 1:
        raise ValueError(
            f"grids.linear_quadratic: fine={fine} is less than the {steps + 1} times of {steps} steps."
        )
    base = np.linspace(1, 0, fine)
    head = (steps + 1) // 2
    tail = np.arange(1, steps + 2 - head) / (steps + 1 - head)
    return start * np.concatenate([base[:head], base[head] * (1 - tail**2)])


def log_snr_steps(grid, schedule=None):
    """Steps of a grid in log-SNR, (N,); infinite where a step touches an infinite end. `schedule` is `Linear()` if None."""
    lambdas = (schedule or Linear()).log_snr(np.asarray(grid, np.float64))
    with np.errstate(invalid="ignore"):
        return np.diff(lambdas)
