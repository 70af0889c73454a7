"""The claims about staleness: their words follow the rule, and the findings are the kept rows."""

import pathlib

import numpy as np
import pytest

from experiments import staleness
from experiments.lab.claims import FAILS, HOLDS, IN_PART, UNDECIDED, VERDICTS, markdown
from experiments.staleness import claims
from experiments.staleness.claims import words
from experiments.staleness.loop import threshold

ROOT = pathlib.Path(__file__).parents[3]
CONFIG = {"pipeline": {"seeds": 5, "compared_field_starts": 16, "compared_network_starts": 5}}


def row(subject, devices, rms, median):
    """A row of pipeline; each pair is the interval of a ratio."""
    found = {
        "question": "pipeline",
        "subject": subject,
        "attention": "stale",
        "devices": devices,
    }
    for kind, (low, high) in (("rms", rms), ("median", median)):
        ends = {f"{kind}_low": low, f"{kind}_high": high, f"{kind}_ratio": (low + high) / 2}
        found |= ends
    return found


def rows_of(rms, median):
    """Rows of one subject on 2 and on 8 devices."""
    return [row("network", 2, (1, 1), (1, 1)), row("network", 8, rms, median)]


def reading_of(rows):
    """The reading of the claim that more devices have a larger error."""
    return next(found for found in claims.readings(rows, CONFIG) if "larger" in found.claim.text)


@pytest.mark.parametrize(
    ("rms", "median", "verdict"),
    [
        ((1.2, 1.5), (1.1, 1.6), HOLDS),
        ((0.2, 0.5), (0.3, 0.9), FAILS),
        ((0.9, 1.5), (0.8, 1.6), UNDECIDED),
        ((1.2, 1.5), (0.9, 1.6), IN_PART),
        ((1.2, 1.5), (0.3, 0.9), IN_PART),
        # Half of the evidence fails, and nothing holds.
        ((0.2, 0.5), (0.9, 1.6), UNDECIDED),
        ((np.nan, np.nan), (np.nan, np.nan), UNDECIDED),
    ],
)
def test_a_verdict_needs_the_whole_interval_of_rms_and_of_median(rms, median, verdict):
    assert reading_of(rows_of(rms, median)).verdict == verdict


@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_words_of_the_section_are_those_of_the_rule(verdict):
    pairs = {
        HOLDS: ((3.1, 3.5), (3.1, 3.6)),
        FAILS: ((0.2, 0.5), (0.3, 0.9)),
        IN_PART: ((3.1, 3.5), (0.3, 0.9)),
        UNDECIDED: ((0.9, 5), (0.8, 6)),
    }
    rows = rows_of(*pairs[verdict])
    found = claims.readings(rows, CONFIG)
    lines = claims.sentences(found)
    # Both claims about devices have this verdict, so no other stands in the section.
    assert len(lines) == 1
    assert lines[0].startswith(f"**{verdict.capitalize()}**")
    section = claims.section(rows, "command", CONFIG)
    (table,) = section.table.values()
    assert {line["verdict"] for line in table} == {verdict}
    assert words.claims_of([verdict] * len(table)) in section.figures[0].title


def test_a_claim_that_holds_on_one_subject_and_fails_on_another_holds_in_part():
    rows = [*rows_of((1.2, 1.5), (1.1, 1.6)), row("field", 8, (0.2, 0.5), (0.3, 0.9))]
    found = claims.of_claims(claims.readings(rows, CONFIG))
    larger = next(own for text, own in found.items() if "larger" in text)
    assert [reading.verdict for reading in larger] == [HOLDS, FAILS]
    assert claims.verdict_of(larger) == IN_PART


def test_a_claim_names_its_subjects_starts_and_training_seeds():
    rows = [*rows_of((1.2, 1.5), (1.1, 1.6)), row("field", 8, (0.2, 0.5), (0.3, 0.9))]
    claim = claims.listed(claims.readings(rows, CONFIG))[0]
    assert claim.subjects == "the digits network, the exact field"
    assert claim.starts == "25, 80"
    # An exact field is not trained.
    assert claim.seeds == "1, –"
    assert claim.reopen


def test_a_push_that_moves_with_depth_is_no_law():
    rows = [
        {"question": threshold.QUESTION, "network": "digits", "layers": layers, "steps": 20}
        | {"push": push, "push_low": push - 0.1, "push_high": push}
        for layers, push in ((6, 2.2), (3, 13.0))
    ]
    found = claims.readings(rows, {})
    assert [reading.verdict for reading in found] == [HOLDS, FAILS]
    assert claims.verdict_of(found) == IN_PART


def test_a_ratio_without_an_interval_is_undecided():
    def policy(name, synced, error):
        return {
            "question": "pareto",
            "subject": "network",
            "forecast": 0,
            "policy": name,
            "synced": synced,
            "steps": 20,
            "sync_rms": error,
        }

    rows = [policy("warm-up 4", 4, 0.8), policy("tolerance 0.1", 4, 0.2)]
    config = {"pareto": CONFIG["pipeline"]}
    (reading,) = claims.readings(rows, config)
    assert reading.parts[0].value == pytest.approx(0.25)
    assert reading.verdict == UNDECIDED


# ---- the findings


def test_the_table_of_the_findings_is_that_of_the_kept_rows():
    found = staleness.gathered(staleness.KEPT)
    rows = [line for own in found.values() for line in own.rows]
    configs = {name: own.config for name, own in found.items()}
    table = markdown(claims.listed(claims.readings(rows, configs)))
    assert table in (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
