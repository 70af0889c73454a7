"""The rules of Karras and others: values spread anew between a highest and a lowest one.

The functions in `grids` respace sigma/alpha; a scheduler respaces other quantities too.
"""

import numpy as np
from scipy import stats

from flowjax.compat.scheduler_config import Options

KARRAS_RHO = 7
BETA_SHAPE = 0.6  # both parameters of the beta distribution


def respaced(rule: str, high: float, low: float, count: int) -> np.ndarray:
    """Values from `high` to `low` by the rules of `grids.karras`, `.exponential` and `.beta`.

    The rule "lu" is uniform in log-SNR, and so the same as "exponential" for sigma/alpha.

    Args:
      rule: a value of `scheduler_config.RESPACINGS`.
      high, low: the first and the last value, positive.
      count: number of values.

    Returns:
      (count,) float64.
    """
    fractions = np.linspace(0, 1, count)
    if rule == "karras":
        first, last = high ** (1 / KARRAS_RHO), low ** (1 / KARRAS_RHO)
        return (first + fractions * (last - first)) ** KARRAS_RHO
    if rule == "beta":
        quantiles = stats.beta.ppf(1 - fractions, BETA_SHAPE, BETA_SHAPE)
        return low + quantiles * (high - low)
    return np.exp(np.log(high) + fractions * (np.log(low) - np.log(high)))


def checked_range(name: str, options: Options, high: float, low: float) -> tuple[float, float]:
    """The range of a respacing: sigma_max and sigma_min where they are given.

    Args:
      name: the public function that errors speak for.
      options: as `scheduler_config.read` returns them.
      high, low: the ends without these options.

    Returns:
      (high, low).

    Raises:
      ValueError: one of the two options lies beyond the other end.
    """
    given_high, given_low = options.get("sigma_max"), options.get("sigma_min")
    chosen_high = high if given_high is None else float(given_high)
    chosen_low = low if given_low is None else float(given_low)
    # One evaluation has one value, and so a range of no length.
    if chosen_high >= chosen_low > 0:
        return chosen_high, chosen_low
    raise ValueError(
        f"{name}: the respacing runs from sigma_max={chosen_high:g} to sigma_min={chosen_low:g}; "
        "wanted sigma_min < sigma_max, both above 0."
    )
