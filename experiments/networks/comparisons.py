"""The rule by which networks are held against each other, written before any number was seen.

A comparison says of a quantity of one network that its difference to that of another network, or
its ratio to it, lies on one side of a bound.

With several training seeds on both sides, seed i stands beside seed i. The interval is Student's
95 % interval of the mean over seeds, of logarithms where the quantities are divided, and the
verdict is that of `experiments.lab.claims`:

    holds       the whole interval lies on the side of the bound that the comparison names
    fails       the whole interval lies on the other side
    undecided   the interval contains the bound, or is not a number

With one seed the verdict is always "one seed: undecided beyond this network". The same rule then
says what is so on these two networks. The interval is from the two intervals over starts: it
contains the difference or ratio of every number of one and every number of the other.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments import report
from experiments.lab import claims
from experiments.networks.numbers import Value

ONE_SEED = "one seed: undecided beyond this network"
DIFFERENCE, RATIO = "difference", "ratio"
FALLS, RISES, NEITHER = "falls", "rises", "neither falls nor rises"


class Comparison(NamedTuple):
    """Networks, and what is expected of them.

    Attributes:
      text: the expectation as a clause.
      quantity: the name of what is compared, of `numbers`.
      of, base: the names of networks, seed by seed.
      how: DIFFERENCE, or RATIO of the first over the second.
      side: "below", "above" or "within".
      bound: a number; for "within" the pair (least, most).
    """

    text: str
    quantity: str
    of: tuple[str, ...]
    base: tuple[str, ...]
    how: str
    side: str
    bound: float | tuple[float, float]


class Result(NamedTuple):
    """A comparison's number.

    Attributes:
      of, base: the networks that were compared, those that have rows.
      value, low, high: the difference or ratio, and its interval.
      here: what is so on these networks, by the interval; a word of `claims.VERDICTS`.
      verdict: what is so beyond them: the same word with several seeds, and `ONE_SEED` with one.
    """

    of: tuple[str, ...]
    base: tuple[str, ...]
    value: float
    low: float
    high: float
    here: str
    verdict: str

    @property
    def seeds(self) -> int:
        """The number of training seeds on each side."""
        return len(self.of)


def result(comparison: Comparison, found: dict[str, dict[str, Value]]) -> Result | None:
    """The `Result` of a comparison; None where no pair of its networks has the quantity.

    Args:
      comparison: the comparison.
      found: {network: {quantity: value}}, of `numbers.quantities`.
    """
    how, name = comparison.how, comparison.quantity
    pairs = [
        (a, b)
        for a, b in zip(comparison.of, comparison.base, strict=True)
        if name in found.get(a, ()) and name in found.get(b, ())
    ]
    if not pairs:
        return None
    of, base = zip(*pairs, strict=True)
    values = [(found[a][name], found[b][name]) for a, b in pairs]
    if len(pairs) > 1:
        value, low, high = over_seeds(how, [change(how, a.value, b.value) for a, b in values])
    else:
        ((a, b),) = values
        value = change(how, a.value, b.value)
        low, high = change(how, a.low, b.high), change(how, a.high, b.low)
    here = claims.judge(claims.Part(name, value, low, high, comparison.side, comparison.bound))
    verdict = here if len(pairs) > 1 else ONE_SEED
    return Result(of, base, value, low, high, here, verdict)


def change(how: str, above: float, below: float) -> float:
    """The difference or the ratio of two numbers; NaN for a ratio to 0."""
    if how == DIFFERENCE:
        return above - below
    return above / below if below else math.nan


def over_seeds(how: str, changes: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high) over training seeds by Student's distribution; ratios in logarithms."""
    changes = np.asarray(changes, np.float64)
    if how == RATIO and not np.all((changes > 0) & np.isfinite(changes)):
        return math.nan, math.nan, math.nan
    values = np.log(changes) if how == RATIO else changes
    mean = values.mean()
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = stats.t.ppf(0.975, len(values) - 1) * error
    ends = np.array([mean, mean - half, mean + half])
    value, low, high = np.exp(ends) if how == RATIO else ends
    return float(value), float(low), float(high)


def trend(values: Sequence[float]) -> str:
    """Whether numbers fall or rise from each to the next."""
    steps = np.diff(np.asarray(values, np.float64))
    if np.all(steps < 0):
        return FALLS
    return RISES if np.all(steps > 0) else NEITHER


# ---- words


def number(found: Result) -> str:
    """The number with its interval: "1.7 [1.5, 1.9]"."""
    return f"{report.sig(found.value)} [{report.sig(found.low)}, {report.sig(found.high)}]"


def bound(comparison: Comparison) -> str:
    """The bound in words: "above 0.5"."""
    limits = comparison.bound if isinstance(comparison.bound, tuple) else (comparison.bound,)
    return f"{comparison.side} {' and '.join(f'{limit:g}' for limit in limits)}"


def sentence(comparison: Comparison, found: Result) -> str:
    """The expectation, its verdict and its number."""
    kind = f"{comparison.how} of {comparison.quantity}"
    numbers = f"{kind} {number(found)}, bound: {bound(comparison)}"
    if found.seeds > 1:
        return f"{comparison.text}: **{found.verdict}** ({numbers}; {found.seeds} training seeds)."
    return f"{comparison.text}: {found.here} here ({numbers}); **{found.verdict}**."


def line(comparison: Comparison, found: Result) -> dict:
    """One line of the table of comparisons."""
    return {
        "expectation": comparison.text,
        "quantity": comparison.quantity,
        "networks": ", ".join(found.of),
        "against": ", ".join(found.base),
        "how": comparison.how,
        "value": number(found),
        "bound": bound(comparison),
        "training seeds": found.seeds,
        "interval over": "training seeds" if found.seeds > 1 else "starts",
        "on these networks": found.here,
        "verdict": found.verdict,
    }
