"""Grids: the times t_0 > t_1 > ... > t_N of a sampler's N steps, as (N+1,) float64 numpy arrays.

t = 1 is noise and t = 0 is data, so a grid that samples decreases. Reverse it (`grid[::-1]`) to go
from data to noise: plans accept both directions, and the caller must start at the end to which the
grid's first time belongs. Any strictly monotone array of times in [0, 1] is a grid; the functions
here are the usual ones.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from flowjax import schedules
from flowjax.errors import check_whole, is_whole
from flowjax.schedules import Linear, Schedule


def check(grid: Any, name: str, *, decreasing: bool | None = None) -> np.ndarray:
    """Check that `grid` is a vector of strictly monotone times in [0, 1].

    Args:
      grid: what the caller gave; lists are accepted.
      name: the public function that the error speaks for.
      decreasing: True where the method only samples, so that an increasing grid is refused.

    Returns:
      The grid as (N+1,) float64.

    Raises:
      ValueError: it is something else, with the first time that is wrong and its position.
    """
    grid = _as_times(grid, name)
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(
            f"{name}: the grid has shape {grid.shape}; wanted a vector of two or more times, for "
            "example grids.uniform(20)."
        )
    inside = (grid >= 0) & (grid <= 1)
    if not np.all(inside):
        first = int(np.argmin(inside))
        raise ValueError(
            f"{name}: time {first} of the grid is {grid[first]:g}, outside [0, 1]; t = 1 is noise "
            "and t = 0 is data: divide labels such as 0..1000 by their scale first."
        )
    steps = np.diff(grid)
    if not (np.all(steps < 0) or np.all(steps > 0)):
        # The first step fixes the direction; the first one of another direction is reported.
        turn = int(np.argmax(steps * np.sign(steps[0]) <= 0))
        raise ValueError(
            f"{name}: the grid is not strictly monotone: times {turn} and {turn + 1} are "
            f"{grid[turn]:.6g} and {grid[turn + 1]:.6g}; a decreasing grid samples, an increasing "
            "one inverts data to noise."
        )
    if decreasing and steps[0] > 0:
        raise ValueError(
            f"{name}: the grid increases from {grid[0]:g} to {grid[-1]:g}; this method only "
            "samples: pass grid[::-1]."
        )
    return grid


def _as_times(grid, name):
    """`grid` as a float64 array, or a ValueError that names what stands in its place."""
    if isinstance(grid, Schedule) or callable(getattr(grid, "log_snr", None)):
        raise ValueError(
            f"{name}: the schedule {grid!r} stands in the place of the grid; wanted a vector of "
            "times such as grids.uniform(20). A plan that needs both takes the schedule first and "
            "the grid second."
        )
    try:
        return np.asarray(grid, np.float64)
    except (TypeError, ValueError):
        given = repr(grid) if isinstance(grid, str) else f"a {type(grid).__name__}"
        raise ValueError(
            f"{name}: the grid is {given}; wanted a vector of two or more times, for example "
            "grids.uniform(20)."
        ) from None


def _check_ends(name, start, end):
    if not 0 <= end < start <= 1:
        raise ValueError(
            f"grids.{name}: start={start!r}, end={end!r}; wanted 0 <= end < start <= 1 (t = 1 is "
            "noise). To go from data to noise, reverse the grid: grid[::-1]."
        )


def _check_positive(name, option, value, hint):
    """Refuse a value that is no finite number above 0; NaN and strings are none."""
    is_number = np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number)
    if not is_number or not 0 < value < np.inf:
        raise ValueError(f"grids.{name}: {option}={value!r}; wanted a positive number ({hint}).")


def shifted(grid: np.ndarray, shift: float) -> np.ndarray:
    """Times moved towards noise: t' = shift t / (1 + (shift - 1) t).

    This is eq. 23 of SD3 (arXiv:2403.03206). On the linear path this is exactly a translation of
    log-SNR by -log(shift), so step sizes in log-SNR do not change.

    Args:
      grid: times, any shape.
      shift: a positive number; 1 changes nothing, and larger ones move all times towards 1.

    Returns:
      float64, shaped like `grid`.

    Raises:
      ValueError: a shift that is no positive finite number.
    """
    return _shifted(grid, shift, "shifted")


def _shifted(grid, shift, name):
    _check_positive(name, "shift", shift, "1 changes nothing")
    grid = np.asarray(grid, np.float64)
    # In this form exactly 1 stays exactly 1.
    return shift * grid / (shift * grid + (1 - grid))


def dynamic_shift(
    tokens: float,
    *,
    base: int = 256,
    most: int = 4096,
    shift_base: float = 0.5,
    shift_most: float = 1.15,
) -> float:
    """The shift that FLUX takes for a number of image tokens: exp of a linear function of it.

    The defaults are the published ones of FLUX.1: exp(0.5) at 256 tokens and exp(1.15) at 4096.

    Args:
      tokens: number of tokens of the image.
      base: the number of tokens at which log(shift) is `shift_base`.
      most: the number of tokens at which log(shift) is `shift_most`.
      shift_base: log(shift) at `base` tokens.
      shift_most: log(shift) at `most` tokens.

    Returns:
      A shift for `shifted` and `uniform`.

    Raises:
      ValueError: `base` and `most` are the same number.
    """
    if base == most:
        raise ValueError(
            f"grids.dynamic_shift: base={base!r}, most={most!r}; wanted two different numbers of "
            "tokens (256 and 4096 for FLUX.1), since log(shift) is the line through both."
        )
    # log(shift) is the line through the two anchors.
    slope = (shift_most - shift_base) / (most - base)
    return float(np.exp(shift_base + slope * (tokens - base)))


def stretched(grid: np.ndarray, last: float) -> np.ndarray:
    """Stretch a grid that ends at 0 so that the last time before 0 becomes `last`.

    This is the terminal stretch of LTX-Video, linear in 1 - t; the final 0 stays.

    Args:
      grid: (N+1,) decreasing, N >= 2, with 0 at its end.
      last: the new t_{N-1}, strictly between 0 and 1.

    Returns:
      (N+1,) float64, decreasing.

    Raises:
      ValueError: a grid that does not decrease or does not end at 0, or `last` out of range.
    """
    grid = _as_times(grid, "grids.stretched")
    # The final 0 is left out: the time before it may be 0 too, since it moves to `last`.
    is_long = grid.ndim == 1 and len(grid) > 2
    check(grid[:-1] if is_long else grid, "grids.stretched", decreasing=True)
    if len(grid) < 3 or grid[-1] != 0 or not 0 < last < 1:
        raise ValueError(
            f"grids.stretched: last={last!r}, the grid of {len(grid)} times ends at "
            f"{grid[-1]:g}; wanted 0 < last < 1 and a grid of two or more steps that ends at 0."
        )
    # 1 - t' = (1 - t) (1 - last)/(1 - t_{N-1})
    moved = 1 - (1 - grid[:-1]) * (1 - last) / (1 - grid[-2])
    return np.append(moved, 0.0)


def uniform(steps: int, *, shift: float = 1.0, start: float = 1.0, end: float = 0.0) -> np.ndarray:
    """Uniform times, then shifted; `start` and `end` are times before the shift.

    Args:
      steps: number of steps N.
      shift: see `shifted`; 1 leaves the grid uniform.
      start: the first time; below 1, sampling begins in the middle of the path (image to image).
      end: the last time, 1 >= start > end >= 0.

    Returns:
      (N+1,) float64, decreasing.

    Raises:
      ValueError: `steps` is no whole number of at least 1; a shift or an end out of range.
    """
    check_whole("grids.uniform", "steps", steps, 1)
    _check_ends("uniform", start, end)
    return _shifted(np.linspace(start, end, steps + 1), shift, "uniform")


def log_snr(
    schedule: Schedule, steps: int, *, start: float, end: float, jump: bool = False
) -> np.ndarray:
    """Times uniform in log-SNR from `start` to `end`.

    Args:
      schedule: supplies log_snr and its inverse.
      steps: number of steps N.
      start: the first time.
      end: the last time before the jump, 1 > start > end > 0. Log-SNR must be finite at both (a
        schedule that is finite at t = 1 may start there).
      jump: take N - 1 such steps and then one step to t = 0, which every solver takes with order 1.

    Returns:
      (N+1,) float64, decreasing.

    Raises:
      ValueError: `steps` is no whole number of at least 1 (2 with a jump); log-SNR is infinite at
        an end.
    """
    return _respaced("log_snr", _evenly, np.log, np.exp, schedule, steps, start, end, jump)


def exponential(
    schedule: Schedule, steps: int, *, start: float, end: float, jump: bool = False
) -> np.ndarray:
    """Uniform in log(sigma/alpha), which is `log_snr` under its other name."""
    return log_snr(schedule, steps, start=start, end=end, jump=jump)


def karras(
    schedule: Schedule,
    steps: int,
    *,
    start: float,
    end: float,
    rho: float = 7.0,
    jump: bool = False,
) -> np.ndarray:
    """(sigma/alpha)^(1/rho) uniform (EDM, arXiv:2206.00364, eq. 5). Arguments as in `log_snr`."""
    _check_positive("karras", "rho", rho, "7 in the paper")

    def warp(ratio):
        return ratio ** (1 / rho)

    def unwarp(root):
        return root**rho

    return _respaced("karras", _evenly, warp, unwarp, schedule, steps, start, end, jump)


def beta(
    schedule: Schedule,
    steps: int,
    *,
    start: float,
    end: float,
    alpha: float = 0.6,
    beta: float = 0.6,
    jump: bool = False,
) -> np.ndarray:
    """sigma/alpha at the quantiles of a Beta(alpha, beta) law (Lee et al. 2024, arXiv:2407.12173).

    Arguments as in `log_snr`.
    """
    # Imported where it is used: scipy.stats takes longer to import than all of flowjax.
    from scipy import stats

    if not (alpha > 0 and beta > 0):
        raise ValueError(
            f"grids.beta: alpha={alpha!r}, beta={beta!r}; wanted two positive numbers (0.6 in the "
            "paper)."
        )

    def quantiles(u, high, low):
        return low + stats.beta.ppf(1 - u, alpha, beta) * (high - low)

    return _respaced("beta", quantiles, _same, _same, schedule, steps, start, end, jump)


def _evenly(u, high, low):
    return high + u * (low - high)


def _same(ratio):
    return ratio


def _respaced(
    name: str,
    space: Callable[..., np.ndarray],
    warp: Callable[[np.ndarray], np.ndarray],
    unwarp: Callable[[np.ndarray], np.ndarray],
    schedule: Schedule,
    steps: int,
    start: float,
    end: float,
    jump: bool,
) -> np.ndarray:
    """Times whose ratio r = sigma/alpha follows `space` between the ends, in warp(r)."""
    schedules.check(schedule, f"grids.{name}")
    check_whole(f"grids.{name}", "steps", steps, 2 if jump else 1)
    _check_ends(name, start, end)
    ends = schedule.log_snr(np.array([start, end]))
    if not np.all(np.isfinite(ends)):
        infinite = start if not np.isfinite(ends[0]) else end
        raise ValueError(
            f"grids.{name}: log-SNR is infinite at t = {infinite:g}; give finite ends such as "
            "start=0.999, end=0.001, and jump=True for a last step to t = 0."
        )
    count = steps - 1 if jump else steps
    # sigma/alpha = exp(-log-SNR) at both ends; the times lie between them in the warped variable.
    high, low = warp(np.exp(-ends))
    ratio = unwarp(space(np.linspace(0, 1, count + 1), high, low))
    grid = schedule.time_of_log_snr(-np.log(ratio))
    # The ends are what the caller gave, not their round trip through log-SNR.
    grid[0], grid[-1] = start, end
    return np.append(grid, 0.0) if jump else grid


def quadratic(steps: int, *, start: float = 1.0, end: float = 0.0) -> np.ndarray:
    """Times uniform in sqrt(t), with small steps near the data. Arguments as in `uniform`."""
    check_whole("grids.quadratic", "steps", steps, 1)
    _check_ends("quadratic", start, end)
    # sqrt(t) is uniform.
    return np.linspace(np.sqrt(start), np.sqrt(end), steps + 1) ** 2


def linear_quadratic(steps: int, *, start: float = 1.0, fine: int = 1000) -> np.ndarray:
    """Half of the steps at the start of a `fine` uniform grid, the rest quadratic to 0.

    This is the grid of Movie Gen (arXiv:2410.13720). With N+1 times, the first (N+1)//2 are those
    of a uniform grid of `fine` times, so that the sampler first moves by only 1/(fine-1) a step;
    the remaining n lie at (1 - (k/n)^2) of the next one, k = 1..n. All are multiplied by `start`.

    Args:
      steps: number of steps N, at least 2.
      start: the first time.
      fine: number of times of the fine grid, more than N.

    Returns:
      (N+1,) float64, decreasing to 0.

    Raises:
      ValueError: `steps` or `fine` is no whole number or too small, or `start` out of range.
    """
    check_whole("grids.linear_quadratic", "steps", steps, 2)
    _check_ends("linear_quadratic", start, 0.0)
    if not is_whole(fine, steps + 1):
        raise ValueError(
            f"grids.linear_quadratic: fine={fine!r} with steps={steps}; wanted a whole number of "
            f"at least the {steps + 1} times of these steps."
        )
    # The linear part is the head of the fine grid, and the quadratic part starts at its next time.
    base = np.linspace(1, 0, fine)
    linear = (steps + 1) // 2
    left = steps + 1 - linear
    fractions = np.arange(1, left + 1) / left  # k/n
    return start * np.concatenate([base[:linear], base[linear] * (1 - fractions**2)])


def log_snr_steps(grid: np.ndarray, schedule: Schedule | None = None) -> np.ndarray:
    """Steps of a grid in log-SNR.

    Args:
      grid: (N+1,) times.
      schedule: `Linear()` if None.

    Returns:
      (N,), infinite where a step touches an infinite end.
    """
    lambdas = (schedule or Linear()).log_snr(np.asarray(grid, np.float64))
    with np.errstate(invalid="ignore"):  # inf - inf, where a schedule holds alpha = 1
        return np.diff(lambdas)
