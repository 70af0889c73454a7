"""The rule by which a claim gets one of four verdicts. It looks at intervals only.

A claim names a bound, and on which side of it a ratio must lie. A subject has one 95 % interval
for each statistic: of the RMS over starts, which rare large errors rule, and of the median, which
they do not touch.

    holds       every interval lies wholly on the side of the claim
    in part     every interval lies wholly beyond a weaker bound that the claim names too, and none
                reaches the bound itself
    fails       every interval lies wholly on the other side
    undecided   all else: an interval that contains the bound, statistics that disagree, or none
"""

from collections.abc import Iterable, Sequence

HOLDS, FAILS, IN_PART, UNDECIDED = "holds", "fails", "in part", "undecided"
VERDICTS = (HOLDS, IN_PART, FAILS, UNDECIDED)

# (low, high) of an interval.
Interval = tuple[float, float]


def of_interval(
    interval: Interval, bound: float, *, above: bool = False, weaker: float | None = None
) -> str:
    """The verdict of one interval.

    Args:
      interval: (low, high).
      bound: on whose side the whole interval must lie.
      above: whether the claim says "more than the bound"; else it says "less".
      weaker: a second bound, easier to meet, for "in part".
    """
    low, high = interval
    if above:
        # The mirror image: less than minus the bound.
        low, high, bound = -high, -low, -bound
        weaker = None if weaker is None else -weaker
    if high < bound:
        return HOLDS
    if low < bound:
        return UNDECIDED
    return IN_PART if weaker is not None and high < weaker else FAILS


def of_subject(
    intervals: Sequence[Interval], bound: float, *, above: bool = False, weaker: float | None = None
) -> str:
    """The verdict of one subject, from an interval for each statistic."""
    found = {of_interval(each, bound, above=above, weaker=weaker) for each in intervals}
    return found.pop() if len(found) == 1 else UNDECIDED


def of_claim(verdicts: Iterable[str]) -> str:
    """The verdict of a claim, from those of its subjects.

    It is theirs where they agree. Where the claim holds on one subject and fails on another, or is
    met in part on any, it holds in part. Otherwise some subject is undecided, and so is the claim.
    """
    found = set(verdicts)
    if len(found) == 1:
        return found.pop()
    if IN_PART in found or {HOLDS, FAILS} <= found:
        return IN_PART
    return UNDECIDED
