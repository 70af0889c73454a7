"""The words of verdicts follow the rule that was written down before."""

import itertools
import math

import pytest

from experiments.lab import claims
from experiments.lab.claims import FAILS, HOLDS, IN_PART, UNDECIDED, Claim, Part


def part(low, high, side="below", bound=1.0):
    return Part("RMS", (low + high) / 2, low, high, side, bound)


def claim(*parts, **others):
    words = dict.fromkeys(("text", "subjects", "starts", "seeds", "interval", "reopen"), "some")
    return Claim(**words, question="nfe", parts=parts, **others)


@pytest.mark.parametrize(
    ("side", "bound", "low", "high", "verdict"),
    [
        # The whole interval on the claim's side, on the other, and on both.
        ("below", 1.0, 0.5, 0.9, HOLDS),
        ("below", 1.0, 1.1, 1.9, FAILS),
        ("below", 1.0, 0.9, 1.1, UNDECIDED),
        ("above", 1.0, 1.1, 1.9, HOLDS),
        ("above", 1.0, 0.5, 0.9, FAILS),
        ("above", 1.0, 0.9, 1.1, UNDECIDED),
        ("within", (0.75, 1.25), 0.9, 1.1, HOLDS),
        ("within", (0.75, 1.25), 1.3, 2.0, FAILS),
        ("within", (0.75, 1.25), 0.1, 0.7, FAILS),
        ("within", (0.75, 1.25), 0.1, 1.1, UNDECIDED),
        # An interval that ends at the bound does not lie beyond it.
        ("below", 1.0, 0.5, 1.0, UNDECIDED),
        ("above", 1.0, 1.0, 2.0, UNDECIDED),
        # What cannot be computed is not decided.
        ("below", 1.0, math.nan, math.nan, UNDECIDED),
    ],
)
def test_a_part_is_judged_by_its_whole_interval(side, bound, low, high, verdict):
    assert claims.judge(part(low, high, side, bound)) == verdict


def test_above_and_below_mirror_each_other():
    mirrored = {HOLDS: FAILS, FAILS: HOLDS, UNDECIDED: UNDECIDED}
    for low, high in itertools.combinations((0.2, 0.8, 1.2, 3.0), 2):
        assert claims.above(1.0, low, high) == mirrored[claims.below(1.0, low, high)]


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ((HOLDS, HOLDS), HOLDS),
        ((FAILS, FAILS), FAILS),
        ((HOLDS, FAILS), IN_PART),
        ((HOLDS, UNDECIDED), IN_PART),
        ((FAILS, UNDECIDED), UNDECIDED),
        ((UNDECIDED,), UNDECIDED),
        ((), UNDECIDED),
    ],
)
def test_a_claim_is_judged_by_its_parts(verdicts, together):
    assert claims.together(verdicts) == together
    # The order of the parts does not matter.
    assert claims.together(reversed(verdicts)) == together


def test_a_comparison_of_two_changes_is_undecided_whatever_its_interval():
    clear = part(0.1, 0.2)
    assert claims.verdict(claim(clear)) == HOLDS
    found = claim(clear, confounder="the clock")
    assert claims.verdict(found) == UNDECIDED
    assert "confounded: the clock" in claims.evidence(found)


def test_both_tables_say_the_verdict_the_numbers_and_the_bound():
    found = claim(part(0.5, 0.9), part(0.9, 1.2)._replace(name="median"), counts="3 | 4")
    (line,) = claims.table([found], "python -m experiments.order")
    assert line["verdict"] == IN_PART
    assert "RMS 0.70 [0.50, 0.90]; median 1.1 [0.90, 1.2] (bound: below 1); 3 | 4" in str(line)
    assert line["command"] == "python -m experiments.order --config.questions=nfe"
    last = claims.markdown([found]).splitlines()[-1]
    assert f"**{IN_PART}**" in last
    # A bar within a text does not end a cell: four cells have five bars.
    assert last.replace("\\|", "").count("|") == 5
